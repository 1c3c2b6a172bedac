"""The policy: from a picture, an instruction and the joint angles to a chunk of joint targets.

In the manner of ACT (Zhao et al. 2023, arXiv 2304.13705). Taken from the paper: the policy predicts the targets of the
next two seconds at once, from learned query tokens in a transformer that also reads the picture's feature map and the
joint angles; the loss is the mean absolute error.

Not taken: the variational autoencoder over chunks, which models the differences between human demonstrators (scripted
and decoded motions have few); temporal ensembling (part of a chunk is executed, then the next is predicted); the four
cameras and the pretrained ResNet-18. Queries and inputs share one encoder, where the paper has encoder and decoder. ACT
knows no language: here the words of the instruction are tokens too.

Words have embeddings of their own, of the vocabulary of the training set. A text encoder would bring meanings of words
that are in no demonstration, but the robot has not learned to act on those either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cookbook.actions.model import SMALLEST, restore, scaled, shrink, write
from cookbook.errors import UserError

UNKNOWN = 1  # index of a word that is not in the vocabulary; 0 fills up a short instruction


@dataclass(frozen=True)
class PolicySpec:
    """What a policy reads and predicts; `config.json` beside its weights."""

    robot: str
    joint_names: tuple[str, ...]
    fps: float  # joint targets a second, as in the training data
    chunk: int  # joint targets predicted at once
    size: tuple[int, int]  # height and width at which the network reads pictures, multiples of 16
    words: tuple[str, ...]  # vocabulary
    length: int  # words of the longest instruction
    width: int = 192
    layers: int = 4


def split_words(task: str) -> list[str]:
    """The words of an instruction, in lower case without punctuation."""
    return re.findall(r"\w+", task.lower())


def vocabulary(tasks: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """The words of instructions, and how many the longest has."""
    lists = [split_words(task) for task in tasks]
    return tuple(sorted({word for words in lists for word in words})), max(map(len, lists))


class Policy(nn.Module):
    """A picture, words and joint angles to the next `chunk` joint targets, the first for the time of the picture."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec, joints, width = spec, len(spec.joint_names), spec.width
        parts: list[nn.Module] = []
        sizes = (3, width // 6, width // 3, 2 * width // 3, width)
        for before, after in zip(sizes, sizes[1:], strict=False):  # group norm: it has no state beside its weights
            for kernel in (nn.Conv2d(before, after, 3, 2, 1), nn.Conv2d(after, after, 3, 1, 1)):
                parts += [kernel, nn.GroupNorm(8, after), nn.SiLU()]
        self.picture = nn.Sequential(*parts)
        self.word = nn.Embedding(len(spec.words) + 2, width)
        self.joint = nn.Linear(joints, width)
        tokens = (spec.size[0] // 16) * (spec.size[1] // 16) + spec.length + 1 + spec.chunk
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, 6, 4 * width, 0.1, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, spec.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, joints))
        self.register_buffer("range", torch.tensor([[0.0], [1.0]]).repeat(1, joints))
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor, words: Tensor, joints: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in -1..1, words int64 [B, L], normalised joints [B, J] -> targets [B, chunk, J]."""
        cells = self.picture(pictures.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        known = torch.cat([cells, self.word(words), self.joint(joints)[:, None]], 1)
        tokens = nn.functional.pad(known, (0, 0, 0, self.spec.chunk)) + self.position
        return self.head(self.transformer(tokens)[:, -self.spec.chunk :])

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
        return self(pictures, words, state)[0].numpy() * scale + mean

    def save(self, folder: Path) -> list[Path]:
        """Write `config.json` and `model.safetensors` (half precision, the statistics in full); returns both paths."""
        return write(self, folder)


def load(folder: Path) -> Policy:
    """A saved policy, for inference, in float32 on the CPU; errors as in `cookbook.actions.model.load`."""
    return restore(folder, lambda config: Policy(PolicySpec(**config)), "a policy")
