"""What this machine computes with: device, dtype, attention kernel, compiled blocks, each choice with its reason.

The attention kernel and the compiler matter on GPUs only. A CPU has one attention kernel, and compiling for it takes
longer than the nano model saves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# By speed at 31,104 tokens of 16 heads x 128 on an H100, forward and backward: cuDNN 48 ms, flash 83 ms. PyTorch takes
# the first that can do the case at hand: cuDNN knows neither float32 nor the VAE's wide heads.
_KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]

Forward = Callable[..., torch.Tensor]


def device() -> torch.device:
    """The GPU of this process (LOCAL_RANK under torchrun), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def compute_dtype(on: torch.device) -> torch.dtype:
    """bf16 on a GPU; float32 on a CPU, where bf16 is slower unless the processor has instructions for it."""
    return torch.bfloat16 if on.type == "cuda" else torch.float32


def priority(device: torch.device) -> list[SDPBackend]:
    """The attention kernels to choose from, the fastest first; empty where there is no choice."""
    return _KERNELS if device.type == "cuda" else []


def kernels(device: torch.device) -> AbstractContextManager:
    """Within the block attention runs, or is compiled for, the fastest kernel."""
    return sdpa_kernel(chosen, set_priority=True) if (chosen := priority(device)) else nullcontext()


def compiles(device: torch.device) -> bool:
    """Whether blocks are compiled."""
    return device.type == "cuda"


@cache
def compiled(function: Forward, device: torch.device) -> Forward:
    """The function, compiled for a GPU: once for all blocks it is given, and for each shape of input."""
    return torch.compile(function, fullgraph=True, dynamic=False) if compiles(device) else function


def compile_blocks(model: nn.Module, around: Callable[[Forward], Forward] | None = None, **options: Any) -> None:
    """Compile the forward of a diffusers model's blocks (`_no_split_modules`): once, for all of them.

    Hooks stay outside, so FSDP2 may split the blocks afterwards. Each shape of input is compiled for itself.

    Args:
        around: makes what is compiled out of a block's forward, such as a checkpointed one.
        options: of `torch.compile`.
    """

    def forward(block: nn.Module, *arguments: Any) -> torch.Tensor:
        plain = partial(type(block).forward, block)
        return (around(plain) if around else plain)(*arguments)

    compiled = torch.compile(forward, fullgraph=True, dynamic=False, **options)
    for block in model.modules():
        if type(block).__name__ in model._no_split_modules:
            block.forward = partial(compiled, block)


def choices() -> dict[str, tuple[str, str]]:
    """Choice -> (what was chosen, why). What was chosen is asked of the functions that the stages call."""
    on = device()
    gpu, blocks, backends = on.type == "cuda", compiles(on), priority(on)
    numbers = str(compute_dtype(on)).removeprefix("torch.")
    order = " before ".join(kernel.name.removesuffix("_ATTENTION").lower() for kernel in backends)
    slow = "on a CPU bf16 is slower, unless the processor has instructions for it"
    long = "for a CPU it takes longer than the nano model saves"
    return {
        "device": (torch.cuda.get_device_name(on), "PyTorch sees it") if gpu else (on.type, "PyTorch sees no GPU"),
        "numbers": (numbers, slow if numbers == "float32" else "half the memory, and fast units take it"),
        "attention": (order, "by speed on an H100") if backends else ("PyTorch's own", "a CPU has one kernel"),
        "compiling": ("blocks of the network", "each step is faster, the first slower") if blocks else ("none", long),
        "video": (f"PyAV {version('av')}, on the CPU", "FFmpeg is in its wheel, so nothing has to be installed"),
    }


def describe() -> str:
    """The choices as lines."""
    return "\n".join(f"  {name:<10}{chosen}: {why}" for name, (chosen, why) in choices().items())
