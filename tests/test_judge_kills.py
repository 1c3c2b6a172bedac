"""Stage judge, killed: scores stay, nothing is scored twice, and the result is that of an uninterrupted run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_judge import rows_of, write_run

from cookbook import runs, video
from cookbook.judge import scorer, stage
from cookbook.judge.stage import judge
from cookbook.models import critic as critics


@pytest.fixture
def run(tmp_path, critic_folder, monkeypatch) -> Path:
    monkeypatch.setattr(runs, "ASSETS", tmp_path / "assets")
    return write_run(tmp_path, critic_folder)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from cookbook import runs
from cookbook.judge.stage import judge
torch.set_num_threads(1)
runs.ASSETS = Path(sys.argv[1])
append, count = runs.append_row, 0
def append_row(path, row):
    global count
    append(path, row)
    count += 1
    if count == int(sys.argv[3]):
        with open(path, "a") as file:
            file.write('{"file": "cut')  # and a line that the kill cut short
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
runs.append_row = append_row
judge("smoke", sys.argv[2])
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same(run, tmp_path, critic_folder):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "assets"), str(run)]
    for rows in (5, 45):  # among the calibration clips, then among the verdicts
        assert subprocess.run([*command, str(rows)], capture_output=True).returncode == -9
    assert not (run / "verdicts/manifest.json").exists()
    judge("smoke", run)
    resumed, measured = rows_of(run), json.loads((run / "verdicts/calibration.json").read_text())
    judge("smoke", run, redo=True)
    assert resumed == rows_of(run)
    assert measured == json.loads((run / "verdicts/calibration.json").read_text())


def many_verdicts(path: Path, critic: critics.Critic, rows: list[dict]) -> None:
    """`judge_rows` without the model itself, which takes no time here; resident memory is written to files."""
    count, append = len(runs.read_rows(path)), runs.append_row

    def counted(*row) -> None:
        nonlocal count
        append(*row)
        count += 1
        if count in (1000, 2 * len(rows)):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            path.with_suffix(f".{count}").write_text(str(pages * os.sysconf("SC_PAGE_SIZE")))

    stats = critics.VideoStats(3, 8.0, 4)
    runs.append_row = counted
    scorer.preprocess = lambda critic, clips, questions: critics.Inputs({}, questions, 0, [stats] * len(clips))
    scorer.answer = lambda critic, inputs: np.full((len(inputs.stats), 2, 5), 0.2)
    stage.judge_rows(path, scorer.Scorer(critic, 8, 1024), rows, False)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="NOT RUN: resident memory is read from /proc")
def test_ten_thousand_verdicts_survive_kills_in_constant_memory(tmp_path, critic):
    """Files are really read and rows really written; SIGKILL three times at moments drawn by a seed."""
    video.write_video(tmp_path / "a.mp4", np.zeros((3, 32, 32, 3), np.uint8), 8)
    facts = {"path": tmp_path / "a.mp4", "model": None, "name": "a", "prompt": "Wave.", "seed": 0}
    rows = [{"file": f"{number:04d}.mp4", **facts} for number in range(5000)]
    table, draw, context = tmp_path / "verdicts.jsonl", np.random.default_rng(7), multiprocessing.get_context("fork")
    for part in range(4):
        process = context.Process(target=many_verdicts, args=(table, critic, rows))
        process.start()
        after = 1200 + 2500 * part + draw.integers(1000)
        while part < 3 and process.is_alive() and not (table.exists() and table.read_bytes().count(b"\n") > after):
            time.sleep(0.01)
        if part < 3:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if part < 3 else 0)
    keys = [(row["file"], row["question"]) for row in runs.read_rows(table)]
    assert len(keys) == len(set(keys)) == 10_000
    early, late = (int(table.with_suffix(f".{count}").read_text()) for count in (1000, 10_000))
    assert late - early < 100e6, f"{(late - early) / 1e6:.0f} MB more after 10,000 rows than after 1,000"
