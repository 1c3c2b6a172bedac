"""Stage execute: replay decoded targets in the scene of each video's photo; writes executed/executed.jsonl.

The one module of cookbook/ that uses `simulator/`, which needs mujoco and is imported only when something is executed.
Physics alone is enough: no renderer is needed except for `draw`.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cookbook import profiles, runs, show, storage
from cookbook.actions.episodes import resample
from cookbook.errors import UserError
from cookbook.judge.ground_truth import known_scenes

NAME = "executed.jsonl"
FACTS = ("file", "model", "name", "prompt", "image", "seed", "sha256")  # of a row, copied from actions.jsonl
CRASHES = 3  # processes that may die before it is an error
INSTALL = 'pip install -c constraints.txt -e ".[sim]"'


@dataclass(frozen=True)
class Job:
    """One replay. `seed`: (number, attempt) of the scene; hand, item, place: what is to be done, indices as in the
    scene; targets: joint targets [T, J] in rad, at `fps` rows a second."""

    seed: tuple[int, int]
    hand: str
    item: int
    place: int
    targets: np.ndarray
    fps: float


@runs.releasing
def execute(profile: str = "nano", run: Path | str | None = None, workers: int = 2, redo: bool = False) -> dict:
    """Replay the decoded actions of a run in the simulator, in the scene of each video's photo.

    Args:
        workers: processes that simulate.

    Returns:
        The stage's manifest.

    Raises:
        UserError: nothing was decoded, mujoco is missing, the model is of another robot, or no scene is known.
    """
    chosen = profiles.get(profile)
    return execute_in(known_jobs(chosen), runs.run_folder(run, chosen.name), chosen.name, workers, redo)


def execute_in(scenes: dict, root: Path, profile: str, workers: int, redo: bool = False) -> dict:
    """As `execute`, in scenes of the form of `known_jobs`; `root` is the run's folder."""
    source, folder = root / "actions", root / "executed"
    decoded = runs.manifest_of(root, "actions", profile)
    require_robot(decoded["joint_names"])
    inputs = {"actions": decoded["fingerprint"]}
    stage = runs.enter(folder, "execute", profile, inputs, {}, redo, {"actions"}.issuperset)
    if stage.done:
        return stage.manifest
    rows = execute_rows(folder / NAME, storage.read_rows(source / "actions.jsonl"), scenes, workers)
    if not rows:
        raise UserError(f"{source}: no video starts from a photo of the simulator, so no scene is known")
    successes = sum(row["success"] for row in rows)
    print(f"execute: {successes} of {len(rows)} videos do what their instruction says")
    return stage.finish([folder / NAME], videos=len(rows), successes=successes)


def known_jobs(profile: profiles.Profile) -> dict[tuple[str, str], dict]:
    """(hash of a photo, instruction) -> seed, hand, item and place of its scene."""
    jobs = {}
    for key, path in known_scenes(profile).items():
        with np.load(path) as file:
            seed, hand = tuple(map(int, file["seed"])), str(file["hand"])
            jobs[key] = {"seed": seed, "hand": hand, "item": int(file["item"]), "place": int(file["place"])}
    return jobs


def job_of(row: dict, scene: dict) -> Job:
    """The replay of a row of actions.jsonl in a scene of `known_jobs`."""
    return Job(**scene, targets=np.array(row["targets"]), fps=row["fps"])


def execute_rows(path: Path, actions: Sequence[dict], scenes: dict, workers: int) -> list[dict]:
    """All rows of executed.jsonl, the missing ones simulated now."""
    marks = {row["file"]: storage.digest_of([row["targets"], row["fps"]]) for row in actions}
    before = storage.read_rows(path)
    rows = [row for row in before if marks.get(row["file"]) == row["actions"]]
    if len(rows) < len(before):
        storage.write_rows(path, rows)
    done = {row["file"] for row in rows}
    open_rows = [a for a in actions if a["file"] not in done and (a["image"], a["prompt"]) in scenes]
    jobs = [job_of(row, scenes[row["image"], row["prompt"]]) for row in open_rows]
    for row, result in zip(open_rows, perform_all(jobs, workers), strict=True):
        rows.append({name: row[name] for name in FACTS} | {"actions": marks[row["file"]], **result})
        storage.append_row(path, rows[-1])
    return rows


def perform_all(jobs: Sequence[Job], workers: int = 2) -> Iterator[dict]:
    """The results of `perform`, in order, while they come."""
    yield from in_processes(perform, jobs, workers, "execute: simulating")


