"""Stage judge, killed: scores stay, nothing is scored twice, and the result is that of an uninterrupted run."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from test_judge import rows_of, run  # noqa: F401

from cookbook.judge import scorer
from cookbook.judge.stage import judge
from cookbook.models.frames import Sampled, sample_frames

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cookbook import runs, storage
from cookbook.judge.stage import judge
torch.set_num_threads(1)
runs.ASSETS = Path(sys.argv[1])
append, count = storage.append_row, 0
def append_row(path, row):
    global count
    append(path, row)
    count += 1
    if count == int(sys.argv[3]):
        with open(path, "a") as file:
            file.write('{"file": "cut')  # and a line that the kill cut short
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
storage.append_row = append_row
judge("smoke", sys.argv[2])
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same(run, tmp_path):  # noqa: F811
    command = [sys.executable, "-c", KILLED, str(tmp_path / "assets"), str(run)]
    for rows in (5, 45):  # among the calibration clips, then among the verdicts
        assert subprocess.run([*command, str(rows)], capture_output=True).returncode == -9
    assert not (run / "verdicts/manifest.json").exists()
    judge("smoke", run)
    resumed, measured = rows_of(run), json.loads((run / "verdicts/calibration.json").read_text())
    judge("smoke", run, redo=True)
    assert resumed == rows_of(run)
    assert measured == json.loads((run / "verdicts/calibration.json").read_text())


def test_only_the_batches_in_flight_are_held(critic, monkeypatch):
    """However slow the model is, the readers are never further ahead."""
    started, ahead = [], []

    def sample(*size) -> Sampled:
        started.append(size)
        return sample_frames(tiny.clip(0), 8.0, *size)

    def slow(critic, inputs) -> np.ndarray:
        time.sleep(0.05)
        ahead.append(len(started) - len(ahead) * scorer.BATCH)
        return np.full((len(inputs.stats), 1, 5), 0.2)

    monkeypatch.setattr(scorer, "answer", slow)
    tasks = [scorer.Task(sample, {"physics": None}, "clip") for _ in range(10 * scorer.BATCH)]
    assert len(list(scorer.Scorer(critic, 8, 1024).score(tasks))) == len(tasks)
    assert len(ahead) == 10 and max(ahead) <= scorer.IN_FLIGHT * scorer.BATCH
