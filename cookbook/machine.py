"""Facts about the machine that this runs on, each found out when first asked for. No network can make them hang."""

from __future__ import annotations

import os
import platform
import re
import shutil
import threading
from collections.abc import Callable
from ctypes.util import find_library
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import psutil

from cookbook import runs
from cookbook.models import hub
from cookbook.profiles import Source

T = TypeVar("T")


def within(seconds: float, question: Callable[[], T]) -> T | None:
    """The answer, or None where it failed or did not come in time."""
    answers: list[T] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception:  # whatever goes wrong with a probe, the answer is: not there
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Machine:
    """This machine."""

    @cached_property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def processor(self) -> str:
        """What the processor calls itself, and whether it has matrix units for bf16 (AMX)."""
        file = Path("/proc/cpuinfo")
        text = file.read_text() if file.exists() else ""
        name = re.search(r"^model name\s*: (.+)$", text, re.M)
        told = name[1].strip() if name else platform.processor() or platform.machine()
        return told + (" with AMX" if " amx_bf16" in text else "")

    @cached_property
    def memory_gb(self) -> float:
        """Of the machine, or of the container's limit where that is lower."""
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text().strip() if limit.exists() else "max"
        return min(psutil.virtual_memory().total, float("inf") if text == "max" else float(text)) / 1e9

    @cached_property
    def disk_gb(self) -> float:
        """Free where runs are written."""
        return shutil.disk_usage(runs.HOME if runs.HOME.exists() else Path.home()).free / 1e9

    @cached_property
    def gpus(self) -> list[tuple[str, float]]:
        """Name and memory in GB of each NVIDIA GPU that PyTorch can use."""
        import torch

        if not torch.cuda.is_available():
            return []
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [(gpu.name, gpu.total_memory / 1e9) for gpu in found]

    @cached_property
    def driver(self) -> bool:
        return shutil.which("nvidia-smi") is not None

    @cached_property
    def versions(self) -> dict[str, tuple[str | None, str]]:
        """Direct dependency -> (installed or None, tested), from the first block of constraints.txt."""
        file = runs.ASSETS.parent / "constraints.txt"
        lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
        tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name: (installed(name), wanted) for name, wanted in tested.items()}

    @cached_property
    def renderer(self) -> bool:
        """MuJoCo and an OpenGL that draws without a screen."""
        return find_spec("mujoco") is not None and any(find_library(name) for name in ("EGL", "OSMesa"))

    @cached_property
    def token(self) -> bool:
        from huggingface_hub import get_token

        return bool(get_token())

    @cached_property
    def refused(self) -> bool:
        """Whether the Hub answers 401 to the token: it is mistyped, deleted, or has expired."""
        from huggingface_hub import whoami
        from huggingface_hub.errors import HfHubHTTPError

        def ask() -> bool:
            try:
                whoami()
            except HfHubHTTPError as error:
                return error.response.status_code == 401
            return False

        return within(8, ask) or False

    @cached_property
    def online(self) -> bool:
        """Whether the Hub answers, asked for at most four seconds."""
        from urllib.request import Request, urlopen

        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return False
        request = Request(constants.ENDPOINT, method="HEAD", headers={"User-Agent": "cookbook-doctor"})
        return within(4, lambda: urlopen(request, timeout=3).status < 500) or False

    def has(self, source: Source) -> bool:
        """Whether weights or data are on this machine already."""
        if source.ships:
            return (runs.ASSETS / source.location).is_dir()
        return within(5, lambda: hub.local(source) is not None) or False

    def may_download(self, source: Source) -> bool:
        """Whether a source is here, is open, or its licence was accepted by the account of the token."""
        from huggingface_hub import auth_check

        if self.has(source) or not source.gated:
            return True

        def ask() -> bool:
            auth_check(source.location, repo_type=source.kind)
            return True

        return self.token and self.online and (within(8, ask) or False)
