"""The notebooks as committed, and the runner against each way in which papermill alone lets a broken notebook pass."""

from __future__ import annotations

import ast
import json
import re
import statistics
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat.sign import NotebookNotary

from cookbook import cli, notebooks, profiles, show, store
from cookbook.errors import UserError
from cookbook.train import explain

BOOKS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
TITLES = {
    "00": ["Prerequisites"],
    "01": ["1. Preparing Data", "Preview of the Training Dataset"],
    "02": ["2. Post-training Cosmos Predict 2.5", "2.1 Configuration", "2.2 Training"],
    "03": [
        "3. Inference with Post-trained Predict 2.5",
        "3.1 Converting DCP Checkpoint to Consolidated PyTorch Format",
        "3.2 Running Inference",
    ],
    "04": ["4. Inference with Reason 2 for plausibility check and filtering"],
    "05": ["5. Post-training the critic"],
}


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def book(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_all_are_there():
    assert [path.stem[:2] for path in BOOKS] == list(TITLES)


def test_the_ipynb_equals_its_py_twin(path, book):
    twin = jupytext.read(path.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in book.cells] == [(c.cell_type, c.source) for c in twin.cells]
    assert [c.metadata.get("tags", []) for c in book.cells] == [c.metadata.get("tags", []) for c in twin.cells]


def test_kernel_is_python3_and_no_widget_state_is_kept(book):
    assert book.metadata.kernelspec.name == "python3"
    assert "widgets" not in book.metadata
    assert not [o for cell in code(book) for o in cell.outputs if any("widget" in kind for kind in o.get("data", {}))]


def test_parameters_are_annotated_literals_with_a_comment(book):
    first = code(book)[0]
    assert first.metadata.tags == ["parameters"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in book.cells) == 1
    lines = first.source.splitlines()
    statements = ast.parse(first.source).body
    assert len(lines) == len(statements) <= 10
    for line, statement in zip(lines, statements, strict=True):
        assert isinstance(statement, ast.AnnAssign) and isinstance(statement.value, ast.Constant), line
        assert "  # " in line, line
    assert lines[0].startswith('profile: str = "nano"')


def test_cells_are_short(book):
    lengths = [len(cell.source.splitlines()) for cell in code(book)]
    assert statistics.median(lengths) <= 10
    assert max(lengths) <= 40


def test_no_cell_can_hide_a_failure_or_names_a_place_on_one_machine(path, book):
    for cell in code(book):
        assert not re.search(r"^\s*[!%]", cell.source, re.M), cell.source
        assert not re.search(r"\b(sys\.exit|exit|quit)\(", cell.source), cell.source
        assert "raises-exception" not in cell.metadata.get("tags", [])
    text = json.dumps([[cell.source, cell.get("outputs", [])] for cell in book.cells])
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", re.sub(r'"image/\w+": "[^"]*"', "", text))
    assert not re.search(r"(?<![\w.:/-])/(home|root|work|tmp|Users|mnt)/", plain)


def test_size_and_order_of_execution(path, book):
    assert path.stat().st_size < 400_000
    counts = [cell.execution_count for cell in code(book)]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))
    assert not [o for cell in code(book) for o in cell.outputs if o.output_type == "error"]


def test_shape_of_the_lesson(path, book):
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    assert re.fullmatch(rf"{path.stem[:2]} · [\w-]+ .+", headings[0])
    assert set(TITLES[path.stem[:2]]) <= set(headings)
    for part in (
        "**Promise.**",
        "You will be able to",
        "**Needed**",
        "**Reads**",
        "**Writes**",
        "## Recap",
        "| Symptom |",
    ):
        assert part in text, part
    assert text.count("**What you should see:**") >= 4
    assert "**Next:**" in text


def test_notebook_02_shows_a_reason_for_each_departure():
    shown = (notebooks.NOTEBOOKS / "02_post_training.ipynb").read_text(encoding="utf-8")
    departing = [row for row in explain.compare(profiles.cosmos_2b()) if row.reason]
    assert departing
    for row in departing:
        assert row.field in shown and row.reason.split(";")[0][:40] in shown, row


@pytest.mark.parametrize("values, control", [([0.5, 1.0], "SelectionSlider"), (["a", "b"], "Dropdown")])
def test_a_choice_is_a_slider_for_numbers_and_a_menu_for_words(values, control, monkeypatch):
    monkeypatch.delenv("HEADLESS", raising=False)
    made = []
    monkeypatch.setattr("ipywidgets.interact", lambda draw, **controls: made.append((draw, controls)))
    show.browse(print, what_now=values)
    ((draw, controls),) = made
    assert draw is print and list(controls) == ["what_now"]
    assert type(controls["what_now"]).__name__ == control and controls["what_now"].options == tuple(values)


# The runner


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes one notebook of the given cells, the only one that the runner then finds."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "books")

    def write(*cells: str) -> Path:
        parameters = nbformat.v4.new_code_cell(
            'profile: str = "nano"  # profile\nrun: str = ""  # folder\ncount: int = 1  # how many',
            metadata={"tags": ["parameters"]},
        )
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = nbformat.v4.new_notebook(
            cells=[parameters, *map(nbformat.v4.new_code_cell, cells)],
            metadata={**kernel, "language_info": {"name": "python"}},
        )
        (tmp_path / "books").mkdir(exist_ok=True)
        nbformat.write(book, tmp_path / "books" / "00_try.ipynb")
        return tmp_path / "run"

    return write


