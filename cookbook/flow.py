"""Rectified flow: the noise schedule, the loss and the sampler, as Cosmos Predict 2.5 uses them.

A straight line joins a clip x0 and noise e: x_sigma = sigma * e + (1 - sigma) * x0, with the velocity v = e - x0. The
network learns v; sampling walks from sigma = 1 (noise) to 0 (clip) along it.
Sources: Liu et al. 2022 (arXiv 2209.03003), Esser et al. 2024 (arXiv 2403.03206) for the logit-normal draw and the
shift, and `cosmos_predict2/_src/predict2/models/video2world_model_rectified_flow.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from cookbook.errors import UserError

if TYPE_CHECKING:
    from diffusers import UniPCMultistepScheduler

# velocity(latents [B,C,T,H,W], sigma scalar in 0..1) -> [B,C,T,H,W]
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Move noise levels t in 0..1 towards 1: shift * t / (1 + (shift - 1) * t)."""
    return shift * t / (1 + (shift - 1) * t)


def draw_sigmas(count: int, shift: float, generator: torch.Generator) -> torch.Tensor:
    """Training noise levels [count] in 0..1, on the generator's device: the sigmoid of a standard normal, shifted."""
    return shifted(torch.sigmoid(torch.randn(count, generator=generator, device=generator.device)), shift)


def condition_mask(frames: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """[B, 1, T, H, W] with ones on each clip's first `frames[b]` latent frames: the conditioning frames."""
    index = torch.arange(latents.shape[2], device=latents.device).view(1, 1, -1, 1, 1)
    mask = (index < frames.to(latents.device).view(-1, 1, 1, 1, 1)).to(latents.dtype)
    return mask.expand(latents.shape[0], 1, *latents.shape[2:])


def noised(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The network's input: the straight line at sigma [B], with the clean latents put back where `mask` is 1."""
    sigma = sigma.view(-1, 1, 1, 1, 1)
    return mask * clean + (1 - mask) * (sigma * noise + (1 - sigma) * clean)


def loss(predicted: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared velocity error over all elements. Conditioning frames count as exact: they only lower the mean."""
    return ((1 - mask) * (predicted.float() - (noise - clean).float())).square().mean()


def scheduler(shift: float) -> UniPCMultistepScheduler:
    """The solver that pre-trained and GR1 weights need: UniPC, linear flow sigmas with a shift, no Karras.

    The configuration written by diffusers' own converter is Karras (200 to 0.01), right for the post-trained
    weights only.
    """
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        num_train_timesteps=1000,
        solver_order=2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        use_karras_sigmas=False,
        flow_shift=shift,
    )


def initial_noise(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Noise that is the same on every machine: NumPy's RandomState, as the native tool draws it."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def sample(
    velocity: Velocity,
    noise: torch.Tensor,
    clean: torch.Tensor,
    mask: torch.Tensor,
    steps: int,
    shift: float,
) -> torch.Tensor:
    """Integrate from noise to a clip.

    Args:
        velocity: the network with its text and guidance inside.
        noise: [B, C, T, H, W], standard normal.
        clean: latents [B, C, T, H, W], of which only the conditioning frames, where `mask` is 1, are used.
        mask: [B, 1, T, H, W] from `condition_mask`.

    Returns:
        Standardised latents [B, C, T, H, W], the conditioning frames unchanged.

    Raises:
        UserError: they are not finite.
    """
    solver = scheduler(shift)
    solver.set_timesteps(steps, device=noise.device)
    latents = noise
    exact_velocity = (noise - clean) * mask
    for index, timestep in enumerate(solver.timesteps):
        sigma = solver.sigmas[index].to(noise.device)
        predicted = velocity(mask * clean + (1 - mask) * latents, sigma)
        latents = solver.step(exact_velocity + (1 - mask) * predicted, timestep, latents, return_dict=False)[0]
    if not latents.isfinite().all():
        raise UserError("the clip became NaN or infinite while it was sampled; use less guidance, or other weights")
    return mask * clean + (1 - mask) * latents
