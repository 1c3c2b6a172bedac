"""One process or many, by the same command: `python` gives one, `torchrun` many (gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from cookbook import hardware
from cookbook.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of this run and this one's place among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def total(self, values: list[float]) -> list[float]:
        """The sum of each value over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def mean(self, value: float) -> float:
        return self.total([value])[0] / self.size

    def largest(self, value: float) -> float:
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def _reduced(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def from_main(self, make: Callable[[], T]) -> T | None:
        """Call `make` in the main process only: its value there, None elsewhere. A UserError there stops all."""
        value, failure = None, [None]
        if self.main:
            try:
                value = make()
            except UserError as error:
                failure = [str(error)]
        if self.share(failure)[0] is not None:
            if self.main:
                raise UserError(failure[0])
            raise SystemExit(2)
        return value

    def share(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def processes() -> Iterator[Group]:
    """Join the other processes that torchrun started, if it did."""
    device = hardware.device()
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Group(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


def mesh_shape(size: int, most: int) -> tuple[int, int]:
    """(copies of the weights, processes that split each): as many processes per copy as there are, up to `most`.

    Raises:
        UserError: some processes would be left without a whole copy, and their gradients without the others'.
    """
    if most < 1:
        raise UserError(f"the recipe's shard is {most}; it must be at least 1")
    width = min(most, size)
    if size % width:
        fitting = [n for n in range(1, most + 1) if size % n == 0]
        raise UserError(
            f"{size} processes cannot hold whole copies of weights that are split over {width}: gradients would not be "
            f"synchronised; start a multiple of {width}, or set the recipe's shard to one of "
            f"{', '.join(map(str, fitting))}"
        )
    return size // width, width


def shard(model: nn.Module, group: Group, compute: torch.dtype, most: int = 8) -> nn.Module:
    """Move the model to the group's device; over several processes split it with FSDP2, block by block.

    The processes form a mesh of `copies` x processes per copy (HSDP). Gradients are averaged over all of them in
    float32. Blocks are what the model's class itself calls indivisible (`_no_split_modules`). Inputs are not cast, so
    that position tables keep their precision. Weights that are not trained (under LoRA) stay whole in each process:
    they need no gradient and no optimizer, and splitting them would send them around in every pass for nothing.
    """
    if group.size == 1:
        return model.to(group.device)
    count, width = mesh_shape(group.size, most)
    mesh = init_device_mesh(group.device.type, (count, width), mesh_dim_names=("copies", "shards"))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for parameter in frozen:
        if not parameter.is_meta:  # `fill` will give it a place
            parameter.data = parameter.data.to(group.device)
    blocks = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    for module in (*blocks, model):  # the root too lets go after a forward pass: a measurement may precede training
        fully_shard(
            module,
            mesh=mesh if count > 1 else mesh["shards"],
            mp_policy=policy,
            reshard_after_forward=True,
            ignored_params=frozen,
        )
    return model


def fill(model: nn.Module, state: dict[str, Tensor], group: Group) -> None:
    """Give a model that was split without memory (on the device `meta`) its weights.

    Args:
        state: all of them in the main process, which sends each process its share; elsewhere empty. So no other process
            ever holds the whole network.
    """
    model.to_empty(device=group.device)
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
