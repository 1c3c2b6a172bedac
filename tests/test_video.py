"""Reading videos and pictures as every viewer shows them: what a file says of itself is applied, or refused by name."""

from __future__ import annotations

import struct
import subprocess
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorTrc
from conftest import python
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cookbook import profiles, video
from cookbook.errors import UserError
from cookbook.models.frames import sample_video
from cookbook.prepare.stage import check_clips
from cookbook.profiles import Geometry

CORNERS = np.zeros((32, 48, 3), np.uint8)  # every corner another brightness
CORNERS[:16, :24], CORNERS[:16, 24:], CORNERS[16:, :24] = 250, 170, 90
HD = (1080, 1920)


def encode(path, frames, rate=10, seconds=None, codec="libx264", pix_fmt="yuv420p", prepare=lambda stream: None):
    """Write frames [T, H, W, 3], each at its second if they are given."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *np.shape(frames)[1:3], pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[-1] == 4 else "rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (number / rate if seconds is None else seconds[number]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def corners(picture: np.ndarray) -> list[int]:
    """The brightness of each quarter: top left, top right, bottom left, bottom right."""
    halves = [half for rows in np.array_split(picture, 2) for half in np.array_split(rows, 2, axis=1)]
    return [round(float(np.median(half)) / 10) * 10 for half in halves]


def tagged(orientation: int) -> np.ndarray:
    """The picture whose EXIF orientation turns it into CORNERS."""
    turned = CORNERS if orientation < 5 else CORNERS.swapaxes(0, 1)
    rows, columns = [(1, 1), (1, -1), (-1, -1), (-1, 1), (1, 1), (-1, 1), (-1, -1), (1, -1)][orientation - 1]
    return turned[::rows, ::columns]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_orientation_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(tagged(orientation)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(video.read_image(tmp_path / "a.png"), CORNERS)


def test_a_photo_of_16_bits_or_with_transparency_is_its_real_picture(tmp_path):
    Image.fromarray(CORNERS[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey.png")
    assert np.array_equal(video.read_image(tmp_path / "grey.png"), CORNERS)
    clear = np.dstack([CORNERS, np.where(CORNERS[..., 0] == 90, 0, 255).astype(np.uint8)])
    shown = np.where(CORNERS == 90, 255, CORNERS)
    image = Image.fromarray(clear)
    for number, same in enumerate((image, image.convert("LA"), image.quantize(8, Image.Quantize.FASTOCTREE))):
        same.save(tmp_path / f"{number}.png")
        assert np.abs(video.read_image(tmp_path / f"{number}.png").astype(int) - shown).max() <= 2, same.mode
    image.save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(video.read_image(tmp_path / "a.webp"), shown)
    Image.fromarray(CORNERS).save(tmp_path / "key.png", transparency=(90, 90, 90))
    assert np.array_equal(video.read_image(tmp_path / "key.png"), shown)


def test_a_huge_or_broken_picture_is_one_line_with_its_name(tmp_path):
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    for size in ((20_000, 10_000), (30_000, 30_000)):
        data[16:24] = struct.pack(">II", *size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(UserError, match=r"^\S*a.png: the picture is too large; make it smaller .*$"):
            video.read_image(tmp_path / "a.png")
    for content in (b"", b"no picture", bytes(data[:40]), bytes(data[:20]) + b"x" * 40):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UserError, match=r"^\S*a.png: not a readable image .*$"):
            video.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_video_is_turned_and_mirrored_as_it_says(tmp_path, degrees, flips):
    """Also at the size that is reported, in a window and for the critic."""
    path, (hflip, vflip) = tmp_path / "a.mp4", flips
    encode(path, [CORNERS] * 9, prepare=lambda stream: stream.set_display_rotation(degrees, hflip, vflip))
    shown = np.rot90(CORNERS, degrees // 90)[:: -1 if vflip else 1, :: -1 if hflip else 1]
    film = video.probe(path)
    assert (film.height, film.width) == shown.shape[:2]
    assert corners(video.read_video(path)[0][-1]) == corners(shown)
    (window,) = film.windows(Geometry(5, 10, 32, 32), [0.0], resample=True, crop=False)
    assert corners(window[-1]) == corners(sample_video(path, 10, 1000, 16).frames[-1]) == corners(shown)


def test_pixels_that_are_not_square_are_shown_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    for name in ("a.mp4", "a.mkv", "a.ts"):
        encode(tmp_path / name, [CORNERS] * 9, prepare=wide)
        film = video.probe(tmp_path / name)
        assert (film.height, film.width) == (32, 64) and film.read([0]).shape == (1, 32, 64, 3)


def test_a_transparent_video_is_on_white(tmp_path):
    clear = np.dstack([CORNERS, np.where(CORNERS[..., 0] == 90, 0, 255).astype(np.uint8)])
    encode(tmp_path / "a.mov", [clear] * 3, codec="png", pix_fmt="rgba")
    assert corners(video.read_video(tmp_path / "a.mov")[0][0]) == [250, 170, 260, 0]


@pytest.mark.parametrize(("transfer", "name"), [(ColorTrc.SMPTE2084, "PQ"), (ColorTrc.ARIB_STD_B67, "HLG")])
def test_hdr_is_refused_with_the_command_that_converts_it(tmp_path, transfer, name):
    def hdr(stream):
        stream.codec_context.color_trc = transfer
        stream.codec_context.color_primaries = stream.codec_context.colorspace = 9
        stream.codec_context.color_range = 1

    path = tmp_path / "it's.mp4"
    encode(path, [CORNERS] * 3, pix_fmt="yuv420p10le", prepare=hdr)
    with pytest.raises(UserError, match=rf"HDR video \({name}\); convert it: ffmpeg -i .*_sdr.mp4") as error:
        video.probe(path)
    import imageio_ffmpeg

    command = str(error.value).split("convert it: ffmpeg")[1]
    subprocess.run(f"{imageio_ffmpeg.get_ffmpeg_exe()} -v error {command}", shell=True, check=True)
    assert video.probe(tmp_path / "it's_sdr.mp4").frames == 3


def shades(count: int) -> np.ndarray:
    """Grey frames whose brightness is their number."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)


