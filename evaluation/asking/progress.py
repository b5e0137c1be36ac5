"""How far a run is, on a terminal's last line, with the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ponder.clients.client import AskError


class Progress:
    """A bar on standard error over `whole` requests, of which `done` were done before."""

    def __init__(self, whole: int, done: int) -> None:
        self.done, self._waits, self._errors = done, 0, 0
        self._told: set[str] = set()
        often = 0.2 if sys.stderr.isatty() else 10.0
        self._bar: Any = tqdm(total=whole, initial=done, file=sys.stderr, unit="request", mininterval=often)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, error: str | None = None) -> None:
        """One more is over; `error` is told, each kind once."""
        self.done += 1
        if error is not None:
            self._errors += 1
            self._tell(f"error: {error}")
        self._bar.update()

    def waits(self, error: AskError, seconds: float) -> None:
        """A request is to be sent again; why is told once."""
        self._waits += 1
        self._tell(f"asked again (in {seconds:.1f} s, this time): {error}")

    def show(self, **figures: str) -> None:
        """Behind the bar: these, and what did not go well."""
        more = {"errors": self._errors, "waits": self._waits}
        counts = {name: str(count) for name, count in more.items() if count}
        self._bar.set_postfix(figures | counts, refresh=False)

    def say(self, words: str) -> None:
        """A line above the bar."""
        self._bar.write(words, file=sys.stderr)

    def _tell(self, words: str) -> None:
        kind = words.partition(":")[2]
        if kind not in self._told:
            self._told.add(kind)
            self.say(words)
