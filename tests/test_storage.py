"""Files that survive a kill, a full disk and hostile content."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cookbook import runs, storage
from cookbook.errors import UserError


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "红" * 80 + ".txt"])
def test_the_longest_file_names_can_be_written(tmp_path, name):
    with storage.replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("tail", "whole"), [('{"b": 2}', True), ('{"b": ', False), ("\0\0", False), ("7", False)])
def test_a_last_line_without_a_line_break_is_a_row_or_nothing(tail, whole, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": "\\u00e9\u2028"}\n' + tail)
    rows = [{"a": "é\u2028"}] + [{"b": 2}] * whole
    assert storage.read_rows(file) == rows
    storage.append_row(file, {"c": 3})
    assert storage.read_rows(file) == [*rows, {"c": 3}] and file.read_bytes().count(b"\n") == len(rows) + 1


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\udcff"}', "7", "nonsense"])
def test_a_damaged_line_is_named(line, tmp_path):
    for after in ("", '{"a": 2}\n'):
        (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' + line + "\n" + after, errors="surrogateescape")
        with pytest.raises(UserError, match="^.*rows.jsonl, line 2: not JSON .*$"):
            storage.read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("write", ["replacing", "append_row"])
def test_a_full_disk_is_named_in_one_line(write, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.os, "fsync" if write == "append_row" else "replace", full)
    with pytest.raises(UserError, match=rf"^{tmp_path}: its disk is full \(.* GB free\).*same command continues$"):
        getattr(storage, "append_row" if write == "append_row" else "write_json")(tmp_path / "x", {"a": 1})


def test_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "x.json"
    storage.write_json(file, 1)
    with pytest.raises(RuntimeError), storage.replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(file.read_text()) == 1 and list(tmp_path.iterdir()) == [file]


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3), max_size=5))
def test_rows_are_read_as_written(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    for row in rows:
        storage.append_row(file, row)
    assert storage.read_rows(file) == rows