def test_a_good_notebook_runs_in_this_python_with_its_parameters(written, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    # a hundredth of a second is the unit of the timings, so each cell takes longer than that
    wait = "import sys, time\ntime.sleep(0.05)\n"
    run = written(wait + "print('python', sys.executable)", wait + "data = bytes(10**8)\nprint('count', count + 1)")
    assert notebooks.run_all("smoke", run=run, parameters=(("count", "41"),)) == {}
    text = (run / "notebooks" / "00_try.ipynb").read_text()
    assert sys.executable in text and "count 42" in text
    timing = json.loads((run / "notebooks" / "timings.json").read_text())["notebooks"]["00_try"]
    assert timing["seconds"] > 0 and len(timing["cells"]) == 3, "parameters and two more"
    assert all(cell["seconds"] > 0 and cell["peak_memory_gb"] > 0.01 for cell in timing["cells"][1:])
    assert sum(cell["seconds"] for cell in timing["cells"]) <= timing["seconds"] and timing["written_gb"] == 0
    out = capsys.readouterr().out
    assert "[1/1] 00_try" in out and "no report yet: train" in out
    assert NotebookNotary().check_signature(nbformat.read(run / "notebooks" / "00_try.ipynb", as_version=4))


def test_choices_are_for_people_and_leave_no_trace_headless(written):
    draw = "from cookbook import show\nshow.browse(lambda level: print('chosen', level), level=[0.5, 1.0])"
    run = written(draw)
    notebooks.run_all("smoke", run=run)
    executed = (run / "notebooks" / "00_try.ipynb").read_text()
    assert (
        '"widgets"' not in executed and "widget-view" not in executed and "chosen" not in executed.split(draw[-20:])[-1]
    )


def test_a_failing_cell_stops_the_run_and_its_copy_is_kept(written):
    run = written("1 / 0", "print('never')")
    with pytest.raises(UserError, match=r"00_try.ipynb: cell 3 failed with ZeroDivisionError: division by zero"):
        notebooks.run_all("smoke", run=run)
    assert "ZeroDivisionError" in (run / "notebooks" / "00_try.ipynb").read_text()


def test_leaving_half_way_is_a_failure(written):
    run = written("import sys\nsys.exit(0)", "print('never')")
    with pytest.raises(UserError, match="did not run|failed with SystemExit"):
        notebooks.run_all("smoke", run=run)


def test_unexecuted_cells_are_found():
    cell = nbformat.v4.new_code_cell
    done = cell("1", execution_count=1, metadata={"papermill": {"status": "completed"}})
    pending = cell("1", execution_count=3, metadata={"papermill": {"status": "pending"}})
    assert notebooks.unexecuted([done, cell("2"), pending, cell("")]) == [2, 3]


def test_an_unknown_parameter_is_refused_before_anything_runs(written):
    run = written("print('never')")
    with pytest.raises(UserError, match="no notebook parameter 'cuont'; 00_try takes count, profile, run"):
        notebooks.run_all("smoke", run=run, parameters=(("cuont", "3"),))
    assert not run.exists()


def test_what_a_machine_lacks_is_said_before_anything_runs(machine, tmp_path, capsys):
    machine(memory_gb=25.1, gpus=[])
    assert cli.main(["run", "--profile", "2b", "--run", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert "made for 1 GPU of 80 GB" in told.out and "[1/" not in told.out and not (tmp_path / "run").exists()
    first, *reasons = told.err.splitlines()
    assert first == "cookbook: 2b cannot run here, because of"
    assert [line.split(" (")[0] for line in reasons] == ["  memory", "  NVIDIA GPU"]


def test_the_check_itself_runs_on_any_machine(machine, written):
    machine(gpus=[])
    run = written("print('checked')")
    notebooks.run_all("2b", run=run)
    assert "checked" in (run / "notebooks" / "00_try.ipynb").read_text()


def test_each_problem_of_a_failed_cell_keeps_its_line(written):
    run = written("raise ValueError('two:\\n  first\\n  second')")
    with pytest.raises(UserError, match=r"ValueError: two:\n  first\n  second \(the executed copy"):
        notebooks.run_all("smoke", run=run)


def test_notebooks_are_chosen_by_number_or_name():
    assert [path.stem[:2] for path in notebooks.select(start="03")] == ["03", "04"]
    assert [path.stem[:2] for path in notebooks.select()] == ["00", "01", "02", "03", "04"]
    assert notebooks.select(start="05") == notebooks.select(only="05"), "what is beyond the guide must be asked for"
    assert [path.stem for path in notebooks.select(only="02_post_training")] == ["02_post_training"]
    with pytest.raises(UserError, match="no notebook '7'; there are 00_prerequisites"):
        notebooks.select(only="7")


def test_redo_removes_a_stage_and_all_that_follow(tmp_path):
    for place in store.FOLDERS.values():
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    notebooks.remove(tmp_path, "convert")
    left = {name for name, place in store.FOLDERS.items() if (tmp_path / place).exists()}
    assert left == {"data", "train", "generate-base"}
    with pytest.raises(UserError, match="no stage 'trian'"):
        notebooks.remove(tmp_path, "trian")