def in_processes(work: Callable[[Any], dict], jobs: Sequence, workers: int, label: str) -> Iterator[dict]:
    """The results of `work` on each job, in order, while they come; OpenGL does not survive a fork.

    A process that dies is replaced, at most `CRASHES` times: Mesa's software renderer crashes once in hundreds of
    rollouts.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from map(work, jobs)
        return
    for name in ("OMP_NUM_THREADS", "LP_NUM_THREADS"):  # of PyTorch, and of the software renderer
        os.environ.setdefault(name, "1")
    done = crashes = 0
    while done < len(jobs):
        with ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn")) as pool:
            futures = [pool.submit(work, job) for job in jobs[done:]]
            try:
                for future in show.progress(futures, label):
                    yield future.result()
                    done += 1
            except BrokenProcessPool:
                crashes += 1
                if crashes > CRASHES:
                    raise UserError(f"{label}: {crashes} processes died, most likely out of memory") from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


@cache
def _simulator() -> Any:
    """The parts of the simulator that are used here.

    Raises:
        UserError: mujoco, or the checkout's simulator/, is not there.
    """
    if (checkout := str(runs.ASSETS.parent)) not in sys.path:  # only cookbook/ is installed; a notebook runs anywhere
        sys.path.append(checkout)
    try:
        import mujoco

        from simulator import build_robot, env, expert, render, robot, scene, world
    except ModuleNotFoundError as error:
        if error.name not in ("mujoco", "simulator"):
            raise
        raise UserError(f"executing actions needs {error.name}: in the checkout, type {INSTALL}") from None
    parts = {"mujoco": mujoco, "build_robot": build_robot, "env": env, "expert": expert, "render": render}
    return SimpleNamespace(**parts, robot=robot, scene=scene, world=world)


@cache
def _robot() -> Any:
    """Kinematics of the robot alone, without a scene."""
    simulator = _simulator()
    path = simulator.build_robot.ASSETS / "robot" / "gr1.xml"
    return simulator.robot.Robot(simulator.mujoco.MjModel.from_xml_path(str(path)))


def require_robot(joint_names: Sequence[str]) -> None:
    """Refuse actions of another robot than the simulated one."""
    ours = _robot().names
    if list(joint_names) != ours:
        first = next((name for name in joint_names if name not in ours), "another order")
        raise UserError(
            f"the actions are for {len(joint_names)} joints ({first}, ...), the simulated GR1 has {len(ours)}: "
            "execute them on your robot, or train the model on the simulator's clips"
        )


def hand_positions(joints: np.ndarray) -> np.ndarray:
    """Joint angles [T, 42] in rad -> positions of the right and the left palm, [T, 2, 3] in metres."""
    return np.array([[_robot().hand_pose(q, hand)[0] for hand in ("right", "left")] for q in joints])


def _replay(job: Job) -> tuple["Attempt", Any]:
    """The attempt of a job, and its log."""
    attempt = Attempt(job.seed, job.hand, job.item, job.place)
    for targets in resample(job.targets, job.fps, _simulator().world.FPS)[:-1]:
        attempt.step(targets)
    return attempt, attempt.log(job.targets[-1])


def perform(job: Job) -> dict:
    """Replay a job: `success`; the `reason` where it failed and the time `failed_s`; when an item was first taken,
    `grasp_s`, and last let go, `release_s`, in seconds, None where it never was."""
    return _facts(*_replay(job))


def _facts(attempt: "Attempt", log: Any) -> dict:
    rate, held = _simulator().world.FPS, log.held >= 0
    if not np.isfinite(log.qpos).all():
        unknown = dict.fromkeys(("failed_s", "grasp_s", "release_s"))
        return {"success": False, "reason": "the simulation diverged"} | unknown
    grasp = None if log.grasp_frame is None else round(log.grasp_frame / rate, 3)
    released = np.flatnonzero(held[:-1] & ~held[1:]) + 1
    release = round(float(released[-1]) / rate, 3) if len(released) else None
    facts = {"success": bool(log.success), "reason": log.reason, "grasp_s": grasp, "release_s": release}
    return facts | {"failed_s": None if log.success else _when(attempt, log, facts)}


def _when(attempt: "Attempt", log: Any, facts: dict) -> float:
    """The time in seconds at which an unsuccessful replay went wrong: when a wrong item moved, or the grasp of the
    wrong hand, or the release, or when the named hand closed on nothing, or else the end."""
    simulator, environment, instruction = _simulator(), attempt.environment, attempt.instruction
    rate, end = simulator.world.FPS, len(log.qpos) - 1
    for index in range(len(environment.world.scene.items)):
        path = simulator.env.item_path(environment.world, log, index)
        moved = np.linalg.norm(path - path[0], axis=1) > 0.02
        if index != instruction.item and moved[-1]:
            return round(float(moved.argmax()) / rate, 3)
    if facts["grasp_s"] is None:
        grips = [environment.robot.grip(action, instruction.hand) > simulator.env.TAKE for action in log.action]
        return round(float(np.argmax(grips) if any(grips) else end) / rate, 3)
    wrong_hand = log.hand != instruction.hand
    return facts["grasp_s"] if wrong_hand else facts["release_s"] or round(end / rate, 3)


def draw(job: Job, fps: float, size: tuple[int, int]) -> np.ndarray:
    """Pictures uint8 [T, H, W, 3] of a replay at `fps`, as the photo's camera sees it; needs a renderer.

    Raises:
        RendererMissing: no OpenGL on this machine.
    """
    attempt, log = _replay(job)
    with Eye(attempt.environment.world, log.qpos[0], size) as eye:
        return eye.film(log.qpos, fps)


class Eye(AbstractContextManager):
    """The photo's camera in a world, with the exposure of its first pose [nq]. Use as a context manager."""

    def __init__(self, world: Any, first: np.ndarray, size: tuple[int, int]) -> None:
        render = _simulator().render
        self.camera = render.Camera(world, size)
        self.table = render.exposure_table(self.camera.draw(first), world.scene.look.exposure)

    def __exit__(self, *error: object) -> None:
        self.camera.__exit__(*error)

    def look(self, pose: np.ndarray) -> np.ndarray:
        """The picture of a pose [nq], uint8 [H, W, 3]."""
        return self.table[self.camera.draw(pose)]

    def film(self, poses: np.ndarray, fps: float) -> np.ndarray:
        """Pictures uint8 [T, H, W, 3] at `fps` of poses [N, nq] at the control rate."""
        rate = _simulator().world.FPS
        times = np.arange(int((len(poses) - 1) / rate * fps + 1e-6) + 1) / fps
        return self.table[self.camera.draw_all(poses[np.round(times * rate).astype(int)])]


