"""What the plans and the tables of the notebooks say of time, memory, downloads and licences, and why."""

from __future__ import annotations

import base64
import re
import shutil

import jupytext
import nbformat
import pytest

from cookbook import budget, doctor, notebooks, profiles, results, runs
from cookbook.errors import UserError
from cookbook.generate.planning import cost
from cookbook.generate.requests import Request
from cookbook.judge.calibration import gather
from cookbook.layout import write_metadata
from cookbook.train import planning
from tools import expected, publish

BOOKS = notebooks.select()  # what `cookbook run` executes
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="  # a PNG
SMALL = {"cores": 2, "memory_gb": 8.0, "disk_gb": 50.0, "gpus": [], "driver": False, "token": False, "online": False}


def cells(path) -> list[str]:
    return [cell.source for cell in jupytext.read(path.with_suffix(".py")).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("profile", ["2b", "14b"])
@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem[:2])
def test_one_word_shows_what_real_weights_take_and_nothing_else_fails(machine, capsys, path, profile):
    """On a laptop without token: the second cell tells all, and only the preflight stops, with everything it misses."""
    machine(**SMALL, accepted=False)
    first, second = cells(path)[:2]
    names: dict = {}
    exec(first.replace('"nano"', f'"{profile}"'), names)
    if path.stem.startswith("00"):
        exec(second, names)
    else:
        with pytest.raises(UserError, match=f"{profile} cannot run here, because of\n") as stopped:
            exec(second, names)
        for what in ("processor cores", "memory", "free disk", "NVIDIA GPU", "Hub token", "Hub licences"):
            assert f"\n  {what} (" in str(stopped.value), what
    out = capsys.readouterr().out
    wanted = [w for w in budget.stages(profiles.get(profile)) if path.stem[:2] in ("00", w.notebook)]
    assert wanted
    for work in wanted:
        assert re.search(rf"^  {work.stage} .*(about [\d.]+ (s|min|h)|time not measured)", out, re.M), work.stage
        for place in work.needs:
            assert re.search(rf"^  download .*{place.location} \({place.licence}\)", out, re.M), place
            assert not place.gated or f"accept it at https://huggingface.co/{place.location}" in out
    assert ("GB on each GPU" in out) == (path.stem[:2] != "01")


@pytest.mark.parametrize(
    ("lack", "told"),
    [
        ({"token": False}, "no token here; accept it at https://huggingface.co/nvidia/Cosmos-Predict2.5-2B"),
        ({"online": False}, "the Hub cannot be asked from here"),
        ({"accepted": False}, "NOT accepted: https://huggingface.co/nvidia/Cosmos-Predict2.5-2B"),
        ({}, "gated, accepted"),
    ],
)
def test_each_state_of_a_licence_has_its_words(machine, capsys, lack, told):
    machine(**lack)
    budget.plan("2b", "02")
    assert told in capsys.readouterr().out


def test_the_shipped_profiles_download_nothing_and_never_ask_the_network(monkeypatch, capsys):
    asked = property(lambda self: pytest.fail("asked the network"))
    monkeypatch.setattr(budget.Machine, "online", asked)
    monkeypatch.setattr(budget.Machine, "token", asked)
    budget.plan("nano")
    assert "nothing: weights and clips ship" in capsys.readouterr().out


def test_calculated_figures_are_those_of_the_stages_own_plans():
    large = profiles.get("2b")
    found, train = {work.stage: work for work in budget.stages(large)}, planning.estimate(large, 1, None, None)
    assert found["train"].seconds == pytest.approx(train.seconds)
    assert found["train"].gpu_gb == pytest.approx(sum(train.memory_gb.values()))
    assert found["train"].disk_gb == pytest.approx(3 * train.checkpoint_gb), "two kept and one being written"
    row = {"name": "a", "prompt": "Wave.", "num_output_frames": 93, "resolution": "432,768", "guidance": 7}
    jobs = [(Request(inference_type="text2world", **row), seed) for seed in range(300)]
    assert cost(large, jobs, gpu=True) == f"about {found['generate'].seconds / 3600:.1f} h on one H100"
    assert found["judge"].seconds == pytest.approx(460 / 7.99, rel=0.01), "300 dreams and 160 controls"
    wide = {work.stage: work for work in budget.stages(profiles.get("14b"))}
    assert all(work.gpu_gb < doctor.NEEDS["14b"].gpu_gb for work in wide.values() if work.gpu_gb)
    assert wide["judge"].gpu_gb > found["judge"].gpu_gb


