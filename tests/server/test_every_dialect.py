"""Every promise over every dialect: budget, one bill, keys, limits, money, hang-ups, drains, traces, idempotency,
seeds, strategies, structured answers beside tools, hidden thoughts, and errors before and after the first byte.

A new dialect is a line in `tests/server/spoken.py`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from ponder.compute.engine import Engine
from ponder.compute.lengths import Lengths
from ponder.compute.text import Prompt, Tool
from ponder.metering.receipts import COUNTS, Signer, verify
from ponder.server import openapi
from ponder.server.auth.keys import digest
from ponder.server.dialect import ByPath, Dialect
from ponder.server.dialects import DIALECTS
from ponder.server.registry import Registry
from ponder.server.settings import KeySettings, PriceBook, Settings
from ponder.server.tracing import tracing_if_wanted
from ponder.testing import MARKER, Caller, Chain, EchoEngine, ScriptedEngine, ScriptedRewards, Wish, always
from tests.server.collector import collector
from tests.server.ledgered import Ledgered, ledgered
from tests.server.serving import CHAIN, Line, counted, door, its_door, scripted
from tests.server.spoken import spoken
from tests.server.test_description import closed

STRATEGIES = sorted(Registry().strategies)
ASK = Wish("What is 3 + 4?", "demo", 400)
CHAINS = (Chain(f"{MARKER}\nand four\nmake seven", "It is 7."), Chain(f"{MARKER}\nand four make\nnine", "It is 9."))
SLOW = Chain(MARKER * 40, "It is 7. " * 9)
PRICES = {"input": 0.3, "cached_input": 0.1, "thinking": 0.7, "answer": 1.3, "verifier": 0.11}
FORM = '{"type": "object", "properties": {"sum": {"type": "integer", "minimum": 3}}, "required": ["sum"]}'
ADD = Tool("add", "Adds.", '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}')
BOOK = PriceBook.model_validate({"version": "7", "default": PRICES})

each = pytest.mark.parametrize(("dialect", "caller"), [pytest.param(*one, id=one[0].path) for one in spoken()])
both = pytest.mark.parametrize("streamed", [False, True])


class Heard(Line):
    """One request on a connection held in the hand, and what came of it."""

    def __init__(
        self,
        dialect: Dialect,
        caller: Caller,
        wish: Wish,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        body = caller.asks(wish)
        self.has_words = body is not None
        self._body = body or b"{}"
        place, _, query = caller.path(dialect, model=wish.model, streamed=wish.streamed).partition("?")
        found = PATHS(place)
        assert found is not None, f"{place} is no path of a dialect"
        self._path = found[1]
        # What else each request of a dialect has comes with its key.
        given = {"content-type": "application/json", **caller.headers(key or ""), **(headers or {})}
        if key is None:
            given = {name: value for name, value in given.items() if dialect.key({name.lower(): value}) is None}
            given = {name: value for name, value in given.items() if value and not value.startswith("Bearer")}
        self._head = {
            "type": "http",
            "method": "POST",
            "http_version": "1.1",
            "path": place,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        }

    async def call(self, app: FastAPI, key: str | None = None) -> None:
        await app(self._head, self.receive, self.send)
        if self.sent and not self.gone.is_set():
            self._as_described()

    def _as_described(self) -> None:
        """What was answered has the schema that `/openapi.json` says, each event of a stream, too."""
        status = "200" if self.status == 200 else f"{self.status // 100}XX"
        media = self.headers["content-type"].partition(";")[0]
        validator = described(self._path, status, media)
        found = events_of(self.text) if media == "text/event-stream" else [json.loads(self.text)]
        for one in found:
            # The error that ends a stream is that of a refusal.
            kind = described(self._path, "5XX", "application/json") if self.status == 200 and is_error(one) else None
            (kind or validator).validate(one)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


DOCUMENT = openapi.document("1", [], DIALECTS)
PATHS = ByPath({dialect.path: True for dialect in DIALECTS})


@cache
def described(path: str, status: str, media: str) -> Any:
    """What checks an answer. A field that is not described is none."""
    schema = DOCUMENT["paths"][path.replace(":path}", "}")]["post"]["responses"][status]["content"][media]["schema"]
    return cast("Any", Draft202012Validator)({**schema, "components": closed(DOCUMENT["components"])})


def is_error(event: Any) -> bool:
    """It is the error that ends a stream, in the shape of a refusal."""
    return isinstance(event.get("error"), dict)


def events_of(raw: bytes) -> list[Any]:
    """The JSON of each event."""
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def heard(app: FastAPI, *words: Any, **more: Any) -> Heard:
    """What is answered; words are as for `Heard`."""
    line = Heard(*words, **more)
    await line.call(app)
    return line


def file(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def locked(scopes: frozenset[Any] = frozenset({"infer", "usage"}), **more: Any) -> Settings:
    """A server with the key `ann`."""
    return Settings(keys=[KeySettings(name="ann", hash=digest("ann"), scopes=scopes, **more)])


def said(wish: Wish, **more: Any) -> Wish:
    return Wish(**{name: getattr(wish, name) for name in Wish.__dataclass_fields__} | more)


# -- the budget and the bill ------------------------------------------------------------------------------------------


@each
def test_the_budget_binds_and_one_bill_is_told_everywhere(dialect: Dialect, caller: Caller, tmp_path: Path) -> None:
    """Usage as the dialect tells it, the row, the receipt and the metrics, for every strategy it has words for."""
    signer = Signer(Ed25519PrivateKey.generate())

    async def go() -> None:
        engine, rewards = ScriptedEngine(always(*CHAINS), cached=3), ScriptedRewards(lambda line: len(line) / 100)
        parts: dict[str, Any] = {"reward_model": rewards, "lengths": Lengths(20, 40), "signer": signer}
        spoke = set[str]()
        async with ledgered(engine, file(tmp_path), Settings(prices=BOOK), **parts) as on:
            for strategy in STRATEGIES:
                for streamed in (False, True):
                    for thinking in (30, 400):
                        verifier = "prm" if strategy in ("best_of_n", "beam_search") else None
                        wish = said(
                            ASK, strategy=strategy, streamed=streamed, thinking=thinking, verifier=verifier, seed=3
                        )
                        line = Heard(dialect, caller, wish)
                        if not line.has_words:
                            continue
                        known, made, read = on.rows.keys(), engine.produced, rewards.read
                        before = metrics_of(on)
                        await line.call(on.app)
                        assert line.status == 200, line.text
                        spoke.add(strategy)
                        (request,) = on.rows.keys() - known
                        row = on.rows[request]
                        assert line.headers["x-request-id"] == request
                        assert row["thinking"] <= thinking
                        assert (row["strategy"], row["outcome"]) == (strategy, "answered")
                        assert row["thinking"] + row["answer"] == engine.produced - made
                        assert row["verifier_tokens"] == rewards.read - read
                        told = caller.usage(line.text, streamed=streamed)
                        assert told is not None
                        assert (told.prompt, told.generated) == (row["prompt"], row["thinking"] + row["answer"])
                        assert told.hidden in (None, row["thinking"])
                        assert told.cached in (None, row["cached"])
                        claims = verify(row["receipt"], [signer.public])
                        assert {name: claims[name] for name in COUNTS} == {name: row[name] for name in COUNTS}
                        assert {name: one - before[name] for name, one in metrics_of(on).items()} == {
                            "prompt": row["prompt"],
                            "reasoning": row["thinking"],
                            "visible": row["answer"],
                            "verifier": row["verifier_tokens"],
                        }
            assert "direct" in spoke
            assert (on.ledger.unsettled, on.ledger.reserved) == (0, 0)
            assert counted(on.app, "ponder_budget_violations_total") == 0
        assert MARKER not in str(on.rows)

    asyncio.run(go())


def metrics_of(on: Ledgered) -> dict[str, float]:
    kinds = ("prompt", "reasoning", "visible", "verifier")
    return {kind: counted(on.app, f'ponder_billed_tokens_total{{kind="{kind}"}}') for kind in kinds}


@each
def test_money_binds_and_a_sum_that_is_too_small_is_refused_by_name(
    dialect: Dialect, caller: Caller, tmp_path: Path
) -> None:
    async def go() -> None:
        async with ledgered(ScriptedEngine(always(SLOW)), file(tmp_path), Settings(prices=BOOK)) as on:
            for streamed in (False, True):
                wish = said(ASK, streamed=streamed, answer_tokens=20)
                little = await heard(on.app, dialect, caller, said(wish, max_cost_usd=1e-9))
                assert little.status == 400
                assert "max_cost_usd" in str(caller.failure(little.text, streamed=False))
                known = on.rows.keys()
                enough = await heard(on.app, dialect, caller, said(wish, max_cost_usd=0.0001))
                assert enough.status == 200
                (row,) = (on.rows[one] for one in on.rows.keys() - known)
                assert 0 < row["cost_nano_usd"] <= 100_000

    asyncio.run(go())


@each
@both
def test_a_vote_tells_its_share_and_how_likely_it_is_to_stand(dialect: Dialect, caller: Caller, streamed: bool) -> None:
    """Wherever there is the one there is the other; a chain alone has neither."""

    async def go() -> None:
        for strategy, n in (("majority_vote", 2), ("direct", 1)):
            chains = ScriptedEngine(always(Chain("hm", "It is 7.")))
            wish = said(ASK, thinking=4000, streamed=streamed, strategy=strategy)
            line = Heard(dialect, caller, wish)
            if not line.has_words:
                return
            await line.call(door(chains, lengths=Lengths(20, 40)))
            parts = events_of(line.text) if streamed else [json.loads(line.text)]
            for report in (found for part in parts for found in reports(part)):
                assert ("agreement" in report) == ("confidence" in report) == (n > 1), report
                assert 0 < report.get("confidence", 0.5) <= 1

    asyncio.run(go())


def reports(part: Any) -> list[dict[str, Any]]:
    """All that tells how an answer was chosen."""
    if isinstance(part, list):
        return [found for one in cast("list[Any]", part) for found in reports(one)]
    if not isinstance(part, dict):
        return []
    told = cast("dict[str, Any]", part)
    inside = [found for one in told.values() for found in reports(one)]
    return [told, *inside] if "samples_requested" in told else inside


# -- keys and limits --------------------------------------------------------------------------------------------------


@each
@both
def test_keys_scopes_and_what_a_key_may_ask(dialect: Dialect, caller: Caller, streamed: bool) -> None:
    async def go() -> None:
        wish = said(ASK, streamed=streamed)
        for key, status in ((None, 401), ("eve", 401), ("ann", 200)):
            line = await heard(door(scripted(), locked()), dialect, caller, wish, key)
            assert line.status == status
            assert (caller.failure(line.text, streamed=streamed) is None) == (status == 200)
        for settings in (locked(frozenset({"usage"})), locked(strategies=frozenset({"revision"}))):
            line = await heard(door(scripted(), settings), dialect, caller, said(wish, strategy="direct"), "ann")
            assert line.status == 403, line.text
            assert caller.failure(line.text, streamed=False)
        line = await heard(door(scripted(), locked(max_thinking_budget=5)), dialect, caller, wish, "ann")
        told = caller.usage(line.text, streamed=streamed)
        assert told is not None
        assert told.generated <= 5 + len("It is 7.")

    asyncio.run(go())


@each
def test_a_limit_that_is_used_up_is_a_429_in_its_words(dialect: Dialect, caller: Caller, tmp_path: Path) -> None:
    async def go() -> None:
        settings = locked(thinking_tokens_per_day=len(SLOW.thought) + 1)
        async with ledgered(ScriptedEngine(always(SLOW)), file(tmp_path), settings) as on:
            first = await heard(on.app, dialect, caller, said(ASK, thinking=len(SLOW.thought) + 1), "ann")
            assert first.status == 200
            for streamed in (False, True):
                line = await heard(on.app, dialect, caller, said(ASK, streamed=streamed), "ann")
                assert (line.status, line.headers["x-should-retry"]) == (429, "false")
                assert caller.failure(line.text, streamed=False)
            assert len(on.rows) == 1

    asyncio.run(go())


# -- ends -------------------------------------------------------------------------------------------------------------


@each
@both
def test_a_hang_up_stops_the_model_and_what_was_made_is_billed(
    dialect: Dialect, caller: Caller, streamed: bool, tmp_path: Path
) -> None:
    async def go() -> None:
        for produced in (0, 9, len(SLOW.thought) + 9):
            engine = ScriptedEngine(always(SLOW), tail=3)
            async with ledgered(engine, file(tmp_path / str(produced))) as on:
                line = Heard(dialect, caller, said(ASK, thinking=600, streamed=streamed))
                async with asyncio.TaskGroup() as group:
                    group.create_task(line.call(on.app))
                    while not engine.running or engine.produced < produced:  # noqa: ASYNC110 - its own count
                        await asyncio.sleep(0)
                    line.gone.set()
                assert engine.running == 0
                (row,) = on.rows.values()
                assert row["outcome"] == "disconnected"
                assert row["thinking"] + row["answer"] == engine.produced

    for produced in (0, 9, len(SLOW.thought) + 9):
        (tmp_path / str(produced)).mkdir()
    asyncio.run(go())


@each
@both
def test_a_drain_lets_it_answer_with_its_best_and_turns_others_away(
    dialect: Dialect, caller: Caller, streamed: bool
) -> None:
    async def go() -> tuple[Heard, Heard]:
        engine = ScriptedEngine(always(Chain(MARKER * 1000, "It is 7.")), delay=0.001)
        app = door(engine, Settings(drain_timeout=0.05))
        inside = Heard(dialect, caller, said(ASK, thinking=90_000, streamed=streamed))
        late = Heard(dialect, caller, ASK)
        async with asyncio.TaskGroup() as group:
            group.create_task(inside.call(app))
            while not engine.running:  # noqa: ASYNC110 - its own count
                await asyncio.sleep(0)
            group.create_task(its_door(app).drain())
            while not its_door(app).admission.draining:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await late.call(app)
        return inside, late

    inside, late = asyncio.run(go())
    assert caller.text(inside.text, streamed=streamed) == "It is 7."
    assert (late.status, late.headers["retry-after"]) == (503, "5")
    assert caller.failure(late.text, streamed=False)


@each
@both
def test_an_error_is_told_before_the_first_byte_and_after_it(dialect: Dialect, caller: Caller, streamed: bool) -> None:
    async def go() -> None:
        wish = said(ASK, streamed=streamed)
        # In the thought, and in the middle of the answer.
        for engine in (scripted(fail_at=0), scripted(vanish_at={0: len(CHAIN.thought) + 5})):
            app = door(engine)
            line = await heard(app, dialect, caller, wish)
            assert line.status == 200 if streamed else line.status in (500, 503)
            assert caller.failure(line.text, streamed=streamed)
            assert engine.running == 0
            assert MARKER.encode() not in line.text
        for wrong, status in ((said(wish, model="none"), 404), (said(wish, question="x" * 100_001), 400)):
            line = await heard(door(scripted()), dialect, caller, wrong)
            assert line.status == status
            assert caller.failure(line.text, streamed=False)
            assert line.headers["x-request-id"].startswith("req_")

    asyncio.run(go())


# -- what is kept and what is told ------------------------------------------------------------------------------------


@each
@both
def test_its_trace_tells_what_its_answer_does(dialect: Dialect, caller: Caller, streamed: bool) -> None:
    async def go() -> None:
        app = door(scripted(), locked(frozenset({"infer", "trace"})))
        line = await heard(app, dialect, caller, said(ASK, streamed=streamed), "ann")
        trace = Line()
        await trace_of(app, line.headers["x-request-id"], trace)
        told = json.loads(trace.text)
        usage = caller.usage(line.text, streamed=streamed)
        assert usage is not None
        calls = [call["tokens"] for one in told["choices"] for call in one["calls"]]
        assert sum(tokens["hidden"] + tokens["visible"] for tokens in calls) == usage.generated
        assert MARKER not in str(told)

    asyncio.run(go())


@each
@both
def test_its_span_counts_what_it_is_billed(
    dialect: Dialect, caller: Caller, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for the request, and the calls of the model below it, without a text. An error is one, too."""

    async def go() -> Heard:
        async with tracing_if_wanted() as tracing:
            app = door(scripted(CHAINS[0]), locked(), tracing=tracing)
            line = await heard(app, dialect, caller, said(ASK, streamed=streamed), "ann")
            assert (await heard(app, dialect, caller, said(ASK, thinking=-7), "ann")).status == 400
        return line

    with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        line = asyncio.run(go())
    usage = caller.usage(line.text, streamed=streamed)
    assert usage is not None
    root, refused = found.roots
    names = ("input_tokens", "output_tokens", "reasoning.output_tokens", "cache_read.input_tokens")
    counted = (usage.prompt, usage.generated, usage.hidden, usage.cached)
    expected = {f"gen_ai.usage.{name}": n for name, n in zip(names, counted, strict=True) if n is not None}
    expected |= {"http.response.status_code": 200, "ponder.request.id": line.headers["x-request-id"]}
    assert {name: root.facts[name] for name in expected} == expected
    assert root.facts.get("gen_ai.request.stream", False) == streamed
    assert PATHS(root.facts["http.route"])
    calls = [child for child in found.children if child.name != "score"]
    assert {(child.trace, child.parent) for child in calls} == {(root.trace, root.id)}
    made = sum(child.facts["ponder.tokens.hidden"] + child.facts["ponder.tokens.visible"] for child in calls)
    assert made == usage.generated
    assert refused.facts["http.response.status_code"] == 400
    assert MARKER not in str(found.spans)
    assert ASK.question not in str(found.spans)


