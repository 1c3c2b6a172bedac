"""Faster layers for Qwen3-VL on clips of one size, where each frame pair has the same number of patches.

Results equal those of the plain class up to rounding (tests/test_critic.py, tests/test_critic_training.py).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

Patch = tuple[Any, str, Callable]  # class or module, attribute, its replacement


def _embed(self: qwen.Qwen3VLVisionPatchEmbed, patches: torch.Tensor) -> torch.Tensor:
    """The patch embedding as one matrix product; as a convolution it is many times slower on a GPU."""
    weight = self.proj.weight.flatten(1)
    return F.linear(patches.view(-1, weight.shape[1]).to(weight.dtype), weight, self.proj.bias)


def _attend(
    self: qwen.Qwen3VLVisionAttention, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor], **_: object,
) -> torch.Tensor:  # fmt: skip
    """Attention within each frame pair, all pairs in one call; the class makes one call per pair."""
    tokens, pairs = len(hidden_states), len(cu_seqlens) - 1
    query, key, value = self.qkv(hidden_states).view(tokens, 3, self.num_heads, -1).unbind(1)
    query, key = qwen.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    parts = [part.view(pairs, -1, self.num_heads, self.head_dim).transpose(1, 2) for part in (query, key, value)]
    mixed = F.scaled_dot_product_attention(*parts, scale=self.scaling)
    return self.proj(mixed.transpose(1, 2).reshape(tokens, -1))


def _normalise(self: qwen.Qwen3VLTextRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    """RMS norm in one kernel; the class launches six."""
    return F.rms_norm(hidden, self.weight.shape, self.weight, self.variance_epsilon)


EQUAL_CLIPS: tuple[Patch, ...] = (
    (qwen.Qwen3VLVisionPatchEmbed, "forward", _embed),
    (qwen.Qwen3VLVisionAttention, "forward", _attend),
)
FAST: tuple[Patch, ...] = (*EQUAL_CLIPS, (qwen.Qwen3VLTextRMSNorm, "forward", _normalise))


@contextmanager
def patched(*patches: Patch) -> Iterator[None]:
    """Replace these attributes within the block."""
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(patch.object(*each))
        yield
