"""Executing decoded actions in the simulator: what succeeds and what must not, the seam to it, and resuming."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from cookbook import profiles, runs, storage
from cookbook.actions import clips, execute
from cookbook.errors import UserError
from cookbook.layout import read_photos
from cookbook.video import read_image

pytest.importorskip("mujoco", reason='NOT RUN: needs pip install -e ".[sim]"')
from simulator.render import RendererMissing  # noqa: E402


@pytest.fixture(scope="module")
def scenes() -> dict:
    return execute.known_jobs(profiles.get("nano"))


@pytest.fixture(scope="module")
def job(scenes) -> execute.Job:
    """The scripted expert's motion for the first photo, every second target, as a decoded video has them."""
    facts = next(iter(scenes.values()))
    return execute.Job(**facts, targets=tiny.expert_targets(facts)[::2], fps=8.0)


def test_the_expert_s_targets_succeed_at_half_the_rate(job):
    result = execute.perform(job)
    assert result["success"] and result["reason"] == "" and result["failed_s"] is None
    assert 0 < result["grasp_s"] < result["release_s"] < 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda job: replace(job, targets=np.repeat(job.targets[:1], 25, 0)), "not grasped"),
        (lambda job: replace(job, targets=job.targets[:15]), "not released"),
        (lambda job: replace(job, hand={"right": "left", "left": "right"}[job.hand]), "by the other hand"),
        (lambda job: replace(job, place=1 - job.place), "not in the receptacle"),
        (lambda job: replace(job, item=(job.item + 1) % 3), "was moved"),
    ],
    ids=["frozen", "stopped", "other hand", "other place", "other item"],
)
def test_what_does_not_follow_the_instruction_fails_with_reason_and_time(job, change, reason):
    result = execute.perform(change(job))
    assert not result["success"] and reason in result["reason"] and 0 <= result["failed_s"] <= 3


def test_the_robot_s_joints_are_named_without_mujoco():
    assert list(clips.robot_joints()) == execute._robot().names
    execute.require_robot(clips.robot_joints())
    with pytest.raises(UserError, match="2 joints \\(elbow, ...\\), the simulated GR1 has 42"):
        execute.require_robot(["elbow", "wrist"])


def test_hands_are_where_the_joints_put_them(job):
    places = execute.hand_positions(job.targets[[0, 12]])
    assert places.shape == (2, 2, 3) and places[0, 0, 1] < 0 < places[0, 1, 1], "the right hand is on the right"
    worker = ("right", "left").index(job.hand)
    assert np.linalg.norm(places[1, worker] - places[0, worker]) > 0.05


@pytest.fixture
def run(tmp_path, scenes, job):
    """A run with decoded actions: one that succeeds, one frozen, and one of an unknown photo."""
    (image, prompt), rows = next(iter(scenes)), []
    for name, photo, targets in (("good", image, job.targets), ("frozen", image, job.targets[[0] * 25])):
        row = {"file": f"{name}.mp4", "model": "tuned", "name": name, "prompt": prompt, "image": photo, "seed": 0}
        row |= {"sha256": name, "fps": 8.0, "targets": targets.tolist()}
        rows += [row, row | {"file": f"unknown_{name}.mp4", "image": "another photo"}]
    tiny.finish(tmp_path / "run", "actions", {"actions.jsonl": rows}, joint_names=clips.robot_joints())
    return tmp_path / "run"


def test_decoded_actions_are_executed_in_their_photo_s_scene(run, monkeypatch, capsys):
    manifest = execute.execute("nano", run, workers=1)
    rows = {row["name"]: row for row in storage.read_rows(run / "executed/executed.jsonl")}
    assert manifest["videos"] == 2 and manifest["successes"] == 1
    assert rows["good"]["success"] and rows["frozen"]["reason"] == "not grasped"
    (run / "executed/manifest.json").unlink()
    lines = (run / "executed/executed.jsonl").read_bytes().splitlines(keepends=True)
    (run / "executed/executed.jsonl").write_bytes(lines[0] + lines[1][:30])
    perform, calls = execute.perform, []
    monkeypatch.setattr(execute, "perform", lambda job: calls.append(job) or perform(job))
    execute.execute("nano", run, workers=1)
    assert len(calls) == 1, "a killed stage continues"
    assert {r["name"]: r for r in storage.read_rows(run / "executed/executed.jsonl")} == rows
    execute.execute("nano", run, workers=1)
    assert len(calls) == 1 and "skipping" in capsys.readouterr().out


def dies_once(marker: Path) -> dict:
    """The process that comes first crashes, as native code may; one of a path that does not exist always does."""
    try:
        marker.with_suffix(".died").touch(exist_ok=False)
    except FileExistsError:
        return {"name": marker.name}
    except FileNotFoundError:
        pass
    os.abort()


def test_a_process_that_dies_is_replaced_and_many_are_an_error(tmp_path):
    jobs = [tmp_path / name for name in "abc"]
    found = execute.in_processes(dies_once, jobs, 2, "here")
    assert [row["name"] for row in found] == ["a", "b", "c"]
    with pytest.raises(UserError, match="here: 4 processes died, most likely out of memory"):
        list(execute.in_processes(dies_once, [tmp_path / "no" / name for name in "ab"], 2, "here"))


def test_nothing_decoded_or_no_simulator_gets_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="actions is not finished: type `cookbook actions --run"):
        execute.execute("nano", tmp_path)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    execute._simulator.cache_clear()
    with pytest.raises(UserError, match="executing actions needs mujoco: in the checkout, type pip install"):
        execute._simulator()


def test_the_executed_run_is_drawn_as_the_photo_shows_it(job, scenes):
    try:
        frames = execute.draw(job, 8, (96, 160))
    except RendererMissing:
        pytest.skip("NOT RUN: no renderer")
    photos, (image, _) = read_photos(runs.ASSETS / "simulator/eval/gr1_object"), next(iter(scenes))
    photo = next(photo for photo in photos if storage.digest(photo.image) == image)
    assert frames.shape == (25, 96, 160, 3)
    assert np.abs(frames[0].astype(int) - read_image(photo.image)).mean() < 6, "the first frame is the photo"
    assert np.abs(frames[0].astype(int) - frames[12]).mean() > 1, "then the robot moves"
