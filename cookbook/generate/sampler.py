"""One clip: conditioning frames (a photo, or the end of a video) and embedded prompts in, pixels out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cookbook import flow, hardware
from cookbook.generate.shortcuts import velocity_field
from cookbook.models import autoencoder
from cookbook.models.denoiser import Denoiser

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, CosmosTransformer3DModel


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
        guidance: NVIDIA's convention: 7 here is 8 in most papers; 0 leaves out the negative prompt.
        fast: of `shortcuts.NAMES`; empty for the exact clip.
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
    network = Denoiser(transformer, [text, negative] if guidance else [text], mask)
    velocity = velocity_field(network, guidance, fast)
    with hardware.fast_attention(noise.device):
        latents = flow.sample(velocity, noise, clean, mask, steps, shift)
    return autoencoder.decode(vae, latents)
