"""What training a nano model from random weights needs beside `cookbook/engine`: its recipe, and clips in memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cookbook import hardware, profiles, storage
from cookbook.engine import fit, processes
from cookbook.engine.loop import Batches, Loss, Trained
from cookbook.video import read_video


def recipe(
    name: str, steps: int, batch: int, learning_rate: float, warmup: int, weight_decay: float = 0.01
) -> profiles.Recipe:
    """A recipe from random weights: the rate rises over `warmup` steps, then falls to nothing."""
    return replace(
        profiles.nano().recipe,
        name=name, steps=steps, batch=batch, learning_rate=learning_rate, warmup=warmup, start_factor=0.01,
        peak_factor=1.0, end_factor=0.02, cycle=steps, weight_decay=weight_decay, betas=(0.9, 0.99), save_every=1000,
        keep=1,
    )  # fmt: skip


def fit_from_scratch(
    model: nn.Module, loss_fn: Loss, batch_at: Batches, settings: profiles.Recipe, out: Path
) -> Trained:
    """Train in place with the cookbook's loop, continuing from the newest checkpoint in `out`; ends with averages."""
    with processes() as group:
        dtype = hardware.compute_dtype(group.device)
        return fit(model.train(), loss_fn, batch_at, settings, out, 0, group, dtype)


def draws(number: int) -> torch.Generator:
    """The random numbers of a training step, on the device that trains."""
    return torch.Generator(hardware.device()).manual_seed(number)


def load_clips(folders: Sequence[Path]) -> tuple[np.ndarray, list[dict]]:
    """Clips of `python -m simulator make`: pixels uint8 [N, T, H, W, 3] and their manifest rows."""
    rows = [(folder, row) for folder in folders for row in storage.read_rows(folder / "manifest.jsonl")]
    clips = read_frames([folder / "videos" / f"{row['id']}.mp4" for folder, row in rows])
    return np.stack(clips), [row for _, row in rows]


def read_frames(paths: Sequence[Path]) -> list[np.ndarray]:
    """The frames uint8 [T, H, W, 3] of each video, decoded on all cores.

    By processes, because decoding holds the interpreter's lock for half of its time.
    """
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_frames, paths, chunksize=16))


def _frames(path: Path) -> np.ndarray:
    return read_video(path)[0]
