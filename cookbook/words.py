"""Words of messages: a number with its noun, and the word that was meant by a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def count(number: int, noun: str) -> str:
    """`1 clip`, `2 clips`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one is near to, if it is near to any."""
    return next(iter(get_close_matches(word, list(known), 1, 0.5)), None)
