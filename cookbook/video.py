"""Reading and writing clips with PyAV, and fitting them to a model's size and rate.

PyAV includes FFmpeg, so nothing has to be installed beside Python.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.container.streams import StreamContainer
from av.stream import Disposition
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from cookbook import storage
from cookbook.errors import UserError
from cookbook.profiles import Geometry

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
UNSTEADY_FPS = 60.0  # a file whose rate varies is read as if it had this rate
JITTER = 0.01  # most seconds by which a frame of a constant rate may be early or late: some formats round to 1/100 s
KEPT = 2**27  # bytes of decoded frames that are held; a larger video is decoded again when its frames are read
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, by their numbers in H.273
SAY_THEIR_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # of others FFmpeg only guesses it
TO_SDR = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709,format=yuv420p"


@dataclass(frozen=True, eq=False)
class Video:
    """A video that was decoded once, to its end: its facts, and its frames on demand, as every viewer shows them."""

    path: Path
    times: np.ndarray  # of each frame of the file, in seconds, from 0 on
    fps: float  # of the file; UNSTEADY_FPS where its rate varies
    height: int  # as shown: turned, and with square pixels
    width: int
    aspect: Fraction  # width of a coded pixel / its height
    threads: int
    kept: Sequence[av.VideoFrame] = field(repr=False)  # all frames, or none where they take more than KEPT

    @property
    def frames(self) -> int:
        """The number of frames at the constant rate `fps`."""
        return round(self.times[-1] * self.fps) + 1

    def nearest(self, indices: ArrayLike) -> np.ndarray:
        """For indices at the constant rate `fps`: the frames of the file that are nearest in time."""
        times = np.asarray(indices) / self.fps
        after = np.searchsorted(self.times, times).clip(max=len(self.times) - 1)
        before = np.maximum(after - 1, 0)
        return np.where(times - self.times[before] <= self.times[after] - times, before, after)

    def read(self, numbers: Iterable[int], resize: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Frames of the file by their numbers, uint8 [T, H, W, 3]; each is resized before the next is decoded."""
        numbers = [int(number) for number in numbers]
        wanted, pictures = set(numbers), {}
        with nullcontext((None, self.kept)) if self.kept else decode(self.path, self.threads) as (_, frames):
            for number, frame in zip(range(max(wanted) + 1), frames, strict=False):
                if number in wanted:
                    picture = _picture(frame, self.aspect)
                    pictures[number] = resize(picture) if resize else picture
            return np.stack([pictures[number] for number in numbers])

    def spare(self, clip: Geometry, resample: bool) -> int:
        """The number of frames beyond one training window; negative if the video is too short for one."""
        return self._count(resample) - needed_frames(self.fps, clip, resample)

    def windows(self, clip: Geometry, starts: Sequence[float], resample: bool, crop: bool) -> list[np.ndarray]:
        """The training windows uint8 [clip.frames, clip.height, clip.width, 3]. Only their frames become pixels.

        Args:
            starts: of each window, 0 for the earliest possible and 1 for the latest.
            resample: take the frames nearest to the profile's frame times; otherwise consecutive ones.
        """
        span = needed_frames(self.fps, clip, resample)
        steps = np.round(np.arange(clip.frames) * (self.fps / clip.fps if resample else 1)).astype(int)
        picked = [round(start * (self._count(resample) - span)) + np.minimum(steps, span - 1) for start in starts]
        numbers = np.concatenate([self.nearest(indices) if resample else indices for indices in picked])
        frames = self.read(numbers, lambda picture: fit(picture[None], clip.height, clip.width, crop)[0])
        return np.split(frames, len(starts))

    def _count(self, resample: bool) -> int:
        return self.frames if resample else len(self.times)