def test_frames_are_picked_by_their_own_times(tmp_path):
    """Two seconds at 30 frames per second, then two at 6."""
    times = np.concatenate([np.arange(60) / 30, 2 + np.arange(12) / 6])
    for name in ("a.mkv", "a.mp4"):
        encode(tmp_path / name, shades(72), 30, times, "ffv1" if name == "a.mkv" else "libx264rgb", "bgr0")
        clip = Geometry(frames=25, fps=8, height=16, width=16)
        first, last = video.probe(tmp_path / name).windows(clip, [0.0, 1.0], resample=True, crop=True)
        assert np.abs(times[first[:, 0, 0, 0]] - np.arange(25) / 8).max() <= 1 / 12 + 1 / 60
        assert np.abs(times[last[:, 0, 0, 0]] - times[-1] + 3 - np.arange(25) / 8).max() <= 1 / 12 + 1 / 60
        sampled = sample_video(tmp_path / name, 8, 10_000, 16)
        told = np.array(sampled.indices) / sampled.clip_fps
        assert np.abs(times[sampled.frames[:, 0, 0, 0]] - told).max() <= 1 / 12 + 0.001
        assert sampled.fps == pytest.approx(8, abs=0.1)
        frames, fps = video.read_video(tmp_path / name)
        assert len(frames) / fps == pytest.approx(4, abs=0.2)


def test_steady_files_keep_their_rate_and_their_frames(tmp_path):
    """Rounded times, as of Matroska, and a rate that is no whole number; consecutive frames stay consecutive."""
    for name, rate in (("a.mkv", Fraction(30000, 1001)), ("b.mp4", Fraction(25)), ("c.avi", Fraction(15))):
        codec = "mpeg4" if name == "c.avi" else "libx264"
        encode(tmp_path / name, shades(60), rate, codec=codec)
        film = video.probe(tmp_path / name)
        assert film.frames == 60 and film.fps == pytest.approx(float(rate), rel=1e-3)
        assert film.nearest(range(60)).tolist() == list(range(60))


