"""The simulator: scenes, physics, labels, injected faults, files and the rules on pixels, on a few small clips."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import python
from scipy import ndimage

pytest.importorskip("mujoco", reason="NOT RUN: the simulator needs the extra `sim`: pip install -e .[sim]")

from cookbook.errors import UserError
from cookbook.judge.rules import Judgement, Things, judge_clip, observe
from cookbook.video import read_video, write_video
from nano.validate import PROBES, validate
from simulator import faults, osmesa
from simulator.build_robot import ASSETS
from simulator.env import Env, rollout
from simulator.make import CRF, choose_kinds, make
from simulator.render import Camera, RendererMissing
from simulator.scene import TASKS, Instruction, all_prompts, instructions, phrase, sample
from simulator.ship import SHIPPED
from simulator.studio import CHOICE, Options, feasible, hash_states, render, simulate
from simulator.world import build

NUMBER = 4  # of a scene in which hand, object and place each have a pair among the first four instructions
PARTS = ("item", "hand", "place")  # in which the second, third and fourth instruction differ from the first


@pytest.fixture(scope="module")
def episodes():
    return simulate(NUMBER, Options(instructions=4))


@pytest.fixture(scope="module")
def renderer(episodes):
    try:
        with Camera(episodes[0].world, (16, 16)):
            pass
    except RendererMissing as error:
        pytest.skip(f"NOT RUN, no renderer: {error}")


@pytest.fixture(scope="module")
def clips(episodes, renderer):
    """The four instructions' clips."""
    return list(render(episodes, "test", (), Options()))


@pytest.fixture(scope="module")
def wrong(episodes, renderer):
    """Label -> clip: the first instruction's clip and its faults."""
    kinds = ("vanish", "levitate", "passthrough", "duplicate", *faults.WRONG, "not_completed")
    return {clip.row["label"]: clip for clip in render(episodes[:1], "test", kinds, Options())}


def test_prompts_name_hand_object_and_place():
    assert phrase("place", "left", "apple", "basket") == "Use the left hand to pick up apple from table to basket."
    prompts = all_prompts()
    assert len(prompts) == len(set(prompts)) == 2 * (8 * 4 * 3 + 8 + (8 + 4))
    assert {len(instructions(task)) for task in ("place", "tour", "carry")} == {2 * 3 * 2}


def test_a_scene_allows_instructions_that_differ_in_one_part(episodes):
    first, *others = (episode.instruction for episode in episodes)
    assert [first.differences(other) for other in others] == [{part} for part in PARTS]
    for episode in episodes:
        assert np.array_equal(episode.log.qpos[0], episodes[0].log.qpos[0])
        assert episode.log.success and episode.log.hand == episode.instruction.hand
    for number in range(3):
        first, other = (episode.instruction for episode in simulate(number, Options(instructions=2)))
        assert len(first.differences(other)) == 1


@pytest.mark.parametrize("task", [task for task in TASKS if task != "place"])
def test_base_tasks_allow_a_choice_too(task):
    assert len(feasible(Env(build(sample((1, 0)))), task, CHOICE)) == CHOICE


def test_replay_of_logged_actions_is_bit_identical(episodes):
    episode = episodes[0]
    again = rollout(Env(build(episode.world.scene)), episode.plan, episode.instruction, episode.log.action)
    assert np.array_equal(again.qpos, episode.log.qpos) and again.success


@pytest.mark.render
def test_all_clips_of_a_scene_share_frame_0_also_as_mp4(clips, wrong, tmp_path: Path):
    frames = [clip.frames for clip in [*clips, *wrong.values()]]
    assert all(np.array_equal(clip[0], frames[0][0]) for clip in frames)
    for index, clip in enumerate(frames):
        write_video(tmp_path / f"{index}.mp4", clip, 8, crf=CRF)
    decoded = [read_video(tmp_path / f"{index}.mp4")[0] for index in range(len(frames))]
    assert all(np.array_equal(clip[0], decoded[0][0]) for clip in decoded)


