"""The notebooks as committed."""

from __future__ import annotations

import ast
import base64
import io
import os
import re
import statistics
import subprocess
import symtable
import sys
from pathlib import Path
from xml.etree import ElementTree

import jupytext
import nbformat
import pytest
from PIL import Image

from cookbook import notebooks, show, storage
from tools import expected, pipeline, publish

BOOKS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
TITLES = {
    "00": ["Prerequisites"],
    "01": ["1. Preparing Data", "Preview of the Training Dataset"],
    "02": ["2. Post-training Cosmos Predict 2.5", "2.1 Training", "2.2 Configuration"],
    "03": [
        "3. Inference with Post-trained Predict 2.5",
        "3.1 Converting DCP Checkpoint to Consolidated PyTorch Format",
        "3.2 Running Inference",
    ],
    "04": ["4. Inference with Reason 2 for plausibility check and filtering"],
    "05": ["5. From video to robot actions"],
    "06": ["6. What is it worth to a robot?"],
    "07": ["7. Post-training the critic"],
}


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(params=BOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def book(path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_no_cell_redefines_what_an_earlier_function_reads(book, path):
    """A slider calls its function after all cells ran, exercises included."""
    tables = [symtable.symtable(cell.source, path.name, "exec") for cell in code(book)]
    for number, table in enumerate(tables):
        reads = {s.get_name() for part in table.get_children() for s in part.get_symbols() if s.is_global()}
        later = {s.get_name() for other in tables[number + 1 :] for s in other.get_symbols() if s.is_assigned()}
        assert not reads & later, table.get_lineno()


def test_every_notebook_exists():
    assert [path.stem[:2] for path in BOOKS] == list(TITLES)


def test_the_ipynb_equals_its_py_file(path, book):
    source = jupytext.read(path.with_suffix(".py"))
    assert [(c.cell_type, c.source) for c in book.cells] == [(c.cell_type, c.source) for c in source.cells]
    assert [c.metadata.get("tags", []) for c in book.cells] == [c.metadata.get("tags", []) for c in source.cells]


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


def test_cells_are_short_and_install_hide_and_change_nothing(book):
    lengths = [len(cell.source.splitlines()) for cell in code(book)]
    assert statistics.median(lengths) <= 10 and max(lengths) <= 40
    forbidden = r"^\s*[!%]|\b(sys\.exit|exit|quit)\(|\b(pip|chdir|global|putenv|subprocess)\b|os\.environ"
    assert [cell.source for cell in code(book) if re.search(forbidden, cell.source, re.M)] == []
    assert [cell for cell in code(book) if "raises-exception" in cell.metadata.get("tags", [])] == []


def test_outputs_are_small_and_complete(path, book):
    """That they name no folder of the machine is for test_packaging.py, which searches every file."""
    assert path.stat().st_size < 400_000
    assert book.metadata.kernelspec.name == "python3" and not {"widgets", "papermill"} & set(book.metadata)
    assert not [cell for cell in book.cells if "papermill" in cell.metadata]
    counts = [cell.execution_count for cell in code(book)]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))
    for output in (output for cell in code(book) for output in cell.outputs):
        assert output.output_type != "error"
        for kind, data in output.get("data", {}).items():
            assert "widget" not in kind
            if kind in ("image/png", "image/jpeg"):
                with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
                    assert picture.width <= 1280


