"""The inverse dynamics model, its training, and the stage actions: what is decoded, from which videos, and resuming."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ConvNextV2Config, ConvNextV2Model

from cookbook import results, runs, storage, video
from cookbook.actions import clips, decode, episodes, frames, model, motion, training
from cookbook.actions.decode import Decoded
from cookbook.actions.episodes import EpisodeSet
from cookbook.actions.stage import actions
from cookbook.errors import UserError

JOINTS = ("slide", "lift")


def film(path: np.ndarray) -> np.ndarray:
    """Frames [T, 32, 48, 3] of a square at path [T, 2], each coordinate in 0..1."""
    frames = np.full((len(path), 32, 48, 3), 40, np.uint8)
    for frame, (x, y) in zip(frames, path, strict=True):
        left, top = round(36 * x), round(20 * y)
        frame[top : top + 12, left : left + 12] = (230, 200, 30)
    return frames


def moving(seed: int, count: int = 9) -> np.ndarray:
    """A smooth path [count, 2] in 0..1."""
    ends = np.random.default_rng(seed).uniform(0, 1, (2, 2))
    return ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, count)[:, None]


def write_clips(folder: Path, count: int = 16) -> Path:
    """A folder in the layout of `python -m simulator make`, of a robot whose two joints are the square's position."""
    (folder / "ground_truth").mkdir(parents=True)
    for index in range(count):
        path = moving(index).astype(np.float32)
        video.write_video(folder / f"videos/{index}.mp4", film(path), 8, crf=10)
        np.savez(folder / f"ground_truth/{index}.npz", q=path, action=path)
        row = {"id": str(index), "scene": str(index), "label": "real", "prompt": "Push.", "fps": 8.0}
        storage.append_row(folder / "manifest.jsonl", row)
    return folder


