"""Output of a long training beside its log: the loss as a picture in a notebook, and sample clips."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from torch import nn

from cookbook import hardware, runs, show, video
from cookbook.engine import Group
from cookbook.engine.loop import LOG, Callback, autocast
from cookbook.models import autoencoder, world
from cookbook.profiles import Profile
from cookbook.train.dataset import CachedClip
from cookbook.train.objective import preview

SAMPLES = "samples"  # folder of the clips
SHOWN = 2  # clips of a sample, with seeds 0, 1, ...
REDRAWN = 5.0  # least seconds between two pictures of the loss


def picture(folder: Path) -> Callback:
    """The log of `folder` as one picture below the cell, redrawn while training continues."""
    from IPython.display import display

    handle: Any = None
    due = 0.0

    def redraw(step: int, row: dict) -> None:
        nonlocal handle, due
        if time.monotonic() < due:
            return
        figure = show.loss(runs.read_rows(folder / LOG)).figure
        if handle is None:
            handle = display(figure, display_id=True)
        else:
            handle.update(figure)
        plt.close(figure)
        due = time.monotonic() + REDRAWN

    return redraw


def samples(
    model: nn.Module, clips: list[CachedClip], profile: Profile, models: Path, folder: Path, every: int, group: Group
) -> Callback:
    """Every `every` steps, `folder/samples/step_<n>_seed<k>.mp4`: the first held-out clips, generated from their first
    frame and caption by the weights of that step, without guidance (which needs a second prompt and twice the time).
    """

    def generate(step: int, row: dict) -> None:
        if step % every:
            return
        dtype = hardware.compute_dtype(group.device)
        for seed, clip in enumerate(clips[:SHOWN]):
            with autocast(model, group.device, dtype):
                latents = preview(model, clip, profile.sampling, seed, group.device)
            if group.main:
                vae = world.load_vae(models, dtype).to(group.device)
                frames = autoencoder.to_frames(autoencoder.decode(vae, latents))
                file = folder / SAMPLES / f"step_{step:09d}_seed{seed}.mp4"
                video.write_video(file, frames, profile.clip.fps)
        group.barrier()

    return generate
