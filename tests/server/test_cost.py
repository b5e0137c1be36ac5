"""`max_cost_usd`: what a request may cost bounds what it costs, to the nano-USD, whatever the prices are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import assume, given
from hypothesis import strategies as st

from ponder.compute.budget import Budget
from ponder.compute.lengths import Lengths
from ponder.compute.price import NANO, Price
from ponder.compute.usage import Usage
from ponder.metering.database import database
from ponder.metering.ledger import open_ledger
from ponder.metering.metrics import Metrics
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.coarse import Coarse
from ponder.server.cost import MaxCost, nano, written
from ponder.server.settings import KeySettings, ModelSettings, PriceBook, Settings
from ponder.strategies import STRATEGIES
from ponder.testing import Chain, JudgingEngine, ScriptedRewards, always
from ponder.testing.case import CHAINS
from tests.server.ledgered import Ledgered, options, told
from tests.server.serving import answered, chat, counted, door, refused, scripted

PROMPT = len("What is 3 + 4?") + 4
"""Tokens of the usual question, for a scripted model."""
LONG = Chain("so " * 400, "It is 7, and this is why. " * 10)


def priced(**each: Any) -> Settings:
    """Settings in which the model has a price, in USD for a million tokens."""
    book: dict[str, Any] = {"version": "1", "default": {"input": 1, "thinking": 2, "answer": 3, "verifier": 1} | each}
    return Settings(prices=PriceBook.model_validate(book))


# -- random requests --------------------------------------------------------------------------------------------------


def book(chance: random.Random, models: int) -> PriceBook:
    """Prices of all sizes, some of them none at all, with all their decimals."""

    def price() -> str:
        return f"{chance.choice((0, 1, 10, 1000)) * chance.random():.9f}"

    tables: dict[str, Any] = {}
    for i in range(models):
        dear, cheap = sorted((Decimal(price()), Decimal(price())), reverse=True)
        tables[f"m{i}"] = {
            "input": dear,
            "cached_input": cheap,
            "thinking": price(),
            "answer": price(),
            "verifier": price(),
        }
    return PriceBook.model_validate({"version": "random", "models": tables})


def wish(chance: random.Random) -> dict[str, Any]:
    """What a caller may say beside the most that it may cost."""
    name = chance.choice(list(STRATEGIES))
    body: dict[str, Any] = {
        "strategy": name,
        "thinking_budget": chance.choice((0, 1, 7, 60, 300, 1000, 5000, "auto")),
        "verifier": chance.choice(("prm", "judge", "consensus", "confidence", "agreement")),
        "n": chance.choice((1, 1, 1, 2, 3)),
    }
    if chance.random() < 0.3:
        body["max_completion_tokens"] = chance.choice((1, 5, 60, 400))
    if chance.random() < 0.3:
        body["max_answer_tokens"] = chance.choice((1, 4, 50))
    if chance.random() < 0.3:
        body["stop"] = [" is", "7"]
    if chance.random() < 0.5:
        body["seed"] = chance.randrange(1000)
    return body | options(chance.random() < 0.5)


@asynccontextmanager
async def several(address: str, prices: PriceBook) -> AsyncGenerator[tuple[Ledgered, FastAPI]]:
    """A ledgered application with a model for each price."""
    metrics = Metrics()
    ledger = await open_ledger(database(address), metrics, checkpoint=64)
    metrics.follow(ledger)
    served = {
        name: ServedModel(
            JudgingEngine(always(*CHAINS, LONG), cached=i * 5),
            Lengths(20, 40),
            ModelSettings(path="scripted"),
            ScriptedRewards(lambda line: min(1.0, len(line) / 30)),
        )
        for i, name in enumerate(prices.models)
    }
    settings = Settings(prices=prices, models={name: ModelSettings(path="scripted") for name in prices.models})
    app = create_app(settings, served, metrics=metrics, ledger=ledger)
    try:
        yield Ledgered(app, ledger, address), app
    finally:
        await ledger.close()


@pytest.mark.parametrize("requests", [120, pytest.param(1000, marks=pytest.mark.soak)])
def test_whatever_is_asked_at_whatever_price_it_costs_no_more_than_it_may(tmp_path: Path, requests: int) -> None:
    chance = random.Random(13)
    prices = book(chance, 12)

    async def go() -> tuple[int, int]:
        last_words: dict[str, dict[str, Any]] = {}
        few = 0
        async with several(f"sqlite:///{tmp_path}/ledger.db", prices) as (on, app):
            for _ in range(requests):
                model = chance.choice(list(prices.models))
                price = prices.of(model)
                assert price is not None
                like = Usage(PROMPT, chance.randrange(1500), chance.randrange(1, 60), verifier=chance.randrange(800))
                usd = max(1, round(price.cost(like) * chance.random() * 2)) / NANO
                body = wish(chance)
                response = await on.chat(model=model, max_cost_usd=usd, **body)
                if response.status_code == 400:
                    refused(response, code="max_cost_too_small", param="max_cost_usd")
                    few += 1
                    continue
                last = told(response, bool(body.get("stream")))
                thinking = last["thinking"]
                assert thinking["max_cost_usd"] == usd
                assert thinking["cost_usd"] <= usd, (body, price, thinking)
                last_words[response.headers["x-request-id"]] = last
            rows = on.rows
            for name, last in last_words.items():
                row, thinking, usage = rows[name], last["thinking"], last["usage"]
                assert row["cost_nano_usd"] <= nano(Decimal(repr(thinking["max_cost_usd"])))
                assert row["cost_nano_usd"] / NANO == thinking["cost_usd"]
                assert row["thinking"] == usage["completion_tokens_details"]["reasoning_tokens"]
                assert row["thinking"] + row["answer"] == usage["completion_tokens"]
                assert row["verifier_tokens"] == thinking["verifier_tokens"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                assert (row["prompt"], row["cached"]) == (usage["prompt_tokens"], cached)
            in_all = sum(row["cost_nano_usd"] for row in rows.values())
            assert counted(app, "ponder_cost_usd_total") == pytest.approx(in_all / NANO, abs=1e-9)
            assert counted(app, "ponder_budget_violations_total") == 0
        return len(last_words), few

    done, few = asyncio.run(go())
    assert done > requests // 2
    assert few > 0


# -- the arithmetic ---------------------------------------------------------------------------------------------------

PRICE = st.sampled_from((0, 1, 499_999, 500_000, 10**6, 10**9)) | st.integers(0, 10**12)
PRICES = st.builds(Price, st.just("v"), PRICE, PRICE, PRICE, PRICE, PRICE)


@given(PRICES, st.integers(1, 10**10), st.integers(0, 5000), st.integers(1, 8), st.integers(1, 2000))
def test_what_pays_for_the_prompt_and_the_shortest_answer_is_told_to_the_nano(
    price: Price, most: int, prompt: int, answers: int, longest: int
) -> None:
    whole = price if price.cached <= price.prompt else Price("v", price.cached, 0, *_rest(price))
    least = whole.cost(Usage(prompt=prompt, visible=answers))
    for amount in {most, least, least - 1} - {0, -1}:
        bound = MaxCost(amount, True, price, answers, longest)
        if amount >= least:
            bound.check(prompt)
        else:
            with pytest.raises(Exception, match=f"take {written(least)}$"):
                bound.check(prompt)


def _rest(price: Price) -> tuple[int, int, int]:
    return price.thinking, price.answer, price.verifier


@given(
    PRICES,
    st.integers(1, 10**10),
    st.integers(0, 5000),
    st.integers(1, 8),
    st.integers(1, 2000),
    st.integers(0, 10**5),
    st.integers(1, 16),
    st.booleans(),
    st.sampled_from((None, Coarse(64))),
)
def test_all_that_its_answers_may_spend_together_is_within_the_bound(
    price: Price,
    most: int,
    prompt: int,
    answers: int,
    longest: int,
    thinking: int,
    chains: int,
    read: bool,
    coarse: Coarse | None,
) -> None:
    bound = MaxCost(most, True, price, answers, longest)
    assume(bound.each(prompt) >= price.answer)
    thinking = min(thinking, bound.thinking(prompt))
    budget = bound.bound(Budget(thinking, longest), prompt, chains=chains, read=read, short=False, coarse=coarse)
    cost = budget.cost
    assert cost is not None
    assert budget.answer >= 1
    assert 0 <= cost.judging <= cost.amount
    spent = prompt * max(price.prompt, price.cached) + answers * (cost.amount + budget.answer * price.answer)
    assert (spent + 500_000) // 10**6 <= most
    if coarse is None:
        # Every hidden token of the budget is paid for, where it is a thought for certain.
        assert max(share.thinking for share in budget.split(answers)) * price.thinking <= cost.amount


# -- what is told -----------------------------------------------------------------------------------------------------


def test_the_bound_becomes_a_budget_and_the_response_says_so() -> None:
    # 1,000 hidden tokens are 2,000 millionths, a prompt of 18 is 18: what is left is for the answer.
    app = door(scripted(LONG), priced())
    free = answered(app)["thinking"]
    assert "max_cost_usd" not in free
    told_ = answered(app, max_cost_usd=0.0005)["thinking"]
    assert told_["max_cost_usd"] == 0.0005
    assert told_["cost_usd"] <= 0.0005 < free["cost_usd"]
    assert told_["stopped_by"] == "cost"
    assert told_["spent"] == told_["budget"] < free["spent"]
    response = chat(app, max_cost_usd=0.0005, thinking_budget=900)
    assert response.json()["thinking"]["budget_clamped_from"] == 900
    assert response.headers["x-thinking-budget-clamped"] == str(told_["budget"])
    generous = answered(app, max_cost_usd=1)["thinking"]
    assert (generous["spent"], generous["stopped_by"]) == (free["spent"], "finished")
    tokens = answered(app, max_cost_usd=1, thinking_budget=50)["thinking"]
    assert (tokens["spent"], tokens["stopped_by"]) == (50, "budget")


def test_an_answer_is_length_only_where_it_was_cut() -> None:
    app = door(scripted(Chain("so " * 400, "It is 7.")), priced())
    whole = answered(app, max_cost_usd=0.0005)
    assert (whole["choices"][0]["finish_reason"], whole["thinking"]["stopped_by"]) == ("stop", "cost")
    app = door(scripted(Chain("", "It is 7, and this is why. " * 20)), priced())
    cut = answered(app, max_cost_usd=0.0005, thinking_budget=0)
    assert (cut["choices"][0]["finish_reason"], cut["thinking"]["stopped_by"]) == ("length", "cost")
    # All that is left behind the prompt is the answer's, where nothing is thought.
    assert cut["usage"]["completion_tokens"] == (500 - cut["usage"]["prompt_tokens"]) // 3


def test_a_bound_that_pays_for_nothing_is_refused_and_the_refusal_says_what_would_do() -> None:
    app = door(scripted(), priced(thinking=0.5))
    least = (PROMPT * 1 + 3) / 10**6
    message = refused(chat(app, max_cost_usd=0.000001), code="max_cost_too_small", param="max_cost_usd")
    assert message == f"max_cost_usd is 0.000001 USD, and this prompt and the shortest answer take {least:.6f}"
    refused(chat(app, max_cost_usd=least - 2e-9), code="max_cost_too_small")
    shortest = answered(app, max_cost_usd=least)
    assert shortest["usage"]["completion_tokens"] == 1
    assert shortest["choices"][0]["finish_reason"] == "length"
    assert shortest["thinking"]["cost_usd"] == least
    refused(chat(app, max_cost_usd=least, n=2), code="max_cost_too_small")
    assert answered(app, max_cost_usd=least + 3e-6, n=2)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("usd", [0, -1, "1", True, 1e7, [1]])
def test_what_is_no_amount_is_refused_by_name(usd: Any) -> None:
    refused(chat(door(scripted(), priced()), max_cost_usd=usd), param="max_cost_usd")


def test_a_model_without_a_price_bounds_no_cost_and_says_so() -> None:
    app = door(scripted(), name="mine")
    refused(chat(app, model="mine", max_cost_usd=1), code="model_without_price", param="max_cost_usd")
    assert answered(app, model="mine")["thinking"]["stopped_by"] == "finished"


@pytest.mark.parametrize("name", ["max_cost", "maxCostUsd", "max_costs_usd", "budget_usd", "max-cost-usd"])
def test_a_name_that_is_nearly_it_is_refused(name: str) -> None:
    body: dict[str, Any] = {name: 1}
    assert "max_cost_usd" in refused(chat(door(scripted()), **body), code="unknown_parameter")
    assert "top level" in refused(chat(door(scripted()), metadata={"max_cost_usd": "1"}), code="unknown_parameter")


def test_the_operator_s_ceilings_bound_every_request() -> None:
    key = KeySettings(name="ann", hash=digest("pk-a"), max_cost_usd=Decimal("0.0003"))
    settings = priced().model_copy(update={"keys": [key]})
    headers = {"authorization": "Bearer pk-a"}
    app = door(scripted(LONG), settings, max_cost_usd=Decimal("0.0006"))
    for wanted, most in ((None, 0.0003), (1, 0.0003), (0.0001, 0.0001)):
        body = {} if wanted is None else {"max_cost_usd": wanted}
        thinking = chat(app, headers, **body).json()["thinking"]
        assert thinking["max_cost_usd"] == most
        assert thinking["cost_usd"] <= most
    message = refused(
        chat(app, headers, messages=[{"role": "user", "content": "why " * 100}]), code="max_cost_too_small"
    )
    assert "highest cost" in message
    alone = door(scripted(LONG), priced(), max_cost_usd=Decimal("0.0006"))
    assert answered(alone)["thinking"]["max_cost_usd"] == 0.0006


def test_coarse_numbers_cost_no_more_than_the_bound_either() -> None:
    key = KeySettings(name="ann", hash=digest("pk-a"), scopes=frozenset({"infer"}), coarse_tokens=64)
    settings = priced().model_copy(update={"keys": [key]})
    for strategy in ("direct", "best_of_n"):
        app = door(scripted(LONG), settings)
        for usd in (0.0001, 0.0003, 0.00051, 0.0008):
            body = chat(app, {"authorization": "Bearer pk-a"}, max_cost_usd=usd, strategy=strategy).json()
            assert body["thinking"]["cost_usd"] <= usd
            assert body["thinking"]["budget"] % 64 == 0


def test_chains_leave_the_reward_model_what_its_reading_costs() -> None:
    rewards = ScriptedRewards(lambda line: min(1.0, len(line) / 30))
    app = door(scripted(*CHAINS), priced(verifier=2), reward_model=rewards)
    thinking = answered(app, strategy="best_of_n", max_cost_usd=0.001)["thinking"]
    assert thinking["verifier"] == "prm"
    assert "verifier_degraded" not in thinking
    assert 0 < thinking["verifier_tokens"] == rewards.read
    assert thinking["cost_usd"] <= 0.001
    # Reading is a hundred times as dear as writing: the fallback judges, and that is said.
    app = door(scripted(*CHAINS), priced(verifier=200), reward_model=rewards)
    thinking = answered(app, strategy="best_of_n", max_cost_usd=0.001)["thinking"]
    assert thinking["verifier_degraded"] is True
    assert thinking["stopped_by"] == "cost"
    assert thinking["cost_usd"] <= 0.001
