"""Speed of one clip: `cookbook generate` beside diffusers' own pipeline, in one run, from the same noise.

    python benchmarks/generate.py                       one GPU, Cosmos Predict 2.5 2B, 432x768, 93 frames, 36 steps
    python benchmarks/generate.py --peer-steps 6        diffusers' time per step and the rest apart, scaled to 36 steps
    python benchmarks/generate.py --size 704 1280 --steps 3 --peer-steps 3 --no-parts --no-fast

Weights are random in the exact configurations (world model, Wan 2.1 VAE, 7B text encoder), so nothing is downloaded.
The time of a clip covers reading the photo, denoising with guidance, decoding and writing the mp4. The text encoder
runs once per prompt, before the world model is loaded, and has its own row. NVIDIA's guardrail is excluded. Our code
writes the mp4 of a clip while the next is denoised, so the first clip and the later ones have separate columns. Writing
an mp4 takes the same time for every method and is timed once, in the row of the exact clip.

With random weights the distance of `--fast` from the exact clip shows that the code works, not how good the pictures
are; benchmarks/shortcuts.py measures that. How often `cache` skips depends on the weights; random ones never allow a
skip. Rows with every skip take all skips that the rule could allow; real weights lie between them and the others.

Figures from an H100, and what was not run: docs/gpu_figures.md.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import tyro
from generators import TEXT, Models, build, ours, theirs, unit
from measuring import built_on, fresh_peak, peak, psnr, report, say
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from cookbook import flow, hardware, profiles
from cookbook.errors import UserError, report_user_errors
from cookbook.generate import shortcuts
from cookbook.generate.generator import IN_FLIGHT
from cookbook.models import autoencoder, hub
from cookbook.models.text import encode_prompts
from cookbook.profiles import Profile
from cookbook.video import write_video


@dataclass(frozen=True)
class Row:
    """One method or part. None: does not apply, or not measured."""

    method: str
    frames_s: float | None = None  # from the photo to frames in memory, or of the part; scaled, see `measure`
    mp4_s: float | None = None  # to write the mp4; of random weights, noise, which is slow to encode
    each_further_s: float | None = None  # each further clip, in all
    evaluation_s: float | None = None  # one network evaluation, median
    evaluations: int | None = None  # of the network, in one clip of `steps`
    steps_run: int | None = None
    peak_gib: float | None = None  # of the allocator; None on a CPU
    max_difference: float | None = None  # of any pixel (0..1) from the clip it is compared with, before encoding
    psnr_db: float | None = None  # from the same


def embed(profile: Profile, device: torch.device) -> Row:
    """The text encoder: a prompt and the negative prompt, as one clip needs them."""
    with built_on(device, hardware.compute_dtype(device)):
        encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**TEXT)).eval()
    tokenizer = AutoTokenizer.from_pretrained(hub.locate(profiles.nano().world) / "tokenizer")
    fresh_peak(device)

    def make() -> None:
        for prompt in ("Use the right hand to pick up the apple.", "static with no motion"):
            encode_prompts(encoder, tokenizer, [prompt], profile.text_tokens).cpu()

    make()
    start = time.perf_counter()
    make()
    return Row("text encoder 7B, prompt + negative prompt", time.perf_counter() - start, peak_gib=peak(device))


def in_a_row(
    models: Models, make: Callable, steps: int, clips: int, mp4: bool
) -> tuple[list[tuple[float, float]], np.ndarray]:
    """The seconds, from the start, at which each clip's frames were there and its mp4; and the frames of the first."""
    turn, first = threading.Lock(), []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(IN_FLIGHT) as threads:

        def clip(seed: int) -> tuple[float, float]:
            with turn:
                pixels = make(seed, steps)
                plain = isinstance(pixels, np.ndarray)
                frames = (pixels * 255).round().astype(np.uint8) if plain else autoencoder.to_frames(pixels)
                there = time.perf_counter() - start
            if mp4:
                write_video(Path(folder) / f"{seed}.mp4", frames, models.profile.clip.fps)
            end = time.perf_counter() - start
            if not seed:
                first.append(pixels)
            say(f"  clip {seed + 1}: frames after {there:.2f} s, mp4 after {end:.2f} s")
            return there, end

        start = time.perf_counter()
        return list(threads.map(clip, range(clips))), unit(first[0])


