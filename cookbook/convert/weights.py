"""Reading the world model out of a training checkpoint or a native `.pt` file: complete, whole and of the right
network, or refused. Tensors are read one by one, when they are asked for: a checkpoint may be larger than the memory.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from diffusers import CosmosTransformer3DModel
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import names, sizes, world
from cookbook.models.names import EMA, NET

LORA = ".lora_"


class Lazy(Mapping[str, Tensor]):
    """A state dict whose tensors are read or computed at each access, and not kept."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Tensor]):
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Weights:
    """The trained network twice, in NVIDIA's names without prefix: as the last step left it, and averaged."""

    net: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    adapter: Mapping[str, Tensor] | None = None  # averaged LoRA matrices, where those are what was trained
    lora: tuple[int, float] | None = None  # their rank and alpha
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # what NVIDIA's network holds beside its weights

    @property
    def dtype(self) -> torch.dtype:
        """What the network was trained in."""
        return self.net[next(iter(self.net))].dtype


def find(path: Path) -> Path:
    """The checkpoint at `path`: a `.pt` file, an `iter_...` folder, or the newest one of a `checkpoints` folder."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found = path if path.is_file() or (path / "model").is_dir() else checkpoint.latest(path)
    if found is None:
        raise UserError(f"{path} holds no checkpoint: neither model/ nor {checkpoint.POINTER} is there; train first")
    return found


def read(path: Path, models: Path) -> Weights:
    """All weights of a checkpoint folder or of a native `.pt` file. Adapters (LoRA) are merged into those of `models`.

    A file with `net.*` alone, as NVIDIA releases them, is taken as the network and as its average.

    Raises:
        UserError: the checkpoint is truncated or partial, holds no EMA, or belongs to another network.
    """
    buffers = names.bookkeeping(CosmosTransformer3DModel.load_config(models / "transformer"))
    if path.is_file():
        state = world.read_native(path)
        shapes = {name: value.shape for name, value in state.items()}
        if not any(name.startswith(EMA) for name in state):
            net = _part(state, NET, shapes)
            check_shapes(path, {name: shapes[NET + name] for name in net}, models)
            return Weights(net, net, buffers=buffers)
    else:
        state, shapes = read_folder(path / "model")
    net, ema = (_part(state, prefix, shapes) for prefix in (NET, EMA))
    if not len(ema):
        raise UserError(f"{path}: no EMA weights (names with {EMA}); train with a recipe that has an ema_rate")
    if lost := sorted(net.keys() ^ ema.keys()):
        raise UserError(f"{path}: {len(lost)} weights are not there both with {NET} and {EMA} ({', '.join(lost[:3])})")
    if any(LORA in name for name in net):
        return replace(_merged(path, net, ema, {name: shapes[NET + name] for name in net}, models), buffers=buffers)
    check_shapes(path, {name: shapes[NET + name] for name in net}, models)
    return Weights(net, ema, buffers=buffers)


def _part(state: Mapping[str, Tensor], prefix: str, shapes: Mapping[str, Any]) -> Lazy:
    own = sorted(name.removeprefix(prefix) for name in shapes if name.startswith(prefix))
    return Lazy(own, lambda name: state[prefix + name])


def read_folder(folder: Path) -> tuple[Lazy, dict[str, torch.Size]]:
    """The weights of a DCP folder, read when asked for, and their shapes. Bookkeeping entries are left out."""
    metadata = _metadata(folder)
    everything = metadata.state_dict_metadata.items()
    entries = {name: entry for name, entry in everything if names.to_diffusers(name.removeprefix(EMA)) is not None}
    reader = FileSystemReader(folder)
    reader.read_metadata = lambda *_, **__: metadata  # once is enough

    def tensor(name: str) -> Tensor:
        state = {name: torch.empty(entries[name].size, dtype=entries[name].properties.dtype)}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # DCP warns that one process needs no process group
                dcp.load(state, storage_reader=reader, no_dist=True)
        except (dcp.api.CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(f"{folder} is damaged ({_last_line(error)}); convert another checkpoint") from None
        return state[name]

    return Lazy(entries, tensor), {name: entry.size for name, entry in entries.items()}


def _metadata(folder: Path) -> Metadata:
    """DCP's table of contents, after checking that every file in it is there and long enough."""
    if not (folder / ".metadata").exists():
        raise UserError(f"{folder / '.metadata'} is missing: not a checkpoint, or one that was not copied whole")
    try:
        metadata = FileSystemReader(folder).read_metadata()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise UserError(
            f"{folder / '.metadata'} is damaged ({_last_line(error)}); convert another checkpoint"
        ) from None
    needed: dict[str, int] = {}
    for info in metadata.storage_data.values():
        needed[info.relative_path] = max(needed.get(info.relative_path, 0), info.offset + info.length)
    for name, size in needed.items():
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: the checkpoint was not copied whole")
        if (have := (folder / name).stat().st_size) < size:
            raise UserError(f"{folder / name} is cut short: {have} of {size} bytes; copy the checkpoint again")
    return metadata


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


