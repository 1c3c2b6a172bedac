"""Shared by the programs beside this file: random weights, timestamps, peak GPU memory, PSNR, tables."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cookbook import runs


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def fresh_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


@contextmanager
def built_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Networks that are made in the block are on the device and in the dtype from the start: a float32 copy of a large
    one would not fit."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(usual)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two videos in 0..1; 120 where they are equal."""
    return -10 * math.log10(max(np.square(one - other, dtype=np.float64).mean(), 1e-12))


def report(facts: str, rows: Sequence[Any], out: Path | None = None) -> str:
    """Rows of one dataclass as a table in Markdown, numbers to four digits, under the facts, this machine, versions and
    the date; `out` gets it too."""

    def line(cells: Iterable[object]) -> str:
        texts = ("-" if x is None else f"{x:.4g}" if isinstance(x, float) else str(x) for x in cells)
        return f"| {' | '.join(texts)} |"

    here = runs.environment()
    versions = ", ".join(f"{name} {here['versions'][name]}" for name in ("torch", "diffusers"))
    heads = [field.name.replace("_", " ") for field in fields(rows[0])]
    facts = f"{facts}, on {here['device']}, {versions}, {time.strftime('%Y-%m-%d')}"
    text = "\n".join([facts, "", line(heads), "|---" * len(heads) + "|", *(line(astuple(row)) for row in rows)])
    if out:
        out.write_text(text + "\n")
    return text