@pytest.fixture(autouse=True)
def two_joints(monkeypatch):
    monkeypatch.setattr(clips, "robot_joints", lambda: JOINTS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_clips(tmp_path_factory.mktemp("actions") / "clips")


@pytest.fixture
def tiny_actions(tmp_path) -> Path:
    """An untrained model of the two-jointed robot."""
    spec = model.ActionSpec("square", JOINTS, 8.0, 0.125, (32, 48), (16, 24), SMALL, hidden=16)
    torch.manual_seed(0)
    model.InverseDynamics(spec).save(tmp_path / "model")
    return tmp_path / "model"


SMALL = training.small(48) | {"embedding_size": 8, "hidden_sizes": [8, 8, 8]}


def test_training_learns_the_joints_from_pictures_and_is_skipped_when_done(data, tmp_path, tiny_profile, capsys):
    tiny_profile()
    manifest = training.train_actions((data,), tmp_path / "out", profile="tiny", height=16, steps=60, batch=32)
    assert manifest["joint_error"] < 10, "degrees; a constant guess is off by about 15"
    assert manifest["episodes"] + manifest["held_out_episodes"] == 16
    loaded = model.load(tmp_path / "out")
    assert loaded.spec.joint_names == JOINTS and (loaded.spec.fps, loaded.spec.distance) == (8, 0.125)
    path = moving(99)
    guess = decode.decode_frames(loaded, film(path), 8).joints
    assert np.corrcoef(guess[:, 1], path[:, 1])[0, 1] > 0.8, "a new clip"
    again = training.train_actions((data,), tmp_path / "out", profile="tiny", height=16, steps=60, batch=32)
    assert again == manifest and "skipping" in capsys.readouterr().out


def test_a_killed_training_repeats_its_losses(data, tmp_path, tiny_profile, monkeypatch):
    tiny_profile()
    arguments = (None, "tiny", None, 16, 4, 8)
    whole = training.train_actions((data,), tmp_path / "whole", *arguments)
    fit = training.engine.fit

    def stopped(network, loss, batch_at, recipe, *rest):
        return fit(network, loss, batch_at, replace(recipe, steps=2), *rest)

    monkeypatch.setattr(training.engine, "fit", stopped)
    monkeypatch.setattr(model.InverseDynamics, "save", lambda self, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.train_actions((data,), tmp_path / "killed", *arguments)
    monkeypatch.undo()
    monkeypatch.setattr(clips, "robot_joints", lambda: JOINTS)
    tiny_profile()
    monkeypatch.setattr(frames, "round_trip", None)  # the frames are there
    resumed = training.train_actions((data,), tmp_path / "killed", *arguments)
    assert resumed["loss_last"] == pytest.approx(whole["loss_last"], rel=1e-5)
    both = (model.load(tmp_path / name).state_dict() for name in ("whole", "killed"))
    for (name, one), other in zip(next(both).items(), next(both).values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5), f"{name}: statistics of batch norm are kept too"
    assert len(storage.read_rows(tmp_path / "killed/checkpoints/log.jsonl")) == 4


def test_each_data_set_is_drawn_from_by_its_weight(data, tiny_actions):
    """Also where the episodes of one are longer; a data set of weight 0 is never drawn from."""
    found, loaded = clips.read(data), model.load(tiny_actions)
    short = [replace(e, joints=e.joints[:3] + 2, targets=e.targets[:3] + 2) for e in found.episodes[:2]]
    sets = [replace(found, episodes=found.episodes[2:6]), replace(found, episodes=short)]
    used = [episode for part in sets for episode in part.episodes]
    pictures = [np.zeros((2, len(e.joints), 3, 16, 24), np.uint8) for e in used]
    for weights, share in (((3, 1), 0.25), ((1, 0), 0.0), (None, 2 / 6)):
        chances = training.frame_chances(sets, training.parse_weights(sets, weights), used)
        samples = training.gather(loaded, used, pictures, chances, torch.device("cpu"))
        wanted = training.batches(samples, 4000, 0)(0)[1]
        added = wanted[:, 0, 0] * loaded.statistics()["scale"][0] + loaded.statistics()["mean"][0] > 1.5
        assert added.float().mean() == pytest.approx(share, abs=0.03 if share else 0)


def break_nothing(folder: Path) -> None:
    (folder / "manifest.jsonl").unlink()


def break_joints(folder: Path) -> None:
    np.savez(folder / "ground_truth/3.npz", q=np.zeros((9, 2)))


def break_count(folder: Path) -> None:
    np.savez(folder / "ground_truth/3.npz", q=np.zeros((9, 5)), action=np.zeros((9, 5)))


def break_number(folder: Path) -> None:
    np.savez(folder / "ground_truth/3.npz", q=np.full((9, 2), np.nan), action=np.zeros((9, 2)))


def break_length(folder: Path) -> None:
    np.savez(folder / "ground_truth/3.npz", q=np.zeros((30, 2)), action=np.zeros((30, 2)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_nothing, "neither a LeRobot data set nor clips"),
        (break_joints, "3.npz: no joints"),
        (break_count, r"3.mp4: its joints are \(9, 5\)"),
        (break_number, "3.mp4: a joint angle or target is not a number"),
        (break_length, "3.mp4: no frame at 1.125 s; its rate or length"),
    ],
)
def test_a_damaged_data_set_gets_one_line(data, tmp_path, tiny_profile, spoil, message):
    tiny_profile()
    shutil.copytree(data, tmp_path / "clips")
    spoil(tmp_path / "clips")
    with pytest.raises(UserError, match=message):
        training.train_actions((tmp_path / "clips",), tmp_path / "out", profile="tiny", height=16, steps=1, batch=4)


def test_data_sets_of_different_robots_or_rates_are_not_mixed(data):
    found = clips.read(data)
    for other, field in ((EpisodeSet("b", 16.0, JOINTS, []), "fps"), (EpisodeSet("b", 8.0, ("x",), []), "joint_names")):
        with pytest.raises(UserError, match=f"differ in {field}"):
            training.require_alike([found, other])


def test_the_model_sees_three_frames_and_no_more(tiny_actions):
    loaded, frames = model.load(tiny_actions), film(moving(1))
    changed = frames.copy()
    changed[6:] = 255 - changed[6:]
    before, after = (decode.decode_frames(loaded, x, 8).joints for x in (frames, changed))
    assert np.array_equal(before[:5], after[:5]) and not np.allclose(before[5], after[5], atol=1e-5)


def test_saved_weights_are_small_and_predict_the_same(tiny_actions):
    first = model.load(tiny_actions)
    assert np.array_equal(first.statistics()["scale"], [1, 1])
    again = model.load(tiny_actions)
    frames = film(moving(2))
    assert np.array_equal(*(decode.decode_frames(x, frames, 8).targets for x in (first, again)))
    stored = (tiny_actions / model.WEIGHTS).stat().st_size
    assert stored < 2.5 * training.parameters(first) + 20_000, "half precision"


def test_a_damaged_model_gets_one_line(tiny_actions):
    (tiny_actions / model.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not an inverse dynamics model, or damaged"):
        model.load(tiny_actions)
    config = json.loads((tiny_actions / model.CONFIG).read_text())
    (tiny_actions / model.CONFIG).write_text(json.dumps(config | {"fingers": 5}))
    with pytest.raises(UserError, match="fingers"):
        model.load(tiny_actions)
    (tiny_actions / model.WEIGHTS).unlink()
    with pytest.raises(UserError, match="model.safetensors is missing"):
        model.fingerprint(tiny_actions)


def test_a_video_of_another_rate_is_read_at_the_same_times(tiny_actions):
    loaded, fast = model.load(tiny_actions), film(moving(3, 17))
    at_8 = decode.decode_frames(loaded, fast[::2], 8)
    at_16 = decode.decode_frames(loaded, fast, 16)
    assert at_8.joints.shape == at_16.joints.shape == (9, 2)
    assert np.allclose(at_8.joints, at_16.joints, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (film(moving(4)), 4, "4 frames per second; this model compares frames 0.125 s apart"),
        (film(moving(4)), 5, "5 frames per second"),
        (film(moving(4))[:, :, :32], 8, "32 x 32 pixels; this model was trained on 48 x 32"),
    ],
)
def test_a_video_that_the_model_cannot_read_gets_one_line(tiny_actions, frames, fps, message):
    with pytest.raises(UserError, match=f"clip.mp4: {message}"):
        decode.decode_frames(model.load(tiny_actions), frames, fps, "clip.mp4")


def test_rows_are_interpolated_in_time():
    rows = np.arange(5.0)[:, None]
    assert episodes.resample(rows, 10, 20)[:, 0].tolist() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4])
    assert episodes.resample(rows, 16, 8)[:, 0].tolist() == [0, 2, 4]