def check_shapes(path: Path, found: Mapping[str, torch.Size], models: Path) -> None:
    """Refuse names and shapes (native, without prefix) that are not those of the network of `models`."""
    expected = _shapes(models)
    problems = [f"missing {name}" for name in expected.keys() - found.keys()]
    problems += [f"unexpected {name}" for name in found.keys() - expected.keys()]
    problems += [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise UserError(f"{path}: {len(problems)} weights do not fit the network of {models} ({shown})")


def _shapes(models: Path) -> dict[str, torch.Size]:
    """Native name -> shape of the network of a diffusers folder; nothing is allocated."""
    network = sizes.on_meta(CosmosTransformer3DModel.load_config(models / "transformer"))
    return {names.to_native(name): tensor.shape for name, tensor in network.state_dict().items()}


def _merged(path: Path, net: Lazy, ema: Lazy, shapes: Mapping[str, torch.Size], models: Path) -> Weights:
    """Base weights with each pair of LoRA matrices added: W + (alpha / rank) B A, float32."""
    file = path / checkpoint.RECIPE
    if not file.exists():
        raise UserError(f"{file} is missing: without it the scale of the adapters is unknown")
    recipe = json.loads(file.read_text())
    rank, alpha = recipe["lora_rank"], recipe["lora_alpha"]
    base = _base(models)
    adapted = {name.split(LORA)[0] for name in shapes}
    expected = _shapes(models)
    for name in sorted(adapted):
        down, up = (shapes.get(f"{name}.lora_{side}.default.weight") for side in "AB")
        weight = expected.get(f"{name}.weight")
        if weight is None or down is None or up is None or (up[0], down[1]) != tuple(weight):
            raise UserError(f"{path}: the adapter of {name} is incomplete or does not fit the network of {models}")

    def added(adapters: Lazy) -> Lazy:
        def tensor(name: str) -> Tensor:
            module = name.removesuffix(".weight")
            if module not in adapted:
                return base[name].float()
            down, up = (adapters[f"{module}.lora_{side}.default.weight"].float() for side in "AB")
            return base[name].float() + alpha / rank * (up @ down)

        return Lazy(sorted(base), tensor)

    return Weights(added(net), added(ema), ema, (rank, alpha))


def _base(models: Path) -> Lazy:
    """The weights of a diffusers folder in native names."""
    files = [safe_open(file, "pt") for file in sorted((models / "transformer").glob("*.safetensors"))]
    where = {names.to_native(name): (file, name) for file in files for name in file.keys()}
    if lost := _shapes(models).keys() ^ where.keys():
        raise UserError(f"{models / 'transformer'}: {len(lost)} weights are missing or too many ({sorted(lost)[0]})")
    return Lazy(where, lambda name: where[name][0].get_tensor(where[name][1]))
