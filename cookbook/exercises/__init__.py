"""Exercises of the notebooks: `check_NN_k(answer)` says whether exercise k of notebook NN is solved, or gives a hint.

Texts and solutions stand together in notebooks/solutions/NN.py; `python -m cookbook.exercises` writes the unsolved
cells into the notebooks.
"""

from cookbook.exercises.checks import (
    check_00_1,
    check_00_2,
    check_00_3,
    check_01_1,
    check_01_2,
    check_01_3,
    check_02_1,
    check_02_2,
    check_02_3,
    check_03_1,
    check_03_2,
    check_03_3,
    check_04_1,
    check_04_2,
    check_04_3,
    check_05_1,
    check_05_2,
    check_05_3,
)

__all__ = [
    "check_00_1",
    "check_00_2",
    "check_00_3",
    "check_01_1",
    "check_01_2",
    "check_01_3",
    "check_02_1",
    "check_02_2",
    "check_02_3",
    "check_03_1",
    "check_03_2",
    "check_03_3",
    "check_04_1",
    "check_04_2",
    "check_04_3",
    "check_05_1",
    "check_05_2",
    "check_05_3",
]
