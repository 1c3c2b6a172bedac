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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from cookbook.show import contact_sheet
from cookbook.video import write_video
from cookbook.workshop import twins as twin
from cookbook.workshop.env import Env, Log, judge, rollout
from cookbook.workshop.policy import UNREACHABLE, Plan, Robot, intended, make_plan
from cookbook.workshop.render import Camera, exposure_table
from cookbook.workshop.scene import (
    TABLE,
    TASKS,
    Pairs,
    Scene,
    Task,
    name_item,
    name_receptacle,
    name_source,
    prompt,
    sample,
)
from cookbook.workshop.world import FPS, FRAMES, World, build

Look = Literal["fast", "filament"]
ATTEMPTS = 20
CRF = 26


@dataclass(frozen=True)
class Options:
    """Everything besides its number that decides what a clip looks like. size: (height, width)."""

    task: Task = "place"
    pairs: Pairs = "all"
    randomize: bool = False
    size: tuple[int, int] = (96, 160)
    every: int = 2
    look: Look = "fast"


@dataclass(frozen=True)
class Episode:
    """A successful scripted run, ready to be drawn."""

    world: World
    env: Env
    plan: Plan
    log: Log


@dataclass(frozen=True)
class Clip:
    """One finished clip. frames (N, H, W, 3) uint8, truth: arrays for the npz, row: for the manifest."""

    row: dict
    frames: np.ndarray
    truth: dict[str, np.ndarray]


def simulate(number: int, options: Options) -> Episode:
    """The first attempt of a clip number in which the scripted policy succeeds."""
    reasons = []
    for attempt in range(ATTEMPTS):
        scene = sample((number, attempt), options.task, options.pairs, options.randomize)
        world = build(scene)
        env, rng = Env(world), scene.rng(2)
        plan = make_plan(world, env.robot, intended(world, rng), rng)
        if plan.error <= UNREACHABLE:
            log = rollout(env, plan)
            if log.success:
                return Episode(world, env, plan, log)
            reasons.append(log.reason)
        else:
            reasons.append(f"out of reach by {plan.error:.3f} m")
    raise RuntimeError(f"clip {number}: no success in {ATTEMPTS} attempts: {', '.join(sorted(set(reasons)))}")


def named_bodies(scene: Scene) -> tuple[str, str | None]:
    """Bodies that the prompt names: what the hand goes to first, and the receptacle if it names one besides.

    The second is where a thing or the hand shall end (`place`, `tour`) or where the thing comes from (`lift`).
    """
    item, place = f"item{scene.target}", f"receptacle{scene.destination}"
    if scene.task in ("place", "tour"):
        return item, place
    if scene.task == "lift":
        support = scene.items[scene.target].support
        return item, f"receptacle{support}" if support >= 0 else None
    return (item if scene.aim == "item" else place), None


def scene_row(scene: Scene) -> dict:
    """What the manifest says about a scene."""
    target, destination = scene.items[scene.target], scene.receptacles[scene.destination]
    return {
        "seed": list(scene.seed),
        "task": scene.task,
        "prompt": prompt(scene),
        "hand": scene.hand,
        "aim": scene.aim,
        "toward": scene.toward,
        "object": name_item(target),
        "object_kind": target.kind,
        "object_colour": target.colour,
        "source": name_source(scene, scene.target),
        "destination": name_receptacle(destination),
        "destination_kind": destination.kind,
        "destination_colour": destination.colour,
        "distractors": [name_item(item) for item in scene.items[1:]],
    }


def truth_of(world: World, robot: Robot, log: Log, options: Options) -> dict[str, np.ndarray]:
    """Arrays of the npz, subsampled like the video: N frames, K items, R receptacles.

    q, dq, action (N, 42); items (N, K, 7) as x y z, w x y z; receptacles (R, 4) as x y z yaw; decks (R, 4) half x,
    half y, floor, rim; sizes (K, 2) half height, radius; held (N,); contacts (N,) JSON; camera (7,), fovy in degrees.
    """
    kept, scene, camera = slice(None, None, options.every), world.scene, world.model.camera("head")
    addresses = [world.address(f"item{k}") for k in range(len(scene.items))]
    return {
        "q": log.qpos[kept, robot.qpos].astype(np.float32),
        "dq": log.qvel[kept, robot.qvel].astype(np.float32),
        "action": log.action[kept].astype(np.float32),
        "items": np.stack([log.qpos[kept, a : a + 7] for a in addresses], 1).astype(np.float32),
        "receptacles": np.array([[*place.position, TABLE, place.yaw] for place in scene.receptacles], np.float32),
        "decks": np.array(world.decks, np.float32),
        "sizes": np.array(world.sizes, np.float32),
        "held": log.held[kept].astype(np.int8),
        "contacts": np.array([json.dumps(pairs) for pairs in log.contacts[kept]]),
        "camera": np.concatenate([camera.pos, camera.quat]).astype(np.float32),
        "fovy": np.float32(scene.view.fovy),
    }