def measure(
    method: str, models: Models, make: Callable, steps: int, clips: int = 1, mp4: bool = False
) -> tuple[Row, np.ndarray]:
    """Time a method; the row, and its first clip.

    Args:
        steps: of the timed clips; times are scaled to the profile's where they are fewer.
    """
    evaluations: list = []  # the end of each: seconds, or on a GPU an event, since waiting for it would cost time

    def note(*_) -> None:
        evaluations.append(torch.cuda.Event(enable_timing=True) if models.gpu else time.perf_counter())
        if models.gpu:
            evaluations[-1].record()

    clock = time.perf_counter()
    make(0, 1)  # compiles, and warms up
    say(f"{method}: ready after {time.perf_counter() - clock:.1f} s")
    fresh_peak(models.transformer.device)
    hook = models.transformer.norm_out.register_forward_pre_hook(note)  # near the end of each network evaluation
    ends, frames = in_a_row(models, make, steps, clips, mp4)
    hook.remove()
    apart = [a.elapsed_time(b) / 1000 if models.gpu else b - a for a, b in pairwise(evaluations)]
    one = float(np.median(apart))
    missing = (models.profile.sampling.steps - steps) * one * len(evaluations) / clips / steps
    there, end = ends[0]
    later = (ends[-1][1] - end) / (clips - 1) + missing if clips > 1 else None
    used, count = peak(models.transformer.device), len(evaluations) // clips
    wrote = end - there if mp4 else None
    return Row(method, there + missing, wrote, later, one, count, steps, used), frames


def compared(row: Row, frames: np.ndarray, reference: np.ndarray) -> Row:
    """The row with the distance of its frames from those of another method."""
    return replace(row, max_difference=float(np.abs(frames - reference).max()), psnr_db=psnr(frames, reference))


def measure_shortcuts(models: Models, steps: int, exact: np.ndarray) -> Iterator[Row]:
    """A row for each shortcut and for both."""
    limit, every = shortcuts.CHANGE, ", every skip taken"
    for label in ("guidance", "cache" + every, "all", "all" + every):
        name = label.removesuffix(every)
        fast = frozenset({name} & set(shortcuts.NAMES)) or frozenset(shortcuts.NAMES)
        shortcuts.CHANGE = limit if label == name else float("inf")
        yield compared(*measure(f"cookbook generate --fast {label}", models, ours(models, fast), steps), exact)
    shortcuts.CHANGE = limit


def decoding(method: str, models: Models) -> Row:
    """The VAE alone on latents of a clip."""
    shape = (1, models.vae.config.z_dim, *models.profile.clip.latent)
    device, latents = models.transformer.device, flow.initial_noise(shape, 0).to(models.transformer.device)
    autoencoder.decode(models.vae, latents)
    fresh_peak(device)
    start = time.perf_counter()
    autoencoder.decode(models.vae, latents).amax().item()
    return Row(method, time.perf_counter() - start, peak_gib=peak(device))


def main(
    profile: str = "2b",
    steps: int | None = None,
    peer_steps: int | None = None,
    clips: int = 2,
    size: tuple[int, int] | None = None,
    parts: bool = True,
    fast: bool = True,
    out: Path | None = None,
) -> list[Row]:
    """Measure all methods, one after the other, and print the table.

    Args:
        profile: name of the profile that sets networks, clip size and sampler.
        steps: of our clips; the profile's when empty. With fewer, times are scaled.
        peer_steps: of the clips of diffusers' pipeline, likewise.
        clips: timed clips of ours, exact, in a row.
        size: height and width of the clip; the profile's when empty.
        parts: measure the 7B text encoder and the VAE by themselves too.
        fast: measure each shortcut of `--fast`, and both.
        out: file that gets the table too, after each row.
    """
    chosen, device = profiles.get(profile), hardware.device()
    if size:
        chosen = replace(chosen, clip=replace(chosen.clip, height=size[0], width=size[1]))
    full = chosen.sampling.steps
    steps, peer_steps = steps or full, peer_steps or full
    if clips < 1 or min(steps, peer_steps) < 2 < full:
        raise UserError(f"clips is {clips}, steps {steps} and {peer_steps}; at least 1 clip and 2 steps are needed")
    clip, sampling, rows = chosen.clip, chosen.sampling, []
    facts = (
        f"{chosen.world.location}, random weights: {clip.height}x{clip.width}, {clip.frames} frames, "
        f"{full} steps (times of fewer are scaled), guidance {sampling.guidance:g}"
    )

    def add(row: Row) -> str:
        say(str(row))
        rows.append(row)
        return report(facts, rows, out)

    if parts:
        say("text encoder")
        add(embed(chosen, device))
        fresh_peak(device)
    say("random weights")
    built = build(chosen, device)
    row, peer = measure("diffusers' pipeline", built, theirs(built), peer_steps)
    add(row)
    if parts:
        add(decoding("VAE decoding, as diffusers loads it", built))
    autoencoder.channels_last(built.vae)  # as world.load_vae hands it out
    if parts:
        add(decoding("VAE decoding, channels last", built))
    row, exact = measure("cookbook generate", built, ours(built), steps, clips=clips, mp4=True)
    table = add(compared(row, unit(ours(built)(0, peer_steps)), peer))
    for row in measure_shortcuts(built, steps, exact) if fast else ():
        table = add(row)
    print(table, flush=True)
    return rows


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main)
