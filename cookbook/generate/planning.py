"""What generating will take, said before it starts: time from the size of the work, and what fits on the GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from cookbook.errors import UserError
from cookbook.generate.requests import Request
from cookbook.models import sizes
from cookbook.profiles import Profile

# FLOP of the network per second of a clip in a row of clips, decoding included.
H100 = 597e12  # 2B, 432x768, 93 frames, 36 steps with guidance: 41.4 s (benchmarks/generate.py, 2026-11-25)
TWO_CORES = 84e9  # nano, 12 steps with guidance: 2.7 s a clip, median of 40
LARGE = 1e9  # parameters from which a GPU is assumed, whatever this machine has

# Bytes of GPU memory beside the weights, from the same run: 7.7 GiB in all for the 2B network and its VAE
DECODING = 12_000  # per pixel of a frame; one frame group is decoded at a time, so length does not matter
ROOM = 1.15  # times the text encoder's weights


def cost(profile: Profile, jobs: Sequence[tuple[Request, int]], gpu: bool) -> str:
    """How long these clips take, exact and without any guardrail: `about 2.9 h on one H100`."""
    passes: Counter[int] = Counter()
    for request, _ in jobs:
        height, width = request.size
        tokens = (1 + (request.num_output_frames - 1) // 4) * (height // 16) * (width // 16)
        passes[tokens] += (request.num_steps or profile.sampling.steps) * (2 if request.guidance else 1)
    taken, where = seconds(profile, passes, gpu)
    told = f"{taken / 60:.0f} min" if taken < 5400 else f"{taken / 3600:.1f} h"
    return f"about {f'{taken:.0f} s' if taken < 90 else told} on {where}"


def seconds(profile: Profile, passes: Mapping[int, int], gpu: bool) -> tuple[float, str]:
    """How long so many passes of the profile's network take, decoding included, and on what.

    Args:
        passes: tokens of a clip -> passes over such clips.
    """
    settings = sizes.config(profile.world)
    parameters = numbers(sizes.on_meta(settings))
    flop = sum(count * sizes.forward_flop(settings, parameters, tokens) for tokens, count in passes.items())
    large = gpu or parameters >= LARGE
    return flop / (H100 if large else TWO_CORES), "one H100" if large else "two CPU cores"


def numbers(network: nn.Module) -> int:
    """How many a network consists of."""
    return sum(tensor.numel() for tensor in network.parameters())


@dataclass(frozen=True)
class Fit:
    """Where things go on a GPU."""

    encoder: bool  # on the GPU; otherwise it embeds the prompts on the CPU
    tiled: bool  # the VAE decodes in tiles, which takes longer and shows faintly where they meet


def fit(free: int, encoder: int, network: int, pixels: int) -> Fit:
    """Choose by the memory that is free.

    Args:
        free: bytes on the GPU before anything is loaded.
        encoder: bytes of the text encoder's weights. It is gone before the network comes.
        network: bytes of the weights of world model and VAE.
        pixels: of the largest frame.

    Raises:
        UserError: the network alone does not fit.
    """
    if network > free:
        raise UserError(
            f"the world model takes {network / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of this GPU are free; stop "
            "what else runs on it, or take a larger one"
        )
    return Fit(encoder * ROOM <= free, network + pixels * DECODING > free)


def told(chosen: Fit, free: int) -> str:
    """The choice as the line that is printed."""
    encoder = "on the GPU, then freed" if chosen.encoder else "on the CPU, where a prompt takes minutes"
    decoding = "in tiles, seen faintly where they meet" if chosen.tiled else "whole"
    return f"generate: {free / 2**30:.1f} GiB of the GPU are free: text encoder {encoder}; frames decoded {decoding}"
