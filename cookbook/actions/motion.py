"""Scores of a decoded motion: what a robot would refuse, found without a learned critic."""

import numpy as np

from cookbook.actions.decode import Decoded

MARGIN = 0.1  # rad beyond the training data's angles that is no excess yet
SCORES = ("jerk", "limits", "speed", "consistency", "uncertainty")  # of `scores`; more is worse in each


def scores(decoded: Decoded, known: dict[str, np.ndarray]) -> dict[str, float]:
    """Five figures of one motion, each larger for a worse one.

    Args:
        known: the model's `statistics`.

    Returns:
        jerk: root mean square of the targets' third derivative, rad/s^3; limits: largest angle beyond the range of the
        training data, rad; speed: highest speed of a target, as a multiple of the training data's; consistency: root
        mean square of what the joints are off at the next row from the targets, rad; uncertainty: mean predicted
        standard deviation, degrees.
    """
    targets, joints, fps = decoded.targets.astype(float), decoded.joints.astype(float), decoded.fps
    beyond = np.maximum(known["low"] - targets, targets - known["high"])
    speeds = np.abs(np.diff(targets, axis=0)).max(0, initial=0) * fps / np.maximum(known["speed"], 0.05)
    return {
        "jerk": _rms(np.diff(targets, 3, axis=0) * fps**3),
        "limits": float(max(0.0, beyond.max() - MARGIN)),
        "speed": float(speeds.max()),
        "consistency": _rms(joints[1:] - targets[:-1]),
        "uncertainty": float(np.degrees(decoded.deviation.mean())),
    }


def _rms(values: np.ndarray) -> float:
    """Root mean square, 0 where there are no values, as in a video of one frame."""
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0
