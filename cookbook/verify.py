"""`cookbook verify`: every stage once on almost nothing, each result against what it must be. For first contact.

Whoever has a token for the real weights learns in minutes whether they load, train, convert, generate and are judged,
before hours are spent; the table can be pasted into an issue. All of it happens in a temporary run folder.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cookbook import profiles, runs
from cookbook.errors import UserError
from cookbook.layout import find_clips, read_photos
from cookbook.models import hub, sizes, world
from cookbook.profiles import Profile
from cookbook.video import fit, read_image, read_video

CLIPS = 4  # three to train on, one held out
STEPS = 3
PHOTO_DB = 20.0  # least agreement of a clip's first frame with its photo, which only passes through the VAE


@dataclass(frozen=True)
class Row:
    """One line of the table; `good` is None where an earlier failure left nothing to check."""

    check: str
    expected: str
    found: str
    good: bool | None
    seconds: float = 0.0


def verify(profile: str = "nano") -> bool:
    """Load, first loss, three steps, convert, one clip, one verdict; prints a table of passed and failed.

    Real weights are downloaded as for the stages themselves (gated: `hf auth login` first). The temporary folder must
    take a checkpoint and its export, about 16 and 18 bytes a weight; TMPDIR says where it lies. The ranges hold for
    any trained weights; with NVIDIA's they have not been tried by us, who have no access to them.

    Args:
        profile: smoke, nano, 2b or 14b.

    Returns:
        Whether every check passed.
    """
    chosen = profiles.get(profile)
    with tempfile.TemporaryDirectory(prefix="cookbook-verify-") as folder:
        rows = check(chosen, Path(folder))
    print(table(profile, rows))
    return all(row.good for row in rows)


def check(profile: Profile, folder: Path) -> list[Row]:
    """Run every check in the folder; after the first failure the rest are listed as not run."""
    rows: list[Row] = []
    for name, expected, action in STAGES:
        if rows and not rows[-1].good:
            rows.append(Row(name, expected, "not run", None))
            continue
        clock = time.monotonic()
        try:
            found, good = action(profile, folder)
        except UserError as error:
            found, good = str(error), False
        rows.append(Row(name, expected, found, good, time.monotonic() - clock))
    return rows


def table(profile: str, rows: list[Row]) -> str:
    """The result in Markdown."""
    made = runs.environment()
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "diffusers", "transformers"))
    passed = {True: "pass", False: "**FAIL**", None: "-"}
    lines = [
        f"verify: profile {profile} on {made['device']}; {versions}",
        "",
        "| check | expected | found | seconds | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.found.replace("|", "/").replace("\n", " ")
        lines.append(f"| {row.check} | {row.expected} | {found} | {row.seconds:.1f} | {passed[row.good]} |")
    return "\n".join(lines)


def _load(profile: Profile, folder: Path) -> tuple[str, bool]:
    wanted = sum(p.numel() for p in sizes.on_meta(sizes.config(profile.world)).parameters())
    model = world.load_transformer(hub.locate(profile.world))
    found = sum(p.numel() for p in model.parameters())
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    return f"{found / 1e6:.1f} M of {wanted / 1e6:.1f} M parameters{'' if finite else ', not all finite'}", (
        found == wanted and finite
    )


def _prepare(profile: Profile, folder: Path) -> tuple[str, bool]:
    from cookbook.prepare.stage import prepare

    few = folder / "few"
    for video, caption in find_clips(hub.locate(profile.train_data))[:CLIPS]:
        target = few / "metas" / f"{video.stem}.txt"
        for parent in (few / "videos", few / "metas"):
            parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, few / "videos" / video.name)
        target.write_text(caption) if isinstance(caption, str) else shutil.copyfile(caption, target)
    made = prepare(profile.name, run=folder / "run", train=few)
    return f"{made['clips']} clips, {made['photos']} photos", made["clips"] == CLIPS and made["photos"] > 0


def _train(profile: Profile, folder: Path) -> tuple[str, bool]:
    from cookbook.train.stage import train

    made = train(profile.name, run=folder / "run", steps=STEPS)
    before, still = made["heldout_before"], made["heldout_zero_velocity"]
    return f"{before:.3f}, {before / still:.2f} of {still:.3f}", before <= (
        profile.recipe.first_loss or math.inf
    ) * still


def _steps(profile: Profile, folder: Path) -> tuple[str, bool]:
    made = runs.read_manifest(folder / "run" / "checkpoints")
    rows = runs.read_rows(folder / "run" / "checkpoints" / "log.jsonl")
    losses, moved = [row["loss"] for row in rows], made["weights_changed"]
    most = 2 * sum(row["lr"] for row in rows)  # AdamW's step is about the learning rate, and rarely much more
    good = len(rows) == STEPS and all(math.isfinite(loss) for loss in losses) and 0 < moved <= most
    drift = abs(made["heldout_after"] - made["heldout_before"]) / made["heldout_zero_velocity"]
    shown = ", ".join(f"{loss:.3f}" for loss in losses)
    return f"losses {shown}; moved {moved:.2g} of {most:.2g}; held out by {drift:.3f}", good and drift < 0.1


def _convert(profile: Profile, folder: Path) -> tuple[str, bool]:
    from cookbook.convert.stage import convert

    made = convert(profile.name, run=folder / "run")
    return f"largest difference {made['max_abs_diff']:g}", made["max_abs_diff"] == 0


def _generate(profile: Profile, folder: Path) -> tuple[str, bool]:
    from cookbook.generate.stage import generate

    photo = read_photos(folder / "run" / "data" / "eval")[0]
    one = folder / "one"
    one.mkdir()
    shutil.copyfile(photo.image, one / photo.image.name)
    (one / f"{photo.image.stem}.txt").write_text(photo.prompt)
    generate(profile.name, run=folder / "run", requests=one, seeds=1)
    (row,) = runs.read_rows(folder / "run" / "dreams" / "tuned" / "dreams.jsonl")
    if row["blocked"]:
        return f"blocked by the {row['reason']}", False
    frames, _ = read_video(folder / "run" / "dreams" / "tuned" / row["file"])
    clip = profile.clip
    given = fit(read_image(photo.image)[None], clip.height, clip.width)[0]
    error = np.mean((frames[0].astype(float) - given) ** 2)
    decibel = 10 * math.log10(255**2 / max(error, 1e-9))
    shape = frames.shape[:3] == (clip.frames, clip.height, clip.width)
    size = f"{len(frames)} frames of {frames.shape[1]}x{frames.shape[2]}"
    return f"{size}, first frame {decibel:.1f} dB", shape and decibel >= PHOTO_DB


def _judge(profile: Profile, folder: Path) -> tuple[str, bool]:
    from cookbook.judge.stage import judge

    judge(profile.name, run=folder / "run", clips=folder / "run" / "dreams" / "tuned")
    rows = runs.read_rows(folder / "run" / "verdicts-tuned" / "verdicts.jsonl")
    scores = {row["question"]: row["score"] for row in rows}
    good = len(scores) == 2 and all(score is not None and 1 <= score <= 5 for score in scores.values())
    return ", ".join(f"{question} {score}" for question, score in scores.items()), good


Action = Callable[[Profile, Path], tuple[str, bool]]
STAGES: tuple[tuple[str, str, Action], ...] = (
    ("load", "every weight, all finite", _load),
    ("clips", f"{CLIPS} clips, some photos", _prepare),
    ("first loss", "far below that of no model: 0.7 of it or less (2B: about 0.03 reported)", _train),
    ("three steps", "finite; weights moved, by no more than AdamW can; held-out loss hardly changed", _steps),
    ("convert", "difference 0", _convert),
    ("one clip", f"the profile's size; first frame like the photo, {PHOTO_DB:g} dB or more", _generate),
    ("one verdict", "two scores from 1 to 5", _judge),
)
