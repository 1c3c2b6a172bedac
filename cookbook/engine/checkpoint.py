"""Checkpoints in the published layout, written by torch.distributed.checkpoint (DCP).

checkpoints/iter_000000200/{model,optim,scheduler,trainer}/ and checkpoints/latest_checkpoint.txt. A checkpoint is
written under a hidden name and renamed when whole; the text file that points to it is written last. So whatever moment
a process is killed at, the file points to a whole checkpoint or does not exist.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from cookbook import store
from cookbook.engine.distributed import Group
from cookbook.errors import UserError
from cookbook.profiles import Recipe

POINTER = "latest_checkpoint.txt"
PARTS = ("model", "optim", "scheduler", "trainer")
RECIPE = "trainer/recipe.json"  # beside DCP's own files: how the checkpoint was made (conversion needs LoRA's scale)

State = dict[str, dict[str, Tensor]]  # part -> name -> tensor


def name_of(step: int) -> str:
    return f"iter_{step:09d}"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a training folder, or None where there is none yet."""
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    path = folder / pointer.read_text().strip()
    if not path.is_dir():
        raise UserError(f"{pointer} names {path.name}, which is not there; name another checkpoint in it or delete it")
    return path


def save(folder: Path, step: int, state: State, recipe: Recipe, group: Group) -> Path:
    """Write the checkpoint of `step` (finished steps), point to it, delete all but the newest `recipe.keep`."""
    final, hidden = folder / name_of(step), folder / f".{name_of(step)}"
    if group.main:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
    group.barrier()
    for part in PARTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DCP warns that one process needs no process group
            dcp.save(state[part], checkpoint_id=hidden / part, no_dist=group.size == 1)
    group.barrier()
    if group.main:
        store.write_json(hidden / RECIPE, dataclasses.asdict(recipe))
        shutil.rmtree(final, ignore_errors=True)  # left by a kill between the rename and the pointer
        os.replace(hidden, final)
        with store.replacing(folder / POINTER) as temporary:
            temporary.write_text(final.name + "\n")
        for old in sorted(folder.glob("iter_*"))[: -recipe.keep]:
            shutil.rmtree(old)
    group.barrier()
    return final


def load(path: Path, state: State, group: Group) -> None:
    """Read a checkpoint into the tensors of `state`, in place.

    Raises:
        UserError: a part is missing, truncated or of another model.
    """
    for part in PARTS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dcp.load(state[part], checkpoint_id=path / part, no_dist=group.size == 1)
        except (CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(f"{path / part}: not a whole checkpoint of this model ({reason}); --redo train") from None
