"""One clip: a photo (or the end of a video) and an embedded prompt in, latents out."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel

from cookbook import flow, hardware
from cookbook.generate import shortcuts
from cookbook.models import autoencoder
from cookbook.models.denoiser import Denoiser


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
        mask: [B, 1, T, H, W], ones on given latent frames.
        guidance: 0 leaves out the negative pass. NVIDIA's convention: 7 here is 8 in the textbook's.
        fast: of `shortcuts.NAMES`.
    """
    network = Denoiser(transformer, [text, negative] if guidance else [text], mask)
    return shortcuts.shortened(network, guidance, fast)


@torch.no_grad()
def make_clip(
    transformer: CosmosTransformer3DModel,
    vae: AutoencoderKLWan,
    given: torch.Tensor | None,
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
        given: pixels [1, 3, 1 or 5, H, W] in -1..1 that the clip begins with; None for text-to-world.
        shape: latent frames, height and width.
        seed: of NumPy's RandomState, so the same on every machine.
        fast: of `shortcuts.NAMES`; empty gives the exact clip.

    Returns:
        Pixels [1, 3, T, H, W] in -1..1, float32.
    """
    size = (1, vae.config.z_dim, *shape)
    noise = flow.initial_noise(size, seed).to(transformer.device)
    clean = torch.zeros_like(noise)
    known = 0
    if given is not None:
        start = autoencoder.encode(vae, given)
        known = start.shape[2]
        clean[:, :, :known] = start
    mask = flow.condition_mask(torch.tensor([known]), noise)
    velocity = guided(transformer, text, negative, mask, guidance, fast)
    with hardware.fast_attention(noise.device):
        latents = flow.sample(velocity, noise, clean, mask, steps, shift)
    return autoencoder.decode(vae, latents)
