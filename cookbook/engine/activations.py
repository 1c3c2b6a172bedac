"""Activations: kept for the backward pass, or computed again in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from cookbook import hardware
from cookbook.errors import UserError

CHOICES = ("none", "blocks", "selective", "products")

_aten = torch.ops.aten
# Attention costs the square of the sequence but its output only the sequence: the cheapest thing to keep.
ATTENTION = [
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def checkpoint_activations(model: nn.Module, choice: str, compiled: bool = False) -> None:
    """Set what a diffusers model computes again in its backward pass. The result is the same up to rounding.

    Args:
        choice: `none` keeps what is costly; `blocks` keeps the input of each block; `selective` keeps that and the
            outputs of attention, as upstream's `predict2_2b_720_aggressive`; `products` also those of matrix products
            that sum over more numbers than they give. A share of 1 such as `0.4`: the compiler keeps what saves most
            per byte, up to about that share of what `none` keeps; without a compiler, as `selective`.
        compiled: compile the blocks, recomputation included; otherwise PyTorch's checkpoints around plain blocks.

    Raises:
        UserError: another choice.
    """
    share = _share(choice)
    if choice not in CHOICES and share is None:
        raise UserError(
            f"the recipe's activation_checkpointing is {choice!r}; it must be one of {', '.join(CHOICES)} or a share such as 0.4"
        )
    model.disable_gradient_checkpointing()
    around = _checkpointed("selective" if share is not None else choice)
    if compiled:
        functorch.activation_memory_budget = 1.0 if share is None else share
        hardware.compile_blocks(model, None if choice == "none" or share is not None else around)
    elif choice != "none":
        model.enable_gradient_checkpointing(lambda block, *arguments: around(block)(*arguments))


def _share(choice: str) -> float | None:
    try:
        return float(choice) if 0 < float(choice) < 1 else None
    except ValueError:
        return None


def _checkpointed(choice: str) -> Callable[[hardware.Forward], hardware.Forward]:
    kept = {"selective": ATTENTION, "products": _products}.get(choice)
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, kept)} if kept else {}
    return lambda forward: partial(checkpoint, forward, use_reentrant=False, **contexts)


def _products(_: Any, operation: Any, *arguments: Any, **__: Any) -> CheckpointPolicy:
    """Keep attention, and products whose inner size exceeds their output's: most work per byte that is kept."""
    left: Tensor | None = arguments[0] if operation == _aten.mm.default else None
    wide = left is not None and left.shape[1] > arguments[1].shape[1]
    return CheckpointPolicy.MUST_SAVE if wide or operation in ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE
