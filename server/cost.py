"""What a request may cost at most, as limits in tokens: `max_cost_usd`, under the ceilings of its model and key."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from ponder.compute.budget import Budget
from ponder.compute.cost import CostLimit, payable
from ponder.compute.errors import RequestError
from ponder.compute.price import NANO, TOKENS, Price
from ponder.server.auth.keys import Key
from ponder.server.coarse import Coarse
from ponder.server.request import Request
from ponder.server.settings import ModelSettings


def nano(usd: Decimal) -> int:
    """Whole nano-USD; what is less than one is left out."""
    return int((usd * NANO).to_integral_value(ROUND_FLOOR))


@dataclass(frozen=True, slots=True)
class MaxCost:
    """The most that a request may cost. Amounts are tokens times prices, as in `CostLimit`."""

    nano_usd: int
    own: bool
    """The request says so itself; else the operator does."""
    price: Price
    answers: int
    longest: int
    """Visible tokens of an answer at most, as far as money does not matter."""

    def each(self, prompt: int) -> int:
        """The amount for each answer, when a prompt of so many tokens is paid at its full price; negative where it is
        not. A bill is rounded once, half a nano-USD up, so a little less than that half is left over."""
        whole = self.nano_usd * TOKENS + (TOKENS - 1) // 2
        return (whole - prompt * self._prompt) // self.answers

    def kept(self, prompt: int) -> int:
        """Visible tokens that each answer has money kept back for: a quarter of it at most, and one at least."""
        return min(self.longest, max(1, payable(self.each(prompt) // 4, self.price.answer)))

    def thinking(self, prompt: int) -> int:
        """Hidden tokens of all answers together that it pays for, behind prompt and answers."""
        left = self.each(prompt) - self.kept(prompt) * self.price.answer
        return self.answers * max(0, payable(left, self.price.thinking))

    def check(self, prompt: int) -> None:
        """Raises `RequestError` where it does not pay for the prompt and a token of each answer."""
        if self.each(prompt) >= self.price.answer:
            return
        least = (prompt * self._prompt + self.answers * self.price.answer + TOKENS // 2) // TOKENS
        whose = "max_cost_usd" if self.own else "the highest cost of a request that is allowed here"
        raise RequestError(
            f"{whose} is {written(self.nano_usd)} USD, and this prompt and the shortest answer take {written(least)}",
            param="max_cost" if self.own else "messages",
            code="max_cost_too_small",
        )

    def bound(
        self, budget: Budget, prompt: int, *, chains: int, read: bool, short: bool, coarse: Coarse | None
    ) -> Budget:
        """The budget of all answers with this bound on each. `chains`: how many may be written side by side; `read`: a
        reward model judges them; `short`: money is why there are no more hidden tokens."""
        price, space = self.price, self.each(prompt)
        thinking = -(-budget.thinking // self.answers)
        dearest = max(price.thinking, price.answer)
        # The answer may have more than was kept back, where the budget does not take all the rest.
        wanted = thinking * price.thinking if chains == 1 else thinking * (dearest + read * price.verifier)
        answer = min(budget.answer, max(self.kept(prompt), payable(space - wanted, price.answer)))
        amount = space - answer * price.answer
        if coarse is not None and (unit := coarse.tokens * (price.thinking if chains == 1 else dearest)):
            amount -= amount % unit
        judging = 0
        if read and price.verifier:
            judging = chains * prompt * price.verifier + amount * price.verifier // (dearest + price.verifier)
        cost = CostLimit(
            price.thinking,
            price.answer,
            price.verifier,
            amount,
            judging=min(judging, amount // 2),
            thought_short=short,
            answer_short=answer < budget.answer,
        )
        return Budget(budget.thinking, answer, budget.total, cost)

    @property
    def _prompt(self) -> int:
        return max(self.price.prompt, self.price.cached)


def most(request: Request, model: str, own: ModelSettings, key: Key, price: Price | None) -> MaxCost | None:
    """The most that a request may cost; None where nothing bounds it. Raises `RequestError` where the request wants a
    bound and its model has no price."""
    if price is None:
        if request.max_cost is not None:
            raise RequestError(
                f"{model} has no price on this server, so max_cost_usd cannot bound what a request costs: use "
                "thinking_budget and max_answer_tokens, or ask the operator for a price",
                param="max_cost",
                code="model_without_price",
            )
        return None
    ceilings = [nano(usd) for usd in (own.max_cost_usd, key.max_cost_usd) if usd is not None]
    given = [] if request.max_cost is None else [request.max_cost]
    if not ceilings and not given:
        return None
    lowest = min([*given, *ceilings])
    longest = request.answer_tokens or request.total_tokens or own.answer_tokens
    return MaxCost(lowest, lowest == request.max_cost, price, request.answers, longest)


def written(nano_usd: int) -> str:
    """USD in digits, without an exponent."""
    return f"{Decimal(nano_usd) / NANO:f}"
