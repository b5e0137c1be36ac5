"""What an answer can mean: its readings, and what reads them.

A reading is a core (a number, a list, an interval, a word, ...) and what it is dressed in: a unit, a name, a base. Two
answers are the same where a reading of one has the core of a reading of the other and nothing that both are dressed in
differs. So `12 cm` is `12`, `12` is `12 m`, and `12 cm` is not `12 m`; `50%` is `50` or `0.5`, which are not the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from fractions import Fraction

from ponder.compute.answers.brackets import without_commas

DEEPEST = 4
"""Lists in lists."""

Dress = tuple[tuple[str, Hashable], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing an answer can mean."""

    core: Hashable
    dress: Dress = ()

    def dressed(self, name: str, as_: Hashable) -> Reading:
        """The same, dressed in one thing more."""
        return replace(self, dress=(*self.dress, (name, as_)))


Readings = tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads a text in one way after the other, until one knows it."""

    ways: tuple[Way, ...]
    otherwise: Callable[[str], Hashable]
    """The core of what none of them knows."""
    depth: int = 0

    def readings(self, text: str) -> Readings:
        """The readings of a text, the most literal first; at least one."""
        for way in self.ways if self.depth <= DEEPEST else ():
            if found := way(text, self):
                return found
        return (Reading(self.otherwise(text)),)

    def inside(self, text: str) -> Readings:
        """Those of something in a list, in brackets, behind a name."""
        return replace(self, depth=self.depth + 1).readings(text)

    def item(self, text: str) -> Reading:
        """The most literal of those."""
        return self.inside(bare(text))[0]

    def core(self, text: str) -> Hashable:
        """What that is compared by as a part of something."""
        one = self.item(text)
        return (one.core, one.dress) if one.dress else one.core


Way = Callable[[str, Reader], Readings]
"""Reads a text in one way; nothing where it is none of that kind."""


class Algebra(Exception):
    """It is an expression that only computer algebra may know."""


_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore)[,:]?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct)\s+)?answer\s*"
    r"(?:is|:|=|would be)\s*|"
    r"(?:(?:最终|最后|正确)?答案\s*(?:是|为|[:：])|答\s*[:：])\s*|=\s*(?=\S)",
    re.IGNORECASE,
)
_ABOUT = re.compile(
    r"(?:(?:is|it's)\s+)?(?:≈|≃|∼|~|(?:about|approximately|approx\.?|around|roughly|circa|exactly|precisely|just|"
    r"environ|etwa|ungefähr|aproximadamente)(?=\s)|大约|约|大概)\s*",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """Without words that say that an answer follows, or that it is not exact."""
    for lead in (_LEAD, _ABOUT):
        if (found := lead.match(text)) and found.end() < len(text):
            text = text[found.end() :]
    return without_commas(text.strip())


def exact(core: Hashable) -> Fraction | None:
    return core[1] if isinstance(core, tuple) and core[0] == "number" else None  # type: ignore[return-value]


def numeric(core: Hashable) -> float | None:
    """The value of a core that is a real number."""
    if isinstance(core, tuple) and core[0] in ("number", "real"):
        return float(core[1])  # type: ignore[arg-type]
    return None


def constant(core: Hashable) -> bool:
    return isinstance(core, tuple) and core[0] in ("number", "real", "complex")
