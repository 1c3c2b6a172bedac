"""Train the nano inverse dynamics model, and measure it on scenes that it never saw.

python -m nano.train_actions clips --work runs/actions
python -m nano.train_actions train --work runs/actions --out assets/nano/actions
python -m nano.train_actions measure --work runs/actions --model-folder assets/nano/actions

The generated videos show placing. The model is trained on clips of four other tasks, which `clips` renders, and on the
demonstrations of placing that ship. `measure` uses placing clips of other scenes. Training takes three minutes on an
H200.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro

from cookbook import profiles, storage
from cookbook.actions import decode, execute, model, training
from cookbook.actions.clips import read
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.actions.frames import read_both
from cookbook.errors import report_user_errors
from cookbook.judge.statistics import share
from cookbook.models import hub
from simulator.make import make

# folder -> (task, scenes, instructions in each, seed)
CLIPS = {
    "tour": ("tour", 100, 2, 77),
    "reach": ("reach", 80, 2, 77),
    "carry": ("carry", 48, 2, 77),
    "lift": ("lift", 48, 2, 77),
    "tour-many": ("tour", 93, 4, 78),
    "carry-many": ("carry", 36, 4, 78),
    "tour-more": ("tour", 200, 4, 79),
    "reach-more": ("reach", 80, 2, 79),
    "carry-more": ("carry", 48, 4, 79),
    "lift-more": ("lift", 100, 2, 79),
}
HELD = {"new-scenes": ("place", 60, 2, 916)}
DEMONSTRATIONS = 0.36  # of the frames that it is trained on


def clips(work: Path, workers: int = 2) -> None:
    """Render all clips, about two hours on two cores."""
    for name, (task, scenes, instructions, seed) in (CLIPS | HELD).items():
        make(work / name, scenes, task, instructions, seed=seed, workers=workers)


def shares(sets: Sequence[EpisodeSet], first: float) -> tuple[float, ...]:
    """The weight of each data set: `first` that of the first one, the others by their episodes."""
    counts = [len(each.episodes) for each in sets]
    rest = sum(counts[1:])
    return (first, *((1 - first) * count / rest for count in counts[1:])) if rest else (1.0,)


def train(work: Path, out: Path, steps: int = 12_000, batch: int = 256, height: int = 96) -> None:
    """Train on the clips, and copy the model to `out`."""
    data = (hub.locate(profiles.nano().demonstrations), *(work / name for name in CLIPS))
    weights = shares([read(folder) for folder in data], DEMONSTRATIONS)
    training.train_actions(data, work / "model", weights, height=height, steps=steps, batch=batch)
    out.mkdir(parents=True, exist_ok=True)
    for name in (model.CONFIG, model.WEIGHTS):
        shutil.copy(work / "model" / name, out / name)


def measure(work: Path, model_folder: Path, workers: int = 2, limit: int | None = None) -> dict:
    """Joint and hand error of the held-out clips as filmed and after the VAE, and how many execute.

    Also of a frozen video, and of the video of another scene, which must not execute.
    """
    loaded, profile = model.load(model_folder), profiles.nano()
    found = read(work / next(iter(HELD)))
    episodes = list(found.episodes)[:limit]
    models, everything = hub.locate(profile.world), [True] * len(episodes)
    pictures = read_both(episodes, everything, loaded.spec, profile, models, work / "model" / "cache")
    facts: dict = {"clips": len(episodes)}
    decoded = {}
    for version, name in enumerate(("as filmed", "after the VAE")):
        decoded[name] = [decode.decode_pictures(loaded, both[version], found.fps) for both in pictures]
        facts[name] = errors(decoded[name], episodes)
        print(f"{name}: {facts[name]}", flush=True)
    frozen = [decode.decode_pictures(loaded, np.repeat(x[1, :1], x.shape[1], 0), found.fps) for x in pictures]
    other = np.roll(np.arange(len(episodes)), 2)  # of another scene: two clips share each
    after = decoded["after the VAE"]
    attempts = {
        "recorded targets": [replace(d, targets=e.targets) for d, e in zip(after, episodes, strict=True)],
        "as filmed": decoded["as filmed"],
        "after the VAE": after,
        "frozen": frozen,
        "another scene": [after[index] for index in other],
    }
    for name, motions in attempts.items():
        facts[f"executed {name}"] = executed(motions, episodes, workers)
        print(f"{name}: {facts[f'executed {name}']}", flush=True)
    storage.write_json(work / "decoded.json", facts)
    print(facts)
    return facts


def errors(decoded: Sequence[decode.Decoded], episodes: Sequence[Episode]) -> dict:
    """Mean joint error in degrees, and the error of the hand that works in cm: mean, 90th percentile, share in 2 cm."""
    joints, hands, worst = [], [], []
    for guess, episode in zip(decoded, episodes, strict=True):
        joints.append(np.degrees(np.abs(guess.joints - episode.joints)))
        places = [execute.hand_positions(x) for x in (guess.joints, episode.joints)]
        off = 100 * np.linalg.norm(places[0] - places[1], axis=2)
        hands.append(off[:, ("right", "left").index(episode.facts["hand"])])
        worst.append(off.max(1))
    moving = np.concatenate([e.joints for e in episodes]).std(0) > np.radians(2)
    off, both = np.concatenate(hands), np.concatenate(worst)
    return {
        "joint error, degrees": round(float(np.concatenate(joints)[:, moving].mean()), 3),
        "hand error, cm": round(float(off.mean()), 3),
        "90th percentile, cm": round(float(np.quantile(off, 0.9)), 3),
        "within 2 cm": round(float((off < 2).mean()), 4),
        "both hands within 2 cm": round(float((both < 2).mean()), 4),
    }


def executed(decoded: Sequence[decode.Decoded], episodes: Sequence[Episode], workers: int) -> dict:
    """Success rate of the replays, its 95 % CI over scenes, and how often each reason for a failure."""
    jobs = [
        execute.Job(tuple(e.facts["seed"]), e.facts["hand"], e.facts["item"], e.facts["place"], d.targets, d.fps)
        for d, e in zip(decoded, episodes, strict=True)
    ]
    results = list(execute.perform_all(jobs, workers))
    rate, edges = share([r["success"] for r in results], [str(e.facts["scene"]) for e in episodes])
    reasons = [result["reason"] for result in results if not result["success"]]
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return {"rate": rate, "interval": edges, "failures": counts}


if __name__ == "__main__":
    with report_user_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"clips": clips, "train": train, "measure": measure}, prog="python -m nano.train_actions"
        )