@contextmanager
def decode(path: Path, threads: int = 0, start: float = 0) -> Iterator[tuple[av.VideoStream, Iterator[av.VideoFrame]]]:
    """The video track of a file, and its frames while they are decoded.

    Args:
        threads: of the decoder; 0 lets it choose.
        start: seconds; decoding begins at the last key frame at or before it.

    Raises:
        UserError: the file is missing or not a readable video, or its frames cannot be shown as they are.
    """
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            stream = _track(path, container.streams)
            stream.thread_type = "SLICE"  # threads by frame hand a frame on before they know whether it is damaged
            stream.codec_context.thread_count = threads
            if start:
                container.seek(int(start * av.time_base) + (container.start_time or 0))
            yield stream, _alike(path, _whole(path, container, stream))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except MemoryError:
        raise UserError(f"{path}: not enough memory for its pictures; make them smaller, or free memory") from None
    except (av.error.FFmpegError, IndexError) as error:  # PyAV's IndexError: a track begins in mid-file
        raise UserError(f"{path}: not a readable video ({error})") from None


def _track(path: Path, streams: StreamContainer) -> av.VideoStream:
    """The video track: thumbnails are tracks too, and often the first."""
    best = streams.best("video")
    videos = [stream for stream in streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        others = sorted({"a thumbnail" if stream.type == "video" else stream.type for stream in streams})
        raise UserError(f"{path}: it holds no video, only {' and '.join(others) or 'no track'}")
    track = max(videos, key=lambda stream: (stream.frames != 1, stream is best))
    if track.codec_context is None:
        raise UserError(f"{path}: its video codec is not known here; convert it to H.264")
    return track


def _whole(path: Path, container: InputContainer, track: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The frames of a track; an error if the file ends before its stated size, or before its stated time."""
    size, whole = path.stat().st_size, max([_length(path), *(entry.pos + entry.size for entry in track.index_entries)])
    if size < whole:
        raise UserError(f"{path}: cut off after {size} of {whole} bytes; copy the whole file again")
    end, longest = 0.0, 0.1  # seconds; the last picture may last as long as any other
    for packet in container.demux():
        if packet.pts is not None:
            before, end = end, max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            longest = max(longest, end - before) if before else longest
        if packet.stream is track:
            yield from packet.decode()
    said = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
    if end and container.format.name in SAY_THEIR_LENGTH and said - end > longest + 0.001:
        raise UserError(f"{path}: cut off after {end:.2f} of {said:.2f} seconds; copy the whole file again")


def _length(path: Path) -> int:
    """The size in bytes that the head of an avi, transport stream or Matroska file gives; 0 where it gives none."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little") % 0xFFFFFFFF
    if head[:565:188] == b"GGGG":  # whole packets
        return -(-path.stat().st_size // 188) * 188
    start = head.find(b"\x18\x53\x80\x67") + 4  # then a number that begins with its own number of bytes, in unary
    if head[:4] != b"\x1a\x45\xdf\xa3" or not 4 <= start < len(head) or not head[start]:
        return 0
    end, most = start + 9 - head[start].bit_length(), 2 ** (7 * (9 - head[start].bit_length())) - 1
    return end + (int.from_bytes(head[start:end]) & most) % most  # all ones: not known


def _alike(path: Path, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same frames, but an error at the first that is damaged, HDR, or of another size than those before."""
    size = None
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise UserError(f"{path}: damaged at frame {number}; copy the whole file again")
        if frame.color_trc in HDR:
            names = shlex.quote(str(path)), shlex.quote(f"{path.with_suffix('')}_sdr.mp4")
            cure = f"ffmpeg -i {names[0]} -vf {TO_SDR} {names[1]}"
            raise UserError(f"{path}: this is HDR video ({HDR[frame.color_trc]}); convert it: {cure}")
        before, size = size or (frame.width, frame.height), (frame.width, frame.height)
        if size != before:
            change = "{} x {} to {} x {}".format(*before, *size)
            raise UserError(f"{path}: the size of the picture changes from {change} at frame {number}; cut it there")
        yield frame


def probe(path: Path, threads: int = 0) -> Video:
    """The facts of a video. It is decoded to its end, so that a truncated file is noticed.

    Raises:
        UserError: as `decode`; or there are no frames.
    """
    times, kept, most = [], [], None
    with decode(path, threads) as (stream, frames):
        rate, aspect = stream.average_rate or stream.guessed_rate, stream.sample_aspect_ratio or Fraction(1)
        for frame in frames:
            if most is None:
                height, width = _picture(frame, aspect).shape[:2]
                most = KEPT // sum(plane.buffer_size for plane in frame.planes)
            times.append(frame.time)
            kept.append(frame)
            if len(kept) > most:
                kept, most = [], 0
    if not times or not rate:
        raise UserError(f"{path}: the video holds no frames")
    return Video(Path(path), *_timeline(times, float(rate)), height, width, aspect, threads, kept)


def _timeline(times: Sequence[float | None], rate: float) -> tuple[np.ndarray, float]:
    """Times of frames from 0 on, and their constant rate, or UNSTEADY_FPS where there is none.

    Args:
        times: as the file says them; a step back in time is taken for one of usual length.
        rate: as the file says it.
    """
    steady, steps = np.arange(len(times)), np.diff(np.asarray(times, float))
    if not len(steps) or np.isnan(steps).any() or (steps < 0).mean() > 0.1:  # an avi says no times of display
        return steady / rate, rate
    steps[steps < 0] = np.median(steps[steps > 0]) if (steps > 0).any() else 1 / rate
    exact = np.concatenate([[0.0], np.cumsum(steps)])
    for fps in (rate, steady[-1] / max(exact[-1], 1e-9)):
        if np.abs(exact - steady / fps).max() <= min(JITTER, 0.5 / fps):
            return steady / fps, fps
    return exact, UNSTEADY_FPS


def _picture(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    """A frame [H, W, 3] as it is shown: with square pixels, turned and mirrored, on white where it is transparent."""
    clear = any(component.is_alpha for component in frame.format.components)
    size = {"width": round(frame.width * aspect), "height": frame.height}
    picture = frame.to_ndarray(format="rgba" if clear else "rgb24", **size)
    if clear:
        picture = np.asarray(_opaque(Image.fromarray(picture)))
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # shown at x = a x + c y, y = b x + d y
    if abs(a) < abs(b):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def read_video(path: Path, most: int | None = None) -> tuple[np.ndarray, float]:
    """All frames uint8 [T, H, W, 3] at a constant rate, H at most `most`, and that rate; errors as in `probe`."""
    film, resize = probe(path), None
    if most and film.height > most:
        size = most, 2 * round(film.width * most / film.height / 2)
        resize = lambda picture: fit(picture[None], *size, crop=False)[0]  # noqa: E731
    return film.read(film.nearest(range(film.frames)), resize), film.fps


def read_span(path: Path, start: float, frames: int, fps: float) -> np.ndarray:
    """Frames uint8 [frames, H, W, 3] at `start`, `start + 1/fps`, ... seconds of a file that may hold much more.

    Decoded by one thread: callers read many episodes side by side.

    Raises:
        UserError: as `decode`; or there is no frame within half a frame of one of these times.
    """
    pictures = {}
    with decode(path, 1, start) as (stream, decoded):
        first, aspect = float((stream.start_time or 0) * stream.time_base), stream.sample_aspect_ratio or Fraction(1)
        for frame in decoded:
            number = round((frame.time - first - start) * fps)
            if 0 <= number < frames:
                pictures.setdefault(number, _picture(frame, aspect))
            if number >= frames - 1:
                break
    if missing := [number for number in range(frames) if number not in pictures]:
        raise UserError(f"{path}: no frame at {start + missing[0] / fps:.3f} s; its rate or length has changed")
    return np.stack([pictures[number] for number in range(frames)])


def write_video(path: Path, frames: np.ndarray, fps: float, crf: int = 20) -> None:
    """Write uint8 frames [T, H, W, 3] as H.264 mp4 (4:2:0).

    One thread and no macroblock tree, which x264 computes differently from run to run on small pictures, so the same
    frames give the same bytes.
    """
    with storage.replacing(path) as temporary:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
            for array in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
            container.mux(stream.encode())


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3], as every viewer shows it: turned, and on white where it is transparent."""
    try:
        with Image.open(path) as image:
            return np.asarray(_opaque(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (MemoryError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the picture is too large; make it smaller ({error or 'not enough memory'})") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def _opaque(image: Image.Image) -> Image.Image:
    """As RGB with 8 bits, on white where it is transparent."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
