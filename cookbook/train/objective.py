"""What the world model is trained on in each step: clip, noise, noise level, conditioning frames; and its loss.

Every draw is a function of the seed and the sample's number, so it does not depend on how many processes share a step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cookbook import flow
from cookbook.engine import Group
from cookbook.profiles import Recipe
from cookbook.train.dataset import CachedClip

SIGMAS = 8  # noise levels of the held-out loss


@dataclass(frozen=True)
class Batch:
    """Clips with everything that is random about them. `text` is zero where the caption was dropped."""

    clean: Tensor  # [B, C, T, H, W] standardised latents
    noise: Tensor  # the same shape
    sigma: Tensor  # [B] in 0..1
    conditioning: Tensor  # [B] number of latent frames that are given clean
    text: Tensor  # [B, tokens, features]

    @staticmethod
    def stack(samples: list["Batch"], device: torch.device) -> "Batch":
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


def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The predicted velocity [B, C, T, H, W] and the mask [B, 1, T, H, W] of conditioning frames."""
    dtype = next(model.parameters()).dtype
    mask = flow.condition_mask(batch.conditioning, batch.clean)
    latents = flow.noised(batch.clean, batch.noise, batch.sigma, mask)
    height, width = latents.shape[-2:]
    velocity = model(
        hidden_states=latents.to(dtype),
        condition_mask=mask.to(dtype),
        timestep=batch.sigma,
        encoder_hidden_states=batch.text.to(dtype),
        padding_mask=latents.new_zeros(1, 1, 8 * height, 8 * width, dtype=dtype),
        return_dict=False,
    )[0]
    return velocity, mask


def flow_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Rectified-flow loss of a batch: one float32 number."""
    predicted, mask = predict(model, batch)
    return flow.loss(predicted, batch.clean, batch.noise, mask)


def noise_levels(shift: float) -> Tensor:
    """The noise levels of the held-out loss [SIGMAS]: the centres of equally likely parts of the training distribution,
    so that the mean over them estimates the training loss."""
    shares = (torch.arange(SIGMAS) + 0.5) / SIGMAS
    return flow.shifted(torch.sigmoid(torch.special.ndtri(shares)), shift)


def probe(clips: list[CachedClip], shift: float, number: int) -> Batch:
    """Held-out measurement `number` as a batch of one: the first window of clip `number // SIGMAS` with fixed noise at
    noise level `number % SIGMAS`, one latent frame given."""
    index, level = divmod(number, SIGMAS)
    clean, text = clips[index].window(0)[None], clips[index].text()[None]
    noise = flow.initial_noise(tuple(clean.shape), index)
    return Batch(clean, noise, noise_levels(shift)[level].view(1), torch.tensor([1]), text)


@torch.no_grad()
def heldout_loss(model: nn.Module, clips: list[CachedClip], shift: float, group: Group) -> tuple[list[float], float]:
    """The mean loss at each of `noise_levels`, and of the zero-velocity baseline; the processes divide the work."""
    sums, total = [0.0] * (SIGMAS + 1), SIGMAS * len(clips)
    for first in range(0, total, group.size):
        number = first + group.rank
        batch = Batch.stack([probe(clips, shift, number % total)], group.device)  # all take part in each forward
        predicted, mask = predict(model, batch)
        if number < total:
            sums[number % SIGMAS] += float(flow.loss(predicted, batch.clean, batch.noise, mask))
            sums[SIGMAS] += float(flow.loss(torch.zeros_like(predicted), batch.clean, batch.noise, mask))
    *levels, baseline = group.total(sums)
    return [level / len(clips) for level in levels], baseline / total
