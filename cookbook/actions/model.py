"""The inverse dynamics model: from three frames of a video to the robot's joints in the middle one.

It is local on purpose: a network that attends to the whole clip recognises the task in the first picture and predicts
the motion that belongs to it, whatever the video shows.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cookbook import storage
from cookbook.errors import UserError, last_line

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ROWS = ("mean", "scale", "low", "high", "speed")  # of the buffer `range`: statistics of the training joints
SMALLEST = 0.01  # rad by which joints that hardly move are normalised


@dataclass(frozen=True)
class ActionSpec:
    """What a model predicts, and for which videos; `config.json` beside its weights."""

    robot: str
    joint_names: tuple[str, ...]
    fps: float  # joint targets a second: the robot's control rate, as in the training data
    distance: float  # seconds between the three frames
    shape: tuple[int, int]  # height and width of the training videos
    size: tuple[int, int]  # height and width at which the network reads them
    backbone: dict  # configuration of an image backbone of transformers; num_channels 9 stacks the frames, 3 does not
    hidden: int = 256


class InverseDynamics(nn.Module):
    """Frames at t - distance, t and t + distance to joint angles at t, joint targets at t, and a standard deviation."""

    def __init__(self, spec: ActionSpec, backbone: nn.Module | None = None) -> None:
        """The model of a spec with random weights, or with a pretrained `backbone` of that configuration."""
        from transformers import AutoBackbone, AutoConfig

        super().__init__()
        self.spec, joints = spec, len(spec.joint_names)
        self.backbone = (backbone or AutoBackbone.from_config(AutoConfig.for_model(**spec.backbone))).eval()
        with torch.no_grad():
            features = self._features(torch.zeros(1, 3, 3, *spec.size)).shape[1]
        self.head = nn.Sequential(
            nn.LayerNorm(features),
            nn.Dropout(0.1),
            nn.Linear(features, spec.hidden),
            nn.SiLU(),
            nn.Linear(spec.hidden, 3 * joints),
        )
        self.register_buffer("range", torch.tensor([[0.0], [1.0], [-1.0], [1.0], [1.0]]).repeat(1, joints))
        self.to(memory_format=torch.channels_last)

    def _features(self, frames: Tensor) -> Tensor:
        batch, channels = len(frames), self.spec.backbone["num_channels"]
        pictures = frames.flatten(1, 2).reshape(-1, channels, *frames.shape[-2:])
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return self.backbone(pictures).feature_maps[-1].reshape(batch, -1)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, 3, H, W] in -1..1 -> [B, 3, J]: normalised joints and targets, log standard deviation."""
        return self.head(self._features(frames)).unflatten(1, (3, -1))

    def statistics(self) -> dict[str, np.ndarray]:
        """Of each joint in the training data, float32 [J]: mean, scale, lowest and highest angle, highest speed."""
        return dict(zip(ROWS, self.range.float().cpu().numpy(), strict=True))

    @torch.no_grad()
    def set_statistics(self, joints: np.ndarray, targets: np.ndarray, speeds: np.ndarray) -> None:
        """Store the ranges of the training data: joints and targets [N, J] in rad, speeds [M, J] in rad/s."""
        both = np.concatenate([joints, targets])
        rows = [both.mean(0), both.std(0) + SMALLEST, both.min(0), both.max(0), np.quantile(np.abs(speeds), 0.999, 0)]
        self.range.copy_(torch.from_numpy(np.stack(rows)))

    def save(self, folder: Path) -> list[Path]:
        """Write `config.json` and `model.safetensors` (half precision, the statistics in full); returns both paths."""
        return write(self, folder)


def write(model: nn.Module, folder: Path) -> list[Path]:
    """Save a model with a `spec` and a buffer `range` to two files; returns both paths."""
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    state = {n: v.half() if v.is_floating_point() and n != "range" else v for n, v in state.items()}
    with storage.replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    storage.write_json(folder / CONFIG, asdict(model.spec))
    return [folder / CONFIG, folder / WEIGHTS]


def load(folder: Path) -> InverseDynamics:
    """A saved model, for inference, in float32 on the CPU.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the configuration.
    """
    return restore(folder, lambda config: InverseDynamics(ActionSpec(**config)), "an inverse dynamics model")


def restore(folder: Path, build: Callable[[dict], nn.Module], noun: str) -> nn.Module:
    """What `write` saved, as `build` makes it of the configuration, whose lists become tuples; errors as in `load`."""
    config = storage.read_json(folder / CONFIG)
    try:
        config = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
        model = build(config)
        state = load_file(folder / WEIGHTS)
        model.load_state_dict({n: v.float() if v.is_floating_point() else v for n, v in state.items()})
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing; copy the model again") from None
    except (SafetensorError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder} is not {noun}, or damaged ({last_line(error)})") from None
    return model.eval().requires_grad_(False)


def fingerprint(folder: Path, verb: str = "actions-train") -> str:
    """One hash over the two files of a model, which `verb` wrote."""
    if lost := next((name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()), None):
        raise UserError(f"{folder / lost} is missing; name a folder that `cookbook {verb}` wrote")
    return storage.digest_of([storage.digest(folder / name) for name in (CONFIG, WEIGHTS)])


def neighbours(count: int, step: int) -> np.ndarray:
    """Indices [count, 3] of the frames `step` before, at, and `step` after each of `count` frames, within the clip."""
    return (np.arange(count)[:, None] + np.array([-step, 0, step])).clip(0, count - 1)


def shrink(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] as the network reads them, uint8 [T, 3, *size]."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if pictures.shape[2:] != size:
        pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
    return pictures.contiguous().numpy()


def scaled(pictures: Tensor) -> Tensor:
    """uint8 0..255 -> float -1..1."""
    return pictures.float().div(127.5).sub(1)
