"""What other packages add by entry points, loaded one way, so that one that is broken is named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ponder.compute.errors import PonderError


class BrokenPlugin(PonderError):
    """What another package adds cannot be used; the message names it and says why."""


@cache
def points(group: str) -> Sequence[EntryPoint]:
    """What installed packages add to a group, by name; they are read once, and the more there are the longer it
    takes."""
    return sorted(_points().select(group=group), key=lambda point: point.name)


@cache
def _points() -> Any:
    return entry_points()


def named(kind: str, point: EntryPoint) -> str:
    """A plug-in in words, such as "the dialect plain of the package my-dialects"."""
    return f"the {kind} {point.name} of the package {point.dist.name if point.dist else point.value}"


def loaded(kind: str, point: EntryPoint) -> Any:
    """The object an entry point names. Raises `BrokenPlugin`, whatever went wrong."""
    try:
        return point.load()
    except Exception as error:  # importing it runs anybody's code
        raise broken(kind, point, error) from error


def broken(kind: str, point: EntryPoint, error: Exception) -> BrokenPlugin:
    """The error of a plug-in whose own code has failed."""
    return BrokenPlugin(
        f"{named(kind, point)} cannot be used: {type(error).__name__}: {error}. Mend it, or uninstall the package"
    )
