"""One process or many, by the same command: `python` gives one, `torchrun` many (gloo on CPUs, NCCL on GPUs)."""

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
    """The processes of this run, and the rank of this one among them."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def print(self, text: str) -> None:
        if self.main:
            print(text, flush=True)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def total(self, values: list[float]) -> list[float]:
        """The sum of each value over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def _reduced(self, values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def on_rank_0(self, function: Callable[[], T]) -> T | None:
        """Call `function` on rank 0 only: its value there, None on the others. A UserError there stops all."""
        value, failure = None, None
        if self.main:
            try:
                value = function()
            except UserError as error:
                failure = error
        if self.broadcast(failure and str(failure)) is None:
            return value
        raise failure or SystemExit(2)

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
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


def mesh_shape(size: int, shard: int) -> tuple[int, int]:
    """(replicas of the weights, shards of each): as many shards as there are processes, up to `shard`.

    Raises:
        UserError: some processes would have no complete replica, so their gradients would not be averaged.
    """
    shards = min(shard, size)
    if size % shards:
        divisors = ", ".join(str(n) for n in range(1, shard + 1) if size % n == 0)
        raise UserError(
            f"{size} processes are not a multiple of the recipe's shard, {shards}; start a multiple of {shards} "
            f"processes, or set shard to one of {divisors}"
        )
    return size // shards, shards


def shard(model: nn.Module, group: Group, dtype: torch.dtype, most: int = 8) -> nn.Module:
    """Move the model to the group's device; over several processes shard it with FSDP2, block by block.

    The processes form a mesh of replicas x shards (HSDP), of `most` shards at most. Gradients are averaged over all of
    them in float32. Blocks are those that the model's class declares indivisible (`_no_split_modules`). Inputs are not
    cast, so that position tables keep their precision. Weights that are not trained (under LoRA) are not
    sharded: they have no gradient and no optimizer state, and every pass would have to gather them.

    Args:
        dtype: of the computation.
    """
    if group.size == 1:
        return model.to(group.device)
    replicas, shards = mesh_shape(group.size, most)
    mesh = init_device_mesh(group.device.type, (replicas, shards), mesh_dim_names=("replicas", "shards"))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    for parameter in frozen:
        if not parameter.is_meta:  # `fill` allocates those
            parameter.data = parameter.data.to(group.device)
    mesh = mesh if replicas > 1 else mesh["shards"]
    blocks = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    for module in (*blocks, model):  # the root reshards too after a forward pass: a measurement may precede training
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params=frozen)
    return model


def fill(model: nn.Module, state: dict[str, Tensor], group: Group) -> None:
    """Give a sharded model on the device `meta` its weights.

    Args:
        state: all of them on rank 0, which sends each process its shards; empty elsewhere. So no other process ever
            holds the whole network.
    """
    model.to_empty(device=group.device)
    set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
