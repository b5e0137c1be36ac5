"""How models write calls of tools: a table of formats, and what reads, writes and holds calls in each of them."""

from __future__ import annotations

from ponder.engines.tools.detection import DEFAULT, detect, format_of, knows_tools
from ponder.engines.tools.form import MORE, NOT_A_CALL, Called, End, Form, Found, HeldTool, Piece, Reader, Types
from ponder.engines.tools.formats import FORMATS, Format
from ponder.engines.tools.turns import as_turns

__all__ = [
    "DEFAULT",
    "FORMATS",
    "MORE",
    "NOT_A_CALL",
    "Called",
    "End",
    "Form",
    "Format",
    "Found",
    "HeldTool",
    "Piece",
    "Reader",
    "Types",
    "as_turns",
    "detect",
    "format_of",
    "knows_tools",
    "openers_of",
    "texts_of",
]


def openers_of(name: str) -> tuple[str, ...]:
    """What begins a call for certain, wherever it stands: it ends a thought. Empty for "", and for formats whose calls
    look like any other text."""
    return FORMATS[name].form.openers(()) if name else ()


def texts_of(name: str) -> tuple[str, ...]:
    """The texts that calls are made of, their arguments left out: control tokens that are part of them are part of what
    is read of an answer."""
    if not name:
        return ()
    form = FORMATS[name].form
    return (form.write([("a", {"a": "a"})]), *form.openers(()), *form.closers, *form.tails)
