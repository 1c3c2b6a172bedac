"""What a generation will take, printed before it starts: its time, from the amount of work, and its GPU memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from cookbook.errors import UserError
from cookbook.generate.requests import Request
from cookbook.models import sizes
from cookbook.profiles import Profile

# FLOP of the network per second of generating clip after clip, decoding included.
H100 = 597e12  # 2B, 432x768, 93 frames, 36 steps with guidance: 41.4 s (benchmarks/generate.py, 2026-11-25)
TWO_CORES = 84e9  # nano, 12 steps with guidance: 2.7 s a clip, median of 40
LARGE = 1e9  # parameters from which a GPU is assumed, whatever this machine has

# Bytes of GPU memory beside the weights, from the same run: 7.7 GiB in all for the 2B network and its VAE
DECODING = 12_000  # per pixel of a frame; one frame group is decoded at a time, so the length does not matter
ROOM = 1.15  # times the text encoder's weights


def chunks(profile: Profile, frames: int) -> tuple[list[int], int]:
    """The parts in which a clip is generated: the frames of each, and how many of them repeat the part before.

    A clip within the profile's window is one part. Parts begin with as many frames as training gave at most.
    """
    window, given = profile.clip.frames, 4 * max(number for number, _ in profile.recipe.conditioning_frames) - 3
    parts = [min(window, frames)]
    while (left := frames + given * (len(parts) - 1) - sum(parts)) > 0:
        parts.append(min(window, given + left))
    return parts, given


def cost(profile: Profile, jobs: Sequence[tuple[Request, int]], gpu: bool) -> str:
    """The time for these clips, exact and without any guardrail: `about 2.9 h on one H100`."""
    evaluations: Counter[int] = Counter()
    for request, _ in jobs:
        height, width = request.size
        for frames in chunks(profile, request.num_output_frames)[0]:
            clip = replace(profile.clip, frames=frames, height=height, width=width)
            evaluations[clip.tokens] += (request.num_steps or profile.sampling.steps) * (2 if request.guidance else 1)
    time, where = seconds(profile, evaluations, gpu)
    text = f"{time:.0f} s" if time < 90 else f"{time / 60:.0f} min" if time < 5400 else f"{time / 3600:.1f} h"
    return f"about {text} on {where}"


def seconds(profile: Profile, evaluations: Mapping[int, int], gpu: bool) -> tuple[float, str]:
    """The time of these evaluations of the profile's network, decoding included, and the hardware it is for.

    Args:
        evaluations: tokens of a clip -> network evaluations on such clips.
    """
    settings = sizes.config(profile.world)
    weights = parameters(sizes.on_meta(settings))
    flop = sum(count * sizes.forward_flop(settings, weights, tokens) for tokens, count in evaluations.items())
    large = gpu or weights >= LARGE
    return flop / (H100 if large else TWO_CORES), "one H100" if large else "two CPU cores"


def parameters(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(tensor.numel() for tensor in network.parameters())


@dataclass(frozen=True)
class Fit:
    """What fits on a GPU."""

    encoder: bool  # the text encoder does; otherwise it embeds the prompts on the CPU
    tiled: bool  # the VAE must decode in tiles, which takes longer and can leave faint seams


def fit(free: int, encoder: int, network: int, pixels: int) -> Fit:
    """Choose by the free memory.

    Args:
        free: bytes on the GPU before anything is loaded.
        encoder: bytes of the text encoder's weights. It is freed before the network is loaded.
        network: bytes of the weights of world model and VAE.
        pixels: of the largest frame.

    Raises:
        UserError: the network alone does not fit.
    """
    if network > free:
        raise UserError(
            f"the world model takes {network / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of this GPU are free; stop "
            "what else runs on it, or use a larger GPU"
        )
    return Fit(encoder * ROOM <= free, network + pixels * DECODING > free)


def describe(chosen: Fit, free: int) -> str:
    """The choice as one line."""
    encoder = "on the GPU, then freed" if chosen.encoder else "on the CPU (minutes per prompt)"
    decoding = "in tiles (faint seams possible)" if chosen.tiled else "whole"
    return f"generate: {free / 2**30:.1f} GiB of the GPU are free: text encoder {encoder}; frames decoded {decoding}"
