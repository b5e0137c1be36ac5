"""Messages between the two sandboxes: JSON behind its length in 8 bytes, bounded in size and number."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

# A test takes as long as two interpreters take to start. `json`, `collections` and `typing` import `re`, which would be
# most of that time. What is needed of them is written in C, and imported directly.
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

MESSAGE = 32 * 2**20
"""Bytes of one message."""
TOTAL = 128 * 2**20
"""Bytes that a program may send to a test."""
MESSAGES = 1_000_000
"""Messages that a program may send to a test."""


class _Json:
    """The settings of the JSON scanner: those of `json.loads`."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_int, parse_float, parse_constant = int, float, float
    memo: dict[str, str] = {}  # noqa: RUF012


_from_json = make_scanner(_Json)  # pyright: ignore[reportArgumentType]
_json_of = make_encoder(None, repr, encode_basestring_ascii, None, ":", ",", False, False, True)


class Broken(BaseException):
    """The other side is gone, or has sent what is no message. The connection cannot be used any more."""


class Frames:
    """This side's end of the pipes. On the side of the test (`strict`), what a program sends is bounded in bytes and in
    messages."""

    strict = False

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self.reading, self.writing = reading, writing
        self.broken = False
        self.read, self.messages = 0, 0

    def write(self, message: list[Any]) -> None:
        """Sends a message. Raises `Broken` when the other side is gone."""
        data = "".join(_json_of(message, 0)).encode()
        try:
            self.writing.write(len(data).to_bytes(8, "little") + data)
            self.writing.flush()
        except (OSError, ValueError):
            raise self.fail() from None

    def next_frame(self) -> list[Any]:
        """The next message. Raises `EOFError` at the end, `ValueError` where it is too long or no JSON."""
        size = int.from_bytes(self.exactly(8), "little")
        self.read, self.messages = self.read + size, self.messages + 1
        if size > MESSAGE or (self.strict and (self.read > TOTAL or self.messages > MESSAGES)):
            raise ValueError("too much")
        message, _ = _from_json(self.exactly(size).decode(), 0)
        return message

    def exactly(self, size: int) -> bytes:
        data = self.reading.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def believe(self, reading: Callable[[], Any]) -> Any:
        """The result of `reading` a message. Whatever that raises, the message was malformed: the connection breaks."""
        try:
            return reading()
        except Exception:  # noqa: BLE001 - whatever a made-up message leads to
            raise self.fail() from None

    def fail(self) -> Broken:
        self.broken = True
        return Broken()
