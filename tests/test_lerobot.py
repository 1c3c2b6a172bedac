"""LeRobot data sets: what is written can be read again and passes its checker, and what is damaged is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import lerobot_doctor.cli
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from test_video import encode

from cookbook import runs, storage
from cookbook.actions.episodes import EpisodeSet
from cookbook.actions.export import export, export_actions
from cookbook.actions.lerobot import read
from cookbook.actions.lerobot_write import CAMERA, write
from cookbook.actions.stage import actions
from cookbook.actions.training import train_actions
from cookbook.errors import StaleStage, UserError
from cookbook.video import read_video, write_video

VERSIONS = ("3.0", "2.1")
FPS, FRAMES, NAMES = tiny.FPS, tiny.FRAMES, tiny.JOINTS
DATA = {"3.0": "data/chunk-000/file-000.parquet", "2.1": "data/chunk-000/episode_000001.parquet"}
VIDEO = {"3.0": f"videos/{CAMERA}/chunk-000/file-001.mp4", "2.1": f"videos/chunk-000/{CAMERA}/episode_000001.mp4"}


@pytest.fixture(scope="session")
def episodes(tmp_path_factory) -> EpisodeSet:
    return tiny.make_episodes(tmp_path_factory.mktemp("episodes"))


@pytest.fixture(scope="session", params=VERSIONS)
def written(request, episodes, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("written") / request.param
    write(folder, episodes, request.param)
    return folder, request.param


@pytest.fixture
def copied(written, tmp_path) -> tuple[Path, str]:
    """A data set that a test may damage."""
    return Path(shutil.copytree(written[0], tmp_path / "set")), written[1]


def test_what_is_written_is_read(written, episodes):
    back = read(written[0])
    assert (back.fps, back.joint_names, back.robot) == (FPS, NAMES, episodes.robot)
    for before, after in zip(episodes.episodes, back.episodes, strict=True):
        assert (after.task, after.facts, after.start) == (before.task, before.facts, 0)
        assert np.array_equal(after.joints, before.joints) and np.array_equal(after.targets, before.targets)
        assert after.video.read_bytes() == before.video.read_bytes()  # copied, not encoded again
        assert np.array_equal(back.frames(after), read_video(before.video)[0])
    one = read(written[0], CAMERA, "action").episodes[0]
    assert np.array_equal(one.joints, episodes.episodes[0].targets) and np.array_equal(one.targets, one.joints)


def test_the_checker_of_lerobot_finds_no_fault(written, capsys):
    lerobot_doctor.cli.main(["check", str(written[0]), "--ci"])  # exits with 1 at a fault
    report = json.loads(capsys.readouterr().out)
    assert (report["codebase_version"], report["total_frames"]) == (f"v{written[1]}", 3 * FRAMES)
    warnings = {check["name"] for check in report["checks"] if check["severity"] != "PASS"}
    assert warnings <= {"Episode Health"}, report  # 60 frames are fewer than ACT predicts at once


def test_statistics_are_those_of_the_data(written, episodes):
    stats = json.loads((written[0] / "meta/stats.json").read_text())
    pictures = np.concatenate([episodes.frames(episode) for episode in episodes.episodes]) / 255
    joints = np.concatenate([episode.joints for episode in episodes.episodes])
    for key, values, axes in (("observation.state", joints, 0), (CAMERA, pictures, (0, 1, 2))):
        assert stats[key]["count"] == [3 * FRAMES]
        for name in ("min", "max", "mean", "std"):
            assert np.allclose(np.ravel(stats[key][name]), getattr(values, name)(axes), atol=1e-6), (key, name)
    assert np.shape(stats[CAMERA]["q01"]) == (3, 1, 1)


def test_isaac_groot_gets_the_parts_of_the_robot(written, episodes, tmp_path):
    path = written[0] / "meta/modality.json"
    assert path.exists() == (written[1] == "2.1")
    if path.exists():
        modality, info = (json.loads(file.read_text()) for file in (path, path.parent / "info.json"))
        assert modality["state"] == {"right_arm": {"start": 0, "end": 2}, "left_arm": {"start": 2, "end": 3}}
        assert modality["video"]["ego_view"]["original_key"] in info["features"]


def test_a_video_that_lerobot_would_not_read_is_encoded_again(episodes, tmp_path):
    """Another format of pixels, and an episode from the middle of a file."""
    first, second = (episodes.frames(episode) for episode in episodes.episodes[:2])
    encode(tmp_path / "joined.mp4", np.concatenate([first, second]), FPS, pix_fmt="yuv444p")
    both = [
        replace(episode, video=tmp_path / "joined.mp4", start=start)
        for episode, start in zip(episodes.episodes, (0, FRAMES / FPS), strict=False)
    ]
    write(tmp_path / "set", replace(episodes, episodes=both))
    for episode, frames in zip(read(tmp_path / "set").episodes, (first, second), strict=True):
        assert np.abs(read_video(episode.video)[0] - frames.astype(float)).mean() < 2
        with av.open(str(episode.video)) as container:
            stream = container.streams.video[0]
            times = [float(frame.time) for frame in container.decode(stream)]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert np.allclose(times, np.arange(FRAMES) / FPS, atol=1e-6)


def test_episodes_that_share_a_video_are_read_by_time(episodes, tmp_path):
    """As LeRobot itself writes version 3.0."""
    write(tmp_path, episodes)
    frames = np.concatenate([episodes.frames(episode) for episode in episodes.episodes])
    videos, path = tmp_path / Path(VIDEO["3.0"]).parent, tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    for number in range(3):
        (videos / f"file-{number:03d}.mp4").unlink()
    write_video(videos / "file-000.mp4", frames, FPS)
    rows = pq.read_table(path).to_pylist()
    for number, row in enumerate(rows):
        row[f"videos/{CAMERA}/file_index"], row[f"videos/{CAMERA}/from_timestamp"] = 0, number * FRAMES / FPS
    pq.write_table(pa.Table.from_pylist(rows), path)
    decoded, back = read_video(videos / "file-000.mp4")[0], read(tmp_path)
    for number, episode in enumerate(back.episodes):
        assert np.array_equal(back.frames(episode), decoded[number * FRAMES :][:FRAMES])


def edit_info(**changes) -> Callable[[Path, str], None]:
    def damage(folder: Path, version: str) -> None:
        path = folder / "meta/info.json"
        info = json.loads(path.read_text())
        for name, value in changes.items():
            (info if name in info else info["features"])[name.replace("__", ".")] = value
        path.write_text(json.dumps(info))

    return damage


def edit_data(change: Callable[[dict], None]) -> Callable[[Path, str], None]:
    """Change the columns, as lists, of the file with the second episode."""

    def damage(folder: Path, version: str) -> None:
        columns = pq.read_table(folder / DATA[version]).to_pydict()
        change(columns)
        pq.write_table(pa.table(columns), folder / DATA[version])

    return damage


def joints(count: int, names: object) -> dict:
    return {"dtype": "float32", "shape": [count], "names": names}


def cut(part: dict) -> Callable[[Path, str], None]:
    return lambda folder, version: os.truncate(file := folder / part[version], file.stat().st_size - 200)


FAULTS = {
    "no column action": (edit_data(lambda columns: columns.pop("action")), "no column 'action'"),
    "no action at all": (edit_info(observation__state={}), "the shape of observation.state is None"),
    "more joints than in the data": (
        lambda folder, version: [
            edit_info(**{name: joints(4, list("abcd"))})(folder, version) for name in ("observation__state", "action")
        ],
        "observation.state has 3 numbers a row, but 4 in meta/info.json",
    ),
    "fewer names": (edit_info(observation__state=joints(3, ["a", "b"])), "has 3 joints in observation.state, but"),
    "other names": (edit_info(action=joints(3, ["a", "b", "c"])), "have other joint names; choose one of the two"),
    "words for joints": (
        edit_data(lambda columns: columns.update(action=[["a", "b", "c"]] * len(columns["action"]))),
        "action holds no numbers",
    ),
    "other fps": (edit_info(fps=5), "other timestamps than 5 frames a second"),
    "no fps": (edit_info(fps=None), "fps is None"),
    "NaN": (edit_data(lambda columns: columns["action"][-1].__setitem__(1, float("nan"))), "action is NaN or infinite"),
    "a missing number": (edit_data(lambda columns: columns["action"][-1].__setitem__(1, None)), "NaN or infinite"),
    "a lost row": (edit_data(lambda columns: [column.pop() for column in columns.values()]), f"{FRAMES - 1} rows of"),
    "parquet cut short": (cut(DATA), "is damaged"),
    "no data": (lambda folder, version: (folder / DATA[version]).unlink(), "is missing"),
    "no video": (lambda folder, version: (folder / VIDEO[version]).unlink(), "is missing"),
    "video cut short": (cut(VIDEO), "cut off after"),
    "video of another rate": (
        lambda folder, version: write_video(folder / VIDEO[version], tiny.moving(1), 8),
        "has 8 frames a second, but meta/info.json has 10",
    ),
    "shorter video": (
        lambda folder, version: write_video(folder / VIDEO[version], tiny.moving(1)[:30], FPS),
        "lasts 3.00 s, and its episodes 6.00 s",
    ),
    "unknown version": (edit_info(codebase_version="v1.6"), "codebase_version is '1.6'; 2.0, 2.1, 3.0 can be read"),
    "two cameras": (edit_info(wrist={"dtype": "video"}), f"several cameras; choose one of {CAMERA}, wrist"),
    "no camera": (edit_info(**{CAMERA.replace(".", "__"): {"dtype": "image"}}), "no videos in it"),
    "unfinished": (lambda folder, version: (folder / "meta/info.json").unlink(), "it has no meta/info.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_set_is_one_line(copied, fault):
    damage, message = FAULTS[fault]
    damage(*copied)
    with pytest.raises(UserError) as caught:
        back = read(copied[0])
        assert fault == "video cut short", "not before any work"
        back.frames(back.episodes[1])
    assert message in str(caught.value) and str(copied[0]) in str(caught.value) and "\n" not in str(caught.value)


def test_a_set_of_nvidia_is_version_2_0(copied):
    if copied[1] == "2.1":
        edit_info(codebase_version="v2.0", fps=10.0)(*copied)
        assert len(read(copied[0]).episodes) == 3


def broken(episodes: EpisodeSet, **changes) -> EpisodeSet:
    """The set with another second episode."""
    every = list(episodes.episodes)
    every[1] = replace(every[1], **changes)
    return replace(episodes, episodes=every)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": np.zeros((FRAMES, 2), np.float32)}, "its joints are (60, 2), not (frames, 3)"),
        ({"targets": np.zeros((FRAMES - 1, 3), np.float32)}, "its targets are (59, 3), not (frames, 3)"),
        ({"targets": np.full((FRAMES, 3), np.nan)}, "its targets hold NaN"),
        ({"video": Path("nowhere.mp4")}, "nowhere.mp4: no such file"),
        ({"facts": {"length": 3}}, "'length' is a name that LeRobot uses"),
        ({"start": 4.0}, "no frame at 6.000 s"),
    ],
)
def test_wrong_episodes_are_one_line_and_leave_no_set(episodes, tmp_path, changes, message):
    with pytest.raises(UserError) as caught:
        write(tmp_path, broken(episodes, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="or an unfinished one"):
        read(tmp_path)
    assert list(tmp_path.iterdir()) == ([tmp_path / "videos"] if "start" in changes else [])


def test_nothing_of_the_user_is_replaced(episodes, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="data is there already; delete it"):
        write(tmp_path, episodes)


def test_rates_and_sizes_that_lerobot_has_not_are_refused(episodes, tmp_path):
    with pytest.raises(UserError, match="12.5 frames a second; LeRobot needs a whole number"):
        write(tmp_path, replace(episodes, fps=12.5))
    write_video(tmp_path / "large.mp4", tiny.moving(1, (64, 80)), FPS)
    with pytest.raises(UserError, match="large.mp4 is 64 x 80; all videos need the same, even size, .* 48 x 64"):
        write(tmp_path / "set", broken(episodes, video=tmp_path / "large.mp4"))


def test_the_stage_is_skipped_when_done_and_stale_when_its_inputs_change(episodes, tmp_path, capsys):
    first = export(episodes, tmp_path, "nano", {"actions": "sha256:1"})
    assert first["frames"] == 3 * FRAMES and len(read(tmp_path / "lerobot").episodes) == 3
    assert export(episodes, tmp_path, "nano", {"actions": "sha256:1"}) == first
    assert "skipping" in capsys.readouterr().out
    with pytest.raises(StaleStage, match="built from different inputs: actions sha256:1"):
        export(episodes, tmp_path, "nano", {"actions": "sha256:2"})
    (tmp_path / "lerobot/manifest.json").unlink()  # as after a kill
    again = export(episodes, tmp_path, "nano", {"actions": "sha256:2"})
    assert again["fingerprint"] == first["fingerprint"] == runs.fingerprint(tmp_path / "lerobot")
    export(episodes, tmp_path, "nano", {"actions": "sha256:2"}, version="2.1")
    assert (tmp_path / "lerobot-2.1/meta/modality.json").exists()


def test_the_decoded_videos_of_a_run_are_exported(episodes, tmp_path):
    """Joints at twice the rate of the video, one video of the base model, and what other stages found out."""
    rows = []
    for number, episode in enumerate(episodes.episodes):
        model = "base" if number == 2 else "tuned"
        path = tmp_path / f"generated/{model}/{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(episode.video, path)
        twice = np.arange(2 * FRAMES - 1) / 2
        joints = np.stack([np.interp(twice, np.arange(FRAMES), column) for column in episode.joints.T], 1)
        facts = {"file": path.relative_to(tmp_path).as_posix(), "model": model, "prompt": episode.task, "seed": number}
        facts |= {"sha256": storage.digest(path), "made_by": "sha256:model", "deviation": [1.0, 2.0, 3.0]}
        rows.append(facts | {"fps": 2 * FPS, "joints": joints.tolist(), "targets": (joints + 1).tolist()})
    with pytest.raises(UserError, match="actions is not finished: type `cookbook actions"):
        export_actions(run=tmp_path)
    moved = [{"file": row["file"], "success": True, "reason": ""} for row in rows]
    tiny.finish(tmp_path, "actions", {"actions.jsonl": rows}, joint_names=NAMES, robot="gr1")
    tiny.finish(tmp_path, "execute", {"executed.jsonl": moved})
    verdict = {"file": rows[0]["file"], "question": "physics", "score": 4.5}
    tiny.finish(tmp_path, "judge", {"verdicts.jsonl": [verdict]})
    tiny.finish(tmp_path, "filter", {"kept.jsonl": [{"file": rows[0]["file"]}]})
    assert export_actions(run=tmp_path)["episodes"] == 2
    back = read(tmp_path / "lerobot")
    for before, after in zip(episodes.episodes, back.episodes, strict=False):
        assert after.task == before.task and np.allclose(after.joints, before.joints, atol=1e-6)
        assert np.allclose(after.targets, before.joints + 1, atol=1e-6)
    first, second = (episode.facts for episode in back.episodes)
    assert (first["success"], first["score_physics"], first["kept"], first["error_degrees"]) == (True, 4.5, True, 2.0)
    assert (second["score_physics"], second["kept"], second["seed"]) == (None, None, 1)
    write_video(tmp_path / rows[0]["file"], tiny.moving(2), FPS)
    with pytest.raises(UserError, match="0.mp4 was changed after it was decoded"):
        export_actions(run=tmp_path)


def test_a_model_is_trained_on_a_data_set_and_decodes_videos_of_its_robot(tmp_path, tiny_profile):
    tiny_profile()
    episodes = tiny.make_episodes(tmp_path / "clips")
    write(tmp_path / "set", episodes)
    facts = train_actions((tmp_path / "set",), tmp_path / "model", profile="tiny", height=32, steps=2, batch=4)
    assert facts["episodes"] + facts["held_out_episodes"] == 3
    assert facts["frames"] >= facts["episodes"] * tiny.FRAMES, "each as filmed, some after the autoencoder too"
    actions("tiny", tmp_path / "run", model_folder=tmp_path / "model", videos=tmp_path / "clips")
    rows = storage.read_rows(tmp_path / "run" / "actions-clips" / "actions.jsonl")
    assert [row["fps"] for row in rows] == [tiny.FPS] * 3
    assert np.shape(rows[0]["targets"]) == episodes.episodes[0].targets.shape
