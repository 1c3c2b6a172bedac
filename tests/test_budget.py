"""Time, memory, downloads and licences in the plans and in the tables of the notebooks."""

from __future__ import annotations

import base64
import re
import shutil

import jupytext
import nbformat
import pytest

from cookbook import budget, notebooks, profiles, runs, storage
from cookbook.errors import UserError
from cookbook.generate.planning import cost
from cookbook.generate.requests import Request
from cookbook.judge.calibration import gather
from cookbook.layout import write_metadata
from cookbook.train.planning import estimate
from tools import expected, publish

BOOKS = notebooks.select()  # what `cookbook run` executes
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="  # a PNG
SMALL = {"cores": 2, "memory_gb": 8.0, "disk_gb": 50.0, "gpus": [], "driver": False, "token": False, "online": False}


def cells(path) -> list[str]:
    return [cell.source for cell in jupytext.read(path.with_suffix(".py")).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("profile", ["2b", "14b"])
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem[:2])
def test_a_notebook_shows_the_costs_of_real_weights_and_stops(machine, capsys, path, profile):
    """On a laptop without token: the second cell prints the costs, and stops with each requirement that is not met."""
    machine(**SMALL, accepted=False)
    first, second = cells(path)[:2]
    names: dict = {}
    exec(first.replace('"nano"', f'"{profile}"'), names)
    if path.stem.startswith("00"):
        exec(second, names)
    else:
        with pytest.raises(UserError, match=f"requirements of profile {profile}:\n") as stopped:
            exec(second, names)
        for what in ("processor cores", "memory", "free disk", "NVIDIA GPU", "Hub token", "Hub licences"):
            assert f"\n  {what} (" in str(stopped.value), what
    out = capsys.readouterr().out
    stages = [work for work in budget.stages(profiles.get(profile)) if path.stem[:2] in ("00", work.notebook)]
    assert stages
    for work in stages:
        time = f": about {budget.format_duration(work.seconds)}" if work.seconds else ""
        assert f"\n  {work.stage:<9} {work.what}{time}\n" in out
        for source in work.sources:
            (line,) = re.findall(rf"^  download .*{source.location} \({source.licence}\).*", out, re.M)
            assert (f"accept it at https://huggingface.co/{source.location}" in line) == source.gated


def test_times_are_measured_or_those_of_the_plans_of_the_stages(monkeypatch):
    rows = {"02_post_training": {"seconds": 120.0}, "03_inference": {"seconds": 60.0}}
    monkeypatch.setattr(budget, "timings", lambda: {"nano": {"notebooks": rows}})
    assert budget.minutes("nano") == {"02": 2.0, "03": 1.0} and budget.minutes("smoke") == {}
    large = profiles.get("2b")
    times = {work.stage: work.seconds for work in budget.stages(large)}
    assert times["train"] == pytest.approx(estimate(large, 1, None, None).seconds)
    row = {"name": "a", "prompt": "Wave.", "num_output_frames": 93, "resolution": "432,768", "guidance": 7}
    jobs = [(Request(inference_type="text2world", **row), seed) for seed in range(300)]
    assert cost(large, jobs, gpu=True) == f"about {times['generate'] / 3600:.1f} h on one H100"
    assert times["judge"] == pytest.approx(460 / 7.99, rel=0.01), "300 videos and 160 calibration clips"
    assert budget.minutes("2b") == {"02": times["train"] / 60, "03": times["generate"] / 60, "04": times["judge"] / 60}


@pytest.mark.parametrize(("clips", "number"), [(2, 20), (92, 152)])
def test_calibration_clips_of_real_weights_come_from_training_clips(clips, number, tmp_path):
    """At most as many as the plan prints; from two clips as many as docs/your_own_robot.md states."""
    large, train = profiles.get("2b"), tmp_path / "data" / "train"
    (train / "videos").mkdir(parents=True)
    for index in range(clips):
        (train / "videos" / f"{index}.mp4").touch()
    write_metadata(train / "metadata.csv", [(f"{index}.mp4", f"Do {index}.") for index in range(clips)])
    calibration, held_out = gather(large, tmp_path)
    assert len(calibration) == number <= large.calibration_clips and not held_out
    assert {clip.path.parent for clip in calibration} == {train / "videos"}


@pytest.mark.parametrize("path", publish.every(), ids=lambda path: path.stem[:2])
def test_a_notebook_has_the_table_of_published_times(path):
    """`python -m tools.publish` writes it."""
    head = nbformat.read(path, as_version=4).cells[0].source
    assert f"<!-- measured -->\n{publish.block(path.stem)}\n<!-- /measured -->" in head


def test_published_times_are_of_the_present_cells():
    for run in budget.timings().values():
        assert run["processor"] and run["date"] and run["versions"]["torch"]
        for name, row in run["notebooks"].items():
            spent = sum(cell["seconds"] for cell in row["cells"])
            assert len(row["cells"]) == len(cells(notebooks.NOTEBOOKS / f"{name}.ipynb")), f"{name}: publish a new run"
            assert 0 < spent <= row["seconds"]


