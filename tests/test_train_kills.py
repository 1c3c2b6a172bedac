"""Stage `train`, killed and in many processes: the result is that of one unbroken process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import free_port
from tiny import losses

from cookbook import profiles, runs
from cookbook.train.stage import train

KEYS = ("heldout_before", "heldout_after", "weights_changed", "loss_first", "loss_last")


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


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(arena, tiny_world, tiny_clips, monkeypatch):
    folder, _ = arena
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 4, batch=4))
    alone = train("tiny", run=folder / "alone", data=tiny_clips)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command += [str(Path(__file__).with_name("tiny.py")), str(folder), "4", "2"]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout and "4 steps of 4 clips (2 per process)" in done.stdout
    manifest = runs.read_manifest(folder / "run/checkpoints")
    assert losses(folder / "run") == pytest.approx(losses(folder / "alone"), rel=1e-5)
    assert [manifest[key] for key in KEYS] == pytest.approx([alone[key] for key in KEYS], rel=1e-3)
    shards = {path.name for path in (folder / "run/checkpoints/iter_000000004/model").glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}
