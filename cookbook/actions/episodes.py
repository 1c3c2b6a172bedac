"""Videos with the robot's joints at each frame: what an inverse dynamics model learns from, and what is exported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cookbook.video import read_span


def at_times(rows: np.ndarray, fps: float, times: np.ndarray) -> np.ndarray:
    """Rows [T, J] at `fps`, linearly interpolated at times [N] in seconds; the last row stays after the end."""
    known = np.arange(len(rows)) / fps
    return np.stack([np.interp(times, known, column) for column in rows.T], 1).astype(np.float32)


def resample(rows: np.ndarray, fps: float, wanted: float) -> np.ndarray:
    """Rows [T, J] at `fps`, linearly interpolated in time at `wanted` rows a second, from the first to the last."""
    return at_times(rows, fps, np.arange(int((len(rows) - 1) / fps * wanted + 1e-6) + 1) / wanted)


@dataclass(frozen=True)
class Episode:
    """One video with its joints.

    video: its file; task: the instruction; joints: angles at each video frame, float32 [T, J] in radians; targets:
    joint targets commanded at each video frame, for the time until the next, float32 [T, J] in radians; start: seconds
    from the beginning of the file to the first frame, since LeRobot joins episodes; facts: further columns, such as
    success.
    """

    video: Path
    task: str
    joints: np.ndarray
    targets: np.ndarray
    start: float = 0.0
    facts: dict = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeSet:
    """Episodes of one robot at one rate; `joint_names` are the J names in the order of the columns."""

    name: str
    fps: float
    joint_names: tuple[str, ...]
    episodes: Sequence[Episode]
    robot: str = "gr1"

    def frames(self, episode: Episode) -> np.ndarray:
        """The pictures of an episode, decoded now: uint8 [T, H, W, 3]."""
        return read_span(episode.video, episode.start, len(episode.joints), self.fps)