@pytest.mark.parametrize("name", [path.stem for path in publish.every() if path.stem[:2] not in notebooks.FURTHER])
def test_a_notebook_prints_the_times_of_its_table(name):
    book = nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in book.cells if cell.cell_type == "code" and "budget.plan(" in cell.source]
    rows = budget.timings()["nano"]["notebooks"]
    planned = name if name[:2] != "00" else ""  # the first notebook plans all of `make run`
    seconds = sum(row["seconds"] for key, row in rows.items() if planned in key and key[:2] not in notebooks.FURTHER)
    assert f"  measured  {budget.format_duration(seconds)}, " in cell.outputs[0].text


def test_the_notebooks_write_the_folders_of_all_stages():
    assert sorted(sum(notebooks.WRITES.values(), ["report"])) == sorted(
        [*runs.FOLDERS.values(), "policy", "rollouts", "critic"]
    )


def test_the_readme_has_the_published_times():
    text = (notebooks.ROOT / "README.md").read_text()
    assert publish.with_times(text) == text


@pytest.mark.parametrize(("seconds", "text"), [(9.6, "10 s"), (475, "7.9 min"), (3790, "63.2 min"), (9000, "2.5 h")])
def test_durations_have_a_suitable_unit(seconds, text):
    assert budget.format_duration(seconds) == text


@pytest.mark.slow
def test_a_run_is_published_in_both_files_and_the_readme(tmp_path, monkeypatch):
    root, run = tmp_path / "checkout", tmp_path / "run"
    shutil.copytree(notebooks.NOTEBOOKS, root / "notebooks")
    shutil.copy(notebooks.ROOT / "README.md", root)
    for module, name, value in (
        (notebooks, "NOTEBOOKS", root / "notebooks"),
        (publish, "NOTEBOOKS", root / "notebooks"),
        (publish, "ROOT", root),
        (budget, "TIMINGS", root / "timings.json"),
        (expected, "FIGURES", root / "figures.json"),
        (expected, "figures", lambda run: {part: [["a loss", 0.5, 0.45, 0.55]] for part in expected.RANGES}),
    ):
        monkeypatch.setattr(module, name, value)
    timings = {"profile": "nano", "date": "2030-01-02", "commit": "abc1234", "processor": "abacus", "notebooks": {}}
    timings |= runs.environment()
    for path in notebooks.select():
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 2):
            stream = nbformat.v4.new_output("stream", text=f"{run}/data and {root}/assets")
            cell.execution_count, cell.outputs = number, [stream]
            if "picture" in cell.metadata.get("tags", []):
                data = {f"image/{kind}": DOT for kind in ("png", "jpeg")}
                cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
        book.cells.insert(2, nbformat.v4.new_code_cell("profile = 1", metadata={"tags": ["injected-parameters"]}))
        (run / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(book, run / "notebooks" / path.name)
        row = {"seconds": 301.0, "peak_memory_gb": 1.5, "written_gb": 0.25, "cells": [{"seconds": 1.0}] * len(code)}
        timings["notebooks"][path.stem] = row
    storage.write_json(run / "notebooks" / "timings.json", timings)
    publish.publish(run)
    publish.publish(run)  # once more changes nothing and fails nowhere
    for path in notebooks.select():
        book, source = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
        assert [cell.source for cell in book.cells] == [cell.source for cell in source.cells]
        assert "| `nano` | 5.0 min | 1.5 GB | 250 MB | nothing, none | measured 2030-01-02 |" in book.cells[0].source
        head = book.cells[0].source
        assert "**Last verified** 2030-01-02 at `nano`, commit abc1234: python" in head and "Colab" in head
        assert head.index("<details>") < head.index("**Last verified**") < head.index("</details>"), "folded away"
        assert (root / publish.PICTURE.search(head)[1]).read_bytes() == base64.b64decode(DOT)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert code[0].outputs[0].text == "runs/run/data and assets" or "assets" in code[0].outputs[0].text
        assert str(tmp_path) not in path.read_text()
    text = (root / "notebooks" / "02_post_training.ipynb").read_text()
    assert "| a loss | 0.5 | 0.45 to 0.55 |" in text and "`cookbook run` at `nano`" in text
    text = (root / "README.md").read_text()
    assert "abacus" in text and "30.1 min in all" in text and text.count("| 5.0 min |") == 6
    book = nbformat.read(run / "notebooks" / "02_post_training.ipynb", as_version=4)
    next(cell for cell in book.cells[5:] if cell.cell_type == "code").source += "\n# changed"
    nbformat.write(book, run / "notebooks" / "02_post_training.ipynb")
    with pytest.raises(UserError, match="02_post_training.ipynb has changed since"):
        publish.publish(run)
