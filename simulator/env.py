"""Step a world with joint targets at 16 Hz, log everything, and judge from the state whether the task was done."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from simulator.expert import Plan
from simulator.robot import Robot
from simulator.scene import TABLE, Instruction
from simulator.world import FPS, SUBSTEPS, World

TAKE, RELEASE = 0.55, 0.45  # commanded grip above which a touched item is taken, and below which it is let go


@dataclass
class Log:
    """One episode of T frames at 16 Hz.

    qpos (T, nq), qvel (T, nv), action (T, 42) joint targets, held (T,) index of the item in the hand or -1, grasp_frame
    and hand: when and by which hand an item was first taken.
    """

    qpos: np.ndarray
    qvel: np.ndarray
    action: np.ndarray
    held: np.ndarray
    grasp_frame: float | None
    hand: str = ""
    success: bool = False
    reason: str = ""


class Env:
    """Closed-loop simulation of one world.

    The grasp is a "sticky" weld by a rule on state and action alone: it engages when the commanded grip exceeds `TAKE`
    and two links of the hand (or one, if the hand is nearly shut) touch an item, and lets go below `RELEASE`. So
    success needs the hand in the right place at the right time, and does not depend on friction.
    """

    def __init__(self, world: World) -> None:
        self.world, self.model, self.robot = world, world.model, Robot(world.model)
        self.data = mujoco.MjData(self.model)
        bodies = [self.model.body(number).name for number in self.model.geom_bodyid]
        self.hand_of = {
            geom: "right" if bodies[geom].startswith("hr_") else "left"
            for geom in range(self.model.ngeom)
            if bodies[geom].startswith(("hr_", "hl_")) and self.model.geom_contype[geom]
        }
        self.item_of = {geom: int(name[4:]) for geom, name in enumerate(bodies) if name.startswith("item")}
        self.body_names = bodies
        self.reset(self.robot.rest())

    def reset(self, q: np.ndarray) -> dict[str, np.ndarray | int]:
        """Start with the robot at joint angles `q` (42,), everything at rest; returns the first observation."""
        model = self.model
        self.data = mujoco.MjData(model)
        self.data.eq_active[:] = 0
        self.data.qpos[self.robot.qpos] = q
        self.data.ctrl[self.robot.actuators] = q
        self.last, self.held, self.weld, self.grasp_frame, self.holder = q.copy(), -1, -1, None, ""
        mujoco.mj_forward(model, self.data)
        for _ in range(40):
            mujoco.mj_step(model, self.data)
        self.data.time = 0
        return self.observe()

    def observe(self) -> dict[str, np.ndarray | int]:
        """q (42,) joint angles and `held`, the index of the item in the hand or -1."""
        return {"q": self.data.qpos[self.robot.qpos].copy(), "held": self.held}

    def step(self, action: np.ndarray) -> dict[str, np.ndarray | int]:
        """Advance 1/16 s towards joint targets (42,)."""
        for substep in range(1, SUBSTEPS + 1):
            target = self.last + (action - self.last) * (substep / SUBSTEPS)
            self.data.ctrl[self.robot.actuators] = target
            self._update_grasp(target)
            mujoco.mj_step(self.model, self.data)
        self.last = action.copy()
        return self.observe()

    def _update_grasp(self, target: np.ndarray) -> None:
        if self.held >= 0:
            if self.robot.grip(target, self.holder) < RELEASE:
                self.data.eq_active[self.weld] = 0
                self.held = self.weld = -1
            return
        for hand in ("right", "left"):
            grip = self.robot.grip(target, hand)
            if grip > TAKE:
                for item, links in self._touched(hand).items():
                    if len(links) >= 2 or grip > 0.85:
                        self._take(hand, item)
                        return

    def _touched(self, hand: str) -> dict[int, set[str]]:
        """Items in contact with a hand, each with the links that touch it."""
        touched: dict[int, set[str]] = {}
        for contact in self.data.contact[: self.data.ncon]:
            for ours, theirs in ((contact.geom1, contact.geom2), (contact.geom2, contact.geom1)):
                if self.hand_of.get(ours) == hand and theirs in self.item_of:
                    touched.setdefault(self.item_of[theirs], set()).add(self.body_names[ours])
        return touched

    def _take(self, hand: str, item: int) -> None:
        """Weld the item to the hand exactly as it lies there now."""
        model, data = self.model, self.data
        self.weld = model.equality(f"grasp_{hand}_{item}").id
        wrist, body = model.body(f"{hand}_eef").id, model.body(f"item{item}").id
        inverse, relative = np.zeros(4), np.zeros(4)
        mujoco.mju_negQuat(inverse, data.xquat[wrist])
        mujoco.mju_mulQuat(relative, inverse, data.xquat[body])
        offset = data.xmat[wrist].reshape(3, 3).T @ (data.xpos[body] - data.xpos[wrist])
        model.eq_data[self.weld, :11] = [0, 0, 0, *offset, *relative, 1]
        data.eq_active[self.weld] = 1
        self.held, self.holder = item, hand
        if self.grasp_frame is None:
            self.grasp_frame = float(data.time * FPS)

    def snapshot(self, action: np.ndarray) -> tuple:
        """A frame of the log: the state now, and the joint targets (42,) that are to follow."""
        return self.data.qpos.copy(), self.data.qvel.copy(), action.copy(), self.held


def rollout(env: Env, plan: Plan, instruction: Instruction, actions: np.ndarray | None = None) -> Log:
    """Run a plan, or logged `actions` (T, 42) from the plan's start, and judge it by the instruction."""
    joints = plan.joints
    if actions is None:
        actions = np.concatenate([joints[1:], joints[-1:]])
    env.reset(joints[0])
    rows: list[tuple] = []
    for frame, action in enumerate(actions):
        rows.append(env.snapshot(action))
        if frame < len(actions) - 1:
            env.step(action)
    return judged(env, rows, instruction)


