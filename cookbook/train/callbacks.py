"""What a long run shows while it trains, beside its log: its loss in a notebook, curves in TensorBoard, clips."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from torch import nn

from cookbook import hardware, runs, show, video
from cookbook.engine import Group
from cookbook.engine.loop import LOG, autocast
from cookbook.errors import UserError
from cookbook.models import autoencoder, world
from cookbook.profiles import Profile
from cookbook.train.dataset import Entry
from cookbook.train.objective import preview

SAMPLES = "samples"  # folder of the clips
SHOWN = 2  # clips of a sample, with seeds 0, 1, ...
REDRAWN = 5.0  # least seconds between two pictures of the loss

Watch = Callable[[int, dict], None]  # (finished steps, the log's row), in every process


def picture(folder: Path) -> Watch:
    """The log of `folder` as one picture below the cell, drawn anew as training goes on."""
    from IPython.display import display

    shown: Any = None
    due = 0.0

    def watch(step: int, row: dict) -> None:
        nonlocal shown, due
        if time.monotonic() < due:
            return
        figure = show.loss(runs.read_rows(folder / LOG)).figure
        if shown is None:
            shown = display(figure, display_id=True)
        else:
            shown.update(figure)
        plt.close(figure)
        due = time.monotonic() + REDRAWN

    return watch


def curves(folder: Path, group: Group) -> Watch:
    """Every number of the log in `folder/tensorboard`.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs it installed: pip install tensorboard") from None
    writer: list[Any] = []

    def watch(step: int, row: dict) -> None:
        if not group.main:
            return
        if not writer:  # a run that goes on takes back what was written of steps that were lost
            writer.append(SummaryWriter(folder / "tensorboard", purge_step=step))
        for name in ("loss", "lr", "grad_norm", "seconds"):
            writer[0].add_scalar(f"train/{name}", row[name], step)
        writer[0].flush()

    return watch


def samples(
    model: nn.Module, clips: list[Entry], profile: Profile, models: Path, folder: Path, every: int, group: Group
) -> Watch:
    """Every `every` steps, `folder/samples/step_<n>_seed<k>.mp4`: the first held-out clips from their first frame and
    caption, by the weights of that step, without guidance (which would need a second prompt and twice the time).
    """

    def watch(step: int, _: dict) -> None:
        if step % every:
            return
        for seed, clip in enumerate(clips[:SHOWN]):
            with autocast(model, group.device, hardware.compute_dtype(group.device)):
                latents = preview(model, clip, profile.sampling, seed, group.device)
            if group.main:
                decoder = world.load_vae(models, hardware.compute_dtype(group.device)).to(group.device)
                frames = autoencoder.to_frames(autoencoder.decode(decoder, latents))
                file = folder / SAMPLES / f"step_{step:09d}_seed{seed}.mp4"
                video.write_video(file, frames, profile.clip.fps)
        group.barrier()

    return watch
