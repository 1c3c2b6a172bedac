"""Rules on pixels for the tasks of the base model, beside those for placing (`cookbook/judge/rules.py`).

lift   the object is visible above its place in some frames, and at the end in its place again, out of the hand
push   the object is visible once, farther from the robot and not far aside, out of the hand
move   the object is visible once, on the named side of its place, out of the hand
reach  the fingers end about a hand's length beyond what is named
point  the fingers end just before what is named
tour   the fingers are at the object in the first two thirds, then at the receptacle at the end

In all of them the arm enters from the named side, the scene stays the same, and an object that is only reached for,
pointed at or toured is not moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cookbook.errors import UserError
from cookbook.judge.pixels import LAST, Appearance, blobs, change, fingers, middle, moved_side, same_scene, touch
from cookbook.judge.rules import HEIGHT, Judgement, Observation, judge_clip

# Where the fingers end from the middle of what is named: lowest and highest (row, column outwards)
AT = {"reach": ((-30, -6), (4, 9)), "point": ((-18, -4), (18, 26))}
# Largest distance between the arm's nearest pixel and the middle of what is pointed at; more for each row that the
# finger is below it, where hand and gap are nearer to the camera
POINTED, NEARER = 21.5, 0.25


@dataclass(frozen=True)
class TaskObservation(Observation):
    """An `Observation` and, for `move`, the named side as the robot sees it: left or right."""

    toward: str | None = None

    def at(self, task: str, frame: int, mask: np.ndarray) -> bool:
        """Whether the fingers are in a frame where that task wants them relative to a mask."""
        tip = fingers(self.arm(frame), str(self.hand))
        if tip is None:
            return False
        centre, unit = middle(mask), len(mask) / HEIGHT
        offset = (tip - centre) * [1, 1 if self.hand == "right" else -1] / unit
        gap = np.linalg.norm(np.argwhere(self.arm(frame)) - centre, axis=1).min() / unit
        limit = POINTED + NEARER * max(float(offset[0]), 0.0)
        lowest, highest = AT[task]
        return bool(np.all(offset >= lowest) and np.all(offset <= highest) and (task == "reach" or gap < limit))


def not_done(reason: str, visible: float = 0.0) -> Judgement:
    return Judgement("not done", reason, visible)


def held_by(blob: np.ndarray, robot: np.ndarray) -> bool:
    """Whether enough of the arm is on an object to hold it."""
    return touch(blob, robot) > 0.15


def lifted(clip: TaskObservation, model: Appearance, frame: int) -> bool:
    """Whether the object is visible away from its place, and its place is empty where the arm does not cover it.

    Hands hide much of either, so little of the one is enough where there is much of the other.
    """
    home, core = ndimage.binary_dilation(clip.target, iterations=2), ndimage.binary_erosion(clip.target)
    found, picture = model.track(clip.frames[frame]), clip.frames[frame]
    bare = core & ~found & ~ndimage.binary_dilation(clip.arm(frame)) & change(picture, clip.frames[0])
    away = sum(int(group.sum()) for group in blobs(found & ~home, 3)[:1]) / model.area
    return min(away, 1.0) * float(bare.sum()) / max(int(core.sum()), 1) > 0.03


def judge_lift(clip: TaskObservation) -> Judgement:
    model, count = Appearance(clip.frames[0], clip.target), len(clip.frames)
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    at_end = clip.target_at_end(model)
    visible = float((at_end & ndimage.binary_dilation(clip.target)).sum()) / model.area
    if sum(lifted(clip, model, frame) for frame in range(count // 4, count - LAST)) < 3:
        return not_done("the object is not seen above its place", visible)
    if held_by(clip.target, clip.arm()) or any(held_by(group, clip.arm()) for group in blobs(at_end, 5)[:1]):
        return not_done("the hand is still at the object", visible)
    return Judgement("done", "", visible) if visible > 0.3 else not_done("the object is not back in its place", visible)


def top(mask: np.ndarray) -> float:
    """The row of a mask's upper edge: a hand in front of the object hides its lower part only."""
    return float(np.quantile(np.argwhere(mask)[:, 0], 0.1))


