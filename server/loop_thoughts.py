"""Thoughts of turns that ended in calls of tools, given back to the model together with the results of the calls.

Some models were trained to go on with their thought when the results come ("interleaved thinking"). A caller never sees
the thought and cannot send it back, so it is kept here, in memory, and found again by the ids of the calls. It belongs
to the key that asked and the model that thought it; calls that were altered bring nothing back. Each key has a share of
its own: what others ask for takes nothing away from it.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from ponder.compute.clock import now
from ponder.compute.text import Hidden, Message, ToolCall
from ponder.server.unseal import bytes_of

OVERHEAD = 512
"""Bytes of memory of an entry beside its thought."""
DENSE = 16
"""Bytes of thought for each token, more than any text has on average."""
SWEEPS = 16
"""How often in the time that a thought is kept for it is looked whose time is over."""


@dataclass(slots=True)
class _Kept:
    """The thought of one turn."""

    calls: bytes
    """What identifies its calls."""
    thought: Hidden[str]
    bytes: int
    until: float


class LoopThoughts:
    """What is kept of each key: of so many turns at most, for so many seconds since it was last asked for, in an equal
    share of so many bytes. What was not asked for the longest goes first."""

    def __init__(self, turns: int, size: int, seconds: float, keys: int, clock: Callable[[], float] = now) -> None:
        """`turns` and `seconds` are those of each key, 0 turns: nothing is kept; `size` is that of all `keys`, in
        bytes."""
        self._turns, self._size, self._seconds = turns, size, seconds
        self.expect(keys)
        self._clock = clock
        self._of: dict[str, OrderedDict[str, _Kept]] = {}
        self._bytes: dict[str, int] = {}
        self._sweep = 0.0

    def expect(self, keys: int) -> None:
        """There are so many keys from now on."""
        self._share = self._size // max(1, keys)

    def keep(self, key: str, model: str, calls: Sequence[ToolCall], thought: Hidden[str]) -> None:
        """A model has ended its turn with these calls, under ids that nobody else was given."""
        size = bytes_of(thought)
        if not size or not calls or not self._turns or size + OVERHEAD > self._share:
            return
        self._forget_the_old()
        kept = self._of.setdefault(key, OrderedDict())
        self._bytes[key] = self._bytes.get(key, 0) + size + OVERHEAD
        kept[calls[0].id] = _Kept(_identified(model, calls), thought, size + OVERHEAD, self._clock() + self._seconds)
        while len(kept) > self._turns or self._bytes[key] > self._share:
            self._drop(key)

    def given_back(
        self,
        key: str,
        model: str,
        messages: tuple[Message, ...],
        *,
        everywhere: bool = False,
        context: int = sys.maxsize,
    ) -> tuple[Message, ...]:
        """The messages with the thoughts of their turns: of those since the last question, or `everywhere`. Each
        thought is given back once, however often a caller has written its turn; a turn that has one already (its caller
        has handed it back) keeps that. The same object where there are none, and where they are so long that a context
        of so many tokens cannot hold them: to render them would be in vain."""
        kept = self._of.get(key)
        if not kept:
            return messages
        found = dict(self._found(kept, model, messages, 0 if everywhere else asked_at(messages)))
        if not found or sum(one.bytes - OVERHEAD for one in found.values()) > DENSE * context:
            return messages
        return tuple(replace(one, thought=found[n].thought) if n in found else one for n, one in enumerate(messages))

    def _found(
        self, kept: OrderedDict[str, _Kept], model: str, messages: Sequence[Message], first: int
    ) -> Iterator[tuple[int, _Kept]]:
        moment = self._clock()
        seen: set[str] = set()
        for n in range(first, len(messages)):
            calls = messages[n].tool_calls
            one = kept.get(calls[0].id) if calls else None
            if one is None or calls[0].id in seen or messages[n].thought is not None:
                continue
            seen.add(calls[0].id)
            if one.until > moment and one.calls == _identified(model, calls):
                one.until = moment + self._seconds
                kept.move_to_end(calls[0].id)
                yield n, one

    def _drop(self, key: str) -> None:
        """Forgets what the key has asked for the longest time ago."""
        _, one = self._of[key].popitem(last=False)
        self._bytes[key] -= one.bytes

    def _forget_the_old(self) -> None:
        """Of all keys; now and then."""
        moment = self._clock()
        if moment < self._sweep:
            return
        self._sweep = moment + self._seconds / SWEEPS
        for key, kept in list(self._of.items()):
            while kept and next(iter(kept.values())).until <= moment:
                self._drop(key)
            if not kept:
                del self._of[key], self._bytes[key]


def asked_at(messages: Sequence[Message]) -> int:
    """Where the turns behind the last question begin. A question is what a user says. Only what is said together with
    the results of calls is none: clients put reminders there, and the loop goes on."""
    asked = said = 0
    results = False
    for n, one in enumerate(messages, 1):
        if one.role == "user":
            said = n
        elif one.role == "tool":
            results = True
        elif one.role == "assistant":
            asked = said = asked if results else said
            results = False
    return asked if results else said


def _identified(model: str, calls: Sequence[ToolCall]) -> bytes:
    """Equal for the same calls of the same model, however their arguments are spaced and ordered."""
    told = [model, *([call.id, call.name, _plain(call.arguments)] for call in calls)]
    return blake2b(json.dumps(told).encode(), digest_size=32).digest()


def _plain(arguments: str) -> str:
    """JSON text in one form; what is none as it is."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
