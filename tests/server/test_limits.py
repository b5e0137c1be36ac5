"""The limits of API keys as their callers see them: what is refused and how, what is told, what ends early."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ponder.metering.clock import milliseconds
from ponder.metering.leases import window
from ponder.server.auth.keys import digest
from ponder.server.registry import Registry
from ponder.server.settings import KeyLimits, KeySettings, LedgerSettings, Settings, WrongSettings
from ponder.server.settings.prices import PriceBook
from ponder.testing import Chain, ScriptedEngine, ScriptedRewards, always
from tests.metering.databases import PostgreSQL
from tests.server.ledgered import Ledgered, ledgered, options, told
from tests.server.serving import ASK, chat, counted, door, events, refused

LONG = Chain("thought " * 100, "The answer is 42.")
ANN = {"authorization": "Bearer ann"}
BOB = {"authorization": "Bearer bob"}


def limits(coarse: int = 1, **ann: Any) -> Settings:
    """A server with two keys: one has these limits, the other none."""
    scopes: Any = {"infer"} if coarse > 1 else {"infer", "usage"}
    one = KeySettings(name="ann", hash=digest("ann"), scopes=frozenset(scopes), coarse_tokens=coarse, **ann)
    return Settings(keys=[one, KeySettings(name="bob", hash=digest("bob"))])


def file(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def test_the_limits_of_a_key_are_kept_as_json_as_well() -> None:
    key = KeySettings(name="ann", hash=digest("ann"), usd_per_month=Decimal("0.1"), models=frozenset({"a"}))
    kept = key.limits.model_dump_json(exclude_none=True)
    assert KeyLimits.model_validate_json(kept) == key.limits
    assert key.limits.nano_usd_per_month == 100_000_000
    assert key.limits.sums
    assert not KeyLimits(max_thinking_budget=5, strategies=frozenset({"direct"})).sums
    with pytest.raises(ValueError, match="nine decimals"):
        KeyLimits(usd_per_month=Decimal("0.0000000001"))


def test_limits_want_a_ledger() -> None:
    key = KeySettings(name="ann", hash=digest("ann"), thinking_tokens_per_day=5)
    with pytest.raises(ValueError, match="ann has limits of what"):
        Settings(keys=[key], ledger=LedgerSettings.model_validate({"url": "none"}))
    app = door(ScriptedEngine(always(LONG)), Settings(keys=[key]))
    refused(chat(app, ANN), 503, "ledger_unavailable")


async def all_at_once(servers: list[Ledgered], **body: Any) -> list[httpx.Response]:
    asked = [servers[i % len(servers)].chat(ANN, **body) for i in range(64)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in asked]
    return [task.result() for task in tasks]


@pytest.mark.parametrize("limit", [{"thinking_tokens_per_day": 1000}, {"max_inflight": 10}])
def test_of_64_requests_at_once_10_are_answered_where_the_limit_is_for_10(
    limit: dict[str, int], tmp_path: Path
) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(LONG))
        async with ledgered(engine, file(tmp_path), limits(**limit)) as on:
            answers = await all_at_once([on], thinking_budget=100)
            assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 54
            assert sum(row["thinking"] for row in on.rows.values()) == 1000
            assert engine.running == 0
            assert counted(on.app, 'ponder_admission_rejections_total{reason="quota"}') == 54

    asyncio.run(go())


@pytest.mark.parametrize("seed", [None, 7])
def test_two_servers_that_share_a_postgresql_answer_no_more_together(
    a_postgresql: PostgreSQL, seed: int | None
) -> None:
    async def go() -> None:
        address, settings = a_postgresql.new(), limits(thinking_tokens_per_day=1000)
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(ledgered(ScriptedEngine(always(LONG)), address, settings))
                for _ in range(2)
            ]
            answers = await all_at_once(servers, thinking_budget=100, seed=seed)
            fine = sum(answer.status_code == 200 for answer in answers)
            # On a machine that is too busy, a lease that comes too late is a 503.
            assert {answer.status_code for answer in answers} - {503} == {200, 429}
            assert 1 <= fine <= 10
            assert sum(row["thinking"] for row in servers[0].rows.values()) == 100 * fine

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_meets_the_limit_answers_with_what_it_has(stream: bool, tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(thinking_tokens_per_day=9000)
        engine = ScriptedEngine(always(Chain("thought " * 2000, "The answer is 42.")))
        async with ledgered(engine, file(tmp_path), settings) as on:
            answer = told(await on.chat(ANN, thinking_budget=5000, **options(stream)), stream)
            assert (answer["thinking"]["stopped_by"], answer["usage"]["completion_tokens"]) == ("budget", 5017)
            # 4000 are left, and all of its chains together may have them.
            body = {"thinking_budget": 6000, "strategy": {"name": "majority_vote", "n": 3}} | options(stream)
            message = refused(await on.chat(ANN, **body), 429, "insufficient_quota")
            assert "at most 4000" in message
            answer = told(await on.chat(ANN, **body | {"thinking_budget": 4000}), stream)
            reasoning = answer["usage"]["completion_tokens_details"]["reasoning_tokens"]
            assert reasoning <= 4000
            assert sum(row["thinking"] for row in on.rows.values()) <= 9000

    asyncio.run(go())


def test_a_budget_of_65536_that_is_not_spent_does_not_eat_a_limit(tmp_path: Path) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(Chain("thought " * 30, "The answer is 42.")), delay=0.001)
        async with ledgered(engine, file(tmp_path), limits(thinking_tokens_per_day=50_000)) as on:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(on.chat(ANN, thinking_budget=65_536)) for _ in range(8)]
            assert [one.result().status_code for one in asked] == [200] * 8
            thinking = asked[0].result().json()["thinking"]
            assert (thinking["budget"], thinking["budget_clamped_from"]) == (50_000, 65_536)
            assert engine.most_running > 1

    asyncio.run(go())


def test_who_has_met_a_limit_in_the_middle_says_so_in_its_row(tmp_path: Path) -> None:
    """Two at a time draw from what is left for one and a half."""

    async def go() -> None:
        engine = ScriptedEngine(always(Chain("thought " * 2000, "The answer is 42.")))
        async with ledgered(engine, file(tmp_path), limits(thinking_tokens_per_day=10_000)) as on:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(on.chat(ANN, thinking_budget=9000)) for _ in range(2)]
            answers = [one.result().json() for one in asked]
            assert "quota" in {answer["thinking"]["stopped_by"] for answer in answers}
            assert all(answer["choices"][0]["message"]["content"] == "The answer is 42." for answer in answers)
            assert "quota" in {row["stopped_by"] for row in on.rows.values()}
            spent = sum(row["thinking"] for row in on.rows.values())
            assert 10_000 - 2 * 1024 <= spent <= 10_000

    asyncio.run(go())


def test_a_seeded_answer_is_the_same_whatever_other_callers_do(tmp_path: Path) -> None:
    async def go() -> None:
        chains = [Chain("step one\nstep two\n" * n, f"It is {n % 3}.") for n in (2, 3, 5, 8)]
        body = {"seed": 5, "thinking_budget": 6000, "strategy": "majority_vote"}

        async def asked(name: str, limit: int, others: int) -> str:
            engine = ScriptedEngine(always(*chains), seeded=True)
            async with ledgered(engine, f"sqlite:///{tmp_path}/{name}.db", limits(thinking_tokens_per_day=limit)) as on:
                async with asyncio.TaskGroup() as group:
                    for _ in range(others):
                        group.create_task(on.chat(ANN, thinking_budget=4000))
                    mine = group.create_task(on.chat(ANN, **body))
                answer = mine.result()
                refused_, fine = answer.status_code == 429, answer.status_code == 200
                assert refused_ or fine
                if refused_:
                    return "refused"
                found = answer.json()
                return str((found["choices"], found["usage"], found["thinking"]["stopped_by"]))

        alone = await asked("alone", 10_000, 0)
        assert alone != "refused"
        assert {await asked(str(n), 10_000, n) for n in (1, 2, 3)} <= {alone, "refused"}

    asyncio.run(go())


def test_a_caller_is_told_how_its_limits_stand(tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(thinking_tokens_per_month=100_000, thinking_tokens_per_day=2000, max_inflight=3)
        async with ledgered(ScriptedEngine(always(LONG)), file(tmp_path), settings) as on:
            answer = await on.chat(ANN, thinking_budget=300)
            assert answer.status_code == 200, answer.text
            whole = answer.headers
            assert (whole["x-ratelimit-limit-tokens"], whole["x-ratelimit-remaining-tokens"]) == ("2000", "1700")
            assert (whole["x-ratelimit-limit-requests"], whole["x-ratelimit-remaining-requests"]) == ("3", "3")
            assert whole["x-ratelimit-reset-tokens"][-1] == "s"
            answer = await on.chat(ANN, thinking_budget=300, stream=True)
            assert answer.status_code == 200, answer.text
            stream = answer.headers
            # A stream's headers leave before it is known what it takes.
            assert (stream["x-ratelimit-remaining-tokens"], stream["x-ratelimit-remaining-requests"]) == ("1400", "2")
            assert not [name for name in (await on.chat(BOB)).headers if "ratelimit" in name]
            labels = '{key_owner="ann",window="day"}'
            assert counted(on.app, f"ponder_quota_remaining_tokens{labels}") == 1400
            assert counted(on.app, f"ponder_quota_limit_tokens{labels}") == 2000

    asyncio.run(go())


def test_openai_s_client_waits_for_a_rate_and_gives_up_for_a_quota(tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(thinking_tokens_per_day=300)
        async with ledgered(ScriptedEngine(always(LONG)), file(tmp_path), settings) as on:
            calls: list[httpx.Request] = []
            transport = httpx.ASGITransport(on.app)

            async def count(request: httpx.Request) -> None:
                calls.append(request)

            async with httpx.AsyncClient(transport=transport, event_hooks={"request": [count]}) as http:
                more: Any = {"http_client": http, "max_retries": 2}
                client: Any = openai.AsyncOpenAI(api_key="ann", base_url="http://door/v1", **more)
                ask: Any = ASK | {"extra_body": {"thinking_budget": 300}}
                raw = await client.chat.completions.with_raw_response.create(**ask)
                assert raw.headers["x-ratelimit-remaining-tokens"] == "0"
                with pytest.raises(openai.RateLimitError) as caught:
                    await client.chat.completions.create(**ask)
                assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
                assert len(calls) == 2
            answer = await on.chat(ANN, thinking_budget=300)
            day = window("ann", "day", milliseconds())
            assert "300 thinking tokens are spent" in refused(answer, 429, "insufficient_quota")
            assert answer.headers["x-should-retry"] == "false"
            assert "retry-after" not in answer.headers
            assert day.ends_ms is not None
            # Who asks for no thought needs none.
            assert (await on.chat(ANN, thinking_budget=0)).status_code == 200

    asyncio.run(go())


def test_a_rate_may_be_asked_for_again(tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(thinking_tokens_per_minute=300)
        async with ledgered(ScriptedEngine(always(LONG)), file(tmp_path), settings) as on:
            answers = [await on.chat(ANN, thinking_budget=300) for _ in range(3)]
            # A minute may have passed between two of them.
            answer = next(answer for answer in answers if answer.status_code == 429)
            refused(answer, 429, "rate_limit_exceeded")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert "x-should-retry" not in answer.headers

    asyncio.run(go())


def test_coarse_numbers_are_not_told_to_the_token_by_a_limit(tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(coarse=128, thinking_tokens_per_day=300)
        async with ledgered(ScriptedEngine(always(LONG)), file(tmp_path), settings) as on:
            answer = await on.chat(ANN, thinking_budget=256)
            assert answer.status_code == 200
            assert not [name for name in answer.headers if "ratelimit" in name]
            message = refused(await on.chat(ANN, thinking_budget=256), 429, "insufficient_quota")
            assert not [word for word in ("300", "256", "44") if word in message]

    asyncio.run(go())


def test_a_key_asks_for_its_strategies_alone() -> None:
    app = door(ScriptedEngine(always(LONG)), limits(strategies=frozenset({"majority_vote", "best_of_n"})))
    refused(chat(app, ANN, strategy="direct"), 403, "strategy_not_permitted", "strategy")
    refused(chat(app, ANN, model="demo:beam_search"), 403, "strategy_not_permitted")
    assert chat(app, ANN, strategy="majority_vote").status_code == 200
    # Where nobody says which, it is one of them.
    assert chat(app, ANN).json()["thinking"]["strategy"] in ("majority_vote", "best_of_n")
    assert chat(app, BOB, strategy="direct").status_code == 200
    assert chat(app, BOB).json()["thinking"]["strategy"] == "direct"


def test_strategies_of_a_key_that_do_not_exist_are_named() -> None:
    with pytest.raises(WrongSettings, match="ann may ask for majority_votes, which is no strategy; did you mean"):
        Registry().check_keys(limits(strategies=frozenset({"direct", "majority_votes"})).keys)


def test_lists_hold_what_a_key_may_ask_for(tmp_path: Path) -> None:
    async def go() -> None:
        settings = limits(strategies=frozenset({"direct"}), thinking_tokens_per_day=5)
        async with ledgered(ScriptedEngine(always(LONG)), file(tmp_path), settings) as on:
            models = (await on.get("/v1/models", headers=ANN)).json()["data"]
            assert [model["id"] for model in models] == ["demo", "demo:direct"]
            assert (await on.get("/v1/models/demo:best_of_n", headers=ANN)).status_code == 404
            strategies = (await on.get("/v1/strategies", headers=ANN)).json()["data"]
            assert [strategy["name"] for strategy in strategies] == ["direct"]

    asyncio.run(go())


def test_money_of_a_month_ends_requests_as_tokens_do(tmp_path: Path) -> None:
    """The demo costs 0.40 USD for a million tokens of thoughts and answers."""

    async def go() -> None:
        settings = limits(usd_per_month=Decimal("0.005"))
        engine = ScriptedEngine(always(Chain("thought " * 2000, "The answer is 42.")))
        async with ledgered(engine, file(tmp_path), settings) as on:
            answers = [await on.chat(ANN, thinking_budget=6000, max_answer_tokens=100) for _ in range(6)]
            status = [answer.status_code for answer in answers]
            assert status == sorted(status)
            assert status[0] == 200
            assert status[-1] == 429
            refused(answers[-1], 429, "insufficient_quota")
            cost = sum(row["cost_nano_usd"] for row in on.rows.values())
            assert 2_000_000 < cost <= 5_000_000
            assert counted(on.app, 'ponder_quota_remaining_usd{key_owner="ann"}') == pytest.approx(0.005 - cost / 1e9)

    asyncio.run(go())


def test_a_stream_that_is_left_gives_back_what_it_had_reserved(tmp_path: Path) -> None:
    async def go() -> None:
        engine = ScriptedEngine(always(Chain("thought " * 2000, "The answer is 42.")), delay=0.0005)
        async with ledgered(engine, file(tmp_path), limits(thinking_tokens_per_day=6000, max_inflight=1)) as on:
            asking = asyncio.create_task(on.chat(ANN, thinking_budget=6000))
            while engine.produced < 20:  # noqa: ASYNC110 (a model tells nobody)
                await asyncio.sleep(0)
            refused(await on.chat(ANN, thinking_budget=10), 429, "rate_limit_exceeded")
            asking.cancel()
            await asyncio.wait([asking])
            (row,) = on.rows.values()
            answer = await on.chat(ANN, thinking_budget=6000 - row["thinking"], stream=True)
            assert answer.status_code == 200
            assert events(answer.text)

    asyncio.run(go())


def test_what_a_reward_model_reads_stays_within_the_money_of_a_month(tmp_path: Path) -> None:
    """It costs 40 times what the thoughts do that it reads."""

    async def go() -> None:
        settings = limits(usd_per_month=Decimal("0.01"))
        each = {"input": "0.1", "thinking": "0.4", "answer": "0.4", "verifier": "16"}
        prices = {"version": "test", "default": {kind: Decimal(usd) for kind, usd in each.items()}}
        settings = settings.model_copy(update={"prices": PriceBook.model_validate(prices)})
        engine = ScriptedEngine(always(Chain("a step\n" * 60, "The answer is 42.")))
        rewards = ScriptedRewards(lambda line: len(line) / 100)
        async with ledgered(engine, file(tmp_path), settings, reward_model=rewards) as on:
            asked = {"strategy": {"name": "best_of_n", "n": 4}, "verifier": "prm", "thinking_budget": 4000}
            answers = [await on.chat(ANN, **asked) for _ in range(4)]
            assert answers[0].status_code == 200
            assert rewards.calls
            thinking = [answer.json()["thinking"] for answer in answers if answer.status_code == 200]
            assert thinking[-1]["stopped_by"] == "quota"
            assert thinking[-1]["verifier_degraded"] is True
            assert 5_000_000 < sum(row["cost_nano_usd"] for row in on.rows.values()) <= 10_000_000

    asyncio.run(go())
