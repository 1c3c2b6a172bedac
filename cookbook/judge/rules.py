"""Ground truth of a generated video of a known scene, by rules on pixels, without a learned model.

Given are the masks in frame 0 of every object and receptacle (from the simulator). `observe` reports what a video
shows, whatever was asked: which hand moved, which object left its place, at which receptacle it ended. So obedience is
measured apart from success. `judge_clip` decides whether an instruction was carried out: the named object left its
place, is visible once, whole and in its own colours, is out of the hand, and its base lies inside the named
receptacle's outline; the named hand moved; and everything else stayed what and where it was. A clip that cannot be
decided is `undetermined`, which counts as failure.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from cookbook.judge import pixels
from cookbook.judge.pixels import LAST, Appearance, base_share, blobs, outline

Outcome = Literal["placed", "not placed", "undetermined"]
HEIGHT = 96  # pixels of the frame in which the lengths below are given
ENOUGH = 0.3  # least share of the target's area visible in the receptacle: hands and bowls hide the rest
BACK = 4.0  # least distance by which a hand draws back after letting go
CLEAR = 12.0  # additional distance, times the share of the object on which the arm is still visible
LEFT = 0.3  # an object left its place when at most this share of it is still seen there in the last `LATE` frames
LATE = 8
OVER = 12.0  # largest distance of an object's base from the receptacle at which, or over which, it ended
SAME = 0.2  # least share of a thing that looks as before if it stayed what and where it was
LARGEST = 1.5  # most growth of an object's area: a larger one is nearer to the camera than the receptacle


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


class Ending:
    """Where an item is in the last frames of a clip (N, H, W, 3) uint8.

    model: its colours; home: its first place; seen: its pixels; stayed: share of its area still seen at home; groups:
    those that lie elsewhere, in part at least, largest first; arm: the arm; areas: of the receptacles. All (H, W) bool.
    """

    def __init__(self, frames: np.ndarray, things: Things, item: int) -> None:
        target = things.items[item]
        self.model, self.arm = Appearance(frames[0], target), pixels.arm(frames[-1], frames[0])
        self.areas = [ndimage.binary_dilation(outline(mask), iterations=2) for mask in things.receptacles]
        inside = np.any(self.areas, 0)
        self.home = ndimage.binary_dilation(target) & ~(inside & ~target)
        self.seen = np.mean([self.model.track(frame) for frame in frames[-LAST:]], 0) > 0.5
        self.stayed = float((self.seen & self.home).sum()) / max(self.model.area, 1)
        self.seen |= self.model.arrived(frames[-LAST:], inside) & ~ndimage.binary_dilation(self.arm)
        least = max(5.0, 0.1 * self.model.area)
        self.groups = [group for group in blobs(self.seen, least) if (group & ~self.home).sum() >= least]


def observe(frames: np.ndarray, things: Things) -> Observed:
    """What a clip (N, H, W, 3) uint8 of a known scene shows."""
    hand = pixels.acting_hand(frames)
    stayed = [pixels.kept(frames, mask, LATE) for mask in things.items]
    item = int(np.argmin(stayed))
    if stayed[item] > LEFT:
        return Observed(hand, None, None)
    ending = Ending(frames, things, item)
    if not ending.groups:
        return Observed(hand, item, None)
    rows, columns = np.nonzero(ending.groups[0])
    base = int(np.quantile(rows, 0.9)), int(columns.mean())
    gaps = [ndimage.distance_transform_edt(~area)[base] for area in ending.areas]
    place = int(np.argmin(gaps))
    return Observed(hand, item, place if gaps[place] < OVER * frames.shape[1] / HEIGHT else None)


def drew_back(frames: np.ndarray, hand: str, blob: np.ndarray, least: float) -> bool:
    """Whether the hand ends farther from an object than before: a hand that holds the object does not."""
    late = frames[len(frames) // 3 :]
    tips = (pixels.fingers(pixels.arm(frame, frames[0]), hand) for frame in late)
    gaps = [np.inf if tip is None else float(np.linalg.norm(tip - np.argwhere(blob).mean(0))) for tip in tips]
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
    if things.items[item].sum() < 8 or things.receptacles[place].sum() < 20:
        return Judgement("undetermined", "target or receptacle is hardly visible in frame 0")
    ending = Ending(frames, things, item)
    judgement = judge_object(frames, ending, ending.areas[place], hand)
    reason = side_effect(frames, things, hand, item, place, ending.seen) if judgement.outcome == "placed" else ""
    return Judgement("not placed", reason, judgement.visible) if reason else judgement


def side_effect(frames: np.ndarray, things: Things, hand: str, item: int, place: int, seen: np.ndarray) -> str:
    """Which hand or thing did what was not asked for; empty if none did.

    The target, `seen` (H, W) at the end, hides part of the other things, and shades the receptacle's inside.
    """
    moved = pixels.acting_hand(frames)
    if moved != hand:
        return "the other hand moved" if moved else "no arm moved"
    hidden = ndimage.binary_dilation(seen, iterations=3)
    for index, mask in enumerate(things.items):
        if index != item and pixels.kept(frames, mask, hidden=hidden) < SAME:
            return "another object changed"
    for index, mask in enumerate(things.receptacles):
        if pixels.kept(frames, mask, hidden=hidden) < SAME:
            return "the receptacle changed" if index == place else "the other receptacle changed"
    return ""


def judge_object(frames: np.ndarray, ending: Ending, area: np.ndarray, hand: str) -> Judgement:
    """The rules of placing into an `area` (H, W), in order; the first that fails gives the reason."""
    model, groups = ending.model, ending.groups
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    placed = [group for group in groups if pixels.rests_in(group, area, model.area)]
    visible = sum(int(group.sum()) for group in placed) / model.area
    if ending.stayed >= 0.5:
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
    residue = pixels.residue(frames, model.mask) > pixels.RESIDUE
    if outside or residue or pixels.duplicated(model, frames, ending.home):
        return Judgement("not placed", "the object is seen twice", visible)
    touched = (ndimage.binary_dilation(placed[0], iterations=3) & ending.arm).sum() / max(int(placed[0].sum()), 1)
    if not drew_back(frames, hand, placed[0], BACK + CLEAR * float(touched)):
        return Judgement("not placed", "the object is still in the hand", visible)
    if visible > LARGEST:
        return Judgement("not placed", "the object is too large: it hangs in the air", visible)
    return Judgement("placed", "", visible)
