"""Activation checkpointing: which activations are kept for the backward pass, and which it computes again."""

from collections.abc import Callable
from functools import partial

import torch
import torch._functorch.config as functorch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from cookbook import hardware
from cookbook.errors import UserError

CHOICES = ("none", "selective")

_aten = torch.ops.aten
# Attention costs the square of the sequence but its output only the sequence: the cheapest thing to keep.
ATTENTION = [
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def checkpoint_activations(model: nn.Module, choice: str, compiled: bool = False) -> None:
    """Choose what a diffusers model computes again in its backward pass. The result is the same up to rounding.

    Args:
        choice: `none` keeps every activation; `selective` keeps the input of each block and the outputs of attention,
            as upstream's `predict2_2b_720_aggressive`. A share of 1 such as `0.4`: the compiler keeps what saves most
            work per byte, up to about that share of what `none` keeps; without a compiler, as `selective`.
        compiled: compile the blocks, checkpointing included; otherwise PyTorch's checkpoints around plain blocks.

    Raises:
        UserError: another choice.
    """
    share = share_of(choice)
    model.disable_gradient_checkpointing()
    if compiled:
        functorch.activation_memory_budget = 1.0 if share is None else share
        hardware.compile_blocks(model, _selective if choice == "selective" else None)
    elif choice != "none":
        model.enable_gradient_checkpointing(lambda block, *arguments: _selective(block)(*arguments))


def share_of(choice: str) -> float | None:
    """The share of the activations to keep that a choice names, between 0 and 1; None for `none` and `selective`.

    Raises:
        UserError: another choice.
    """
    try:
        share = None if choice in CHOICES else float(choice)
    except ValueError:
        share = 0
    if share is None or 0 < share < 1:
        return share
    raise UserError(f"activation_checkpointing is {choice!r}; it must be {', '.join(CHOICES)} or a share such as 0.4")


def _selective(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The same forward; its backward computes again everything but the outputs of attention."""
    contexts = partial(create_selective_checkpoint_contexts, ATTENTION)
    return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)
