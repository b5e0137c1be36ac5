"""The seeds of a request's calls: each follows from the caller's seed and from the place of the call in the tree."""

from __future__ import annotations

from hashlib import blake2b


class Seeds:
    """A seed for each chain of a request and for each of its calls to the engine; None where the caller gave none."""

    __slots__ = ("_calls", "_of", "_root", "_siblings")

    def __init__(self, root: int | None) -> None:
        self._root = root
        """The caller's."""
        self._of: dict[int, int] = {}
        self._calls: dict[int, int] = {}
        self._siblings: dict[int | str, int] = {}

    def add(self, number: int, parent: int | None, aside: str | None) -> None:
        """Gives chain `number` a seed. It follows from the caller's seed (which the first chain has itself), from the
        chain `parent` that it continues, and from how many continued that one before; not from what else runs at the
        time. `aside`: the purpose of a question of our own, which is counted apart from answers to the caller."""
        if self._root is None:
            return
        place = aside if aside is not None else -1 if parent is None else parent
        at = self._siblings.get(place, 0)
        self._siblings[place] = at + 1
        seed = self._root if parent is None else self._of[parent]
        if at or place != -1:
            seed = _derived(f"{seed}:{place if aside is not None else parent is not None}:{at}")
        self._of[number] = seed

    def next(self, number: int) -> int | None:
        """The seed of the next call to the engine for a chain: its own, then others that follow from it."""
        if self._root is None:
            return None
        seed, calls = self._of[number], self._calls.get(number, 0)
        self._calls[number] = calls + 1
        return _derived(f"{seed}:on:{calls}") if calls else seed


def _derived(text: str) -> int:
    """A seed, below 2^63, that follows from a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
