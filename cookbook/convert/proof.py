"""The proof of a conversion: the written files are read again, in a process of their own, and compared bit by bit.

`python -m cookbook.convert.proof EXPORT CHECKPOINT MODELS` prints one JSON row per file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cookbook import store
from cookbook.convert import weights
from cookbook.convert.weights import EMA, NET, Weights
from cookbook.errors import UserError
from cookbook.models import names


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


def expected(trained: Weights) -> dict[str, dict[str, Tensor]]:
    """What each exported file must hold, in native names with their prefix."""
    ema = {NET + name: tensor for name, tensor in trained.ema.items()}
    both = {NET + name: tensor for name, tensor in trained.net.items()}
    both |= {EMA + name: tensor for name, tensor in trained.ema.items()}
    return {
        "model.pt": both,
        "model_ema_fp32.pt": {name: tensor.float() for name, tensor in ema.items()},
        "model_ema_bf16.pt": {name: tensor.bfloat16() for name, tensor in ema.items()},
        "diffusers/transformer": {name: tensor.to(trained.dtype) for name, tensor in ema.items()},
    }


def read_export(path: Path) -> dict[str, Tensor]:
    """An exported file, or the weights of a diffusers transformer folder, in native names with their prefix."""
    if path.is_dir():
        state: dict[str, Tensor] = {}
        for file in sorted(path.glob("*.safetensors")):
            state |= load_file(file)
        return names.as_native(state)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def compare(file: str, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> Row:
    """Names, shapes, dtypes and every bit."""
    dtypes = "/".join(sorted({str(t.dtype).removeprefix("torch.") for t in found.values()}))
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} is not in the checkpoint" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        want, have = wanted[name], found[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(f"{name} is {have.dtype} {list(have.shape)}, expected {want.dtype} {list(want.shape)}")
    if problems:
        return Row(file, len(found), dtypes, None, problems[0])
    differing = [name for name in sorted(wanted) if not same_bits(wanted[name], found[name])]
    gaps = [float((wanted[name].float() - found[name].float()).abs().max()) for name in differing]
    problem = f"{differing[0]} and {len(differing) - 1} more differ from the checkpoint" if differing else None
    return Row(file, len(found), dtypes, max(gaps, default=0.0), problem)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal bit by bit, so that 0 and -0 differ and a NaN equals itself."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def check(export: Path, checkpoint: Path, models: Path) -> list[Row]:
    """Every exported file against the checkpoint, in this process."""
    wanted = expected(weights.read(checkpoint, models))
    return [compare(file, tensors, read_export(export / file)) for file, tensors in wanted.items()]


def check_in_new_process(export: Path, checkpoint: Path, models: Path) -> list[Row]:
    """`check`, where nothing of this process's memory can be taken for the files."""
    root = str(store.ASSETS.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "cookbook.convert.proof", str(export), str(checkpoint), str(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{export} cannot be read back: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith('{"file"')]


def table(rows: list[Row]) -> str:
    """The rows as text."""
    head = f"{'file':24}{'tensors':>8}  {'dtype':18}{'max |difference|':>17}"
    lines = [
        f"{row.file:24}{row.tensors:8}  {row.dtype:18}"
        f"{'-' if row.max_abs_diff is None else format(row.max_abs_diff, 'g'):>17}  {row.problem or 'equal bit by bit'}"
        for row in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    for line in check(*map(Path, sys.argv[1:])):
        print(json.dumps(asdict(line)))
