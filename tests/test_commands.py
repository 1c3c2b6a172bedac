"""Every command that a message prints, typed as printed in that situation, cures it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import test_formats
import tiny

from cookbook import cli, profiles, runs, storage, video
from cookbook.models import hub
from cookbook.profiles import Source

pytestmark = pytest.mark.slow
COMMAND = re.compile(r"`((?:cookbook|rm) [^`]+)`")


@pytest.fixture(scope="module", autouse=True)
def tiny_profiles(tmp_path_factory, tiny_world):
    """The profiles `tiny`, and `plain` without labelled calibration clips, with assets of their size."""
    root = tmp_path_factory.mktemp("commands")
    clips = Source(str(tiny.make_clips(root / "clips")), kind="dataset")
    full = replace(test_formats.small_profile(tiny_world, steps=2), train_data=clips)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "ASSETS", test_formats.write_assets(root / "assets"))
        patch.setitem(profiles.PROFILES, "tiny", lambda: full)
        patch.setitem(profiles.PROFILES, "plain", lambda: replace(full, name="plain", calibration=None))
        yield root


def follow(line: str, capsys: pytest.CaptureFixture, depth: int = 0) -> list[str]:
    """Type a command, and as long as it fails the commands of its message and itself again; all that was typed."""
    assert depth < 9, f"{line} is not cured"
    words, typed = shlex.split(line), [line]
    if words[0] == "rm":
        subprocess.run(words, check=True)
        return typed
    capsys.readouterr()
    if cli.main(words[1:]) == 0:
        return typed
    cures = COMMAND.findall(message := capsys.readouterr().err)
    assert cures, f"no command in: {message}"
    again = [] if cures == [f"{line} --redo"] else [line]
    return typed + [command for cure in [*cures, *again] for command in follow(cure, capsys, depth + 1)]


def verbs(typed: list[str]) -> list[str]:
    return [shlex.split(line)[1 if line.startswith("cookbook") else 0] for line in typed]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, made by nothing but the commands of the messages of `report`."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run(finished, tmp_path, capsys) -> Path:
    if not finished.exists():
        typed = verbs(follow(f"cookbook report --profile tiny --run {finished}", capsys))
        assert {"prepare", "train", "convert", "generate", "judge", "filter", "report"} == set(typed)
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


def delete_video(run: Path) -> None:
    next((run / "generated/tuned").glob("*.mp4")).unlink()


def change_video(run: Path) -> None:
    for path in (run / "generated/tuned").glob("*.mp4"):
        video.write_video(path, video.read_video(path)[0][::-1], 8)


def change_checkpoint(run: Path) -> None:
    with open(next((run / "checkpoints").glob("iter_*/model/*.distcp")), "ab") as file:
        file.write(b"more")


def leave_link(run: Path) -> None:
    shutil.rmtree(run / "kept")
    (run / "kept").symlink_to(run / "data")


def damage_calibration(run: Path) -> None:
    (run / "verdicts/calibration.json").write_text('{"questions"')


def lose(*names: str) -> Callable[[Path], object]:
    return lambda run: [storage.remove(run / name) for name in names]


@pytest.mark.parametrize(
    ("harm", "line", "cures"),
    [
        (delete_video, "judge", ["generate"]),
        (delete_video, "filter --threshold 1 --redo", ["generate"]),
        (change_video, "filter --threshold 1 --redo", ["judge"]),
        (change_checkpoint, "convert --redo", ["train"]),
        (damage_calibration, "filter --redo", ["calibrate"]),
        (lose("verdicts/calibration.json"), "filter --redo", ["calibrate"]),
        (lose("data/train/metadata.csv"), "prepare", ["prepare"]),
        (lose("data/eval"), "generate --model base", ["prepare"]),
        (lose("export"), "generate", ["convert"]),
        (lose("verdicts", "generated/tuned"), "filter", ["judge", "generate"]),
        (leave_link, "filter --redo", ["rm"]),
        (delete_video, "judge --critic CRITIC", ["generate"]),
        (lose("generated"), "judge --critic CRITIC", ["generate"]),
        (lose("actions"), "actions-export", ["actions"]),
    ],
)
def test_the_printed_command_cures(run, capsys, harm, line, cures):
    harm(run)
    verb, *flags = line.replace("CRITIC", str(hub.locate(profiles.get("tiny").critic))).split()
    typed = verbs(follow(shlex.join(["cookbook", verb, "--profile", "tiny", "--run", str(run), *flags]), capsys))
    assert set(cures) <= set(typed[1:]), typed


def test_calibration_on_training_clips_names_prepare(tmp_path, capsys):
    typed = verbs(follow(f"cookbook calibrate --profile plain --run {tmp_path / 'run'}", capsys))
    assert typed == ["calibrate", "prepare", "calibrate"]


@pytest.mark.parametrize(("row", "kept"), [("", 6), ("| 05 |", 6), ("| 04 |", 4), ("| 03 |", 2)])
def test_an_unpacked_run_is_finished_elsewhere(row, kept, run, tmp_path, capsys):
    """By the commands of the workshop kit, unpacked stages are found finished, and those after them are executed."""
    page = (Path(__file__).parents[1] / "docs" / "workshop_kit.md").read_text()
    pack, aside, unpack = re.findall(r"^(?:tar cf|mv|tar xf) .*", page, re.M)
    if row:
        unpack = re.search(rf"^{re.escape(row)} `(tar xf .*?)`", page, re.M)[1]
    for folder in ("teacher/runs", "student/runs/nano/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.move(run, tmp_path / "teacher/runs/nano")
    subprocess.run(f"{pack} && mv *.tar ../student", shell=True, cwd=tmp_path / "teacher", check=True)
    subprocess.run(f"{aside} && {unpack}", shell=True, cwd=tmp_path / "student", check=True)
    found = []
    for verb in ("prepare", "train", "convert", "generate", "judge", "filter"):
        assert cli.main([verb, "--profile", "tiny", "--run", str(tmp_path / "student/runs/nano")]) == 0
        found.append("skipping; --redo" in capsys.readouterr().out)
    assert found == [True] * kept + [False] * (6 - kept) and (tmp_path / "student/runs/mine").is_dir()
