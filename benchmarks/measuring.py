"""Shared by the programs beside this file: timestamps, peak GPU memory, tables."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Sequence

import torch


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def fresh_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None


def markdown(facts: str, heads: Sequence[str], rows: Iterable[Sequence], digits: int = 4) -> str:
    """Rows as a table in Markdown, under a line of facts; numbers to so many digits, `-` for None."""

    def cell(value: object) -> str:
        return "-" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    head, *lines = (f"| {' | '.join(map(cell, row))} |" for row in (heads, *rows))
    return "\n".join([facts, "", head, "|---" * len(heads) + "|", *lines])
