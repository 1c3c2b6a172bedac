"""The policy: from a picture, an instruction and the joint angles to a chunk of joint targets.

The words select what in the picture matters: a feature-wise affine map (FiLM, Perez et al. 2018, arXiv 1709.07871)
before the last convolution. The network then points: each of a few attention maps over the picture gives one expected
position and the features there (a spatial softmax, Levine et al. 2016, arXiv 1504.00702). A small residual network
turns points, words and joint angles into targets.

From ACT (Zhao et al. 2023, arXiv 2304.13705): the targets of the next seconds are predicted at once, and the loss is
their mean absolute error. Its transformer, variational autoencoder, four cameras and pretrained ResNet are left out. A
transformer over image patches, trained on 88 demonstrations, learned which hand to use and little more.

The word embeddings are trained from scratch, for the vocabulary of the training set. A text encoder would bring
meanings of words that are in no demonstration, but the robot has not learned to act on those either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cookbook.actions.model import SMALLEST, restore, scaled, shrink, write
from cookbook.errors import UserError

WORD = 64  # width of what is known of the words
UNKNOWN = 1  # index of a word that is not in the vocabulary; 0 fills up a short instruction


@dataclass(frozen=True)
class PolicySpec:
    """What a policy reads and predicts; `config.json` beside its weights."""

    robot: str
    joint_names: tuple[str, ...]
    fps: float  # joint targets a second, as in the training data
    chunk: int  # joint targets predicted at once
    size: tuple[int, int]  # height and width at which the network reads pictures, even numbers
    words: tuple[str, ...]  # vocabulary
    length: int  # words of the longest instruction
    channels: int = 32  # of the picture's features
    points: int = 8
    width: int = 384


def split_words(task: str) -> list[str]:
    """The words of an instruction, in lower case without punctuation."""
    return re.findall(r"\w+", task.lower())


def vocabulary(tasks: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """The words of instructions, and how many the longest has."""
    lists = [split_words(task) for task in tasks]
    return tuple(sorted({word for words in lists for word in words})), max(map(len, lists))


def convolution(inputs: int, outputs: int, *shape: int) -> nn.Sequential:
    """A convolution, a group normalisation, which keeps no running statistics, and SiLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, *shape), nn.GroupNorm(4, outputs), nn.SiLU())


def residual(width: int) -> nn.Sequential:
    """What is added in one block of the network that turns points into targets."""
    wide = nn.Linear(width, 2 * width)
    return nn.Sequential(nn.LayerNorm(width), wide, nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))