class Attempt:
    """One attempt at an instruction, step by step; the arguments are those of `Job`.

    The robot starts in the photo's pose.
    """

    def __init__(self, seed: tuple[int, int], hand: str, item: int, place: int) -> None:
        simulator = _simulator()
        self.instruction = simulator.scene.Instruction("place", hand, item, place)
        self.environment = simulator.env.Env(simulator.world.build(simulator.scene.sample(tuple(seed))))
        self.environment.reset(simulator.expert.start_pose(self.environment.world, self.environment.robot))
        self.rows: list[tuple] = []

    def pose(self) -> np.ndarray:
        """The state that a camera sees, [nq]."""
        return self.environment.data.qpos.copy()

    def joints(self) -> np.ndarray:
        """The joint angles now, [42] in rad."""
        return self.environment.observe()["q"]

    def step(self, targets: np.ndarray) -> None:
        """Advance by one tick of the control rate towards joint targets [42] in rad."""
        self.rows.append(self.environment.snapshot(targets))
        self.environment.step(targets)

    def follow(self, predict: Callable[[], np.ndarray], fps: float, seconds: float, act: float) -> None:
        """Act for `seconds` in closed loop.

        Args:
            predict: gives the joint targets from now on, [T, 42] in rad at `fps`.
            act: seconds of them that are executed before it is asked again.
        """
        rate = _simulator().world.FPS
        total, part = round(seconds * rate), round(act * rate)
        for first in range(0, total, part):
            for targets in resample(predict(), fps, rate)[: min(part, total - first)]:
                self.step(targets)

    def log(self, last: np.ndarray) -> Any:
        """The judged log of the simulator, up to now; `last` are joint targets [42], not executed."""
        rows = [*self.rows, self.environment.snapshot(last)]
        return _simulator().env.judged(self.environment, rows, self.instruction)

    def result(self) -> tuple[dict, np.ndarray]:
        """As `perform` returns it, and the poses [N, nq] at the control rate."""
        log = self.log(self.environment.last)
        return _facts(self, log), log.qpos


def replay(row: dict, profile: profiles.Profile, size: tuple[int, int], fps: float) -> np.ndarray:
    """`draw` of a row of actions.jsonl, in the scene of its photo."""
    return draw(job_of(row, known_jobs(profile)[row["image"], row["prompt"]]), fps, size)


def hands_in_picture(row: dict, profile: profiles.Profile, size: tuple[int, int]) -> np.ndarray:
    """Where the palms are in a picture of (height, width): x and y in pixels, right and left, [T, 2, 2].

    Args:
        row: of actions.jsonl, of a photo of the simulator.
    """
    simulator = _simulator()
    seed = known_jobs(profile)[row["image"], row["prompt"]]["seed"]
    model = simulator.world.build(simulator.scene.sample(seed)).model
    data, camera = simulator.mujoco.MjData(model), model.camera("head").id
    simulator.mujoco.mj_forward(model, data)
    offsets = hand_positions(np.array(row["joints"])) - data.cam_xpos[camera]
    right, up, back = np.moveaxis(offsets @ data.cam_xmat[camera].reshape(3, 3), -1, 0)
    scale = size[0] / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)  # pixels, at a distance of 1
    return np.stack([size[1] / 2 - scale * right / back, size[0] / 2 + scale * up / back], -1)
