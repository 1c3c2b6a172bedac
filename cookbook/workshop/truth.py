"""The truth of a dream: did a generated clip place the object? Measured from pixels, without any learned model.

Known are the masks of target and receptacle in frame 0 (from the simulator). The target's colours in frame 0
against all
other colours there make a nearest-neighbour colour model; the clip's last frames are searched with it. The object is
`placed` when it has left its place, is seen once, whole and out of the hand, its base inside the receptacle's outline,
and the arm that moved was on the asked side. What cannot be told is `undetermined`, which counts as failure.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree

Outcome = Literal["placed", "not placed", "undetermined"]
LAST = 3  # frames at the end that are judged together
NEAR = 26.0  # largest colour distance to the target's own colours
CHANGED = 28  # levels by which a pixel differs from frame 0 to count as changed
GRAYS = np.repeat(np.arange(5, 250, 6), 3).reshape(-1, 3)  # the arm, which frame 0 hardly shows


@dataclass(frozen=True)
class Verdict:
    """seen: share of the target's visible area found in the receptacle at the end."""

    outcome: Outcome
    reason: str
    seen: float = 0.0


def colour_space(pixels: np.ndarray) -> np.ndarray:
    """RGB (..., 3) in 0..255 to lightness and two opponent colours; shadow changes lightness, so it counts less."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    return np.stack([0.18 * (red + green + blue), 0.9 * (red - green), 0.55 * (red + green) - 1.1 * blue], -1)


class Appearance:
    """Colour model of the target in frame 0 (H, W, 3)."""

    def __init__(self, first: np.ndarray, mask: np.ndarray) -> None:
        core = ndimage.binary_erosion(mask) if mask.sum() > 40 else mask
        inside = colour_space(first[core if core.any() else mask])
        outside = colour_space(first[~ndimage.binary_dilation(mask, iterations=2)])
        self.target = cKDTree(inside)
        self.other = cKDTree(np.concatenate([outside, colour_space(GRAYS)]))
        self.few = min(3, len(inside))
        alike = self.find(first)
        self.area = int((alike & mask).sum())
        self.recall = self.area / max(int(mask.sum()), 1)
        self.confusers = ndimage.binary_dilation(alike & ~ndimage.binary_dilation(mask, iterations=2))

    def find(self, frame: np.ndarray) -> np.ndarray:
        """Pixels (H, W) bool closer to the target's colours than to any other colour of frame 0."""
        points = colour_space(frame).reshape(-1, 3)
        near = self.target.query(points, k=self.few)[0].reshape(len(points), -1).mean(1)
        other = self.other.query(points, distance_upper_bound=2 * NEAR)[0]
        return ((near < NEAR) & (near < 0.9 * other)).reshape(frame.shape[:2])

    def track(self, frame: np.ndarray) -> np.ndarray:
        return self.find(frame) & ~self.confusers


def outline(mask: np.ndarray) -> np.ndarray:
    """The filled convex hull (H, W) bool of a mask: what stands on a receptacle hides part of it."""
    points = np.argwhere(mask)
    try:
        hull = Delaunay(points[ConvexHull(points).vertices])
    except (QhullError, ValueError):
        return mask
    cells = np.indices(mask.shape).reshape(2, -1).T
    return (hull.find_simplex(cells) >= 0).reshape(mask.shape)


