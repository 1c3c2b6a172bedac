"""The same result sooner: the fastest attention kernel there is, and transformer blocks compiled one at a time.

For GPUs. A CPU has one attention kernel, and compiling for it takes longer than the nano model saves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
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
