"""What this machine can run, what each profile would cost, and the one command that mends each missing thing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import psutil

from cookbook import profiles, store
from cookbook.errors import UserError
from cookbook.profiles import Profile, Source

T = TypeVar("T")

GUARDRAIL = Source("nvidia/Cosmos-Guardrail1", "main", "model", 0.0, profiles.NVIDIA_MODEL_LICENCE, gated=True)
INSTALL = 'pip install -c constraints.txt -e ".[dev,sim]"'


@dataclass(frozen=True)
class Needs:
    """What a profile asks of a machine. For real weights computed from parameter counts (16 bytes a weight), not measured."""

    cores: int
    memory_gb: float
    disk_gb: float  # downloads, two checkpoints and the export
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
    """One line of the doctor's table. `holds` maps a profile's name to True, False, or None where it needs no such thing."""

    what: str
    found: str
    fix: str
    holds: dict[str, bool | None]


def sources(profile: Profile) -> list[Source]:
    """Everything the profile takes from elsewhere, each place once."""
    wanted = [
        profile.world,
        profile.critic,
        profile.train_data,
        profile.eval_data,
        *([GUARDRAIL] if profile.guardrail else []),
    ]
    return list({source.location: source for source in wanted}.values())


def _within(seconds: float, question: Callable[[], T]) -> T | None:
    """The answer, or None where it did not come in time or failed: a machine without network must never hang."""
    answers: list[T] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception:  # noqa: BLE001  every failure of a probe means the same: not there
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _cgroup_limit() -> float:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.exists() else "max"
    return float("inf") if text == "max" else float(text)


class Machine:
    """Facts about this machine, each found out when first asked for."""

    @cached_property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def memory_gb(self) -> float:
        return min(psutil.virtual_memory().total, _cgroup_limit()) / 1e9

    @cached_property
    def disk_gb(self) -> float:
        folder = store.HOME
        return shutil.disk_usage(folder if folder.exists() else Path.home()).free / 1e9

    @cached_property
    def gpus(self) -> list[tuple[str, float]]:
        """Name and memory in GB of each NVIDIA GPU that PyTorch can use."""
        import torch

        if not torch.cuda.is_available():
            return []
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [(gpu.name, gpu.total_memory / 1e9) for gpu in found]

    @cached_property
    def versions(self) -> dict[str, tuple[str | None, str]]:
        """Direct dependency -> (installed or None, tested), from the first block of constraints.txt."""
        file = store.ASSETS.parent / "constraints.txt"
        lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
        tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name: (_version(name), wanted) for name, wanted in tested.items()}

    @cached_property
    def renderer(self) -> bool:
        """MuJoCo with some OpenGL that draws without a screen. Only making new workshop clips needs it."""
        from ctypes.util import find_library

        return find_spec("mujoco") is not None and any(find_library(name) for name in ("EGL", "OSMesa"))

    @cached_property
    def token(self) -> bool:
        from huggingface_hub import get_token

        return bool(get_token())

    @cached_property
    def hub(self) -> bool:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return False
        from urllib.request import Request, urlopen

        request = Request(constants.ENDPOINT, method="HEAD", headers={"User-Agent": "cookbook-doctor"})
        return _within(4, lambda: urlopen(request, timeout=3).status < 500) or False

    def cached(self, source: Source) -> bool:
        from huggingface_hub import snapshot_download

        def find() -> bool:
            snapshot_download(source.location, repo_type=source.kind, revision=source.revision, local_files_only=True)
            return True

        return source.ships or _within(5, find) or False

    def accepted(self, source: Source) -> bool:
        """Whether the account of the token may download a gated source."""
        from huggingface_hub import auth_check

        def ask() -> bool:
            auth_check(source.location, repo_type=source.kind)
            return True

        return not source.gated or self.cached(source) or (self.token and self.hub and _within(8, ask)) or False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def checks(machine: Machine, names: Iterable[str]) -> list[Check]:
    """Every check that at least one of the named profiles needs."""
    chosen = {name: profiles.get(name) for name in names}

    def row(what: str, found: Callable[[], str], fix: str, holds: Callable[[Profile, Needs], bool | None]) -> Check:
        states = {name: holds(profile, NEEDS[name]) for name, profile in chosen.items()}
        return Check(what, "" if set(states.values()) == {None} else found(), fix, states)

    def hub_only(test: Callable[[Profile, Needs], bool]) -> Callable[[Profile, Needs], bool | None]:
        return lambda profile, needs: None if all(s.ships for s in sources(profile)) else test(profile, needs)

    missing = [name for name, (installed, _) in machine.versions.items() if installed is None and name != "mujoco"]
    other = [
        f"{name} {installed}"
        for name, (installed, tested) in machine.versions.items()
        if installed not in (None, tested)
    ]
    packages = (
        f"missing: {', '.join(missing)}" if missing else f"untested: {', '.join(other)}" if other else "the tested ones"
    )
    shipped = [s for p in chosen.values() for s in sources(p) if s.ships and not (store.ASSETS / s.location).is_dir()]
    refused = [s.location for p in chosen.values() for s in sources(p) if not machine.accepted(s)]
    unlicensed = list(dict.fromkeys(refused))
    gpus = ", ".join(f"{name} {gb:.0f} GB" for name, gb in machine.gpus) or "none"
    driver = shutil.which("nvidia-smi")
    gpu_fix = (
        INSTALL + "  (PyTorch sees no GPU)"
        if driver and not machine.gpus
        else "use a machine with such GPUs and NVIDIA's driver"
    )
    rows = [
        row(
            "Python 3.11 or 3.12",
            platform.python_version,
            "make clean run PYTHON=python3.11",
            lambda p, n: (3, 11) <= sys.version_info[:2] <= (3, 12),
        ),
        row("packages", lambda: packages, INSTALL, lambda p, n: not missing),
        row(
            "processor cores",
            lambda: str(machine.cores),
            "use a machine with more cores",
            lambda p, n: machine.cores >= n.cores,
        ),
        row(
            "memory",
            lambda: f"{machine.memory_gb:.1f} GB",
            "use a machine with more memory",
            lambda p, n: machine.memory_gb >= 0.9 * n.memory_gb,
        ),
        row(
            "free disk",
            lambda: f"{machine.disk_gb:.0f} GB",
            "export COOKBOOK_HOME=/folder/on/a/larger/disk",
            lambda p, n: machine.disk_gb >= n.disk_gb,
        ),
        row(
            "shipped weights and clips",
            lambda: "present" if not shipped else f"no {shipped[0].location}",
            "git checkout -- assets",
            lambda p, n: (
                all((store.ASSETS / s.location).is_dir() for s in sources(p) if s.ships) if p.world.ships else None
            ),
        ),
        row(
            "NVIDIA GPU",
            lambda: gpus,
            gpu_fix,
            lambda p, n: sum(gb >= 0.95 * n.gpu_gb for _, gb in machine.gpus) >= n.gpus if n.gpus else None,
        ),
        row(
            "guardrail package",
            lambda: _version("cosmos_guardrail") or "not installed",
            "pip install cosmos_guardrail",
            lambda p, n: find_spec("cosmos_guardrail") is not None if p.guardrail else None,
        ),
        row(
            "Hub reachable",
            lambda: "yes" if machine.hub else "no",
            "unset HF_HUB_OFFLINE  (or connect this machine)",
            hub_only(lambda p, n: all(machine.cached(s) for s in sources(p)) or machine.hub),
        ),
        row(
            "Hub token",
            lambda: "yes" if machine.token else "none",
            "hf auth login",
            hub_only(lambda p, n: all(machine.cached(s) for s in sources(p)) or machine.token),
        ),
        row(
            "Hub licences",
            lambda: f"{len(unlicensed)} not accepted or not checkable" if unlicensed else "accepted",
            "open " + " and ".join(f"https://huggingface.co/{place}" for place in unlicensed),
            hub_only(lambda p, n: all(machine.accepted(s) for s in sources(p))),
        ),
    ]
    return [check for check in rows if any(state is not None for state in check.holds.values())]


def _table(found: list[Check], names: list[str]) -> str:
    words = {True: "ok", False: "MISSING", None: "-"}
    lines = [["", "here", *names]] + [[c.what, c.found, *(words[c.holds[n]] for n in names)] for c in found]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


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
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {store.HOME}\n")
    print(_table(found, names) + "\n")
    for check in found:
        if late := [name for name in names if check.holds[name] is False]:
            print(f"{check.what} ({', '.join(late)}): {check.fix}")
    state = (
        "ready"
        if machine.renderer
        else f"missing, to make new clips: {INSTALL} and libegl1 libegl-mesa0 libopengl0 from apt"
    )
    print(f"renderer for new workshop clips (optional): {state}\n")
    able = {name: all(check.holds[name] is not False for check in found) for name in names}
    for name in names:
        print(f"{name}: {'can run here' if able[name] else 'cannot run here yet'} ({profiles.get(name).hardware})")
    return able[profile or "nano"]


def require(profile: str) -> None:
    """The first cell of a notebook: one line where the profile can run here, an error with the fix where it cannot."""
    _quiet_libraries()
    machine = Machine()
    for check in checks(machine, [profile]):
        if check.holds[profile] is False:
            raise UserError(f"{profile} cannot run here: {check.what} ({check.found}). {check.fix}")
    gpus = f", {len(machine.gpus)} x {machine.gpus[0][0]}" if machine.gpus else ""
    print(f"preflight: {profile} can run here ({machine.cores} cores, {machine.memory_gb:.0f} GB memory{gpus})")


def _quiet_libraries() -> None:
    """Loading bars of the libraries off: in a notebook they are widgets, which freeze at 0 % once the page is saved."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def plan(profile: str) -> None:
    """Print what the whole path does at this profile and what it costs, before anything is done."""
    p = profiles.get(profile)
    downloads = [s for s in sources(p) if not s.ships]
    given = f"{p.train_clips} clips" if p.train_clips else "all clips"
    prompts = f"{p.prompts}" if p.prompts else "all"
    print(f"profile {p.name}: {p.hardware}, about {p.hours} for all notebooks")
    print(
        f"  clips     {p.clip.frames} frames at {p.clip.fps} fps, {p.clip.height}x{p.clip.width}, {p.clip.tokens} tokens"
    )
    print(
        f"  train     {given} of {p.train_data.location}; {p.recipe.steps} steps of batch {p.recipe.batch}, recipe {p.recipe.name}"
    )
    print(
        f"  generate  {prompts} prompts x {p.sampling.seeds} seeds tuned and {p.sampling.base_seeds} base, {p.sampling.steps} steps"
    )
    print(f"  judge     {p.critic.location}, measured first on {p.control_clips} controls")
    for s in downloads:
        print(
            f"  download  {re.sub(r'[.]0$', '', str(s.gigabytes))} GB {s.location} ({s.licence}{', gated' if s.gated else ''})"
        )
    if not downloads:
        print("  download  nothing: weights and clips ship with the cookbook")
