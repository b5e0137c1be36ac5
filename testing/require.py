"""What all checks of promises are made of: a demand that says what was found instead, and a promise in words."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


def require(kept: bool, otherwise: str) -> None:
    """Raises `AssertionError(otherwise)` where something is not kept, also under `python -O`."""
    if not kept:
        raise AssertionError(otherwise)


def at_most(what: str, found: int, limit: int) -> None:
    """Raises `AssertionError` where there are more of something than allowed."""
    require(found <= limit, f"{found} {what}, where {limit} are allowed")


def equal(what: str, found: int, wanted: int, why: str = "") -> None:
    require(found == wanted, f"{found} {what}, not {wanted}" + (f" ({why})" if why else ""))


@contextmanager
def promised(who: str, words: str | None) -> Generator[None]:
    """What is found broken inside is raised as a broken promise of `who`, with the promise in `words`."""
    try:
        yield
    except AssertionError as broken:
        promise = (words or "").strip().rstrip(".")
        raise AssertionError(f"{who} breaks a promise ({promise}): {broken}") from broken.__cause__
