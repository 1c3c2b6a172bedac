"""The training loop. Everything random is a function of (seed, step), so a killed run repeats its losses."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from cookbook import hardware, show, storage
from cookbook.engine import checkpoint
from cookbook.engine.distributed import Group
from cookbook.engine.optim import PowerEma, adamw, local, rate_factor, trainable
from cookbook.errors import UserError
from cookbook.profiles import Recipe

LOG = "log.jsonl"

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> scalar mean over the batch
Batches = Callable[[int], Any]  # number 0, 1, ... -> this process's batch, noise included; `accumulate` of them a step


@dataclass(frozen=True)
class Trained:
    """The result of a finished run, beside the averaged weights in the model itself."""

    rows: list[dict]  # of log.jsonl
    changed: float  # largest |change| of any trained weight, before averaging

    def ends(self) -> dict[str, float]:
        """`loss_first` and `loss_last`: the mean losses of the first and of the last tenth of the steps."""
        tenth = max(1, len(self.rows) // 10)
        ends = {"loss_first": self.rows[:tenth], "loss_last": self.rows[-tenth:]}
        return {name: sum(row["loss"] for row in part) / tenth for name, part in ends.items()}


@dataclass
class Training:
    """The state of a training between two steps, and the step itself."""

    model: nn.Module
    recipe: Recipe
    seed: int
    group: Group
    dtype: torch.dtype  # of the computation
    rename: Callable[[str], str] = str  # a parameter's name in the model -> its name in the checkpoint

    def __post_init__(self) -> None:
        self.parameters = trainable(self.model)
        local_only = [name for name, parameter in self.parameters.items() if not isinstance(parameter, DTensor)]
        if local_only and self.group.size > 1:
            raise UserError(
                f"{len(local_only)} weights ({local_only[0]}, ...) are not distributed over the {self.group.size} "
                "processes: their gradients would not be synchronised; pass the model through engine.shard first"
            )
        kept = self.model.state_dict().keys()
        self.buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in kept}
        self.optimizer = adamw(self.model, self.recipe, self.group.device)
        self.ema = PowerEma(self.parameters.items(), self.recipe.ema_rate) if self.recipe.ema_rate else None
        self.step = 0  # finished steps

    def train_step(self, loss_fn: Loss, batch_at: Batches) -> dict:
        """One step: gradients of its batches, clipping, update, average. Returns its row of the log."""
        start = time.monotonic()
        rate = self.recipe.learning_rate * rate_factor(self.step, self.recipe)
        self.optimizer.param_groups[0]["lr"] = rate
        mean = self.group.total([self._gradients(loss_fn, batch_at)])[0] / self.group.size
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip_norm)
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not math.isfinite(norm):
            raise UserError(
                f"step {self.step + 1}: gradients are not finite (loss {mean:.4g}, learning rate {rate:.3g}); "
                "look for a damaged clip in the data, or lower the recipe's learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.parameters.values(), self.step)
        self.step += 1
        seconds = round(time.monotonic() - start, 3)
        return {"step": self.step, "loss": mean, "lr": rate, "grad_norm": norm, "seconds": seconds}

    def _gradients(self, loss_fn: Loss, batch_at: Batches) -> float:
        """Average the gradients of the step's batches over batches and processes; the mean loss of this process."""
        total, count = 0.0, self.recipe.accumulate
        for part in range(count):
            number = self.step * count + part
            torch.manual_seed((self.seed * 1_000_003 + number) * self.group.size + self.group.rank)  # for dropout
            if isinstance(self.model, FSDPModule):  # reduced among shards every time, among replicas once a step
                self.model.set_requires_all_reduce(part == count - 1)
            with autocast(self.model, self.group.device, self.dtype):
                loss = loss_fn(self.model, batch_at(number))
            (loss / count).backward()
            total += float(loss.detach()) / count
        return total

    def state(self) -> checkpoint.State:
        """Every tensor of a checkpoint, by part, sharing the memory that training uses."""
        named = {self.rename(name): parameter for name, parameter in self.parameters.items()}
        averages = {self.rename(name): average for name, average in self.ema.weights.items()} if self.ema else {}
        return {
            "model": {f"net.{name}": parameter.detach() for name, parameter in named.items()}
            | {f"net.{self.rename(name)}": buffer for name, buffer in self.buffers.items()}  # such as of batch norm
            | {f"net_ema.{name}": average for name, average in averages.items()},
            "optim": {
                f"state.{name}.{key}": value
                for name, parameter in named.items()
                for key, value in self.optimizer.state[parameter].items()
            },
            "scheduler": {"last_epoch": torch.tensor(self.step)},
            "trainer": {"iteration": torch.tensor(self.step)},
        }

    def resume(self, folder: Path) -> None:
        """Load the newest checkpoint, if any, and cut the log back to it."""
        if path := checkpoint.find_latest(folder):
            state = self.state()
            checkpoint.load(path, state, self.group)
            self.step = int(state["trainer"]["iteration"])
            self.group.print(f"train: continuing from {path.name}")
        if self.group.main:
            done = [row for row in storage.read_rows(folder / LOG) if row["step"] <= self.step]
            storage.write_rows(folder / LOG, done)
        self.group.barrier()

    @torch.no_grad()
    def adopt_averages(self) -> None:
        """Put the EMA's weights into the model."""
        for name, average in self.ema.weights.items():
            local(self.parameters[name].detach()).copy_(local(average))