class Policy(nn.Module):
    """A picture, words and joint angles to the next `chunk` joint targets, the first for the time of the picture."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec, joints, channels, width = spec, len(spec.joint_names), spec.channels, spec.width
        self.first = convolution(3, channels, 5, 2, 2)
        self.next = nn.ModuleList(convolution(channels, channels, 3, 1, d, d) for d in (1, 2))
        self.last = convolution(channels, channels, 3, 1, 1)
        self.change = nn.Conv2d(channels, 1, 1)
        self.word = nn.Embedding(len(spec.words) + 2, WORD)
        self.place = nn.Parameter(0.02 * torch.randn(spec.length, WORD))  # of a word in the sentence
        self.text = nn.Sequential(nn.Linear(spec.length * WORD, 2 * WORD), nn.SiLU(), nn.Linear(2 * WORD, WORD))
        self.select = nn.Linear(WORD, 2 * channels)
        self.joint = nn.Linear(joints, WORD)
        self.query = nn.Linear(2 * WORD, spec.points * channels)
        self.key, self.value = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels // 2, 1)
        self.sharpness = nn.Parameter(torch.full((spec.points, 1), 2.0))
        self.enter = nn.Linear(spec.points * (2 + channels // 2) + 2 * WORD, width)
        self.blocks = nn.ModuleList(residual(width) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.chunk * joints))
        self.register_buffer("range", torch.tensor([[0.0], [1.0]]).repeat(1, joints))

    def forward(self, pictures: Tensor, words: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """What to do, and where the picture will have changed in the end.

        Args:
            pictures: [B, 3, H, W] in -1..1.
            words: int64 [B, L].
            joints: normalised, [B, J].

        Returns:
            Normalised targets [B, chunk, J], and logits of the change [B, H/2, W/2].
        """
        features = self.first(pictures)
        for block in self.next:
            features = features + block(features)
        text, state = self.text((self.word(words) + self.place).flatten(1)), self.joint(joints)
        scale, shift = self.select(text)[:, :, None, None].chunk(2, 1)
        features = features * (1 + scale) + shift
        features = features + self.last(features)
        points = self.point(features, torch.cat([text, state], 1))
        hidden = self.enter(torch.cat([points, text, state], 1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden).unflatten(1, (self.spec.chunk, -1)), self.change(features)[:, 0]

    def point(self, features: Tensor, context: Tensor) -> Tensor:
        """Features [B, C, H, W], words and joints [B, D] -> position and features of each point, [B, points * F]."""
        queries = self.query(context).unflatten(1, (self.spec.points, -1))
        keys, values = self.key(features).flatten(2), self.value(features).flatten(2)
        likeness = F.normalize(queries, dim=2) @ keys / keys.norm(dim=1, keepdim=True).clamp(1e-6)  # the cosine
        attention = (likeness * self.sharpness.exp()).softmax(2)
        height, width = (torch.linspace(-2, 2, edge, device=features.device) for edge in features.shape[2:])
        places = torch.cartesian_prod(height, width).to(features.dtype)
        return torch.cat([attention @ places, attention @ values.transpose(1, 2)], 2).flatten(1)

    @torch.no_grad()
    def set_statistics(self, joints: np.ndarray, targets: np.ndarray) -> None:
        """Normalise by the mean and standard deviation of the training data, [N, J] each in rad."""
        both = np.concatenate([joints, targets])
        self.range.copy_(torch.from_numpy(np.stack([both.mean(0), both.std(0) + SMALLEST])))

    def normalised(self, angles: np.ndarray) -> np.ndarray:
        """Angles [..., J] in rad, as the network reads and predicts them."""
        mean, scale = self.range.float().cpu().numpy()
        return ((angles - mean) / scale).astype(np.float32)

    def read_words(self, task: str) -> list[int]:
        """The indices of an instruction's words, `length` of them.

        Raises:
            UserError: it has more words than any instruction of the training data.
        """
        words, length = split_words(task), self.spec.length
        if len(words) > length:
            raise UserError(f"{task!r} has {len(words)} words; this policy reads instructions of at most {length}")
        known = {word: index for index, word in enumerate(self.spec.words, UNKNOWN + 1)}
        return [known.get(word, UNKNOWN) for word in words] + [0] * (length - len(words))

    @torch.inference_mode()
    def act(self, picture: np.ndarray, task: str, joints: np.ndarray) -> np.ndarray:
        """A picture uint8 [H, W, 3], an instruction and joint angles [J] -> targets [chunk, J] in rad, at `fps`."""
        pictures = scaled(torch.from_numpy(shrink(picture[None], self.spec.size)))
        words, state = torch.tensor([self.read_words(task)]), torch.from_numpy(self.normalised(joints[None]))
        mean, scale = self.range.numpy()
        return self(pictures, words, state)[0][0].numpy() * scale + mean

    def save(self, folder: Path) -> list[Path]:
        """Write `config.json` and `model.safetensors` (half precision, the statistics in full); returns both paths."""
        return write(self, folder)


def load(folder: Path) -> Policy:
    """A saved policy, for inference, in float32 on the CPU; errors as in `cookbook.actions.model.load`."""
    return restore(folder, lambda config: Policy(PolicySpec(**config)), "a policy")
