"""Linear layers in 8-bit floating point, for generation: about twice the speed of bf16 on GPUs that have it.

Weights are rounded once, with one scale per output channel, and activations as they come, with one per token (`rowwise`
in `torch._scaled_mm`). Three bits of mantissa remain: the result changes, so nothing does this unless asked to.
"""

from __future__ import annotations

import torch
from torch import nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max  # 448


def available(device: torch.device) -> bool:
    """Whether the device multiplies fp8 matrices with a scale per row: NVIDIA Hopper (9.0) and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, C] as fp8 [N, C] and the scales [N, 1], float32, that bring them back."""
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).to(FLOAT8), scale


class Float8Linear(nn.Module):
    """A linear layer without bias, [..., in] -> [..., out], both multiples of 16."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = rounded(linear.weight.detach())
        self.register_buffer("weight", weight)  # [out, in]
        self.register_buffer("scale", scale.t().contiguous())  # [1, out]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, scale = rounded(x.flatten(0, -2))
        out = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=x.dtype, use_fast_accum=True
        )
        return out.unflatten(0, x.shape[:-1])


# The layers that see every token of the clip; those of the text and of the timestep cost nothing and stay as they are.
_LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0")
_LAYERS += ("ff.net.0.proj", "ff.net.2")


def to_float8(transformer: nn.Module) -> None:
    """Replace the large linear layers of every block of a `CosmosTransformer3DModel`, in place."""
    for block in transformer.transformer_blocks:
        for name in _LAYERS:
            block.set_submodule(name, Float8Linear(block.get_submodule(name)))
