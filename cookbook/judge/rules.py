"""Ground truth of a generated video: was the named object placed? Rules on pixels, without a learned model.

Given are the masks of the named object and receptacle in frame 0 (from the simulator) and the named hand. An object is
placed if it left its first place, is visible once, whole and in its own colours, is out of the hand, and its base lies
inside the receptacle's outline; the arm must enter from the named side, and the scene must stay the same. A clip that
cannot be decided is `undetermined`, which counts as failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from cookbook.judge import pixels
from cookbook.judge.pixels import LAST, Appearance, base_share, blobs

Outcome = Literal["placed", "not placed", "done", "not done", "undetermined"]
SUCCESS: tuple[Outcome, ...] = ("placed", "done")
HEIGHT = 96  # pixels of the frame in which the lengths below are given
ENOUGH = 0.3  # least share of the target's area visible in the receptacle: hands and bowls hide the rest
BACK = 4.0  # least distance by which a hand draws back after letting go
CLEAR = 12.0  # additional distance, times the share of the object on which the arm is still visible


@dataclass(frozen=True)
class Judgement:
    """Outcome of a clip, the reason for a failure, and the share of the target's area visible where it should be."""

    outcome: Outcome
    reason: str
    visible: float = 0.0


@dataclass(frozen=True)
class Observation:
    """A clip (N, H, W, 3) uint8, the masks (H, W) in frame 0, empty where the prompt names nothing, and the hand."""

    frames: np.ndarray
    target: np.ndarray
    receptacle: np.ndarray
    hand: str | None

    def target_at_end(self, model: Appearance) -> np.ndarray:
        """The target's pixels (H, W) bool in the last frames."""
        return np.mean([model.track(frame) for frame in self.frames[-LAST:]], 0) > 0.5

    def arm(self, frame: int = -1) -> np.ndarray:
        """The arm's pixels (H, W) bool in a frame."""
        return pixels.arm(self.frames[frame], self.frames[0])

    def drew_back(self, blob: np.ndarray, least: float = BACK) -> bool:
        """Whether the hand ends farther from an object than it was before: a hand that holds it does not."""
        late = range(len(self.frames) // 3, len(self.frames))
        tips = (pixels.fingers(self.arm(frame), str(self.hand)) for frame in late)
        gaps = [np.inf if tip is None else float(np.linalg.norm(tip - pixels.middle(blob))) for tip in tips]
        return gaps[-1] - min(gaps) > least * len(blob) / HEIGHT if np.isfinite(gaps[-1]) else True


def judge_clip(
    frames: np.ndarray,
    target: np.ndarray,
    receptacle: np.ndarray,
    hand: str | None = None,
    reference: np.ndarray | None = None,
) -> Judgement:
    """Judge a clip (N, H, W, 3) uint8 by the masks (H, W) of frame 0 in a ground truth file, and the named hand.

    Args:
        reference: the known first frame (H, W, 3), to refuse a clip of another scene.
    """
    if not pixels.same_scene(frames, reference):
        return Judgement("undetermined", "this is not the known scene throughout")
    return judge_place(Observation(frames, target, receptacle, hand))


def judge_place(clip: Observation) -> Judgement:
    """The rules of placing, in order; the first that fails gives the reason."""
    frames, target, receptacle = clip.frames, clip.target, clip.receptacle
    if target.sum() < 8 or receptacle.sum() < 20:
        return Judgement("undetermined", "target or receptacle is hardly visible in frame 0")
    model = Appearance(frames[0], target)
    if model.recall < 0.35:
        return Judgement("undetermined", "the target's colours do not stand out in frame 0")
    at_end = clip.target_at_end(model)
    place = ndimage.binary_dilation(pixels.outline(receptacle), iterations=2)
    home = ndimage.binary_dilation(target) & ~(place & ~target)
    stayed = float((at_end & home).sum()) / model.area
    at_end = at_end | model.arrived(frames[-LAST:], place) & ~ndimage.binary_dilation(clip.arm())
    least = max(5.0, 0.10 * model.area)
    groups = [group for group in blobs(at_end, least) if (group & ~home).sum() >= least]  # one may still touch its home
    placed = [group for group in groups if pixels.rests_in(group, place, model.area)]
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
    outside = [group for group in groups if base_share(group, place) < 0.3 and group.sum() > 0.5 * model.area]
    if outside or pixels.duplicated(model, frames, home) or pixels.residue(frames, target) > pixels.RESIDUE:
        return Judgement("not placed", "the object is seen twice", visible)
    if not clip.drew_back(placed[0], BACK + CLEAR * pixels.touch(placed[0], clip.arm())):
        return Judgement("not placed", "the object is still in the hand", visible)
    if visible > 3.0:
        return Judgement("not placed", "the object is too large: nearer to the camera than the receptacle", visible)
    side = pixels.moved_side(frames)
    if clip.hand is not None and side != clip.hand:
        return Judgement("not placed", "the other hand moved" if side else "no arm moved", visible)
    return Judgement("placed", "", visible)
