"""What this machine can run; for each unmet requirement of a profile, the one command that fixes it."""

import os
import platform
import sys
from dataclasses import dataclass
from math import ceil

from cookbook import hardware, profiles, runs
from cookbook.environment import installed
from cookbook.errors import UserError, count
from cookbook.machine import Machine
from cookbook.models import hub
from cookbook.profiles import Profile, Source

GUARDRAIL = Source("nvidia/Cosmos-Guardrail1", "main", licence=profiles.NVIDIA_LICENCE, gated=True)
INSTALL = 'pip install -c constraints.txt -e ".[dev,sim]"'
OPTIONAL = ("mujoco", "ray", "playwright")  # packages of extras that no notebook needs
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # either disables the Hub in huggingface_hub


@dataclass(frozen=True)
class Check:
    """One requirement of a profile: what this machine has, whether that is enough, and the fix if not."""

    what: str
    here: str
    ok: bool
    fix: str
    needed: str = ""  # the amount, for quantities


def sources(profile: Profile) -> list[Source]:
    """All weights and data of the profile, each location once."""
    every = [profile.world, profile.critic, profile.train_data, profile.eval_data, profile.calibration]
    every += [GUARDRAIL] if profile.guardrail else []
    return list({source.location: source for source in every if source}.values())


def size(source: Source) -> str:
    """Size of a source: `21.5 GB`, `6 MB`; for shipped files their size on disk."""
    gigabytes = source.gigabytes
    if source.ships:
        files = (runs.ASSETS / source.location).rglob("*")
        gigabytes = sum(file.stat().st_size for file in files if file.is_file()) / 1e9
    if not gigabytes:
        return "unknown, see its page"
    return f"{gigabytes:g} GB" if gigabytes >= 0.1 else f"{ceil(1000 * gigabytes)} MB"


def checks(machine: Machine, profile: Profile) -> list[Check]:
    """Every requirement of the profile. The Hub is contacted only for sources that neither ship nor are downloaded."""
    rows = [*_hardware(machine, profile), *_software(machine, profile)]
    return rows + (_hub(machine, profile) if any(not source.ships for source in sources(profile)) else [])


def _hardware(machine: Machine, profile: Profile) -> list[Check]:
    needs, cores, memory, disk = profile.needs, machine.cores, machine.memory_gb, machine.disk_gb
    more, larger = "use a machine with more", "export COOKBOOK_HOME=/folder/on/a/larger/disk"
    enough = memory >= 0.9 * needs.memory_gb  # what a machine reports is less than what is built in
    rows = [
        Check("processor cores", str(cores), cores >= needs.cores, f"{more} cores", count(needs.cores, "core")),
        Check("memory", f"{memory:.1f} GB", enough, f"{more} memory", f"{needs.memory_gb:g} GB"),
        Check("free disk", f"{disk:.0f} GB", disk >= needs.disk_gb, larger, f"{needs.disk_gb:g} GB"),
    ]
    if needs.gpus:
        here = ", ".join(f"{name} {gb:.0f} GB" for name, gb in machine.gpus) or "none"
        enough = sum(gb >= 0.95 * needs.gpu_gb for _, gb in machine.gpus) >= needs.gpus
        no_cuda = machine.driver and not machine.gpus
        fix = f"{INSTALL}  (PyTorch sees no GPU)" if no_cuda else "use a machine with such GPUs and NVIDIA's driver"
        rows.append(Check("NVIDIA GPU", here, enough, fix, str(needs)))
    return rows


def _software(machine: Machine, profile: Profile) -> list[Check]:
    absent = [name for name, (here, _) in machine.versions.items() if here is None and name not in OPTIONAL]
    other = [f"{name} {here}" for name, (here, tested) in machine.versions.items() if here not in (None, tested)]
    packages = f"no {', '.join(absent)}" if absent else f"not tested: {', '.join(other)}" if other else "as tested"
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    python = ("Python 3.11 or 3.12", platform.python_version(), supported, "make clean run PYTHON=python3.11")
    rows = [Check(*python), Check("packages", packages, not absent, INSTALL)]
    if shipped := [source for source in sources(profile) if source.ships]:
        lost = [source.location for source in shipped if not machine.has(source)]
        rows.append(Check("shipped files", f"no {lost[0]}" if lost else "present", not lost, "git checkout -- assets"))
    if profile.guardrail:
        here = installed("cosmos_guardrail")
        rows.append(Check("guardrail package", here or "not installed", bool(here), "pip install cosmos_guardrail"))
    return rows


