"""What the command lines of this folder have alike: a number that is checked, a library that is missing."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import contextmanager

EXTRA = ("matplotlib", "numpy", "tqdm")
"""What the extra `evaluation` brings beside the server's."""


def positive(text: str) -> int:
    """For argparse: a whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return number


@contextmanager
def the_extra() -> Generator[None]:
    """Around imports of what wants the extra: where a library of it is missing, the process ends with words that say
    how to get it, and status 1."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in EXTRA:
            raise
        raise SystemExit(
            f"ponder: {missing.name} is missing: pip install 'ponder-server[evaluation]' brings it"
        ) from None
