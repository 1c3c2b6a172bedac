"""Success and obedience before and after post-training: new scenes, the same noise, judged by rules on pixels.

    python -m nano.evaluate --data DIR [DIR ...] --base DIR [--tuned DIR] --out DIR --seeds 4
    python -m nano.evaluate --data DIR --base DIR --tuned DIR --out DIR --grid

Each video goes through H.264 as the generate stage writes it. The simulator's own clips, through the same VAE and the
same H.264, are judged too: their success rate is the most that can be expected of a model.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import tyro

from cookbook import runs, show, storage, video
from cookbook.actions.decode import decode_frames
from cookbook.actions.execute import Job, perform
from cookbook.actions.model import InverseDynamics, load
from cookbook.errors import UserError, report_user_errors
from cookbook.judge import pixels, rules
from cookbook.judge.ground_truth import PARTS, facts, followed, obedience
from cookbook.judge.rules import Things
from cookbook.judge.statistics import interval, share
from cookbook.models import hub, world
from nano.generator import CENTRE, NANO, BatchGenerator, Flags, SimulatedClip, load_model

ON_SHEET = 8  # prompts on the contact sheet
GRID = (
    CENTRE,
    *(replace(CENTRE, guidance=value) for value in (0.0, 1.0, 4.0, 7.0)),
    *(replace(CENTRE, steps=value) for value in (6, 8, 20, 36)),
    *(replace(CENTRE, shift=value) for value in (1.0, 3.0, 10.0)),
    *(replace(CENTRE, guidance=value, negative="zeros") for value in (1.0, 2.0, 4.0)),
)


@cache
def inverse_dynamics() -> InverseDynamics:
    return load(hub.locate(NANO.actions))


def judge(frames: np.ndarray, clip: SimulatedClip, execute: bool = False) -> dict:
    """In a worker: write and read H.264 as the generate stage does, then judge by the rules on pixels.

    Args:
        execute: also decode the joint targets and replay them in the clip's scene: `executed`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write_video(path, frames, NANO.clip.fps)
        decoded, _ = video.read_video(path)
    known, named = clip.ground_truth(), {part: clip.row[part] for part in PARTS}
    judgement = facts(decoded, Things(known["masks_items"], known["masks_receptacles"]), named)
    if execute:
        motion = decode_frames(inverse_dynamics(), decoded, NANO.clip.fps)
        judgement["executed"] = perform(Job(tuple(clip.row["seed"]), **named, targets=motion.targets, fps=motion.fps))
    return judgement


def judges(workers: int) -> Executor:
    """Processes that judge while the next videos are generated; spawned, because a process with CUDA cannot fork."""
    if workers <= 1:
        return ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,))  # the processes share the cores
    for _ in range(workers):  # starting takes seconds of imports: let it happen while the models load
        pool.submit(int)
    return pool


@dataclass
class Measured:
    """Rows of one model with one setting, and the videos of its first seed by clip."""

    rows: list[dict] = field(default_factory=list)
    videos: dict[int, np.ndarray] = field(default_factory=dict)
    seconds_generating: float = 0.0  # without judging, which runs beside it


def measure(
    generator: BatchGenerator,
    generated: Iterator[tuple[int, int, np.ndarray]],
    model: str,
    pool: Executor,
    execute: bool = False,
) -> Measured:
    """Judge all generated videos of one model, and with `execute` replay them."""
    measured, waiting, start = Measured(), [], time.monotonic()
    for index, seed, frames in generated:
        clip = generator.scenes[index]
        row = {"model": model, "prompt": clip.row["prompt"], "image": clip.row["scene"], "seed": seed}
        waiting.append((row | {"clip": clip.row["id"]}, pool.submit(judge, frames, clip, execute)))
        measured.videos.setdefault(index, frames)
    measured.seconds_generating = round(time.monotonic() - start, 1)
    measured.rows = [row | future.result() for row, future in waiting]
    return measured


def tally(rows: list[dict]) -> dict:
    """Success rate with its 95 % CI over scenes, how often each outcome and reason occurred, obedience, and how often
    each part of the instruction was followed."""
    rate, edges = share(np.array([row["passed"] for row in rows]), [row["image"] for row in rows])
    counts = {key: dict(Counter(row[key] for row in rows).most_common()) for key in ("outcome", "reason")}
    result = {"clips": len(rows), "rate": rate, "interval": edges, **counts}
    if "executed" in rows[0]:
        moved = share([row["executed"]["success"] for row in rows], [row["image"] for row in rows])
        result |= dict(zip(("executed", "executed_interval"), moved, strict=True))
    return result | {"obedience": obedience(rows), "followed": followed(rows)}


def measured_by(generator: BatchGenerator) -> dict[str, str]:
    """Digests of what a success rate depends on beside the models: the held-out clips and the rules."""
    clips = storage.digest_of([scene.row["sha256"] for scene in generator.scenes])
    judging = storage.digest_of([storage.digest(Path(module.__file__)) for module in (rules, pixels)])
    return {"clips_measured": clips, "rules": judging}


def gain(base: list[dict], tuned: list[dict]) -> dict:
    """Tuned minus base on the same prompts and seeds, with the 95 % CI of the difference."""
    change = np.array([float(new["passed"]) - float(old["passed"]) for new, old in zip(tuned, base, strict=True)])
    edges = interval([row["image"] for row in base], lambda rows: float(change[rows].mean()))
    return {"gain": round(float(change.mean()), 4), "interval": edges}


