"""What the world model is trained on in each step: clip, noise, noise level, conditioning frames; and its loss.

Every draw is a function of the seed and the sample's number, so it does not depend on how many processes share a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cookbook import flow
from cookbook.engine import Group
from cookbook.profiles import Recipe, Sampling
from cookbook.train.dataset import CachedClip

SIGMAS = 8  # noise levels of the held-out loss


@dataclass(frozen=True)
class Batch:
    """Clips with all that is random about them. `text` is zero where the caption was dropped."""

    clean: Tensor  # [B, C, T, H, W] standardised latents
    noise: Tensor  # the same shape
    sigma: Tensor  # [B] in 0..1
    conditioning: Tensor  # [B] number of latent frames that are given clean
    text: Tensor  # [B, tokens, features]

    @staticmethod
    def stack(samples: list[Batch], device: torch.device) -> Batch:
        """Several batches as one, on `device`."""
        return Batch(*(torch.cat(parts).to(device) for parts in zip(*(vars(s).values() for s in samples), strict=True)))


def sample(clips: list[CachedClip], recipe: Recipe, seed: int, number: int) -> Batch:
    """Training sample `number` = 0, 1, ... as a batch of one, on the CPU."""
    epoch, position = divmod(number, len(clips))
    order = np.random.default_rng([seed, epoch if recipe.reshuffle else 0]).permutation(len(clips))
    clip = clips[order[position]]
    draws = np.random.default_rng([seed, 1, number])
    generator = torch.Generator().manual_seed(int(draws.integers(2**62)))
    frames, chances = zip(*recipe.conditioning_frames, strict=True)
    clean = clip.window(draws.random())[None]
    text = clip.text()[None]
    return Batch(
        clean=clean,
        noise=torch.randn(clean.shape, generator=generator),
        sigma=flow.draw_sigmas(1, recipe.shift, generator),
        conditioning=torch.tensor([frames[draws.choice(len(frames), p=chances)]]),
        text=torch.zeros_like(text) if draws.random() < recipe.text_dropout else text,
    )


def batches(clips: list[CachedClip], recipe: Recipe, seed: int, group: Group) -> Callable[[int], Batch]:
    """number -> this process's share of that batch's samples, in order over the processes.

    So a step of `recipe.accumulate` batches has the samples of one batch that is as many times as large.
    """

    def at(number: int) -> Batch:
        first = (number * group.size + group.rank) * recipe.batch
        return Batch.stack([sample(clips, recipe, seed, first + index) for index in range(recipe.batch)], group.device)

    return at


def velocity(model: nn.Module, latents: Tensor, mask: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
    """The network's velocity [B, C, T, H, W] at noise levels `sigma` [B]; `mask` [B, 1, T, H, W] marks conditioning
    frames, which are clean in `latents`; `text` is [B, tokens, features]."""
    dtype = next(model.parameters()).dtype
    height, width = latents.shape[-2:]
    return model(
        hidden_states=latents.to(dtype),
        condition_mask=mask.to(dtype),
        timestep=sigma,
        encoder_hidden_states=text.to(dtype),
        padding_mask=latents.new_zeros(1, 1, 8 * height, 8 * width, dtype=dtype),
        return_dict=False,
    )[0]


def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The predicted velocity [B, C, T, H, W] and the mask [B, 1, T, H, W] of conditioning frames."""
    mask = flow.condition_mask(batch.conditioning, batch.clean)
    latents = flow.noised(batch.clean, batch.noise, batch.sigma, mask)
    return velocity(model, latents, mask, batch.sigma, batch.text), mask


@torch.no_grad()
def preview(model: nn.Module, clip: CachedClip, sampling: Sampling, seed: int, device: torch.device) -> Tensor:
    """Latents [1, C, T, H, W] generated from a clip's first frame and caption; all processes take part."""
    clean, text = clip.window(0)[None].to(device), clip.text()[None].to(device)
    mask = flow.condition_mask(torch.tensor([1]), clean)
    noise = flow.initial_noise(tuple(clean.shape), seed).to(device)

    def field(latents: Tensor, sigma: Tensor) -> Tensor:
        return velocity(model, latents, mask, sigma.view(1), text).float()

    return flow.sample(field, noise, clean, mask, sampling.steps, sampling.shift)


def flow_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Rectified-flow loss of a batch: one float32 number."""
    predicted, mask = predict(model, batch)
    return flow.loss(predicted, batch.clean, batch.noise, mask)


def noise_levels(shift: float) -> Tensor:
    """The noise levels of the held-out loss [SIGMAS]: the centres of equally likely parts of the training distribution,
    so that the mean over them estimates the training loss."""
    shares = (torch.arange(SIGMAS) + 0.5) / SIGMAS
    return flow.shifted(torch.sigmoid(torch.special.ndtri(shares)), shift)


def probes(clips: list[CachedClip], shift: float) -> list[Callable[[], Batch]]:
    """The held-out measurement: for each clip and each of `noise_levels`, a function that loads the clip's first window
    with fixed noise and one conditioning frame."""

    def probe(number: int, clip: CachedClip, sigma: Tensor) -> Batch:
        clean = clip.window(0)[None]
        noise = flow.initial_noise(tuple(clean.shape), number)
        return Batch(clean, noise, sigma.view(1), torch.tensor([1]), clip.text()[None])

    levels = noise_levels(shift)
    return [partial(probe, number, clip, sigma) for number, clip in enumerate(clips) for sigma in levels]


@torch.no_grad()
def heldout_loss(model: nn.Module, clips: list[CachedClip], shift: float, group: Group) -> tuple[list[float], float]:
    """The mean loss at each of `noise_levels`, and of the zero-velocity baseline; the processes divide the work."""
    work = probes(clips, shift)
    sums = [0.0] * (SIGMAS + 1)
    for turn in range(-(-len(work) // group.size)):
        number = turn * group.size + group.rank
        batch = Batch.stack([work[number % len(work)]()], group.device)  # all processes must take part in each forward
        predicted, mask = predict(model, batch)
        if number < len(work):
            sums[number % SIGMAS] += float(flow.loss(predicted, batch.clean, batch.noise, mask))
            sums[SIGMAS] += float(flow.loss(torch.zeros_like(predicted), batch.clean, batch.noise, mask))
    *levels, baseline = group.total(sums)
    return [level / len(clips) for level in levels], baseline / len(work)
