"""Verifying a conversion: the written files are read again, in a new process, and compared bit by bit.

`python -m cookbook.convert.verify EXPORT CHECKPOINT MODELS` prints one JSON row per file.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cookbook import runs
from cookbook.convert import weights
from cookbook.convert.weights import EMA, NET, Lazy, Reads, Weights
from cookbook.errors import UserError, last_line
from cookbook.models import names

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
    """What each exported file must hold, in native names with their prefix. A native file becomes only diffusers/."""
    net, ema = trained.net, trained.ema
    dtype = net[next(iter(net))].dtype  # the network was trained in it
    pipeline = {"diffusers/transformer": Lazy(_reads(NET, ema, dtype))}
    if trained.native:
        return pipeline

    def part(prefix: str, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> Reads:
        return _reads(prefix, state, dtype) | _reads(prefix, trained.buffers, None)

    files = {
        "model.pt": Lazy(part(NET, net, None) | part(EMA, ema, None)),
        "model_ema_fp32.pt": Lazy(part(NET, ema, torch.float32)),
        "model_ema_bf16.pt": Lazy(part(NET, ema, torch.bfloat16)),
    }
    adapter = {} if trained.adapter is None else {ADAPTER: Lazy(_reads(NET, trained.adapter, None))}
    return files | pipeline | adapter


def _reads(prefix: str, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> Reads:
    """The tensors of `state` behind the prefix, in the dtype (None: as they are), each read when it is used."""

    def tensor(name: str) -> Tensor:
        return state[name] if dtype is None else state[name].to(dtype)

    return {prefix + name: partial(tensor, name) for name in state}


def read_export(path: Path) -> Mapping[str, Tensor]:
    """The content of an exported file or folder, in native names with their prefix; mapped, not loaded."""
    if path.suffix == ".safetensors":
        state = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
        return names.as_native({re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", n): t for n, t in state.items()})
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
        elif not torch.equal(*(tensor.flatten().view(torch.uint8) for tensor in (want, have))):  # -0 differs from 0
            differing.append(name)
            gap = max(gap, float((want.float() - have.float()).abs().max()))
    if problems:
        return Check(file, len(export), "/".join(sorted(dtypes)), None, problems[0])
    problem = f"{differing[0]} and {len(differing) - 1} more differ from the checkpoint" if differing else None
    return Check(file, len(export), "/".join(sorted(dtypes)), gap, problem)


def verify(export: Path, checkpoint: Path, models: Path) -> list[Check]:
    """Every exported file against the checkpoint, in this process."""
    states = expected(weights.read(checkpoint, models))
    return [compare(file, state, read_export(export / file)) for file, state in states.items()]


def verify_in_new_process(export: Path, checkpoint: Path, models: Path) -> list[Check]:
    """`verify` in a process that shares no memory with the one that wrote the files."""
    command = [sys.executable, "-m", "cookbook.convert.verify", export.absolute(), checkpoint.absolute(), models]
    done = subprocess.run(command, cwd=runs.ASSETS.parent, capture_output=True, text=True)
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
