"""User errors: one sentence that says what is wrong, where, and what to type, printed without a traceback."""

import errno
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can fix. The message says what is wrong, where, and what to type."""


class StaleStage(UserError):
    """A stage folder that must be rebuilt before it can be used.

    Args:
        problem: what is wrong with the folder.
        rebuild: how to rebuild it. The command line replaces this by what was typed, with `--redo`.
    """

    def __init__(self, problem: str, rebuild: str):
        super().__init__(f"{problem}. To rebuild it, {rebuild}")
        self.problem = problem


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Around the main function of a program: a UserError prints its sentence and exits with status 2."""
    try:
        yield
    except UserError as error:
        print(f"cookbook: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def require_whole(least: int, **values: int | None) -> None:
    """Raise a UserError for a value, by its name, that is neither None nor a whole number from `least`."""
    for name, value in values.items():
        if value is not None and (type(value) is not int or value < least):
            raise UserError(f"{name} is {value!r}; it must be a whole number from {least}")


def last_line(error: Exception | str) -> str:
    """The last line of an error's message, at most 200 characters: long messages of PyTorch end with the reason."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]


def shortage(error: BaseException) -> str | None:
    """`disk` or `memory`, if an error means that none is left. Few libraries keep the number of the error."""
    number, text = getattr(error, "errno", None), str(error)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "No usable temporary directory" in text:
        return "disk"
    words = r"out of memory|allocate memory|failed to map segment|can't start new thread"
    none_left = isinstance(error, MemoryError) or number == errno.ENOMEM or re.search(words, text, re.I)
    return "memory" if none_left else None


def count(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to a misspelt word, or None if none is similar."""
    return next(iter(get_close_matches(word, list(candidates), 1, 0.5)), None)
