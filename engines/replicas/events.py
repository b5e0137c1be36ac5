"""The lines of an event stream, within a bound: a server may send what it likes, and only so much of it is kept."""

from __future__ import annotations

from ponder.compute.errors import EngineError


class Events:
    """Takes bytes as they come, gives the data of each event."""

    def __init__(self, who: str, *, line: int, whole: int) -> None:
        """Bytes of one line, and of all together, at most."""
        self._who, self._line, self._left = who, line, whole
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now. Raises `EngineError` for more than is allowed."""
        self._left -= len(data)
        if self._left < 0:
            raise EngineError(f"{self._who} sends more than an answer can have")
        if b"\n" not in data:
            self._rest += data
            self._bounded(self._rest)
            return []
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest
        for line in (*lines, rest):
            self._bounded(line)
        return [bytes(line[5:].strip()) for line in lines if line.startswith(b"data:")]

    def _bounded(self, line: bytearray) -> None:
        if len(line) > self._line:
            raise EngineError(f"{self._who} sends a line of more than {self._line} bytes")