def moved_side(frames: np.ndarray) -> str | None:
    """The side of the picture, `left` or `right`, from which an arm came in; None if nothing moved there."""
    middle = frames[len(frames) // 4 : -LAST].astype(np.int16)
    changed = np.abs(middle - frames[0].astype(np.int16)).max(-1) > CHANGED
    rows = changed.shape[1]
    share = changed[:, rows // 2 :].mean((0, 1))
    half = len(share) // 2
    left, right = float(share[:half].sum()), float(share[half:].sum())
    if left + right < 1.0:
        return None
    return "left" if left > right else "right"


def in_hand(blob: np.ndarray, frames: np.ndarray) -> bool:
    """Whether a hand is still around a blob at the end: the pixels about it are dark and colourless, and newly so.

    On a dark receptacle "newly" says nothing: there the hand also has to stand still.
    """
    ring = ndimage.binary_dilation(blob, iterations=3) & ~ndimage.binary_dilation(blob)
    pixels = frames[-1].astype(np.int16)
    dark = ring & (pixels.max(-1) < 62) & (pixels.max(-1) - pixels.min(-1) < 26)
    new = np.abs(pixels - frames[0].astype(np.int16)).max(-1) > CHANGED
    late = np.abs(pixels - frames[-1 - 2 * LAST].astype(np.int16)).max(-1) > CHANGED
    size = max(int(ring.sum()), 1)
    return bool((dark & new).sum() > 0.30 * size or (dark.sum() > 0.25 * size and late.mean() < 0.01))


def seen_twice(model: Appearance, frames: np.ndarray, home: np.ndarray) -> bool:
    """Whether in four or more frames the object is in its place and (in part, as in a hand) elsewhere at once."""
    twice = 0
    for frame in frames[len(frames) // 3 :]:
        found = model.track(frame)
        away = blobs(found & ~ndimage.binary_dilation(home, iterations=2), 0.2 * model.area)
        twice += bool(away) and (found & home).sum() > 0.5 * model.area
    return twice >= 4


def blobs(found: np.ndarray, least: float) -> list[np.ndarray]:
    """Connected groups of at least `least` pixels, largest first."""
    labels, count = ndimage.label(found, np.ones((3, 3)))
    groups = [labels == number for number in range(1, count + 1)]
    return sorted((group for group in groups if group.sum() >= least), key=lambda group: -int(group.sum()))


def base_share(blob: np.ndarray, area: np.ndarray) -> float:
    """Share of a blob's lower half that lies in an area."""
    rows = np.argwhere(blob)[:, 0]
    base = blob & (np.arange(len(blob))[:, None] >= np.median(rows))
    return float((base & area).sum()) / max(int(base.sum()), 1)


def judge_clip(frames: np.ndarray, target: np.ndarray, receptacle: np.ndarray, hand: str | None = None) -> Verdict:
    """Judge a clip (N, H, W, 3) uint8 by the masks (H, W) of target and receptacle in frame 0, and the asked hand."""
    if target.sum() < 8 or receptacle.sum() < 20:
        return Verdict("undetermined", "target or receptacle is hardly visible in frame 0")
    model = Appearance(frames[0], target)
    if model.recall < 0.35:
        return Verdict("undetermined", "the target's colours do not stand out in frame 0")
    found = np.mean([model.track(frame) for frame in frames[-LAST:]], 0) > 0.5
    place = ndimage.binary_dilation(outline(receptacle), iterations=2)
    home = ndimage.binary_dilation(target) & ~(place & ~target)
    stayed = float((found & home).sum()) / model.area
    groups = blobs(found & ~home, max(5.0, 0.10 * model.area))
    arrived = [group for group in groups if base_share(group, place) >= 0.6]
    seen = sum(int(group.sum()) for group in arrived) / model.area
    if stayed >= 0.5:
        return Verdict(
            "not placed", "the object is still in its place" if not arrived else "the object is seen twice", seen
        )
    if not arrived:
        elsewhere = sum(int(group.sum()) for group in groups) / model.area
        return Verdict("not placed", "the object ended elsewhere" if elsewhere > 0.3 else "the object is gone", 0.0)
    if seen < 0.22:
        return Verdict("undetermined", "too little of the object is seen", seen)
    strays = [group for group in groups if base_share(group, place) < 0.3 and group.sum() > 0.5 * model.area]
    if strays or seen_twice(model, frames, home):
        return Verdict("not placed", "the object is seen twice", seen)
    if in_hand(arrived[0], frames):
        return Verdict("not placed", "the object is still in the hand", seen)
    if seen > 1.5:
        return Verdict("not placed", "the object is too large: nearer to the camera than the receptacle", seen)
    side = moved_side(frames)
    if hand is not None and side != hand:
        return Verdict("not placed", "the other hand moved" if side else "no arm moved", seen)
    return Verdict("placed", "", seen)


def ended_placed(row: dict, truth: dict[str, np.ndarray], place: int = 0, target: int = 0) -> bool:
    """What the simulator's state says of a made clip: target on the deck at the end, let go, single and unchanged."""
    if row["label"] in ("duplicate", "morph"):
        return False
    if row["physics"]:
        return bool(row["success"])
    x, y, z = truth["items"][-1, target, :3]
    origin_x, origin_y, table, yaw = truth["receptacles"][place]
    half_x, half_y, floor, _ = truth["decks"][place]
    ahead, aside = x - origin_x, y - origin_y
    along, across = np.cos(yaw) * ahead + np.sin(yaw) * aside, np.cos(yaw) * aside - np.sin(yaw) * ahead
    height = z - table - floor - truth["sizes"][target, 0]
    return bool(abs(along) < half_x + 0.005 and abs(across) < half_y + 0.005 and -0.03 < height < 0.04)


def validate(folder: Path, codec=None) -> list[dict]:
    """Compare with the simulator on every `place` clip of a made folder, print a table per kind, return one row per
    clip.

    codec: frames -> frames, applied before judging (a round trip through a VAE, say).
    """
    from cookbook.workshop.make import decode

    folder, results = Path(folder), []
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        frames = decode(folder / f"videos/{row['id']}.mp4")
        with np.load(folder / f"truth/{row['id']}.npz") as file:
            truth = {name: file[name] for name in file.files}
        verdict = judge_clip(
            codec(frames) if codec else frames, truth["mask_target"], truth["mask_receptacle"], row["hand"]
        )
        wanted = ended_placed(row, truth)
        agree = (verdict.outcome == "placed") == wanted
        results.append({"id": row["id"], "label": row["label"], "wanted": wanted, "agree": agree, **vars(verdict)})
    print_table(results)
    return results


def print_table(results: list[dict]) -> None:
    print(f"{'kind':18s} {'clips':>5s} {'placed':>7s} {'agree':>6s}   outcomes")
    for kind in sorted({row["label"] for row in results}) + ["all"]:
        rows = [row for row in results if kind in (row["label"], "all")]
        outcomes = ", ".join(f"{count} {name}" for name, count in Counter(row["outcome"] for row in rows).most_common())
        agree = np.mean([row["agree"] for row in rows])
        print(f"{kind:18s} {len(rows):5d} {sum(row['wanted'] for row in rows):7d} {agree:6.2f}   {outcomes}")


if __name__ == "__main__":
    import tyro

    def main(folder: Path) -> None:
        validate(folder)

    tyro.cli(main)
