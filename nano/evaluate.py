"""Does post-training teach placing? Held-out beginnings, the same noise for every model, judged without a model.

    python -m nano.evaluate --data DIR [DIR ...] --base DIR [--tuned DIR] --out DIR --seeds 4
    python -m nano.evaluate --data DIR --base DIR --tuned DIR --out DIR --grid

Each clip goes through H.264 exactly as the generate stage writes it, so that what is judged is what ships. The
simulator's own clips, through the same VAE and the same H.264, are judged too: no model can be expected to do better.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from cookbook import runs, show, video
from cookbook.errors import UserError, report_user_errors
from cookbook.judge import pixels, rules
from cookbook.judge.statistics import interval, share
from cookbook.models import world
from nano import task_rules
from nano.generator import CENTRE, NANO, BatchGenerator, Flags, Scene, load_model
from nano.task_rules import judge_task

GRID = (
    CENTRE,
    *(replace(CENTRE, guidance=value) for value in (0.0, 1.0, 4.0, 7.0)),
    *(replace(CENTRE, steps=value) for value in (6, 8, 20, 36)),
    *(replace(CENTRE, shift=value) for value in (1.0, 3.0, 10.0)),
    *(replace(CENTRE, guidance=value, negative="zeros") for value in (1.0, 2.0, 4.0)),
)


def finish(frames: np.ndarray, scene: Scene) -> dict:
    """In a worker: write and read H.264 as the generate stage does, then judge."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write_video(path, frames, NANO.clip.fps)
        seen, _ = video.read_video(path)
    truth, row = scene.truth(), scene.row
    masks = truth["mask_target"], truth["mask_receptacle"]
    judgement = judge_task(seen, *masks, row["hand"], row["task"], toward=row.get("toward"))
    passed = judgement.outcome in rules.SUCCESS
    return {**vars(judgement), "visible": round(judgement.visible, 4), "passed": passed}


def judges(workers: int) -> Executor:
    """Processes that judge while the next clips are made. Spawned, because a process with CUDA in it cannot fork."""
    if workers <= 1:
        return ThreadPoolExecutor(1)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    for _ in range(workers):  # starting takes seconds of imports: let it happen while the models load
        pool.submit(int)
    return pool


@dataclass
class Measured:
    """Rows of one model under one setting, and the clips of its first seed by scene."""

    rows: list[dict] = field(default_factory=list)
    shots: dict[int, np.ndarray] = field(default_factory=dict)
    seconds_making: float = 0.0  # without the judges, which work beside it


def measure(
    dreamer: BatchGenerator, dreams: Iterator[tuple[int, int, np.ndarray]], model: str, pool: Executor
) -> Measured:
    """Judge all `generated` of one model."""
    made, waiting, start = Measured(), [], time.monotonic()
    for index, seed, frames in dreams:
        scene = dreamer.scenes[index]
        row = {"model": model, "prompt": scene.row["prompt"], "seed": seed, "task": scene.row["task"]}
        waiting.append((row | {"clip": scene.row["id"]}, pool.submit(finish, frames, scene)))
        made.shots.setdefault(index, frames)
    made.seconds_making = round(time.monotonic() - start, 1)
    made.rows = [row | future.result() for row, future in waiting]
    return made


def tally(rows: list[dict]) -> dict:
    """Share of success with its interval clustered by prompt, and how often each outcome and reason came."""
    prompts = [row["prompt"] for row in rows]
    rate, edges = share(np.array([row["passed"] for row in rows]), prompts)
    counts = {key: dict(Counter(row[key] for row in rows).most_common()) for key in ("outcome", "reason")}
    return {"clips": len(rows), "prompts": len(set(prompts)), "rate": rate, "interval": edges, **counts}


def measured_by(dreamer: BatchGenerator) -> dict[str, str]:
    """What a rate depends on beside the models: the held-out clips and the rules that judge."""
    clips = runs.digest_of([scene.row["sha256"] for scene in dreamer.scenes])
    return {
        "clips_measured": clips,
        "rules": runs.digest_of([runs.digest(Path(m.__file__)) for m in (rules, pixels, task_rules)]),
    }


def by_task(rows: list[dict]) -> dict[str, dict]:
    return {task: tally([row for row in rows if row["task"] == task]) for task in sorted({r["task"] for r in rows})}


def gain(base: list[dict], tuned: list[dict]) -> dict:
    """Tuned minus base on the same prompts and seeds, with the interval of the difference."""
    change = np.array([float(new["passed"]) - float(old["passed"]) for new, old in zip(tuned, base, strict=True)])
    edges = interval([row["prompt"] for row in base], lambda rows: float(change[rows].mean()))
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
    prompts: int = 60
    seeds: int = 4
    steps: int = CENTRE.steps
    guidance: float = CENTRE.guidance
    shift: float = CENTRE.shift
    sheet: int = 8
    """Prompts on the contact sheet, evenly spread and not chosen by their outcome."""
    grid: bool = False
    """Only run the sampling grid on the tuned model; finished settings are skipped."""


