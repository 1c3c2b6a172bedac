"""From a video to joints: every frame with its neighbours through the model, then resampled to the robot's rate."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cookbook import video
from cookbook.actions.episodes import resample
from cookbook.actions.model import InverseDynamics, neighbours, scaled, shrink
from cookbook.errors import UserError

TOLERANCE = 0.25  # largest relative difference of the distance between frames from that in training
BATCH = 128


@dataclass(frozen=True)
class Decoded:
    """Joints of one video at `fps` rows a second, float32 [T, J] in radians each.

    targets: commanded at that time, as in the training data; deviation: predicted standard deviation of `joints`.
    """

    fps: float
    joints: np.ndarray
    targets: np.ndarray
    deviation: np.ndarray


def step_of(model: InverseDynamics, fps: float, name: Path | str) -> int:
    """The distance, in frames of a video at `fps`, of two frames that the model reads.

    Raises:
        UserError: the video is too slow for the model's distance.
    """
    step = max(1, round(model.spec.distance * fps))
    if abs(step / fps / model.spec.distance - 1) > TOLERANCE:
        raise UserError(
            f"{name}: {fps:g} frames per second; this model compares frames {model.spec.distance:.3g} s apart, for "
            f"which it needs {1 / model.spec.distance:g} or a multiple"
        )
    return step


@torch.inference_mode()
def decode_frames(model: InverseDynamics, frames: np.ndarray, fps: float, name: Path | str = "video") -> Decoded:
    """Decode frames uint8 [T, H, W, 3] at `fps`.

    Raises:
        UserError: the model cannot read pictures of this shape or rate; `name` is the video's in the message.
    """
    height, width = frames.shape[1:3]
    wanted = model.spec.shape
    if abs(width / height * wanted[0] / wanted[1] - 1) > 0.02:
        raise UserError(
            f"{name}: {width} x {height} pixels; this model was trained on {wanted[1]} x {wanted[0]} and reads "
            "pictures of the same aspect ratio"
        )
    return decode_pictures(model, shrink(frames, model.spec.size), fps, name)


@torch.inference_mode()
def decode_pictures(model: InverseDynamics, pictures: np.ndarray, fps: float, name: Path | str = "video") -> Decoded:
    """`decode_frames` for frames that already have the network's size, uint8 [T, 3, H, W]."""
    triples = neighbours(len(pictures), step_of(model, fps, name))
    tensor, device = torch.from_numpy(pictures), model.range.device
    parts = [triples[first : first + BATCH] for first in range(0, len(triples), BATCH)]
    outputs = [model(scaled(tensor[part].to(device))).float().cpu().numpy() for part in parts]
    rows = in_radians(np.concatenate(outputs), model)
    return Decoded(model.spec.fps, *(resample(x, fps, model.spec.fps) for x in rows))


def in_radians(outputs: np.ndarray, model: InverseDynamics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the network says of T moments, [T, 3, J] -> joints, targets and standard deviations, [T, J] each."""
    joints, targets, log_deviation = outputs.swapaxes(0, 1)
    mean, scale = (model.statistics()[name] for name in ("mean", "scale"))
    return joints * scale + mean, targets * scale + mean, np.exp(log_deviation.clip(-8, 4)) * scale


def decode_video(model: InverseDynamics, path: Path) -> Decoded:
    """Decode a video file; errors as in `decode_frames`."""
    frames, fps = video.read_video(path)
    return decode_frames(model, frames, fps, path)
