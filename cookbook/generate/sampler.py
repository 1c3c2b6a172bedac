"""One clip: a photo (or the end of a video) and an embedded prompt in, latents out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel

from cookbook import flow
from cookbook.models import vae as codec


def guided(
    transformer: CosmosTransformer3DModel,
    text: torch.Tensor,
    negative: torch.Tensor,
    mask: torch.Tensor,
    guidance: float,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The velocity field v = v_text + guidance * (v_text - v_negative), both from one batched pass.

    Args:
        text, negative: embeddings [1, L, D].
        mask: [1, 1, T, H, W], ones on given latent frames. They share the noise's timestep, as the pre-trained and
            GR1 weights expect (upstream `conditional_frame_timestep = -1`).
        guidance: 0 leaves out the negative pass. NVIDIA's convention: 7 here is 8 in the textbook's.
    """
    both = torch.cat([text, negative]) if guidance else text
    copies = len(both)
    padding = mask.new_zeros(1, 1, mask.shape[3] * 8, mask.shape[4] * 8)

    def velocity(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        predicted = transformer(
            hidden_states=latents.to(both.dtype).expand(copies, -1, -1, -1, -1),
            timestep=sigma.float().expand(copies),
            encoder_hidden_states=both,
            condition_mask=mask.to(both.dtype).expand(copies, -1, -1, -1, -1),
            padding_mask=padding.to(both.dtype),
            return_dict=False,
        )[0].float()
        if not guidance:
            return predicted
        with_text, without = predicted.chunk(2)
        return with_text + guidance * (with_text - without)

    return velocity


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
) -> torch.Tensor:
    """Generate one clip.

    Args:
        given: pixels [1, 3, 1 or 5, H, W] in -1..1 that the clip begins with; None for text-to-world.
        shape: latent frames, height and width.
        seed: of NumPy's RandomState, so the same on every machine.

    Returns:
        Pixels [1, 3, T, H, W] in -1..1, float32.
    """
    size = (1, vae.config.z_dim, *shape)
    noise = flow.initial_noise(size, seed).to(transformer.device)
    clean = torch.zeros_like(noise)
    known = 0
    if given is not None:
        start = codec.encode(vae, given)
        known = start.shape[2]
        clean[:, :, :known] = start
    mask = flow.condition_mask(torch.tensor([known]), noise)
    velocity = guided(transformer, text, negative, mask, guidance)
    return codec.decode(vae, flow.sample(velocity, noise, clean, mask, steps, shift))
