"""Stage `prepare`: the published layouts with their quirks, and one clear sentence for each possible mistake."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cookbook import layout, runs, storage, video
from cookbook.errors import UserError
from cookbook.judge import calibration_clips
from cookbook.prepare.stage import prepare
from cookbook.train import dataset

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


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
    assert storage.digest(train / "videos" / "0.mp4") == storage.digest(gr1 / "train" / "gr1" / "0.mp4")
    again = prepare("nano", run=gr1 / "second", train=train, eval=gr1 / "eval")
    assert again["fingerprint"] == manifest["fingerprint"]


def test_other_suffixes_are_read_and_what_looks_like_a_clip_is_listed(gr1, capsys):
    """Each file with a caption is used or named; hidden files and those of operating systems are neither."""
    folder = gr1 / "train" / "gr1"
    for number, suffix in enumerate((".MP4", ".mov", ".webm", ".mkv", ".avi"), 2):
        shutil.copy(folder / "0.mp4", folder / f"{number}{suffix}")
        (folder / f"{number}.txt").write_text("Nod.\nTwice.")
    for name in ("._0.mp4", ".hidden.mp4", "Thumbs.db", "desktop.ini", "README.txt", "0.json"):
        (folder / name).write_bytes(b"none of ours")
        (gr1 / "eval" / name.replace("mp4", "png")).write_bytes(b"none of ours")
    (folder / "odd.prores").write_bytes(b"a clip")
    (folder / "odd.txt").write_text("Nod.")
    with open(gr1 / "train" / "metadata.csv", "a") as table:
        table.write("lost.mp4,Nod.\n")
    with pytest.raises(UserError, match="^2 clips") as error:
        run_prepare(gr1)
    assert "odd.prores: no video of a known kind" in str(error.value)
    assert "lost.mp4: no such video; add it, or delete its row" in str(error.value)
    assert "metadata.csv, line 4" in str(error.value)
    manifest = run_prepare(gr1, skip_bad=True)
    assert (manifest["clips"], manifest["photos"], manifest["skipped"]) == (7, 2, 2)
    train = gr1 / "run" / "data" / "train"
    assert len(dataset.read_clips(train)) == 7 == len(calibration_clips.training_clips(train))
    assert layout.read_metadata(train / "metadata.csv")["3"] == "Nod.\nTwice.", "what prepare writes, others read"
    (folder / "Thumbs.db").write_bytes(b"seen on another computer")
    assert prepare("smoke", run=gr1 / "few", train=train, eval=gr1 / "eval")["clips"] == 4
    assert "takes the first 4 of 7 clips" in capsys.readouterr().out
    run_prepare(gr1, skip_bad=True)
    assert "skipping" in capsys.readouterr().out


def test_two_files_of_one_name_are_refused(gr1):
    shutil.copy(gr1 / "train" / "gr1" / "0.mp4", gr1 / "train" / "0.mov")
    with pytest.raises(UserError, match=r"train/0.mov and .*gr1/0.mp4 have the same name"):
        run_prepare(gr1)
    (gr1 / "train" / "0.mov").unlink()
    shutil.copy(gr1 / "eval" / "0_Wave..png", gr1 / "eval" / "0_Wave.png")
    with pytest.raises(UserError, match="0_Wave..png and .*0_Wave.png share 0_Wave..txt"):
        run_prepare(gr1)
    (gr1 / "eval" / "0_Wave.png").rename(gr1 / "eval" / "2_Nod.heic")
    (gr1 / "eval" / "2_Nod.txt").write_text("Nod.")
    with pytest.raises(UserError, match="2_Nod.heic: no picture of a known kind"):
        run_prepare(gr1)


def test_captions_that_contradict_the_table_are_refused(gr1):
    """In the prepared layout, as upstream's script makes it too: the file begins with the prefix, the row does not."""
    run_prepare(gr1)
    train = gr1 / "run" / "data" / "train"
    (train / "metas" / "0.txt").write_text("The robot arm is performing a task. Pick up a, edited.")
    with pytest.raises(UserError, match="(?s)^1 clip .*metas/0.txt and .*metadata.csv, line 2 differ"):
        prepare("nano", run=gr1 / "second", train=train, eval=gr1 / "eval")
    (gr1 / "train" / "gr1" / "metadata.csv").write_text("file,prompt\n0.mp4,Nod.\n")
    with pytest.raises(UserError, match="metadata.csv and .*gr1/metadata.csv differ; delete one"):
        run_prepare(gr1, redo=True)


