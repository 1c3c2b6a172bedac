"""Ground truth of a generated video of a known scene, by rules on pixels, without a learned model.

Given are the masks in frame 0 of every object and receptacle (from the simulator). `observe` reports what a video shows,
whatever was asked: which hand moved, which object left its place, at which receptacle it ended. So obedience is measured
apart from success. `judge_clip` decides whether an instruction was carried out: the named object left its place, is
visible once, whole and in its own colours, is out of the hand, and its base lies inside the named receptacle's outline;
the named hand moved; and everything else stayed what and where it was. A clip that cannot be decided is `undetermined`,
which counts as failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from cookbook.judge import pixels
from cookbook.judge.pixels import LAST, Appearance, base_share, blobs

Outcome = Literal["placed", "not placed", "undetermined"]
HEIGHT = 96  # pixels of the frame in which the lengths below are given
ENOUGH = 0.3  # least share of the target's area visible in the receptacle: hands and bowls hide the rest
BACK = 4.0  # least distance by which a hand draws back after letting go
CLEAR = 12.0  # additional distance, times the share of the object on which the arm is still visible
LEFT = 0.3  # an object left its place when at most this share of it is still seen there in the last `LATE` frames
LATE = 8
OVER = 14.0  # largest distance of an object's base from the receptacle at which, or over which, it ended
SAME = 0.3  # least share of a thing that looks as before if it stayed what and where it was


@dataclass(frozen=True)
class Things:
    """Masks in frame 0, bool: items (K, H, W), receptacles (R, H, W)."""

    items: np.ndarray
    receptacles: np.ndarray


@dataclass(frozen=True)
class Observed:
    """What a clip shows: the hand that moved, index of the item that left its place, of the receptacle it ended at."""

    hand: str | None
    item: int | None
    place: int | None


@dataclass(frozen=True)
class Judgement:
    """Outcome of a clip, the reason for a failure, and the share of the target's area visible where it should be."""

    outcome: Outcome
    reason: str
    visible: float = 0.0


def observe(frames: np.ndarray, things: Things) -> Observed:
    """What a clip (N, H, W, 3) uint8 of a known scene shows."""
    hand = pixels.acting_hand(frames)
    stayed = [pixels.kept(frames, mask, LATE) for mask in things.items]
    item = int(np.argmin(stayed))
    if stayed[item] > LEFT:
        return Observed(hand, None, None)
    model = Appearance(frames[0], things.items[item])
    groups = blobs(at_end(frames, model) & ~ndimage.binary_dilation(things.items[item]), max(5.0, 0.1 * model.area))
    if not groups:
        return Observed(hand, item, None)
    points = np.argwhere(groups[0])
    base = np.array([np.quantile(points[:, 0], 0.9), points[:, 1].mean()])
    gaps = [np.linalg.norm(np.argwhere(pixels.outline(mask)) - base, axis=1).min() for mask in things.receptacles]
    place = int(np.argmin(gaps))
    return Observed(hand, item, place if gaps[place] < OVER * frames.shape[1] / HEIGHT else None)


def at_end(frames: np.ndarray, model: Appearance) -> np.ndarray:
    """An object's pixels (H, W) bool in the last frames."""
    return np.mean([model.track(frame) for frame in frames[-LAST:]], 0) > 0.5