def test_a_size_that_changes_is_listed_and_skipped(tmp_path):
    for name, size in (("a.ts", (32, 48)), ("b.ts", (64, 96))):
        encode(tmp_path / name, np.zeros((30, *size, 3), np.uint8))
    both = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_bytes(both)
    (tmp_path / "clips/a.txt").write_text("Wave.")
    _, (problem,) = check_clips(tmp_path / "clips", profiles.nano())
    assert "the size of the picture changes from 48 x 32 to 96 x 64 at frame 30" in problem["reason"]


def test_a_damaged_picture_is_refused_each_time(tmp_path):
    path, noise = tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 255, (30, 32, 48, 3)).astype(np.uint8)
    video.write_video(path, noise, 10)
    with av.open(str(path)) as container:
        place, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][9]
    data = bytearray(path.read_bytes())
    data[place + size // 4 : place + size] = bytes(size - size // 4)
    path.write_bytes(data)
    for _ in range(50):
        with pytest.raises(UserError, match="a.mp4: damaged at frame 9;"):
            video.probe(path)


def with_sound(path: Path, *pictures: tuple[str, str, int]) -> None:
    """A file with a track of pictures for each (codec, format, number of frames), in this order, and one of sound."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=10, width=48, height=32, pix_fmt=f) for codec, f, _ in pictures]
        audio = container.add_stream("aac", rate=8000)
        for stream, (_, _, count) in zip(streams, pictures, strict=True):
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(CORNERS)))
            container.mux(stream.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_real_track_is_read_and_sound_alone_is_refused(tmp_path, name):
    with_sound(tmp_path / name, ("mjpeg", "yuvj420p", 1), ("libx264", "yuv420p", 30))
    assert video.probe(tmp_path / name).frames == 30
    with_sound(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: it holds no video, only audio$"):
        video.probe(tmp_path / name)


MEMORY = """
import resource, sys
from pathlib import Path
from cookbook import video
from cookbook.profiles import Geometry
from cookbook import show
def peak(path):
    film = video.probe(Path(path))
    film.windows(Geometry(9, 8, 96, 160), [0.0, 1.0], True, True)
    show.contact_sheet([Path(path)])
    video.read_video(Path(path), 96)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(peak(sys.argv[1]), peak(sys.argv[2]))
"""


def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path):
    for count in (30, 70):
        encode(tmp_path / f"{count}.mp4", [np.zeros((*HD, 3), np.uint8)] * count, 10)
    done = python("-c", MEMORY, tmp_path / "30.mp4", tmp_path / "70.mp4", check=True)
    short, long = map(float, done.stdout.split())
    assert long - short < 60, "MB; forty more frames are 124 MB even before they are pixels"


@settings(deadline=None, max_examples=40)
@given(
    steps=st.lists(st.sampled_from([1, 3, 16, 33, 34, 40, 166, 500, 1700]), min_size=5, max_size=40),
    start=st.floats(0, 1),
)
def test_gaps_and_jumps_of_any_shape(tmp_path_factory, steps, start):
    times, path = np.cumsum([0, *steps]) / 1000, tmp_path_factory.mktemp("film") / "a.mkv"
    encode(path, shades(len(times)), 30, times, "ffv1", "bgr0")
    film, clip = video.probe(path), Geometry(frames=5, fps=8, height=16, width=16)
    if film.spare(clip, resample=True) < 0:
        assert times[-1] < 0.5 + 1 / 60
        return
    picked = film.windows(clip, [start], resample=True, crop=True)[0][:, 0, 0, 0]
    wanted = start * (times[-1] - 0.5) + np.arange(5) / 8
    best = np.abs(times[:, None] - wanted).min(0)
    assert (np.abs(times[picked] - wanted) <= best + 0.06 + 0.5 / film.fps).all()  # a window begins at a frame
