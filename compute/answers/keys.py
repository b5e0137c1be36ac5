"""What an answer is compared by, and whether two are the same.

All of this reads what models wrote, on the event loop: every function takes time linear in its text, and an answer that
is longer than `LONGEST` is compared as it is written.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, cast

from ponder.compute.answers.reading import Reading
from ponder.compute.answers.readings import LONGEST, Read, read

ENOUGH = 6
"""Significant digits from which a decimal may stand for a number that has no end."""
CLOSE = 1e-6
"""How far from it, as a part of it, it may be at most."""

Kind = Literal["number", "letter", "math", "words", "exact"]
_KINDS: dict[str, Kind] = {
    "number": "number",
    "choice": "letter",
    "word": "words",
    "text": "exact",
    "document": "exact",
    "date": "words",
    "nothing": "words",
}


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer is compared by."""

    text: str
    readings: tuple[Reading, ...]
    significant: int = 0
    """Significant digits of a decimal; 0 of what is none."""
    algebra: bool = False
    """Only computer algebra can say what it is the same as."""

    @property
    def kind(self) -> Kind:
        """What kind of answer it is, roughly."""
        core = cast("tuple[str, tuple[Hashable, ...]]", self.readings[0].core)
        if core[0] in ("list", "set", "named") and not all(map(_mathematical, core[1])):
            return "words"
        return _KINDS.get(core[0], "math")

    @property
    def value(self) -> Fraction | float | None:
        """Of a real number without a dress that changes it."""
        core = cast("tuple[str, str]", self.readings[0].core)
        if core[0] == "number":
            return cast("Fraction", core[1])
        return float(core[1]) if core[0] == "real" else None


def _mathematical(item: Hashable) -> bool:
    """It is no word, and nothing that has one in it."""
    item = cast("tuple[Hashable, ...]", item) if isinstance(item, tuple) else ()
    return not item or (item[:1] not in (("word",), ("text",)) and all(map(_mathematical, item)))


def key(answer: str) -> Key:
    """What an answer is compared by."""
    answer = answer.strip()
    return _key(answer) if len(answer) <= LONGEST else _of(answer)


def _of(answer: str) -> Key:
    try:
        found = read(answer)
    except Exception:  # noqa: BLE001 (whatever a model wrote, a vote goes on: it is compared as it is written)
        found = Read(answer, (Reading(("text", answer)),))
    return Key(found.text, found.readings, found.significant, found.algebra)


@lru_cache(maxsize=4096)
def _key(answer: str) -> Key:
    return _of(answer)


def same(a: str, b: str) -> bool | None:
    """Whether two answers are the same; None where it takes computer algebra to tell."""
    return True if a == b else equal(key(a), key(b))


def equal(x: Key, y: Key) -> bool | None:
    """The same of what two answers are compared by."""
    if x.readings == y.readings or any(compatible(a, b) for a in x.readings for b in y.readings) or rounds(x, y):
        return True
    mathematical = {x.kind, y.kind} <= {"number", "math"}
    return None if (x.algebra or y.algebra) and mathematical else False


def compatible(a: Reading, b: Reading) -> bool:
    """They have the same core, and nothing that both are dressed in differs."""
    if a.core != b.core:
        return False
    others = dict(b.dress)
    return all(others.get(name, worn) == worn for name, worn in a.dress)


def rounds(x: Key, y: Key) -> bool:
    """One is a decimal that stands for the other: to its last digit, and to a millionth."""
    return _stands_for(x, y) or _stands_for(y, x)


def _stands_for(x: Key, y: Key) -> bool:
    if x.significant < ENOUGH or y.significant:
        return False
    short, whole = x.value, y.value
    if short is None or whole is None or (isinstance(whole, Fraction) and whole.denominator == 1):
        return False
    return abs(float(short) - float(whole)) <= min(
        CLOSE * max(1.0, abs(float(whole))), 10.0 ** (math.floor(math.log10(abs(short) or 1)) + 1 - x.significant)
    )


def number(answer: str) -> float | None:
    """The value of an answer that is a number (a fraction, a number with a unit); None for any other."""
    found = key(answer)
    if found.kind != "number" or found.value is None:
        return None
    try:
        return float(found.value)
    except OverflowError:
        return math.inf if found.value > 0 else -math.inf


def digest(text: str) -> bytes:
    """The hash under which something about a text is remembered, so that the text itself need not be kept."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def told(core: Hashable) -> str:
    """A core in words, the same for equal ones: what decides where nothing else does."""
    return repr(core)
