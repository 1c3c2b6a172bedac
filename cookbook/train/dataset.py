"""The training clips: pairs of video and caption in the published layout, a split, and what is cached of each.

Layout: `videos/<stem>.mp4` with its caption in `metas/<stem>.txt`. The run's `cache/` keeps the latents of a few
windows of each clip, and each caption's embedding. A file's name is the hash of everything it is computed from.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cookbook import hardware, runs, show, storage, video
from cookbook.engine import Group
from cookbook.errors import UserError, last_line
from cookbook.layout import Clip, find_videos, read_text
from cookbook.models import autoencoder, text, world
from cookbook.profiles import Geometry, Profile, Recipe

HELD_OUT = 0.08  # share of the clips that is never trained on
WINDOWS = 4  # most windows cached of a clip that is longer than the profile's


@dataclass(frozen=True)
class CachedClip:
    """The files of a clip's latents [windows, C, T, H, W] and of its caption's embedding [tokens, features]."""

    latents: Path
    embedding: Path

    def window(self, share: float) -> Tensor:
        """Latents [C, T, H, W] of one window, the first for 0, the last for just under 1."""
        windows = load_file(self.latents)["latents"]
        return windows[int(share * len(windows))]

    def text(self) -> Tensor:
        return load_file(self.embedding)["text"]


def read_clips(folder: Path) -> list[Clip]:
    """All pairs of a training folder, sorted by name.

    Raises:
        UserError: fewer than two videos, two of the same name, or a caption is missing, empty or not UTF-8.
    """
    videos = find_videos(folder / "videos")
    if len(videos) < 2:
        raise UserError(f"{folder / 'videos'} holds {len(videos)} videos; training needs 2, one to hold out")
    return [Clip(path, read_text(folder / "metas" / f"{path.stem}.txt")) for path in videos]


def split(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on, and at least one held out; clips that differ in their seed only stay together if they can.

    Chosen by a hash of the name, so that adding a clip moves as few others as possible.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(re.sub(r"_seed\d+$", "", clip.video.stem), []).append(clip)
    if len(groups) < 2:  # nothing else can be held out, so the seeds are separated
        groups = {clip.video.stem: [clip] for clip in clips}
    wanted, held = max(1, round(HELD_OUT * len(clips))), []
    for name in sorted(groups, key=storage.digest_of)[:-1]:
        if len(held) >= wanted:
            break
        held += groups[name]
    return [clip for clip in clips if clip not in held], held


def cache(clips: list[Clip], profile: Profile, models: Path, folder: Path, group: Group) -> list[CachedClip]:
    """Encode what is missing in `folder`, the work divided among the processes; returns the files of each clip.

    Args:
        models: diffusers folder with vae, text_encoder and tokenizer; each is loaded only if something is missing.
    """
    parts = ("vae", "text_encoder", "tokenizer")
    prints = group.broadcast(group.on_rank_0(lambda: {part: runs.fingerprint(models / part) for part in parts}))
    cached = [_files(clip, profile, prints, folder) for clip in clips]
    storage.refuse_links(folder)
    group.barrier()  # no process writes before all have looked
    videos = {files.latents: clip.video for files, clip in zip(cached, clips, strict=True)}
    captions = {files.embedding: clip.prompt for files, clip in zip(cached, clips, strict=True)}
    videos, captions = ({file: x for file, x in work.items() if not _whole(file)} for work in (videos, captions))
    group.barrier()
    _encode_videos(list(videos.items())[group.rank :: group.size], profile, models, group)
    _encode_captions(list(captions.items())[group.rank :: group.size], profile, models, group)
    group.barrier()
    return cached


def _whole(file: Path) -> bool:
    """Whether a file of the cache is there and not cut off."""
    try:
        with safe_open(file, "pt"):
            return True
    except FileNotFoundError:
        return False
    except SafetensorError as error:
        print(f"train: {file} is damaged ({last_line(error)}); it is computed again")
        return False


def _files(clip: Clip, profile: Profile, prints: dict[str, str], folder: Path) -> CachedClip:
    """Where a clip is cached; `prints` are the fingerprints of the models that encode it."""
    recipe, geometry = profile.recipe, vars(profile.clip)
    latents = [storage.digest(clip.video), geometry, recipe.crop, recipe.resample, WINDOWS, prints["vae"]]
    embedding = [clip.prompt, profile.text_tokens, prints["text_encoder"], prints["tokenizer"]]
    names = [storage.digest_of(key).removeprefix("sha256:")[:24] for key in (latents, embedding)]
    return CachedClip(folder / f"latents-{names[0]}.safetensors", folder / f"text-{names[1]}.safetensors")


def windows(path: Path, clip: Geometry, recipe: Recipe) -> list[np.ndarray]:
    """Up to `WINDOWS` evenly spread windows of a video, each uint8 [frames, height, width, 3]; one if it just fits."""
    film = video.probe(path)
    if (spare := film.spare(clip, recipe.resample)) < 0:
        have, needed = f"{film.frames} frames at {film.fps:g} per second", film.frames - spare
        raise UserError(f"{path}: {have} are too few; it needs {needed}. Remove it")
    starts = np.linspace(0, 1, min(WINDOWS, spare + 1)) if spare else [0.0]
    return film.windows(clip, starts, recipe.resample, recipe.crop)


def _encode_videos(work: list[tuple[Path, Path]], profile: Profile, models: Path, group: Group) -> None:
    if work:
        vae = world.load_vae(models, hardware.compute_dtype(group.device)).to(group.device)
    for file, path in show.progress(work, "train: encoding clips") if work and group.main else work:
        clips = [autoencoder.to_tensor(window) for window in windows(path, profile.clip, profile.recipe)]
        _save(file, "latents", torch.cat([autoencoder.encode(vae, clip) for clip in clips]))


def _encode_captions(work: list[tuple[Path, str]], profile: Profile, models: Path, group: Group) -> None:
    if work:
        encoder, tokenizer = world.load_text_encoder(models, hardware.compute_dtype(group.device))
        encoder.to(group.device)
    for file, caption in show.progress(work, "train: encoding captions") if work and group.main else work:
        _save(file, "text", text.encode_prompts(encoder, tokenizer, [caption], profile.text_tokens)[0])


def _save(file: Path, name: str, tensor: Tensor) -> None:
    with storage.replacing(file) as temporary:
        save_file({name: tensor.cpu().contiguous()}, temporary)
