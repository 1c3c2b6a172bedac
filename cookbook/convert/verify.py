"""Verifying a conversion: the written files are read again, in a new process, and compared bit by bit.

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
from safetensors.torch import load_file
from torch import Tensor

from cookbook import runs
from cookbook.convert import weights
from cookbook.convert.weights import EMA, NET, Lazy, Weights
from cookbook.errors import UserError, last_line
from cookbook.models import names

CHECKPOINT = "checkpoints/iter_000000000/model"  # written from a native file: a checkpoint at step 0
ADAPTER = "lora/pytorch_lora_weights.safetensors"  # diffusers' own name for it


@dataclass(frozen=True)
class Check:
    """One file against the checkpoint. `max_abs_diff` is None where names, shapes or dtypes already differ."""

    file: str
    tensors: int
    dtype: str
    max_abs_diff: float | None
    problem: str | None  # the first one; None where all is equal


def expected(trained: Weights) -> dict[str, Mapping[str, Tensor]]:
    """What each exported file must hold, in native names with their prefix. A native file becomes a checkpoint."""
    net, ema, dtype = trained.net, trained.ema, trained.dtype
    pipeline = {"diffusers/transformer": _state({NET: (ema, dtype)})}
    if trained.native:
        return {CHECKPOINT: _state({NET: (net, None), EMA: (ema, torch.float32)})} | pipeline
    files = {
        "model.pt": _state({NET: (net, None), EMA: (ema, None)}, trained.buffers),
        "model_ema_fp32.pt": _state({NET: (ema, torch.float32)}, trained.buffers),
        "model_ema_bf16.pt": _state({NET: (ema, torch.bfloat16)}, trained.buffers),
    }
    adapter = {} if trained.adapter is None else {ADAPTER: _state({NET: (trained.adapter, None)})}
    return files | pipeline | adapter


def _state(
    parts: dict[str, tuple[Mapping[str, Tensor], torch.dtype | None]],
    buffers: Mapping[str, Tensor] = MappingProxyType({}),
) -> Lazy:
    """The tensors of each part behind its prefix, in its dtype (None: as they are), and the buffers with each part."""

    def tensor(name: str) -> Tensor:
        prefix = next(prefix for prefix in parts if name.startswith(prefix))
        (state, dtype), name = parts[prefix], name.removeprefix(prefix)
        if name in buffers:
            return buffers[name]
        return state[name] if dtype is None else state[name].to(dtype)

    return Lazy((prefix + name for prefix, (state, _) in parts.items() for name in (*state, *buffers)), tensor)


def read_export(path: Path) -> Mapping[str, Tensor]:
    """The content of an exported file or folder, in native names with their prefix; mapped, not loaded."""
    if path.suffix == ".safetensors":
        state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
        return names.as_native({re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", n): t for n, t in state.items()})
    if (path / ".metadata").exists():
        return weights.read_folder(path)[0]
    if path.is_dir():
        return weights.read_transformer(path, NET)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def compare(file: str, checkpoint: Mapping[str, Tensor], export: Mapping[str, Tensor]) -> Check:
    """Names, shapes, dtypes and every bit, one tensor at a time."""
    problems = [f"{name} is missing" for name in sorted(checkpoint.keys() - export.keys())]
    problems += [f"{name} is not in the checkpoint" for name in sorted(export.keys() - checkpoint.keys())]
    dtypes: set[str] = set()
    differing, gap = [], 0.0
    for name in sorted(checkpoint.keys() & export.keys()):
        want, have = checkpoint[name], export[name]
        if names.to_diffusers(name.removeprefix(EMA)) is not None:  # a weight, no bookkeeping
            dtypes.add(str(have.dtype).removeprefix("torch."))
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(f"{name} is {have.dtype} {list(have.shape)}, expected {want.dtype} {list(want.shape)}")
        elif not same_bits(want, have):
            differing.append(name)
            gap = max(gap, float((want.float() - have.float()).abs().max()))
    if problems:
        return Check(file, len(export), "/".join(sorted(dtypes)), None, problems[0])
    problem = f"{differing[0]} and {len(differing) - 1} more differ from the checkpoint" if differing else None
    return Check(file, len(export), "/".join(sorted(dtypes)), gap, problem)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal bit by bit, so that 0 and -0 differ and a NaN equals itself."""
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def verify(export: Path, checkpoint: Path, models: Path) -> list[Check]:
    """Every exported file against the checkpoint, in this process."""
    states = expected(weights.read(checkpoint, models))
    return [compare(file, state, read_export(export / file)) for file, state in states.items()]


def verify_in_new_process(export: Path, checkpoint: Path, models: Path) -> list[Check]:
    """`verify` in a process that shares no memory with the one that wrote the files."""
    root = str(runs.ASSETS.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "cookbook.convert.verify", str(export), str(checkpoint), str(models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{export} cannot be read back: {last_line(done.stderr.strip() or 'no message')}")
    return [Check(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith('{"file"')]


def table(checks: list[Check]) -> str:
    """The checks as text."""
    width = max(24, *(len(check.file) for check in checks))
    lines = [f"{'file':{width}}{'tensors':>8}  {'dtype':18}{'max |difference|':>17}"]
    for check in checks:
        gap = "-" if check.max_abs_diff is None else f"{check.max_abs_diff:g}"
        result = check.problem or "equal bit by bit"
        lines.append(f"{check.file:{width}}{check.tensors:8}  {check.dtype:18}{gap:>17}  {result}")
    return "\n".join(lines)


if __name__ == "__main__":
    for row in verify(*map(Path, sys.argv[1:])):
        print(json.dumps(asdict(row)))
