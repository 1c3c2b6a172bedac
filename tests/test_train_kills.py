"""Stage `train`, killed: the result is that of one unbroken process."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from test_engine import KEYS
from tiny import losses

from cookbook import runs


def outcome(folder: Path) -> tuple[list[float], list[float]]:
    """All losses of a finished run, and its results."""
    assert [path.name for path in (folder / "run/checkpoints").glob(".*")] == [".lock"]
    manifest = runs.read_manifest(folder / "run/checkpoints")
    return losses(folder / "run"), [manifest[key] for key in KEYS]


@pytest.fixture
def unbroken(arena):
    """The outcome of a run that nothing stops, and its seconds; the run is removed."""
    folder, start = arena
    clock = time.monotonic()
    process = start()
    process.join()
    assert process.exitcode == 0
    seconds, expected = time.monotonic() - clock, outcome(folder)
    shutil.rmtree(folder / "run/checkpoints")
    return expected, seconds


def test_killed_at_random_moments_it_ends_as_if_unbroken(arena, unbroken):
    (folder, start), (expected, seconds) = arena, unbroken
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("COOKBOOK_KILLS", 5))):
        process = start()
        process.join(timeout=seconds * rng.uniform(0.2, 1.0))
        process.kill()
        process.join()
    process = start()
    process.join()
    assert process.exitcode == 0 and outcome(folder) == expected


@pytest.mark.slow
def test_killed_before_every_rename_it_ends_as_if_unbroken(arena, unbroken):
    folder, start = arena
    exits = []
    while not exits or exits[-1]:
        process = start(1 + len(exits) % 5)  # the log, a checkpoint's three, the next one's first
        process.join()
        exits.append(process.exitcode)
        assert len(exits) < 30
    assert set(exits[:-1]) == {-9} and len(exits) > 10
    assert outcome(folder) == unbroken[0]
