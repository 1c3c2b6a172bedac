"""One clip: conditioning frames (a photo, or the end of a video) and embedded prompts in, pixels out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cookbook import flow, hardware
from cookbook.generate import shortcuts
from cookbook.models import autoencoder
from cookbook.models.denoiser import Denoiser

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, CosmosTransformer3DModel


def guided(
    transformer: CosmosTransformer3DModel,
    text: torch.Tensor,
    negative: torch.Tensor,
    mask: torch.Tensor,
    guidance: float,
    fast: frozenset[str] = frozenset(),
) -> flow.Velocity:
    """The velocity field v = v_text + guidance * (v_text - v_negative).

    Args:
        text, negative: embeddings [B, L, D].
        mask: [B, 1, T, H, W], ones on conditioning frames.
        guidance: 0 leaves out the negative prompt. NVIDIA's convention: 7 here is 8 in most papers.
        fast: of `shortcuts.NAMES`; empty for the exact field.
    """
    network = Denoiser(transformer, [text, negative] if guidance else [text], mask)
    return shortcuts.velocity_field(network, guidance, fast)


@torch.no_grad()
def make_clip(
    transformer: CosmosTransformer3DModel,
    vae: AutoencoderKLWan,
    conditioning: torch.Tensor | None,
    text: torch.Tensor,
    negative: torch.Tensor,
    shape: tuple[int, int, int],
    steps: int,
    guidance: float,
    shift: float,
    seed: int,
    fast: frozenset[str] = frozenset(),
) -> torch.Tensor:
    """Generate one clip.

    Args:
        conditioning: pixels [1, 3, 1 or 5, H, W] in -1..1 that the clip begins with; None for text2world.
        text, negative: embeddings [1, L, D] of the prompt and the negative prompt.
        shape: latent frames, height and width.
        steps, shift: of the solver.
        guidance, fast: as in `guided`.
        seed: of NumPy's RandomState, so the noise is the same on every machine.

    Returns:
        Pixels [1, 3, T, H, W] in -1..1, float32.
    """
    noise = flow.initial_noise((1, vae.config.z_dim, *shape), seed).to(transformer.device)
    clean, frames = torch.zeros_like(noise), 0
    if conditioning is not None:
        start = autoencoder.encode(vae, conditioning)
        frames = start.shape[2]
        clean[:, :, :frames] = start
    mask = flow.condition_mask(torch.tensor([frames]), noise)
    velocity = guided(transformer, text, negative, mask, guidance, fast)
    with hardware.fast_attention(noise.device):
        latents = flow.sample(velocity, noise, clean, mask, steps, shift)
    return autoencoder.decode(vae, latents)
