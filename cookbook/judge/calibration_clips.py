"""Clips whose fault is known, for measuring the critic: labelled ones that ship, and spoilt copies of good ones.

The spoilt copies need no simulator, so they can be made of any clips. What each kind breaks (1 sound, 0 broken, None:
it cannot be said, and the clip is left out of that question):

| kind      | what is done                                        | physics | instruction |
|-----------|-----------------------------------------------------|---------|-------------|
| frozen    | frame 0 all along: a still scene is possible        | None    | 0           |
| reversed  | backwards in time                                   | 0       | 0           |
| shuffled  | frames in random order                              | 0       | 0           |
| spliced   | second half of another clip                         | 0       | 0           |
| pasted    | from the middle on, a region of another clip        | 0       | None        |
| erased    | from the middle on, a region is smoothed away       | 0       | None        |
| dropped   | a third of the frames cut out of the middle         | 0       | None        |
| sped_up   | three times as fast, then the last frame held       | 0       | None        |
| swapped   | the clip as it is, with the prompt of another       | None    | 0           |

Frozen and swapped clips obey physics; a critic that calls a slow clip played backwards possible is not far wrong. A
pasted or erased region may fall where nothing moves or stands, and then there is little to see.

Beside them, clips that people marked, and sound and broken ones encoded once more, for the test-retest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cookbook import runs
from cookbook.errors import UserError
from cookbook.judge import rows
from cookbook.layout import read_metadata
from cookbook.video import fit


@dataclass(frozen=True)
class CalibrationClip:
    """One clip of known truth; labels are 1 sound, 0 broken, None unknown."""

    path: Path
    kind: str  # `real`, or the fault
    prompt: str
    physics: int | None
    instruction: int | None
    scene: str  # clips of one scene resemble each other, so intervals are drawn over scenes
    corrupt: str | None = None  # fault to make when the clip is read
    other: Path | None = None  # clip that a splice or a paste takes from
    again: bool = False  # encoded once more when it is read
    marks: tuple[tuple[str, float], ...] = ()  # (question, mean mark from 1 to 5) where people said what they think

    @property
    def name(self) -> str:
        name = f"{self.path.parent.name}/{self.path.name}"
        return name + (f":{self.spoil}" if self.spoil else "") + (":again" if self.again else "")

    @property
    def questions(self) -> list[str]:
        """Those whose answer is known or marked."""
        return [q for q in ("physics", "instruction") if getattr(self, q) is not None or q in dict(self.marks)]


Corruption = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _region(frames: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice, slice, slice]:
    """A twelfth of the picture somewhere, from the middle of the clip on."""
    sizes = frames.shape[1] // 3, frames.shape[2] // 4
    begins = [int(rng.integers(0, size - part)) for size, part in zip(frames.shape[1:3], sizes, strict=True)]
    where = [slice(begin, begin + part) for begin, part in zip(begins, sizes, strict=True)]
    return slice(len(frames) // 2, None), *where, slice(None)


def _pasted(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mixed, region = frames.copy(), _region(frames, rng)
    mixed[region] = other[region]
    return mixed


def _erased(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each row of the region runs from the pixel left of it to the pixel right of it."""
    mixed, region = frames.copy(), _region(frames, rng)
    hole = mixed[region].astype(float)
    share = np.linspace(0, 1, hole.shape[2])[:, None]
    mixed[region] = hole[:, :, :1] * (1 - share) + hole[:, :, -1:] * share
    return mixed


