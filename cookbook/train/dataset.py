"""The training clips: pairs of video and caption in the published layout, a split, and what is cached of each.

Layout: `videos/<stem>.mp4` with its caption in `metas/<stem>.txt`. Of each clip the latents of a few windows are kept,
of each caption its embedding; both lie in the run's `cache/` under the hash of everything they are made from, so they
are made once. `online` makes the same anew whenever they are asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor

from cookbook import hardware, runs, show, video
from cookbook.engine import Group
from cookbook.errors import UserError
from cookbook.layout import Clip, read_text
from cookbook.models import autoencoder, text, world
from cookbook.profiles import Geometry, Profile, Recipe
from cookbook.train.recipes import WINDOWS

HELD_OUT = 0.08  # share of the clips that is never trained on


@dataclass(frozen=True)
class Cached:
    """Where a clip's latents [windows, C, T, H, W] and its caption's embedding [tokens, features] lie."""

    latents: Path
    embedding: Path

    def window(self, share: float) -> Tensor:
        """Latents [C, T, H, W] of one window, the first for 0, the last for just under 1."""
        windows = load_file(self.latents)["latents"]
        return windows[int(share * len(windows))]

    def text(self) -> Tensor:
        return load_file(self.embedding)["text"]


@dataclass(frozen=True)
class Online:
    """A clip whose latents and embedding are made when asked for, by encoders that stay in memory. As `Cached`."""

    clip: Clip
    profile: Profile
    autoencoder: AutoencoderKLWan
    encoder: world.TextEncoder

    def window(self, share: float) -> Tensor:
        parts = windows(self.clip.video, self.profile.clip, self.profile.recipe)
        return autoencoder.encode(self.vae, autoencoder.to_tensor(parts[int(share * len(parts))]))[0].cpu()

    def text(self) -> Tensor:
        models, prompt = self.encoder, self.clip.prompt
        return text.encode_prompts(models.model, models.tokenizer, [prompt], self.profile.text_tokens)[0].cpu()


Entry = Cached | Online


def read_clips(folder: Path) -> list[Clip]:
    """All pairs of a training folder, sorted by name.

    Raises:
        UserError: no videos, or a caption is missing, empty or not UTF-8.
    """
    videos = sorted((folder / "videos").glob("*.mp4"))
    if len(videos) < 2:
        raise UserError(f"{folder / 'videos'} holds {len(videos)} mp4 files; training needs 2, one to hold out")
    return [Clip(path, read_text(folder / "metas" / f"{path.stem}.txt")) for path in videos]


def split(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on, and at least one held out; clips that differ in their seed only stay together if they can.

    Chosen by a hash of the name, so that adding a clip leaves the others where they are as far as possible.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(re.sub(r"_seed\d+$", "", clip.video.stem), []).append(clip)
    if len(groups) < 2:  # nothing else can be held out, so the seeds part after all
        groups = {clip.video.stem: [clip] for clip in clips}
    wanted, held = max(1, round(HELD_OUT * len(clips))), []
    for name in sorted(groups, key=runs.digest_of)[:-1]:
        if len(held) >= wanted:
            break
        held += groups[name]
    return [clip for clip in clips if clip not in held], held


def cache(clips: list[Clip], profile: Profile, models: Path, folder: Path, group: Group) -> list[Cached]:
    """Encode what is not yet in `folder`, the work split over the processes; returns where everything lies.

    Args:
        models: diffusers folder with vae, text_encoder and tokenizer; each is loaded only if something is missing.
    """
    makers = {part: group.share(group.from_main(lambda p=part: runs.fingerprint(models / p))) for part in _PARTS}
    entries = [_place(clip, profile, makers, folder) for clip in clips]
    group.barrier()  # nobody writes before all have looked
    new = {entry.latents: clip for entry, clip in zip(entries, clips, strict=True) if not entry.latents.exists()}
    captions = {entry.embedding: clip.prompt for entry, clip in zip(entries, clips, strict=True)}
    captions = {path: caption for path, caption in captions.items() if not path.exists()}
    group.barrier()
    _encode_videos(list(new.items())[group.rank :: group.size], profile, models, group)
    _encode_captions(list(captions.items())[group.rank :: group.size], profile, models, group)
    group.barrier()
    return entries


def online(clips: list[Clip], profile: Profile, models: Path, group: Group) -> list[Online]:
    """Nothing is kept on disk; both encoders of the folder `models` are loaded in each process."""
    dtype = hardware.compute_dtype(group.device)
    codec = world.load_vae(models, dtype).to(group.device)
    encoder = world.load_text_encoder(models, dtype)
    encoder.model.to(group.device)
    return [Online(clip, profile, codec, encoder) for clip in clips]


_PARTS = ("vae", "text_encoder", "tokenizer")


def _place(clip: Clip, profile: Profile, makers: dict[str, str], folder: Path) -> Cached:
    recipe, geometry = profile.recipe, vars(profile.clip)
    seen = [runs.digest(clip.video), geometry, recipe.crop, recipe.resample, WINDOWS, makers["vae"]]
    read = [clip.prompt, profile.text_tokens, makers["text_encoder"], makers["tokenizer"]]
    names = [runs.digest_of(key).removeprefix("sha256:")[:24] for key in (seen, read)]
    return Cached(folder / f"latents-{names[0]}.safetensors", folder / f"text-{names[1]}.safetensors")


def windows(path: Path, clip: Geometry, recipe: Recipe) -> list[np.ndarray]:
    """Up to `WINDOWS` evenly spread windows of a video, each uint8 [frames, height, width, 3]; one if it just fits."""
    frames, fps = video.read_video(path)
    spare = len(frames) - video.needed_frames(fps, clip, recipe.resample)
    if spare < 0:
        needed = len(frames) - spare
        raise UserError(
            f"{path}: {len(frames)} frames at {fps:g} per second are too few, {needed} are needed; remove it"
        )
    starts = np.linspace(0, 1, min(WINDOWS, spare + 1)) if spare else [0.0]
    return [video.window(frames, fps, clip, start, recipe.resample, recipe.crop) for start in starts]


def _encode_videos(work: list[tuple[Path, Clip]], profile: Profile, models: Path, group: Group) -> None:
    if not work:
        return
    encoder = world.load_vae(models, hardware.compute_dtype(group.device)).to(group.device)
    for path, clip in show.progress(work, "train: encoding clips") if group.main else work:
        parts = windows(clip.video, profile.clip, profile.recipe)
        latents = torch.cat([autoencoder.encode(encoder, autoencoder.to_tensor(part)) for part in parts])
        with runs.replacing(path) as temporary:
            save_file({"latents": latents.cpu().contiguous()}, temporary)


def _encode_captions(work: list[tuple[Path, str]], profile: Profile, models: Path, group: Group) -> None:
    if not work:
        return
    encoder = world.load_text_encoder(models, hardware.compute_dtype(group.device))
    encoder.model.to(group.device)
    for path, caption in show.progress(work, "train: encoding captions") if group.main else work:
        embedding = text.encode_prompts(encoder.model, encoder.tokenizer, [caption], profile.text_tokens)[0]
        with runs.replacing(path) as temporary:
            save_file({"text": embedding.cpu().contiguous()}, temporary)
