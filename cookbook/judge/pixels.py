"""Measurements on the pixels of a clip, without a learned model: an object by its colours, the arm, the moving side.

A colour model is built from frame 0: the target's colours under its mask against all other colours. Frames are
(H, W, 3) uint8, masks (H, W) bool, lengths are pixels of a frame 96 high unless stated otherwise.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree

LAST = 3  # last frames of a clip, judged together
NEAR = 26.0  # largest colour distance to the target's own colours
FAR = 45.0  # the same where only the target, the arm and their shadows can have changed the picture
SHADES = np.linspace(0.35, 1.05, 8)  # brightness of a surface in shadow and out of it
SHADOW = 18.0  # colour distance within which a darker copy of the background is a shadow: a VAE tints shadows
CHANGED = 28  # levels by which a pixel differs from frame 0 to count as changed
DARK = 85  # level below which a colourless pixel can belong to the robot
RECOLOURED = 90.0  # colour distance without lightness of another object: 1.5 times the largest shift of a VAE
RESIDUE = 15.0  # colour distance between an object's first place and its surroundings if it never became empty
GRAYS = np.repeat(np.arange(5, 250, 6), 3).reshape(-1, 3)  # colours of the arm, hardly visible in frame 0
DARK_GRAYS = GRAYS[GRAYS[:, 0] < 130]  # the same without highlights
MARGIN = 3  # width of the frame's border through which an arm enters; also half the largest gap in an arm


def change(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Pixels that differ from frame 0."""
    return np.abs(frame.astype(np.int16) - first.astype(np.int16)).max(-1) > CHANGED


def same_scene(frames: np.ndarray, reference: np.ndarray | None) -> bool:
    """Whether a clip starts at `reference` (if given), has no cut after its first frame, and ends in the same scene."""
    if reference is not None and change(frames[0], reference).mean() > 0.10:
        return False
    ends = np.mean([change(frame, frames[0]).mean() for frame in frames[-LAST:]])
    return bool(change(frames[1], frames[0]).mean() < 0.10 and ends < 0.40)


