"""What is held against one another: strategies, each at budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ponder.evaluation.asking.connecting import CannotDo, wish

Wish = Mapping[str, Any]
"""A strategy or a verifier with its parameters, as a request has it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One line of the comparison."""

    strategy: Wish
    budget: int | Literal["auto"] | None
    """Hidden tokens at most; None: the model's default."""
    called: str
    """The strategy as it was typed."""

    @property
    def name(self) -> str:
        return f"{self.called} @ {'default' if self.budget is None else self.budget}"

    @property
    def fields(self) -> dict[str, Any]:
        return {"strategy": self.strategy, "thinking_budget": self.budget}


def plans(strategies: Sequence[str], budgets: Sequence[str] | None) -> Iterator[Plan]:
    """Each strategy at each budget."""
    named = [one for text in budgets or () for one in text.split(",") if one]
    numbers: list[int | Literal["auto"] | None] = [*map(_budget, named)] or [None]
    for text in strategies:
        told = wish(text, "--strategies")
        for budget in numbers:
            yield Plan(told, budget, text)
    for what, all_ in (("--strategies", strategies), ("--budgets", named)):
        if len(set(all_)) < len(all_):
            raise CannotDo(f"{what}: one stands there twice")


def _budget(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise CannotDo(f'--budgets {text}: a number of tokens, or "auto"')
    return int(text)
