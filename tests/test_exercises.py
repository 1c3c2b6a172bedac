"""The exercises: each notebook has those of its solutions file, they run unsolved, and the solutions are right."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import jupytext
import numpy as np
import pytest

from cookbook import exercises, notebooks
from cookbook.actions.episodes import Episode
from tools.exercises import HEADING, unsolved, with_exercises

CHECKS = [name for name in vars(exercises) if name.startswith("check_")]
NAMES = ("r_elbow", "l_elbow", "hl_thumb", "torso")
TARGETS = np.cumsum([[0, 0, 0, 0], [1, 2, 3, 4], [2, 0, 1, 1], [1, 1, 5, 2], [3, 1, 0, 2]], axis=0)
ROW = {"targets": TARGETS.tolist(), "fps": 2.0, "jerk": 35.440090}
EPISODE = Episode(Path("a.mp4"), "Pick up the pear.", TARGETS, TARGETS, facts={"kept": True, "success": True})
MEASURED = {name: {"rate": [rate, 0, 1]} for name, rate in (("demonstrations", 0.1), ("+ kept", 0.4), ("+ real", 0.7))}
ATTEMPTS = [{"scene": {"seed": [scene, 0]}, "success": success} for scene in (1, 2) for success in (True, scene == 2)]
RUN = {"rows": [ROW], "outcome": [], "episodes": [EPISODE], "spec": type("Spec", (), {"joint_names": NAMES})}
PHOTOS = [Namespace(image=Path(__file__), prompt=f"Use the {hand} hand.") for hand in ("left", "right")]
RUN |= {"measured": MEASURED, "more": ATTEMPTS, "photos": PHOTOS}
OWN = {"check_05_1": ([ROW],), "check_05_2": ([ROW], NAMES), "check_05_3": ([EPISODE],)}  # of the reader's run
OWN |= {"check_01_3": (PHOTOS,), "check_06_1": (MEASURED,), "check_06_2": (ATTEMPTS,)}
SOURCES = sorted((notebooks.NOTEBOOKS / "solutions").glob("*.py"))


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def source(request) -> str:
    return request.param.read_text()


def cells(text: str) -> list[str]:
    section = text[text.index(HEADING) :]
    return [cell.source for cell in jupytext.reads(section, "py:percent").cells if cell.cell_type == "code"]


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


def test_an_unsolved_exercise_has_no_solution_runs_and_gets_no_hint_yet(source, capsys):
    text = unsolved(source)
    answers = re.findall(r"# BEGIN SOLUTION\n(.*?) *# END SOLUTION", source, re.S)
    assert len(answers) == len(cells(source)) and "SOLUTION" not in text
    assert not [answer for answer in answers if answer.strip() in text]
    for cell in cells(text):
        exec(cell, dict(RUN))
        assert re.fullmatch(r"exercise \d\d\.\d: not solved yet\n", capsys.readouterr().out)


def test_a_solution_is_right(source, capsys):
    for cell in cells(source):
        exec(cell, dict(RUN))
        assert re.fullmatch(r"exercise \d\d\.\d: right\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", CHECKS)
def test_wrong_answers_get_a_hint_and_no_traceback(name, capsys):
    def fails(*_):
        raise KeyError("oops")

    check = getattr(exercises, name)
    for answer in (fails, lambda *_: -1, lambda *_: "?", lambda *_: [1, 2], lambda: 3):
        assert check(answer, *OWN.get(name, ())) is False
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and "not yet" in out and "Hint: " in out


def test_almost_right_answers_are_refused(capsys):
    assert not exercises.check_01_2(lambda frames, fps, own: int(frames * own / fps))
    assert not exercises.check_01_3(lambda prompts: set(prompts[0].split()) ^ set(prompts[1].split()), PHOTOS)
    assert not exercises.check_03_1(lambda text, negative, g: negative + g * (text - negative))
    assert not exercises.check_03_2(lambda v, x, s: [x := x + (b - a) * v(x, a) for a, b in pairwise(s)][-1])
    assert not exercises.check_03_3(lambda a, b: {n for n in a if n not in b or not bool((a[n] == b[n]).all())})
    assert not exercises.check_04_2(lambda v, i, t: sum(x >= t for x in v) / sum(x >= t for x in [*v, *i]))
    assert not exercises.check_05_2(lambda row, names, part: np.zeros_like(row["targets"]), [ROW], NAMES)
    assert not exercises.check_05_3(
        lambda episodes: [n for n, e in enumerate(episodes) if e.facts.get("kept")], [EPISODE]
    )
    assert not exercises.check_07_2(lambda counts: math.log(sum(count > 0 for count in counts)))
    assert not exercises.check_07_3(lambda rows, new: "use it" if rows[-1]["gain_interval"][0] > 0 else "measure more")
