"""Values of which many equal ones come in a row, kept as runs: what an engine that replays chains knows of tokens.

A chain of a hundred thousand tokens of two kinds is two runs. Written out it would be copied several times on its way
from the engine to a candidate, where hardly anybody looks at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, repeat
from typing import Any, TypeVar, cast, overload

from ponder.compute.text import Hidden

T = TypeVar("T")


class Runs(Sequence[T]):
    """A sequence that can be added to at its end."""

    __slots__ = ("_runs", "_size")

    def __init__(self, values: Iterable[T] = ()) -> None:
        self._runs: list[tuple[T, int]] = []
        self._size = 0
        self.extend(values)

    def add(self, value: T, times: int) -> None:
        """Adds one value, so many times, at least once."""
        self._size += times
        if self._runs and self._runs[-1][0] == value:
            times += self._runs.pop()[1]
        self._runs.append((value, times))

    def extend(self, values: Iterable[T]) -> None:
        """Adds values."""
        for value, times in values._runs if isinstance(values, Runs) else _counted(values):
            self.add(value, times)

    def cut(self, size: int) -> None:
        """Leaves the first `size`."""
        while self._size > size:
            value, times = self._runs.pop()
            self._size -= times
            if self._size < size:
                self.add(value, size - self._size)

    def hidden(self) -> Hidden[tuple[T, ...]]:
        """As they stand; written out when somebody looks."""
        return _Later(tuple(self._runs))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        return _written(self._runs)

    def count(self, value: Any) -> int:
        """How often a value is there."""
        return sum(times for one, times in self._runs if one == value)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return list(self)[index]


class _Later(Hidden[tuple[T, ...]]):
    """A hidden value that is made when it is looked at."""

    __slots__ = ("_made", "runs")

    def __init__(self, runs: tuple[tuple[T, int], ...]) -> None:
        self.runs = runs
        self._made = False

    def unseal(self) -> tuple[T, ...]:
        """The value itself; for engines and verifiers."""
        if not self._made:
            self._value, self._made = tuple(_written(self.runs)), True
        return self._value


def runs_of(values: Hidden[tuple[T, ...]]) -> Runs[T] | None:
    """The runs of what was hidden as such, without writing it out; None for any other."""
    if not isinstance(values, _Later):
        return None
    found = Runs[T]()
    for value, times in cast("_Later[T]", values).runs:
        found.add(value, times)
    return found


def alike(value: T, times: int) -> Runs[T]:
    """One value, so many times, at least once."""
    found = Runs[T]()
    found.add(value, times)
    return found


def _counted(values: Iterable[T]) -> Iterator[tuple[T, int]]:
    return ((value, len(list(group))) for value, group in groupby(values))


def _written(runs: Iterable[tuple[T, int]]) -> Iterator[T]:
    return chain.from_iterable(repeat(value, times) for value, times in runs)
