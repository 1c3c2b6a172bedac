"""Speed of one clip: `cookbook generate` beside diffusers' own pipeline, in one run, from the same noise.

    python benchmarks/generate.py                       one GPU, Cosmos Predict 2.5 2B, 432x768, 93 frames, 36 steps

Weights are random in the exact configurations (world model, Wan 2.1 VAE) and text embeddings are random and given, so
nothing is downloaded. A clip is: photo in, denoising with guidance, decoding, mp4 on disk. Not in it: the text encoder
(once per prompt) and the guardrail. Ours encodes the mp4 of a clip while the next is denoised, so its seconds are those
of a clip in a row of clips, and the first, which nothing overlaps, stands beside it.

The figures of this program HAVE NOT BEEN TAKEN YET on an H100: it has only run at tiny size on a CPU, for its test.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKLWan, Cosmos2_5_PredictBasePipeline, CosmosTransformer3DModel

from cookbook import flow, profiles, store
from cookbook.errors import UserError
from cookbook.generate.maker import TOGETHER
from cookbook.generate.sampler import make_clip
from cookbook.models import hub, sizes, world
from cookbook.models import vae as codec
from cookbook.profiles import Profile
from cookbook.video import write_video


@dataclass(frozen=True)
class Row:
    """One method. `difference` is the largest of any pixel (0..1) from diffusers' first clip, before encoding."""

    method: str
    first: float  # seconds of the first timed clip, alone
    seconds: float  # per clip, over all timed clips
    difference: float
    peak_gib: float | None  # of the allocator; None on a CPU


class NoGuardrail:
    """Stands where the pipeline insists on NVIDIA's guardrail: random weights make no pictures that could need one."""

    def to(self, *_):
        return self

    def check_text_safety(self, _):
        return True


@dataclass(frozen=True)
class Parts:
    """What both methods share."""

    profile: Profile
    transformer: CosmosTransformer3DModel
    vae: AutoencoderKLWan
    photo: np.ndarray  # [H, W, 3]
    text: torch.Tensor  # [1, L, D]
    negative: torch.Tensor


def build(profile: Profile, device: torch.device) -> Parts:
    """Random weights in the profile's configurations, in the dtype that the stage computes in."""
    dtype, settings = world.compute_dtype(device), sizes.config(profile.world)
    with device:
        torch.manual_seed(0)
        transformer = CosmosTransformer3DModel.from_config(settings)
        if profile.world.ships:
            vae = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(hub.locate(profile.world) / "vae"))
        else:
            vae = AutoencoderKLWan()  # diffusers' defaults are Wan 2.1
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.02)
    random = torch.Generator().manual_seed(1)
    text = torch.randn(2, profile.text_tokens, settings["crossattn_proj_in_channels"], generator=random)
    clip = profile.clip
    photo = np.random.default_rng(0).integers(0, 255, (clip.height, clip.width, 3), np.uint8)
    text = text.to(device, dtype)
    vae = codec.channels_last(vae.to(dtype)).eval().requires_grad_(False)  # as world.load_vae hands it out
    return Parts(profile, transformer.to(dtype).eval(), vae, photo, text[:1], text[1:])


def theirs(parts: Parts) -> Callable[[int], np.ndarray]:
    """Frames [T, H, W, 3] in 0..1 of a seed by diffusers' pipeline, as it is."""
    profile, clip = parts.profile, parts.profile.clip
    pipeline = Cosmos2_5_PredictBasePipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=parts.transformer,
        vae=parts.vae,
        scheduler=flow.scheduler(profile.sampling.shift),
        safety_checker=NoGuardrail(),
    )
    pipeline.set_progress_bar_config(disable=True)
    shape = (1, parts.vae.config.z_dim, *clip.latent)

    def make(seed: int) -> np.ndarray:
        return pipeline(
            image=parts.photo,
            prompt_embeds=parts.text,
            negative_prompt_embeds=parts.negative,
            latents=flow.initial_noise(shape, seed).to(parts.transformer.device),
            height=clip.height,
            width=clip.width,
            num_frames=clip.frames,
            num_inference_steps=profile.sampling.steps,
            guidance_scale=profile.sampling.guidance,
            conditional_frame_timestep=-1,
            output_type="np",
        ).frames[0]

    return make


def ours(parts: Parts) -> Callable[[int], np.ndarray]:
    """The same by the function that `cookbook generate` calls."""
    sampling = parts.profile.sampling

    def make(seed: int) -> np.ndarray:
        given = codec.to_tensor(parts.photo[None]).to(parts.transformer.device)
        settings = (sampling.steps, sampling.guidance, sampling.shift, seed)
        size = parts.profile.clip.latent
        pixels = make_clip(parts.transformer, parts.vae, given, parts.text, parts.negative, size, *settings)
        return pixels[0].permute(1, 2, 3, 0).add(1).div(2).cpu().numpy()

    return make


def measure(method: str, parts: Parts, make: Callable, together: int, clips: int, truth: np.ndarray | None) -> Row:
    """Time the method: one clip to warm up, then `clips` of other seeds, mp4 included, `together` in hand."""
    gpu, turn = parts.transformer.device.type == "cuda", threading.Lock()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    warm = make(0)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(together) as threads:

        def clip(seed: int) -> float:
            with turn:
                frames = (make(seed) * 255).round().astype(np.uint8)
            write_video(Path(folder) / f"{seed}.mp4", frames, parts.profile.clip.fps)
            return time.perf_counter()

        start = time.perf_counter()
        ends = list(threads.map(clip, range(1, clips + 1)))
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
    gap = 0.0 if truth is None else float(np.abs(warm - truth).max())
    return Row(method, ends[0] - start, (max(ends) - start) / clips, gap, peak)


def table(profile: Profile, rows: list[Row], clips: int) -> str:
    """The rows in Markdown, under a line that says what was measured on what."""
    made, clip, sampling = store.environment(), profile.clip, profile.sampling
    lines = [
        f"{profile.world.location}, random weights: {clip.height}x{clip.width}, {clip.frames} frames, "
        f"{sampling.steps} steps, guidance {sampling.guidance:g}, {clips} clips on {made['device']}, "
        f"torch {made['versions']['torch']}, diffusers {made['versions']['diffusers']}",
        "",
        "| method | first clip, s | s per clip | max difference | peak GiB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = (row.first, row.seconds, row.difference, row.peak_gib)
        lines.append(f"| {row.method} | {' | '.join('-' if n is None else f'{n:.4g}' for n in numbers)} |")
    return "\n".join(lines)


def main(profile: str = "2b", clips: int = 3) -> list[Row]:
    """Measure both methods and print the table.

    Args:
        profile: whose networks, clip size and sampler settings.
        clips: timed clips of each method, after one that is not timed.
    """
    chosen = profiles.get(profile)
    if clips < 1:
        raise UserError(f"clips is {clips}; it must be at least 1")
    parts = build(chosen, world.device())
    plain = theirs(parts)
    truth = plain(0)
    rows = [
        measure("diffusers' pipeline", parts, plain, 1, clips, truth),
        measure("cookbook generate", parts, ours(parts), TOGETHER, clips, truth),
    ]
    print(table(chosen, rows, clips))
    return rows


if __name__ == "__main__":
    tyro.cli(main)
