"""Checkpoints in the published layout, written by torch.distributed.checkpoint (DCP).

checkpoints/iter_000000200/{model,optim,scheduler,trainer}/ and checkpoints/latest_checkpoint.txt. A checkpoint is
written under a hidden name and renamed when complete; the text file that names it is written last. If a process is
killed at any moment, that file names a complete checkpoint or does not exist. Training continues while files are
written. It waits only while the state is copied, and for the previous checkpoint.
"""

import dataclasses
import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from cookbook import storage
from cookbook.engine.distributed import Group
from cookbook.engine.metadata import Reader
from cookbook.errors import UserError, last_line
from cookbook.profiles import Recipe

POINTER = "latest_checkpoint.txt"
PARTS = ("model", "optim", "scheduler", "trainer")
RECIPE = "trainer/recipe.json"  # beside DCP's own files: how the checkpoint was trained (conversion needs LoRA's scale)
FORMAT = 1  # version of this layout, in recipe.json

# One process needs no process group. The filter stays, because DCP warns from its own threads.
warnings.filterwarnings("ignore", message=".*assuming the intent is to (save|load) in a single process")

State = dict[str, dict[str, Tensor]]  # part -> name -> tensor


def find_latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a training folder, or None where there is none yet."""
    pointer = folder / POINTER
    if not pointer.exists():
        return None
    path = folder / pointer.read_text().strip()
    if not path.is_dir():
        raise UserError(f"{pointer} names {path.name}, which is missing; name another checkpoint in it, or delete it")
    return path


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that a checkpoint was trained with.

    Raises:
        UserError: the file is missing, or the checkpoint has another format.
    """
    if not (path / RECIPE).exists():
        raise UserError(f"{path / RECIPE} is missing: the scale of the LoRA adapters is unknown; copy it too")
    recipe = storage.read_json(path / RECIPE)
    if recipe.pop("format", FORMAT) != FORMAT:
        raise UserError(f"{path / RECIPE}: a checkpoint of another version of the cookbook; train again, with --redo")
    return recipe


class Saver:
    """Writes checkpoints while training continues: `save` copies the state to host memory, threads write it to disk."""

    def __init__(self, folder: Path, recipe: Recipe, group: Group):
        self.folder, self.recipe, self.group = folder, recipe, group
        # A thread per part writes it; each needs its own channel, lest messages mix with another's or with training's
        self.channels = {part: dist.new_group(backend="gloo") if group.size > 1 else None for part in PARTS}
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future | None = None

    def require_disk(self, state: State, left: int) -> None:
        """Refuse to begin if the disk cannot hold the `left` remaining checkpoints; `keep` + 1 of them exist at once.

        Raises:
            UserError: with the space that is needed and the space that is free.
        """

        def require() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            count = min(left, max(1, self.recipe.keep + 1 - len(list(self.folder.glob("iter_*")))))
            tensors = [tensor for part in state.values() for tensor in part.values()]  # shards of all processes
            needed = count * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            free = shutil.disk_usage(self.folder).free
            if free < 1.02 * needed:
                raise UserError(
                    f"{self.folder} has {free / 1e9:.2f} GB free and needs {needed / 1e9:.2f} GB for {count} "
                    "checkpoint(s); free some space, name another --run folder, or lower the recipe's keep"
                )

        self.group.on_rank_0(require)

    def save(self, step: int, state: State) -> None:
        """Begin the checkpoint of `step` (finished steps); `state` may change as soon as this returns.

        Raises:
            UserError: the previous checkpoint could not be written, or there is no space for this one.
        """
        self.wait()
        self.require_disk(state, 1)
        name = f"iter_{step:09d}"
        hidden = self.folder / f".{name}"
        if self.group.main:
            storage.remove(hidden)
            hidden.mkdir(parents=True)
        self.group.barrier()
        alone = self.group.size == 1
        writes = [
            dcp.async_save(state[part], checkpoint_id=hidden / part, process_group=self.channels[part], no_dist=alone)
            for part in PARTS
        ]
        self.pending = self.thread.submit(self._publish, hidden, self.folder / name, writes)

    def _publish(self, hidden: Path, final: Path, writes: list[Future]) -> None:
        """When all is on disk: rename, name it in the pointer, delete all but the newest `recipe.keep`."""
        for write in writes:
            write.result()  # on rank 0, which writes DCP's table of contents, this means: of all processes
        if not self.group.main:
            return
        storage.write_json(hidden / RECIPE, {"format": FORMAT, **dataclasses.asdict(self.recipe)})
        storage.remove(final)  # left by a kill between the rename and the pointer
        os.replace(hidden, final)
        with storage.replacing(self.folder / POINTER) as temporary:
            temporary.write_text(final.name + "\n")
        print(f"checkpoint: {final}", flush=True)
        for old in sorted(self.folder.glob("iter_*"))[: -self.recipe.keep]:
            storage.remove(old)

    def wait(self) -> None:
        """Wait until the checkpoint that was begun is complete.

        Raises:
            UserError: it could not be written.
        """
        pending, self.pending = self.pending, None
        try:
            if pending:
                pending.result()
        except (CheckpointException, OSError, RuntimeError) as error:
            raise UserError(f"{self.folder}: the checkpoint could not be written ({last_line(error)})") from None

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self.thread.shutdown()


def load(path: Path, state: State, group: Group) -> None:
    """Read a checkpoint into the tensors of `state`, in place; any number of processes may have written it.

    Raises:
        UserError: a part is missing, truncated or of another model.
    """
    for part in PARTS:
        try:
            dcp.load(state[part], storage_reader=Reader(path / part), no_dist=group.size == 1)
        except (CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(
                f"{path / part}: not a complete checkpoint of this model ({last_line(error)}); train again, with --redo"
            ) from None
