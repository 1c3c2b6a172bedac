"""Reading the world model out of a training checkpoint: complete, whole and of the right network, or refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from diffusers import CosmosTransformer3DModel
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from cookbook.engine import checkpoint
from cookbook.errors import UserError
from cookbook.models import names, sizes, world

NET, EMA = "net.", "net_ema."


@dataclass(frozen=True)
class Weights:
    """The trained network twice, in NVIDIA's names without prefix: as the last step left it, and averaged."""

    net: dict[str, Tensor]
    ema: dict[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """What the network was trained in."""
        return next(iter(self.net.values())).dtype


def find(path: Path) -> Path:
    """The checkpoint at `path`: an `iter_...` folder itself, or the newest one of a `checkpoints` folder."""
    found = path if (path / "model").is_dir() else checkpoint.latest(path)
    if found is None:
        raise UserError(f"{path} holds no checkpoint: neither model/ nor {checkpoint.POINTER} is there; train first")
    return found


def read(path: Path, models: Path) -> Weights:
    """All weights of the checkpoint folder `path`. Adapters (LoRA) are merged into the base weights of `models`.

    Raises:
        UserError: the checkpoint is truncated or partial, holds no EMA, or belongs to another network.
    """
    metadata = _metadata(path / "model")
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
    }
    net = {name.removeprefix(NET) for name in state if name.startswith(NET)}
    ema = {name.removeprefix(EMA) for name in state if name.startswith(EMA)}
    if not ema:
        raise UserError(f"{path}: no EMA weights (names with {EMA}); train with a recipe that has an ema_rate")
    if lost := sorted(net ^ ema):
        raise UserError(f"{path}: {len(lost)} weights are not there both with {NET} and {EMA} ({', '.join(lost[:3])})")
    lora = any(".lora_" in name for name in net)
    if not lora:
        _check_shapes(path, {name: state[NET + name].shape for name in net}, models)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DCP warns that one process needs no process group
            dcp.load(state, checkpoint_id=path / "model", no_dist=True)
    except (dcp.api.CheckpointException, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path / 'model'} is damaged ({_last_line(error)}); convert another checkpoint") from None
    parts = [{name: state[prefix + name] for name in sorted(net)} for prefix in (NET, EMA)]
    return Weights(*(_merge(path, part, models) for part in parts)) if lora else Weights(*parts)


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


def _check_shapes(path: Path, found: dict[str, torch.Size], models: Path) -> None:
    network = sizes.on_meta(CosmosTransformer3DModel.load_config(models / "transformer"))
    expected = {names.to_native(name): tensor.shape for name, tensor in network.state_dict().items()}
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


def _merge(path: Path, adapters: dict[str, Tensor], models: Path) -> dict[str, Tensor]:
    """Base weights with each pair of LoRA matrices added: W + (alpha / rank) B A, float32."""
    file = path / checkpoint.RECIPE
    if not file.exists():
        raise UserError(f"{file} is missing: without it the scale of the adapters is unknown")
    recipe = json.loads(file.read_text())
    base = names.as_native(world.load_transformer(models).state_dict(), prefix="")
    pairs = {name.split(".lora_")[0] for name in adapters}
    for name in sorted(pairs):
        down, up = (adapters.get(f"{name}.lora_{side}.default.weight") for side in "AB")
        weight = base.get(f"{name}.weight")
        if weight is None or down is None or up is None or (up.shape[0], down.shape[1]) != weight.shape:
            raise UserError(f"{path}: the adapter of {name} is incomplete or does not fit the network of {models}")
        base[f"{name}.weight"] = weight + recipe["lora_alpha"] / recipe["lora_rank"] * (up.float() @ down.float())
    return dict(sorted(base.items()))
