"""`python -m tools.exercises`: write the unsolved exercises of notebooks/solutions/NN.py into the notebooks.

The section from the heading Exercises to the recap is replaced in the .py file, and the .ipynb is updated. Only the
cells of exercises are executed for that; all others keep their outputs.
"""

from __future__ import annotations

import re
import sys

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from cookbook.notebooks import NOTEBOOKS, ROOT

HEADING, RECAP = "# %% [markdown]\n# ## Exercises\n", "# %% [markdown]\n# ## Recap\n"
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n.*?# END SOLUTION\n", re.S | re.M)


def unsolved(source: str) -> str:
    """The section of exercises of a file with solutions, each solution replaced by `...`."""
    return SOLUTION.sub(r"\1...  # your code\n", source[source.index(HEADING) :].rstrip() + "\n")


def with_exercises(text: str, section: str) -> str:
    """A notebook's .py text with that section before its recap."""
    before = text[: text.index(HEADING if HEADING in text else RECAP)]
    return f"{before}{section}\n{text[text.index(RECAP) :]}"


def updated(old: NotebookNode, text: str) -> NotebookNode:
    """The notebook with the cells of its new .py text: unchanged cells keep their outputs, exercises are executed."""
    new = jupytext.reads(text, "py:percent")
    earlier = {(cell.cell_type, cell.source): cell for cell in old.cells}
    new.cells = [earlier.get((cell.cell_type, cell.source), cell) for cell in new.cells]
    new.metadata = old.metadata
    first = next(index for index, cell in enumerate(new.cells) if cell.source.startswith("## Exercises"))
    attempts = [cell for cell in new.cells[first:] if cell.cell_type == "code"]
    alone = nbformat.v4.new_notebook(cells=attempts, metadata={"kernelspec": old.metadata["kernelspec"]})
    NotebookClient(alone, resources={"metadata": {"path": str(ROOT)}}).execute()
    code = [cell for cell in new.cells if cell.cell_type == "code"]
    executed = all(cell.execution_count for cell in code)
    for number, cell in enumerate(code, 1):
        cell.metadata.pop("execution", None)
        if executed:
            cell.execution_count = number
        elif cell in attempts:  # the notebook was not executed yet
            cell.execution_count, cell.outputs = None, []
    return new


def write(number: str) -> bool:
    """Bring one notebook's exercises up to date; whether it changed."""
    path = next(NOTEBOOKS.glob(f"{number}_*.py"))
    text = path.read_text()
    new = with_exercises(text, unsolved((NOTEBOOKS / "solutions" / f"{number}.py").read_text()))
    if new == text:
        return False
    book = updated(nbformat.read(path.with_suffix(".ipynb"), as_version=4), new)
    path.write_text(new)
    nbformat.write(book, path.with_suffix(".ipynb"))
    return True


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in (NOTEBOOKS / "solutions").glob("*.py")):
        print(f"{name}: {'written' if write(name) else 'up to date'}")
