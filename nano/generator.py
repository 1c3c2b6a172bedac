"""Batched generation from the first frames of held-out clips, with the same noise for every model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import CosmosTransformer3DModel

from cookbook import flow, hardware, profiles, storage, video
from cookbook.engine.loop import autocast
from cookbook.errors import UserError
from cookbook.generate.shortcuts import velocity_field
from cookbook.models import autoencoder, world
from cookbook.models.denoiser import Denoiser
from cookbook.models.text import encode_prompts

NANO = profiles.nano()


@dataclass(frozen=True)
class Setting:
    """How clips are sampled. `negative`: what guidance moves away from, the empty prompt's embedding (what the
    generate stage does) or zeros (the embedding of a dropped caption in training)."""

    steps: int = NANO.sampling.steps
    guidance: float = NANO.sampling.guidance
    shift: float = NANO.sampling.shift
    negative: str = "empty prompt"


CENTRE = Setting()


@dataclass(frozen=True)
class SimulatedClip:
    """One clip of a folder of `simulator.make`: its first frame and prompt condition the models."""

    folder: Path
    row: dict

    def frames(self) -> np.ndarray:
        """The simulator's own clip, uint8 [T, H, W, 3], at the size of the nano profile."""
        film = video.probe(self.folder / "videos" / f"{self.row['id']}.mp4")
        return film.windows(NANO.clip, [0.0], resample=True, crop=True)[0]

    def ground_truth(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "ground_truth" / f"{self.row['id']}.npz") as file:
            return {name: file[name] for name in file.files}


def read_scenes(folders: tuple[Path, ...], limit: int) -> list[SimulatedClip]:
    """The real clips of the first `limit` scenes of each folder."""
    scenes = []
    for folder in folders:
        rows = [row for row in storage.read_rows(folder / "manifest.jsonl") if row["label"] == "real"]
        if not rows:
            raise UserError(f"{folder / 'manifest.jsonl'} lists no clips; render some: `python -m simulator make`")
        first = list(dict.fromkeys(row["scene"] for row in rows))[:limit]
        scenes += [SimulatedClip(folder, row) for row in rows if row["scene"] in first]
    return scenes


def captioned(prompt: str) -> str:
    """The prompt with the prefix of training captions, as the generate stage completes it."""
    return NANO.prompt_prefix + prompt.removeprefix(NANO.prompt_prefix)


def velocity(
    transformer: CosmosTransformer3DModel, text: torch.Tensor, negative: torch.Tensor, mask: torch.Tensor, scale: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The generate stage's guided velocity for many clips with prompts of their own, text [B, L, D].

    bf16 on a GPU is autocast around the network alone, so that the solver stays in float32.
    """
    device = text.device
    with autocast(transformer, device, hardware.compute_dtype(device)):
        field = velocity_field(Denoiser(transformer, [text, negative] if scale else [text], mask), scale)

    def field_at(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with autocast(transformer, device, hardware.compute_dtype(device)):
            return field(latents, sigma)

    return field_at


class BatchGenerator:
    """Generates with any model; holds what all share: VAE, prompt embeddings [N, L, D], first latents [N, C, 1, h, w].

    The VAE computes in float32 on a GPU too, as on the two cores where readers run it.
    """

    @torch.no_grad()
    def __init__(self, base: Path, scenes: list[SimulatedClip], batch: int | None = None):
        self.scenes, self.device = scenes, hardware.device()
        self.batch = batch or (48 if self.device.type == "cuda" else 4)
        encoder, tokenizer = world.load_text_encoder(base)
        encoder.to(self.device)
        prompts = [captioned(scene.row["prompt"]) for scene in scenes] + [NANO.sampling.negative_prompt]
        parts = [prompts[start : start + self.batch] for start in range(0, len(prompts), self.batch)]
        texts = [encode_prompts(encoder, tokenizer, part, NANO.text_tokens) for part in parts]
        *self.text, self.empty = torch.cat(texts)
        self.vae = world.load_vae(base).to(self.device)
        self.clips = [scene.frames() for scene in scenes]
        self.first = self.encode([clip[:1] for clip in self.clips])

    def encode(self, clips: list[np.ndarray]) -> torch.Tensor:
        """Clips of one length, each uint8 [T, H, W, 3] -> standardised latents [N, C, t, h, w] on the device."""
        parts = [clips[start : start + self.batch] for start in range(0, len(clips), self.batch)]
        batches = (torch.cat([autoencoder.to_tensor(clip) for clip in part]) for part in parts)
        return torch.cat([autoencoder.encode(self.vae, batch) for batch in batches])

    def decode(self, latents: torch.Tensor) -> list[np.ndarray]:
        return [autoencoder.to_frames(clip[None]) for clip in autoencoder.decode(self.vae, latents)]

    @torch.no_grad()
    def generate(
        self, transformer: CosmosTransformer3DModel, setting: Setting, seeds: range, silent: bool = False
    ) -> Iterator[tuple[int, int, np.ndarray]]:
        """Every scene times every seed: (scene's index, seed, frames); `silent`: with the empty prompt instead."""
        shape = (1, self.vae.config.z_dim, *NANO.clip.latent)
        noises = {seed: flow.initial_noise(shape, seed).to(self.device) for seed in seeds}
        jobs = [(index, seed) for index in range(len(self.scenes)) for seed in seeds]
        unconditional = self.empty if setting.negative == "empty prompt" else torch.zeros_like(self.empty)
        for start in range(0, len(jobs), self.batch):
            part = jobs[start : start + self.batch]
            noise = torch.cat([noises[seed] for _, seed in part])
            condition = torch.zeros_like(noise)
            condition[:, :, :1] = torch.stack([self.first[index] for index, _ in part])
            mask = flow.condition_mask(torch.ones(len(part), dtype=torch.long), noise)
            text = torch.stack([self.empty if silent else self.text[index] for index, _ in part])
            field = velocity(transformer, text, unconditional.expand_as(text), mask, setting.guidance)
            latents = flow.sample(field, noise, condition, mask, setting.steps, setting.shift)
            yield from ((*job, clip) for job, clip in zip(part, self.decode(latents), strict=True))

    def ceiling(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """VAE reconstructions of the simulator's clips, in the form of `generate`."""
        for start in range(0, len(self.clips), self.batch):
            clips = self.decode(self.encode(self.clips[start : start + self.batch]))
            yield from ((start + index, 0, clip) for index, clip in enumerate(clips))


def load_model(folder: Path, device: torch.device) -> CosmosTransformer3DModel:
    return world.load_transformer(folder).to(device).eval()


@dataclass(kw_only=True)
class Flags:
    """Of every program that generates videos from the first frames of the simulator's clips and judges them."""

    data: tuple[Path, ...]
    """Folders of `simulator.make`."""
    out: Path
    scenes: int
    """Of each folder, at most, with all their instructions."""
    seeds: int
    """Generated videos of each clip."""
    batch: int | None = None
    """Clips generated at once; None for 48 on a GPU and 4 on a CPU."""
    workers: int = min(16, len(os.sched_getaffinity(0)))
    """Processes that judge."""

    def batch_generator(self, base: Path) -> BatchGenerator:
        return BatchGenerator(base, read_scenes(self.data, self.scenes), self.batch)
