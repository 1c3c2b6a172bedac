"""Sample inputs of a notebook when earlier notebooks have not been run. A banner always says so.

Stand-ins for a checkpoint or for videos go to a run folder of their own, `<run>-samples`, so that nobody can take them
for results of the real run.
"""

from pathlib import Path

from cookbook import runs
from cookbook.actions.export import export_actions
from cookbook.actions.stage import actions
from cookbook.convert.stage import convert
from cookbook.generate.stage import generate
from cookbook.prepare.stage import prepare
from cookbook.show import banner
from cookbook.train.stage import train


def with_clips(profile: str, folder: Path) -> Path:
    """The run folder, with the profile's clips prepared first if notebook 01 has not done so."""
    if "prepare" not in runs.finished(folder):
        banner(f"No prepared clips in {folder}: preparing those of the profile now, as notebook 01 does.")
        prepare(profile, run=folder)
    return folder


def with_checkpoint(profile: str, folder: Path) -> Path:
    """The run folder if it has a checkpoint, otherwise a sample folder with one of two steps from the base model."""
    if "train" in runs.finished(folder):
        return folder
    banner(f"No finished training in {folder}: two quick steps stand in. You see the quality of the BASE model.")
    sample = with_clips(profile, folder.with_name(f"{folder.name}-samples"))
    train(profile, run=sample, steps=2)
    return sample


def with_generated(profile: str, folder: Path) -> Path:
    """The run folder if it has videos of both models, otherwise a sample folder (`with_checkpoint`) with a few."""
    if {"generate-tuned", "generate-base"} <= runs.finished(folder).keys():
        return folder
    sample = with_checkpoint(profile, folder)
    convert(profile, run=sample)
    for model in ("base", "tuned"):
        generate(profile, run=sample, model=model)
    return sample


def with_actions(profile: str, folder: Path) -> Path:
    """The run folder with its data set for policies, made first if notebook 05 has not done so (`with_generated`)."""
    if "actions-export" in runs.finished(folder):
        return folder
    banner(f"No data set of trajectories in {folder}: decoding videos now, as notebook 05 does.")
    sample = with_generated(profile, folder)
    actions(profile, run=sample)
    export_actions(profile, run=sample)
    return sample
