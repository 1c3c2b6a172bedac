"""Stage `train`, killed and in many processes: the result is that of one unbroken process."""

from __future__ import annotations

import json
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

from cookbook import profiles
from cookbook.train.stage import train


def unbroken(arena) -> tuple[list[float], dict, float]:
    folder, start = arena
    clock = time.monotonic()
    process = start()
    process.join()
    assert process.exitcode == 0
    seconds = time.monotonic() - clock
    result = losses(folder / "run"), json.loads((folder / "run/checkpoints/manifest.json").read_text())
    shutil.rmtree(folder / "run/checkpoints")
    return *result, seconds


def assert_same(folder: Path, expected: tuple[list[float], dict, float]) -> None:
    manifest = json.loads((folder / "run/checkpoints/manifest.json").read_text())
    assert losses(folder / "run") == expected[0]
    for key in ("heldout_before", "heldout_after", "weights_changed", "loss_first", "loss_last"):
        assert manifest[key] == expected[1][key]
    assert [path.name for path in (folder / "run/checkpoints").glob(".*")] == [".lock"]


def test_killed_at_random_moments_it_ends_as_if_unbroken(arena):
    folder, start = arena
    expected = unbroken(arena)
    rng = np.random.default_rng(0)
    for _ in range(int(os.environ.get("COOKBOOK_KILLS", 5))):
        process = start()
        process.join(timeout=expected[2] * rng.uniform(0.2, 1.0))
        process.kill()
        process.join()
    process = start()
    process.join()
    assert process.exitcode == 0
    assert_same(folder, expected)


@pytest.mark.slow
def test_killed_before_every_rename_it_ends_as_if_unbroken(arena):
    folder, start = arena
    expected = unbroken(arena)
    exits = []
    while not exits or exits[-1]:
        process = start(1 + len(exits) % 5)  # the log, a checkpoint's three, the next one's first
        process.join()
        exits.append(process.exitcode)
        assert len(exits) < 30
    assert set(exits[:-1]) == {-9} and len(exits) > 10
    assert_same(folder, expected)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(arena, tiny_world, tiny_clips, monkeypatch):
    folder, start = arena
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: tiny.profile(tiny_world, 4, batch=4))
    alone = train("tiny", run=folder / "alone", data=tiny_clips)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("tiny.py")), str(folder), "4", "2"],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout and "4 steps of 4 clips (2 per process)" in done.stdout
    manifest = json.loads((folder / "run/checkpoints/manifest.json").read_text())
    assert losses(folder / "run") == pytest.approx(losses(folder / "alone"), rel=1e-5)
    for key in ("heldout_before", "heldout_after", "weights_changed"):
        assert manifest[key] == pytest.approx(alone[key], rel=1e-3)
    shards = {path.name for path in (folder / "run/checkpoints/iter_000000004/model").glob("*.distcp")}
    assert shards == {"__0_0.distcp", "__1_0.distcp"}