def _hub(machine: Machine, profile: Profile) -> list[Check]:
    hub.require_settings()
    absent = [source for source in sources(profile) if not source.ships and not machine.has(source)]
    closed = [source for source in absent if not machine.may_download(source)]
    offline = [name for name in OFFLINE if os.environ.get(name)]
    connect = f"unset {' '.join(offline)}" if offline else "connect this machine to the internet"
    refused = machine.token and machine.online and machine.refused
    online, token = ("yes" if state else "no" for state in (machine.online, machine.token))
    token_ok = (machine.token and not refused) or not any(source.gated for source in absent)
    login = "unset HF_TOKEN; hf auth login  (the Hub rejects this token)" if refused else "hf auth login"
    licences = f"{len(closed)} not accepted, or unknown" if closed else "accepted"
    pages = " and ".join(source.page for source in closed)
    return [
        Check("Hub reachable", online, not absent or machine.online, connect),
        Check("Hub token", "refused (401)" if refused else token, token_ok, login),
        Check("Hub licences", licences, not closed, f"open {pages}"),
    ]


def problems(results: dict[str, list[Check]]) -> list[str]:
    """Profile -> its checks; one line for each requirement that is not met: what, needed, here, fix."""
    failed: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for name, rows in results.items():
        for check in rows:
            if not check.ok:
                failed.setdefault((check.what, check.here, check.fix), []).append((name, check.needed))
    lines = []
    for (what, here, fix), profiles_needed in failed.items():
        names = ", ".join(name for name, _ in profiles_needed)
        needed = ", ".join(f"{name} needs {amount}" for name, amount in profiles_needed if amount)
        lines.append(f"{what} ({names}): {needed}{', here ' if needed else ''}{here}; {fix}")
    return lines


def _table(results: dict[str, list[Check]]) -> str:
    """One row per requirement, one column per profile."""
    rows: dict[str, list[str]] = {}
    for position, checked in enumerate(results.values(), 2):
        for check in checked:
            row = rows.setdefault(check.what, [check.what, check.here, *["-"] * len(results)])
            row[position] = "ok" if check.ok else "MISSING"
            row[1] = row[1] if check.ok else check.here
    lines = [["", "here", *results], *rows.values()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def doctor(profile: str | None = None) -> bool:
    """Print what this machine can run and what is missing for each profile.

    Args:
        profile: check this one only; without it all of them.

    Returns:
        Whether that profile (by default nano) can run here; the command line turns it into the exit status.
    """
    names, machine = [profile] if profile else list(profiles.PROFILES), Machine()
    results = {name: checks(machine, profiles.get(name)) for name in names}
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, runs in {runs.HOME}\n")
    print("\n".join([_table(results), "", *problems(results)]))
    install = "to make new clips: pip install mujoco, apt-get install libegl1 libegl-mesa0 libopengl0"
    print(f"renderer of the simulator (optional): {'ready' if machine.renderer else install}\n")
    runnable = {name: all(check.ok for check in checked) for name, checked in results.items()}
    for name, ready in runnable.items():
        print(f"{name}: {'can run here' if ready else 'cannot run here yet'} ({profiles.get(name).needs})")
    print(f"\nchosen for this machine:\n{hardware.describe()}")
    return runnable[profile or profiles.DEFAULT]


def able(profile: str) -> Machine:
    """This machine, if the profile can run here.

    Raises:
        UserError: it cannot; one line for each requirement that is not met, with its fix.
    """
    machine = Machine()
    if missing := problems({profile: checks(machine, profiles.get(profile))}):
        raise UserError("\n  ".join([f"this machine does not meet the requirements of profile {profile}:", *missing]))
    return machine


def require(profile: str) -> None:
    """In each notebook: check that the profile can run here. Print the choices for this machine, and why.

    Raises:
        UserError: as from `able`.
    """
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # they are widgets, which freeze at 0 % once the page is saved; transformers obeys, too
    if "transformers" in sys.modules:  # unless it is imported already
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    machine = able(profile)
    gpus = f", {len(machine.gpus)} x {machine.gpus[0][0]}" if machine.gpus else ""
    print(f"doctor: {profile} can run here ({machine.cores} cores, {machine.memory_gb:.0f} GB memory{gpus})")
    print(hardware.describe())