def drew_back(frames: np.ndarray, hand: str, blob: np.ndarray, least: float) -> bool:
    """Whether the hand ends farther from an object than it was before: a hand that holds it does not."""
    late = frames[len(frames) // 3 :]
    tips = (pixels.fingers(pixels.arm(frame, frames[0]), hand) for frame in late)
    gaps = [np.inf if tip is None else float(np.linalg.norm(tip - pixels.middle(blob))) for tip in tips]
    return max(gaps[-LAST:]) - min(gaps) > least * len(blob) / HEIGHT if np.isfinite(gaps[-1]) else True


def judge_clip(
    frames: np.ndarray, things: Things, hand: str, item: int, place: int, reference: np.ndarray | None = None
) -> Judgement:
    """Whether a clip (N, H, W, 3) uint8 shows `hand` putting an item into a receptacle of the known scene.

    Args:
        reference: the known first frame (H, W, 3), to refuse a clip of another scene.
    """
    if not pixels.same_scene(frames, reference):
        return Judgement("undetermined", "this is not the known scene throughout")
    judgement = judge_object(frames, things.items[item], things.receptacles[place], hand)
    if judgement.outcome != "placed":
        return judgement
    moved = pixels.acting_hand(frames)
    if moved != hand:
        return Judgement("not placed", "the other hand moved" if moved else "no arm moved", judgement.visible)
    if reason := changed(frames, things, item, place):
        return Judgement("not placed", reason, judgement.visible)
    return judgement


def changed(frames: np.ndarray, things: Things, item: int, place: int) -> str:
    """Which thing besides the target did not stay what and where it was; empty if all did.

    The placed object hides part of them, and shades the receptacle's inside.
    """
    hidden = ndimage.binary_dilation(at_end(frames, Appearance(frames[0], things.items[item])), iterations=3)
    for index, mask in enumerate(things.items):
        if index != item and pixels.kept(frames, mask, hidden=hidden) < SAME:
            return "another object changed"
    for index, mask in enumerate(things.receptacles):
        if pixels.kept(frames, mask, hidden=hidden) < SAME:
            return "the receptacle changed" if index == place else "the other receptacle changed"
    return ""


def judge_object(frames: np.ndarray, target: np.ndarray, receptacle: np.ndarray, hand: str) -> Judgement:
    """The rules of placing, in order; the first that fails gives the reason."""
    if target.sum() < 8 or receptacle.sum() < 20:
        return Judgement("undetermined", "target or receptacle is hardly visible in frame 0")
    model, arm = Appearance(frames[0], target), pixels.arm(frames[-1], frames[0])
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    seen = at_end(frames, model)
    area = ndimage.binary_dilation(pixels.outline(receptacle), iterations=2)
    home = ndimage.binary_dilation(target) & ~(area & ~target)
    stayed = float((seen & home).sum()) / model.area
    seen = seen | model.arrived(frames[-LAST:], area) & ~ndimage.binary_dilation(arm)
    least = max(5.0, 0.10 * model.area)
    groups = [group for group in blobs(seen, least) if (group & ~home).sum() >= least]  # one may still touch its home
    placed = [group for group in groups if pixels.rests_in(group, area, model.area)]
    visible = sum(int(group.sum()) for group in placed) / model.area
    if stayed >= 0.5:
        reason = "the object is seen twice" if placed else "the object is still in its place"
        return Judgement("not placed", reason, visible)
    if not placed:
        elsewhere = sum(int(group.sum()) for group in groups) / model.area
        return Judgement("not placed", "the object ended elsewhere" if elsewhere > 0.3 else "the object is gone", 0.0)
    if visible < ENOUGH:
        return Judgement("undetermined", "too little of the object is seen", visible)
    if model.recoloured(frames[-LAST:], np.any(placed, 0)):
        return Judgement("not placed", "the object changed its colour", visible)
    outside = [group for group in groups if base_share(group, area) < 0.3 and group.sum() > 0.5 * model.area]
    if outside or pixels.duplicated(model, frames, home) or pixels.residue(frames, target) > pixels.RESIDUE:
        return Judgement("not placed", "the object is seen twice", visible)
    if not drew_back(frames, hand, placed[0], BACK + CLEAR * pixels.touch(placed[0], arm)):
        return Judgement("not placed", "the object is still in the hand", visible)
    if visible > 3.0:
        return Judgement("not placed", "the object is too large: nearer to the camera than the receptacle", visible)
    return Judgement("placed", "", visible)
