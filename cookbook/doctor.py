"""What this machine can run, what each profile would cost, and the one command that mends each missing thing."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil

from cookbook import hardware, profiles, runs
from cookbook.errors import UserError, count
from cookbook.machine import Machine, installed
from cookbook.profiles import Profile, Source

GUARDRAIL = Source("nvidia/Cosmos-Guardrail1", "main", licence=profiles.NVIDIA_MODEL_LICENCE, gated=True)
INSTALL = 'pip install -c constraints.txt -e ".[dev,sim]"'
OPTIONAL = ("mujoco", "ray", "playwright")  # packages of extras that no notebook needs
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # either keeps huggingface_hub from asking
STATES = {True: "ok", False: "MISSING", None: "-"}


@dataclass(frozen=True)
class Needs:
    """What a profile asks of a machine; for real weights counted from their parameters, not measured."""

    cores: int
    memory_gb: float
    disk_gb: float  # downloads, two checkpoints (16 bytes a weight each) and the export
    gpus: int = 0
    gpu_gb: float = 0.0  # memory of each


NEEDS = {
    "smoke": Needs(cores=1, memory_gb=4, disk_gb=2),
    "nano": Needs(cores=2, memory_gb=8, disk_gb=3),
    "2b": Needs(cores=8, memory_gb=64, disk_gb=160, gpus=1, gpu_gb=80),
    "14b": Needs(cores=32, memory_gb=256, disk_gb=800, gpus=8, gpu_gb=80),
}


@dataclass(frozen=True)
class Check:
    """One line of the table.

    `holds`: profile -> whether the need is met, None where there is no such need; `needed`: profile -> how much it is,
    where it is a quantity.
    """

    what: str
    found: str
    fix: str
    holds: dict[str, bool | None]
    needed: dict[str, str] = field(default_factory=dict)

    def cure(self, late: Sequence[str]) -> str:
        """What these profiles lack, how much of it is here, and the fix."""
        asked = [f"{name} needs {self.needed[name]}" for name in late if name in self.needed]
        told = f"{', '.join(asked)}, here {self.found}" if asked else self.found
        return f"{self.what} ({', '.join(late)}): {told}; {self.fix}"


def sources(profile: Profile) -> list[Source]:
    """Everything the profile takes from elsewhere, each place once."""
    wanted = [profile.world, profile.critic, profile.train_data, profile.eval_data, profile.calibration]
    wanted += [GUARDRAIL] if profile.guardrail else []
    return list({source.location: source for source in wanted if source}.values())


def size(source: Source) -> str:
    """How large it is: `21.5 GB`, `6 MB`; of what ships, as it lies here."""
    gigabytes = source.gigabytes
    if source.ships:
        files = (runs.ASSETS / source.location).rglob("*")
        gigabytes = sum(file.stat().st_size for file in files if file.is_file()) / 1e9
    if not gigabytes:
        return "unknown, see its page"
    return f"{gigabytes:g} GB" if gigabytes >= 0.1 else f"{ceil(1000 * gigabytes)} MB"


def checks(machine: Machine, names: Sequence[str]) -> list[Check]:
    """Every check that concerns one of the named profiles."""
    chosen = {name: profiles.get(name) for name in names}
    rows = [*_hardware(machine, chosen), *_software(machine, chosen), *_hub(machine, chosen)]
    return [row for row in rows if any(state is not None for state in row.holds.values())]


def _needed(chosen: dict[str, Profile], text: Callable[[Needs], str]) -> dict[str, str]:
    return {name: text(NEEDS[name]) for name in chosen}


def _each(chosen: dict[str, Profile], test: Callable[[Profile, Needs], bool | None]) -> dict[str, bool | None]:
    return {name: test(profile, NEEDS[name]) for name, profile in chosen.items()}


def _hardware(machine: Machine, chosen: dict[str, Profile]) -> list[Check]:
    gpus = ", ".join(f"{name} {gb:.0f} GB" for name, gb in machine.gpus) or "none"
    unseen = machine.driver and not machine.gpus
    mend_gpu = f"{INSTALL}  (PyTorch sees no GPU)" if unseen else "use a machine with such GPUs and NVIDIA's driver"

    def enough_gpus(profile: Profile, needs: Needs) -> bool | None:
        return sum(gb >= 0.95 * needs.gpu_gb for _, gb in machine.gpus) >= needs.gpus if needs.gpus else None

    return [
        Check(
            "processor cores",
            str(machine.cores),
            "use a machine with more cores",
            _each(chosen, lambda profile, needs: machine.cores >= needs.cores),
            _needed(chosen, lambda needs: count(needs.cores, "core")),
        ),
        Check(
            "memory",
            f"{machine.memory_gb:.1f} GB",
            "use a machine with more memory",
            _each(chosen, lambda profile, needs: machine.memory_gb >= 0.9 * needs.memory_gb),
            _needed(chosen, lambda needs: f"{needs.memory_gb:g} GB"),
        ),
        Check(
            "free disk",
            f"{machine.disk_gb:.0f} GB",
            "export COOKBOOK_HOME=/folder/on/a/larger/disk",
            _each(chosen, lambda profile, needs: machine.disk_gb >= needs.disk_gb),
            _needed(chosen, lambda needs: f"{needs.disk_gb:g} GB"),
        ),
        Check(
            "NVIDIA GPU",
            gpus,
            mend_gpu,
            _each(chosen, enough_gpus),
            _needed(chosen, lambda needs: f"{count(needs.gpus, 'GPU')} of {needs.gpu_gb:g} GB"),
        ),
    ]


def _software(machine: Machine, chosen: dict[str, Profile]) -> list[Check]:
    absent = [name for name, (here, _) in machine.versions.items() if here is None and name not in OPTIONAL]
    other = [f"{name} {here}" for name, (here, tested) in machine.versions.items() if here not in (None, tested)]
    packages = f"no {', '.join(absent)}" if absent else f"not tested: {', '.join(other)}" if other else "those tested"
    right = (3, 11) <= sys.version_info[:2] <= (3, 12)
    lost = [s.location for profile in chosen.values() for s in sources(profile) if s.ships and not machine.has(s)]

    def shipped(profile: Profile, needs: Needs) -> bool | None:
        own = [source for source in sources(profile) if source.ships]
        return all(map(machine.has, own)) if own else None

    def guarded(profile: Profile, needs: Needs) -> bool | None:
        return find_spec("cosmos_guardrail") is not None if profile.guardrail else None

    return [
        Check(
            "Python 3.11 or 3.12",
            platform.python_version(),
            "make clean run PYTHON=python3.11",
            _each(chosen, lambda profile, needs: right),
        ),
        Check("packages", packages, INSTALL, _each(chosen, lambda profile, needs: not absent)),
        Check(
            "shipped files", f"no {lost[0]}" if lost else "present", "git checkout -- assets", _each(chosen, shipped)
        ),
        Check(
            "guardrail package",
            installed("cosmos_guardrail") or "not installed",
            "pip install cosmos_guardrail",
            _each(chosen, guarded),
        ),
    ]


def _hub(machine: Machine, chosen: dict[str, Profile]) -> list[Check]:
    """The Hub is asked only where a profile needs something that is not here."""
    wanted = {name: [s for s in sources(profile) if not s.ships] for name, profile in chosen.items()}
    waiting = {name: [s for s in places if not machine.has(s)] for name, places in wanted.items()}
    if not any(wanted.values()):
        return []
    closed = {s.location: s for places in waiting.values() for s in places if not machine.may_download(s)}
    pages = " and ".join(f"https://huggingface.co/{place}" for place in closed)

    def holds(test: Callable[[list[Source]], bool]) -> dict[str, bool | None]:
        return {name: (not waiting[name] or test(waiting[name])) if wanted[name] else None for name in chosen}

    offline = [name for name in OFFLINE if os.environ.get(name)]
    connect = f"unset {' '.join(offline)}" if offline else "connect this machine to the internet"
    online, token = ("yes" if state else "no" for state in (machine.online, machine.token))
    stale = machine.token and machine.online and machine.refused
    licences = f"{len(closed)} not accepted, or not to be asked" if closed else "accepted"
    return [
        Check("Hub reachable", online, connect, holds(lambda _: machine.online)),
        Check(
            "Hub token",
            "refused (401)" if stale else token,
            "unset HF_TOKEN; hf auth login  (the Hub no longer takes this one)" if stale else "hf auth login",
            holds(lambda places: (machine.token and not stale) or not any(s.gated for s in places)),
        ),
        Check(
            "Hub licences",
            licences,
            f"open {pages}",
            holds(lambda places: not any(s.location in closed for s in places)),
        ),
    ]


def _table(found: list[Check], names: list[str]) -> str:
    lines = [["", "here", *names], *([c.what, c.found, *(STATES[c.holds[n]] for n in names)] for c in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def doctor(profile: str | None = None) -> bool:
    """Print what this machine can run and what is missing for each profile.

    Args:
        profile: look at this one only; without it at all of them.

    Returns:
        Whether the asked profile (by default nano) can run here; the command line turns it into the exit status.
    """
    names = [profiles.get(profile).name] if profile else list(profiles.PROFILES)
    machine = Machine()
    found = checks(machine, names)
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, runs in {runs.HOME}\n")
    print(_table(found, names) + "\n")
    for check in found:
        if late := [name for name in names if check.holds[name] is False]:
            print(check.cure(late))
    mend = "to make new clips: pip install mujoco, apt-get install libegl1 libegl-mesa0 libopengl0"
    print(f"renderer for new workshop clips (optional): {'ready' if machine.renderer else mend}\n")
    able = {name: all(check.holds[name] is not False for check in found) for name in names}
    for name in names:
        print(f"{name}: {'can run here' if able[name] else 'cannot run here yet'} ({profiles.get(name).hardware})")
    print(f"\nchosen for this machine:\n{hardware.describe()}")
    return able[profile or "nano"]


def able(profile: str) -> Machine:
    """This machine, if the profile can run here.

    Raises:
        UserError: it cannot; one line for each thing that is missing, with its fix.
    """
    machine, name = Machine(), profiles.get(profile).name
    if missing := [check.cure([name]) for check in checks(machine, [name]) if check.holds[name] is False]:
        raise UserError("\n  ".join([f"{name} cannot run here, because of", *missing]))
    return machine


def require(profile: str) -> None:
    """In each notebook: that the profile can run here, and what was chosen for this machine and why; an error with the
    fix where it cannot."""
    _quiet_libraries()
    machine = able(profile)
    gpus = f", {len(machine.gpus)} x {machine.gpus[0][0]}" if machine.gpus else ""
    print(f"preflight: {profile} can run here ({machine.cores} cores, {machine.memory_gb:.0f} GB memory{gpus})")
    print(hardware.describe())


def _quiet_libraries() -> None:
    """The libraries' loading bars off: in a notebook they are widgets, which freeze at 0 % once the page is saved."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
