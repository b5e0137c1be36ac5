"""The price book: whole nano-USD, by version, and what cannot be meant."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.price import Price
from ponder.compute.usage import Usage
from ponder.server.settings import PriceBook, Settings

COUNT = st.integers(0, 10**7)
PRICE = st.integers(0, 10**12)


@given(st.builds(Price, st.just("v"), PRICE, PRICE, PRICE, PRICE, PRICE), *[COUNT] * 5)
def test_a_cost_is_what_exact_arithmetic_says(
    price: Price, fresh: int, cached: int, hidden: int, visible: int, verifier: int
) -> None:
    usage = Usage(prompt=fresh + cached, hidden=hidden, visible=visible, verifier=verifier, prompt_cached=cached)
    exact = Decimal(
        fresh * price.prompt
        + cached * price.cached
        + hidden * price.thinking
        + visible * price.answer
        + verifier * price.verifier
    ) / Decimal(10**6)
    assert abs(price.cost(usage) - exact) <= Decimal("0.5")
    assert price.cost(usage + Usage(hidden=1, visible=1)) >= price.cost(usage)


def test_prices_are_read_as_they_are_written() -> None:
    book: dict[str, Any] = {
        "version": "2026-01",
        "default": {"input": 0.1, "thinking": 0.0375},
        "models": {"demo": {"input": 1, "cached_input": 0.5, "thinking": 2, "answer": 3, "verifier": 4}},
    }
    prices = PriceBook.model_validate(book)
    assert prices.of("other") == Price("2026-01", 10**8, 10**8, 37_500_000, 37_500_000, 10**8)
    assert prices.of("demo") == Price("2026-01", 10**9, 5 * 10**8, 2 * 10**9, 3 * 10**9, 4 * 10**9)


def test_the_bundled_model_has_a_price_where_none_is_configured() -> None:
    price = Settings().price_of("demo")
    assert price is not None
    assert price.version == "demo"
    assert Settings().price_of("mine") is None
    free: dict[str, Any] = {"version": "1", "models": {"demo": {"input": 0, "thinking": 0}}}
    found = Settings(prices=PriceBook.model_validate(free)).price_of("demo")
    assert found == Price("1", 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"default": {"input": 1, "thinking": 1}}, "prices want a version"),
        ({"version": "1", "default": {"input": -1, "thinking": 1}}, "greater than or equal to 0"),
        ({"version": "1", "default": {"input": 1}}, "Field required"),
        ({"version": "1", "default": {"input": 1, "cached_input": 2, "thinking": 1}}, "cached_input is above input"),
        ({"version": "1", "default": {"input": 1, "thinking": "0.0000000001"}}, "nine decimals"),
        ({"version": "1", "default": {"input": 1, "thinking": 1, "answers": 1}}, "Extra inputs"),
        ({"version": "1", "models": {"dmeo": {"input": 1, "thinking": 1}}}, "did you mean demo"),
    ],
)
def test_prices_that_cannot_be_meant_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Settings(prices=wrong)  # pyright: ignore[reportArgumentType]
