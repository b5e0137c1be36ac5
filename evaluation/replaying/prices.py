"""What a replay goes by to say what answers would cost: prices as they were typed, or the price book of a
configuration."""

from __future__ import annotations

import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

from ponder.compute.price import NANO, Price

KINDS = ("input", "cached_input", "thinking", "answer", "verifier")
"""As `[prices.default]` of a configuration calls them."""


def typed(text: str) -> Price:
    """`input=0.10,thinking=0.40,answer=0.40,verifier=0.05`, in USD for a million tokens; `output` is the same price for
    thoughts and answers. What is left out is taken from another as in a configuration. Raises `ValueError`."""
    told: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in (*KINDS, "output"):
            raise ValueError(f"{part!r} is no price; write NAME=USD, with a NAME of {', '.join(KINDS)}, output")
        told |= {"thinking": value, "answer": value} if name == "output" else {name: value}
    return _price("typed", told)


def of_a_configuration(file: Path, model: str | None) -> Price:
    """The price of a model in the table `prices` of a configuration; with None that of all models without one. Raises
    `ValueError` where there is none, and `OSError`."""
    try:
        book: Any = tomllib.loads(file.read_text()).get("prices", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    models: dict[str, Any] = book.get("models", {})
    found = models.get(model, book.get("default")) if model else book.get("default")
    if not isinstance(found, dict):
        known = ", ".join(models) or "none"
        raise ValueError(f"{file} has no [prices.default] and no prices of {model or 'a model'}; there are: {known}")
    return _price(str(book.get("version", file.name)), cast("dict[str, Any]", found))


def _price(version: str, told: dict[str, Any]) -> Price:
    try:
        usd = {name: Decimal(str(value)) for name, value in told.items() if name in KINDS}
    except InvalidOperation:
        raise ValueError(f"prices are numbers, USD for a million tokens: {told}") from None
    if "input" not in usd or "thinking" not in usd:
        raise ValueError("prices want input and thinking (or output), USD for a million tokens")
    if any(not 0 <= one < 1_000_000 for one in usd.values()):
        raise ValueError(f"prices are USD for a million tokens, from 0: {told}")
    each = (
        usd["input"],
        usd.get("cached_input", usd["input"]),
        usd["thinking"],
        usd.get("answer", usd["thinking"]),
        usd.get("verifier", usd["input"]),
    )
    return Price(version, *(int(one * NANO) for one in each))
