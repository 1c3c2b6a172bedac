"""Stage `prepare`: the published layouts with their quirks, and one clear sentence for each possible mistake."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cookbook import layout, runs, video
from cookbook.errors import UserError
from cookbook.prepare.stage import prepare
from cookbook.profiles import Geometry

TEXT = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" ,\"'"), min_size=1).map(str.strip)


def make_video(path, frames=30, fps=8.0, size=(96, 160)):
    shades = np.linspace(0, 255, frames).astype(np.uint8)[:, None, None, None]
    pixels = shades * np.ones((1, *size, 3), np.uint8)
    video.write_video(path, pixels, fps)


def make_photos(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 48), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("Use the left hand to wave.")


@pytest.fixture
def gr1(tmp_path):
    """The downloaded GR1-100 layout: two clips in gr1/, metadata.csv beside it."""
    for stem in ("0", "1"):
        make_video(tmp_path / "train" / "gr1" / f"{stem}.mp4")
    layout.write_metadata(tmp_path / "train" / "metadata.csv", [("0.mp4", "Pick up a, then b."), ("1.mp4", "Wave.")])
    make_photos(tmp_path / "eval", "0_Wave.", "1_Point.")
    return tmp_path


def run_prepare(folder, **kwargs):
    return prepare("nano", run=folder / "run", train=folder / "train", eval=folder / "eval", **kwargs)


def test_published_layout_in_and_out_and_in_again(gr1):
    manifest = run_prepare(gr1)
    assert (manifest["clips"], manifest["photos"], manifest["skipped"]) == (2, 2, 0)
    train = gr1 / "run" / "data" / "train"
    assert (train / "metadata.csv").read_text() == 'file,prompt\n0.mp4,"Pick up a, then b."\n1.mp4,Wave.\n'
    assert (train / "metas" / "1.txt").read_text() == "The robot arm is performing a task. Wave."
    assert runs.digest(train / "videos" / "0.mp4") == runs.digest(gr1 / "train" / "gr1" / "0.mp4")
    again = prepare("nano", run=gr1 / "second", train=train, eval=gr1 / "eval")
    assert again["fingerprint"] == manifest["fingerprint"]


def test_second_call_skips_and_notices_an_exchanged_clip(gr1, capsys):
    run_prepare(gr1)
    run_prepare(gr1)
    assert "skipping" in capsys.readouterr().out
    make_video(gr1 / "train" / "gr1" / "0.mp4", frames=40)
    with pytest.raises(UserError, match="clips .*--redo prepare"):
        run_prepare(gr1)


def test_all_bad_clips_are_listed_then_skipped_on_demand(gr1):
    folder = gr1 / "train" / "gr1"
    make_video(folder / "short.mp4", frames=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    for stem in ("short", "broken"):
        (folder / f"{stem}.txt").write_text("Wave.")
    make_video(folder / "silent.mp4")
    (folder / "silent.txt").write_text("")
    make_video(folder / "latin.mp4")
    (folder / "latin.txt").write_bytes("Use é.".encode("latin-1"))
    make_video(folder / "orphan.mp4")
    with pytest.raises(UserError) as error:
        run_prepare(gr1)
    text = str(error.value)
    assert text.startswith("5 clips")
    for reason in ("10 frames", "not a readable video", "caption is empty", "not UTF-8 (byte 4)", "no such caption"):
        assert reason in text
    manifest = run_prepare(gr1, skip_bad=True, redo=True)
    assert (manifest["clips"], manifest["skipped"]) == (2, 5)
    skipped = {Path(row["file"]).stem for row in runs.read_rows(gr1 / "run" / "data" / "skipped.jsonl")}
    assert skipped == {"short", "broken", "silent", "latin", "orphan"}


def test_a_failed_attempt_does_not_bind_the_folder(gr1):
    caption, photo = gr1 / "train" / "metas" / "2.txt", gr1 / "eval" / "2_Nod..png"
    make_video(gr1 / "train" / "gr1" / "2.mp4")
    caption.parent.mkdir()
    caption.write_text("")
    with pytest.raises(UserError, match="^1 clip cannot be used"):
        run_prepare(gr1)
    caption.write_text("Nod.")
    photo.with_suffix(".txt").write_text("Nod.")
    photo.write_bytes(b"no picture")
    with pytest.raises(UserError, match="2_Nod"):
        run_prepare(gr1)
    assert not (gr1 / "run" / "data").exists(), "nothing is written before all is checked"
    make_photos(gr1 / "eval", "2_Nod.")
    assert run_prepare(gr1)["clips"] == 3


def test_a_failed_redo_keeps_the_finished_folder(gr1):
    before = run_prepare(gr1)
    (gr1 / "train" / "gr1" / "1.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match="1 clip cannot be used"):
        run_prepare(gr1, redo=True)
    assert runs.read_manifest(gr1 / "run" / "data") == before
    assert (gr1 / "run" / "data" / "train" / "videos" / "1.mp4").exists()


def test_misnamed_photo_is_paired_and_one_without_instruction_is_named(tmp_path):
    make_photos(tmp_path, "2_Wave.")
    Image.new("RGB", (64, 48)).save(tmp_path / "12_Pick up bok choy.png")
    (tmp_path / "12_Pick up bok choy..txt").write_text("Pick up bok choy.")
    assert [photo.name for photo in layout.read_photos(tmp_path)] == ["2_Wave.", "12_Pick up bok choy."]
    Image.new("RGB", (64, 48)).save(tmp_path / "3_Lost..png")
    with pytest.raises(UserError, match="3_Lost..png"):
        layout.read_photos(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("name,text\n", "line 1: the header"), ("file,prompt\na.mp4\n", "line 2: no prompt"), ("", "caption is empty")],
)
def test_bad_metadata_names_the_line(tmp_path, text, message):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        layout.read_metadata(tmp_path / "metadata.csv")


def test_unquoted_comma_belongs_to_the_prompt(tmp_path):
    (tmp_path / "metadata.csv").write_text("file,prompt\na.mp4,Pick up a, then b.\n")
    assert layout.read_metadata(tmp_path / "metadata.csv") == {"a": "Pick up a, then b."}


@given(TEXT.filter(bool))
def test_metadata_survives_the_round_trip(tmp_path_factory, prompt):
    file = tmp_path_factory.mktemp("csv") / "metadata.csv"
    layout.write_metadata(file, [("a.mp4", prompt)])
    assert layout.read_metadata(file) == {"a": prompt}


@given(st.integers(5, 60), st.sampled_from([4.0, 7.5, 8.0, 15.0, 16.0, 30.0]), st.floats(0, 1), st.booleans())
def test_window_has_its_shape_and_stays_inside(frames, fps, start, resample):
    clip = Geometry(frames=5, fps=8, height=16, width=16)
    if frames < video.needed_frames(fps, clip, resample):
        return
    source = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    times = video.window(source, fps, clip, start, resample, crop=True)[:, 0, 0, 0]
    assert times.shape == (5,) and (np.diff(times.astype(int)) >= 0).all() and times[-1] < frames
    if not resample:
        assert (np.diff(times.astype(int)) == 1).all()


def test_crop_keeps_shapes_and_squash_does_not():
    frames = np.zeros((1, 100, 200, 3), np.uint8)
    frames[:, 25:75, 75:125] = 255  # a square in the middle
    cropped, squashed = video.fit(frames, 50, 50, crop=True)[0], video.fit(frames, 50, 50, crop=False)[0]

    def extent(image, axis):
        return int((image[..., 0].max(axis) > 127).sum())

    assert abs(extent(cropped, 0) - extent(cropped, 1)) <= 1
    assert abs(extent(squashed, 1) - 2 * extent(squashed, 0)) <= 2


def test_same_frames_give_the_same_file(tmp_path):
    make_video(tmp_path / "a.mp4", frames=9)
    make_video(tmp_path / "b.mp4", frames=9)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    info = video.probe(tmp_path / "a.mp4")
    assert (info.frames, info.fps, info.height, info.width) == (9, 8.0, 96, 160)


def test_captions_are_utf8_in_any_locale_and_other_names_are_refused(tmp_path):
    program = """
import sys
from pathlib import Path
from cookbook import cli, layout
from cookbook.prepare import stage
out = Path(sys.argv[1])
layout.write_metadata(out / "metadata.csv", [("a.mp4", "Gr\\u00fc\\u00dfe")])
stage._write_pair(out / "metadata.csv", out / "copy.csv", "Gr\\u00fc\\u00dfe", out / "a.txt")
(out / "a\\udce9.mp4").touch()
cli.function = lambda verb: lambda: layout.find_clips(out)
sys.exit(cli.main(["doctor"]))
"""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and r"the name 'a\udce9.mp4' is not UTF-8; rename the file" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert (
        "Grüße" in (tmp_path / "metadata.csv").read_text("utf-8") and (tmp_path / "a.txt").read_text("utf-8") == "Grüße"
    )
