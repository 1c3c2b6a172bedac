"""Read LeRobot data sets of versions 2.0, 2.1 and 3.0: videos of one camera with the joints at each frame.

The layout is that of huggingface/lerobot, `lerobot/datasets`. Videos are not decoded here: an episode has its file and
the time at which it begins there, since version 3.0 joins episodes to larger files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cookbook import storage
from cookbook.actions.episodes import Episode, EpisodeSet
from cookbook.errors import UserError, last_line

VERSIONS = ("2.0", "2.1", "3.0")
STATE, ACTION = "observation.state", "action"
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # columns that every set has
PLACES = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")  # columns of its episodes
AGAIN = "copy or download it again"


@dataclass(frozen=True)
class Source:
    """An opened data set: its folder, `meta/info.json`, and the keys that were chosen."""

    folder: Path
    info: dict
    version: str
    camera: str
    state: str
    action: str

    @property
    def fps(self) -> float:
        """Frames a second of data and videos."""
        return float(self.info["fps"])

    def place(self, template: str, row: dict, part: str) -> Path:
        """The file of an episode, by `data_path` or `video_path`; `part` begins the names of the columns for it."""
        number, chunk, file = row["episode_index"], row.get(f"{part}/chunk_index"), row.get(f"{part}/file_index")
        try:
            chunks = {"episode_chunk": number // int(self.info.get("chunks_size", 1000)), "chunk_index": chunk}
            names = {"episode_index": number, "file_index": file, "video_key": self.camera}
            return self.folder / self.info[template].format(**chunks, **names)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            about = f"{template} of meta/info.json does not fit episode {number}"
            raise UserError(f"{self.folder}: {about} ({last_line(error)}); {AGAIN}") from None


def read(folder: Path | str, camera: str | None = None, key: str | None = None) -> EpisodeSet:
    """The episodes of a LeRobot data set. Numbers are in the units of the set, which LeRobot does not record.

    Args:
        folder: with `meta/info.json` in it.
        camera: key of the videos, such as `observation.images.front`; may be omitted where there is one.
        key: `action` or `observation.state`, for a set with only one of them: it then gives joints and targets. Without
            it, `observation.state` gives the joints and `action` the targets.

    Raises:
        UserError: anything is missing, damaged or contradictory; the file is named.
    """
    source = _open(storage.absolute(folder), camera, key)
    names, targets = _names(source, source.state), _names(source, source.action)
    if targets != names:
        both = f"{source.state} has {len(names)} joints and {source.action} {len(targets)}"
        both = both if len(targets) != len(names) else f"{source.state} and {source.action} have other joint names"
        raise UserError(f"{source.folder}: {both}; choose one of the two as key")
    table = lru_cache(1)(_table)  # version 3.0 has many episodes in a file
    episodes = [_episode(source, row, table, names) for row in _rows(source)]
    if not episodes:
        raise UserError(f"{source.folder}: there are no episodes in it; {AGAIN}")
    return EpisodeSet(source.folder.name, source.fps, names, episodes, str(source.info.get("robot_type")))


def _open(folder: Path, camera: str | None, key: str | None) -> Source:
    if not (path := folder / "meta" / "info.json").exists():
        raise UserError(f"{folder}: not a LeRobot data set, or an unfinished one: it has no meta/info.json")
    info = storage.read_json(path)
    version = str(info.get("codebase_version") if isinstance(info, dict) else None).removeprefix("v")
    if version not in VERSIONS:
        raise UserError(f"{path}: codebase_version is {version!r}; {', '.join(VERSIONS)} can be read")
    features, fps = info.get("features"), info.get("fps")
    if not isinstance(features, dict) or not all(isinstance(about, dict) for about in features.values()):
        raise UserError(f"{path}: `features` is not a table of columns; {AGAIN}")
    if not isinstance(fps, int | float) or not 0 < fps < 1000:
        raise UserError(f"{path}: fps is {fps!r}, which is not a rate; {AGAIN}")
    cameras = [name for name, about in features.items() if about.get("dtype") == "video"]
    if camera not in cameras and (camera or len(cameras) != 1):
        problem = f"it has no camera {camera!r}" if camera else "it has several cameras" if cameras else "no videos"
        raise UserError(f"{folder}: {problem}" + (f"; choose one of {', '.join(cameras)}" if cameras else " in it"))
    state, action = (key, key) if key else (STATE, ACTION)
    for name in (state, action):
        if name not in features:
            others = [other for other in (STATE, ACTION) if other in features]
            cure = f"choose {others[0]!r} as key" if others else AGAIN
            raise UserError(f"{path}: there is no column {name!r}; {cure}")
    return Source(folder, info, version, camera or cameras[0], state, action)


def _names(source: Source, key: str) -> tuple[str, ...]:
    """Joint names of a column: a list, a list under a name such as `motors`, or absent."""
    about = source.info["features"][key]
    names, shape = about.get("names"), about.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int):
        raise UserError(f"{source.folder}: the shape of {key} is {shape}; it must be [number of joints]")
    if isinstance(names, dict):
        names = next(iter(names.values())) if len(names) == 1 else list(names)
    if names is None:
        return tuple(f"joint_{number}" for number in range(shape[0]))
    if not isinstance(names, list) or len(names) != shape[0]:
        raise UserError(f"{source.folder}: meta/info.json has {shape[0]} joints in {key}, but other names: {names}")
    return tuple(map(str, names))


def _rows(source: Source) -> Iterator[dict]:
    """A row for each episode, in order."""
    meta = source.folder / "meta"
    if source.version == "3.0":
        rows = [row for path in sorted((meta / "episodes").rglob("*.parquet")) for row in _table(path).to_pylist()]
    else:
        rows = storage.read_rows(meta / "episodes.jsonl")
    for row in rows:
        if not isinstance(row.get("episode_index"), int) or not isinstance(row.get("tasks"), list):
            raise UserError(f"{meta}: an episode has no episode_index or no tasks; {AGAIN}")
    return iter(sorted(rows, key=lambda row: row["episode_index"]))


def _table(path: Path, columns: frozenset[str] = frozenset()) -> pa.Table:
    """These columns of a parquet file, as far as they exist; without any, all but statistics."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            return file.read([n for n in names if (n in columns if columns else not n.startswith("stats/"))])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {AGAIN}") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({last_line(error)}); {AGAIN}") from None


