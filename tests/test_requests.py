"""Rows of requests, as users write them."""

import json

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from cookbook.errors import UserError
from cookbook.generate.requests import ALLOWED, read_requests, request_name
from cookbook.profiles import nano

BAD = [
    ({"resolution": "30,48"}, "resolution", '"30,48"'),
    ({"resolution": "0,48"}, "resolution", '"0,48"'),
    ({"resolution": "big"}, "resolution", '"big"'),
    ({"num_output_frames": 10}, "num_output_frames", "10"),
    ({"num_output_frames": -3}, "num_output_frames", "-3"),
    ({"input_path": "gone.png"}, "input_path", "gone.png does not exist"),
    ({"input_path": "text.png"}, "input_path", "cannot be read"),
    ({"input_path": None}, "input_path", "missing"),
    ({"inference_type": "video2world", "input_path": "short.mp4"}, "input_path", "has 3 frames"),
    ({"inference_type": "text2world"}, "input_path", '"a.png"'),
    ({"inference_type": "sound2world"}, "inference_type", '"sound2world"'),
    ({"prompt": None}, "prompt", "null"),
    ({"prompt": " "}, "prompt", '" "'),
    ({"prompt": "\u200b"}, "prompt", '"\u200b"'),
    ({"num_output_frames": "9"}, "num_output_frames", '"9"'),
    ({"seed": True}, "seed", "true"),
    ({"num_steps": 2.5}, "num_steps", "2.5"),
    ({"num_steps": 10_000}, "num_steps", "10000"),
    ({"prompt_path": "a.txt"}, "prompt", "prompt_path is given too"),
    ({"prompt": None, "prompt_path": "gone.txt"}, "prompt_path", "no such"),
    ({"num_steps": -1}, "num_steps", "-1"),
    ({"shift": 0}, "shift", "0"),
    ({"seed": -1}, "seed", "-1"),
    ({"guidance": -1}, "guidance", "-1"),
    ({"guidance": float("nan")}, "guidance", "NaN"),
    ({"name": "../up"}, "name", '"../up"'),
    ({"name": "row0"}, "name", "'row0' is on line 1 too"),
    ({"stepz": 3}, "stepz", "unknown field"),
]
ALL_IN_ONE = {"input_path": "gone.png", "num_steps": -1, "stepz": 3}


def test_all_problems_are_reported_by_line_and_field(rows_file):
    file = rows_file({}, *(change for change, _, _ in BAD), ALL_IN_ONE)
    with pytest.raises(UserError) as caught:
        read_requests(file, nano())
    *lines, one, two, three = str(caught.value).splitlines()
    last = f"{file}, line {len(BAD) + 2}: "
    assert [line.removeprefix(last).split(":")[0] for line in (one, two, three)] == list(ALL_IN_ONE)
    for line, (number, (_, field, value)) in zip(lines, enumerate(BAD, 2), strict=True):
        assert line.startswith(f"{file}, line {number}: {field}: "), line
        assert value in line and ALLOWED.get(field, "num_steps") in line.split("allowed: ")[1]


def test_missing_fields_come_from_the_profile(tmp_path, rows_file):
    (tmp_path / "words.txt").write_text("Wave twice.\n")
    row = {"name": "a", "prompt_path": "words.txt", "input_path": "a.png"}
    (tmp_path / "one.json").write_text(json.dumps(row))
    rows_file()
    (request,) = read_requests(tmp_path / "one.json", nano())
    assert (request.prompt, request.size, request.num_output_frames) == ("Wave twice.", (96, 160), 25)
    assert request.guidance == nano().sampling.guidance and request.num_steps is None


def test_batch_input_json_is_read_and_checked_by_its_own_fields(tmp_path, rows_file):
    rows_file()
    file, good = tmp_path / "batch_input.json", {"input_video": "a.png", "prompt": "Wave.", "output_video": "x.mp4"}
    file.write_text(json.dumps([good]))
    (request,) = read_requests(file, nano())
    assert request.prompt == "Wave." and request.name == "000_a"
    file.write_text(json.dumps([good | {"seed": 1}, {"prompt": "y"}, {"input_video": "a.png"}]))
    with pytest.raises(UserError) as caught:
        read_requests(file, nano())
    wanted = ["row 1: seed: unknown field", "row 2: input_video: missing", "row 3: prompt: null"]
    assert all(want in line for want, line in zip(wanted, str(caught.value).splitlines(), strict=True))


def test_rows_that_are_not_json_are_reported(tmp_path):
    (tmp_path / "batch.jsonl").write_text('{broken\n[1]\n{"seed": 1, "seed": 2}')
    with pytest.raises(UserError) as error:
        read_requests(tmp_path / "batch.jsonl", nano())
    first, second, third = str(error.value).splitlines()
    assert "line 1: column 2: not JSON" in first and "line 2: [1]: not a JSON object" in second
    assert "line 3: not JSON (the field 'seed' is there twice)" in third


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_path": "a\0.png"}, "line 1: input_path: .* cannot be a path"),
        ({"input_path": "a" * 5000}, "line 1: input_path: .* cannot be a path .File name too long"),
        ({"prompt": None, "prompt_path": "a\0"}, "line 1: prompt_path: .* cannot be a path"),
        ({"prompt": None, "prompt_path": "a" * 5000}, "line 1: prompt_path: .* cannot be a path"),
        ({"resolution": "160000,160000"}, "line 1: resolution: .*allowed: sides of at most 512"),
        ({"resolution": "9" * 5000 + ",16"}, "line 1: resolution: "),
        ({"num_output_frames": 4_000_001}, "line 1: num_output_frames: .*allowed: at most 250"),
        ("[" * 100_000, "line 1: not JSON .too deeply nested"),
        ('{"seed": ' + "9" * 5000 + "}", "line 1: not JSON "),
    ],
)
def test_hostile_rows_get_one_short_line(change, words, rows_file):
    file = rows_file(change if isinstance(change, dict) else {})
    if isinstance(change, str):
        file.write_text(change)
    with pytest.raises(UserError, match=words) as refused:
        read_requests(file, nano())
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_a_line_separator_within_a_row_is_no_end_of_the_row(rows_file):
    file = rows_file({})
    file.write_text(json.dumps({**tiny.ROW, "prompt": "Wave\u2028twice."}, ensure_ascii=False), encoding="utf-8")
    assert read_requests(file, nano())[0].prompt == "Wave\u2028twice."


@given(st.integers(0, 999), st.text(max_size=120))
def test_request_names_are_safe_file_names(index, stem):
    name = request_name(index, stem)
    assert "/" not in name and len(name) <= 84 and len(name.encode()) <= 200 and name.startswith(f"{index:03d}_")