def arm(frame: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The arm (H, W): the largest group of dark, colourless pixels that touches the border and is new since frame 0.

    Small gaps are bridged: a carried object or a highlight can separate hand and sleeve.
    """
    levels = frame.astype(np.int16)
    dark = (levels.max(-1) < DARK) & (levels.max(-1) - levels.min(-1) < 30)
    mask = ndimage.binary_opening(change(frame, first) & dark)
    grown, edge = ndimage.binary_dilation(mask, iterations=MARGIN), border(frame)
    groups = [group for group in blobs(grown, 1) if (group & edge).any()]
    return mask & groups[0] if groups else np.zeros(dark.shape, bool)


def border(frame: np.ndarray) -> np.ndarray:
    """The pixels (H, W) bool through which an arm enters: none enters from above."""
    edge = np.ones(frame.shape[:2], bool)
    edge[:-MARGIN, MARGIN:-MARGIN] = False
    return edge


def fingers(robot: np.ndarray, hand: str) -> np.ndarray | None:
    """End (row, column) of an arm (H, W): its part farthest up and inwards; None where too little is visible."""
    points = np.argwhere(robot)
    if len(points) < 0.0016 * robot.size:
        return None
    along = points @ np.array([-1.0, -0.6 if hand == "right" else 0.6])
    return points[along >= np.quantile(along, 0.95)].mean(0)


def colour_space(pixels: np.ndarray) -> np.ndarray:
    """RGB (..., 3) in 0..255 to lightness and two opponent colours; lightness has less weight, as shadow changes it."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    return np.stack([0.18 * (red + green + blue), 0.9 * (red - green), 0.55 * (red + green) - 1.1 * blue], -1)


class Appearance:
    """Colour model of the target in frame 0."""

    def __init__(self, first: np.ndarray, mask: np.ndarray) -> None:
        self.first, self.mask = first, mask
        core = ndimage.binary_erosion(mask) if mask.sum() > 40 else mask
        inside = colour_space(first[core if core.any() else mask])
        outside = colour_space(first[~ndimage.binary_dilation(mask, iterations=2)])
        self.target, self.mean = cKDTree(inside), inside.mean(0)
        self.other = cKDTree(np.unique(np.concatenate([outside, colour_space(GRAYS)]), axis=0))
        self.few = min(3, len(inside))
        alike = self.find(first)
        self.area = int((alike & mask).sum())
        self.recall = self.area / max(int(mask.sum()), 1)
        self.confusers = ndimage.binary_dilation(alike & ~ndimage.binary_dilation(mask, iterations=2))

    def distances(self, frame: np.ndarray, other: cKDTree) -> tuple[np.ndarray, np.ndarray]:
        """Colour distances (H, W) of a frame's pixels to the target and to other colours."""
        points = colour_space(frame).reshape(-1, 3)
        near = self.target.query(points, k=self.few, distance_upper_bound=2 * FAR)[0].reshape(len(points), -1).mean(1)
        apart = other.query(points, distance_upper_bound=2 * FAR)[0]
        return near.reshape(frame.shape[:2]), apart.reshape(frame.shape[:2])

    def find(self, frame: np.ndarray) -> np.ndarray:
        """Pixels (H, W) bool closer to the target's colours than to any other colour of frame 0."""
        near, other = self.distances(frame, self.other)
        return (near < NEAR) & (near < 0.9 * other)

    def track(self, frame: np.ndarray) -> np.ndarray:
        return self.find(frame) & ~self.confusers

    def arrived(self, frames: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Pixels (H, W) bool of a place that show the target in most frames (N, H, W, 3) and did not in frame 0.

        Only the target, the arm or a shadow can change the place, so other colours of the scene are not compared. A
        target that lost some colour on the way is still recognised.
        """
        height = int(np.ptp(np.argwhere(self.mask)[:, 0]))
        upwards = np.zeros((2 * height + 1, 1), bool)
        upwards[: height + 1] = True  # extends the place by the target's height, as objects stand on it
        upright = ndimage.binary_dilation(place, upwards)
        return np.mean([self._arrived(frame, upright) for frame in frames], 0) > 0.5

    def _arrived(self, frame: np.ndarray, place: np.ndarray) -> np.ndarray:
        """A shadow has the darkened colours of frame 0 within two pixels, since edges shift a little."""
        near, far = self.distances(frame, cKDTree(colour_space(DARK_GRAYS)))
        new = change(frame, self.first) & place & (near < FAR) & (near < far)
        padded = np.pad(self.first, ((2, 2), (2, 2), (0, 0)), mode="edge")
        before = np.moveaxis(sliding_window_view(padded, (5, 5), axis=(0, 1))[new], 1, -1)[..., None, :]
        shaded = colour_space(before * SHADES[:, None])
        apart = np.linalg.norm(shaded - colour_space(frame[new])[:, None, None, None], axis=-1)
        nearest = apart.min((1, 2, 3))
        new[new] = (near[new] < nearest) & (nearest > SHADOW)
        return new

    def recoloured(self, frames: np.ndarray, thing: np.ndarray) -> bool:
        """Whether the mean colour under a mask (H, W) in frames (N, H, W, 3) is not the target's, lightness aside.

        Single pixels do not decide, because a target has many colours.
        """
        moved = colour_space(frames[:, thing]).mean((0, 1)) - self.mean
        return bool(np.linalg.norm(moved[1:]) > RECOLOURED)


def outline(mask: np.ndarray) -> np.ndarray:
    """Filled convex hull (H, W) bool of a mask: an object on a receptacle hides part of it."""
    points = np.argwhere(mask)
    try:
        hull = Delaunay(points[ConvexHull(points).vertices])
    except (QhullError, ValueError):
        return mask
    cells = np.indices(mask.shape).reshape(2, -1).T
    return (hull.find_simplex(cells) >= 0).reshape(mask.shape)


def acting_hand(frames: np.ndarray) -> str | None:
    """`left` or `right`: the half of the frame's border through which the arm enters; None where no arm is visible.

    An arm that crosses the picture still enters from its own side.
    """
    columns = [np.argwhere(arm(frame, frames[0]) & border(frame))[:, 1] for frame in frames[len(frames) // 4 :]]
    entered = np.concatenate(columns)
    if len(entered) < MARGIN * len(columns):
        return None
    return "left" if entered.mean() < frames.shape[2] / 2 else "right"


def kept(frames: np.ndarray, mask: np.ndarray, last: int = LAST, hidden: np.ndarray | None = None) -> float:
    """Share of a thing's visible pixels that look as in frame 0, median over the `last` frames; 1 if hidden in all.

    A pixel in the arm's shadow counts as unchanged.

    Args:
        hidden: pixels (H, W) bool that something else covers at the end, besides the arm.
    """
    core, shares = ndimage.binary_erosion(mask) if mask.sum() > 40 else mask, []
    shaded = colour_space(frames[0][None] * SHADES[:, None, None, None])  # (shades, H, W, 3)
    for frame in frames[-last:]:
        bare = core & ~ndimage.binary_dilation(arm(frame, frames[0]), iterations=2)
        bare = bare if hidden is None else bare & ~hidden
        if bare.sum() >= max(5, 0.25 * core.sum()):
            apart = np.linalg.norm(colour_space(frame)[bare] - shaded[:, bare], axis=-1).min(0)
            shares.append((apart < NEAR).mean())
    return float(np.median(shares)) if shares else 1.0


def duplicated(model: Appearance, frames: np.ndarray, home: np.ndarray) -> bool:
    """Whether at least four frames show the object in its first place and, at least in part, elsewhere."""
    twice = 0
    for frame in frames[len(frames) // 3 :]:
        target = model.track(frame)
        away = blobs(target & ~ndimage.binary_dilation(home, iterations=2), 0.2 * model.area)
        twice += bool(away) and (target & home).sum() > 0.5 * model.area
    return twice >= 4


def residue(frames: np.ndarray, mask: np.ndarray) -> float:
    """Colour distance between an object's first place (its mask in frame 0) and the surroundings; small once empty.

    The mean over pixels of the distance to the nearest colour around the place; then the median over those frames of
    the second half in which the arm leaves enough of the place visible, 0 where none does. Unlike a search by colour,
    this also detects a remnant that changed its colour.
    """
    first, distances = frames[0], []
    core = ndimage.binary_erosion(mask) if mask.sum() > 40 else mask
    around = ndimage.binary_dilation(mask, iterations=5) & ~ndimage.binary_dilation(mask, iterations=2)
    for frame in frames[len(frames) // 2 :]:
        bare = ~ndimage.binary_dilation(arm(frame, first), iterations=2)
        place, beside = core & bare, around & bare
        if place.sum() >= max(5, 0.3 * core.sum()) and beside.sum() >= 8:
            distances.append(cKDTree(colour_space(frame[beside])).query(colour_space(frame[place]))[0].mean())
    return float(np.median(distances)) if distances else 0.0


def blobs(mask: np.ndarray, least: float) -> list[np.ndarray]:
    """Connected groups of at least `least` pixels, largest first."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    groups = [labels == number for number in range(1, count + 1)]
    return sorted((group for group in groups if group.sum() >= least), key=lambda group: -int(group.sum()))


def base_share(blob: np.ndarray, area: np.ndarray) -> float:
    """Share of a blob's lower half that lies in an area."""
    rows = np.argwhere(blob)[:, 0]
    base = blob & (np.arange(len(blob))[:, None] >= np.median(rows))
    return float((base & area).sum()) / max(int(base.sum()), 1)


def rests_in(blob: np.ndarray, place: np.ndarray, area: float) -> bool:
    """Whether an object of `area` pixels rests in a place: with its base or, lying across, with its centre and bulk."""
    row, column = np.argwhere(blob).mean(0).round().astype(int)
    across = bool(place[row, column]) and (blob & place).sum() >= 0.6 * blob.sum() and blob.sum() > 0.5 * area
    return base_share(blob, place) >= 0.6 or bool(across)