def decoded(targets: np.ndarray) -> Decoded:
    targets = targets.astype(np.float32)
    return Decoded(8.0, targets, targets, np.full_like(targets, 0.01))


def test_motion_scores_rise_with_what_a_robot_would_refuse():
    known = {"low": np.array([-1, -1]), "high": np.array([1, 1]), "speed": np.array([2, 2])}
    smooth = np.sin(np.linspace(0, 1, 25))[:, None] * [0.5, 0.5]
    good = motion.scores(decoded(smooth), known)
    shaky = motion.scores(decoded(smooth + np.random.default_rng(0).normal(0, 0.05, smooth.shape)), known)
    far = motion.scores(decoded(smooth * 6), known)
    assert shaky["jerk"] > 5 * good["jerk"] and shaky["consistency"] > good["consistency"]
    assert good["limits"] == 0 and far["limits"] == pytest.approx(3 * np.sin(1) - 1.1, abs=1e-4)
    assert good["speed"] < 1 and far["speed"] == pytest.approx(6 * good["speed"], rel=1e-4)
    assert good["uncertainty"] == pytest.approx(np.degrees(0.01), rel=1e-4)
    assert set(good) == set(motion.SCORES)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with two generated videos of each model."""
    for name in ("base", "tuned"):
        stage = runs.enter(tmp_path / "run/generated" / name, f"generate-{name}", "nano", {}, {})
        for number in range(2):
            video.write_video(stage.folder / f"{number}.mp4", film(moving(number)), 8)
            row = {"file": f"{number}.mp4", "name": str(number), "prompt": "Push.", "seed": 0, "model": name}
            storage.append_row(stage.folder / "generated.jsonl", row | {"image_sha256": str(number), "blocked": False})
        stage.finish(
            path for path in stage.folder.iterdir() if path.name[0] != "." and path.suffix in (".mp4", ".jsonl")
        )
    return tmp_path / "run"


def test_every_generated_video_is_decoded_with_its_provenance(run, tiny_actions, capsys):
    manifest = actions("nano", run, tiny_actions)
    rows = storage.read_rows(run / "actions/actions.jsonl")
    assert manifest["videos"] == len(rows) == 4 and manifest["joint_names"] == JOINTS
    for row in rows:
        assert row["sha256"] == storage.digest(run / row["file"]) and row["made_by"] == model.fingerprint(tiny_actions)
        assert np.array(row["targets"]).shape == np.array(row["joints"]).shape == (9, 2) and row["fps"] == 8
        assert len(row["deviation"]) == 2 and min(row["deviation"]) > 0 and motion.SCORES[0] in row
    assert actions("nano", run, tiny_actions) and "skipping" in capsys.readouterr().out


def test_killed_decoding_continues_and_a_new_video_costs_only_itself(run, tiny_actions, monkeypatch):
    actions("nano", run, tiny_actions)
    rows = (run / "actions/actions.jsonl").read_bytes().splitlines(keepends=True)
    (run / "actions/actions.jsonl").write_bytes(b"".join(rows[:2]) + rows[2][:50])
    (run / "actions/manifest.json").unlink()
    read, count = decode.video.read_video, []
    monkeypatch.setattr(decode.video, "read_video", lambda path: count.append(path.name) or read(path))
    actions("nano", run, tiny_actions)
    assert len(count) == 2 and len(storage.read_rows(run / "actions/actions.jsonl")) == 4
    stage = runs.enter(run / "generated/tuned", "generate-tuned", "nano", {}, {"seeds": 2}, redo=True)
    for name in ("generated.jsonl", "0.mp4"):
        shutil.copy(stage.folder / storage.EARLIER / name, stage.folder / name)
    video.write_video(stage.folder / "1.mp4", film(moving(50)), 8)
    stage.finish(path for path in stage.folder.iterdir() if path.name[0] != "." and path.suffix in (".mp4", ".jsonl"))
    actions("nano", run, tiny_actions)
    assert count[2:] == ["1.mp4"]


def test_other_videos_get_a_folder_of_their_own(run, tiny_actions, data):
    actions("nano", run, tiny_actions, videos=data / "videos")
    rows = storage.read_rows(run / "actions-videos/actions.jsonl")
    assert len(rows) == 16 and {row["model"] for row in rows} == {None} and not (run / "actions").exists()


def test_a_profile_without_a_model_asks_for_one(run):
    with pytest.raises(UserError, match="no inverse dynamics model: train one"):
        actions("2b", run)


def test_figures_of_executed_videos(tmp_path):
    cells = [("base", True, False), ("base", False, False), ("tuned", True, True), ("tuned", False, False)]
    for n, (made_by, looks, moves) in enumerate(cells):
        row = {"file": str(n), "model": made_by, "image": str(n % 2), "success": moves}
        storage.append_row(tmp_path / "executed/executed.jsonl", row)
        storage.append_row(tmp_path / "verdicts/ground_truth.jsonl", {"file": str(n), "passed": looks})
        storage.append_row(tmp_path / "actions/actions.jsonl", {"file": str(n)} | dict.fromkeys(motion.SCORES, n))
    storage.append_row(tmp_path / "kept/kept.jsonl", {"file": "2"})
    rates = results.executed(tmp_path)
    assert [rates[f"executed_rate_{name}"] for name in ("base", "tuned", "kept")] == [0, 0.5, 1]
    table = results.looks_and_moves(tmp_path)
    assert table.loc[("base", "looks right"), "fails"] == table.loc[("tuned", "looks right"), "moves right"] == 1
    aucs = results.execution_aucs(tmp_path)["auc"]
    assert aucs["jerk"] == aucs["pixels"] == 1, "less jerk is better" and "critic" not in aucs


def test_a_pretrained_backbone_reads_each_frame_and_keeps_its_weights(data, tmp_path, tiny_profile):
    tiny_profile()
    sizes = {"num_stages": 2, "hidden_sizes": [8, 8], "depths": [1, 1]}
    ConvNextV2Model(ConvNextV2Config(**sizes)).save_pretrained(tmp_path / "pretrained")
    training.train_actions((data,), tmp_path / "out", None, "tiny", str(tmp_path / "pretrained"), 32, 1, 4, 1e-9)
    loaded = model.load(tmp_path / "out")
    assert loaded.spec.backbone["model_type"] == "convnextv2" and loaded.spec.backbone["num_channels"] == 3
    before = load_file(tmp_path / "pretrained/model.safetensors")["embeddings.patch_embeddings.weight"]
    after = loaded.backbone.embeddings.patch_embeddings.weight
    assert torch.allclose(before, after, atol=1e-3) and decode.decode_frames(loaded, film(moving(0)), 8).fps == 8
    with pytest.raises(UserError, match="nowhere: not an image backbone of transformers"):
        training.train_actions((data,), tmp_path / "other", None, "tiny", str(tmp_path / "nowhere"), 32, 1, 4)
