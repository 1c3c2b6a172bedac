"""Run folders: a finished stage is skipped, an unfinished one continued, one with changed inputs refused."""

import fcntl
import os
import re
import subprocess
import sys

import pytest
from conftest import python

from cookbook import runs, storage
from cookbook.errors import UserError


def make_stage(folder, inputs=None, settings=None, redo=False):
    return runs.enter(folder, "train", "nano", inputs or {"data": "sha256:a"}, settings or {"steps": 1}, redo)


def finished(folder, **kwargs):
    stage = make_stage(folder, **kwargs)
    (folder / "result.txt").write_text("result")
    return stage.finish([folder / "result.txt"], answer=42)


def test_an_unfinished_stage_is_continued_and_a_finished_one_skipped_with_a_message(tmp_path, capsys):
    make_stage(tmp_path / "s")
    assert not make_stage(tmp_path / "s").done, "a failed attempt of the same process holds no lock"
    finished(tmp_path / "s")
    stage = make_stage(tmp_path / "s")
    assert stage.done and stage.manifest["answer"] == 42
    assert "skipping" in capsys.readouterr().out


@pytest.mark.parametrize("when_finished", [True, False])
def test_changed_inputs_are_refused_by_name(tmp_path, when_finished):
    finished(tmp_path / "s") if when_finished else make_stage(tmp_path / "s").close()
    (tmp_path / "s" / "result.txt").write_text("result")
    with pytest.raises(UserError, match=r"data .* -> .*To rebuild it, pass redo=True$"):
        make_stage(tmp_path / "s", inputs={"data": "sha256:b"})
    with pytest.raises(UserError, match="steps 1 -> 2"):
        make_stage(tmp_path / "s", settings={"steps": 2})


def test_the_fix_is_a_command_for_this_run(tmp_path, monkeypatch):
    finished(tmp_path / "my runs" / "a" / "checkpoints")
    for place, run in ((tmp_path, "'my runs/a'"), (tmp_path.parent, f"'{tmp_path.name}/my runs/a'")):
        monkeypatch.chdir(place)
        with pytest.raises(UserError) as refused:
            make_stage(tmp_path / "my runs" / "a" / "checkpoints", settings={"steps": 2})
        assert str(refused.value).endswith(f"pass redo=True, or run `cookbook run --run {run} --redo train`")


def test_a_command_line_omits_default_arguments(tmp_path, monkeypatch):
    assert runs.command("train", runs.HOME / "runs" / "nano", "nano") == "`cookbook train`"
    assert runs.command("train", runs.HOME / "runs" / "2b", "2b", "--redo") == "`cookbook train --profile 2b --redo`"
    make_stage(tmp_path / "checkpoints").close()
    assert runs.command("judge", tmp_path) == f"`cookbook judge --run {tmp_path}`"


def test_a_missing_output_is_reported_and_redo_empties_the_folder(tmp_path):
    finished(tmp_path / "s")
    (tmp_path / "s" / "result.txt").unlink()
    with pytest.raises(UserError, match="lost result.txt"):
        make_stage(tmp_path / "s")
    (tmp_path / "s" / "more.txt").touch()
    assert not make_stage(tmp_path / "s", inputs={"data": "sha256:b"}, redo=True).done
    assert not (tmp_path / "s" / "more.txt").exists()


def test_redo_loses_nothing_before_its_replacement_is_finished(tmp_path):
    folder = tmp_path / "s"
    finished(folder)
    for attempt in range(2):  # both fail
        make_stage(folder, inputs={"data": "sha256:b"}, redo=True)
        (folder / f"attempt{attempt}").write_text("half")
        (folder / "result.txt").write_text("half")
    assert (folder / ".earlier" / "result.txt").read_text() == "result"
    assert runs.read_manifest(folder / ".earlier")["answer"] == 42
    assert not (folder / "attempt0").exists(), "of a failed attempt, not of the earlier results"
    finished(folder, inputs={"data": "sha256:b"})
    assert not (folder / ".earlier").exists()


