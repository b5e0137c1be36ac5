"""How servers and the replicas of a deployment hear of each other: once a second each server tells all replicas what
waits for them, and each replica says where it listens.

So Serve's own list of replicas says who there is: one that is started is met as soon as Serve counts it, and one that
Serve takes out is met no more. Nothing else is kept anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from ponder.engines.replicas.connection import Access

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two meetings."""
ANSWER_SECONDS = 5.0
"""For all replicas to answer."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a server tells."""

    door: str
    """Which server: another name for each life of one."""
    waiting: int = 0
    """Calls that wait there for a place at any replica."""
    seconds: float = 0.0
    """What a call takes lately, a mean; 0 before one has ended."""


@dataclass(frozen=True, slots=True)
class Where:
    """What a replica answers."""

    url: str
    key: str = field(repr=False)
    """Wanted by its server, of everybody who calls it."""


Meet = Callable[[Told], Awaitable[Sequence[object]]]
"""Tells all replicas, and returns what each has answered: `Where`, or what went wrong. Raises where there is none."""


class Meeting:
    """Who belongs to a deployment; fulfils `ponder.engines.replicas.membership.Membership`."""

    def __init__(self, name: str, meet: Meet, told: Callable[[], Told]) -> None:
        """Of the model `name`. `told` is asked before each meeting."""
        self.interval = SECONDS
        self._name, self._meet, self._told = name, meet, told
        self._keys: dict[str, str] = {}
        self._fault = ""

    async def read(self) -> Sequence[str] | None:
        """Addresses; None where Serve says that there is none, or none has answered: that must not empty a pool."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = await self._meet(self._told())
        except Exception as error:  # noqa: BLE001 (Serve and Ray raise a dozen kinds)
            self._broken(type(error).__name__)
            return None
        found = [one for one in answers if isinstance(one, Where)]
        if not found:
            self._broken("none has answered")
            return None
        self._fault = ""
        self._keys = {one.url: one.key for one in found}
        return [one.url for one in found]

    def access(self, url: str) -> Access:
        """How one that was met last is reached."""
        key = self._keys.get(url)
        return Access(key=None if key is None else SecretStr(key))

    def _broken(self, fault: str) -> None:
        if fault != self._fault and self._keys:
            log.info("model %s: its replicas stay as they were: %s", self._name, fault)
        self._fault = fault
