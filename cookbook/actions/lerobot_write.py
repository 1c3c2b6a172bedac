"""Write LeRobot data sets: version 3.0, and 2.1 with the `meta/modality.json` that Isaac-GR00T reads.

Every episode has its own mp4: H.264, yuv420p, frame i at exactly i/fps seconds. `meta/info.json` is written last, so
that a folder without it is unfinished.
"""

import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cookbook import runs, storage
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.actions.lerobot import ACTION, INDICES, PLACES, STATE
from cookbook.errors import UserError, last_line
from cookbook.video import write_video

CAMERA = "observation.images.ego_view"  # the name in NVIDIA's GR1 sets
CHUNK = 1000  # files in a folder
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
LATE = 1e-4  # seconds by which LeRobot lets a frame be early or late
LAYOUTS = {
    "2.1": {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    },
    "3.0": {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    },
}
# Beginnings of the simulator's joint names -> parts of NVIDIA's GR1 sets. Our hands have 11 joints; NVIDIA's have 6
# motors in an order that is documented nowhere. So ours get another name.
PARTS = {
    "torso_waist_": "waist",
    "head_": "neck",
    "r_": "right_arm",
    "hr_": "right_fingers",
    "l_": "left_arm",
    "hl_": "left_fingers",
}
Statistics = dict[str, dict[str, np.ndarray]]  # of each column: min, max, mean, std, count and quantiles


def write(folder: Path | str, episodes: EpisodeSet, version: str = "3.0") -> list[Path]:
    """Write a data set, and return its files.

    Args:
        folder: without `meta`, `data` and `videos`; in the folder of a stage they are replaced.
        version: 3.0, or 2.1.

    Raises:
        UserError: there is something in the folder, the joints are not float [T, J] without NaN for T frames of video,
            or the videos differ in size.
    """
    folder = storage.absolute(folder)
    if version not in LAYOUTS:
        raise UserError(f"version is {version!r}; {' and '.join(LAYOUTS)} can be written")
    _check(episodes)
    for part in ("meta", "data", "videos"):  # info.json of an earlier attempt goes first
        if (folder / part).exists() and runs.begun(folder) is None:
            raise UserError(f"{folder / part} is there already; delete it, or choose another folder")
        storage.remove(folder / part)
    writer = _Writer(folder, episodes, version)
    for number, episode in enumerate(episodes.episodes):
        writer.add(number, episode)
    writer.finish()
    return [path for part in ("meta", "data", "videos") for path in storage.contents(folder / part)]


def _check(episodes: EpisodeSet) -> None:
    """Check everything that needs no decoded video."""
    joints = len(episodes.joint_names)
    if not episodes.episodes:
        raise UserError(f"{episodes.name}: there are no episodes to write")
    if episodes.fps != int(episodes.fps) or episodes.fps < 1:
        raise UserError(f"{episodes.name}: {episodes.fps:g} frames a second; LeRobot needs a whole number")
    for episode in episodes.episodes:
        if not episode.video.exists():
            raise UserError(f"{episode.video}: no such file")
        for name, values in (("joints", episode.joints), ("targets", episode.targets)):
            if values.shape != (len(episode.joints), joints) or not len(values):
                raise UserError(f"{episode.video}: its {name} are {values.shape}, not (frames, {joints})")
            if not np.isfinite(values).all():
                raise UserError(f"{episode.video}: its {name} hold NaN or infinity")
        if taken := [name for name in episode.facts if name in PLACES or "/" in name]:
            raise UserError(f"{episode.video}: {taken[0]!r} is a name that LeRobot uses; rename the column")


