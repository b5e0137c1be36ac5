"""One bill, told in five places: what a response says is used is what its row, the usage API, its receipt and the
metrics say, for every strategy, streamed or not, and however it is cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ponder.compute.identity import CallIdentity
from ponder.compute.lengths import Lengths
from ponder.compute.price import Price
from ponder.compute.usage import Usage
from ponder.metering.receipts import COUNTS, Signer, verify
from ponder.server.registry import Registry
from ponder.server.settings import PriceBook, Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, ScriptedRewards, always
from tests.server.ledgered import Ledgered, ledgered, options
from tests.server.serving import Line, counted, events

STRATEGIES = sorted(Registry().strategies)
CHAINS = (Chain(f"{MARKER}\nand four\nmake seven", "It is 7."), Chain(f"{MARKER}\nand four make\nnine", "It is 9."))
PRICES = {"input": 0.3, "cached_input": 0.1, "thinking": 0.7, "answer": 1.3, "verifier": 0.11}
METRICS = {"prompt": "prompt", "thinking": "reasoning", "answer": "visible", "verifier_tokens": "verifier"}
"""Columns of a row, and what `ponder_billed_tokens_total` calls them."""


@dataclass
class Interrupted(ScriptedEngine):
    """Something happens before its token number `at`; and where it is to be slow, that token takes for ever."""

    at: int = -1
    then: Callable[[], None] | None = None
    """None: the token does not come."""

    async def wait(self, call: CallIdentity) -> None:
        if self.produced == self.at:
            self.at = -1
            if self.then is None:
                await asyncio.Event().wait()
            else:
                self.then()
                await asyncio.sleep(0)
        await super().wait(call)


@dataclass(frozen=True)
class Way:
    """How a request goes."""

    name: str
    wish: Mapping[str, Any]
    hangs_up: int | None = None
    """Before so many tokens."""
    stalls: int | None = None
    """So does the model, until the deadline."""
    ends: set[str] = field(default_factory=lambda: {"answered"})


WAYS = (
    Way("plenty", {"thinking_budget": 400}),
    Way("short, of two answers", {"thinking_budget": 30, "n": 2}),
    Way("cut in the answer", {"max_completion_tokens": 21}),
    Way("no thought", {"thinking_budget": 0}),
    Way("hung up in the thought", {"thinking_budget": 400}, hangs_up=9, ends={"disconnected"}),
    Way("hung up later", {"thinking_budget": 400}, hangs_up=38, ends={"disconnected"}),
    Way("deadline in the thought", {"thinking_budget": 400, "timeout": 0.2}, stalls=9, ends={"answered", "deadline"}),
    Way("deadline later", {"thinking_budget": 400, "timeout": 0.2}, stalls=40, ends={"answered", "deadline"}),
)


def metrics_of(on: Ledgered) -> dict[str, float]:
    kinds = {column: f'ponder_billed_tokens_total{{kind="{kind}"}}' for column, kind in METRICS.items()}
    series = kinds | {"discarded": "ponder_discarded_tokens_total", "cost": "ponder_cost_usd_total"}
    return {column: counted(on.app, one) for column, one in series.items()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_response_row_usage_receipt_and_metrics_say_the_same(strategy: str, tmp_path: Any) -> None:
    signer, book = Signer(Ed25519PrivateKey.generate()), PriceBook.model_validate({"version": "7", "default": PRICES})
    price = book.of("demo")
    assert price is not None

    async def go() -> None:
        engine, rewards = Interrupted(always(*CHAINS), tail=2, cached=3), ScriptedRewards(lambda line: len(line) / 100)
        parts: dict[str, Any] = {"reward_model": rewards, "lengths": Lengths(20, 40), "signer": signer}
        address = f"sqlite:///{tmp_path}/ledger.db"
        async with ledgered(engine, address, Settings(prices=book), **parts) as on:
            late = 0
            for way in WAYS:
                for stream in (False, True):
                    where = f"{way.name}, streamed: {stream}"
                    known, before = on.rows.keys(), metrics_of(on)
                    made, read = engine.produced, rewards.read
                    line = Line(strategy=strategy, verifier="prm", **way.wish, **options(stream))
                    if way.hangs_up is not None:
                        engine.at, engine.then = made + way.hangs_up, line.gone.set
                    elif way.stalls is not None:
                        engine.at, engine.then = made + way.stalls, None
                    await line.call(on.app)
                    (request,) = on.rows.keys() - known
                    row = on.rows[request]
                    assert row["outcome"] in way.ends, where
                    late += "deadline" in (row["outcome"], row["stopped_by"])
                    assert (row["key"], row["model"], row["strategy"]) == ("anyone", "demo", strategy)
                    assert row["budget_asked"] == way.wish.get("thinking_budget")
                    # The model, and what it costs.
                    assert row["thinking"] + row["answer"] == engine.produced - made, where
                    assert row["verifier_tokens"] == rewards.read - read, where
                    assert row["cost_nano_usd"] == cost(price, row) > 0, where
                    # The response.
                    if (whole := said(line, stream)) is not None:
                        of_the_response(whole, row, where)
                    else:
                        assert row["outcome"] != "answered", where
                    # The usage API, of one request and of all.
                    one = (await on.get(f"/v1/usage/{request}")).json()
                    assert {name: one[name] for name in row.keys() & one.keys()} == {
                        name: row[name] for name in row.keys() & one.keys()
                    }, where
                    assert set(COUNTS) <= one.keys(), where
                    assert round(one["cost_usd"] * 1e9) == row["cost_nano_usd"], where
                    # The receipt.
                    claims = verify(row["receipt"], [signer.public])
                    assert {name: claims[name] for name in COUNTS} == {name: row[name] for name in COUNTS}, where
                    assert (claims["id"], claims["strategy"], claims["price_version"]) == (request, strategy, "7")
                    assert claims["cost_nano_usd"] == row["cost_nano_usd"], where
                    assert (await on.get(f"/v1/receipts/{request}")).json()["receipt"] == row["receipt"], where
                    # The metrics.
                    after = metrics_of(on)
                    for column in (*METRICS, "discarded"):
                        assert after[column] - before[column] == row[column], (where, column)
                    assert after["cost"] - before["cost"] == pytest.approx(row["cost_nano_usd"] / 1e9), where
            assert late >= 2
            rows = on.rows.values()
            total = (await on.get("/v1/usage?group_by=strategy")).json()["data"]
            sums = {name: sum(row[name] for row in rows) for name in (*COUNTS, "cost_nano_usd")}
            assert [{name: line[name] for name in sums} for line in total] == [sums]
            assert (on.ledger.unsettled, on.ledger.reserved) == (0, 0)
            for series in ("ledger_unsettled_requests", "reserved_tokens", "meter_drift_tokens_total"):
                assert counted(on.app, f"ponder_{series}") == 0
        assert MARKER not in str(on.rows)

    asyncio.run(go())


def cost(price: Price, row: Mapping[str, Any]) -> int:
    kinds = {"hidden": row["thinking"], "visible": row["answer"], "verifier": row["verifier_tokens"]}
    return price.cost(Usage(prompt=row["prompt"], prompt_cached=row["cached"], **kinds))


def said(line: Line, stream: bool) -> dict[str, Any] | None:
    """The last word of an answer: with `usage` and `thinking`. None where there is none, but an error or nothing."""
    starts = [message for message in line.sent if message["type"] == "http.response.start"]
    if not starts or starts[0]["status"] != 200:
        return None
    text = line.text.decode()
    if stream:
        return events(text)[-1] if text.endswith("data: [DONE]\n\n") else None
    return None if not text else json.loads(text)


def of_the_response(whole: Mapping[str, Any], row: Mapping[str, Any], where: str) -> None:
    usage, thinking = whole["usage"], whole["thinking"]
    assert usage["prompt_tokens"] == row["prompt"], where
    assert usage["prompt_tokens_details"]["cached_tokens"] == row["cached"], where
    assert usage["completion_tokens"] == row["thinking"] + row["answer"], where
    assert usage["completion_tokens_details"]["reasoning_tokens"] == row["thinking"] == thinking["spent"], where
    assert thinking["discarded_tokens"] == row["discarded"], where
    assert thinking["verifier_tokens"] == row["verifier_tokens"], where
    assert (thinking["samples"], thinking["stopped_by"]) == (row["samples"], row["stopped_by"]), where
    assert round(thinking["cost_usd"] * 1e9) == row["cost_nano_usd"], where
    assert (thinking["budget"], thinking["strategy"]) == (row["budget"], row["strategy"]), where
    assert thinking["receipt"] == row["receipt"], where