@pytest.mark.render
def test_faults_are_visible_and_labelled(wrong):
    real = wrong["real"]
    assert real.row["physics"] == real.row["instruction"] == 1 and len(wrong) == 9
    for label in set(wrong) - {"real"}:
        row, physics = wrong[label].row, label in faults.PHYSICS
        assert (row["physics"], row["instruction"], row["success"]) == (not physics, 0, False) and row["reason"]
        assert faults.difference(wrong[label].frames, real.frames).max() >= faults.VISIBLE
        assert not physics or 0 < row["violation"][0] <= row["violation"][1] < len(real.frames)


@pytest.mark.render
def test_a_violated_instruction_is_the_clip_of_another_instruction(clips, wrong):
    own = Instruction("place", "left", 1, 1)
    for kind, part in faults.WRONG.items():
        others = faults.counterfactuals(kind, own, np.random.default_rng(0))
        assert others and all(own.differences(other) == {part} for other in others)
    for kind, part in (("wrong_hand", "hand"), ("wrong_place", "place")):  # there is one other hand, one other place
        other = clips[1 + PARTS.index(part)]
        assert wrong[kind].row["prompt"] == clips[0].row["prompt"] != other.row["prompt"]
        assert np.array_equal(wrong[kind].frames, other.frames)


def test_kinds_are_chosen_or_refused():
    assert choose_kinds("none", 0) == ()
    assert choose_kinds("all", 0) == faults.KINDS
    assert len(choose_kinds("2", 9)) == 2 and choose_kinds("2", 9) == choose_kinds("2", 9)
    with pytest.raises(UserError, match="unknown fault 'flip'"):
        choose_kinds("flip", 0)


@pytest.mark.render
@pytest.mark.slow
def test_files_are_the_same_for_any_number_of_workers_and_work_is_resumed(tmp_path: Path, renderer):
    def manifest(workers: int) -> str:
        return make(tmp_path / str(workers), 2, instructions=2, size=(48, 80), workers=workers).read_text()

    one, two = manifest(1), manifest(2)
    assert one == two and len(one.splitlines()) == 4  # hashes of states and of videos among the rest
    row, folder = json.loads(one.splitlines()[0]), tmp_path / "1"
    assert read_video(folder / f"videos/{row['id']}.mp4")[0].shape == (25, 48, 80, 3)
    with np.load(folder / f"ground_truth/{row['id']}.npz") as file:
        assert file["q"].shape == (25, 42) and file["items"].shape == (25, 3, 7)
        assert file["masks_items"].shape == (3, 48, 80) and file["masks_receptacles"].shape == (2, 48, 80)
    written = {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}
    (folder / "rows/place_000000001.json").unlink()
    assert manifest(1) == one
    again = {path.stem for path, time in written.items() if path.stat().st_mtime_ns != time}
    assert again == {"place_000000001_0", "place_000000001_1"}


RENDER = """
import sys, numpy as np
from simulator.studio import Options, render, simulate
options = Options(size=(48, 80), look=sys.argv[1])
real, morph = render(simulate(4, options), "test", ("morph",), options)
assert (real.ground_truth["masks_items"].sum((1, 2)) > 8).all()
print(int(real.frames.std()), int(np.abs(morph.frames[-1].astype(int) - real.frames[-1]).max()))
"""


def draw(look: str, **variables: str) -> subprocess.CompletedProcess:
    return python("-c", RENDER, look, env=os.environ | variables)


def assert_drawn(run: subprocess.CompletedProcess) -> None:
    assert run.returncode == 0, run.stderr[-2000:]
    spread, change = map(int, run.stdout.splitlines()[-1].split())
    assert spread > 10 and change > 30


@pytest.mark.render
@pytest.mark.slow
def test_the_second_look_renders_or_names_the_missing_package():
    run = draw("filament")
    if "RendererMissing" in run.stderr and "mesa-vulkan-drivers" in run.stderr:
        pytest.skip("NOT RUN: the look `filament` needs apt-get install libvulkan1 mesa-vulkan-drivers")
    assert_drawn(run)


@pytest.mark.render
@pytest.mark.slow
def test_rendering_without_system_packages():
    """With EGL hidden: the wheel is found without a word of the user's, or the error names it."""
    run = draw("fast", MUJOCO_GL="", __EGL_VENDOR_LIBRARY_FILENAMES=os.devnull)
    if osmesa.libraries() is None:
        assert run.returncode and f"pip install --no-deps {osmesa.PACKAGE}" in run.stderr
        pytest.skip(f"NOT RUN: the route without system packages needs pip install --no-deps {osmesa.PACKAGE}")
    assert_drawn(run)


