"""Make labelled clips: `DIR/videos/<id>.mp4`, `DIR/truth/<id>.npz` and one row per clip in `DIR/manifest.jsonl`.

A clip is a function of its number alone (seed * 1,000,000 + index), so the number of workers changes nothing. A seed
whose scripted policy fails is tried again with the next attempt. Every file is written under a temporary name and
renamed; a clip counts as whole when its `rows/<id>.json` exists, and is then skipped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from cookbook import runs
from cookbook.show import contact_sheet
from cookbook.video import write_video
from simulator import faults
from simulator.scene import TASKS, Pairs, Task
from simulator.studio import Clip, Options, Renderer, Studio, simulate

CRF = 26


def choose_kinds(twins: str, number: int) -> tuple[str, ...]:
    """`none`, `all`, `balanced` (one physics and one instruction kind in turn), a number of random kinds, or names."""
    if twins == "none":
        return ()
    if twins == "all":
        return faults.KINDS
    if twins == "balanced":
        return tuple(faults.PHYSICS)[number % len(faults.PHYSICS)], faults.INSTRUCTION[number % len(faults.INSTRUCTION)]
    if twins.isdigit():
        rng = np.random.default_rng([number, 7])
        return tuple(map(str, rng.choice(faults.KINDS, min(int(twins), len(faults.KINDS)), replace=False)))
    kinds = tuple(name.strip() for name in twins.split(","))
    known = (*faults.KINDS, *faults.FAILURES)
    for kind in kinds:
        if kind not in known:
            raise ValueError(
                f"unknown twin kind {kind!r}: use none, all, balanced, a number, or some of {', '.join(known)}"
            )
    return kinds


def write_clip(out: Path, clip: Clip) -> dict:
    """Write video and truth; returns the manifest row with the video's hash."""
    name = clip.row["id"]
    write_video(out / f"videos/{name}.mp4", clip.frames, clip.row["fps"], crf=CRF)
    with runs.replacing(out / f"truth/{name}.npz") as temporary:
        np.savez_compressed(temporary, **clip.truth)
    return clip.row | {"sha256": hashlib.sha256((out / f"videos/{name}.mp4").read_bytes()).hexdigest()}


def make_one(number: int, out: Path, options: Options, twins: str, failures: bool) -> None:
    """Make one clip and its twins, unless whole."""
    name = f"{options.task}_{number:09d}"
    chosen = choose_kinds(twins, number) + (faults.FAILURES if failures else ())
    kinds = tuple(kind for kind in dict.fromkeys(chosen) if faults.possible(kind, options.task))
    wanted = {"options": asdict(options) | {"size": list(options.size)}, "kinds": list(kinds)}
    done = out / f"rows/{name}.json"
    if done.exists() and json.loads(done.read_text())["made"] == wanted:
        return
    episode = simulate(number, options)
    rows = [write_clip(out, clip) for clip in Studio(episode, name, options).clips(kinds)]
    runs.write_json(done, {"made": wanted, "rows": rows})


def write_manifest(out: Path, names: list[str]) -> int:
    rows = [row for name in names for row in json.loads((out / f"rows/{name}.json").read_text())["rows"]]
    rows.sort(key=lambda row: row["id"])
    runs.write_rows(out / "manifest.jsonl", rows)
    return len(rows)


def make(
    out: Path,
    clips: int,
    task: Task = "place",
    twins: str = "none",
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    every: int = 2,
    workers: int = 2,
    randomize: bool = False,
    pairs: Pairs = "all",
    failures: bool = False,
    look: Renderer = "fast",
    clean: bool = False,
) -> Path:
    """Make `clips` successful clips of a task, with twins, and return the manifest's path.

    twins: none, all, balanced, a number of random kinds per clip, or kinds joined by commas. size: (height, width)
    in pixels. every: keep every n-th of 49 frames at 16 Hz. pairs: side of the object-receptacle split.
    failures: add missed, dropped and stopped tries. look: renderer; `filament` needs Vulkan. clean: start over.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    choose_kinds(twins, 0)
    out = Path(out)
    for folder in ("videos", "truth", "rows"):
        if clean:
            shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True, exist_ok=True)
    numbers = [seed * 1_000_000 + index for index in range(clips)]
    options = Options(task, pairs, randomize, tuple(size), every, look)
    work = partial(make_one, out=out, options=options, twins=twins, failures=failures)
    # one software renderer per process: more threads only fight for the same cores
    os.environ.setdefault("LP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if workers <= 1:
        for number in tqdm(numbers, desc=task, unit="clip"):
            work(number)
    else:
        # spawned, because OpenGL does not survive a fork; a worker that dies ends the run instead of hanging it
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, clips), mp_context=context) as pool:
            futures = [pool.submit(work, number) for number in numbers]
            for future in tqdm(as_completed(futures), total=clips, desc=task, unit="clip"):
                try:
                    future.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    count = write_manifest(out, [f"{task}_{number:09d}" for number in numbers])
    print(f"{out}: {clips} clips, {count - clips} twins and failures")
    return out / "manifest.jsonl"


def show(
    seed: Positional[int],
    out: Path = Path("workshop.png"),
    task: Task = "place",
    twins: str = "all",
    size: tuple[int, int] = (96, 160),
    randomize: bool = False,
    look: Renderer = "fast",
) -> Path:
    """Draw the contact sheet of one clip number and its twins, and return its path."""
    options = Options(task=task, size=tuple(size), randomize=randomize, look=look)
    episode = simulate(seed, options)
    kinds = tuple(kind for kind in choose_kinds(twins, seed) if faults.possible(kind, task))
    clips = list(Studio(episode, str(seed), options).clips(kinds))
    titles = [f"{clip.row['label']}: {clip.row['prompt']}" for clip in clips]
    sheet = contact_sheet([clip.frames for clip in clips], titles, width=size[1])
    sheet.save(out)
    return Path(out)
