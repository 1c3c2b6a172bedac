"""`python -m tools.fuzz [PLACES] [SEED]`: feed the readers hostile files, and report what they took as something else.

Videos are cut, spliced and damaged at PLACES places of each format (500 if not given); hypothesis makes as many tables,
files of requests, captions and names. What is read must equal what was written, or be refused by a UserError. Of
videos that holds where a file was cut; a byte that was changed can make another whole video, so these are counted.
"""

from __future__ import annotations

import csv
import io
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

from cookbook import layout, profiles, video
from cookbook.errors import UserError
from cookbook.generate.requests import read_requests
from cookbook.prepare.stage import write_training

FORMATS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4", "ts": "libx264"}
FRAMES = 30
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PROMPT = TEXT.filter(layout.says_something)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT, st.lists, max_leaves=4)
FIELDS = {"num_output_frames": 9, "resolution": "32,48", "seed": 3, "guidance": 2.5, "shift": 1, "prompt": "Grüße"}


def unix(text: str) -> str:
    """A text as it is read: with the line ends of Unix, without the mark of its encoding, stripped."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip()


def film(path: Path, codec: str, start: int) -> bytes:
    """A video of coloured squares that move, and its bytes."""
    squares = np.random.default_rng(start).integers(0, 200, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": "8", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *squares.shape[:2], "yuv420p"
        for time in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(squares, 3 * time, 1), format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def videos(places: int, start: int) -> Counter:
    """Read videos that were cut, spliced or changed: (format, damage, outcome) -> how often."""
    counts, rng = Counter(), random.Random(start)
    with tempfile.TemporaryDirectory() as folder:
        for suffix, codec in FORMATS.items():
            whole, damaged = Path(folder) / f"a.{suffix}", Path(folder) / f"damaged.{suffix}"
            data, other = film(whole, codec, start), film(Path(folder) / f"b.{suffix}", codec, start + 1)
            written, fps = video.read_video(whole)
            for _ in range(places):
                at, to = rng.randrange(len(data)), rng.randrange(len(other))
                kinds = {"cut": data[:at], "spliced": data[:at] + other[rng.choice((at, to)) :]}
                kinds |= {"changed": data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]}
                for kind, content in kinds.items():
                    damaged.write_bytes(content)
                    try:
                        frames, rate = video.read_video(damaged)
                        same = (rate, frames.shape) == (fps, written.shape) and bool((frames == written).all())
                    except UserError:
                        counts[suffix, kind, "refused"] += 1
                        continue
                    counts[suffix, kind, "as written" if same else "as another"] += 1
                    aligned = suffix == "ts" and at % 188 == 0  # whole packets: nothing says how many there were
                    assert same or kind != "cut" or aligned, f"{suffix} cut at byte {at}, seed {start}"
    return counts


def check_table(folder: Path, rows: list[tuple[str, str]], dialect: dict, cut: int | None) -> None:
    """`metadata.csv` in any dialect and cut anywhere: no prompt that was not written."""
    text = io.StringIO()
    csv.writer(text, **dialect).writerows([("file", "prompt"), *rows])
    content = text.getvalue().encode()[:cut]
    (folder / "metadata.csv").write_bytes(content)
    with suppress(UserError):
        read = layout.read_rows(folder / "metadata.csv").values()
        written = {(unix(name), unix(prompt)) for name, prompt in rows}
        whole = [(unix(row.file), row.prompt) for row in read][: None if cut is None else -1]
        assert set(whole) <= written, (whole, written)
        assert cut is not None or len(whole) == len(rows)


def check_requests(folder: Path, rows: list[dict], raw: bytes, at: int) -> None:
    """Rows with fields of any values, and foreign bytes anywhere: each request has the values of its line."""
    rows = [{"name": f"{n}", "prompt": "Wave.", "inference_type": "text2world"} | row for n, row in enumerate(rows)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    at %= len(content) + 1
    (folder / "a.jsonl").write_bytes(content[:at] + raw + content[at:])
    with suppress(UserError):
        for request in read_requests(folder / "a.jsonl", profiles.nano()):
            line = next((row for row in rows if row["name"] == request.name), {})
            read = request.model_dump()
            assert raw or line and all(read[key] == value for key, value in line.items()), (read, line)


def check_caption(folder: Path, text: str, encoding: str) -> None:
    """A caption in any encoding: its text, or refused. (Without its mark, UTF-16 may be other text by chance.)"""
    try:
        content = text.encode(encoding)
        assume("utf" in encoding or content.decode("utf-8", "replace") != content.decode("utf-8", "ignore"))
    except UnicodeEncodeError:
        assume(False)
    (folder / "a.txt").write_bytes(content)
    with suppress(UserError):
        assert layout.read_text(folder / "a.txt") == unix(text), content


def check_names(folder: Path, names: list[str]) -> None:
    """Clips of any names: each has its own caption, and so has it in the folder that `prepare` writes."""
    with tempfile.TemporaryDirectory(dir=folder) as source, tempfile.TemporaryDirectory(dir=folder) as copy:
        for number, name in enumerate(names):
            try:
                (Path(source) / f"{name}.mp4").write_text(name)
                (Path(source) / f"{name}.txt").write_text(f"caption {number}")
            except (OSError, ValueError):
                assume(False)  # no such name here
        captions = {f"{name}.mp4": f"caption {number}" for number, name in enumerate(names)}
        with suppress(UserError):
            found = layout.find_clips(Path(source))
            clips = [layout.Clip(path, layout.read_text(text)) for path, text in found]
            visible = {name: text for name, text in captions.items() if not name.startswith(".")}
            assert {clip.video.name: clip.prompt for clip in clips} == visible
            write_training(Path(copy), clips, "Do: ")
            again = {path.name: text for path, text in layout.find_clips(Path(copy), "Do: ")}
            assert again == visible, (again, visible)


NAME = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=30)
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={key: st.just(good) | VALUES for key, good in FIELDS.items()}), max_size=3
)
DIALECTS = st.fixed_dictionaries(
    {"quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), "lineterminator": st.sampled_from(["\n", "\r\n"])}
)
CHECKS = {
    check_table: (st.lists(st.tuples(TEXT, PROMPT), max_size=4), DIALECTS, st.none() | st.integers(0, 200)),
    check_requests: (ROWS, st.binary(max_size=4), st.integers(0, 400)),
    check_caption: (PROMPT, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gbk", "latin-1", "shift-jis"])),
    check_names: (st.lists(NAME, unique=True, max_size=4),),
}


def texts(places: int, start: int) -> None:
    """Run every check on so many inputs; hypothesis raises the smallest input that fails."""
    with tempfile.TemporaryDirectory() as folder:
        for check, inputs in CHECKS.items():
            bound = settings(max_examples=places, deadline=None, database=None, suppress_health_check=HealthCheck)
            bound(seed(start)(given(st.just(Path(folder)), *inputs)(check)))()
            print(f"{check.__name__}: {places} inputs read as written, or refused")


if __name__ == "__main__":
    places, start = [*map(int, sys.argv[1:]), *(500, 0)[len(sys.argv) - 1 :]]
    texts(places, start)
    for (suffix, kind, outcome), number in sorted(videos(places, start).items()):
        print(f"{suffix}, {kind}: {number} of {places} {outcome}")
