"""The frames of episodes at a network's size, as filmed and after the world model's autoencoder, computed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from torch import nn

from cookbook import hardware, runs, show, storage, video
from cookbook.actions.episodes import Episode
from cookbook.actions.model import ActionSpec, shrink
from cookbook.models import autoencoder, world
from cookbook.profiles import Profile


def read_both(
    episodes: Sequence[Episode], encoded: Sequence[bool], spec: ActionSpec, profile: Profile, models: Path, folder: Path
) -> list[np.ndarray]:
    """The frames of each episode at the network's size, uint8 [1 or 2, T, 3, H, W].

    First as filmed, then, for an `encoded` episode, after the autoencoder. Computed once, and kept in `folder`.
    """
    mark, device, lock = runs.fingerprint(models / "vae"), hardware.device(), Lock()
    precision = hardware.convolution_dtype(device)
    vae = lru_cache(1)(lambda: world.load_vae(models, precision).to(device))  # only where frames are missing

    def both(frames: np.ndarray) -> list[np.ndarray]:
        with lock:
            return [frames, round_trip(vae(), frames, profile.clip.frames)]

    def read(episode: Episode, twice: bool) -> np.ndarray:
        return read_pictures(episode, spec.fps, spec.size, folder, *((mark, both) if twice else ()))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(read, episodes, encoded)
        return list(show.progress(found, "actions-train: frames", len(episodes)))


def read_pictures(
    episode: Episode,
    fps: float,
    size: tuple[int, int],
    folder: Path,
    mark: str | bool = False,
    versions: Callable[[np.ndarray], list[np.ndarray]] = lambda frames: [frames],
) -> np.ndarray:
    """The frames of an episode at `size`, computed once and kept in `folder`, uint8 [V, T, 3, H, W].

    Args:
        versions: turns the frames, uint8 [T, H, W, 3], into V versions of them; `mark` names that function.
    """
    key = [storage.digest(episode.video), episode.start, len(episode.joints), fps, size, mark]
    file = folder / f"{storage.digest_of(key)[7:31]}.npy"
    if not file.exists():
        frames = video.read_span(episode.video, episode.start, len(episode.joints), fps)
        with storage.replacing(file) as temporary:
            np.save(temporary, np.stack([shrink(version, size) for version in versions(frames)]))
    return np.load(file)


def round_trip(vae: nn.Module, frames: np.ndarray, most: int) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] through the autoencoder and back, `most` frames at a time."""
    height, width = (max(8, round(edge / 8) * 8) for edge in frames.shape[1:3])
    parts = []
    for first in range(0, len(frames), most):
        part = frames[first : first + most]
        padded = np.concatenate([part, np.repeat(part[-1:], -(len(part) - 1) % 4, 0)])  # 1 + 4n frames
        tensor = autoencoder.to_tensor(video.fit(padded, height, width, crop=False))
        parts.append(autoencoder.to_frames(autoencoder.decode(vae, autoencoder.encode(vae, tensor)))[: len(part)])
    return np.concatenate(parts)
