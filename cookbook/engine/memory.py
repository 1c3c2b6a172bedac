"""Activations: kept for the backward pass, or computed again in it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from cookbook.errors import UserError

CHOICES = ("none", "blocks", "selective")

_aten = torch.ops.aten
# Attention costs the square of the sequence but its output only the sequence: the cheapest thing to keep.
ATTENTION = [
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def recompute(model: nn.Module, choice: str) -> None:
    """Set what a diffusers model computes again in its backward pass. The result is the same in every bit.

    Args:
        choice: `none` keeps all activations; `blocks` keeps the input of each block; `selective` keeps that and the
            outputs of attention, as upstream's `predict2_2b_720_aggressive`.

    Raises:
        UserError: another choice.
    """
    if choice not in CHOICES:
        raise UserError(f"the recipe's recompute is {choice!r}; it must be one of {', '.join(CHOICES)}")
    if choice == "none":
        model.disable_gradient_checkpointing()
        return
    kept = {"context_fn": partial(create_selective_checkpoint_contexts, ATTENTION)} if choice == "selective" else {}

    def run(block: nn.Module, *arguments: Any) -> Tensor:
        return checkpoint(block, *arguments, use_reentrant=False, **kept)

    model.enable_gradient_checkpointing(run)
