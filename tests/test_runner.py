"""`cookbook run` reports every failure that papermill alone lets pass."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from cookbook import cli, notebooks, runs, storage
from cookbook.errors import UserError


def write_notebook(path: Path, *cells: nbformat.NotebookNode) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells), metadata=metadata), path)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that writes a notebook with parameters and these cells, the only one that the runner then finds."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "books")

    def write(*cells: str | nbformat.NotebookNode) -> Path:
        parameters = nbformat.v4.new_code_cell(
            'profile: str = "nano"  # profile\nrun: str = ""  # folder\ncount: int = 1  # how many\n'
            "skip: bool = True  # whether\nshare: float = 0.0  # how much\nname: str = 'a'  # who",
            metadata={"tags": ["parameters"]},
        )
        nodes = [nbformat.v4.new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        (tmp_path / "books").mkdir(exist_ok=True)
        write_notebook(tmp_path / "books" / "00_try.ipynb", parameters, *nodes)
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


def test_widgets_leave_no_trace_headless_and_the_check_of_the_machine_runs_on_any(written, machine):
    machine(gpus=[])
    draw = "from cookbook import show\nshow.browse(lambda level: print('chosen', level), level=[0.5, 1.0])"
    run = written(draw)
    notebooks.run_all("2b", run=run)
    executed = (run / "notebooks" / "00_try.ipynb").read_text()
    assert '"widgets"' not in executed and "widget-view" not in executed
    assert "chosen" not in executed.split(draw[-20:])[-1]


def test_a_failed_cell_stops_the_run_and_its_copy_is_kept(written):
    run = written("raise ValueError('two:\\n  first\\n  second')", "print('never')")
    message = r"00_try.ipynb: cell 3 failed with ValueError: two:\n  first\n  second \(the executed copy"
    with pytest.raises(UserError, match=message):
        notebooks.run_all("smoke", run=run)
    assert "ValueError" in (run / "notebooks" / "00_try.ipynb").read_text()


def test_links_of_a_copy_lead_to_the_checkout(written, tmp_path):
    run = written(nbformat.v4.new_markdown_cell("![a](../assets/pictures/a.png) and [next](01_next.ipynb)"), "1 + 1")
    notebooks.run_all("smoke", run=run)
    (text,) = (c.source for c in nbformat.read(run / "notebooks/00_try.ipynb", 4).cells if c.cell_type == "markdown")
    target = re.search(r"\((.+/assets/pictures/a.png)\)", text)[1]
    assert (run / "notebooks" / target).resolve() == notebooks.ROOT / "assets/pictures/a.png"
    assert "[next](01_next.ipynb)" in text
    assert "(../assets" in (notebooks.NOTEBOOKS / "00_try.ipynb").read_text()


@pytest.mark.parametrize("tags, cell", [(["skip-execution"], "1 + 1"), ([], "import sys\nsys.exit(0)")])
def test_a_cell_that_did_not_run_is_a_failure(written, tags, cell):
    run = written(nbformat.v4.new_code_cell(cell, metadata={"tags": tags}), "print('never')")
    with pytest.raises(UserError, match="did not run|failed with SystemExit"):
        notebooks.run_all("smoke", run=run)


@pytest.mark.parametrize(
    "pair, words",
    [
        (("cuont", "3"), "no notebook parameter 'cuont'; there are count, name, profile, run, share, skip"),
        (("count", "two"), "-p count two: Input should be a valid integer"),
        (("count", "2.5"), "-p count 2.5: Input should be a valid integer"),
        (("count", "-3"), "-p count -3: Input should be greater than or equal to 0"),
        (("share", "nan"), "-p share nan: Input should be a finite number"),
        (("share", "inf"), "-p share inf: Input should be a finite number"),
        (("share", "-1"), "-p share -1: Input should be greater than or equal to 0"),
        (("skip", "maybe"), "-p skip maybe: Input should be a valid boolean"),
    ],
)
def test_a_parameter_that_is_unknown_or_of_another_type_is_refused_before_the_run(written, pair, words):
    run = written("print('never')")
    with pytest.raises(UserError, match=words):
        notebooks.run_all("smoke", run=run, parameters=(("name", "x"), pair))
    assert not run.exists()


def test_parameters_are_read_as_their_type_and_folders_from_where_the_command_was_typed(written, tmp_path, monkeypatch):
    written(
        "from pathlib import Path\nassert (skip, share, name, profile) == (False, 2.0, '123', 'smoke')",
        "(Path(run) / 'found.txt').write_text(str(Path('clips').resolve()))",
    )
    monkeypatch.chdir(tmp_path)
    given = (("skip", "false"), ("share", "2"), ("name", "123"), ("run", "mine"), ("profile", "smoke"))
    notebooks.run_all(parameters=given)
    assert (tmp_path / "mine" / "found.txt").read_text() == str(tmp_path / "clips")
    assert (tmp_path / "mine" / "notebooks" / "00_try.ipynb").exists(), "-p run is --run"


def test_missing_requirements_are_reported_before_the_run(machine, tmp_path, capsys):
    machine(memory_gb=25.1, gpus=[])
    assert cli.main(["run", "--profile", "2b", "--run", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert "needs 1 GPU of 80 GB" in printed.out and "[1/" not in printed.out and not (tmp_path / "run").exists()
    first, *reasons = printed.err.splitlines()
    assert first == "cookbook: this machine does not meet the requirements of profile 2b:"
    assert [line.split(" (")[0] for line in reasons] == ["  memory", "  NVIDIA GPU"]


def test_notebooks_are_chosen_by_number_or_name():
    numbers = [path.stem[:2] for path in notebooks.select()]
    assert numbers == ["00", "01", "02", "03", "04", "05"], "the others only on request"
    assert [path.stem[:2] for path in notebooks.select(only="07")] == ["07"]
    assert [path.stem for path in notebooks.select(only="02_post_training")] == ["02_post_training"]
    with pytest.raises(UserError, match="no notebook '7'; there are 00_prerequisites"):
        notebooks.select(only="7")


def test_redo_removes_a_stage_and_all_that_depend_on_it(tmp_path):
    for place in runs.FOLDERS.values():
        storage.write_json(tmp_path / place / "result.json", place)
    notebooks.remove(tmp_path, "convert")
    left = {name for name, place in runs.FOLDERS.items() if (tmp_path / place / "result.json").exists()}
    assert left == {"prepare", "train", "generate-base"}
    assert (tmp_path / "export" / storage.EARLIER / "result.json").exists(), "kept until the new ones are finished"
    with pytest.raises(UserError, match="no stage 'trian'"):
        notebooks.remove(tmp_path, "trian")