def prose(book: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


def rows(text: str, head: str) -> list[str]:
    """The rows of the Markdown table with a head that begins with this text."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()
    return lines[2:]


def test_shape_of_the_lesson(path, book):
    text = prose(book)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    assert re.fullmatch(rf"{path.stem[:2]} · [\w-]+ .+", headings[0])
    assert set(TITLES[path.stem[:2]]) <= set(headings)
    for part in ("**Needed**", "**Helpful**", "**Reads**", "**Writes**", "**Next**", "<!-- measured -->", "## Recap"):
        assert part in text, part
    assert text.count("**What you should see:**") >= 4


def test_the_first_cell_has_promise_picture_and_objectives(book):
    top = book.cells[0].source.split("\n\n")
    assert f"(../assets/pictures/pipeline_{top[0][2:4]}.svg)" in top[1]
    assert top[2].startswith("**Promise.**") and top[2].count(".") <= 4
    assert publish.PICTURE.fullmatch(top[3]) and re.fullmatch(r"\*[^*]+\*", top[4]), "a picture, and what it shows"
    assert top[5].startswith("You will be able to") and 3 <= len(re.findall(r"^\* ", top[5], re.M)) <= 5


def test_the_drawn_pipeline_is_that_of_the_notebooks():
    drawn = {path: path.read_text() for path in pipeline.FOLDER.glob("*.svg")}
    assert drawn == pipeline.files(), "type python -m tools.pipeline"
    for path, picture in drawn.items():
        marked = ElementTree.fromstring(picture).itertext()
        assert ("you are here" in marked) == (path.stem != "pipeline"), path


def test_the_picture_at_the_top_is_what_the_notebook_shows(book):
    named = publish.PICTURE.search(book.cells[0].source)
    picture = notebooks.ROOT / named[1]
    assert 5_000 < picture.stat().st_size <= 80_000
    assert publish.picture_of(book) in (None, picture.read_bytes()), "type python -m tools.publish"
    with Image.open(picture) as opened:
        assert opened.format.lower() == named[2] and opened.width <= 1280


def test_each_result_is_announced(book):
    """A text announces each result; plan, doctor's check and exercises need none."""
    text, number = "", 0
    for cell in book.cells:
        if cell.cell_type == "markdown":
            text += cell.source
            continue
        number += 1
        follows, text = text, ""  # without text between two cells, the text before the first announces both
        if number > 2 and follows and "exercises.check_" not in cell.source:
            assert "**What you should see:**" in follows or "**What you should see** next" in follows, cell.source


def running(book: nbformat.NotebookNode) -> list[str]:
    """The paragraphs of a notebook without headings, pictures, tables, folds, and what `tools.publish` writes."""
    text = re.sub(r"<!-- (measured|figures.*?) -->.*?<!-- /\1 -->|<details>.*?</details>", "", prose(book), flags=re.S)
    return [part for part in re.split(r"\n\n|\n\* ", text) if not part.startswith(("#", "|", "!["))]


def test_texts_are_short(book):
    """At most 25 words before a result, half of them at most 20; 80 in a paragraph; 1,500 in a notebook."""
    lengths = {part: len(part.split()) for part in running(book)}
    announced = [count - 4 for part, count in lengths.items() if part.startswith("**What you should see:**")]
    assert max(announced) <= 25 and statistics.median(announced) <= 20
    assert [part for part, count in lengths.items() if count > 80] == []
    assert sum(lengths.values()) <= 1500


def test_dates_commits_and_long_commands_are_folded_away(book):
    """They interrupt the reader; a table or a fold has them."""
    found = r"\b20\d\d-\d\d-\d\d\b|\bcommit [0-9a-f]{7}\b|`[a-z]+ (?:[^`\s]+ ){3,}[^`]*`"
    assert [part for part in running(book) if re.search(found, part)] == []


def test_the_recap_answers_the_objectives_and_lists_mistakes(book):
    end = book.cells[-1].source
    assert end.startswith("## Recap")
    recap, objectives = (re.findall(r"^\* ", cell.source, re.M) for cell in (book.cells[-1], book.cells[0]))
    assert len(recap) >= len(objectives)
    mistakes = rows(end, "| Symptom | Cause | Fix |")
    assert len(mistakes) >= 3 and all(len([part for part in row.split("|") if part.strip()]) == 3 for row in mistakes)
    assert len(re.findall(r"\]\(https://", end[end.index("**Read more:**") : end.index("**Next:**")])) >= 2


def test_figures_are_those_of_the_published_run():
    """`python -m tools.publish` writes them; nobody types them. What the committed run shows lies within."""
    texts = {path: prose(nbformat.read(path, as_version=4)) for path in BOOKS}
    for part in expected.RANGES:
        block = f"<!-- figures: {part} -->\n{expected.block(part, publish.SHOWN)}\n<!-- /figures: {part} -->"
        assert sum(block in text for text in texts.values()) == 1, part
    shown = "".join(
        output.get("text", "") for path in BOOKS for cell in code(nbformat.read(path, 4)) for output in cell.outputs
    )
    for name, *edges in (row for row in storage.read_json(expected.FIGURES)[publish.SHOWN]["figures"]["held-out loss"]):
        value = float(re.search(rf"^{name} +([\d.]+)$", shown, re.M)[1])
        assert edges[1] <= value <= edges[2] and edges[0] == pytest.approx(value, abs=1e-4), name


def test_no_later_cell_needs_a_section_that_may_be_left_out():
    page = (notebooks.ROOT / "docs" / "workshop_kit.md").read_text()
    for row in rows(page, "| notebook | sections to leave out |"):
        number, out = (part.strip() for part in row.split("|")[1:3])
        (path,) = notebooks.NOTEBOOKS.glob(f"{number}_*.ipynb")
        book, headings, lost = nbformat.read(path, as_version=4), [], set()
        for cell in book.cells:
            if cell.cell_type == "markdown":
                headings += re.findall(r"^#+ (.*)$", cell.source, re.M)
                continue
            symbols = symtable.symtable(cell.source, path.name, "exec").get_symbols()
            defined = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
            if headings[-1] in out.split("; "):
                lost |= defined
                continue
            read = {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
            lost -= defined
            assert not read & lost, f"{path.stem}, {headings[-1]}"
        assert set(out.split("; ")) <= set(headings), path.stem


def test_each_video_has_a_still_picture(book):
    """Code hosts and paper show neither videos nor widgets, so the same cell or the next one shows a picture."""
    cells = code(book)
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if "show_video(" in cell.source or "show_prompts(" in cell.source or "browse(" in cell.source:
            stills = cell.source + (after.source if after else "")
            assert "show_sheet(" in stills or "show_picture(" in cell.source, cell.source


@pytest.mark.parametrize("values, control", [([0.5, 1.0], "SelectionSlider"), (["a", "b"], "Dropdown")])
def test_a_choice_is_a_slider_for_numbers_and_a_menu_for_words(values, control, monkeypatch):
    monkeypatch.delenv("HEADLESS", raising=False)
    calls = []
    monkeypatch.setattr("ipywidgets.interact", lambda draw, **controls: calls.append((draw, controls)))
    show.browse(print, what_now=values)
    ((draw, controls),) = calls
    assert draw is print and list(controls) == ["what_now"]
    assert type(controls["what_now"]).__name__ == control and controls["what_now"].options == tuple(values)
    assert controls["what_now"].value == values[0]
    show.browse(lambda what_now=values[1]: None, what_now=values)
    assert calls[1][1]["what_now"].value == values[1], "the argument's default"


@pytest.mark.slow
def test_plain_papermill_runs_each_notebook_from_another_folder(path, home, tmp_path):
    options = ["-p", "profile", "smoke", "--log-level=WARNING"]
    command = [sys.executable, "-m", "papermill", str(path), "out.ipynb", *options]
    environment = {name: value for name, value in os.environ.items() if name not in ("HEADLESS", "PYTHONPATH")}
    environment |= {"COOKBOOK_HOME": str(home), "JUPYTER_PREFER_ENV_PATH": "1"}
    how = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 280}
    try:
        done = subprocess.run(command, **how)
    except subprocess.TimeoutExpired:  # kernels that start at the same moment may take the same ports, and wait forever
        done = subprocess.run(command, **how)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [file.name for file in tmp_path.iterdir()] == ["out.ipynb"], "results belong in COOKBOOK_HOME"
    assert path.stem.startswith("00") or (home / "runs").is_dir()
    assert notebooks.unexecuted(code(nbformat.read(tmp_path / "out.ipynb", as_version=4))) == []