def _episode(source: Source, row: dict, table: lru_cache, names: tuple[str, ...]) -> Episode:
    number, path = row["episode_index"], source.place("data_path", row, "data")
    wanted = ("episode_index", "timestamp", source.state, source.action)
    rows = table(path, frozenset(wanted))
    for name in wanted:
        if name not in rows.column_names:
            raise UserError(f"{path}: there is no column {name!r}; {AGAIN}")
    rows = rows.filter(pc.equal(rows["episode_index"], number))
    if not len(rows) or len(rows) != row.get("length", len(rows)):
        raise UserError(f"{path}: {len(rows)} rows of episode {number}, not {row.get('length')} as in meta; {AGAIN}")
    joints, targets = (_numbers(path, rows, name, len(names)) for name in (source.state, source.action))
    times = _numbers(path, rows, "timestamp", 1)[:, 0]
    if np.abs(times - np.arange(len(times)) / source.fps).max() >= 0.5 / source.fps:
        raise UserError(f"{path}: episode {number} has other timestamps than {source.fps:g} frames a second give")
    part = f"videos/{source.camera}"
    video, start = source.place("video_path", row, part), float(row.get(f"{part}/from_timestamp") or 0)
    _check_video(video, start + len(times) / source.fps, source.fps)
    facts = {name: value for name, value in row.items() if name not in PLACES and "/" not in name}
    return Episode(video, str(next(iter(row["tasks"]), "")), joints, targets, start, facts)


def _numbers(path: Path, rows: pa.Table, name: str, size: int) -> np.ndarray:
    """A column of vectors as float32 [T, size]; LeRobot writes those of size 1 as plain numbers."""
    column = rows[name].combine_chunks()
    lists = any(kind(column.type) for kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
    sizes = set(pc.list_value_length(column).to_pylist()) if lists else {1}
    if sizes != {size}:
        found = ", ".join(map(str, sizes))
        raise UserError(f"{path}: {name} has {found} numbers a row, but {size} in meta/info.json; {AGAIN}")
    try:
        values = (column.flatten() if lists else column).cast(pa.float32(), safe=False)
    except pa.ArrowException as error:
        raise UserError(f"{path}: {name} holds no numbers ({last_line(error)}); {AGAIN}") from None
    array = values.to_numpy(zero_copy_only=False).reshape(-1, size)
    if not np.isfinite(array).all():
        frame = int((~np.isfinite(array)).any(1).argmax())
        raise UserError(f"{path}: {name} is NaN or infinite at frame {frame}; repair or remove that episode")
    return array


def _check_video(path: Path, end: float, fps: float) -> None:
    """Raise a UserError unless a video is there, has this rate and lasts `end` seconds. Decodes nothing."""
    try:
        with av.open(f"file:{path}") as container:
            rate, length = container.streams.video[0].average_rate, (container.duration or 0) / av.time_base
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {AGAIN}") from None
    except (av.error.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: not a readable video ({last_line(error)}); {AGAIN}") from None
    if rate and abs(float(rate) - fps) > 0.01 * fps:
        raise UserError(f"{path} has {float(rate):g} frames a second, but meta/info.json has {fps:g}")
    if length and length < end - 0.6 / fps:
        raise UserError(f"{path} lasts {length:.2f} s, and its episodes {end:.2f} s; {AGAIN}")
