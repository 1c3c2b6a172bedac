"""What this machine computes with: device, dtype, attention kernel, compilation, each choice with its reason.

The attention kernel and the compiler matter on GPUs only. A CPU has one attention kernel, and compiling for it takes
longer than the nano model saves.
"""

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
# the first that supports the case at hand: cuDNN supports neither float32 nor the VAE's wide heads.
_ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

Forward = Callable[..., torch.Tensor]


def device() -> torch.device:
    """The GPU of this process (LOCAL_RANK under torchrun), or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def compute_dtype(on: torch.device) -> torch.dtype:
    """bf16 on a GPU; float32 on a CPU, where bf16 is slower unless the processor has instructions for it."""
    return torch.bfloat16 if on.type == "cuda" else torch.float32


def convolution_dtype(on: torch.device) -> torch.dtype:
    """bf16 also on a CPU that has instructions for it: convolutions take half the time."""
    fast = on.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else compute_dtype(on)


def attention_kernels(on: torch.device) -> list[SDPBackend]:
    """The attention kernels to choose from, the fastest first; empty where there is no choice."""
    return _ATTENTION if on.type == "cuda" else []


def fast_attention(on: torch.device) -> AbstractContextManager:
    """Within the block attention runs, or is compiled for, the fastest kernel."""
    return sdpa_kernel(kernels, set_priority=True) if (kernels := attention_kernels(on)) else nullcontext()


def compiles(on: torch.device) -> bool:
    """Whether the blocks of a network are compiled."""
    return on.type == "cuda"


@cache
def compiled(function: Forward, on: torch.device) -> Forward:
    """The function, compiled for a GPU: once for all blocks that it is given, and for each shape of input."""
    return torch.compile(function, fullgraph=True, dynamic=False) if compiles(on) else function


def compile_blocks(model: nn.Module, wrap: Callable[[Forward], Forward] | None = None, **options: Any) -> None:
    """Compile the forward of a diffusers model's blocks (`_no_split_modules`): once, for all of them.

    Hooks stay outside, so FSDP2 may shard the blocks afterwards. Each shape of input is compiled for itself.

    Args:
        wrap: turns a block's forward into the one to compile, such as a checkpointed one.
        options: of `torch.compile`.
    """

    def forward(block: nn.Module, *arguments: Any) -> torch.Tensor:
        plain = partial(type(block).forward, block)
        return (wrap(plain) if wrap else plain)(*arguments)

    shared = torch.compile(forward, fullgraph=True, dynamic=False, **options)
    for block in model.modules():
        if type(block).__name__ in model._no_split_modules:
            block.forward = partial(shared, block)


def choices() -> dict[str, tuple[str, str]]:
    """What is chosen for this machine, as name -> (choice, reason); computed by the functions that the stages call."""
    on = device()
    gpu, kernels, dtype = on.type == "cuda", attention_kernels(on), compute_dtype(on)
    order = " before ".join(kernel.name.removesuffix("_ATTENTION").lower() for kernel in kernels)
    slower = "on a CPU bf16 is slower, unless the processor has instructions for it"
    why_dtype = slower if dtype == torch.float32 else "half the memory, and faster"
    compilation = ("blocks of the network", "each step is faster, the first slower")
    none = ("none", "on a CPU it takes longer than the nano model saves")
    return {
        "device": (torch.cuda.get_device_name(on), "PyTorch finds it") if gpu else (on.type, "PyTorch finds no GPU"),
        "dtype": (str(dtype).removeprefix("torch."), why_dtype),
        "attention": (order, "by speed on an H100") if kernels else ("PyTorch's own", "a CPU has one kernel"),
        "compile": compilation if compiles(on) else none,
        "video": (f"PyAV {version('av')}, on the CPU", "FFmpeg is in its wheel, so nothing has to be installed"),
    }


def describe() -> str:
    """The choices as lines of text."""
    return "\n".join(f"  {name:<10}{choice}: {reason}" for name, (choice, reason) in choices().items())
