"""Facts about this machine, each determined on first use. No network problem can make them hang."""

import os
import platform
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from ctypes.util import find_library
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import psutil

from cookbook import runs
from cookbook.environment import installed
from cookbook.models import hub
from cookbook.profiles import Source


def within(seconds: float, probe: Callable[[], bool]) -> bool:
    """The result of a probe, or False if it fails or takes longer."""
    results = []

    def attempt() -> None:
        with suppress(Exception):  # whatever goes wrong, the answer is: not available
            results.append(probe())

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(results)


class Machine:
    """This machine."""

    @cached_property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def processor(self) -> str:
        """Model name of the processor, and whether it has matrix units for bf16 (AMX)."""
        file = Path("/proc/cpuinfo")
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        match = re.search(r"^model name\s*: (.+)$", text, re.M)
        name = match[1].strip() if match else platform.processor() or platform.machine()
        return name + (" with AMX" if " amx_bf16" in text else "")

    @cached_property
    def memory_gb(self) -> float:
        """Memory of the machine, or the container's limit if that is lower."""
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text().strip() if limit.exists() else "max"
        return min(psutil.virtual_memory().total, float("inf") if text == "max" else float(text)) / 1e9

    @cached_property
    def disk_gb(self) -> float:
        """Free space where runs are written."""
        return shutil.disk_usage(next(path for path in (runs.HOME, *runs.HOME.parents) if path.exists())).free / 1e9

    @cached_property
    def gpus(self) -> list[tuple[str, float]]:
        """Name and memory in GB of each NVIDIA GPU that PyTorch can use."""
        import torch

        if not torch.cuda.is_available():
            return []
        properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [(gpu.name, gpu.total_memory / 1e9) for gpu in properties]

    @cached_property
    def driver(self) -> bool:
        return shutil.which("nvidia-smi") is not None

    @cached_property
    def versions(self) -> dict[str, tuple[str | None, str]]:
        """Direct dependency -> (installed or None, tested), from the first block of constraints.txt."""
        file = runs.ASSETS.parent / "constraints.txt"
        lines = file.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if file.exists() else []
        tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        return {name: (installed(name), number) for name, number in tested.items()}

    @cached_property
    def renderer(self) -> bool:
        """Whether MuJoCo and an OpenGL library for offscreen rendering are installed."""
        library = any(find_library(name) for name in ("EGL", "OSMesa")) or installed("lavavu-osmesa")
        return find_spec("mujoco") is not None and bool(library)

    @cached_property
    def token(self) -> bool:
        from huggingface_hub import get_token

        return bool(get_token())

    @cached_property
    def refused(self) -> bool:
        """Whether the Hub answers 401: the token is mistyped, deleted or expired."""
        from huggingface_hub import whoami
        from huggingface_hub.errors import HfHubHTTPError

        def probe() -> bool:
            try:
                whoami()
            except HfHubHTTPError as error:
                return error.response.status_code == 401
            return False

        return within(8, probe)

    @cached_property
    def online(self) -> bool:
        """Whether the Hub answers within four seconds."""
        from urllib.request import Request, urlopen

        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return False
        request = Request(constants.ENDPOINT, method="HEAD", headers={"User-Agent": "cookbook-doctor"})
        return within(4, lambda: urlopen(request, timeout=3).status < 500)

    def has(self, source: Source) -> bool:
        """Whether weights or data are on this machine already."""
        if source.ships:
            return (runs.ASSETS / source.location).is_dir()
        return within(5, lambda: hub.local(source) is not None)

    @cache  # noqa: B019 - a machine lives as long as the command; each source is asked for once
    def may_download(self, source: Source) -> bool:
        """Whether a source is here, is open, or its licence was accepted by the account of the token."""
        from huggingface_hub import auth_check

        if self.has(source) or not source.gated:
            return True
        if not (self.token and self.online):
            return False
        return within(8, lambda: auth_check(source.location, repo_type=source.kind) is None)
