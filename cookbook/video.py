"""Reading and writing clips with PyAV, and fitting them to a model's size and rate.

PyAV includes FFmpeg, so nothing has to be installed beside Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from cookbook import runs
from cookbook.errors import UserError
from cookbook.profiles import Geometry

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class VideoInfo:
    frames: int
    fps: float
    height: int
    width: int


def decode(path: Path, threads: int = 0) -> tuple[list[av.VideoFrame], float]:
    """All frames as coded (YUV, half the memory of RGB) and the frame rate.

    Args:
        threads: of the decoder; 0 lets it choose.

    Raises:
        UserError: the file is missing, empty or not a readable video.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            rate = stream.average_rate or stream.guessed_rate
            frames = list(container.decode(stream))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: not a readable video ({error or 'no video stream'})") from None
    if not frames or not rate:
        raise UserError(f"{path}: the video holds no frames")
    return frames, float(rate)


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """All frames uint8 [T, H, W, 3] and the frame rate; errors as in `decode`."""
    frames, rate = decode(path)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), rate


def probe(path: Path) -> VideoInfo:
    """Size, rate and frame count, counted by decoding, so that a truncated file is noticed."""
    frames, fps = read_video(path)
    return VideoInfo(len(frames), fps, frames.shape[1], frames.shape[2])


def write_video(path: Path, frames: np.ndarray, fps: float, crf: int = 20) -> None:
    """Write uint8 frames [T, H, W, 3] as H.264 mp4 (4:2:0).

    One thread and no macroblock tree, which x264 computes differently from run to run on small pictures, so the same
    frames give the same bytes.
    """
    with runs.replacing(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
            container.mux(stream.encode())


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def fit(frames: np.ndarray, height: int, width: int, crop: bool = True) -> np.ndarray:
    """Resize frames [T, H, W, 3] to height x width.

    Args:
        crop: keep the aspect ratio and cut out the centre (NVIDIA's inference); else squash (NVIDIA's training).
    """
    old_height, old_width = frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return frames
    scale = max(height / old_height, width / old_width)
    size = (round(old_width * scale), round(old_height * scale)) if crop else (width, height)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    box = (left, top, left + width, top + height)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC).crop(box)) for f in frames])


def needed_frames(fps: float, clip: Geometry, resample: bool) -> int:
    """The number of source frames that one training window spans."""
    return clip.frames if not resample else int(np.floor((clip.frames - 1) * fps / clip.fps)) + 1


def window(frames: np.ndarray, fps: float, clip: Geometry, start: float, resample: bool, crop: bool) -> np.ndarray:
    """One training window uint8 [clip.frames, clip.height, clip.width, 3].

    Args:
        frames: [T, H, W, 3] at `fps`.
        start: of the window, 0 for the earliest possible and 1 for the latest.
        resample: take the frames nearest to the profile's frame times; otherwise consecutive ones.
    """
    span = needed_frames(fps, clip, resample)
    first = int(round(start * (len(frames) - span)))
    steps = np.arange(clip.frames) * (fps / clip.fps if resample else 1)
    picked = frames[first + np.minimum(np.round(steps).astype(int), span - 1)]
    return fit(picked, clip.height, clip.width, crop)
