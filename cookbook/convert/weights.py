"""Reading the world model out of a training checkpoint or a native `.pt` file: complete, whole and of the right
network, or refused. Each tensor is read when it is used, because a checkpoint may be larger than the memory.
"""

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor

from cookbook.engine.checkpoint import POINTER, find_latest, read_recipe
from cookbook.engine.metadata import Reader
from cookbook.errors import UserError, last_line
from cookbook.models import names, sizes, world
from cookbook.models.names import EMA, NET

LORA = ".lora_"
Reads = dict[str, Callable[[], Tensor]]  # name -> what reads or computes the tensor


class Lazy(UserDict[str, Tensor]):
    """A state dict that reads or computes a tensor at each access, and keeps none."""

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name]()


@dataclass(frozen=True)
class Weights:
    """The trained weights, of the last step and averaged, in NVIDIA's names without prefix."""

    net: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    native: bool = False  # read from a `.pt` file
    adapter: Mapping[str, Tensor] | None = None  # averaged LoRA matrices, where those were trained
    lora: tuple[int, float] | None = None  # their rank and alpha
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # what NVIDIA's network holds beside its weights


def find(path: Path) -> Path:
    """The checkpoint at `path`: a `.pt` file, an `iter_...` folder, or the newest one of a `checkpoints` folder."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    checkpoint = path if path.is_file() or (path / "model").is_dir() else find_latest(path)
    if checkpoint is None:
        raise UserError(f"{path} holds no checkpoint: neither model/ nor {POINTER} is there; train first")
    return checkpoint


def read(path: Path, models: Path) -> Weights:
    """All weights of a checkpoint folder or of a native `.pt` file. Adapters (LoRA) are merged into those of `models`.

    A file with `net.*` alone, as NVIDIA releases them, gives both the network and its average.

    Raises:
        UserError: the checkpoint is truncated or partial, holds no EMA, or belongs to another network.
    """
    native = path.is_file()
    if native:
        state: Mapping[str, Tensor] = world.read_native(path)
        shapes = {name: tensor.shape for name, tensor in state.items()}
    else:
        state, shapes = read_folder(path / "model")
    average = NET if native and not any(name.startswith(EMA) for name in shapes) else EMA
    net, ema = (_part(state, prefix, path) for prefix in (NET, average))
    if not ema:
        raise UserError(f"{path}: no EMA weights (names with {EMA}); train with a recipe that has an ema_rate")
    if lost := sorted(net.keys() ^ ema.keys()):
        raise UserError(
            f"{path}: {len(lost)} weights appear under only one of {NET} and {EMA} ({', '.join(lost[:3])}); "
            "convert another checkpoint"
        )
    shapes, buffers = {name: shapes[NET + name] for name in net}, names.bookkeeping(sizes.read_config(models))
    if not any(LORA in name for name in net):
        world.require_shapes(shapes, _shapes(models), path, models)
        return Weights(net, ema, native, buffers=buffers)
    recipe, base = read_recipe(path), read_transformer(models / "transformer")
    rank, alpha = recipe["lora_rank"], recipe["lora_alpha"]
    world.require_fitting(models)
    _require_adapters(shapes, path, models)
    merged = (_merged(base, adapter, alpha / rank) for adapter in (net, ema))
    return Weights(*merged, native, ema, (rank, alpha), buffers)


def _part(state: Mapping[str, Tensor], prefix: str, path: Path) -> Lazy:
    """The tensors behind a prefix, without it; one that is not finite is refused when it is read."""

    def tensor(name: str) -> Tensor:
        return world.finite(state[name], name, path)

    own = sorted(name for name in state if name.startswith(prefix))
    return Lazy({name.removeprefix(prefix): partial(tensor, name) for name in own})


def read_folder(folder: Path) -> tuple[Lazy, dict[str, torch.Size]]:
    """The weights of a DCP folder, read at each access, and their shapes. Bookkeeping entries are left out."""
    reader = Reader(folder)
    everything = reader.table.state_dict_metadata.items()
    entries = {name: entry for name, entry in everything if names.to_diffusers(name.removeprefix(EMA)) is not None}

    def tensor(name: str) -> Tensor:
        state = {name: torch.empty(entries[name].size, dtype=entries[name].properties.dtype)}
        try:
            dcp.load(state, storage_reader=reader, no_dist=True)
        except (dcp.api.CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(f"{folder} is damaged ({last_line(error)}); convert another checkpoint") from None
        return state[name]

    return Lazy({name: partial(tensor, name) for name in entries}), {n: entry.size for n, entry in entries.items()}


def _shapes(models: Path) -> dict[str, torch.Size]:
    """Native name -> shape of the network of a diffusers folder; nothing is allocated."""
    network = sizes.on_meta(sizes.read_config(models))
    return {names.to_native(name): tensor.shape for name, tensor in network.state_dict().items()}


def _require_adapters(shapes: Mapping[str, torch.Size], path: Path, models: Path) -> None:
    """Refuse LoRA matrices that are not in pairs, or do not fit the network of `models`."""
    expected = _shapes(models)
    for name in sorted({name.split(LORA)[0] for name in shapes}):
        down, up = (shapes.get(f"{name}.lora_{side}.default.weight") for side in "AB")
        weight = expected.get(f"{name}.weight")
        if weight is None or down is None or up is None or (up[0], down[1]) != tuple(weight):
            raise UserError(f"{path}: the adapter of {name} is incomplete or does not fit the network of {models}")


def _merged(base: Lazy, adapter: Lazy, scale: float) -> Lazy:
    """Base weights with each pair of LoRA matrices added: W + scale * B A, float32."""
    adapted = {name.split(LORA)[0] for name in adapter}

    def tensor(name: str) -> Tensor:
        module = name.removesuffix(".weight")
        if module not in adapted:
            return base[name].float()
        down, up = (adapter[f"{module}.lora_{side}.default.weight"].float() for side in "AB")
        return base[name].float() + scale * (up @ down)

    return Lazy({name: partial(tensor, name) for name in sorted(base)})


def read_transformer(folder: Path, prefix: str = "") -> Lazy:
    """The weights of a diffusers `transformer` folder, mapped, in native names behind `prefix`."""
    files = [safe_open(file, "pt") for file in world.weight_files(folder, world.DIFFUSERS)]
    return Lazy({prefix + names.to_native(n): partial(file.get_tensor, n) for file in files for n in file.keys()})
