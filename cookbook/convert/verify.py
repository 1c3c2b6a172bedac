"""The proof of a conversion: the written files are read again, in a process of their own, and compared bit by bit.

`python -m cookbook.convert.verify EXPORT CHECKPOINT MODELS` prints one JSON row per file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from cookbook import runs
from cookbook.convert import weights
from cookbook.convert.weights import EMA, NET, Lazy, Weights
from cookbook.errors import UserError
from cookbook.models import names

CHECKPOINT = "checkpoints/iter_000000000/model"  # the way back: a checkpoint at step 0
ADAPTER = "lora/pytorch_lora_weights.safetensors"  # diffusers' own name for it


@dataclass(frozen=True)
class Row:
    """One file against the checkpoint. `max_abs_diff` is None where names, shapes or dtypes already differ."""

    file: str
    tensors: int
    dtype: str
    max_abs_diff: float | None
    problem: str | None  # the first thing that is wrong

    @property
    def good(self) -> bool:
        return self.problem is None


def expected(trained: Weights, back: bool = False) -> dict[str, Mapping[str, Tensor]]:
    """What each exported file must hold, in native names with their prefix.

    Args:
        back: the weights come from a native `.pt` file, so what is made of them is a checkpoint in its place.
    """

    def named(
        beside: Mapping[str, Tensor] = MappingProxyType({}), **parts: tuple[Mapping[str, Tensor], torch.dtype | None]
    ) -> Lazy:
        """Both parts behind their prefixes, each in its dtype (None: as it is), and with each what stands beside it."""
        prefixes = {"net": NET, "ema": EMA}

        def tensor(name: str) -> Tensor:
            state, dtype = parts["ema" if name.startswith(EMA) else "net"]
            name = name.removeprefix(EMA).removeprefix(NET)
            if name in beside:
                return beside[name]
            return state[name] if dtype is None else state[name].to(dtype)

        return Lazy((prefixes[part] + name for part in parts for name in (*parts[part][0], *beside)), tensor)

    pipeline = {"diffusers/transformer": named(net=(trained.ema, trained.dtype))}
    if back:
        return {CHECKPOINT: named(net=(trained.net, None), ema=(trained.ema, torch.float32))} | pipeline
    files = {
        "model.pt": {"net": (trained.net, None), "ema": (trained.ema, None)},
        "model_ema_fp32.pt": {"net": (trained.ema, torch.float32)},
        "model_ema_bf16.pt": {"net": (trained.ema, torch.bfloat16)},
    }
    files = {file: named(beside=trained.buffers, **parts) for file, parts in files.items()}
    adapter = {} if trained.adapter is None else {ADAPTER: named(net=(trained.adapter, None))}
    return files | pipeline | adapter


def read_export(path: Path) -> Mapping[str, Tensor]:
    """What an exported file or folder holds, in native names with their prefix; mapped, not loaded."""
    if path.suffix == ".safetensors":
        state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
        return names.as_native({re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", n): t for n, t in state.items()})
    if (path / ".metadata").exists():
        return weights.read_folder(path)[0]
    if path.is_dir():
        files = [safe_open(file, "pt") for file in sorted(path.glob("*.safetensors"))]
        where = {NET + names.to_native(name): (file, name) for file in files for name in file.keys()}
        return Lazy(where, lambda name: where[name][0].get_tensor(where[name][1]))
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def compare(file: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Row:
    """Names, shapes, dtypes and every bit, one tensor at a time."""
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} is not in the checkpoint" for name in sorted(found.keys() - wanted.keys())]
    dtypes: set[str] = set()
    differing, gap = [], 0.0
    for name in sorted(wanted.keys() & found.keys()):
        want, have = wanted[name], found[name]
        if names.to_diffusers(name.removeprefix(EMA)) is not None:  # of the weights
            dtypes.add(str(have.dtype).removeprefix("torch."))
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(f"{name} is {have.dtype} {list(have.shape)}, expected {want.dtype} {list(want.shape)}")
        elif not same_bits(want, have):
            differing.append(name)
            gap = max(gap, float((want.float() - have.float()).abs().max()))
    if problems:
        return Row(file, len(found), "/".join(sorted(dtypes)), None, problems[0])
    problem = f"{differing[0]} and {len(differing) - 1} more differ from the checkpoint" if differing else None
    return Row(file, len(found), "/".join(sorted(dtypes)), gap, problem)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal bit by bit, so that 0 and -0 differ and a NaN equals itself."""
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def check(export: Path, checkpoint: Path, models: Path) -> list[Row]:
    """Every exported file against the checkpoint, in this process."""
    wanted = expected(weights.read(checkpoint, models), checkpoint.is_file())
    return [compare(file, tensors, read_export(export / file)) for file, tensors in wanted.items()]


def check_in_new_process(export: Path, checkpoint: Path, models: Path) -> list[Row]:
    """`check`, where nothing of this process's memory can be taken for the files."""
    root = str(runs.ASSETS.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "cookbook.convert.verify", str(export), str(checkpoint), str(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{export} cannot be read back: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith('{"file"')]


def table(rows: list[Row]) -> str:
    """The rows as text."""
    width = max(24, *(len(row.file) for row in rows))
    head = f"{'file':{width}}{'tensors':>8}  {'dtype':18}{'max |difference|':>17}"
    lines = [
        f"{row.file:{width}}{row.tensors:8}  {row.dtype:18}"
        f"{'-' if row.max_abs_diff is None else format(row.max_abs_diff, 'g'):>17}  {row.problem or 'equal bit by bit'}"
        for row in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    for line in check(*map(Path, sys.argv[1:])):
        print(json.dumps(asdict(line)))
