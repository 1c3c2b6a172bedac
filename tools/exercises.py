"""`python -m tools.exercises`: write the unsolved exercises of notebooks/solutions/NN.py into notebooks/NN_name.py.

The section from the heading Exercises to the recap is replaced. Then continue as after any edit of a notebook.
"""

from __future__ import annotations

import re

from cookbook.notebooks import NOTEBOOKS

HEADING, RECAP = "# %% [markdown]\n# ## Exercises\n", "# %% [markdown]\n# ## Recap\n"
SOLUTION = re.compile(r"^( *)# BEGIN SOLUTION\n.*?# END SOLUTION\n", re.S | re.M)


def unsolved(source: str) -> str:
    """The section of exercises of a file with solutions, each solution replaced by `...`."""
    return SOLUTION.sub(r"\1...  # your code\n", source[source.index(HEADING) :].rstrip() + "\n")


def with_exercises(text: str, section: str) -> str:
    """A notebook's .py text with that section before its recap."""
    before = text[: text.index(HEADING if HEADING in text else RECAP)]
    return f"{before}{section}\n{text[text.index(RECAP) :]}"


if __name__ == "__main__":
    for solutions in sorted((NOTEBOOKS / "solutions").glob("*.py")):
        path = next(NOTEBOOKS.glob(f"{solutions.stem}_*.py"))
        path.write_text(with_exercises(path.read_text(), unsolved(solutions.read_text())))
