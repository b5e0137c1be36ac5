"""Whether a chain goes in circles, found at this end: a server that anybody started does not look for it in time.

vLLM can, but at every token, in a loop over hundreds of patterns for each chain. Here the last tokens are looked for in
those before: only where they stand again, a pattern can have so many tokens. What counts and where is looked is as with
`ponder.engines.scheduling`, so that a chain ends at the same token.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

from ponder.engines.vllm_calls import REPETITION

EVERY = 16
"""Tokens between two looks."""
SEED = 8
"""Tokens at the end that must have stood before."""
LEAST, MOST, COUNT = (REPETITION[name] for name in ("min_pattern_size", "max_pattern_size", "min_count"))


class Circles:
    """The last tokens of one thought or answer."""

    def __init__(self, begun: Sequence[int]) -> None:
        self._length = len(begun)
        self._tail = deque(begun[-MOST * COUNT :], maxlen=MOST * COUNT)

    def closed_at(self, ids: Sequence[int]) -> int | None:
        """Of these new tokens, how many there are when a circle is closed; None where none is."""
        for n, token in enumerate(ids, 1):
            self._tail.append(token)
            self._length += 1
            if self._length % EVERY == 0 and circles(self._tail):
                return n
        return None


def circles(tail: Sequence[int]) -> bool:
    """These tokens end in one that is `COUNT` times the same `LEAST` to `MOST` of them."""
    if len(tail) < LEAST * COUNT:
        return False
    ids = array("I", tail)
    near = ids[-MOST - SEED :].tobytes()
    size, seed = ids.itemsize, near[-SEED * ids.itemsize :]
    at = near.find(seed)
    while 0 <= at < len(near) - len(seed):
        period = (len(near) - len(seed) - at) // size
        if at % size == 0 and period >= LEAST and period * COUNT <= len(ids):
            circle = period * (COUNT - 1)
            if ids[-circle:] == ids[-circle - period : -period]:
                return True
        at = near.find(seed, at + 1)
    return False
