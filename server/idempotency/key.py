"""The header `Idempotency-Key` of a request, and what makes two requests the same.

draft-ietf-httpapi-idempotency-key-header has a string of structured fields there (RFC 9651: in quotes); most clients
leave the quotes out, and mean the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from ponder.compute.errors import RequestError

NAME = "Idempotency-Key"
LONGEST = 255
"""Characters of a key."""
BARE = re.compile(r"[!#-+\--\[\]-~]+")
"""Without quotes: visible ASCII characters, no comma, which two headers in one line have between them, and no quote or
backslash."""
QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""RFC 9651, 3.3.3."""


def key_of(values: Sequence[str]) -> str | None:
    """The key that a request has, from all values of its header; None where it has none. Raises `RequestError`."""
    if not values:
        return None
    if len(values) > 1:
        raise _wrong("is there twice: a request has one")
    value = values[0].strip(" \t")
    quoted = QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if not key.strip():
        raise _wrong("is empty")
    if len(key) > LONGEST:
        raise _wrong(f"has {len(key)} characters: {LONGEST} at most")
    if not quoted and not BARE.fullmatch(value):
        raise _wrong("holds visible ASCII characters, without commas, backslashes and single quotes at one end")
    return key


def _wrong(what: str) -> RequestError:
    return RequestError(f"the header {NAME} {what}", param=NAME, code="invalid_idempotency_key")


def row_id(owner: str, key: str) -> str:
    """What stands for a caller's key in the table: callers do not meet in one. No secret is in it, so that servers
    whose secrets differ still see each other's."""
    return hashlib.sha256(b"\0".join((b"ponder idempotency", owner.encode(), key.encode()))).hexdigest()


def canonical(path: str, beside: str, raw: bytes) -> bytes:
    """Equal for requests that say the same there, beside their bodies, and in them: JSON, however it is spaced and
    ordered and its numbers are written."""
    try:
        body = json.dumps(json.loads(raw, parse_float=_number), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        body = raw
    return b"\n".join((path.encode(), *((beside.encode(),) if beside else ()), body))


def _number(digits: str) -> float | int:
    """1.0 is 1."""
    number = float(digits)
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
