"""Hostile files and names: what is read equals what was written, or is refused by a UserError."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cookbook import layout, profiles, video
from cookbook.errors import UserError
from cookbook.generate.requests import read_requests
from cookbook.prepare.stage import write_training

FRAMES = 30
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAME = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT, st.lists, max_leaves=4)
FIELDS = {"num_output_frames": 9, "resolution": "32,48", "seed": 3, "guidance": 2.5, "shift": 1, "prompt": "Grüße"}
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={key: st.just(good) | VALUES for key, good in FIELDS.items()}), max_size=3
)
FEW = settings(max_examples=10, derandomize=True)


def film(path: Path, codec: str, start: int) -> bytes:
    """A video of noise, and its bytes. Ours is an mp4 with its index at the front, so that a part can be read."""
    frames = np.random.default_rng(start).integers(0, 255, (FRAMES, 32, 48, 3), np.uint8)
    if path.suffix == ".mp4":
        video.write_video(path, frames, 10)
        return path.read_bytes()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": "8", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("ts", "libx264")],
)
def test_a_cut_video_is_read_as_written_or_refused(suffix, codec, tmp_path):
    """Cut between two frames or anywhere. Damaged and spliced ones are read without another error. Of whole packets of
    a transport stream (188 bytes) nothing says how many there were."""
    rng, whole, damaged = random.Random(1), tmp_path / f"a.{suffix}", tmp_path / f"damaged.{suffix}"
    data, other = film(whole, codec, 1), film(tmp_path / f"b.{suffix}", codec, 2)
    written, fps = video.read_video(whole)
    with av.open(str(whole)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for at in (*places[9::10], places[-1], places[20] - 8, *(rng.randrange(len(data)) for _ in range(4))):
        changed = data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
        for content in (data[:at], data[:at] + other[at:], changed):
            damaged.write_bytes(content)
            with suppress(UserError):
                frames, rate = video.read_video(damaged)
                cut = len(content) == at and (suffix != "ts" or at % 188)
                assert not cut or rate == fps and np.array_equal(frames, written), f"cut at byte {at}"


def test_an_avi_without_times_of_display_has_its_rate(tmp_path):
    film(tmp_path / "a.avi", "libx264", 0)
    read = video.probe(tmp_path / "a.avi")
    assert (read.frames, read.fps) == (FRAMES, 10)


@FEW
@given(ROWS, st.binary(max_size=4), st.integers(0, 400))
def test_a_request_has_the_values_of_its_line(tmp_path_factory, rows, raw, at):
    """Rows with fields of any values, and foreign bytes anywhere."""
    file = tmp_path_factory.mktemp("rows") / "a.jsonl"
    rows = [{"name": f"{n}", "prompt": "Wave.", "inference_type": "text2world"} | row for n, row in enumerate(rows)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    at %= len(content) + 1
    file.write_bytes(content[:at] + raw + content[at:])
    with suppress(UserError):
        for request in read_requests(file, profiles.nano()):
            line = next((row for row in rows if row["name"] == request.name), {})
            read = request.model_dump()
            assert raw or line and all(read[key] == value for key, value in line.items()), (read, line)


@FEW
@given(st.lists(NAME, unique=True, max_size=4) | st.sampled_from([[" a"], ["a\r0"]]))
def test_clips_of_any_names_keep_their_captions(tmp_path_factory, names):
    """In the folder itself, and in the one that `prepare` writes."""
    source, copy = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("copy")
    for number, name in enumerate(names):
        try:
            (source / f"{name}.mp4").write_text(name)
            (source / f"{name}.txt").write_text(f"caption {number}")
        except (OSError, ValueError):
            assume(False)  # no such name here
    captions = {f"{name}.mp4": f"caption {number}" for number, name in enumerate(names)}
    with suppress(UserError):
        clips = [layout.Clip(path, layout.read_text(text)) for path, text in layout.find_clips(source)]
        visible = {name: text for name, text in captions.items() if not name.startswith(".")}
        assert {clip.video.name: clip.prompt for clip in clips} == visible
        write_training(copy, clips, "Do: ")
        assert {path.name: text for path, text in layout.find_clips(copy, "Do: ")} == visible
