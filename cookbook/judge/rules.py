"""The truth of a dream: did a generated clip do what its prompt says? From pixels, without any learned model.

Known are the masks of what the prompt names in frame 0 (from the simulator) and the asked hand. The rules:

place  the object has left its place, is seen once, whole, in its colours and out of the hand, its base inside the
       receptacle's outline
lift   the object is seen above its place in some frames, and at the end in its place again, out of the hand
push   the object is seen once, farther from the robot and not far aside, out of the hand
move   the object is seen once, on the asked side of its place, out of the hand
reach  the fingers end about a hand's length beyond what is named
point  the fingers end just before what is named
tour   the fingers are at the object in the first two thirds, then at the receptacle at the end

In all of them the arm comes from the asked side, the picture stays the same scene, and an object that is only reached
for, pointed at or toured is not moved. What cannot be told is `undetermined`, which counts as failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from cookbook.errors import UserError
from cookbook.judge.pixels import (
    LAST,
    RESIDUE,
    Appearance,
    arm,
    base_share,
    blobs,
    change,
    fingers,
    held_by,
    middle,
    moved_side,
    outline,
    residue,
    rests_in,
    same_scene,
    seen_twice,
    touch,
)

Outcome = Literal["placed", "not placed", "done", "not done", "undetermined"]
SUCCESS: tuple[Outcome, ...] = ("placed", "done")
HEIGHT = 96  # pixels of the picture in which the lengths below are given
ENOUGH = 0.3  # least share of the target's area that must be seen in the receptacle: hands and bowls hide the rest
BACK = 4.0  # how far a hand draws back at least after letting go
CLEAR = 12.0  # how much farther it must have gone for each share of the thing on which its arm is still seen
# Where the fingers end from the middle of what is named: lowest and highest (row, column outwards)
AT = {"reach": ((-30, -6), (4, 9)), "point": ((-18, -4), (18, 26))}
# Farthest that the arm's nearest pixel may be from the middle of what is pointed at; more for each row that the finger
# is below it, where hand and gap are nearer to the camera
POINTED, NEARER = 21.5, 0.25


@dataclass(frozen=True)
class Verdict:
    """seen: share of the target's visible area found at the end where it should be."""

    outcome: Outcome
    reason: str
    seen: float = 0.0