@pytest.mark.parametrize("moved", range(4))
def test_a_kill_while_earlier_results_are_moved_loses_none(tmp_path, monkeypatch, moved):
    folder, replace, left = tmp_path / "s", os.replace, iter(range(moved))
    finished(folder)
    (folder / "more.txt").write_text("more")

    def dying(old, new):
        next(left)  # StopIteration, which nothing catches, is the kill
        replace(old, new)

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(os, "replace", dying)
        storage.set_aside(folder)
    storage.set_aside(folder)
    kept = {path.name for path in (folder / ".earlier").iterdir()}
    assert kept == {"manifest.json", "more.txt", "result.txt", "started.json"}


def is_free(folder) -> bool:
    with open(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_a_stage_that_failed_was_interrupted_or_was_finished_before_holds_no_folder(tmp_path):
    @runs.releasing
    def interrupted():
        make_stage(tmp_path / "s")
        assert not is_free(tmp_path / "s")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_free(tmp_path / "s")
    finished(tmp_path / "s")
    assert make_stage(tmp_path / "s").done and is_free(tmp_path / "s"), "nothing is written, so nothing is held"


@pytest.mark.parametrize("value, home", [("~/x", "~/x"), ("x", "x"), ("", runs.ASSETS.parent)])
def test_the_home_of_runs_is_an_absolute_folder(tmp_path, value, home):
    env = {**os.environ, "HOME": str(tmp_path), "COOKBOOK_HOME": value, "PYTHONPATH": str(runs.ASSETS.parent)}
    done = python("-c", "from cookbook import runs; print(runs.HOME)", env=env, cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / str(home).removeprefix("~/")), done.stderr


def test_two_processes_cannot_share_a_stage(tmp_path):
    program = "import sys, pathlib; from cookbook import runs\n"
    program += "runs.enter(pathlib.Path(sys.argv[1]), 's', 'nano', {}, {})"
    held = subprocess.Popen(
        [sys.executable, "-c", program + "; print('held', flush=True); sys.stdin.read()", tmp_path / "s"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    held.stdout.readline()
    with pytest.raises(UserError, match="another process"):
        make_stage(tmp_path / "s")
    held.communicate()


def test_a_fingerprint_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = runs.fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    second = runs.fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, runs.fingerprint(tmp_path)}) == 3


# foreign folders


@pytest.mark.parametrize("content", ["", '{"stage": "train", ', "[]", "[" * 100_000])
def test_what_was_built_is_kept_without_its_manifest_and_set_aside_where_its_inputs_are_unknown(tmp_path, content):
    finished(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_text(content)
    assert not make_stage(tmp_path / "s").done and (tmp_path / "s" / "result.txt").exists()
    with pytest.raises(UserError, match="data .* -> "):
        make_stage(tmp_path / "s", inputs={"data": "sha256:b"})
    (tmp_path / "s" / "started.json").write_text(content)
    assert not make_stage(tmp_path / "s").done and not (tmp_path / "s" / "result.txt").exists()
    assert runs.begun(tmp_path / "s")["inputs"] == {"data": "sha256:a"}


@pytest.mark.parametrize(("stage", "left"), [("convert", "model.pt"), ("generate-tuned", "requests.jsonl")])
def test_only_what_succeeded_binds(stage, left, tmp_path):
    runs.enter(tmp_path / "s", stage, "nano", {"checkpoint": "broken"}, {}).close()
    (tmp_path / "s" / left).write_text("of the broken one")
    assert not runs.enter(tmp_path / "s", stage, "nano", {"checkpoint": "right"}, {}).done
    assert not (tmp_path / "s" / left).exists()


@pytest.mark.parametrize("name", ["", ".lock", "manifest.json", "videos"])
def test_no_link_in_a_stage_folder_is_followed(tmp_path, name):
    """The folder itself may be the link; redo deletes a link inside, and nothing that it leads to."""
    victim, folder = tmp_path / "victim", tmp_path / "run" / "data"
    (victim / "inside").mkdir(parents=True)
    (victim / "a.txt").write_text("precious")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(victim / "a.txt" if name in (".lock", "manifest.json") else victim)
    with pytest.raises(UserError, match="is a symbolic link.*type `rm "):
        make_stage(folder)
    if name in ("manifest.json", "videos"):
        finished(folder, redo=True)
        assert make_stage(folder).done
    assert (victim / "a.txt").read_text() == "precious" and len([*victim.rglob("*")]) == 2


def test_no_link_is_followed_when_a_file_is_written(tmp_path):
    victim, rows, text = (tmp_path / name for name in ("victim.txt", "rows.jsonl", "x.txt"))
    victim.write_text("precious")
    for path in (rows, text, tmp_path / f".x.txt.{os.getpid()}.txt"):
        path.symlink_to(victim)
    with pytest.raises(UserError, match="is a symbolic link"):
        storage.append_row(rows, {"a": 1})
    with storage.replacing(text) as temporary:
        temporary.write_text("new")
    assert text.read_text() == "new" and not text.is_symlink() and victim.read_text() == "precious"


def test_a_finished_folder_may_lie_behind_a_link(tmp_path):
    finished(tmp_path / "elsewhere")
    (tmp_path / "s").symlink_to(tmp_path / "elsewhere")
    assert make_stage(tmp_path / "s").done


def test_a_run_folder_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^--run .* choose another folder$"):
        runs.run_folder(tmp_path / "file/below", "nano")


def test_only_leftovers_of_killed_processes_are_deleted(tmp_path):
    folder = tmp_path / "s"
    make_stage(folder).close()
    (folder / "videos").mkdir()
    kept = [folder / ".metadata", folder / "videos" / "a.mp4"]
    left = [folder / ".result.txt.123.txt", folder / "videos" / ".a.mp4.4567.mp4", folder / ".iter_000000002.88"]
    for path in [*kept, *left]:
        path.write_text("x")
    make_stage(folder)
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


@pytest.mark.parametrize("name", ["dreams", "started.json"])
def test_a_run_folder_of_an_older_version_is_refused_in_one_line(name, tmp_path):
    (tmp_path / "data").mkdir()
    if name == "dreams":
        (tmp_path / name).mkdir()
    else:
        facts = {"stage": "data", "profile": "nano", "inputs": {}, "settings": {}}
        storage.write_json(tmp_path / "data" / name, facts)
    message = "was written by an older version .* another folder with --run, .*`rm -r "
    with pytest.raises(UserError, match=message) as e:
        runs.run_folder(tmp_path, "nano")
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("variables", [{}, {"COOKBOOK_HOME": "~/x"}])
def test_a_home_that_is_not_known_is_one_line_and_no_folder_of_that_name(tmp_path, variables):
    """A user id without a name, as in many containers, and without HOME."""
    program = """
import pwd, sys
def unknown(_): raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = unknown
from cookbook import cli
sys.exit(cli.main(["prepare", "--run", "~/run"]))
"""
    gone = {"HOME", "USER", "LOGNAME", "USERNAME", "LNAME"}
    env = {name: value for name, value in os.environ.items() if name not in gone} | variables
    env["PYTHONPATH"] = str(runs.ASSETS.parent)
    done = python("-c", program, cwd=tmp_path, env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.match("cookbook: ~/(x|run): no home folder is known here; ", done.stderr.splitlines()[-1])
    assert not any(tmp_path.iterdir())


def test_what_was_built_from_unknown_inputs_is_made_again(tmp_path, capsys):
    make_stage(tmp_path / "s").close()
    (tmp_path / "s" / "result.txt").write_text("of whatever")
    (tmp_path / "s" / "started.json").write_text("")
    assert not make_stage(tmp_path / "s").done and not (tmp_path / "s" / "result.txt").exists()
    assert f"started.json is damaged; all of {tmp_path / 's'} is computed again" in capsys.readouterr().out
    assert runs.begun(tmp_path / "s")["inputs"] == {"data": "sha256:a"}