def fit(
    model: nn.Module,
    loss_fn: Loss,
    batch_at: Batches,
    recipe: Recipe,
    folder: Path,
    seed: int,
    group: Group,
    dtype: torch.dtype,
    rename: Callable[[str], str] = str,
) -> Trained:
    """Train `model` in place for `recipe.steps`, continuing from the newest checkpoint in `folder` if there is one.

    Args:
        model: from `engine.shard`; parameters with requires_grad are trained. At the end it holds the EMA weights.
        batch_at: number -> batch of this process. It must be a pure function, else a resumed run differs.
        dtype: of the computation; weights of another dtype are used through autocast.
        rename: a parameter's name in the model -> its name in the checkpoint.

    Raises:
        UserError: gradients that are not finite, a checkpoint that does not fit, or no disk for the next.
    """
    training = Training(model, recipe, seed, group, dtype, rename)
    before = [local(parameter.detach()).cpu().clone() for parameter in training.parameters.values()]
    training.resume(folder)
    due = {*range(recipe.save_every, recipe.steps, recipe.save_every), recipe.steps}  # steps after which to save
    saver = checkpoint.Saver(folder, recipe, group)
    try:
        saver.require_disk(training.state(), sum(step > training.step for step in due))
        steps = range(training.step, recipe.steps)
        row: dict = {}
        progress = show.progress(steps, "train: steps", note=lambda: f", loss {row['loss']:.4f}")
        for _ in progress if group.main and steps else steps:
            row = training.train_step(loss_fn, batch_at)
            if group.main:
                storage.append_row(folder / LOG, row)
            if training.step in due:
                saver.save(training.step, training.state())
    finally:
        saver.close()
    group.barrier()
    after = [local(parameter.detach()).cpu() for parameter in training.parameters.values()]
    pairs = ((new.float(), old.float()) for new, old in zip(after, before, strict=True) if old.numel())
    changed = max(float((new - old).abs().max()) for new, old in pairs)
    if training.ema:
        training.adopt_averages()
    return Trained(storage.read_rows(folder / LOG), group.largest(changed))


@contextmanager
def autocast(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype` if any weight has another, such as float32 master weights, with the fastest attention."""
    mixed = any(parameter.dtype != dtype for parameter in model.parameters())
    with hardware.fast_attention(device), torch.autocast(device.type, dtype) if mixed else nullcontext():
        yield
