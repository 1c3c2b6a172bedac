"""Render labelled clips: `DIR/videos/<id>.mp4`, `DIR/ground_truth/<id>.npz` and a row per clip in `DIR/manifest.jsonl`.

A scene is a function of its number alone (seed * 1,000,000 + index), so the number of workers changes nothing. Every
clip of a scene starts with the same frame and shows another instruction. Every file is written under a temporary name
and renamed. A scene is complete when its `rows/<id>.json` exists, and is then skipped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional, Suppress

from cookbook import storage
from cookbook.errors import UserError
from cookbook.show import contact_sheet
from cookbook.video import write_video
from simulator.faults import INSTRUCTION, KINDS, PHYSICS, possible
from simulator.scene import TASKS, Task
from simulator.studio import Options, RenderedClip, Renderer, render, simulate

CRF = 26


def choose_kinds(faults: str, number: int) -> tuple[str, ...]:
    """`none`, `all`, `balanced` (one physics and one instruction kind in turn), a number of random kinds, or names."""
    if faults == "none":
        return ()
    if faults == "all":
        return KINDS
    if faults == "balanced":
        return tuple(PHYSICS)[number % len(PHYSICS)], INSTRUCTION[number % len(INSTRUCTION)]
    if faults.isdigit():
        rng = np.random.default_rng([number, 7])
        return tuple(map(str, rng.choice(KINDS, min(int(faults), len(KINDS)), replace=False)))
    kinds = tuple(name.strip() for name in faults.split(","))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        choices = f"none, all, balanced, a number, or some of {', '.join(KINDS)}"
        raise UserError(f"unknown fault {unknown[0]!r}: use {choices}")
    return kinds


def write_clip(out: Path, clip: RenderedClip) -> dict:
    """Write video and ground truth; returns the manifest row with the video's hash."""
    name = clip.row["id"]
    write_video(out / f"videos/{name}.mp4", clip.frames, clip.row["fps"], crf=CRF)
    with storage.replacing(out / f"ground_truth/{name}.npz") as temporary:
        np.savez_compressed(temporary, **clip.ground_truth)
    return clip.row | {"sha256": hashlib.sha256((out / f"videos/{name}.mp4").read_bytes()).hexdigest()}


def make_one(number: int, out: Path, options: Options, faults: str) -> None:
    """Render the clips of one scene and their faults, unless complete."""
    name = f"{options.task}_{number:09d}"
    kinds = tuple(kind for kind in dict.fromkeys(choose_kinds(faults, number)) if possible(kind, options.task))
    settings = {"options": asdict(options) | {"size": list(options.size)}, "kinds": list(kinds)}
    file = out / f"rows/{name}.json"
    if file.exists() and json.loads(file.read_text())["settings"] == settings:
        return
    rows = [write_clip(out, clip) for clip in render(simulate(number, options), name, kinds, options)]
    storage.write_json(file, {"settings": settings, "rows": rows})


def make(
    out: Path,
    scenes: int,
    task: Task = "place",
    instructions: int = 1,
    faults: str = "none",
    size: Suppress[tuple[int, int]] = (96, 160),
    seed: int = 0,
    workers: int = 2,
    look: Renderer = "fast",
) -> Path:
    """Render successful clips of a task, with injected faults, and return the manifest's path.

    Args:
        instructions: clips of a scene, each of another instruction; the second and next few differ from the first in
            one of hand, object and place.
        faults: none, all, balanced, a number of random kinds per clip, or kinds joined by commas.
        size: (height, width) in pixels.
        workers: processes that render.
        look: renderer; `filament` needs Vulkan.

    Raises:
        UserError: unknown task or fault, or no renderer on this machine.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    choose_kinds(faults, 0)
    out = Path(out)
    for folder in ("videos", "ground_truth", "rows"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    numbers = [seed * 1_000_000 + index for index in range(scenes)]
    options = Options(task, instructions, tuple(size), look)
    work = partial(make_one, out=out, options=options, faults=faults)
    # one software renderer per process: more threads only compete for the same cores
    os.environ.setdefault("LP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if workers <= 1:
        for number in tqdm(numbers, desc=task, unit="scene"):
            work(number)
    else:
        run_parallel(work, numbers, min(workers, scenes), task)
    files = [out / f"rows/{task}_{number:09d}.json" for number in numbers]
    rows = [row for file in files for row in storage.read_json(file)["rows"]]
    storage.write_rows(out / "manifest.jsonl", sorted(rows, key=itemgetter("id")))
    print(f"{out}: {scenes} scenes, {len(rows)} clips")
    return out / "manifest.jsonl"


def run_parallel(work: Callable[[int], None], numbers: list[int], workers: int, title: str) -> None:
    """Call `work` for every number in spawned processes, since OpenGL does not survive a fork.

    A worker that dies ends the run instead of blocking it.
    """
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(work, number) for number in numbers]
        for future in tqdm(as_completed(futures), total=len(futures), desc=title, unit="scene"):
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def show(
    seed: Positional[int],
    out: Path = Path("clip.png"),
    task: Task = "place",
    instructions: int = 1,
    faults: str = "all",
    look: Renderer = "fast",
) -> Path:
    """Render the contact sheet of one scene's clips and their injected faults, and return its path."""
    options = Options(task, instructions, look=look)
    kinds = tuple(kind for kind in choose_kinds(faults, seed) if possible(kind, task))
    clips = list(render(simulate(seed, options), str(seed), kinds, options))
    titles = [f"{clip.row['label']}: {clip.row['prompt']}" for clip in clips]
    contact_sheet([clip.frames for clip in clips], titles, width=options.size[1]).save(out)
    return Path(out)
