"""Which clips, injected faults and corrupted copies make up a training batch, and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cookbook.errors import UserError
from cookbook.judge.calibration_clips import CORRUPTIONS
from nano.critic_clips import NEVER, SHIFT, UNTRAINED, Clips, View, other_hand, plain_view

TRAINED = {kind: facts for kind, facts in CORRUPTIONS.items() if kind != "erased"}  # which is never trained on
WHOLE = tuple(kind for kind in TRAINED if kind != "dropped")  # corrupted copies as long as the clip
AT_THE_END = ("reversed", "sped_up")  # it is unknown in which frame they become impossible


@dataclass(frozen=True)
class Batch:
    """Which pixels, and the labels: 1, 0, or -1 for none, on the device."""

    view: View
    own: torch.Tensor  # [B] number of the instruction
    negative: torch.Tensor  # [B] number of a wrong one
    physics: torch.Tensor  # [B]
    instruction: torch.Tensor  # [B]
    negative_label: torch.Tensor  # [B]
    per_frame: torch.Tensor  # [B, pairs]
    per_token: torch.Tensor  # [B, pairs, rows, columns]
    describes: torch.Tensor  # [B] whether the instruction is what the clip shows


def corrupt_view(view: View, row: int, kind: str, other: int, size: tuple[int, ...], rng: np.random.Generator) -> int:
    """Corrupt one row of a view (on the CPU) as `judge.calibration_clips` does; returns its first invalid frame."""
    length, height, width = size
    frames, taken = np.arange(length), view.when.shape[1]
    if kind not in ("spliced", "pasted"):
        when = CORRUPTIONS[kind][0](frames, frames, rng)
        moved = int((when != frames[: len(when)]).argmax())
        breaks = {"frozen": NEVER, "shuffled": 1, "dropped": moved}.get(kind, length - 1)
    else:
        when, breaks, box = frames, length // 2, (0, height, 0, width)
        if kind == "pasted":
            top, left = rng.integers(0, height - height // 3), rng.integers(0, width - width // 4)
            box = (top, top + height // 3, left, left + width // 4)
        view.box[row] = torch.tensor(box)
        view.since[row], view.other[row] = breaks, other
    view.when[row] = torch.from_numpy(when[:taken].copy())
    return breaks


class Draw:
    """Endless batches: physics faults, their originals, instruction violations, corrupted copies, 5 : 5 : 3 : 3.

    Generated videos, where there are some, replace two fifths of the faults and originals, half of them successes.
    Kinds come equally often. A fault and its original in one batch differ in nothing but the fault.

    Args:
        numbers: number of each instruction, as in `BatchedCritic`.
    """

    def __init__(self, clips: Clips, numbers: Mapping[str, int], size: int) -> None:
        self.clips, self.size, self.rng = clips, size, np.random.default_rng(0)
        both = lambda text: (numbers[text], numbers[other_hand(text)])  # noqa: E731
        self.own = np.array([both(prompt) for prompt in clips.prompts])
        blank = [(0, 0)] * 8
        self.negative = np.array([[both(text) for text in texts] or blank for texts in clips.negatives])
        real, is_generated = clips.kinds == "real", clips.kinds == "generated"
        self.obedient = np.array([bool(texts) for texts in clips.negatives])
        self.valid = np.flatnonzero(real & (clips.instruction == 1))
        self.invalid = self._by_kind((clips.physics == 0) & ~np.isin(clips.kinds, UNTRAINED) & ~is_generated)
        # clips of other tasks have no faults, and are a kind of their own
        unpaired = real & (np.bincount(clips.original, minlength=len(clips)) == 1)
        self.violations = self._by_kind((clips.physics == 1) & ~unpaired & ~is_generated) + self._by_kind(unpaired)
        by_success = [np.flatnonzero(is_generated & (clips.instruction == done)) for done in (0, 1)]
        self.generated = by_success if is_generated.any() else []
        if not len(self.valid) or not self.invalid:
            raise UserError("the critic needs valid and invalid clips, but the data hold only one of the two")

    def _by_kind(self, chosen: np.ndarray) -> list[np.ndarray]:
        return [np.flatnonzero(chosen & (self.clips.kinds == kind)) for kind in sorted(set(self.clips.kinds[chosen]))]

    def _pick(self, groups: list[np.ndarray], count: int) -> np.ndarray:
        chosen = self.rng.integers(len(groups), size=count)
        return np.array([self.rng.choice(groups[index]) for index in chosen], dtype=int)

    def __call__(self, number: int, short: bool = False) -> Batch:
        """Batch number 0, 1, ...; a short one has clips cut at both ends, and copies that lack frames in the middle."""
        self.rng = np.random.default_rng([7, number])
        clips, rng, size = self.clips, self.rng, self.size
        generated = self._pick(self.generated, 0 if short or not self.generated else size * 4 // 16)
        invalid = self._pick(self.invalid, size * 5 // 16 - len(generated) // 2)
        violations = self._pick(self.violations, size * 3 // 16)
        corrupted = rng.choice(self.valid, size - 2 * len(invalid) - len(generated) - len(violations))
        rows = np.concatenate([invalid, clips.original[invalid], violations, generated, corrupted])
        frames = clips.frames
        length = frames - frames // 3 if short else frames
        start = np.zeros(size, int)
        if short:  # from an even frame, as pairs are, and not after the fault
            start = rng.integers(0, (frames - length) // 2 + 1, size) * 2
            start = np.minimum(start, np.maximum(clips.breaks[rows] - 1, 0) // 2 * 2)
        breaks = clips.breaks[rows] - start
        physics = np.where((clips.physics[rows] == 0) & (breaks < length), 0, 1)
        physics[clips.physics[rows] == -1] = -1
        instruction = np.full(size, -1) if short else clips.instruction[rows].copy()
        view = plain_view(clips, rows, start[:, None] + np.arange(length), torch.device("cpu"))
        first, only_end = size - len(corrupted), clips.kinds[rows] == "generated"
        for row in range(first, size):
            kind = "dropped" if short else str(rng.choice(WHOLE))
            other = int(rng.choice(self.valid))
            breaks[row] = corrupt_view(view, row, kind, other, tuple(clips.pixels.shape[1:4]), rng)
            _, physical, done = CORRUPTIONS[kind]
            physics[row] = -1 if physical is None else physical
            instruction[row] = -1 if done is None or short else done
            only_end[row] = kind in AT_THE_END or physical is None
        mirrored = rng.random(size) < 0.5
        obedient = self.obedient[rows] & (np.arange(size) < first) & (not short)
        side = mirrored.astype(int)
        view.mirrored[:] = torch.from_numpy(mirrored)
        view.shift[:] = torch.from_numpy(rng.integers(-SHIFT, SHIFT + 1, (size, 2)))
        if clips.reconstructed:
            soft = torch.from_numpy(rng.integers(0, 2, size) * len(clips))
            view.clip, view.other = view.clip + soft, view.other + soft
        pairs = -(-length // 2)
        per_frame = np.where(2 * np.arange(pairs) + 1 >= breaks[:, None], 0, 1)
        per_frame[only_end, :-1] = -1
        per_frame[physics == -1] = -1
        put = self._put
        return Batch(
            view.to(clips.pixels.device),
            put(self.own[rows, side]),
            put(self.negative[rows, rng.integers(8, size=size), side]),
            put(physics),
            put(instruction),
            put(np.where(obedient, 0, -1)),
            put(per_frame),
            self._per_token(rows, start // 2, pairs, mirrored, first),
            put(obedient),
        )

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.clips.pixels.device, non_blocking=True)

    def _per_token(
        self, rows: np.ndarray, skipped: np.ndarray, pairs: int, mirrored: np.ndarray, first: int
    ) -> torch.Tensor:
        """Labels of visual tokens: 0 where a clip differs from its original; none for corrupted copies."""
        when = self._put(skipped[:, None] + np.arange(pairs))
        faults = self.clips.faults[self._put(rows)[:, None], when.clamp(max=self.clips.faults.shape[1] - 1)].long()
        faults = torch.where(self._put(mirrored)[:, None, None, None], faults.flip(-1), faults)
        faults = torch.where(faults < 0, -1, 1 - faults)
        faults[first:] = -1
        faults[self._put(self.clips.kinds[rows] == "generated")] = -1
        return faults