def hash_states(log: Log) -> str:
    """Fingerprint of an episode's states, to a thousandth of a metre and radian: equal on unlike processors too."""
    return hashlib.sha256((np.round(log.qpos, 3) + 0.0).tobytes()).hexdigest()[:16]


def video_frame(frame: float, options: Options) -> int:
    """The first kept frame at or after a frame of the log."""
    return min(int(np.ceil(frame / options.every)), (FRAMES - 1) // options.every)


def episode_row(plan: Plan, log: Log, options: Options) -> dict:
    return {
        "success": log.success,
        "reason": log.reason,
        "grasp_frame": None if log.grasp_frame is None else video_frame(log.grasp_frame, options),
        "events": {name: video_frame(frame, options) for name, frame in plan.events.items()},
    }


def camera_of(look: Look) -> type[Camera]:
    if look == "fast":
        return Camera
    from cookbook.workshop.filament import FilamentCamera

    return FilamentCamera


class Studio:
    """Draws an episode and its twins with one camera and one exposure."""

    def __init__(self, episode: Episode, name: str, options: Options) -> None:
        self.episode, self.name, self.options = episode, name, options

    def clips(self, kinds: tuple[str, ...]) -> Iterator[Clip]:
        """The real clip, then every twin or failure of `kinds` that this scene allows and that can be seen."""
        world, log = self.episode.world, self.episode.log
        with camera_of(self.options.look)(world, self.options.size) as self.camera:
            raw = self.camera.draw_all(log.qpos[:: self.options.every])
            self.table = exposure_table(raw[0], world.scene.look.exposure)
            self.real = self.table[raw]
            yield self.clip("real", self.episode.plan, log, self.real)
            for kind in kinds:
                clip = self.spoil(kind) if kind in twin.PHYSICS else self.stray(kind)
                if clip is not None:
                    yield clip

    def clip(
        self,
        kind: str,
        plan: Plan,
        log: Log,
        frames: np.ndarray,
        violation: tuple[int, int] | None = None,
        asked: World | None = None,
    ) -> Clip:
        """`asked`: the world whose instruction the clip is judged by, where it is not its own."""
        world, every = asked or self.episode.world, self.options.every
        first = video_frame(violation[0], self.options) if violation else None
        row = {
            "id": self.name if kind == "real" else f"{self.name}-{kind}",
            **scene_row(world.scene),
            "label": kind,
            "twin_of": None if kind == "real" else self.name,
            "physics": int(kind not in twin.PHYSICS),
            "instruction": int(log.success),
            "violation": [first, max(first, min(violation[1], FRAMES - 1) // every)] if violation else None,
            **episode_row(plan, log, self.options),
            "states": hash_states(log),
            "frames": len(frames),
            "fps": FPS / every,
        }
        return Clip(row, frames, truth_of(world, self.episode.env.robot, log, self.options) | self.masks(world))

    def masks(self, world: World) -> dict[str, np.ndarray]:
        """Visible pixels in frame 0 of what the instruction names, (H, W) bool; empty where it names nothing."""
        start, bodies = self.episode.log.qpos[0], named_bodies(world.scene)
        empty = np.zeros(self.options.size, bool)
        return {
            f"mask_{role}": self.camera.mask(start, body) if body else empty
            for role, body in zip(("target", "receptacle"), bodies, strict=True)
        }

    def spoil(self, kind: str) -> Clip | None:
        """A physics twin, or None when it cannot be seen (rule: twins.VISIBLE)."""
        episode, every = self.episode, self.options.every
        rng = np.random.default_rng([*episode.world.scene.seed, 3, *kind.encode()])
        taken = int(episode.log.grasp_frame or 0)
        spoilt = twin.PHYSICS[kind](
            twin.Source(episode.world, episode.env.robot, episode.plan, episode.log, rng, taken)
        )
        if spoilt is None:
            return None
        poses, frames, change = spoilt.qpos[::every], self.real.copy(), spoilt.recolour
        changed = np.any(poses != episode.log.qpos[::every], axis=1)
        if change:
            self.camera.paint_target(change.hue)
            changed |= np.arange(0, FRAMES, every) >= change.frame
        frames[changed] = self.table[self.camera.draw_all(poses[changed])]
        self.camera.restore_paint()
        if twin.difference(frames, self.real).max() < twin.VISIBLE:
            return None
        log = replace(episode.log, qpos=spoilt.qpos, success=False, reason=kind)
        return self.clip(kind, episode.plan, log, frames, spoilt.violation)

    def stray(self, kind: str) -> Clip | None:
        """An instruction twin or failure: another plan from the same start, or the same clip under another prompt."""
        episode = self.episode
        run = twin.misbehave(kind, episode.world, episode.env, episode.plan.joints[0])
        if run is not None:
            plan, log = run
            return self.clip(kind, plan, log, self.table[self.camera.draw_all(log.qpos[:: self.options.every])])
        scene = twin.other_instruction(kind, episode.world.scene)
        if scene is None:
            return None
        asked = replace(episode.world, scene=scene)
        success, reason = judge(asked, episode.env.robot, episode.log)
        log = replace(episode.log, success=success, reason=reason)
        return self.clip(kind, episode.plan, log, self.real, asked=asked)


def choose_kinds(twins: str, number: int) -> tuple[str, ...]:
    """`none`, `all`, `balanced` (one physics and one instruction kind in turn), a number of random kinds, or names."""
    if twins == "none":
        return ()
    if twins == "all":
        return twin.KINDS
    if twins == "balanced":
        return tuple(twin.PHYSICS)[number % len(twin.PHYSICS)], twin.INSTRUCTION[number % len(twin.INSTRUCTION)]
    if twins.isdigit():
        rng = np.random.default_rng([number, 7])
        return tuple(map(str, rng.choice(twin.KINDS, min(int(twins), len(twin.KINDS)), replace=False)))
    kinds = tuple(name.strip() for name in twins.split(","))
    known = (*twin.KINDS, *twin.FAILURES)
    for kind in kinds:
        if kind not in known:
            raise ValueError(
                f"unknown twin kind {kind!r}: use none, all, balanced, a number, or some of {', '.join(known)}"
            )
    return kinds


def write_text(path: Path, text: str) -> None:
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial_path.write_text(text)
    partial_path.replace(path)


def write_clip(out: Path, clip: Clip) -> dict:
    """Write video and truth; returns the manifest row with the video's hash."""
    name = clip.row["id"]
    write_video(out / f"videos/{name}.mp4", clip.frames, clip.row["fps"], crf=CRF)
    partial_path = out / f"truth/.{name}.{os.getpid()}.npz"
    np.savez_compressed(partial_path, **clip.truth)
    partial_path.replace(out / f"truth/{name}.npz")
    return clip.row | {"sha256": hashlib.sha256((out / f"videos/{name}.mp4").read_bytes()).hexdigest()}


def make_one(number: int, out: Path, options: Options, twins: str, failures: bool) -> None:
    """Make one clip and its twins, unless whole."""
    name = f"{options.task}_{number:09d}"
    chosen = choose_kinds(twins, number) + (twin.FAILURES if failures else ())
    kinds = tuple(kind for kind in dict.fromkeys(chosen) if twin.possible(kind, options.task))
    wanted = {"options": asdict(options) | {"size": list(options.size)}, "kinds": list(kinds)}
    done = out / f"rows/{name}.json"
    if done.exists() and json.loads(done.read_text())["made"] == wanted:
        return
    episode = simulate(number, options)
    rows = [write_clip(out, clip) for clip in Studio(episode, name, options).clips(kinds)]
    write_text(done, json.dumps({"made": wanted, "rows": rows}))


def write_manifest(out: Path, names: list[str]) -> int:
    rows = [row for name in names for row in json.loads((out / f"rows/{name}.json").read_text())["rows"]]
    rows.sort(key=lambda row: row["id"])
    write_text(out / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
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
    look: Look = "fast",
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
    look: Look = "fast",
) -> Path:
    """Draw the contact sheet of one clip number and its twins, and return its path."""
    options = Options(task=task, size=tuple(size), randomize=randomize, look=look)
    episode = simulate(seed, options)
    kinds = tuple(kind for kind in choose_kinds(twins, seed) if twin.possible(kind, task))
    clips = list(Studio(episode, str(seed), options).clips(kinds))
    titles = [f"{clip.row['label']}: {clip.row['prompt']}" for clip in clips]
    sheet = contact_sheet([clip.frames for clip in clips], titles, width=size[1])
    sheet.save(out)
    return Path(out)