@dataclass(frozen=True)
class Dream:
    """A clip (N, H, W, 3) uint8 and what is known: masks (H, W) in frame 0, empty where the prompt names nothing."""

    frames: np.ndarray
    target: np.ndarray
    receptacle: np.ndarray
    hand: str | None
    toward: str | None = None

    def found(self, model: Appearance) -> np.ndarray:
        """The target's pixels at the end."""
        return np.mean([model.track(frame) for frame in self.frames[-LAST:]], 0) > 0.5

    def arm(self, frame: int = -1) -> np.ndarray:
        return arm(self.frames[frame], self.frames[0])

    def drew_back(self, thing: np.ndarray, least: float = BACK) -> bool:
        """Whether the hand at the end is farther from a thing than before: one that holds it does not part from it."""
        tips = (fingers(self.arm(frame), str(self.hand)) for frame in range(len(self.frames) // 3, len(self.frames)))
        apart = [np.inf if tip is None else float(np.linalg.norm(tip - middle(thing))) for tip in tips]
        return apart[-1] - min(apart) > least * len(thing) / HEIGHT if np.isfinite(apart[-1]) else True

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


def judge_place(dream: Dream) -> Verdict:
    frames, target, receptacle, hand = dream.frames, dream.target, dream.receptacle, dream.hand
    if target.sum() < 8 or receptacle.sum() < 20:
        return Verdict("undetermined", "target or receptacle is hardly visible in frame 0")
    model = Appearance(frames[0], target)
    if model.recall < 0.35:
        return Verdict("undetermined", "the target's colours do not stand out in frame 0")
    found = dream.found(model)
    place = ndimage.binary_dilation(outline(receptacle), iterations=2)
    home = ndimage.binary_dilation(target) & ~(place & ~target)
    stayed = float((found & home).sum()) / model.area
    found = found | model.came(frames[-LAST:], place) & ~ndimage.binary_dilation(dream.arm())
    least = max(5.0, 0.10 * model.area)
    groups = [group for group in blobs(found, least) if (group & ~home).sum() >= least]  # one may still touch its home
    arrived = [group for group in groups if rests_in(group, place, model.area)]
    seen = sum(int(group.sum()) for group in arrived) / model.area
    if stayed >= 0.5:
        return Verdict(
            "not placed", "the object is still in its place" if not arrived else "the object is seen twice", seen
        )
    if not arrived:
        elsewhere = sum(int(group.sum()) for group in groups) / model.area
        return Verdict("not placed", "the object ended elsewhere" if elsewhere > 0.3 else "the object is gone", 0.0)
    if seen < ENOUGH:
        return Verdict("undetermined", "too little of the object is seen", seen)
    if model.recoloured(frames[-LAST:], np.any(arrived, 0)):
        return Verdict("not placed", "the object changed its colour", seen)
    strays = [group for group in groups if base_share(group, place) < 0.3 and group.sum() > 0.5 * model.area]
    if strays or seen_twice(model, frames, home) or residue(frames, target) > RESIDUE:
        return Verdict("not placed", "the object is seen twice", seen)
    if not dream.drew_back(arrived[0], BACK + CLEAR * touch(arrived[0], dream.arm())):
        return Verdict("not placed", "the object is still in the hand", seen)
    if seen > 3.0:
        return Verdict("not placed", "the object is too large: nearer to the camera than the receptacle", seen)
    side = moved_side(frames)
    if hand is not None and side != hand:
        return Verdict("not placed", "the other hand moved" if side else "no arm moved", seen)
    return Verdict("placed", "", seen)


def not_done(reason: str, seen: float = 0.0) -> Verdict:
    return Verdict("not done", reason, seen)


def lifted(dream: Dream, model: Appearance, frame: int) -> bool:
    """Whether the object is seen away from its place, and its place empty where the arm does not cover it.

    Hands hide much of either, so little of the one is enough where there is much of the other.
    """
    home, core = ndimage.binary_dilation(dream.target, iterations=2), ndimage.binary_erosion(dream.target)
    found, picture = model.track(dream.frames[frame]), dream.frames[frame]
    bare = core & ~found & ~ndimage.binary_dilation(dream.arm(frame)) & change(picture, dream.frames[0])
    away = sum(int(group.sum()) for group in blobs(found & ~home, 3)[:1]) / model.area
    return min(away, 1.0) * float(bare.sum()) / max(int(core.sum()), 1) > 0.03


def judge_lift(dream: Dream) -> Verdict:
    model, count = Appearance(dream.frames[0], dream.target), len(dream.frames)
    if model.recall < 0.35:
        return Verdict("undetermined", "the target's colours do not stand out in frame 0")
    found = dream.found(model)
    seen = float((found & ndimage.binary_dilation(dream.target)).sum()) / model.area
    if sum(lifted(dream, model, frame) for frame in range(count // 4, count - LAST)) < 3:
        return not_done("the object is not seen above its place", seen)
    if held_by(dream.target, dream.arm()) or any(held_by(group, dream.arm()) for group in blobs(found, 5)[:1]):
        return not_done("the hand is still at the object", seen)
    return Verdict("done", "", seen) if seen > 0.3 else not_done("the object is not back in its place", seen)


def top(mask: np.ndarray) -> float:
    """The row of a mask's upper edge: a hand before the thing hides its lower part only."""
    return float(np.quantile(np.argwhere(mask)[:, 0], 0.1))


def judge_push(dream: Dream) -> Verdict:
    model = Appearance(dream.frames[0], dream.target)
    if model.recall < 0.35:
        return Verdict("undetermined", "the target's colours do not stand out in frame 0")
    found, unit = dream.found(model), len(dream.target) / HEIGHT
    groups = blobs(found, max(5.0, 0.2 * model.area))
    if not groups:
        return not_done("the object is gone")
    seen, aside = float(groups[0].sum()) / model.area, abs(middle(groups[0]) - middle(dream.target))[1] / unit
    ahead = (top(dream.target) - top(groups[0])) / unit
    if ahead < 3.5:
        return not_done("the object did not move away", seen)
    if aside > 14 or ahead > 40:
        return not_done("the object went elsewhere", seen)
    if len(groups) > 1 and groups[1].sum() > 0.5 * model.area:
        return not_done("the object is seen twice", seen)
    return not_done("the object is in the hand", seen) if held_by(groups[0], dream.arm()) else Verdict("done", "", seen)


def judge_move(dream: Dream) -> Verdict:
    model = Appearance(dream.frames[0], dream.target)
    if model.recall < 0.35:
        return Verdict("undetermined", "the target's colours do not stand out in frame 0")
    home, unit = ndimage.binary_dilation(dream.target), len(dream.target) / HEIGHT
    found = dream.found(model)
    groups = blobs(found & ~home, max(5.0, 0.2 * model.area))
    if (found & home).sum() >= 0.5 * model.area or not groups:
        return not_done("the object is seen twice" if groups else "the object is still in its place or gone")
    seen, (down, aside) = float(groups[0].sum()) / model.area, (middle(groups[0]) - middle(dream.target)) / unit
    aside = -aside if dream.toward == "left" else aside
    if aside < 6 or abs(down) > aside:
        return not_done("the object went elsewhere", seen)
    if len(groups) > 1 and groups[1].sum() > 0.5 * model.area:
        return not_done("the object is seen twice", seen)
    held = held_by(groups[0], dream.arm()) or not dream.drew_back(groups[0])
    return not_done("the object is in the hand", seen) if held else Verdict("done", "", seen)


def disturbed(dream: Dream) -> bool:
    """Whether the target is seen elsewhere at the end; what a hand covers is given the benefit of the doubt."""
    if dream.target.sum() > 0.03 * dream.target.size:
        return False  # a receptacle, which nothing can move
    model = Appearance(dream.frames[0], dream.target)
    found, home = dream.found(model), ndimage.binary_dilation(dream.target, iterations=2)
    stayed = (found & home).sum() >= 0.3 * model.area
    return model.recall >= 0.35 and not stayed and bool(blobs(found & ~home, 0.5 * model.area))


def judge_reach(dream: Dream, task: str = "reach") -> Verdict:
    if not all(dream.at(task, frame, dream.target) for frame in (-2, -1)):
        return not_done("the fingers do not end at what is named")
    return not_done("the object was moved") if disturbed(dream) else Verdict("done", "")


def judge_point(dream: Dream) -> Verdict:
    return judge_reach(dream, "point")


def judge_tour(dream: Dream) -> Verdict:
    if not any(dream.at("reach", frame, dream.target) for frame in range(2, len(dream.frames) * 2 // 3)):
        return not_done("the fingers are never at the object")
    if not all(dream.at("reach", frame, dream.receptacle) for frame in (-2, -1)):
        return not_done("the fingers do not end at the receptacle")
    return not_done("the object was moved") if disturbed(dream) else Verdict("done", "")


RULES: dict[str, Callable[[Dream], Verdict]] = {
    "lift": judge_lift, "push": judge_push, "reach": judge_reach, "point": judge_point, "tour": judge_tour,
    "move": judge_move,
}  # fmt: skip


def judge_clip(
    frames: np.ndarray,
    target: np.ndarray,
    receptacle: np.ndarray,
    hand: str | None = None,
    task: str = "place",
    reference: np.ndarray | None = None,
    toward: str | None = None,
) -> Verdict:
    """Judge a clip (N, H, W, 3) uint8 by the masks (H, W) of frame 0 in a truth file, and the asked hand.

    reference: the known first picture (H, W, 3), to refuse a clip of another scene.
    toward: of `move`, the asked side as the robot sees it: left or right.

    Raises:
        UserError: a `move` without its side, which nothing in the pictures tells.
    """
    if task == "move" and toward not in ("left", "right"):
        raise UserError(f"toward is {toward}: a `move` is judged by the side that was asked for, left or right")
    if not same_scene(frames, reference):
        return Verdict("undetermined", "this is not the known scene throughout")
    dream = Dream(frames, target, receptacle, hand, toward)
    if task == "place":
        return judge_place(dream)
    if target.sum() < 8 or (task == "tour" and receptacle.sum() < 20):
        return Verdict("undetermined", "what is named is hardly visible in frame 0")
    verdict, side = RULES[task](dream), moved_side(frames)
    if verdict.outcome == "done" and hand is not None and side != hand:
        return not_done("the other hand moved" if side else "no arm moved", verdict.seen)
    return verdict