async def trace_of(app: FastAPI, request_id: str, line: Line) -> None:
    head = {"type": "http", "method": "GET", "http_version": "1.1", "query_string": b""}
    await app(
        head | {"path": f"/v1/traces/{request_id}", "headers": [(b"authorization", b"Bearer ann")]},
        line.receive,
        line.send,
    )


@each
@both
def test_the_same_idempotency_key_runs_once(dialect: Dialect, caller: Caller, streamed: bool, tmp_path: Path) -> None:
    async def go() -> None:
        engine = scripted()
        async with ledgered(engine, file(tmp_path)) as on:
            wish, header = said(ASK, streamed=streamed), {"idempotency-key": "one"}
            first = await heard(on.app, dialect, caller, wish, headers=header)
            again = await heard(on.app, dialect, caller, wish, headers=header)
            assert (first.status, again.status, engine.calls) == (200, 200, 1)
            assert again.text == first.text
            assert again.headers["idempotent-replayed"] == "true"
            other = await heard(on.app, dialect, caller, said(wish, question="Another?"), headers=header)
            assert other.status == 422
            assert caller.failure(other.text, streamed=False)
            assert len(on.rows) == 1

    asyncio.run(go())


@each
def test_the_same_seed_gives_the_same_answer_whole_and_streamed(dialect: Dialect, caller: Caller) -> None:
    def script(prompt: Prompt, thought: str, seed: int) -> Chain:
        return Chain(thought or f"{MARKER} {seed % 97}", f"It is {seed % 1009}.")

    async def go() -> None:
        app = door(ScriptedEngine(script, seeded=True), lengths=Lengths(20, 40))
        answers: dict[tuple[str, int], set[str]] = {}
        for strategy in ("direct", "majority_vote"):
            for seed in (1, 2):
                for streamed in (False, True):
                    wish = said(ASK, strategy=strategy, seed=seed, streamed=streamed)
                    line = Heard(dialect, caller, wish)
                    if line.has_words:
                        await line.call(app)
                        text = caller.text(line.text, streamed=streamed)
                        answers.setdefault((strategy, seed), set()).add(text)
        assert answers
        assert all(len(texts) == 1 for texts in answers.values())
        assert answers["direct", 1] != answers["direct", 2]

    asyncio.run(go())


