"""Calibration clips: clips with known faults, to measure the critic on.

Some ship with labels. Others are corrupted copies of valid clips, which need no simulator (`CORRUPTIONS`). Clips that
people rated are calibration clips too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from cookbook import runs, storage
from cookbook.errors import UserError
from cookbook.judge.rows import QUESTIONS, HumanRating, read_validated
from cookbook.layout import find_videos, plain, read_metadata
from cookbook.video import fit

FAULTS = {  # kind of clip -> how it differs from a valid clip: faults of the simulator, then `CORRUPTIONS`
    "real": "nothing",
    "teleport": "the object jumps to its final place",
    "vanish": "the object disappears",
    "levitate": "the object rises by itself, and the hand never gets it",
    "sink": "let go, the object sinks through what it lies on",
    "premove": "the object slides away before it is touched",
    "duplicate": "a second one of the object stays behind when it is lifted",
    "passthrough": "the hand passes through the object, which stays where it is",
    "float_release": "the object hangs in the air where it was carried",
    "morph": "the object changes its colour",
    "distractor_moves": "another object slides by itself",
    "arm_in_table": "the hand dips through the table on its way",
    "wrong_object": "the hand takes another object than the one named",
    "wrong_place": "the object ends in another place than the one named",
    "wrong_hand": "the other hand does it",
    "not_completed": "the hand stops half-way",
    "frozen": "frame 0 all along: possible, but nothing is done",
    "reversed": "backwards in time",
    "shuffled": "frames in random order",
    "spliced": "the second half of another clip",
    "pasted": "from the middle on, a region of another clip",
    "erased": "from the middle on, a region smoothed away",
    "dropped": "a third of the frames cut out of the middle",
    "sped_up": "three times as fast, then the last frame held",
    "swapped": "the clip as it is, with the prompt of another",
}


@dataclass(frozen=True)
class CalibrationClip:
    """One clip with a label for each question: 1 valid, 0 invalid, None unknown."""

    path: Path
    kind: str  # `real`, or the fault
    prompt: str
    physics: int | None
    instruction: int | None
    scene: str  # clips of one scene resemble each other, so intervals are computed over scenes
    corruption: str | None = None  # applied when the clip is read
    other: Path | None = None  # second clip for a splice or a paste
    reencoded: bool = False  # encoded a second time when it is read
    ratings: tuple[tuple[str, float], ...] = ()  # (question, mean rating from 1 to 5) where people rated the clip

    @property
    def name(self) -> str:
        name = f"{self.path.parent.name}/{self.path.name}"
        return name + (f":{self.corruption}" if self.corruption else "") + (":again" if self.reencoded else "")

    @property
    def questions(self) -> list[str]:
        """Those with a label or a rating."""
        return [q for q in QUESTIONS if getattr(self, q) is not None or q in dict(self.ratings)]


Corruption = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _region(frames: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice, slice, slice]:
    """A random twelfth of the frame, from the middle of the clip on."""
    sizes = frames.shape[1] // 3, frames.shape[2] // 4
    starts = [int(rng.integers(0, size - part)) for size, part in zip(frames.shape[1:3], sizes, strict=True)]
    area = [slice(start, start + part) for start, part in zip(starts, sizes, strict=True)]
    return slice(len(frames) // 2, None), *area, slice(None)


def _pasted(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mixed, region = frames.copy(), _region(frames, rng)
    mixed[region] = other[region]
    return mixed


def _erased(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each row of the region is interpolated from its left edge to its right edge."""
    mixed, region = frames.copy(), _region(frames, rng)
    hole = mixed[region].astype(float)
    share = np.linspace(0, 1, hole.shape[2])[:, None]
    mixed[region] = hole[:, :, :1] * (1 - share) + hole[:, :, -1:] * share
    return mixed


