"""How much the requests of an API key may take, all together and each."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field, field_validator

from ponder.compute.price import NANO
from ponder.server.settings.prices import MOST_COST
from ponder.server.settings.table import Table

MOST_TOKENS = 1 << 50
MOST_USD = 1_000_000_000


class KeyLimits(Table):
    """The limits of one API key; what is left out is not limited. They are part of the table of a key, and what the
    database keeps of a key's limits, as JSON without the fields that are left out."""

    max_thinking_budget: int | None = Field(default=None, ge=0, description="Highest thinking_budget of one request.")
    max_cost_usd: Decimal | None = Field(
        default=None, gt=0, le=MOST_COST, description="Highest cost of one request in USD, where its model has a price."
    )
    models: frozenset[str] | None = Field(default=None, description="Names of the models it may ask; left out: all.")
    strategies: frozenset[str] | None = Field(
        default=None, description="Names of the strategies it may ask for; left out: all."
    )
    max_inflight: int | None = Field(
        default=None,
        ge=1,
        le=1 << 16,
        description="Its requests at the same time, those that wait included, on all servers of one ledger.",
    )
    thinking_tokens_per_minute: int | None = Field(
        default=None, ge=0, le=MOST_TOKENS, description="Hidden tokens in a minute, by the clock (UTC)."
    )
    thinking_tokens_per_day: int | None = Field(
        default=None, ge=0, le=MOST_TOKENS, description="Hidden tokens in a day (UTC)."
    )
    thinking_tokens_per_month: int | None = Field(
        default=None, ge=0, le=MOST_TOKENS, description="Hidden tokens in a calendar month (UTC)."
    )
    usd_per_month: Decimal | None = Field(
        default=None,
        ge=0,
        le=MOST_USD,
        description="USD in a calendar month (UTC), by the prices configured: prompts, thoughts, answers, verifiers.",
    )

    @field_validator("usd_per_month")
    @classmethod
    def _whole(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and value * NANO != int(value * NANO):
            raise ValueError("an amount has nine decimals at most")
        return value

    @property
    def nano_usd_per_month(self) -> int | None:
        """The same in whole nano-USD."""
        return None if self.usd_per_month is None else int(self.usd_per_month * NANO)

    @property
    def sums(self) -> bool:
        """Some of them are of what all its requests take together."""
        tokens = (f"thinking_tokens_per_{span}" for span in ("minute", "day", "month"))
        return any(getattr(self, name) is not None for name in (*tokens, "usd_per_month", "max_inflight"))

    @property
    def limits(self) -> KeyLimits:
        """These alone, without what else a table of a key says."""
        return KeyLimits(**{name: getattr(self, name) for name in KeyLimits.model_fields})
