"""Numbers as pages show them: each with its unit, and digits that fit its size."""

from __future__ import annotations

import math

__all__ = ["NONE", "bytes_", "counted", "percent", "rate", "seconds", "tokens", "usd", "whole"]

NONE = "–"
"""What stands where there is no number."""


def whole(value: float | None) -> str:
    """`12 345`, with thin spaces between thousands."""
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u2009")


def tokens(value: float | None) -> str:
    """`1 234 tokens`, `1 token`."""
    return NONE if value is None else f"{whole(value)} token{'' if value == 1 else 's'}"


def counted(value: float | None, word: str) -> str:
    """`1 request`, `2 requests`."""
    return NONE if value is None else f"{whole(value)} {word}{'' if value == 1 else 's'}"


def usd(value: float | str | None) -> str:
    """Three digits that count, and no exponent: `0.000131 USD`, `12.40 USD`."""
    if value is None:
        return NONE
    number = float(value)
    if number == 0:
        return "0 USD"
    if abs(number) >= 1:
        return f"{number:,.2f}".replace(",", "\u2009") + " USD"
    digits = min(12, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}".rstrip("0").rstrip(".") + " USD"


def seconds(value: float | None) -> str:
    """`84 ms`, `1.26 s`, `3 min 20 s`, `2 h 5 min`."""
    if value is None:
        return NONE
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.3g} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def percent(share: float | None) -> str:
    """A share of one, as `42.5 %`."""
    return NONE if share is None else f"{share * 100:.3g} %"


def rate(value: float | None, unit: str = "tokens") -> str:
    """`35.2 tokens/s`."""
    return NONE if value is None else f"{_three(value)} {unit}/s"


def _three(value: float) -> str:
    """Three digits that count, and no exponent above one."""
    return whole(value) if abs(value) >= 100 else f"{value:.3g}"


def bytes_(value: float | None) -> str:
    """`512 B`, `1.5 MiB`."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} GiB"
