"""The fields of our own, which every dialect takes beside its own: a model to inherit from, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, TypedDict

from pydantic import Field

from ponder.server.cost import nano
from ponder.server.dialects.wire import Name, SomeTokens, Wire, WishedTokens
from ponder.server.request import AUTO, Asked
from ponder.server.settings.prices import MOST_COST


class Choice(Wire):
    """A strategy or verifier by name, with parameters beside it that its own schema checks."""

    free_keys: ClassVar[bool] = True

    name: Name


class OwnFields(Wire):
    """Inherited by the request of a dialect that has them at its top level."""

    thinking_budget: WishedTokens | Literal["auto"] | None = Field(
        default=None, description="Hidden tokens at most; 0 is off, -1 or auto leaves it to the server"
    )
    thinking_budget_scope: Literal["request", "loop"] | None = Field(
        default=None,
        description="loop: the budget is for all requests of a tool loop together, as long as their sealed thoughts "
        "are sent back; request unless said",
    )
    strategy: str | Choice | None = Field(default=None, description="How the budget is spent; see /v1/strategies")
    verifier: str | Choice | None = Field(default=None, description="Who judges candidates")
    max_answer_tokens: SomeTokens | None = Field(default=None, description="Visible tokens at most")
    max_cost_usd: Annotated[float, Field(gt=0, le=MOST_COST, allow_inf_nan=False)] | None = Field(
        default=None, description="USD that all of it costs at most: prompt, thoughts, answer and verifier"
    )
    on_overflow: Literal["clamp", "error"] | None = Field(
        default=None, description="What happens to a budget above the ceiling; clamp unless said"
    )
    include_reasoning: bool | None = Field(default=None, description="Show the thought; keys with scope reveal only")
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="Seconds until the best so far is the answer"
    )

    @property
    def tokens(self) -> int | None:
        """What `thinking_budget` says, as a `ThinkingWish` has it."""
        return AUTO if self.thinking_budget == "auto" else self.thinking_budget

    @property
    def exact(self) -> bool:
        """A budget above the ceiling is refused."""
        return self.on_overflow == "error"

    @property
    def loop(self) -> bool:
        """The budget is for a whole tool loop."""
        return self.thinking_budget_scope == "loop"


NAMES: Mapping[str, str] = {
    "answer_tokens": "max_answer_tokens",
    "max_cost": "max_cost_usd",
    "show_thought": "include_reasoning",
}
"""What these fields are called in a dialect, where that is not what our request calls them."""


class Wishes(TypedDict):
    """Fields of a `Request`."""

    strategy: Asked | None
    verifier: Asked | None
    answer_tokens: int | None
    max_cost: int | None
    timeout: float | None
    show_thought: bool


def wishes(fields: OwnFields) -> Wishes:
    """All but the thinking, which has other spellings beside it, as fields of a `Request`."""
    return {
        "strategy": asked(fields.strategy),
        "verifier": asked(fields.verifier),
        "answer_tokens": fields.max_answer_tokens,
        "max_cost": None if fields.max_cost_usd is None else nano(Decimal(repr(fields.max_cost_usd))),
        "timeout": fields.timeout,
        "show_thought": bool(fields.include_reasoning),
    }


def asked(wish: str | Choice | None) -> Asked | None:
    """A strategy or verifier, whichever way it was named."""
    if wish is None or isinstance(wish, str):
        return None if wish is None else Asked(wish)
    return Asked(wish.name, wish.model_extra or {})
