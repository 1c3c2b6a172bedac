"""docs/your_own_robot.md: its commands, executed word for word on clips of another robot, and its list of problems."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import tiny
from conftest import python

from cookbook import profiles, runs, storage, video
from cookbook.generate.requests import read_requests
from cookbook.prepare.stage import check_clips

FPS = 12
film = partial(tiny.clip, frames=4 * FPS, height=120, width=208)  # a shape and a rate that no profile has
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "your_own_robot.md").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the page's sample my_robot/ in it, and a third clip of a shape and rate that no profile has."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "assets").symlink_to(runs.ASSETS)
    subprocess.run(["sh", "-e", "-c", re.search(r"```sh\n(.*?)```", PAGE, re.S)[1]], cwd=folder, check=True)
    clip = folder / "my_robot" / "train" / "003.mp4"
    video.write_video(clip, film(3), FPS)
    clip.with_suffix(".txt").write_text("Use the left hand to push the block to the right.")
    return folder


def test_the_sample_has_the_layout_that_the_page_shows(home):
    shown = re.search(r"```\n(my_robot/.*?)```", PAGE, re.S)[1]
    files = {path.name for path in (home / "my_robot").rglob("*.*")} - {"003.mp4", "003.txt"}
    assert files == set(re.findall(r"\w+\.(?:mp4|txt|png)", shown))
    clips, problems = check_clips(home / "my_robot" / "train", profiles.nano())
    assert len(clips) == 3 and not problems and all(clip.prompt.startswith("Use the ") for clip in clips)


def cookbook(words: str, home: Path) -> subprocess.CompletedProcess:
    """Type one line in that folder."""
    assert words.startswith("cookbook ")
    return python("-m", "cookbook.cli", *shlex.split(words)[1:], cwd=home, env=os.environ | {"HEADLESS": "1"})


@pytest.mark.slow
def test_the_commands_generate_videos_in_ten_minutes(home):
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    assert [line.split()[1] for line in lines] == ["prepare", "plan", "train", "convert", "generate"]
    clock, run = time.monotonic(), home / "runs" / "mine"
    for line in lines:
        done = cookbook(line, home)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if "--steps 1" in line:
            assert time.monotonic() - clock < 600
    assert runs.read_manifest(run / "data")["clips"] == 3
    assert runs.read_manifest(run / "checkpoints")["steps"] == 1
    (row,) = storage.read_rows(run / "generated" / "tuned" / "generated.jsonl")
    info = video.probe(run / "generated" / "tuned" / row["file"])
    clip = profiles.nano().clip
    assert (info.frames, info.height, info.width) == (clip.frames, clip.height, clip.width)


def test_the_problems_on_the_page_are_reported_at_once(home, tmp_path):
    folder = tmp_path / "my_robot"
    video.write_video(folder / "train" / "short.mp4", film(1)[:FPS], FPS)
    (folder / "train" / "short.txt").write_text("Wave.")
    video.write_video(folder / "train" / "mute.mp4", film(2), FPS)
    done = cookbook(f"cookbook prepare --run runs/mine --train my_robot/train --eval {home}/my_robot/eval", tmp_path)
    assert done.returncode == 2
    assert re.search(r"```\n(cookbook: 2 clips cannot be used.*)\n```", PAGE)[1] in done.stderr
    assert "are shorter than one training window" in done.stderr and "no such caption file" in done.stderr
    assert not (tmp_path / "runs" / "mine" / "data" / "train").exists()


def test_the_row_of_requests_on_the_page_is_valid(home):
    row = re.search(r"```json\n(.*)\n```", PAGE)[1]
    path = home / "my_robot" / "requests.jsonl"
    path.write_text(row + "\n")
    (request,) = read_requests(path, profiles.nano())
    clip = profiles.nano().clip
    assert (request.num_output_frames, request.size) == (clip.frames, (clip.height, clip.width))
    assert json.loads(row)["guidance"] == profiles.nano().sampling.guidance


def test_the_clip_lengths_on_the_page_are_the_profiles():
    for name, seconds in (("nano", "3 s"), ("2b", "5.75 s")):
        clip = profiles.get(name).clip
        assert f"`{name}` {clip.frames} frames at {clip.fps} per second ({seconds})" in PAGE
        assert float(seconds.split()[0]) == (clip.frames - 1) / clip.fps