class _Writer:
    """A data set that grows by episodes."""

    def __init__(self, folder: Path, episodes: EpisodeSet, version: str):
        self.folder, self.set, self.version = folder, episodes, version
        self.tasks = list(dict.fromkeys(episode.task for episode in episodes.episodes))
        self.fps, self.size = int(episodes.fps), (0, 0)
        self.frames, self.rows, self.tables, self.statistics = 0, [], [], []

    def add(self, number: int, episode: Episode) -> None:
        """Write the video of an episode, and in version 2.1 its rows."""
        frames = self.set.frames(episode)
        self.size = self.size if number else frames.shape[1:3]
        if frames.shape[1:3] != self.size or any(side % 2 for side in self.size):
            size, first = " x ".join(map(str, frames.shape[1:3])), " x ".join(map(str, self.size))
            raise UserError(f"{episode.video} is {size}; all videos need the same, even size, and the first is {first}")
        target = self.folder / self._path("video_path", number)
        if _usable(episode, frames.shape, self.fps):
            with storage.replacing(target) as temporary:
                shutil.copyfile(episode.video, temporary)
        else:
            write_video(target, frames, self.fps)
        count = len(frames)
        indices = np.arange(count)
        columns = {STATE: episode.joints, ACTION: episode.targets, "timestamp": (indices / self.fps)[:, None]}
        whole = (indices, np.full(count, number), self.frames + indices, np.full(count, self.tasks.index(episode.task)))
        columns |= {name: values[:, None] for name, values in zip(INDICES[1:], whole, strict=True)}
        table = pa.table({name: _column(name, values) for name, values in columns.items()})
        if self.version == "2.1":
            _write_table(self.folder / self._path("data_path", number), table)
        else:
            self.tables.append(table)
        self.statistics.append({name: _of_numbers(values) for name, values in columns.items()})
        self.statistics[-1][CAMERA] = _of_pictures(frames)
        self.rows.append({"episode_index": number, "tasks": [episode.task], "length": count} | _plain(episode.facts))
        self.frames += count

    def _path(self, template: str, number: int) -> str:
        names = {"episode_chunk": number // CHUNK, "episode_index": number, "video_key": CAMERA}
        names |= {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        return LAYOUTS[self.version][template].format(**names)

    def finish(self) -> None:
        """Write the rows and `meta/`."""
        meta = self.folder / "meta"
        {"2.1": self._finish_old, "3.0": self._finish_new}[self.version](meta)
        storage.write_json(meta / "stats.json", _plain(_pooled(self.statistics)))
        storage.write_json(meta / "info.json", self._info())

    def _finish_old(self, meta: Path) -> None:
        storage.write_rows(meta / "episodes.jsonl", self.rows)
        storage.write_rows(meta / "tasks.jsonl", ({"task_index": k, "task": task} for k, task in enumerate(self.tasks)))
        statistics = ({"episode_index": k, "stats": _plain(row)} for k, row in enumerate(self.statistics))
        storage.write_rows(meta / "episodes_stats.jsonl", statistics)
        storage.write_json(meta / "modality.json", _modality(self.set.joint_names))

    def _finish_new(self, meta: Path) -> None:
        _write_table(self.folder / LAYOUTS["3.0"]["data_path"].format(chunk_index=0, file_index=0), *self.tables)
        names = dict.fromkeys(name for row in self.rows for name in row)
        rows, first = [], 0
        for number, row in enumerate(self.rows):
            places = {"dataset_from_index": first, "dataset_to_index": (first := first + row["length"])}
            places |= {"data/chunk_index": 0, "data/file_index": 0}
            places |= {f"videos/{CAMERA}/chunk_index": number // CHUNK, f"videos/{CAMERA}/file_index": number % CHUNK}
            places |= {f"videos/{CAMERA}/from_timestamp": 0.0}
            places |= {f"videos/{CAMERA}/to_timestamp": row["length"] / self.fps}
            places |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
            statistics = {
                f"stats/{column}/{name}": value
                for column, values in _plain(self.statistics[number]).items()
                for name, value in values.items()
            }
            rows.append({name: row.get(name) for name in names} | places | statistics)
        _write_table(meta / "episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
        tasks = pd.DataFrame({"task_index": range(len(self.tasks))}, index=pd.Index(self.tasks, name="task"))
        with storage.replacing(meta / "tasks.parquet") as temporary:
            tasks.to_parquet(temporary)

    def _info(self) -> dict:
        count, (height, width) = len(self.rows), self.size
        joints = {"dtype": "float32", "shape": [len(self.set.joint_names)], "names": list(self.set.joint_names)}
        video = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "is_depth_map": False}
        video = {f"video.{name}": value for name, value in (video | {"fps": self.fps, "channels": 3}).items()}
        features = {name: joints for name in (STATE, ACTION)}
        features[CAMERA] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": video | {"has_audio": False},
        }
        kinds = {name: "float32" if name == "timestamp" else "int64" for name in INDICES}
        features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}
        info = {"codebase_version": f"v{self.version}", "robot_type": self.set.robot, "total_episodes": count}
        info |= {"total_frames": self.frames, "total_tasks": len(self.tasks), "chunks_size": CHUNK, "fps": self.fps}
        if self.version == "2.1":
            info |= {"total_videos": count, "total_chunks": (count - 1) // CHUNK + 1}
        else:
            info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
        return info | {"splits": {"train": f"0:{count}"}, **LAYOUTS[self.version], "features": features}


def _usable(episode: Episode, shape: Sequence[int], fps: int) -> bool:
    """Whether a video can be copied: one H.264 track of exactly these frames, as they are shown, at exactly i/fps."""
    try:
        with av.open(f"file:{episode.video}") as container:
            stream = container.streams[0]
            context = stream.codec_context
            if len(container.streams) > 1 or container.format.name.split(",")[0] != "mov" or episode.start:
                return False
            if (context.name, context.pix_fmt, context.height, context.width) != ("h264", "yuv420p", *shape[1:3]):
                return False
            times = sorted(packet.pts * packet.time_base for packet in container.demux(stream) if packet.size)
    except (av.error.FFmpegError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{episode.video}: not a readable video ({last_line(error)})") from None
    return len(times) == shape[0] and bool(np.abs(np.array(times, float) - np.arange(shape[0]) / fps).max() < LATE)


def _column(name: str, values: np.ndarray) -> pa.Array:
    """A column for values [T, size]; plain numbers where `size` is 1, as LeRobot wants it."""
    flat = pa.array(values.astype(np.int64 if name in INDICES[1:] else np.float32).ravel())
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_table(path: Path, *tables: pa.Table) -> None:
    with storage.replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)


def _of_numbers(values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of values [T, size]."""
    values = values.astype(np.float64)
    quantiles = {f"q{100 * q:02.0f}": row for q, row in zip(QUANTILES, np.quantile(values, QUANTILES, 0), strict=True)}
    ends = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    return ends | {"count": np.array([len(values)])} | quantiles


def _of_pictures(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of each colour of frames uint8 [T, H, W, 3], from 0 to 1, in LeRobot's shape [3, 1, 1]."""
    counts = np.stack([np.bincount(frames[..., colour].ravel(), minlength=256) for colour in range(3)])
    levels, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean, below = shares @ levels, shares.cumsum(1)
    values = {"min": levels[(counts > 0).argmax(1)], "max": levels[255 - (counts[:, ::-1] > 0).argmax(1)]}
    values |= {"mean": mean, "std": np.sqrt((shares @ levels**2 - mean**2).clip(0))}
    values |= {f"q{100 * q:02.0f}": levels[(below < q - 1e-9).sum(1)] for q in QUANTILES}
    return {name: value.reshape(3, 1, 1) for name, value in values.items()} | {"count": np.array([len(frames)])}


def _pooled(episodes: Sequence[Statistics]) -> Statistics:
    """Statistics of all episodes from those of each; quantiles as their mean, as LeRobot does."""
    result = {}
    for column in episodes[0]:
        each = {name: np.stack([row[column][name] for row in episodes]) for name in episodes[0][column]}
        count = each.pop("count")
        means = {name: np.tensordot(count[:, 0] / count.sum(), values, 1) for name, values in each.items()}
        squares = np.tensordot(count[:, 0] / count.sum(), each["std"] ** 2 + (each["mean"] - means["mean"]) ** 2, 1)
        ends = {"min": each["min"].min(0), "max": each["max"].max(0), "std": np.sqrt(squares)}
        result[column] = means | ends | {"count": count.sum(0)}
    return result


def _modality(names: Sequence[str]) -> dict:
    """Which numbers are which part of the robot, for Isaac-GR00T; all are `joints` where the names are not ours."""

    def part(number: int) -> str:
        return next((part for start, part in PARTS.items() if names[number].startswith(start)), "joints")

    spans = {name: [*group] for name, group in groupby(range(len(names)), part)}
    if "joints" in spans:
        spans = {"joints": range(len(names))}
    joints = {name: {"start": span[0], "end": span[-1] + 1} for name, span in spans.items()}
    return {
        "state": joints,
        "action": joints,
        "video": {"ego_view": {"original_key": CAMERA}},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }


def _plain(value: object) -> object:
    """NumPy arrays and numbers as lists and numbers of Python."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
