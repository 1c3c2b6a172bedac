"""A clip from its number: simulate until the scripted expert succeeds, render it and its faults, label both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from simulator import faults
from simulator.env import Env, Log, judge, rollout
from simulator.expert import UNREACHABLE, Plan, intended, make_plan
from simulator.render import Camera, exposure_table
from simulator.robot import Robot
from simulator.scene import TABLE, Pairs, Scene, Task, name_item, name_receptacle, name_source, prompt, sample
from simulator.world import FPS, FRAMES, World, build

Renderer = Literal["fast", "filament"]
ATTEMPTS = 20
EVERY = 2  # every second frame of the 16 Hz log is a video frame


@dataclass(frozen=True)
class Options:
    """Everything besides its number that decides what a clip looks like. size: (height, width)."""

    task: Task = "place"
    pairs: Pairs = "all"
    size: tuple[int, int] = (96, 160)
    look: Renderer = "fast"


@dataclass(frozen=True)
class Episode:
    """A successful scripted run, ready to be rendered."""

    world: World
    env: Env
    plan: Plan
    log: Log


@dataclass(frozen=True)
class RenderedClip:
    """One finished clip. frames (N, H, W, 3) uint8, ground_truth: arrays for the npz, row: for the manifest."""

    row: dict
    frames: np.ndarray
    ground_truth: dict[str, np.ndarray]


def simulate(number: int, options: Options) -> Episode:
    """The first attempt of a clip number in which the scripted expert succeeds."""
    reasons = []
    for attempt in range(ATTEMPTS):
        scene = sample((number, attempt), options.task, options.pairs)
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

    The second is where a thing or the hand is to end (`place`, `tour`) or where the thing comes from (`lift`).
    """
    item, place = f"item{scene.target}", f"receptacle{scene.destination}"
    if scene.task in ("place", "tour"):
        return item, place
    if scene.task == "lift":
        support = scene.items[scene.target].support
        return item, f"receptacle{support}" if support >= 0 else None
    return (item if scene.aim == "item" else place), None


def scene_row(scene: Scene) -> dict:
    """The manifest's fields of a scene."""
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


def ground_truth(world: World, robot: Robot, log: Log) -> dict[str, np.ndarray]:
    """Arrays of the npz, subsampled like the video: N frames, K items, R receptacles.

    q, dq, action (N, 42); items (N, K, 7) as x y z, w x y z; receptacles (R, 4) as x y z yaw; decks (R, 4) half x,
    half y, floor, rim; sizes (K, 2) half height, radius; held (N,); contacts (N,) JSON; camera (7,), fovy in degrees.
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
        "contacts": np.array([json.dumps(pairs) for pairs in log.contacts[kept]]),
        "camera": np.concatenate([camera.pos, camera.quat]).astype(np.float32),
        "fovy": np.float32(scene.view.fovy),
    }


def hash_states(log: Log) -> str:
    """Fingerprint of an episode's states, to a thousandth of a metre and radian: equal on unlike processors too."""
    return hashlib.sha256((np.round(log.qpos, 3) + 0.0).tobytes()).hexdigest()[:16]


