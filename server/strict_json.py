"""Strict JSON: bytes to values, refused where this language's parser would let something through.

NaN, numbers without end, nesting without end, lone surrogates and double keys take servers down. Nothing of the body
is quoted in an error.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NoReturn, cast

from ponder.compute.errors import RequestError

DIGITS = 24
"""Digits of the longest number taken."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Each bracket as a step down or up; as signed bytes 1 and -1."""
_PLAIN = re.compile(r"[A-Za-z0-9_]{1,64}")
_OTHERS = bytes(b for b in range(256) if b not in b"[]{}")


def loads(raw: bytes, depth: int, values: int = 1 << 30) -> Any:
    """JSON to values, at most so many of them: UTF-8, finite numbers of at most 24 digits, no key twice, brackets at
    most `depth` deep.

    Raises `RequestError`.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not UTF-8 (byte {error.start})", code="invalid_utf8") from None
    if _deeper(raw, depth):
        raise RequestError(f"the body nests deeper than {depth} brackets", code="too_deep")
    if _begun(raw) > values and _begun(outside(raw)) > values:
        raise RequestError(
            f"the body has more than {values} values (texts, numbers, lists and objects, all counted)", code="too_many"
        )
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RequestError(
            f"the body is not JSON (line {error.lineno}, column {error.colno})", code="invalid_json"
        ) from None
    if "\\u" in text and half_characters(value):
        place = _halved(value) or ""
        raise RequestError(
            f"{place or 'the body'} holds half of a surrogate pair (\\ud800 to \\udfff)",
            param=place or None,
            code="invalid_unicode",
        )
    return value


def loads_object(raw: bytes, depth: int, values: int) -> dict[str, Any]:
    """The same of a body that must be an object. Raises `RequestError`."""
    value = loads(raw, depth, values)
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object", code="invalid_type")
    return cast("dict[str, Any]", value)


def deeper(text: str, depth: int) -> bool:
    """The brackets of a JSON text go deeper than `depth`; those inside of strings do not count."""
    return _deeper(text.encode("utf-8", "replace"), depth)


def _deeper(raw: bytes, depth: int) -> bool:
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    steps = array("b", outside(raw).translate(_STEPS, _OTHERS))
    return max(accumulate(steps), default=0) > depth


def _begun(raw: bytes) -> int:
    """Values of a JSON text without strings, about: the first of each list and object, and one behind each comma."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def outside(raw: bytes) -> bytes:
    """A JSON text without its strings. What comes behind the first thing that is no JSON may be anything."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(raw.split(b'"')[::2])


def half_characters(value: Any) -> bool:
    """A string in the value has half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _halved(value: Any, place: str = "") -> str | None:
    """The path of the first string that has half of a surrogate pair, as far as it can be said: a key that is no plain
    word is not repeated."""
    if isinstance(value, str):
        return place if half_characters(value) else None
    pairs: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        if any(map(half_characters, given)):
            return place
        pairs = given.items()
    elif isinstance(value, list):
        pairs = ((str(number), one) for number, one in enumerate(cast("list[Any]", value)))
    for name, one in pairs:
        if half_characters(one):
            return _halved(one, f"{place}.{name}".lstrip(".")) if _PLAIN.fullmatch(name) else place
    return None


def _constant(_: str) -> NoReturn:
    raise RequestError("the body holds NaN or Infinity, which are not JSON", code="invalid_json")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise RequestError(f"the body holds a number of more than {DIGITS} digits", code="number_too_large")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RequestError("the body holds a number that is too large", code="number_too_large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RequestError("the body names a key twice in one object", code="duplicate_key")
    return made


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_int=_whole, parse_float=_real, object_pairs_hook=_object)