def percent(facts: dict) -> str:
    """`63 % (50 to 75)` of a tally."""
    edges = " ({:.0f} to {:.0f})".format(*(100 * edge for edge in facts["interval"])) if facts["interval"] else ""
    return f"{100 * facts['rate']:.0f} %{edges}"


@dataclass(kw_only=True)
class Args(Flags):
    base: Path
    """The base model: `vae/`, `text_encoder/`, `tokenizer/`, `transformer/`."""
    out: Path
    """rows.jsonl, summary.json and sheet.png; grid.jsonl with `--grid`."""
    tuned: Path | None = None
    """Folder with the post-trained `transformer/`."""
    scenes: int = 60
    seeds: int = 4
    steps: int = CENTRE.steps
    execute: bool = False
    """Also decode joint targets from each video and replay them in its scene (tasks of placing)."""
    grid: bool = False
    """Only run the sampling grid on the tuned model; finished settings are skipped."""


def draw_sheet(generator: BatchGenerator, measured: dict[str, Measured], path: Path) -> None:
    """Every model above the simulator, six frames each, first seed, for clips that are evenly spread."""
    count = len(generator.scenes)
    chosen = np.unique(np.linspace(0, count - 1, min(ON_SHEET, count)).round().astype(int))
    clips, titles = [], []
    for index in chosen:
        for model, part in measured.items():
            row = next(row for row in part.rows if row["clip"] == generator.scenes[index].row["id"])
            clips.append(generator.clips[index] if model == "simulator" else part.videos[index])
            outcome = ", ".join(filter(None, (row["outcome"], row["reason"])))
            titles.append(f"{model}: {outcome}; {row['prompt']}")
    with storage.replacing(path) as temporary:
        show.contact_sheet(clips, titles, columns=6).save(temporary)


def evaluate(args: Args, generator: BatchGenerator, pool: Executor) -> dict:
    """Both models and the simulator; writes everything and returns the summary."""
    setting, start = replace(CENTRE, steps=args.steps), time.monotonic()
    folders = {"base": args.base} | ({"tuned": args.tuned} if args.tuned else {})
    measured = {}
    for model, folder in folders.items():
        transformer = load_model(folder, generator.device)
        videos = generator.generate(transformer, setting, range(args.seeds))
        measured[model] = measure(generator, videos, model, pool, args.execute)
    silent = generator.generate(transformer, replace(setting, guidance=0.0), range(1), silent=True)
    measured["no text"] = measure(generator, silent, "no text", pool)
    measured["simulator"] = measure(generator, generator.ceiling(), "simulator", pool, args.execute)
    rows = [row for part in measured.values() for row in part.rows]
    storage.write_rows(args.out / "rows.jsonl", rows)
    summary = {"models": {model: tally(part.rows) for model, part in measured.items()}}
    if args.tuned:
        summary |= {"gain": gain(measured["base"].rows, measured["tuned"].rows)}
    summary |= {
        "settings": {**asdict(setting), "seeds": args.seeds, "data": [str(path.name) for path in args.data]},
        "weights": {model: world.weights_fingerprint(folder) for model, folder in folders.items()},
        "vae": runs.fingerprint(args.base / "vae"),
        **measured_by(generator),
        "device": torch.cuda.get_device_name() if generator.device.type == "cuda" else "cpu",
        "seconds": round(time.monotonic() - start, 1),
        "seconds_generating": {model: part.seconds_generating for model, part in measured.items()},
    }
    storage.write_json(args.out / "summary.json", summary)
    draw_sheet(generator, measured, args.out / "sheet.png")
    for model, row in summary["models"].items():
        print(f"{model:10s} {percent(row):20s} of {row['clips']} clips; {row['reason']}")
        if "executed" in row:
            print(f"{'':10s} executed: {row['executed']:.0%} {row['executed_interval']}")
        for part, counts in row["obedience"].items():
            print(f"{'':10s} {part}: {counts}")
        print(f"{'':10s} followed: {row['followed']}")
    return summary


def run_grid(args: Args, generator: BatchGenerator, pool: Executor) -> list[dict]:
    """One row per setting of `GRID` in grid.jsonl, and the table, with the network evaluations of each video."""
    table, transformer = args.out / "grid.jsonl", load_model(args.tuned, generator.device)
    inputs = {"weights": world.weights_fingerprint(args.tuned), "seeds": args.seeds} | measured_by(generator)
    for setting in GRID:
        key = asdict(setting) | inputs
        if any(key.items() <= row.items() for row in storage.read_rows(table)):
            continue
        measured = measure(generator, generator.generate(transformer, setting, range(args.seeds)), "tuned", pool)
        cost = {"network_evaluations": setting.steps * (2 if setting.guidance else 1)}
        cost["seconds_generating"] = measured.seconds_generating
        storage.append_row(table, key | tally(measured.rows) | cost)
        print(f"{setting}: {percent(tally(measured.rows))}", flush=True)
    rows = [row for row in storage.read_rows(table) if inputs.items() <= row.items()]
    print("steps  guidance  shift  negative      evaluations  success")
    for row in rows:
        setting = f"{row['steps']:5d}  {row['guidance']:8g}  {row['shift']:5g}  {row['negative']:12s}"
        print(f"{setting}  {row['network_evaluations']:11d}  {percent(row)}")
    return rows


def main(args: Args) -> None:
    if args.grid and args.tuned is None:
        raise UserError("--grid samples the tuned model: give --tuned")
    args.out.mkdir(parents=True, exist_ok=True)
    with judges(args.workers) as pool:
        (run_grid if args.grid else evaluate)(args, args.batch_generator(args.base), pool)


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
