"""A small resumable training loop for the nano models: it stops after a time budget and resumes from saved state.

The stages' own engine (`cookbook/engine`) post-trains a finished world model; this one trains the shipped models.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cookbook import runs
from cookbook.video import read_video

# loss_of(step, generator) -> scalar loss; everything random in it must come from the generator, which lives on the
# model's device
LossOf = Callable[[int, torch.Generator], torch.Tensor]

SAVE_SECONDS = 120
LOG_EVERY = 100  # steps
FLOOR = 0.02  # of the learning rate
CLIP_NORM = 1.0


def cosine(step: int, steps: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `FLOOR`."""
    if step < warmup:
        return (step + 1) / warmup
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on a GPU; float32 on a CPU, where training in bf16 is faster on few processors only."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def train_resumable(
    model: nn.Module,
    loss_of: LossOf,
    out: Path,
    steps: int,
    minutes: float,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 0.01,
    ema_decay: float = 0.999,
    report: Callable[[nn.Module], dict] | None = None,
    report_every: int | None = None,
) -> nn.Module:
    """Train `model` in place until `steps` or the minutes run out; call again with the same `out` to resume.

    Args:
        out: folder of `state.pt` (weights, average, optimizer, step) and `log.jsonl`.
        report: called with the averaged model when training stops; its figures go into the log.
        report_every: steps between further reports, for a curve.

    Returns:
        The exponential moving average of the weights, as a model.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    average = copy.deepcopy(model).requires_grad_(False)
    fused = device.type == "cuda"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=fused)
    state_file, start = out / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        print(f"resuming at step {start} of {steps}", flush=True)

    def log_report(step: int) -> None:
        figures = report(average.eval())
        runs.append_row(out / "log.jsonl", {"step": step, **figures})
        print(f"after step {step}: {figures}", flush=True)

    def save(step: int) -> None:
        with runs.replacing(state_file) as temporary:
            weights = {"model": model.state_dict(), "average": average.state_dict()}
            torch.save(weights | {"optimizer": optimizer.state_dict(), "step": step}, temporary)

    clock, saved, losses, step = time.monotonic(), time.monotonic(), [], start
    model.train()
    for step in range(start, steps):
        if time.monotonic() - clock > minutes * 60:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * cosine(step, steps, warmup)
        with autocast(device):
            loss = loss_of(step, torch.Generator(device).manual_seed(step))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(loss.detach())  # read only when logged: each reading makes the CPU wait for the GPU
        if (step + 1) % LOG_EVERY == 0:
            mean = torch.stack(losses).mean().item()
            if not math.isfinite(mean):
                raise FloatingPointError(f"step {step + 1}: the loss is {mean}; lower the learning rate")
            seconds = (time.monotonic() - clock) / (step + 1 - start)
            row = {"step": step + 1, "loss": mean, "grad_norm": norm.item(), "seconds_per_step": seconds}
            runs.append_row(out / "log.jsonl", row)
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {seconds:.3f} s/step", flush=True)
            losses.clear()
        if report_every and (step + 1) % report_every == 0 and step + 1 < steps:
            log_report(step + 1)
        if time.monotonic() - saved > SAVE_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    else:
        step = steps
    save(step)
    if report is not None:
        log_report(step)
    return average.eval()


def load_clips(folders: Sequence[Path]) -> tuple[np.ndarray, list[dict]]:
    """Clips of `python -m simulator make`: pixels uint8 [N, T, H, W, 3] and their manifest rows."""
    rows = [(folder, row) for folder in folders for row in runs.read_rows(folder / "manifest.jsonl")]
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