def draw_sheet(dreamer: BatchGenerator, made: dict[str, Measured], count: int, path: Path) -> None:
    """Base above tuned above the simulator, six frames each, first seed."""
    chosen = np.unique(np.linspace(0, len(dreamer.scenes) - 1, min(count, len(dreamer.scenes))).round().astype(int))
    clips, titles = [], []
    for index in chosen:
        scene = dreamer.scenes[index]
        for model, part in made.items():
            row = next(row for row in part.rows if row["clip"] == scene.row["id"])
            clips.append(dreamer.clips[index] if model == "simulator" else part.shots[index])
            said = ", ".join(filter(None, (row["outcome"], row["reason"])))
            titles.append(f"{model}: {said}; {row['prompt']}")
    with runs.replacing(path) as temporary:
        show.contact_sheet(clips, titles, columns=6).save(temporary)


def evaluate(args: Args, dreamer: BatchGenerator, pool: Executor) -> dict:
    """Both models and the simulator; writes everything and returns the summary."""
    setting, start = replace(CENTRE, steps=args.steps, guidance=args.guidance, shift=args.shift), time.monotonic()
    folders = {"base": args.base} | ({"tuned": args.tuned} if args.tuned else {})
    made = {}
    for model, folder in folders.items():
        transformer = load_model(folder, dreamer.device)
        made[model] = measure(dreamer, dreamer.dream(transformer, setting, range(args.seeds)), model, pool)
    made["simulator"] = measure(dreamer, dreamer.ceiling(), "simulator", pool)
    rows = [row for part in made.values() for row in part.rows]
    runs.write_rows(args.out / "rows.jsonl", rows)
    summary = {"models": {model: by_task(part.rows) for model, part in made.items()}}
    if args.tuned:
        places = [[row for row in made[model].rows if row["task"] == "place"] for model in folders]
        summary |= {"gain": gain(*places) if all(places) else None}
    summary |= {
        "settings": {**asdict(setting), "seeds": args.seeds, "data": [str(path.name) for path in args.data]},
        "weights": {model: world.weights_fingerprint(folder) for model, folder in folders.items()},
        "vae": runs.fingerprint(args.base / "vae"),
        **measured_by(dreamer),
        "device": torch.cuda.get_device_name() if dreamer.device.type == "cuda" else "cpu",
        "seconds": round(time.monotonic() - start, 1),
        "seconds_making": {model: part.seconds_making for model, part in made.items()},
    }
    runs.write_json(args.out / "summary.json", summary)
    draw_sheet(dreamer, made, args.sheet, args.out / "sheet.png")
    for model, tasks in summary["models"].items():
        for task, facts in tasks.items():
            print(f"{model:10s} {task:6s} {percent(facts):20s} of {facts['clips']} clips; {facts['reason']}")
    return summary


def run_grid(args: Args, dreamer: BatchGenerator, pool: Executor) -> list[dict]:
    """One row per setting of `GRID` in grid.jsonl, and the table. `passes` per clip are what a CPU pays."""
    table, transformer = args.out / "grid.jsonl", load_model(args.tuned, dreamer.device)
    what = {"weights": world.weights_fingerprint(args.tuned), "seeds": args.seeds} | measured_by(dreamer)
    for setting in GRID:
        key = asdict(setting) | what
        if any(key.items() <= row.items() for row in runs.read_rows(table)):
            continue
        made = measure(dreamer, dreamer.dream(transformer, setting, range(args.seeds)), "tuned", pool)
        passes = setting.steps * (2 if setting.guidance else 1)
        runs.append_row(table, key | tally(made.rows) | {"passes": passes, "seconds_making": made.seconds_making})
        print(f"{setting}: {percent(tally(made.rows))}", flush=True)
    rows = [row for row in runs.read_rows(table) if what.items() <= row.items()]
    print("steps  guidance  shift  negative      passes  placed")
    for row in rows:
        told = f"{row['steps']:5d}  {row['guidance']:8g}  {row['shift']:5g}  {row['negative']:12s}  {row['passes']:6d}"
        print(f"{told}  {percent(row)}")
    return rows


def main(args: Args) -> None:
    if args.grid and args.tuned is None:
        raise UserError("--grid samples the tuned model: give --tuned")
    args.out.mkdir(parents=True, exist_ok=True)
    with judges(args.workers) as pool:
        (run_grid if args.grid else evaluate)(args, args.dreamer(args.base), pool)


if __name__ == "__main__":
    with report_user_errors():
        main(tyro.cli(Args))