def _dropped(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cut, third = int(rng.integers(len(frames) // 4, len(frames) // 2)), len(frames) // 3
    return np.concatenate([frames[:cut], frames[cut + third :]])


def _sped_up(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return frames[np.minimum(3 * np.arange(len(frames)), len(frames) - 1)]


CORRUPTIONS: dict[str, tuple[Corruption, int | None, int | None]] = {
    "frozen": (lambda frames, other, rng: np.repeat(frames[:1], len(frames), 0), None, 0),
    "reversed": (lambda frames, other, rng: frames[::-1], 0, 0),
    "shuffled": (lambda frames, other, rng: frames[rng.permutation(len(frames))], 0, 0),
    "spliced": (
        lambda frames, other, rng: np.concatenate([frames[: len(frames) // 2], other[len(frames) // 2 :]]),
        0,
        0,
    ),
    "pasted": (_pasted, 0, None),
    "erased": (_erased, 0, None),
    "dropped": (_dropped, 0, None),
    "sped_up": (_sped_up, 0, None),
}


def corrupt(kind: str, frames: np.ndarray, other: np.ndarray, seed: int) -> np.ndarray:
    """The clip uint8 [T, H, W, 3] with that fault; `other` lends its pixels where the fault needs a second clip."""
    length = len(frames)
    other = fit(other, *frames.shape[1:3])[np.minimum(np.arange(length), len(other) - 1)]
    return np.ascontiguousarray(CORRUPTIONS[kind][0](frames, other, np.random.default_rng(seed)))


def labelled(folder: Path, limit: int) -> list[CalibrationClip]:
    """At most `limit` controls of a folder with calibration_clips.jsonl and videos/, as many of each kind as there are."""
    path, controls = folder / "calibration_clips.jsonl", []
    for number, row in enumerate(runs.read_rows(path), 1):
        try:
            file = folder / "videos" / Path(row["file"]).name
            scene = Path(row.get("source_clip") or row["file"]).stem
            sound = bool(row["physics"])
            # whether an impossible clip did what was asked is a question without an answer
            instruction = int(row["instruction"]) if sound else None
            controls.append(CalibrationClip(file, row["kind"], row["prompt"], int(sound), instruction, scene))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {number}: a control needs file, prompt, kind, physics and instruction ({error!r})"
            ) from None
    if not controls:
        raise UserError(f"{path} holds no controls: this checkout is incomplete, clone it again")
    return stratified(controls, limit)


def stratified(controls: Sequence[CalibrationClip], limit: int) -> list[CalibrationClip]:
    """At most `limit` of them: a third sound clips, the rest shared evenly among the faults, always the same ones."""
    groups: dict[str, list[CalibrationClip]] = {}
    for control in sorted(controls, key=lambda c: runs.digest_of([c.path.name, c.kind])):
        groups.setdefault(control.kind, []).append(control)
    chosen = groups.pop("real", [])[: max(1, limit // 3)]
    while groups and len(chosen) < limit:
        for kind in sorted(groups):
            if len(chosen) < limit:
                chosen.append(groups[kind].pop(0))
            if not groups[kind]:
                del groups[kind]
    return sorted(chosen, key=lambda c: c.path.name)


def good_clips(folder: Path) -> list[CalibrationClip]:
    """The clips of a training folder (videos/, metadata.csv), taken as sound."""
    path = folder / "metadata.csv"
    if not path.exists():
        first = runs.command("prepare", folder.parents[1])
        raise UserError(f"{path} is missing: the critic is measured on training clips; type {first} first")
    videos = {video.stem: video for video in sorted((folder / "videos").glob("*.mp4"))}
    told = read_metadata(path)
    return [CalibrationClip(video, "real", told[stem], 1, 1, stem) for stem, video in videos.items() if stem in told]


def corrupted(good: Sequence[CalibrationClip], each: int) -> list[CalibrationClip]:
    """`each` spoilt copies per kind, taken in turn from the good clips, and as many with swapped prompts."""
    copies = []
    if len(good) < 2:
        raise UserError(f"{len(good)} good clips are too few to make controls of; at least 2 are needed")
    for position, (kind, (_, physics, instruction)) in enumerate(CORRUPTIONS.items()):
        for index in range(min(each, len(good))):
            clip, other = (good[(position + index + step) % len(good)] for step in (0, 1))
            copies.append(
                replace(clip, kind=kind, physics=physics, instruction=instruction, spoil=kind, other=other.path)
            )
    for index, clip in enumerate(good[:each]):
        stranger = next((g for g in (*good[index:], *good) if g.prompt != clip.prompt), None)
        if stranger:
            copies.append(replace(clip, kind="swapped", prompt=stranger.prompt, physics=None, instruction=0))
    return copies


def marked(path: Path) -> list[CalibrationClip]:
    """Clips that people marked (ratings.jsonl in the run's folder): sound from a mean of 3.5 on, broken up to 2.5."""
    told: dict[str, dict[str, list[int]]] = {}
    seen = {}
    for row in rows.read(path, rows.Mark):
        told.setdefault(row["file"], {}).setdefault(row["question"], []).append(row["mark"])
        seen[row["file"]] = row
    found = []
    for file, marks in told.items():
        clip, means = path.parent / file, {question: float(np.mean(given)) for question, given in marks.items()}
        if not clip.exists() or runs.digest(clip) != seen[file]["sha256"]:
            raise UserError(f"{clip} is missing or was changed after it was marked; delete its lines in {path}")
        labels = {q: None if 2.5 < mean < 3.5 else int(mean >= 3.5) for q, mean in means.items()}
        prompt = seen[file]["prompt"] or ""
        known = labels.get("physics"), labels.get("instruction")
        found.append(CalibrationClip(clip, "marked", prompt, *known, prompt or clip.stem, marks=tuple(means.items())))
    return found


def repeated(controls: Sequence[CalibrationClip], count: int) -> list[CalibrationClip]:
    """Some of the controls, encoded once more: half of them sound, half broken."""
    groups = [[c for c in controls if (c.kind == "real") == sound] for sound in (True, False)]
    return [replace(control, again=True) for group in groups for control in group[: count // 2]]


def listing_hash(controls: Sequence[CalibrationClip]) -> str:
    """Hash over the clips, prompts and labels of a set of controls."""
    facts = [[c.name, c.kind, c.prompt, c.physics, c.instruction, c.marks, runs.digest(c.path)] for c in controls]
    return runs.digest_of(facts)
