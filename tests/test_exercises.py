"""The exercises: each notebook has those of its solutions file, they run unsolved, and the solutions are right."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import jupytext
import pytest

from cookbook import exercises, notebooks
from tools.exercises import unsolved, with_exercises

CHECKS = [name for name in vars(exercises) if name.startswith("check_")]
SOURCES = sorted((notebooks.NOTEBOOKS / "solutions").glob("*.py"))


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request) -> str:
    return request.param.read_text()


def cells(text: str) -> list[str]:
    return [cell.source for cell in jupytext.reads(text, "py:percent").cells if cell.cell_type == "code"]


def test_every_notebook_has_exercises():
    books = sorted(path.stem[:2] for path in notebooks.NOTEBOOKS.glob("*.ipynb"))
    assert [path.stem for path in SOURCES] == books
    called = {name for path in SOURCES for name in re.findall(r"exercises\.(check_\w+)\(", path.read_text())}
    assert called == set(CHECKS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_the_exercises_of_its_solutions(path):
    text = next(notebooks.NOTEBOOKS.glob(f"{path.stem}_*.py")).read_text()
    assert with_exercises(text, unsolved(path.read_text())) == text, "type python -m tools.exercises"


def test_there_are_two_to_four_graded_exercises(source):
    heads = re.findall(r"\*\*Exercise (\d\d)\.(\d) (★{1,3}) [^*]+\*\*", source)
    assert [int(number) for _, number, _ in heads] == list(range(1, len(heads) + 1))
    assert 2 <= len(heads) <= 4 and len(cells(source)) == len(heads)
    assert heads[0][2] == "★"


def test_an_unsolved_exercise_has_no_solution_runs_and_gives_a_hint(source, capsys):
    text = unsolved(source)
    answers = re.findall(r"# BEGIN SOLUTION\n(.*?) *# END SOLUTION", source, re.S)
    assert len(answers) == len(cells(source)) and "SOLUTION" not in text
    assert not [answer for answer in answers if answer.strip() in text]
    for cell in cells(text):
        exec(cell, {})
        assert re.fullmatch(r"exercise \d\d\.\d: not solved yet\. Hint: .+\n", capsys.readouterr().out)


def test_a_solution_is_right(source, capsys):
    for cell in cells(source):
        exec(cell, {})
        assert re.fullmatch(r"exercise \d\d\.\d: right\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", CHECKS)
def test_wrong_answers_get_a_hint_and_no_traceback(name, capsys):
    def fails(*_):
        raise KeyError("oops")

    check = getattr(exercises, name)
    for answer in (fails, lambda *_: -1, lambda *_: "?", lambda *_: [1, 2], lambda: 3):
        assert check(answer) is False
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and "not yet" in out and "Hint: " in out


def test_almost_right_answers_are_refused(capsys):
    assert not exercises.check_01_2(lambda frames, fps, own: int(frames * own / fps))
    assert not exercises.check_03_1(lambda text, negative, g: negative + g * (text - negative))
    assert not exercises.check_03_2(lambda v, x, s: [x := x + (b - a) * v(x, a) for a, b in pairwise(s)][-1])
    assert not exercises.check_03_3(lambda a, b: {n for n in a if n not in b or not bool((a[n] == b[n]).all())})
    assert not exercises.check_04_2(lambda v, i, t: sum(x >= t for x in v) / sum(x >= t for x in [*v, *i]))
    assert not exercises.check_07_2(lambda counts: math.log(sum(count > 0 for count in counts)))
    assert not exercises.check_07_3(lambda rows, new: "use it" if rows[-1]["gain_interval"][0] > 0 else "measure more")
    assert not exercises.check_01_3(lambda file, prompt: f"{file},{prompt}")
