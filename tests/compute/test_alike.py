"""Runs of equal values are what a list of them would be."""

from __future__ import annotations

from ponder.compute.alike import Runs, alike, runs_of
from ponder.compute.text import Hidden


def test_runs_are_what_a_list_would_be() -> None:
    runs, values = Runs([1, 1, 2]), [1, 1, 2]
    for more in ([2, 3], alike(3, 4), Runs([1]), []):
        runs.extend(more)
        values.extend(more)
    assert list(runs) == values
    assert (len(runs), runs.count(3), runs[-1], runs[2:5]) == (len(values), values.count(3), values[-1], values[2:5])
    runs.cut(6)
    runs.add(9, 1)
    assert list(runs) == [*values[:6], 9]


def test_what_is_hidden_is_what_it_was_then() -> None:
    runs = alike(1, 3)
    hidden = runs.hidden()
    runs.add(1, 2)
    assert hidden.unseal() == (1, 1, 1)
    assert "1" not in repr(hidden)
    reopened = runs_of(hidden)
    assert reopened is not None
    reopened.add(4, 1)
    assert (list(reopened), hidden.unseal()) == ([1, 1, 1, 4], (1, 1, 1))
    assert runs_of(Hidden((1,))) is None
