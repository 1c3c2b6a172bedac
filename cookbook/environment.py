"""Versions, device and memory of this process, for manifests. PyTorch is imported on first use."""

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = "torch torchvision diffusers transformers huggingface_hub peft safetensors av numpy".split()


def peak_memory_gb() -> dict[str, float]:
    """Peak resident memory of this process and, with a GPU, the allocator's peak, in GB."""
    import torch

    scale = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss is bytes on macOS and kB elsewhere
    peaks = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 2)}
    if torch.cuda.is_available():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peaks


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Versions and device, for manifests."""
    import torch

    versions = {"python": platform.python_version()} | {name: installed(name) or "not installed" for name in PACKAGES}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {"versions": versions, "device": device}