def _dropped(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cut, third = int(rng.integers(len(frames) // 4, len(frames) // 2)), len(frames) // 3
    return np.concatenate([frames[:cut], frames[cut + third :]])


def _spliced(frames: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([frames[: len(frames) // 2], other[len(frames) // 2 :]])


# Corruption -> function, then the labels for physics and instruction. A frozen or swapped clip obeys physics. A pasted
# or erased region may miss the object, so the instruction may still be carried out: that label is unknown.
CORRUPTIONS: dict[str, tuple[Corruption, int | None, int | None]] = {
    "frozen": (lambda frames, other, rng: np.repeat(frames[:1], len(frames), 0), None, 0),
    "reversed": (lambda frames, other, rng: frames[::-1], 0, 0),
    "shuffled": (lambda frames, other, rng: frames[rng.permutation(len(frames))], 0, 0),
    "spliced": (_spliced, 0, 0),
    "pasted": (_pasted, 0, None),
    "erased": (_erased, 0, None),
    "dropped": (_dropped, 0, None),
    "sped_up": (lambda frames, other, rng: frames[np.minimum(3 * np.arange(len(frames)), len(frames) - 1)], 0, None),
}


def corrupt(kind: str, frames: np.ndarray, other: np.ndarray, seed: int) -> np.ndarray:
    """A corrupted copy of a clip uint8 [T, H, W, 3]; `other` is the second clip of a splice or a paste."""
    length = len(frames)
    other = fit(other, *frames.shape[1:3])[np.minimum(np.arange(length), len(other) - 1)]
    return np.ascontiguousarray(CORRUPTIONS[kind][0](frames, other, np.random.default_rng(seed)))


def labelled(folder: Path, limit: int) -> list[CalibrationClip]:
    """At most `limit` clips of a folder with calibration_clips.jsonl and videos/; see `stratified`.

    Raises:
        UserError: no rows, or a row that lacks a field, with its line number.
    """
    path, clips = folder / "calibration_clips.jsonl", []
    for number, row in enumerate(storage.read_rows(path), 1):
        try:
            file = folder / "videos" / Path(row["file"]).name
            scene = Path(row.get("source_clip") or row["file"]).stem
            # whether an impossible clip carried out its instruction is undefined
            labels = {q: int(row[q]) if row["physics"] or q == "physics" else None for q in QUESTIONS}
            clips.append(CalibrationClip(file, row["kind"], row["prompt"], scene=scene, **labels))
        except (KeyError, TypeError, ValueError) as error:
            fields = f"file, prompt, kind, {' and '.join(QUESTIONS)}"
            raise UserError(f"{path}, line {number}: needs {fields} ({error!r})") from None
    if not clips:
        raise UserError(f"{path} holds no calibration clips: this checkout is incomplete, clone it again")
    return stratified(clips, limit)


def stratified(clips: Sequence[CalibrationClip], limit: int) -> list[CalibrationClip]:
    """At most `limit` of them, always the same: a third valid clips, the rest shared evenly among the faults."""
    groups: dict[str, list[CalibrationClip]] = {}
    for clip in sorted(clips, key=lambda c: storage.digest_of([c.path.name, c.kind])):
        groups.setdefault(clip.kind, []).append(clip)
    valid = groups.pop("real", [])[: max(1, limit // 3)]
    rounds = zip_longest(*(groups[kind] for kind in sorted(groups)))  # one clip of each fault, as long as it has any
    invalid = [clip for clips in rounds for clip in clips if clip]
    return sorted([*valid, *invalid][:limit], key=lambda c: c.path.name)


def training_clips(folder: Path) -> list[CalibrationClip]:
    """The clips of a training folder (videos/, metadata.csv), assumed to be valid."""
    path = folder / "metadata.csv"
    if not path.exists():
        first = runs.command("prepare", folder.parents[1])
        raise UserError(f"{path} is missing, but the critic is calibrated on training clips; type {first} first")
    prompts = read_metadata(path)
    videos = [(video, plain(video.stem)) for video in find_videos(folder / "videos")]
    return [CalibrationClip(v, "real", prompts[stem], 1, 1, scene=v.stem) for v, stem in videos if stem in prompts]


def corrupted(valid: Sequence[CalibrationClip], each: int) -> list[CalibrationClip]:
    """`each` corrupted copies per kind, of the valid clips in turn, and as many clips with swapped prompts."""
    copies = []
    if len(valid) < 2:
        raise UserError(f"{len(valid)} valid clips are too few to corrupt; at least 2 are needed")
    for position, (kind, (_, physics, instruction)) in enumerate(CORRUPTIONS.items()):
        labels = {"physics": physics, "instruction": instruction}
        for index in range(min(each, len(valid))):
            clip, other = (valid[(position + index + step) % len(valid)] for step in (0, 1))
            copies.append(replace(clip, kind=kind, **labels, corruption=kind, other=other.path))
    for index, clip in enumerate(valid[:each]):
        stranger = next((c for c in (*valid[index:], *valid) if c.prompt != clip.prompt), None)
        if stranger:
            copies.append(replace(clip, kind="swapped", prompt=stranger.prompt, physics=None, instruction=0))
    return copies


def rated(path: Path) -> list[CalibrationClip]:
    """Clips that people rated (ratings.jsonl in the run's folder): valid from a mean of 3.5 on, invalid up to 2.5.

    Raises:
        UserError: a row that is no rating, or a clip that is missing or was changed.
    """
    by_file: dict[str, list[dict]] = {}
    for row in read_validated(path, HumanRating):
        by_file.setdefault(row["file"], []).append(row)
    clips = []
    for file, rows in by_file.items():
        clip, prompt = path.parent / file, rows[-1]["prompt"] or ""
        if not clip.exists() or storage.digest(clip) != rows[-1]["sha256"]:
            raise UserError(f"{clip} is missing or was changed after it was rated; delete its lines in {path}")
        questions = dict.fromkeys(row["question"] for row in rows)
        means = {q: float(np.mean([row["rating"] for row in rows if row["question"] == q])) for q in questions}
        labels = {q: None if 2.5 < mean < 3.5 else int(mean >= 3.5) for q, mean in means.items()}
        facts = {q: labels.get(q) for q in QUESTIONS} | {"scene": prompt or clip.stem, "ratings": tuple(means.items())}
        clips.append(CalibrationClip(clip, "rated", prompt, **facts))
    return clips


def reencoded(clips: Sequence[CalibrationClip], count: int) -> list[CalibrationClip]:
    """`count` of the clips, to be encoded a second time: half of them valid, half with a fault."""
    groups = [[clip for clip in clips if (clip.kind == "real") == valid] for valid in (True, False)]
    return [replace(clip, reencoded=True) for group in groups for clip in group[: count // 2]]


def listing_hash(clips: Sequence[CalibrationClip]) -> str:
    """Hash over the names, prompts, labels and contents of clips."""
    facts = [
        [c.name, c.kind, c.prompt, *(getattr(c, q) for q in QUESTIONS), c.ratings, storage.digest(c.path)]
        for c in clips
    ]
    return storage.digest_of(facts)
