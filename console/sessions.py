"""Who is signed in: keys in memory alone, each behind an id that only the browser's cookie has."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ponder.console.api import Api

COOKIE = "ponder_console"


@dataclass(eq=False)
class Session:
    """One caller. `api` asks with the key that was typed, which nothing else has."""

    id: str
    api: Api
    named: str
    """What the pages call the key: its last four characters, or that there is none."""
    used: float = 0.0
    """When the browser last did something, by the monotonic clock."""
    dark: bool | None = None
    """What was chosen; None: as the browser's system has it."""
    kept: dict[str, Any] = field(default_factory=dict[str, Any])
    """What pages remember for as long as the session is there."""
    leave: dict[int, Callable[[], None]] = field(default_factory=dict[int, Callable[[], None]])
    """How to tell each open page that the session is over."""
    over: bool = False


class Full(Exception):
    """As many sessions as there may be, and each was used a moment ago."""


class Sessions:
    """All of them, at most `most`; one that nobody used for `idle` seconds ends. `clock` is for tests."""

    def __init__(self, most: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._idle, self._clock = most, idle, clock
        self._all: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._all)

    async def begin(self, api: Api, named: str) -> Session:
        """A new one under an id nobody can guess. Where there is no room, the one that was used longest ago ends; one
        used in the last minute does not. Raises `Full`."""
        await self.tidy()
        if len(self._all) >= self._most:
            oldest = min(self._all.values(), key=lambda one: one.used)
            if self._clock() - oldest.used < 60:
                raise Full(f"{self._most} sessions are open, and each was used in the last minute")
            await self.end(oldest)
        session = Session(secrets.token_urlsafe(32), api, named, self._clock())
        self._all[session.id] = session
        return session

    def of(self, id: str | None) -> Session | None:
        """The session of a cookie, unless it is over."""
        session = self._all.get(id or "")
        if session is None or self._clock() - session.used > self._idle:
            return None
        return session

    def touch(self, session: Session) -> None:
        """Its browser did something."""
        session.used = self._clock()

    async def end(self, session: Session) -> None:
        """Forgets its key, hangs up what it asks, and has its pages leave. Idempotent."""
        self._all.pop(session.id, None)
        session.over = True
        for leave in list(session.leave.values()):
            leave()
        session.leave.clear()
        session.kept.clear()
        await session.api.close()

    async def tidy(self) -> None:
        """Ends those that are idle."""
        now = self._clock()
        for session in [one for one in self._all.values() if now - one.used > self._idle]:
            await self.end(session)

    async def end_all(self) -> None:
        """When the console ends."""
        for session in list(self._all.values()):
            await self.end(session)
