"""What generated trajectories are worth to a policy: data sets x training seeds x held-out scenes.

    python -m nano.policy clips --work runs/policy
    python -m nano.policy_videos generate --work runs/policy --tuned runs/nano/export/diffusers
    python -m nano.policy_videos decode --work runs/policy
    timeout 590 python -m nano.policy measure --work runs/policy --generated runs/policy/run/lerobot [--curve]

`clips` renders photos, held-out scenes and real clips; the clips of other tasks are those of
`python -m nano.train_actions clips --work runs/policy`. `measure` trains and rolls out every policy and prints the
table. `--generated` is a data set of `cookbook actions-export` with the columns `kept` and `success`. All continue when
they were stopped. `nano/policy.sh` runs all of it on GPUs.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro

from cookbook import storage
from cookbook.actions.clips import read
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.errors import UserError, report_user_errors
from cookbook.models import hub
from cookbook.policy.rollout import NAME, by_scene, roll_out
from cookbook.policy.training import train_on
from nano.generator import NANO
from nano.train_actions import CLIPS, shares
from simulator.make import make

DEMONSTRATIONS = 0.3  # of the examples, where there is anything else
HELD = ("place", 200, 2, 2031)  # task, scenes, instructions in each, seed
CURVE = (125, 250, 500, 1000, 2000)  # generated and kept trajectories
RESAMPLES = 2000
BASE, OTHERS, ALL, REAL = "demonstrations", "+ other tasks", "+ generated", "+ real"


def clips(work: Path, scenes: int = 400, workers: int = 2) -> None:
    """Render what policies are trained and measured on; `scenes`: of the real clips, and of the photos for videos."""
    folders = {"photos": ("place", scenes, 2, 2033), "held": HELD, "real": ("place", scenes, 2, 2032)}
    for name, (task, count, instructions, seed) in folders.items():
        make(work / name, count, task, instructions, seed=seed, workers=workers)


def some(whole: EpisodeSet, episodes: Sequence[Episode], count: int) -> EpisodeSet:
    """`count` of these episodes of a data set, the same ones each time."""
    order = np.random.default_rng(0).permutation(len(episodes))[:count]
    return replace(whole, episodes=[episodes[index] for index in sorted(order)])


def variants(work: Path, generated: Path, curve: bool) -> dict[str, list[EpisodeSet]]:
    """Name -> data sets, the demonstrations first. Generated and real additions are of equal size but in the curve."""
    demonstrations, made = read(hub.locate(NANO.demonstrations)), read(generated)
    if missing := {"kept", "success"} - made.episodes[0].facts.keys():
        raise UserError(f"{generated} has no column {sorted(missing)[0]!r}: judge, filter and execute its run first")
    kept, executed = ([e for e in made.episodes if e.facts[column]] for column in ("kept", "success"))
    if curve:
        sizes = [size for size in CURVE if size < len(kept)] + [len(kept)]
        added = {f"+ {size} kept": some(made, kept, size) for size in sizes}
    else:
        real = read(work / "real")
        count = min(map(len, (made.episodes, kept, executed, real.episodes)))
        added = {
            ALL: some(made, made.episodes, count),
            "+ generated, kept": some(made, kept, count),
            "+ generated, executed": some(made, executed, count),
            REAL: some(real, real.episodes, count),
        }
    others = {} if curve else {OTHERS: [demonstrations, *(read(work / name) for name in CLIPS)]}
    return {BASE: [demonstrations]} | others | {name: [demonstrations, part] for name, part in added.items()}


def measure(
    work: Path,
    generated: Path,
    seeds: int = 3,
    steps: int = 3300,
    batch: int = 256,
    workers: int = 2,
    together: int = 1,
    curve: bool = False,
) -> dict:
    """Train all policies and roll them out, `together` at a time on all GPUs, and print the table.

    Args:
        workers: processes that simulate, for each policy.
    """
    everything = variants(work, generated, curve)
    jobs = [(seed, name, part) for seed in range(seeds) for name, part in everything.items()]
    with ProcessPoolExecutor(together, multiprocessing.get_context("spawn")) as pool:
        done = [
            pool.submit(measure_one, number, part, work, folder(name, seed), workers, seed, steps, batch)
            for number, (seed, name, part) in enumerate(jobs)
        ]
        for each in done:
            each.result()
    facts = table(work, list(everything), seeds)
    storage.write_json(work / ("curve.json" if curve else "measured.json"), facts)
    for name, row in facts.items():
        print(f"{name:24s}{row}")
    return facts


def table(work: Path, names: Sequence[str], seeds: int) -> dict[str, dict]:
    """The figures of policies that were trained and rolled out."""
    every = {name: [folder(name, seed) for seed in range(seeds)] for name in names}
    rows = {name: [storage.read_rows(work / "rollouts" / place / NAME) for place in every[name]] for name in names}
    rates = {name: np.stack([shares_of(part) for part in rows[name]]) for name in names}
    facts = {}
    for name, places in every.items():
        trained = storage.read_json(work / "policies" / places[0] / "manifest.json")
        others = {other: rates[other] for other in (BASE, ALL) if other in rates and other != name}
        reasons = Counter(row["reason"] for part in rows[name] for row in part if not row["success"])
        facts[name] = {"added": sum(trained["episodes"][1:]), **figures(rates[name], others), "reasons": dict(reasons)}
    return facts


def folder(name: str, seed: int) -> str:
    """Of one policy: `generated-kept-0`."""
    return f"{'-'.join(name.replace('+', '').replace(',', '').split())}-{seed}"


def measure_one(
    number: int, sets: list[EpisodeSet], work: Path, name: str, workers: int, seed: int, steps: int, batch: int
) -> None:
    """Train a policy and roll it out, in a process of its own."""
    os.environ["LOCAL_RANK"] = str(number % max(1, torch.cuda.device_count()))  # the GPU that trains
    weights = shares(sets, DEMONSTRATIONS)
    train_on(sets, work / "policies" / name, weights, steps=steps, batch=batch, seed=seed, cache=work / "cache")
    roll_out(work / "policies" / name, work / "rollouts" / name, work / "held", workers=workers)


def shares_of(rows: Sequence[dict]) -> np.ndarray:
    """The share of each scene's instructions that succeed, in the order of the scenes."""
    ordered = sorted(rows, key=lambda row: row["scene"]["seed"])
    return np.array([np.mean(part) for part in by_scene(ordered).values()])


def figures(mine: np.ndarray, others: dict[str, np.ndarray]) -> dict:
    """Success rate of [seeds, scenes], and its differences to others on the same scenes, with 95 % CIs."""
    facts = {"rate": estimate(mine, np.zeros_like(mine)), "seeds": mine.mean(1).round(4).tolist()}
    return facts | {f"minus {name}": estimate(mine, other) for name, other in others.items()}


def estimate(mine: np.ndarray, other: np.ndarray) -> list[float]:
    """The difference of two means over [seeds, scenes] and its 95 % CI.

    A bootstrap over scenes, the same for both, and over training seeds, drawn for each of the two.
    """
    chance, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        scenes = chance.integers(0, mine.shape[1], mine.shape[1])
        first, second = (m[chance.integers(0, len(m), len(m))][:, scenes].mean() for m in (mine, other))
        draws.append(first - second)
    return [round(float(x), 4) for x in (mine.mean() - other.mean(), *np.quantile(draws, (0.025, 0.975)))]


if __name__ == "__main__":
    with report_user_errors():
        tyro.extras.subcommand_cli_from_dict({"clips": clips, "measure": measure}, prog="python -m nano.policy")
