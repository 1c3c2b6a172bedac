"""What a notebook starts from when the notebooks before it have not been run. It is always said in a banner.

Stand-ins for a checkpoint or for videos go to a run folder of their own, `<run>-samples`, so that they can never pass
for results of the real run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cookbook import runs
from cookbook.show import banner


def _done(folder: Path, stage: str) -> bool:
    return runs.read_manifest(folder / runs.FOLDERS[stage]) is not None


def with_clips(profile: str, folder: Path) -> Path:
    """The run folder, its clips prepared first where notebook 01 has not done so."""
    if not _done(folder, "prepare"):
        from cookbook.prepare.stage import prepare

        banner(f"No prepared clips in {folder}: preparing those of the profile now, as notebook 01 does.")
        prepare(profile, run=folder)
    return folder


def with_checkpoint(profile: str, folder: Path) -> Path:
    """The run folder, or without a checkpoint in it a sample folder with one of two steps from the base model."""
    if _done(folder, "train"):
        return folder
    from cookbook.train.stage import train

    banner(
        f"No finished training in {folder}: two quick steps stand in. What you see has the quality of the BASE model."
    )
    sample = folder.with_name(f"{folder.name}-samples")
    with_clips(profile, sample)
    train(profile, run=sample, steps=2)
    return sample


def with_generated(profile: str, folder: Path) -> Path:
    """The run folder, or without videos in it a sample folder with the shipped ones, or with a few made on the spot."""
    if _done(folder, "generate-tuned") and _done(folder, "generate-base"):
        return folder
    sample = folder.with_name(f"{folder.name}-samples")
    shipped = runs.ASSETS / "samples" / "generated"
    if runs.read_manifest(shipped / "tuned"):
        banner(f"No finished videos in {folder}: shipped samples stand in. Their verdicts are not those of your run.")
        shutil.copytree(shipped, sample / "generated", dirs_exist_ok=True)
        return sample
    from cookbook.convert.stage import convert
    from cookbook.generate.stage import generate

    sample = with_checkpoint(profile, folder)
    convert(profile, run=sample)
    for model in ("base", "tuned"):
        generate(profile, run=sample, model=model)
    return sample
