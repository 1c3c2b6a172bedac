"""Run folders: a finished stage is skipped, an unfinished one continued, one with changed inputs refused."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook import runs
from cookbook.errors import UserError


def make_stage(folder, inputs=None, settings=None, redo=False):
    return runs.enter(folder, "train", "nano", inputs or {"data": "sha256:a"}, settings or {"steps": 1}, redo)


def finished(folder, **kwargs):
    stage = make_stage(folder, **kwargs)
    (folder / "result.txt").write_text("result")
    return stage.finish([folder / "result.txt"], answer=42)


def test_a_finished_stage_is_skipped_with_a_message(tmp_path, capsys):
    finished(tmp_path / "s")
    stage = make_stage(tmp_path / "s")
    assert stage.done and stage.manifest["answer"] == 42
    assert "skipping" in capsys.readouterr().out


def test_unfinished_stage_is_continued(tmp_path):
    make_stage(tmp_path / "s").close()
    assert not make_stage(tmp_path / "s").done


@pytest.mark.parametrize("when_finished", [True, False])
def test_changed_inputs_are_refused_by_name(tmp_path, when_finished):
    finished(tmp_path / "s") if when_finished else make_stage(tmp_path / "s").close()
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


def test_a_deleted_stage_may_start_with_other_inputs(tmp_path):
    make_stage(tmp_path / "s").forget()
    assert not (tmp_path / "s").exists()
    assert not make_stage(tmp_path / "s", inputs={"data": "sha256:b"}).done


@pytest.mark.parametrize("name", ["dreams", "started.json", "manifest.json"])
def test_a_run_folder_of_an_older_version_is_refused_in_one_line(name, tmp_path):
    (tmp_path / "data").mkdir()
    if name == "dreams":
        (tmp_path / name).mkdir()
    else:
        runs.write_json(tmp_path / "data" / name, {"stage": "data"})
    with pytest.raises(
        UserError, match=r"was written by an older version .* another folder with --run, .*`rm -r "
    ) as e:
        runs.run_folder(tmp_path, "nano")
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


def test_redo_empties_the_folder(tmp_path):
    finished(tmp_path / "s")
    stage = make_stage(tmp_path / "s", inputs={"data": "sha256:b"}, redo=True)
    assert not stage.done and not (tmp_path / "s" / "result.txt").exists()


def test_a_missing_output_is_reported(tmp_path):
    finished(tmp_path / "s")
    (tmp_path / "s" / "result.txt").unlink()
    with pytest.raises(UserError, match="lost result.txt"):
        make_stage(tmp_path / "s")


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


def test_a_failed_attempt_of_the_same_process_releases_the_folder(tmp_path):
    first = make_stage(tmp_path / "s")
    assert not make_stage(tmp_path / "s").done and first.folder.exists()


def test_stages_downstream_are_stale(tmp_path):
    data = finished(tmp_path / "data", inputs={"clips": "1"})
    finished(tmp_path / "checkpoints", inputs={"prepare": data["fingerprint"]})
    assert runs.stale(tmp_path) == []
    stage = make_stage(tmp_path / "data", inputs={"clips": "2"}, redo=True)
    (tmp_path / "data" / "result.txt").write_text("other")
    stage.finish([tmp_path / "data" / "result.txt"])
    assert runs.stale(tmp_path) == ["train"]


def test_a_fingerprint_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = runs.fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    second = runs.fingerprint(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, runs.fingerprint(tmp_path)}) == 3


def test_a_truncated_last_row_is_dropped_and_other_damage_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    runs.append_row(file, {"a": 1})
    with open(file, "a") as handle:
        handle.write('{"a": ')
    assert runs.read_rows(file) == [{"a": 1}]
    runs.append_row(file, {"a": 2})
    assert runs.read_rows(file) == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        runs.read_rows(file)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5))
def test_rows_are_read_as_written(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    for row in rows:
        runs.append_row(file, row)
    assert runs.read_rows(file) == rows


def test_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "x.json"
    runs.write_json(file, 1)
    with pytest.raises(RuntimeError), runs.replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == 1 and list(tmp_path.iterdir()) == [file]


def test_after_a_kill_the_manifest_is_complete_or_absent(tmp_path):
    program = textwrap.dedent(
        f"""
        from pathlib import Path
        from cookbook import runs
        while True:
            stage = runs.enter(Path({str(tmp_path / "s")!r}), "train", "nano", {{"data": "a"}}, {{}}, redo=True)
            (stage.folder / "result.txt").write_text("result")
            print("round", flush=True)
            stage.finish([stage.folder / "result.txt"])
        """
    )
    for moment in range(3):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ)
        process.stdout.readline()
        time.sleep(0.01 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        manifest = runs.read_manifest(tmp_path / "s")
        assert manifest is None or manifest["outputs"].keys() == {"result.txt"}


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