def test_names_that_look_the_same_are_matched(gr1):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    folder = gr1 / "train" / "gr1"
    (folder / "0.mp4").rename(folder / f"{decomposed}.mp4")
    layout.write_metadata(gr1 / "train" / "metadata.csv", [(f"{composed}.mp4", "Pour."), ("1.mp4", "Wave.")])
    make_photos(gr1 / "eval", f"2_{decomposed}")
    (gr1 / "eval" / f"2_{decomposed}.txt").rename(gr1 / "eval" / f"2_{composed}.txt")
    assert run_prepare(gr1)["photos"] == 3
    train = gr1 / "run" / "data" / "train"
    (train / "metas" / f"{decomposed}.txt").rename(train / "metas" / f"{composed}.txt")
    assert {clip.prompt[-5:] for clip in dataset.read_clips(train)} == {"Pour.", "Wave."}
    assert len(calibration_clips.training_clips(train)) == 2
    shutil.copy(folder / "1.mp4", folder / f"{composed}.mp4")
    with pytest.raises(UserError, match="have the same name"):
        run_prepare(gr1, redo=True)


def test_second_call_skips_and_notices_an_exchanged_clip(gr1, capsys):
    run_prepare(gr1)
    run_prepare(gr1)
    assert "skipping" in capsys.readouterr().out
    make_video(gr1 / "train" / "gr1" / "0.mp4", frames=40)
    with pytest.raises(UserError, match="clips .*--redo prepare"):
        run_prepare(gr1)


def test_all_bad_clips_are_listed_then_skipped_on_demand(gr1):
    folder = gr1 / "train" / "gr1"
    captions = {"short": "Wave.", "broken": "Wave.", "silent": "", "unseen": "\u200b\u200d\ufeff"}
    captions = {stem: text.encode() for stem, text in captions.items()}
    captions |= {"latin": "Use é.".encode("latin-1"), "wide": "Wave.".encode("utf-16-le"), "orphan": b""}
    for stem, caption in captions.items():
        make_video(folder / f"{stem}.mp4", frames=10 if stem == "short" else 30)
        (folder / f"{stem}.txt").write_bytes(caption)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "orphan.txt").unlink()
    with pytest.raises(UserError) as error:
        run_prepare(gr1)
    text = str(error.value)
    assert text.startswith("7 clips") and text.count("caption is empty") == 2
    for reason in ("10 frames", "not a readable video", "zero bytes", "not UTF-8 (byte 4)", "no such caption"):
        assert reason in text
    manifest = run_prepare(gr1, skip_bad=True, redo=True)
    assert (manifest["clips"], manifest["skipped"]) == (2, 7)
    skipped = {Path(row["file"]).stem for row in storage.read_rows(gr1 / "run" / "data" / "skipped.jsonl")}
    assert skipped == captions.keys()


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
    assert not (gr1 / "run" / "data" / "train").exists(), "nothing is written before all is checked"
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
    [
        ("name,text\n", "line 1: the header"),
        ("file,prompt\na.mp4\n", "line 2: no prompt"),
        ("file,prompt\na.mp4,\u200b\u2060\n", "line 2: no prompt"),
        ("", "is empty"),
        ('"file","prompt"\na.mp4,"Two\nlines."\ngr1/a.mov,Wave.', r"line 4: the file gr1/a.mov has a row .*line 2\)"),
        ('file,prompt\n\na.mp4,"Wave.\nb.mp4,Nod.\n', "line 3: not csv"),
        ('file,prompt\na.mp4, "Take a, then b."\n', "line 2: a space stands before"),
        ("file,prompt\na.mp4,W\0a\0", "zero bytes"),
    ],
)
def test_bad_metadata_names_the_line(tmp_path, text, message):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        layout.read_metadata(tmp_path / "metadata.csv")


def test_unquoted_comma_belongs_to_the_prompt(tmp_path):
    (tmp_path / "metadata.csv").write_text("file,prompt\na.mp4,Pick up a, then b.\n")
    assert layout.read_metadata(tmp_path / "metadata.csv") == {"a": "Pick up a, then b."}


@given(st.lists(TEXT.filter(lambda text: any(map(str.isalnum, text))), max_size=3))
def test_metadata_survives_the_round_trip(tmp_path_factory, prompts):
    """Any captions, of several lines too; line ends of Windows become those of Unix, as in every text that is read."""
    file = tmp_path_factory.mktemp("csv") / "metadata.csv"
    layout.write_metadata(file, [(f"{number}.mp4", prompt) for number, prompt in enumerate(prompts)])
    unix = [prompt.replace("\r\n", "\n").replace("\r", "\n").strip() for prompt in prompts]
    assert layout.read_metadata(file) == {str(number): prompt for number, prompt in enumerate(unix)}


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
out = Path(sys.argv[1])
layout.write_metadata(out / "metadata.csv", [("a.mp4", "Gr\\u00fc\\u00dfe")])
layout.write_pair(out / "metadata.csv", out / "copy.csv", "Gr\\u00fc\\u00dfe", out / "a.txt")
(out / "a\\udce9.mp4").touch()
cli.function = lambda verb: lambda: layout.find_clips(out)
sys.exit(cli.main(["doctor"]))
"""
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python("-c", program, tmp_path, env=os.environ | variables)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert r"the name 'a\udce9.mp4' is not UTF-8, or has a line break; rename the file" in done.stderr
    table, caption = (tmp_path / name for name in ("metadata.csv", "a.txt"))
    assert "Grüße" in table.read_text("utf-8") and caption.read_text("utf-8") == "Grüße"
