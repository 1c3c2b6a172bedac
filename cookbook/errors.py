"""The one exception a user ever sees: a sentence that names the file and the fix, printed without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can mend. The message names what is wrong, where, and what to do."""


class StaleStage(UserError):
    """A stage folder that cannot be used as it is; made anew it can.

    Args:
        problem: what is wrong with the folder.
        anew: how to make it anew from Python and from a terminal. A verb of the command line says instead what was
            typed, with `--redo`.
    """

    def __init__(self, problem: str, anew: str):
        super().__init__(f"{problem}. To make it anew: {anew}")
        self.problem = problem


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Around the main function of a program: a UserError ends it with its sentence and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"cookbook: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def last_line(error: Exception | str) -> str:
    """The last line of an error's message, at most 200 characters: long messages of PyTorch end with the reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


def count(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one is near to, if it is near to any."""
    return next(iter(get_close_matches(word, list(known), 1, 0.5)), None)
