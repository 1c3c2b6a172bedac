"""Clips from a scene's number: simulate what can be asked for there, render it and its faults, label both."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from simulator import faults, objects, receptacles
from simulator.env import Env, Log, judge, rollout
from simulator.expert import UNREACHABLE, Plan, intended, make_plan
from simulator.render import Camera, exposure_table
from simulator.robot import Robot
from simulator.scene import TABLE, Instruction, Task, instructions, prompt, sample
from simulator.world import FPS, FRAMES, World, build

Renderer = Literal["fast", "filament"]
ATTEMPTS = 20
CHOICE = 4  # feasible instructions that a scene has at least
EVERY = 2  # every second frame of the 16 Hz log is a video frame


@dataclass(frozen=True)
class Options:
    """Everything besides its number that decides what a scene's clips look like.

    instructions: how many of the scene's instructions are shown, each in a clip; size: (height, width).
    """

    task: Task = "place"
    instructions: int = 1
    size: tuple[int, int] = (96, 160)
    look: Renderer = "fast"


@dataclass(frozen=True)
class Episode:
    """A successful scripted run, ready to be rendered."""

    env: Env
    instruction: Instruction
    plan: Plan
    log: Log

    @property
    def world(self) -> World:
        return self.env.world


@dataclass(frozen=True)
class RenderedClip:
    """One finished clip. frames (N, H, W, 3) uint8, ground_truth: arrays for the npz, row: for the manifest."""

    row: dict
    frames: np.ndarray
    ground_truth: dict[str, np.ndarray]


def perform(env: Env, instruction: Instruction) -> Episode | None:
    """The scripted expert's run of an instruction; None where it is out of reach or fails."""
    rng = env.world.scene.rng(2)  # the same for all instructions of a scene: only what they say differs
    plan = make_plan(env.world, env.robot, intended(env.world, instruction, rng), rng)
    if plan.error > UNREACHABLE:
        return None
    log = rollout(env, plan, instruction)
    return Episode(env, instruction, plan, log) if log.success else None


def feasible(env: Env, task: Task, count: int) -> list[Episode]:
    """`count` instructions of a task that the expert can follow in a scene, or fewer where there are no more.

    The first two differ in one part, hand, object or place, which is drawn by lot. Then come those most like the first.
    """
    rng, run = env.world.scene.rng(4), functools.cache(functools.partial(perform, env))
    every = list(rng.permutation(np.array(instructions(task), object)))
    for part in rng.permutation(["hand", "item", "place"]):
        pairs = (pair for pair in itertools.permutations(every, 2) if pair[0].differences(pair[1]) == {part})
        if pair := next((pair for pair in pairs if run(pair[0]) and run(pair[1])), None):
            break
    else:
        return []
    rest = sorted(set(every) - set(pair), key=lambda other: (len(pair[0].differences(other)), every.index(other)))
    return list(itertools.islice(filter(None, map(run, [*pair, *rest])), count))


def simulate(number: int, options: Options) -> list[Episode]:
    """The episodes of the first scene of a number in which enough instructions are feasible."""
    wanted = max(options.instructions, CHOICE)
    for attempt in range(ATTEMPTS):
        episodes = feasible(Env(build(sample((number, attempt)))), options.task, wanted)
        if len(episodes) == wanted:
            return episodes[: options.instructions]
    raise RuntimeError(f"scene {number}: no {wanted} feasible instructions of {options.task} in {ATTEMPTS} attempts")


def ground_truth(world: World, robot: Robot, log: Log) -> dict[str, np.ndarray]:
    """Arrays of the npz, subsampled like the video: N frames, K items, R receptacles.

    q, dq, action (N, 42); items (N, K, 7) as x y z, w x y z; receptacles (R, 4) as x y z yaw; decks (R, 4) half x,
    half y, floor, rim; sizes (K, 2) half height, radius; held (N,); camera (7,), fovy in degrees.
    """
    kept, scene, camera = slice(None, None, EVERY), world.scene, world.model.camera("head")
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
        "camera": np.concatenate([camera.pos, camera.quat]).astype(np.float32),
        "fovy": np.float32(scene.view.fovy),
    }


def hash_states(log: Log) -> str:
    """Fingerprint of an episode's states, to a thousandth of a metre and radian: equal on unlike processors too."""
    return hashlib.sha256((np.round(log.qpos, 3) + 0.0).tobytes()).hexdigest()[:16]


