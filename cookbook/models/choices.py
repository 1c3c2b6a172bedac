"""What was chosen for this machine (device, number format, attention, compiling, decoders) and why, a line each."""

from __future__ import annotations

import av
import torch

from cookbook.models import fast, world


def choices() -> dict[str, tuple[str, str]]:
    """Choice -> (what was chosen, why). What was chosen is asked of the functions that the stages call."""
    on = world.device()
    gpu, compiled, kernels = on.type == "cuda", fast.compiles(on), fast.priority(on)
    numbers = str(world.compute_dtype(on)).removeprefix("torch.")
    order = " before ".join(kernel.name.removesuffix("_ATTENTION").lower() for kernel in kernels)
    slow = "on a CPU bf16 is slower, unless the processor has instructions for it"
    long = "for a CPU it takes longer than the nano model saves"
    return {
        "device": (torch.cuda.get_device_name(on), "PyTorch sees it") if gpu else (on.type, "PyTorch sees no GPU"),
        "numbers": (numbers, slow if numbers == "float32" else "half the memory, and fast units take it"),
        "attention": (order, "by speed on an H100") if kernels else ("PyTorch's own", "a CPU has one kernel"),
        "compiling": ("blocks of the network", "each step is faster, the first slower") if compiled else ("none", long),
        "video": (f"PyAV {av.__version__}, on the CPU", "FFmpeg is in its wheel, so nothing has to be installed"),
    }


def told() -> str:
    """The choices as lines."""
    return "\n".join(f"  {name:<10}{chosen}: {why}" for name, (chosen, why) in choices().items())