def video_frame(frame: float) -> int:
    """The first kept frame at or after a frame of the log."""
    return min(int(np.ceil(frame / EVERY)), (FRAMES - 1) // EVERY)


def episode_row(plan: Plan, log: Log) -> dict:
    return {
        "success": log.success,
        "reason": log.reason,
        "grasp_frame": None if log.grasp_frame is None else video_frame(log.grasp_frame),
        "events": {name: video_frame(frame) for name, frame in plan.events.items()},
    }


def camera_of(look: Renderer) -> type[Camera]:
    if look == "fast":
        return Camera
    from simulator.second_look import FilamentCamera

    return FilamentCamera


class Studio:
    """Renders an episode and its injected faults with one camera and one exposure."""

    def __init__(self, episode: Episode, name: str, options: Options) -> None:
        self.episode, self.name, self.options = episode, name, options

    def clips(self, kinds: tuple[str, ...]) -> Iterator[RenderedClip]:
        """The real clip, then every fault or failure of `kinds` that this scene allows and that is visible."""
        world, log = self.episode.world, self.episode.log
        with camera_of(self.options.look)(world, self.options.size) as self.camera:
            raw = self.camera.draw_all(log.qpos[::EVERY])
            self.table = exposure_table(raw[0], world.scene.look.exposure)
            self.real = self.table[raw]
            yield self.clip("real", self.episode.plan, log, self.real)
            for kind in kinds:
                clip = self.inject_fault(kind) if kind in faults.PHYSICS else self.violate_instruction(kind)
                if clip is not None:
                    yield clip

    def clip(
        self,
        kind: str,
        plan: Plan,
        log: Log,
        frames: np.ndarray,
        violation: tuple[int, int] | None = None,
        instructed: World | None = None,
    ) -> RenderedClip:
        """`instructed`: the world with the instruction that the clip is judged by, where it is not its own."""
        world = instructed or self.episode.world
        first = video_frame(violation[0]) if violation else None
        row = {
            "id": self.name if kind == "real" else f"{self.name}-{kind}",
            **scene_row(world.scene),
            "label": kind,
            "source_clip": None if kind == "real" else self.name,
            "physics": int(kind not in faults.PHYSICS),
            "instruction": int(log.success),
            "violation": [first, max(first, min(violation[1], FRAMES - 1) // EVERY)] if violation else None,
            **episode_row(plan, log),
            "states": hash_states(log),
            "frames": len(frames),
            "fps": FPS / EVERY,
        }
        return RenderedClip(row, frames, ground_truth(world, self.episode.env.robot, log) | self.masks(world))

    def masks(self, world: World) -> dict[str, np.ndarray]:
        """Visible pixels in frame 0 of what the instruction names, (H, W) bool; empty where it names nothing."""
        start, bodies = self.episode.log.qpos[0], named_bodies(world.scene)
        empty = np.zeros(self.options.size, bool)
        return {
            f"mask_{role}": self.camera.mask(start, body) if body else empty
            for role, body in zip(("target", "receptacle"), bodies, strict=True)
        }

    def inject_fault(self, kind: str) -> RenderedClip | None:
        """The clip with a physics fault, or None where it is not visible (`faults.VISIBLE`)."""
        episode = self.episode
        rng = np.random.default_rng([*episode.world.scene.seed, 3, *kind.encode()])
        grasp = int(episode.log.grasp_frame or 0)
        source = faults.Source(episode.world, episode.env.robot, episode.plan, episode.log, rng, grasp)
        fault = faults.PHYSICS[kind](source)
        if fault is None:
            return None
        poses, frames, change = fault.qpos[::EVERY], self.real.copy(), fault.recolour
        changed = np.any(poses != episode.log.qpos[::EVERY], axis=1)
        if change:
            self.camera.paint_target(change.hue)
            changed |= np.arange(0, FRAMES, EVERY) >= change.frame
        frames[changed] = self.table[self.camera.draw_all(poses[changed])]
        self.camera.restore_paint()
        if faults.difference(frames, self.real).max() < faults.VISIBLE:
            return None
        log = replace(episode.log, qpos=fault.qpos, success=False, reason=kind)
        return self.clip(kind, episode.plan, log, frames, fault.violation)

    def violate_instruction(self, kind: str) -> RenderedClip | None:
        """An instruction violation or failure: another plan from the same start, or the clip with another prompt."""
        episode = self.episode
        run = faults.run_violation(kind, episode.world, episode.env, episode.plan.joints[0])
        if run is not None:
            plan, log = run
            return self.clip(kind, plan, log, self.table[self.camera.draw_all(log.qpos[::EVERY])])
        scene = faults.other_instruction(kind, episode.world.scene)
        if scene is None:
            return None
        instructed = replace(episode.world, scene=scene)
        success, reason = judge(instructed, episode.env.robot, episode.log)
        log = replace(episode.log, success=success, reason=reason)
        return self.clip(kind, episode.plan, log, self.real, instructed=instructed)