def video_frame(frame: float) -> int:
    """The first kept frame at or after a frame of the log."""
    return min(int(np.ceil(frame / EVERY)), (FRAMES - 1) // EVERY)


def render(episodes: list[Episode], name: str, kinds: tuple[str, ...], options: Options) -> Iterator[RenderedClip]:
    """The clip `<name>_<k>` of each episode of one scene, with every fault of `kinds` that it allows and shows."""
    world, start, make_camera = episodes[0].world, episodes[0].log.qpos[0], Camera
    if options.look == "filament":
        from simulator.second_look import FilamentCamera

        make_camera = FilamentCamera
    with make_camera(world, options.size) as camera:
        table = exposure_table(camera.draw(start), world.scene.look.exposure)
        masks = {}
        for body, things in (("item", world.scene.items), ("receptacle", world.scene.receptacles)):
            masks[f"masks_{body}s"] = np.stack([camera.mask(start, f"{body}{k}") for k in range(len(things))])
        for index, episode in enumerate(episodes):
            yield from Studio(episode, f"{name}_{index}", camera, table, masks).clips(kinds)


class Studio:
    """Renders an episode and its injected faults with the camera and the exposure `table` (256,) of its scene.

    masks: visible pixels in frame 0 of every item and receptacle, bool (things, H, W) each.
    """

    def __init__(
        self, episode: Episode, name: str, camera: Camera, table: np.ndarray, masks: dict[str, np.ndarray]
    ) -> None:
        self.episode, self.name, self.camera, self.table, self.masks = episode, name, camera, table, masks
        self.real = self.draw(episode.log.qpos[::EVERY])

    def draw(self, poses: np.ndarray) -> np.ndarray:
        return self.table[self.camera.draw_all(poses)]

    def clips(self, kinds: tuple[str, ...]) -> Iterator[RenderedClip]:
        """The real clip, then every fault of `kinds` that this scene allows and that is visible."""
        yield self.clip("real", self.episode.log, self.episode.plan, self.real)
        for kind in kinds:
            clip = self.inject_fault(kind) if kind in faults.PHYSICS else self.violate_instruction(kind)
            if clip is not None:
                yield clip

    def clip(
        self, kind: str, log: Log, plan: Plan, frames: np.ndarray, violation: tuple[int, int] | None = None
    ) -> RenderedClip:
        """Label frames by the episode's instruction; `item` and `place` of the row are indices or None."""
        world, robot, instruction = self.episode.world, self.episode.env.robot, self.episode.instruction
        first = video_frame(violation[0]) if violation else None
        row = {
            "id": self.name if kind == "real" else f"{self.name}-{kind}",
            "scene": self.name.rpartition("_")[0],
            "seed": list(world.scene.seed),
            "prompt": prompt(world.scene, instruction),
            **asdict(instruction),
            "objects": [objects.KINDS[item.kind].name for item in world.scene.items],
            "places": [receptacles.KINDS[holder.kind].name for holder in world.scene.receptacles],
            "label": kind,
            "source_clip": None if kind == "real" else self.name,
            "physics": int(kind not in faults.PHYSICS),
            "instruction": int(log.success),
            "violation": [first, max(first, min(violation[1], FRAMES - 1) // EVERY)] if violation else None,
            "success": log.success,
            "reason": log.reason,
            "grasp_frame": None if log.grasp_frame is None else video_frame(log.grasp_frame),
            "events": {name: video_frame(frame) for name, frame in plan.events.items()},
            "states": hash_states(log),
            "frames": len(frames),
            "fps": FPS / EVERY,
        }
        return RenderedClip(row, frames, ground_truth(world, robot, log) | self.masks)

    def inject_fault(self, kind: str) -> RenderedClip | None:
        """The clip with a physics fault, or None where it is not visible (`faults.VISIBLE`)."""
        episode = self.episode
        rng = np.random.default_rng([*episode.world.scene.seed, 3, *kind.encode()])
        grasp = int(episode.log.grasp_frame or 0)
        source = faults.Source(episode.world, episode.env.robot, episode.plan, episode.log, rng, grasp)
        fault = faults.PHYSICS[kind](source)
        poses, frames, change = fault.qpos[::EVERY], self.real.copy(), fault.recolour
        changed = np.any(poses != episode.log.qpos[::EVERY], axis=1)
        if change:
            self.camera.paint(source.item, change.hue)
            changed |= np.arange(0, FRAMES, EVERY) >= change.frame
        frames[changed] = self.draw(poses[changed])
        self.camera.restore_paint()
        if faults.difference(frames, self.real).max() < faults.VISIBLE:
            return None
        log = replace(episode.log, qpos=fault.qpos, success=False, reason=kind)
        return self.clip(kind, log, episode.plan, frames, fault.violation)

    def violate_instruction(self, kind: str) -> RenderedClip | None:
        """The scene's clip of another instruction, or a failed attempt, judged by this episode's instruction."""
        episode = self.episode
        run = faults.fail(episode.env, episode.instruction) if kind == "not_completed" else self.other(kind)
        if run is None:
            return None
        plan, log = run
        success, reason = judge(episode.world, episode.env.robot, log, episode.instruction)
        return self.clip(kind, replace(log, success=success, reason=reason), plan, self.draw(log.qpos[::EVERY]))

    def other(self, kind: str) -> tuple[Plan, Log] | None:
        """A successful run of an instruction that differs from this episode's in what `kind` names."""
        env, own = self.episode.env, self.episode.instruction
        others = faults.counterfactuals(kind, own, np.random.default_rng([*env.world.scene.seed, 6, *kind.encode()]))
        run = next(filter(None, (perform(env, other) for other in others)), None)
        return (run.plan, run.log) if run else None