def judged(env: Env, rows: list[tuple], instruction: Instruction) -> Log:
    """The log of an episode from its snapshots, judged by the instruction."""
    log = Log(*map(np.array, zip(*rows, strict=True)), env.grasp_frame, env.holder)
    log.success, log.reason = judge(env.world, env.robot, log, instruction)
    return log


def item_path(world: World, log: Log, index: int) -> np.ndarray:
    """Centre of an item over time, (T, 3)."""
    address = world.address(f"item{index}")
    return log.qpos[:, address : address + 3]


def inside(world: World, point: np.ndarray, receptacle: int, item: int, slack: float = 0.005) -> bool:
    """Whether an item's centre (3,) lies on a receptacle's deck."""
    placed, deck = world.scene.receptacles[receptacle], world.decks[receptacle]
    x, y = np.subtract(point[:2], placed.position)
    cos, sin = np.cos(placed.yaw), np.sin(placed.yaw)
    height = point[2] - TABLE - deck.floor
    fits = abs(cos * x + sin * y) < deck.half_x + slack and abs(cos * y - sin * x) < deck.half_y + slack
    return bool(fits and -0.01 < height < 2 * world.sizes[item][0] + 0.04)


def judge(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    """Success of a log against an instruction, from states only, and the reason where it failed."""
    handled = instruction.item if instruction.task in ("place", "lift", "carry") else None
    for index in range(len(world.scene.items)):
        path = item_path(world, log, index)
        if index != handled and np.linalg.norm(path[-1] - path[0]) > 0.02:
            return False, f"item {index} was moved"
    return CHECKS[instruction.task](world, robot, log, instruction)


def judge_place(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    if log.grasp_frame is None:
        return False, "not grasped"
    if log.held[-1] >= 0:
        return False, "not released"
    if not inside(world, item_path(world, log, instruction.item)[-1], instruction.place, instruction.item):
        return False, "not in the receptacle"
    return by_hand(log, instruction)


def by_hand(log: Log, instruction: Instruction) -> tuple[bool, str]:
    named = log.hand == instruction.hand
    return named, "" if named else "by the other hand"


def judge_lift(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    path = item_path(world, log, instruction.item)
    if path[:, 2].max() - path[0, 2] < 0.06:
        return False, "not lifted"
    if log.held[-1] >= 0 or np.linalg.norm(path[-1] - path[0]) > 0.05:
        return False, "not put back"
    return by_hand(log, instruction)


def judge_carry(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    """The object ends in the hand, over the receptacle."""
    if log.held[-1] != instruction.item:
        return False, "not in the hand"
    offset = item_path(world, log, instruction.item)[-1] - named_point(world, log, instruction, "receptacle")
    if np.hypot(*offset[:2]) > 0.05 or offset[2] < 0.03:
        return False, "not over the receptacle"
    return by_hand(log, instruction)


def named_point(world: World, log: Log, instruction: Instruction, aim: str) -> np.ndarray:
    """The centre of the named item at the start, or of the receptacle's deck, (3,)."""
    if aim == "item":
        return item_path(world, log, instruction.item)[0]
    deck = world.decks[instruction.place]
    return np.array([*world.scene.receptacles[instruction.place].position, TABLE + deck.floor])


def hand_offset(world: World, robot: Robot, log: Log, frame: int, instruction: Instruction, aim: str) -> np.ndarray:
    """Vector in metres from the named hand to the named thing in a frame, (3,)."""
    place, _ = robot.hand_pose(log.qpos[frame][robot.qpos], instruction.hand)
    return named_point(world, log, instruction, aim) - place


def hovers(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    """Whether the named hand ends over the receptacle, within a hand's breadth of its middle and low."""
    offset = hand_offset(world, robot, log, -1, instruction, "receptacle")
    over = bool(np.hypot(*offset[:2]) < 0.075 and -0.17 < offset[2] < 0)
    return over, "" if over else "the hand does not end over the receptacle"


def judge_reach(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    """The hand ends near the item or over the receptacle, and takes nothing."""
    if log.grasp_frame is not None:
        return False, "grasped instead"
    if instruction.item is None:
        return hovers(world, robot, log, instruction)
    distance = float(np.linalg.norm(hand_offset(world, robot, log, -1, instruction, "item")))
    return distance < 0.10, "" if distance < 0.10 else f"the hand ends {distance:.2f} m away"


def judge_tour(world: World, robot: Robot, log: Log, instruction: Instruction) -> tuple[bool, str]:
    """The hand is near the item in the first two thirds and over the receptacle at the end, and takes nothing."""
    if log.grasp_frame is not None:
        return False, "grasped instead"
    early = range(len(log.qpos) * 2 // 3)
    distance = min(float(np.linalg.norm(hand_offset(world, robot, log, k, instruction, "item"))) for k in early)
    if distance > 0.10:
        return False, f"the hand stays {distance:.2f} m away from the item"
    return hovers(world, robot, log, instruction)


CHECKS = {
    "place": judge_place, "reach": judge_reach, "tour": judge_tour, "lift": judge_lift,
    "carry": judge_carry,
}  # fmt: skip