@pytest.mark.parametrize(("clips", "made"), [(2, 20), (92, 152)])
def test_the_controls_of_real_weights_are_made_of_the_training_clips(clips, made, tmp_path):
    """No more than the plan says, and as many of two clips as docs/your_own_robot.md says."""
    large, train = profiles.get("2b"), tmp_path / "data" / "train"
    (train / "videos").mkdir(parents=True)
    for index in range(clips):
        (train / "videos" / f"{index}.mp4").touch()
    write_metadata(train / "metadata.csv", [(f"{index}.mp4", f"Do {index}.") for index in range(clips)])
    controls, apart = gather(large, tmp_path)
    assert len(controls) == made <= large.calibration_clips and not apart
    assert {control.path.parent for control in controls} == {train / "videos"}
    told = {work.stage: work for work in budget.stages(large)}["judge"].what
    assert told.endswith("up to 160 controls: your training clips, as they are and broken on purpose")
    page = (notebooks.ROOT / "docs" / "your_own_robot.md").read_text()
    assert "160 controls at most; from two clips 20 can be made" in page


@pytest.mark.parametrize("path", publish.every(), ids=lambda path: path.stem[:2])
def test_the_table_of_a_notebook_is_what_was_measured(path):
    """`python -m tools.publish` writes it; nobody types it."""
    head = nbformat.read(path, as_version=4).cells[0].source
    assert f"<!-- measured -->\n{publish.block(path.stem)}\n<!-- /measured -->" in head
    assert {f"`{name}`" for name in profiles.PROFILES} <= set(re.findall(r"^\| (`\w+`) \|", head, re.M))


def test_measured_times_are_of_the_cells_that_are_there():
    for told in budget.timings().values():
        assert told["processor"] and told["date"] and told["versions"]["torch"]
        for name, row in told["notebooks"].items():
            spent = sum(cell["seconds"] for cell in row["cells"])
            assert len(row["cells"]) == len(cells(notebooks.NOTEBOOKS / f"{name}.ipynb")), f"{name}: publish a new run"
            assert 0 < spent <= row["seconds"]


def test_the_stages_of_each_notebook_are_all_stages_but_the_report():
    assert sorted(sum(notebooks.MADE.values(), ["report"])) == sorted(runs.FOLDERS)


def test_the_readme_has_the_published_times():
    text = (notebooks.ROOT / "README.md").read_text()
    assert publish.with_times(text) == text


@pytest.mark.parametrize(("seconds", "told"), [(9.6, "10 s"), (475, "7.9 min"), (3790, "63.2 min"), (9000, "2.5 h")])
def test_times_are_told_in_a_unit_that_fits(seconds, told):
    assert budget.spell(seconds) == told


def test_a_run_is_published_into_both_twins_and_the_readme(tmp_path, monkeypatch):
    root, run = tmp_path / "checkout", tmp_path / "run"
    for place in ("notebooks", "README.md"):
        copy = shutil.copytree if (notebooks.ROOT / place).is_dir() else shutil.copy
        (root / place).parent.mkdir(exist_ok=True)
        copy(notebooks.ROOT / place, root / place)
    for module, name, value in (
        (notebooks, "NOTEBOOKS", root / "notebooks"),
        (publish, "NOTEBOOKS", root / "notebooks"),
        (publish, "ROOT", root),
        (budget, "TIMINGS", root / "timings.json"),
        (expected, "FIGURES", root / "figures.json"),
        (expected, "figures", lambda run: {part: [["a loss", 0.5, 0.45, 0.55]] for part in expected.WHY}),
    ):
        monkeypatch.setattr(module, name, value)
    told = {"profile": "nano", "date": "2030-01-02", "commit": "abc1234", "processor": "abacus", "notebooks": {}}
    told |= runs.environment()
    for path in notebooks.select():
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 2):
            stream = nbformat.v4.new_output("stream", text=f"{run}/data and {root}/assets")
            cell.execution_count, cell.outputs = number, [stream]
            if "picture" in cell.metadata.get("tags", []):
                data = {f"image/{kind}": DOT for kind in ("png", "jpeg")}
                cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
        added = nbformat.v4.new_code_cell("profile = 1", metadata={"tags": ["injected-parameters"]})
        book.cells.insert(2, added)
        (run / "notebooks").mkdir(parents=True, exist_ok=True)
        nbformat.write(book, run / "notebooks" / path.name)
        row = {"seconds": 301.0, "peak_memory_gb": 1.5, "written_gb": 0.25, "cells": [{"seconds": 1.0}] * len(code)}
        told["notebooks"][path.stem] = row
    runs.write_json(run / "notebooks" / "timings.json", told)
    publish.publish(run)
    publish.publish(run)  # once more changes nothing and fails nowhere
    for path in notebooks.select():
        book, twin = nbformat.read(path, as_version=4), jupytext.read(path.with_suffix(".py"))
        assert [cell.source for cell in book.cells] == [cell.source for cell in twin.cells]
        assert "| `nano` | 5.0 min | 1.5 GB | 250 MB | nothing, none | measured 2030-01-02 |" in book.cells[0].source
        head = book.cells[0].source
        assert "**Last verified** 2030-01-02 at `nano`, commit abc1234: python" in head and "Colab" in head
        assert (root / publish.PICTURE.search(head)[1]).read_bytes() == base64.b64decode(DOT)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert code[0].outputs[0].text == "runs/run/data and assets" or "assets" in code[0].outputs[0].text
        assert str(tmp_path) not in path.read_text()
    text = (root / "notebooks" / "02_post_training.ipynb").read_text()
    assert "| a loss | 0.5 | 0.45 to 0.55 |" in text and "`cookbook run` at `nano`" in text
    text = (root / "README.md").read_text()
    assert "abacus" in text and "25.1 min in all" in text and text.count("| 5.0 min |") == 5
    book = nbformat.read(run / "notebooks" / "02_post_training.ipynb", as_version=4)
    next(cell for cell in book.cells[5:] if cell.cell_type == "code").source += "\n# changed"
    nbformat.write(book, run / "notebooks" / "02_post_training.ipynb")
    with pytest.raises(UserError, match="02_post_training.ipynb has changed since"):
        publish.publish(run)


