"""The price book: what tokens cost, in USD for a million of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Self

from pydantic import Field, field_validator, model_validator

from ponder.compute.price import NANO, Price
from ponder.server.settings.table import Table

MOST = 1_000_000
"""USD for a million tokens: a dollar a token is a slip."""
MOST_COST = 1_000_000
"""USD for a request at most, where something bounds its cost."""


class PriceSettings(Table):
    """Prices of one model, in USD for a million tokens."""

    input: Decimal = Field(ge=0, le=MOST, description="Tokens of the prompt, once a request.")
    cached_input: Decimal | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="Those of them that the first chain found in the prefix cache; left out: as input.",
    )
    thinking: Decimal = Field(ge=0, le=MOST, description="Hidden tokens, those of chains that lost included.")
    answer: Decimal | None = Field(default=None, ge=0, le=MOST, description="Visible tokens; left out: as thinking.")
    verifier: Decimal | None = Field(
        default=None, ge=0, le=MOST, description="Tokens a reward model reads; left out: as input."
    )

    @field_validator("input", "cached_input", "thinking", "answer", "verifier")
    @classmethod
    def _whole(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and value * NANO != int(value * NANO):
            raise ValueError("a price has nine decimals at most")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.cached_input is not None and self.cached_input > self.input:
            raise ValueError("cached_input is above input: what was read before costs no more than what was not")
        return self

    def price(self, version: str) -> Price:
        """In nano-USD."""
        answer = self.thinking if self.answer is None else self.answer
        verifier = self.input if self.verifier is None else self.verifier
        cached = self.input if self.cached_input is None else self.cached_input
        each = (self.input, cached, self.thinking, answer, verifier)
        return Price(version, *(int(one * NANO) for one in each))


class PriceBook(Table):
    """What tokens cost. Each row of the ledger keeps the version and the prices it was billed by."""

    version: str = Field(
        default="",
        max_length=64,
        description="What this book is called in rows and reports; change it with the prices. Required with any price.",
    )
    default: PriceSettings | None = Field(default=None, description="For models without a table; left out: no price.")
    models: dict[str, PriceSettings] = Field(default_factory=dict, description="By the name a model is served by.")

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        if (self.default is not None or self.models) and not self.version:
            raise ValueError("prices want a version, such as 2026-01: rows of the ledger name it")
        return self

    @property
    def empty(self) -> bool:
        return self.default is None and not self.models

    def of(self, model: str) -> Price | None:
        """The price of a model; None where it has none."""
        found = self.models.get(model, self.default)
        return None if found is None else found.price(self.version)


DEMO = PriceBook(
    version="demo",
    models={
        "demo": PriceSettings(
            input=Decimal("0.10"),
            cached_input=Decimal("0.02"),
            thinking=Decimal("0.40"),
            answer=Decimal("0.40"),
            verifier=Decimal("0.05"),
        )
    },
)
"""Where no price is configured the bundled model has one, so that costs are seen at first start."""