@pytest.mark.parametrize("name", list(SHIPPED))
def test_shipped_states_are_reproduced(name):
    shipped, recipe = json.loads((ASSETS / f"simulator/{name}/states.json").read_text()), SHIPPED[name][0]
    assert shipped["recipe"] == recipe
    options = Options(instructions=recipe.get("instructions", 1))
    for index in (0, recipe["scenes"] - 1):
        number = recipe["seed"] * 1_000_000 + index
        for k, episode in enumerate(simulate(number, options)):
            assert hash_states(episode.log) == shipped["states"][f"place_{number:09d}_{k}"]


def judged(clip, frames: np.ndarray, row: dict | None = None, reference: np.ndarray | None = None) -> Judgement:
    """Frames in a clip's scene, judged by its own instruction or that of another row."""
    things = Things(clip.ground_truth["masks_items"], clip.ground_truth["masks_receptacles"])
    hand, item, place = ((row or clip.row)[part] for part in ("hand", "item", "place"))
    return judge_clip(frames, things, hand, item, place, reference)


@pytest.mark.render
def test_rules_tell_the_instructions_of_a_scene_apart(clips, tmp_path: Path):
    for clip in clips:
        write_video(tmp_path / "clip.mp4", clip.frames, 8, crf=CRF)
        frames = read_video(tmp_path / "clip.mp4")[0]
        shown = observe(frames, Things(clip.ground_truth["masks_items"], clip.ground_truth["masks_receptacles"]))
        assert vars(shown) == {part: clip.row[part] for part in PARTS}
        outcomes = {other.row["prompt"]: judged(clip, frames, other.row).outcome == "placed" for other in clips}
        assert outcomes == {other.row["prompt"]: other is clip for other in clips}


@pytest.mark.render
def test_rules_accept_no_fault_and_no_other_scene(wrong, renderer):
    real = wrong["real"]
    for kind in set(wrong) - {"real"}:
        assert judged(real, wrong[kind].frames).outcome != "placed", kind
    other = next(render(simulate(5, Options()), "other", (), Options())).frames
    for frames in (other, np.concatenate([real.frames[:1], other[1:]])):
        judgement = judged(real, frames, reference=real.frames[0])
        assert judgement.outcome == "undetermined" and "known scene" in judgement.reason
    assert judged(real, np.repeat(real.frames[:1], 25, 0)).outcome == "not placed"
    assert judged(real, real.frames[::-1].copy()).outcome != "placed"
    assert judged(real, np.full_like(real.frames, 128)).outcome == "undetermined"


@pytest.mark.render
@pytest.mark.slow
def test_rules_are_compared_with_the_simulator(tmp_path: Path, renderer, capsys):
    def compress(frames: np.ndarray) -> np.ndarray:  # about as lossy as the VAE
        blurred = ndimage.gaussian_filter(frames.astype(np.float32), (0, 0.6, 0.6, 0)).round().astype(np.uint8)
        write_video(tmp_path / "clip.mp4", blurred, 8, crf=30)
        return read_video(tmp_path / "clip.mp4")[0]

    make(tmp_path, 2, faults="passthrough,duplicate,distractor_moves", seed=7)
    rows, labels = validate(tmp_path, compress), ("real", "duplicate", "distractor_moves", *PROBES)
    wanted = {label: {row["wanted"] for row in rows if row["label"] == label} for label in labels}
    assert wanted == {label: {label == "real"} for label in labels}
    assert all(row["agree"] for row in rows if row["label"] in PROBES)
    agree = [row["agree"] for row in rows if row["label"] not in PROBES]
    table = {line[:18].strip(): line[18:].split()[:3] for line in capsys.readouterr().out.splitlines()}
    assert table["all but probes"] == [str(len(agree)), "2", f"{np.mean(agree):.2f}"]
    assert table["all"][0] == str(len(agree) + 2 * len(PROBES))


@pytest.mark.render
@pytest.mark.slow
def test_show_writes_a_contact_sheet(tmp_path: Path, renderer):
    words = ["simulator", "show", "3", "--faults", "vanish", "--out", tmp_path / "clip.png"]
    python("-m", *words, check=True)
    assert (tmp_path / "clip.png").stat().st_size > 1000