def judge_push(clip: TaskObservation) -> Judgement:
    model = Appearance(clip.frames[0], clip.target)
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    at_end, unit = clip.target_at_end(model), len(clip.target) / HEIGHT
    groups = blobs(at_end, max(5.0, 0.2 * model.area))
    if not groups:
        return not_done("the object is gone")
    visible, aside = float(groups[0].sum()) / model.area, abs(middle(groups[0]) - middle(clip.target))[1] / unit
    ahead = (top(clip.target) - top(groups[0])) / unit
    if ahead < 3.5:
        return not_done("the object did not move away", visible)
    if aside > 14 or ahead > 40:
        return not_done("the object went elsewhere", visible)
    if len(groups) > 1 and groups[1].sum() > 0.5 * model.area:
        return not_done("the object is seen twice", visible)
    held = held_by(groups[0], clip.arm())
    return not_done("the object is in the hand", visible) if held else Judgement("done", "", visible)


def judge_move(clip: TaskObservation) -> Judgement:
    model = Appearance(clip.frames[0], clip.target)
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    home, unit = ndimage.binary_dilation(clip.target), len(clip.target) / HEIGHT
    at_end = clip.target_at_end(model)
    groups = blobs(at_end & ~home, max(5.0, 0.2 * model.area))
    if (at_end & home).sum() >= 0.5 * model.area or not groups:
        return not_done("the object is seen twice" if groups else "the object is still in its place or gone")
    visible, (down, aside) = float(groups[0].sum()) / model.area, (middle(groups[0]) - middle(clip.target)) / unit
    aside = -aside if clip.toward == "left" else aside
    if aside < 6 or abs(down) > aside:
        return not_done("the object went elsewhere", visible)
    if len(groups) > 1 and groups[1].sum() > 0.5 * model.area:
        return not_done("the object is seen twice", visible)
    held = held_by(groups[0], clip.arm()) or not clip.drew_back(groups[0])
    return not_done("the object is in the hand", visible) if held else Judgement("done", "", visible)


def disturbed(clip: TaskObservation) -> bool:
    """Whether the target is visible elsewhere at the end; what a hand covers is taken as undisturbed."""
    if clip.target.sum() > 0.03 * clip.target.size:
        return False  # a receptacle, which nothing can move
    model = Appearance(clip.frames[0], clip.target)
    at_end, home = clip.target_at_end(model), ndimage.binary_dilation(clip.target, iterations=2)
    stayed = (at_end & home).sum() >= 0.3 * model.area
    return model.recall >= 0.35 and not stayed and bool(blobs(at_end & ~home, 0.5 * model.area))


def judge_reach(clip: TaskObservation, task: str = "reach") -> Judgement:
    if not all(clip.at(task, frame, clip.target) for frame in (-2, -1)):
        return not_done("the fingers do not end at what is named")
    return not_done("the object was moved") if disturbed(clip) else Judgement("done", "")


def judge_point(clip: TaskObservation) -> Judgement:
    return judge_reach(clip, "point")


def judge_tour(clip: TaskObservation) -> Judgement:
    if not any(clip.at("reach", frame, clip.target) for frame in range(2, len(clip.frames) * 2 // 3)):
        return not_done("the fingers are never at the object")
    if not all(clip.at("reach", frame, clip.receptacle) for frame in (-2, -1)):
        return not_done("the fingers do not end at the receptacle")
    return not_done("the object was moved") if disturbed(clip) else Judgement("done", "")


RULES: dict[str, Callable[[TaskObservation], Judgement]] = {
    "lift": judge_lift, "push": judge_push, "reach": judge_reach, "point": judge_point, "tour": judge_tour,
    "move": judge_move,
}  # fmt: skip


def judge_task(
    frames: np.ndarray,
    target: np.ndarray,
    receptacle: np.ndarray,
    hand: str | None = None,
    task: str = "place",
    reference: np.ndarray | None = None,
    toward: str | None = None,
) -> Judgement:
    """`judge_clip` for any task of the simulator.

    Args:
        toward: of `move`, the named side as the robot sees it: left or right.

    Raises:
        UserError: a `move` without its side, which the pictures do not contain.
    """
    if task == "place":
        return judge_clip(frames, target, receptacle, hand, reference)
    if task == "move" and toward not in ("left", "right"):
        raise UserError(f"toward is {toward}: a `move` is judged by the named side, left or right")
    if not same_scene(frames, reference):
        return Judgement("undetermined", "this is not the known scene throughout")
    if target.sum() < 8 or (task == "tour" and receptacle.sum() < 20):
        return Judgement("undetermined", "what is named is hardly visible in frame 0")
    clip = TaskObservation(frames, target, receptacle, hand, toward)
    judgement, side = RULES[task](clip), moved_side(frames)
    if judgement.outcome == "done" and hand is not None and side != hand:
        return not_done("the other hand moved" if side else "no arm moved", judgement.visible)
    return judgement
