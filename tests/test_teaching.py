"""Post-training the critic on labelled clips: it learns the labels and loads as a critic."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_formats import SECTIONS, problems

from cookbook import profiles, runs, video
from cookbook.errors import UserError
from cookbook.judge import critic_training
from cookbook.judge.calibration_clips import CalibrationClip
from cookbook.judge.rubrics import ask
from cookbook.models import critic as critics
from cookbook.models.frames import Sampled, sample_frames
from cookbook.profiles import Source


def shown(bright: bool, seed: int, *size) -> Sampled:
    frames = tiny.clip(seed, frames=5)
    return sample_frames(255 - frames if bright else frames, 8.0, *size)


@pytest.fixture
def examples(critic_folder, monkeypatch) -> list[critic_training.Example]:
    """Bright clips have the label 5, dark ones 1."""
    full = profiles.nano()
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: tiny.replace(full, critic=Source(str(critic_folder))))
    return [
        critic_training.Example(f"{bright}{seed}", partial(shown, bright, seed), "physics", None, 5 if bright else 1)
        for seed in range(4)
        for bright in (False, True)
    ]


def scores(folder: Path) -> tuple[float, float]:
    critic = critics.load_critic(folder, torch.device("cpu"))
    clips = [shown(bright, 77, 8, 1024, critic.token_edge) for bright in (False, True)]
    probabilities = critics.answer(critic, critics.preprocess(critic, clips, [[ask("physics", None)]] * 2))
    return tuple(probabilities[:, 0] @ np.arange(1, 6))


@pytest.mark.slow
def test_training_learns_the_labels(examples, critic_folder, tmp_path):
    before = scores(critic_folder)
    options = {"out": tmp_path / "trained", "profile": "tiny", "steps": 30, "learning_rate": 3e-3}
    manifest = critic_training.train_critic(examples, **options)
    dark, bright = scores(tmp_path / "trained")
    assert abs(before[0] - before[1]) < 0.5 and bright - dark > 2, "held-out clips"
    assert manifest["loss_last"] < manifest["loss_first"] / 2 and manifest["weights_changed"] > 0
    assert critic_training.train_critic(examples, **options) == manifest
    with pytest.raises(UserError, match="redo"):
        critic_training.train_critic(examples[:-1], **options)


def test_the_manifest_is_as_documented(examples, tmp_path):
    critic_training.train_critic(examples, tmp_path / "critic", "tiny", steps=1, batch=2)
    manifest = runs.read_manifest(tmp_path / "critic")
    assert problems([manifest], SECTIONS["`manifest.json`"] | SECTIONS["Facts of `train-critic`"]) == []
    listed = {path for pattern in SECTIONS["`critic/`"] for path in tmp_path.glob(pattern) if path.is_file()}
    written = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert written == listed, written ^ listed


def test_a_custom_fault_and_the_comparison(tmp_path):
    clips = []
    for seed in range(4):
        video.write_video(tmp_path / f"{seed}.mp4", tiny.clip(seed), 8)
        clips.append(CalibrationClip(tmp_path / f"{seed}.mp4", "real", "Wave.", 1, 1, f"scene {seed}"))
    examples = critic_training.from_calibration_clips(clips, ("physics",)) + critic_training.with_fault(
        "dark", lambda frames: frames // 4, clips
    )
    assert [(e.digit, e.kind, e.scene) for e in examples[::4]] == [(5, "real", "scene 0"), (1, "dark", "scene 0")]
    plain, dark = (examples[row].sample(8, 1024, 32).frames.mean() for row in (0, 4))
    assert dark == pytest.approx(plain / 4, abs=1)
    before, after = np.array([1, 2, 3, 4, 1, 2, 3, 4.0]), np.array([4, 4, 4, 4, 2, 2, 2, np.nan])
    (row,) = critic_training.compare(examples, before, after)
    assert (row["kind"], row["n"], row["before"], row["after"]) == ("dark", 3, pytest.approx(15 / 24), 1)
    assert row["gain_interval"][0] <= row["gain"] == pytest.approx(9 / 24) and row["gain_interval"][1] <= 1
    (same,) = critic_training.compare(examples, before, before)
    assert same["gain"] == 0 and same["gain_interval"] == [0, 0]


def test_digits_are_drawn_equally_often(examples):
    many = [*examples, *[critic_training.Example("x", None, "physics", None, 3)], *examples]
    drawn = [critic_training.draw(many, 0, number).digit for number in range(300)]
    assert all(70 < drawn.count(digit) < 130 for digit in (1, 3, 5))
    assert drawn == [critic_training.draw(many, 0, number).digit for number in range(300)]


def table(folder: Path, text: str) -> Path:
    video.write_video(folder / "videos" / "a.mp4", tiny.clip(0), 8)
    (folder / "train.csv").write_text(text)
    return folder


def test_videophy_2_layout_is_read(tmp_path):
    text = 'video_url,caption,pc,sa\nhttps://somewhere/x/a.mp4,"Pour it, slowly.",4,2\nhttps://somewhere/a.mp4,Go.,1,\n'
    examples = critic_training.read_labelled(table(tmp_path, text))
    assert [(e.question, e.prompt, e.digit) for e in examples] == [
        ("physics", "Pour it, slowly.", 4),
        ("instruction", "Pour it, slowly.", 2),
        ("physics", "Go.", 1),
    ]
    assert examples[0].sample(8, 1024, 16).frames.shape == (9, 64, 96, 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [("b.mp4,Go.,3,3", "line 2: .*no such clip"), ("a.mp4,,3,3", "line 2: no caption"),
     ("a.mp4,Go.,7,", "line 2: pc or sa")],
)  # fmt: skip
def test_bad_labels_are_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        critic_training.read_labelled(table(tmp_path, f"video_url,caption,pc,sa\n{row}\n"))
    with pytest.raises(UserError, match="holds 0 tables"):
        critic_training.read_labelled(tmp_path / "videos")
    assert runs.read_manifest(tmp_path) is None