@each
@both
@pytest.mark.parametrize("strategy", ["direct", "majority_vote", "best_of_n"])
def test_a_document_has_its_form_and_tools_beside_it_are_called(
    dialect: Dialect, caller: Caller, streamed: bool, strategy: str
) -> None:
    async def go() -> None:
        app = door(EchoEngine(), lengths=Lengths(20, 40))
        form = said(ASK, streamed=streamed, strategy=strategy, schema=FORM)
        if caller.asks(form) is None:
            # A dialect without documents has none with tools beside, either.
            assert caller.asks(said(form, tool=ADD)) is None
            return
        line = await heard(app, dialect, caller, form)
        document = json.loads(caller.text(line.text, streamed=streamed))
        Draft202012Validator(json.loads(FORM)).validate(document)  # pyright: ignore[reportUnknownMemberType]
        line = await heard(app, dialect, caller, said(form, tool=ADD))
        found = caller.calls(line.text, streamed=streamed) or ()
        assert [(name, json.loads(arguments)) for name, arguments in found] == [("add", {"a": 0})]
        assert not caller.text(line.text, streamed=streamed)

    asyncio.run(go())


# -- thoughts stay inside ---------------------------------------------------------------------------------------------


@each
@both
def test_a_marker_in_every_thought_is_in_nothing_that_leaves_or_is_kept(
    dialect: Dialect, caller: Caller, streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wishes = [
        ASK,
        said(ASK, thinking=7),
        said(ASK, answer_tokens=1),
        said(ASK, tool=ADD),
        said(ASK, schema=FORM),
        said(ASK, timeout=0.05),
        *(said(ASK, strategy=one) for one in STRATEGIES),
        said(ASK, strategy=MARKER),
    ]
    engines: list[Engine] = [
        ScriptedEngine(always(Chain(f"{MARKER} " * 4, "It is 7."))),
        scripted(fail_at=0),
        scripted(vanish_at={0: 45, 1: 3}),
        EchoEngine(thought=MARKER * 3),
    ]

    async def go() -> None:
        for number, engine in enumerate(engines):
            address = f"sqlite:///{tmp_path}/{number}.db"
            async with ledgered(engine, address, locked(frozenset({"infer", "trace"})), lengths=Lengths(20, 40)) as on:
                for wish in wishes:
                    line = Heard(dialect, caller, said(wish, streamed=streamed), "ann")
                    if not line.has_words:
                        continue
                    await line.call(on.app)
                    trace = Line()
                    await trace_of(on.app, line.headers["x-request-id"], trace)
                    for seen in (line.text, str(line.sent).encode(), trace.text):
                        assert MARKER.encode() not in seen, (number, wish)
                assert MARKER.encode() not in its_door(on.app).metrics.render()[0]

    asyncio.run(go())
    assert MARKER not in caplog.text
    for kept in tmp_path.iterdir():
        assert MARKER.encode() not in kept.read_bytes(), kept.name