def test_a_picture_that_was_not_drawn_is_an_error():
    book = nbformat.read(notebooks.NOTEBOOKS / "02_post_training.ipynb", as_version=4)
    (cell,) = [cell for cell in book.cells if "picture" in cell.metadata.get("tags", [])]
    cell.outputs = cell.outputs[:1]
    with pytest.raises(UserError, match="02_post_training.png: the cell tagged `picture` shows no png"):
        publish.drawn(book)
    cell.metadata.tags = []
    with pytest.raises(UserError, match="02 · Post-train the world model: no picture at its top, or no cell tagged"):
        publish.drawn(book)
    cell.metadata.tags, cell.execution_count = ["picture"], None
    assert publish.drawn(book) is None, "a notebook that was not executed has none yet"


def test_figures_come_with_how_far_they_may_differ(monkeypatch):
    shares = {"follow_rate_tuned": 0.7, "follow_rate_tuned_interval": [0.5, 0.9]}
    shares |= {"success_rate_tuned": 0.3, "success_rate_tuned_interval": [0.1, 0.5]}
    train = {"heldout_zero_velocity": 2.0, "heldout_before": 0.5, "heldout_after": 0.2}
    monkeypatch.setattr(results, "manifest", lambda run, stage: train if stage == "train" else shares)
    critic = {"auc": 0.8, "auc_interval": [0.7, 0.9]}
    monkeypatch.setattr(results, "calibration", lambda run: {question: critic for question in results.QUESTIONS})
    monkeypatch.setattr(results, "gain", lambda run: {"gain": 0.4, "interval": [0.2, 0.6]})
    found = expected.figures(None)
    assert found.keys() == expected.WHY.keys()
    assert found["held-out loss"][2] == ("held-out loss, after", 0.2, 0.18, 0.22)
    assert found["critic"][0] == ("physics: AUC", 0.8, 0.7, 0.9)
    assert [row[1:] for row in found["verdicts"]] == [(0.7, 0.5, 0.9), (0.3, 0.1, 0.5), (0.4, 0.2, 0.6)]
    monkeypatch.setattr(results, "gain", lambda run: {"gain": None, "interval": None})
    assert len(expected.figures(None)["verdicts"]) == 2


def test_minutes_are_measured_or_calculated(monkeypatch):
    rows = {"02_post_training": {"seconds": 120.0}, "03_inference": {"seconds": 60.0}}
    monkeypatch.setattr(budget, "timings", lambda: {"nano": {"notebooks": rows}})
    assert budget.minutes("nano") == {"02": 2.0, "03": 1.0} and budget.minutes("smoke") == {}
    real = budget.minutes("2b")
    assert real.keys() == {"02", "03", "04"} and real["02"] == pytest.approx(42.3, abs=0.1), "preparing is not known"
