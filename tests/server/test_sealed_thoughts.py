"""A sealed thought comes back with its turn: to the same key and model, over restarts and servers, and
to nobody else."""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import RequestError
from ponder.compute.lengths import Lengths
from ponder.compute.text import Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.server.answers import End, Summary
from ponder.server.app import ServedModel, create_app
from ponder.server.auth.keys import digest
from ponder.server.dialect import Reading, Target
from ponder.server.loop_thoughts import asked_at
from ponder.server.sealed_thoughts import (
    FILE,
    SEVERAL,
    Opened,
    SealedThoughts,
    Sealing,
    WrongSeal,
    configured,
    handed_back,
    sealing,
)
from ponder.server.settings import KeySettings, Limits, ModelSettings, SealedThoughtSettings, Settings, WrongSettings
from ponder.strategies.budget_forcing import BudgetForcing
from ponder.testing import CARD, MARKER, Chain, ScriptedEngine
from tests.engines.scripted_vllm import FAMILIES, Nature, ScriptedVllm, engine
from tests.server.serving import ASK, answered, ask, chat, door, events, its_door, joined, refused
from tests.server.test_loop_thoughts import CALL, READS, TOOLS, Long, reader, results, thoughts
from tests.server.toy_dialect import Toy, ToyWriter, line

SECRET = b"s" * 32
SEALS: dict[str, Any] = {"include": ["reasoning.encrypted_content"]}
STRATEGIES = [
    *("direct", "majority_vote", "best_of_n", "revision", "auto", "beam_search", "dvts", "particle_filter"),
    *("budget_forcing", "deep_think", "short_m_at_k", "rebase"),
]


def served(engine: Any, settings: Settings | None = None, *, seals: SealedThoughts | None = None, **more: Any) -> Any:
    """A server of its own, whose memory of thoughts is empty."""
    return door(engine, settings or Settings(loop_thoughts=0), seals=seals or SealedThoughts([SECRET]), **more)


def details(response: Any) -> list[dict[str, Any]]:
    """The `reasoning_details` of the first answer, streamed or not."""
    if "event-stream" not in response.headers["content-type"]:
        return response.json()["choices"][0]["message"].get("reasoning_details", [])
    deltas = [choice["delta"] for chunk in events(response.text) for choice in chunk["choices"]]
    return [entry for delta in deltas for entry in delta.get("reasoning_details", [])]


def sealed(app: Any, headers: dict[str, str] | None = None, **body: Any) -> str:
    response = chat(app, headers, **SEALS, **body)
    assert response.status_code == 200, response.text
    assert MARKER not in response.text
    (entry,) = details(response)
    assert entry | {"data": ""} == {"type": "reasoning.encrypted", "data": "", "format": "unknown", "index": 0}
    return entry["data"]


def again(data: str, **turn: Any) -> list[dict[str, Any]]:
    """A conversation with a turn that has its thought."""
    own: dict[str, Any] = {"role": "assistant", "content": "It is 7.", "reasoning_details": [entry(data)]}
    first: dict[str, Any] = {"role": "user", "content": "What is 3 + 4?"}
    return [first, own | turn]


def entry(data: Any) -> dict[str, Any]:
    return {"type": "reasoning.encrypted", "data": data, "format": "unknown", "index": 0}


# -- through the door -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_one_server_has_sealed_another_gives_back_to_the_model(strategy: str, stream: bool) -> None:
    engine = reader(Chain(f"{MARKER} one\nand more\n", CALL), Chain("", "It is warm."))
    response = chat(served(engine), stream=stream, strategy=strategy, thinking_budget=600, tools=TOOLS, seed=1, **SEALS)
    assert MARKER not in response.text
    (given,) = details(response)
    if stream:
        calls = joined(o["delta"] for e in events(response.text) for o in e["choices"])
        message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": calls}
    else:
        message = response.json()["choices"][0]["message"]
    turns = results(message)
    turns[0]["reasoning_details"] = [given]
    other = served(engine)
    told = chat(other, messages=[*ASK["messages"], *turns], tools=TOOLS)
    assert told.status_code == 200, told.text
    (thought,) = thoughts(engine.prompts[-1])
    assert thought is not None
    assert thought.startswith(f"{MARKER} one\nand more")
    # Who hands one back is given the next.
    assert MARKER not in told.text
    assert bool(details(told)) is False
    assert MARKER not in its_door(other).metrics.render()[0].decode()


def test_nothing_is_sealed_unless_it_is_asked_for_and_there_is_a_thought() -> None:
    app = served(ScriptedEngine(lambda p, t, c: Chain("one", "It is 7.")))
    for stream in (False, True):
        assert details(chat(app, stream=stream)) == []
        assert details(chat(app, stream=stream, thinking_budget=0, **SEALS)) == []
        assert len(details(chat(app, stream=stream, **SEALS))) == 1
    data = sealed(app)
    assert len(details(chat(app, messages=[*again(data), ASK["messages"][0]]))) == 1


def test_each_of_several_answers_has_its_own() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"thought {c}", "It is 7."), READS)
    app = served(engine)
    choices = chat(app, n=3, **SEALS).json()["choices"]
    told: list[str | None] = []
    for choice in choices:
        answered(app, messages=again(choice["message"]["reasoning_details"][0]["data"]))
        told += thoughts(engine.prompts[-1])
    assert sorted(map(str, told)) == [f"thought {n}" for n in range(3)]


def keyed(*names: str, **terms: Any) -> Settings:
    keys = [KeySettings(name=name, hash=digest(f"pk-{name}"), scopes=frozenset({"infer"}), **terms) for name in names]
    return Settings(keys=keys, loop_thoughts=0)


def test_another_key_and_another_model_are_refused_and_so_is_every_altered_bit() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} one", "It is 7."), READS)
    app = served(engine, keyed("ann", "bob"))
    ann, bob = ({"authorization": f"Bearer pk-{name}"} for name in ("ann", "bob"))
    data = sealed(app, ann)
    raw = base64.b64decode(data)
    flipped = [data[:i] + chr(ord(data[i]) ^ 1 << bit) + data[i + 1 :] for i in range(len(data)) for bit in range(7)]
    bits = [base64.b64encode(raw[:i] + bytes([raw[i] ^ 1 << i % 8]) + raw[i + 1 :]).decode() for i in range(len(raw))]
    broken = [
        data[:-1],
        data[:-4],
        data + "AAAA",
        data[4:],
        data + "=",
        data + "====",
        "",
        " ",
        "x",
        data + "\n",
        data * 2,
    ]
    seals = SealedThoughts([SECRET])
    name = KeySettings(name="ann", hash=digest("pk-ann")).identity
    assert opened(seals, data, name, "demo") == f"{MARKER} one"
    for altered in (*bits, *flipped, *broken):
        with pytest.raises(WrongSeal):
            seals.open(altered, name, "demo")
    for headers, wrong, other, model in (
        (bob, data, app, "demo"),
        (ann, bits[25], app, "demo"),
        (ann, flipped[99], app, "demo"),
        (ann, data[:-4], app, "demo"),
        (ann, data, served(engine, keyed("ann"), name="other"), "other"),
        (ann, data, served(engine, keyed("ann"), seals=SealedThoughts([b"o" * 32])), "demo"),
    ):
        response = chat(other, headers, messages=again(wrong), model=model)
        refused(response, 400, "invalid_encrypted_content", "messages.1.reasoning_details")
        assert MARKER not in response.text
        assert wrong not in response.text
    assert chat(app, ann, messages=again(data)).status_code == 200
    assert thoughts(engine.prompts[-1]) == [f"{MARKER} one"]


def test_models_that_do_not_read_thoughts_ignore_one_and_check_it_all_the_same() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} one", "It is 7."), CARD)
    app = served(engine)
    data = sealed(app)
    answered(app, messages=again(data))
    assert thoughts(engine.prompts[-1]) == [None]
    refused(chat(app, messages=again(data[:-4])), 400, "invalid_encrypted_content")


@pytest.mark.parametrize("everywhere", [False, True])
def test_of_earlier_questions_only_models_that_read_all_get_them(everywhere: bool) -> None:
    engine = ScriptedEngine(
        lambda p, t, c: Chain(f"{MARKER} one", "It is 7."), replace(READS, keeps_thoughts=everywhere)
    )
    app = served(engine)
    answered(app, messages=[*again(sealed(app)), {"role": "user", "content": "And now?"}])
    assert thoughts(engine.prompts[-1]) == [f"{MARKER} one" if everywhere else None]


def test_one_thought_is_given_back_once_however_often_and_however_it_is_written() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} one", "It is 7."), READS)
    app = served(engine)
    data = sealed(app)
    other = data.replace("+", "-").replace("/", "_")
    turns = [{"role": "assistant", "content": "7", "reasoning_details": [entry(data), entry(other)]}] * 20
    answered(app, messages=[*ASK["messages"], *turns])
    assert [one for one in thoughts(engine.prompts[-1]) if one] == [f"{MARKER} one"]


def test_several_of_one_turn_stand_one_behind_the_other() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"thought {c}", "It is 7."), READS)
    app = served(engine)
    both = [entry(sealed(app)), entry(sealed(app))]
    answered(app, messages=again("", reasoning_details=both))
    assert thoughts(engine.prompts[-1]) == ["thought 0\n\nthought 1"]


def test_what_the_caller_hands_back_goes_before_what_memory_has() -> None:
    said = iter("abcdefgh")
    engine = ScriptedEngine(lambda p, t, c: Chain(next(said), CALL), READS)
    app = served(engine, Settings())
    first = sealed(app)
    message = answered(app, tools=TOOLS)["choices"][0]["message"]
    turns = results(message)
    answered(app, messages=[*ASK["messages"], *turns], tools=TOOLS)
    assert thoughts(engine.prompts[-1]) == ["b"]
    turns[0]["reasoning_details"] = [entry(first)]
    answered(app, messages=[*ASK["messages"], *turns], tools=TOOLS)
    assert thoughts(engine.prompts[-1]) == ["a"]


def test_it_counts_as_a_part_of_the_prompt_and_is_left_out_where_it_does_not_fit() -> None:
    thought = f"{MARKER} " * 10
    sizes: list[int] = []
    for context in (100_000, 100):
        engine = Long(lambda p, t, c: Chain(thought, "7") if len(p.messages) < 2 else Chain("", "21."), READS)
        app = served(engine)
        data = sealed(app)
        engine.card = replace(READS, context=context)
        sizes.append(answered(app, messages=again(data))["usage"]["prompt_tokens"])
        assert thoughts(engine.prompts[-1]) == [thought if context > 1000 else None]
    assert sizes[0] - sizes[1] == len(thought)


def test_a_budget_of_a_loop_is_for_all_its_requests_together() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain("x" * 29, CALL), READS)
    body: dict[str, Any] = {"messages": list(ASK["messages"]), "tools": TOOLS, "thinking_budget": 100, **SEALS}
    budgets: list[int] = []
    spent = 0
    for _ in range(5):
        told = answered(served(engine), thinking_budget_scope="loop", **body)
        budgets.append(told["thinking"]["budget"])
        spent += told["usage"]["completion_tokens_details"]["reasoning_tokens"]
        message = told["choices"][0]["message"]
        turns = results(message)
        body["messages"] += [turns[0] | {"reasoning_details": message.get("reasoning_details", [])}, *turns[1:]]
    assert budgets == [100, 70, 40, 10, 0]
    assert spent == 100
    assert answered(served(engine), **body)["thinking"]["budget"] == 100
    body["messages"] += [{"role": "assistant", "content": "21."}, {"role": "user", "content": "And now?"}]
    assert answered(served(engine), thinking_budget_scope="loop", **body)["thinking"]["budget"] == 100


def test_what_is_said_together_with_results_begins_no_loop_anew() -> None:
    """Clients put reminders behind the results of tools, with every request of a loop."""
    engine = ScriptedEngine(lambda p, t, c: Chain("x" * 29, CALL), READS)
    body: dict[str, Any] = {"messages": list(ASK["messages"]), "tools": TOOLS, "thinking_budget": 100, **SEALS}
    budgets: list[int] = []
    for turn in range(4):
        told = answered(served(engine), thinking_budget_scope="loop", **body)
        budgets.append(told["thinking"]["budget"])
        assert len([one for one in thoughts(engine.prompts[-1]) if one]) == turn
        message = told["choices"][0]["message"]
        turns = results(message)
        body["messages"] += [turns[0] | {"reasoning_details": message["reasoning_details"]}, *turns[1:]]
        body["messages"] += [{"role": "user", "content": "Remember the list of tasks."}]
    assert budgets == [100, 70, 40, 10]


@pytest.mark.parametrize(
    ("roles", "asked"),
    [
        ("", 0),
        ("s", 0),
        ("u", 1),
        ("su", 2),
        ("uaut", 1),
        ("uatu", 1),
        ("uattuatu", 1),
        ("uatua", 1),
        ("uau", 3),
        ("uatau", 5),
        ("uatauatu", 5),
        ("uauu", 4),
    ],
)
def test_a_question_is_what_a_user_says_by_itself(roles: str, asked: int) -> None:
    of = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    assert asked_at([Message(cast("Any", of[role]), "?") for role in roles]) == asked


def test_coarse_numbers_tell_neither_its_length_nor_how_long_what_comes_back_is() -> None:
    told: list[tuple[int, Any]] = []
    headers = {"authorization": "Bearer pk-ann"}
    for words in ("", "a", "the sum of three and four is seven", "q" * 60):
        engine = Long(lambda p, t, c, said=words: Chain(said, "7.") if len(p.messages) < 2 else Chain("", "21."), READS)
        app = served(engine, keyed("ann", coarse_tokens=64))
        data = sealed(app, headers)
        told.append((len(data), chat(app, headers, messages=again(data)).json()["usage"] if words else None))
    assert len({size for size, _ in told}) == 1
    assert len({json.dumps(usage) for _, usage in told[1:]}) == 1


@pytest.mark.parametrize("together", [False, True])
def test_a_thought_many_times_over_tells_no_more_of_its_length_than_once(together: bool) -> None:
    """A caller can have the same thought sealed as often as it likes."""
    told: list[int] = []
    headers = {"authorization": "Bearer pk-ann"}
    for letters in (3, 60):
        engine = Long(
            lambda p, t, c, n=letters: Chain("t" * n, "7.") if len(p.messages) < 2 else Chain("", "21."), READS
        )
        app = served(engine, keyed("ann", coarse_tokens=64))
        entries = [entry(sealed(app, headers)) for _ in range(8)]
        turns = [entries] if together else [[one] for one in entries]
        body = [{"role": "assistant", "content": "7", "reasoning_details": one} for one in turns]
        told.append(chat(app, headers, messages=[*ASK["messages"], *body]).json()["usage"]["prompt_tokens"])
        assert sum(len(one or "") for one in thoughts(engine.prompts[-1])) >= 8 * letters
    # Together they stand with lines between them.
    assert told[0] == told[1]


def test_the_thought_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    engine = reader()
    app = served(engine, Settings(retain_text=True))
    data = sealed(app)
    second = chat(app, messages=again(data), stream=True)
    for response in (second, ask(app, "GET", f"/v1/traces/{second.headers['x-request-id']}")):
        assert MARKER not in response.text
    assert MARKER not in caplog.text
    assert data not in caplog.text
    assert MARKER not in repr(engine.prompts[-1])
    assert MARKER.encode() not in base64.b64decode(data)


class CarryingWriter(ToyWriter):
    """Tells sealed thoughts as soon as it is told them."""

    def thought(self, index: int, sealed: str) -> bytes:
        return line(copy=index, sealed=sealed)

    def end(self, index: int, end: End, summary: Summary | None) -> bytes:
        return line(copy=index, ends=end.sealed) + super().end(index, end, summary)


class Carrying(Toy):
    """The toy, whose answers all have their thought sealed."""

    def read(self, raw: bytes, limits: Limits, target: Target) -> Reading:
        reading = super().read(raw, limits, target)
        return replace(reading, request=replace(reading.request, seals_thought=True), writer=CarryingWriter)


def carried(engine: Any, **body: Any) -> list[dict[str, Any]]:
    """The lines of a stream of the toy."""
    model = ServedModel(engine, Lengths(20, 40), ModelSettings(path="scripted"))
    app = create_app(Settings(), {"demo": model}, dialects=[Carrying()], seals=SealedThoughts([SECRET]))
    response = ask(app, url=Toy.path, json={"brain": "demo", "talk": ["What is 3 + 4?"], "live": True} | body)
    assert MARKER not in response.text
    return [json.loads(one) for one in response.text.splitlines()]


def checked_order(lines: list[dict[str, Any]], texts: Sequence[str]) -> None:
    """Of each copy the thought comes before its text, once, and its end has the same."""
    for copy, text in enumerate(texts):
        own = [one for one in lines if one.get("copy") == copy]
        kinds = [next(name for name in ("sealed", "said", "do", "ends", "over") if name in one) for one in own]
        assert kinds[0] == "sealed"
        assert kinds.count("sealed") == 1
        data = own[0]["sealed"]
        assert next(one["ends"] for one in own if "ends" in one) == data
        assert opened(SealedThoughts([SECRET]), data, "anyone", "demo") == text


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_a_stream_it_comes_before_the_first_text(strategy: str) -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER}\n", "It is 7."))
    forced = "Wait" * BudgetForcing.rounds if strategy == "budget_forcing" else ""
    checked_order(carried(engine, ponder=600, plan={"name": strategy}), [f"{MARKER}\n{forced}"])


def test_in_a_stream_of_several_answers_each_has_its_own_and_one_of_calls_or_of_nothing_too() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} {c}", (CALL, "It is 7.", "")[c]))
    checked_order(carried(engine, copies=3, actions={"weather": {}}), [f"{MARKER} {n}" for n in range(3)])


class Untold(ScriptedEngine):
    """Tells no thought beside its text, as an engine of another package may."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        plain = replace(sampling, tells_thought=False)
        async with aclosing(super().generate(prompt, plain, transcript)) as stream:
            async for delta in stream:
                yield delta


def test_where_the_engine_does_not_tell_it_it_comes_with_the_end() -> None:
    lines = carried(Untold(lambda p, t, c: Chain(MARKER, "It is 7.")))
    assert not [one for one in lines if "sealed" in one]
    (data,) = [one["ends"] for one in lines if "ends" in one]
    assert opened(SealedThoughts([SECRET]), data, "anyone", "demo") == MARKER


@pytest.mark.parametrize("strategy", ["direct", "majority_vote"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "silent"])
def test_the_real_engine_tells_the_thought_before_its_answer(family: str, strategy: str) -> None:
    llm = ScriptedVllm(FAMILIES[family], Nature(letters=True))
    lines = carried(engine(llm), ponder=300, plan={"name": strategy})
    data = [one["sealed"] for one in lines if "sealed" in one]
    assert len(data) == 1
    assert opened(SealedThoughts([SECRET]), data[0], "anyone", "demo").count(MARKER) >= 1
    first = next(n for n, one in enumerate(lines) if "said" in one)
    assert "sealed" in lines[first - 1]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"type": "reasoning.encrypted"}, "messages.1.reasoning_details.0.data"),
        ({"type": "reasoning.encrypted", "data": 3}, "messages.1.reasoning_details.0.data"),
    ],
    ids=str,
)
def test_what_is_no_sealed_thought_is_refused_by_name(wrong: dict[str, Any], field: str) -> None:
    app = served(ScriptedEngine(lambda p, t, c: Chain("", "7")))
    refused(chat(app, messages=again("", reasoning_details=[wrong])), 400, param=field)
    refused(chat(app, include=["everything"]), 400, param="include.0")


def test_a_user_has_no_thought_to_hand_back() -> None:
    app = served(ScriptedEngine(lambda p, t, c: Chain("one", "7")))
    data = sealed(app)
    told = chat(app, messages=[{"role": "user", "content": "?", "reasoning_details": [entry(data)]}])
    refused(told, 400, "invalid_encrypted_content", "messages.0.reasoning_details")


def test_what_other_servers_have_encrypted_is_left_out() -> None:
    app = served(ScriptedEngine(lambda p, t, c: Chain("one", "7")))
    theirs = {"type": "reasoning.encrypted", "data": "gAAAA", "format": "openai-responses-v1"}
    said = {"type": "reasoning.text", "text": "Hm."}
    assert chat(app, messages=again("", reasoning_details=[theirs, said])).status_code == 200


# -- the seal itself --------------------------------------------------------------------------------------------------


def opened(seals: SealedThoughts, data: str, key: str = "k", model: str = "m") -> str:
    return seals.open(data, key, model).thought.unseal()


@pytest.mark.parametrize(
    "text", ["", "a", "a" * 10_000, "\ud800 half a pair", "é同🙂", random.Random(1).randbytes(999).hex()], ids=len
)
def test_what_goes_in_comes_out(text: str) -> None:
    seals = SealedThoughts([SECRET])
    raw = text.encode("utf-8", "surrogatepass")
    data = seals.seal(raw, "k", "m", spent=17)
    found = seals.open(data, "k", "m")
    assert (found.size, found.spent, found.thought.unseal()) == (len(raw), 17, text)
    assert seals.seal(raw, "k", "m") != data
    assert "=" not in data


def test_an_old_secret_opens_and_the_first_seals() -> None:
    old, new = b"o" * 32, b"n" * 32
    data = SealedThoughts([old]).seal(b"thought", "k", "m")
    both = SealedThoughts([new, old])
    assert opened(both, data) == "thought"
    fresh = both.seal(b"thought", "k", "m")
    assert opened(SealedThoughts([new]), fresh) == "thought"
    with pytest.raises(WrongSeal):
        SealedThoughts([old]).open(fresh, "k", "m")


def test_what_no_context_holds_is_left_out_however_short_its_seal_is() -> None:
    seals = SealedThoughts([SECRET])
    data = seals.seal(b"a" * 50_000_000, "k", "m")
    assert len(data) < 400_000
    card = replace(READS, context=1000)
    turns = tuple(Message("assistant", "", sealed=seals.seal(b"a" * 500, "k", "m")) for _ in range(3))
    given, _ = handed_back(seals, "k", "m", card, (*turns, Message("assistant", "", sealed=data)))
    assert all(one.thought is None for one in given)
    given, _ = handed_back(seals, "k", "m", card, turns)
    assert [one.thought and len(one.thought.unseal()) for one in given] == [500] * 3


def test_a_seal_that_lies_about_its_size_makes_no_more_than_it_says() -> None:
    packed = zlib.compress(b"a" * 1_000_000)
    assert len(Opened(100, 0, packed, True).thought.unseal()) == 100


def test_lengths_are_told_in_steps() -> None:
    seals = SealedThoughts([SECRET])
    noise = random.Random(2).randbytes(4000).hex()
    exact = {len(seals.seal(noise[:n].encode(), "k", "m")) for n in range(1, 2000, 7)}
    coarse = {len(seals.seal(noise[:n].encode(), "k", "m", step=8 * 1024)) for n in range(1, 2000, 7)}
    assert len(exact) < 50
    assert len(coarse) == 1


def test_the_tokens_of_a_loop_add_up_within_it() -> None:
    seals = SealedThoughts([SECRET])
    first = Sealing(seals, "k", "m", None).sealed(Hidden("one"), 40)
    turn = Message("assistant", "", sealed=first)
    loop = (Message("user", "?"), turn, Message("tool", "21", tool_call_id="c"))
    _, spent = handed_back(seals, "k", "m", READS, loop)
    assert spent == 40
    second = Sealing(seals, "k", "m", None, spent).sealed(Hidden("two"), 5)
    _, spent = handed_back(seals, "k", "m", READS, (*loop, Message("assistant", "", sealed=second)))
    assert spent == 45
    _, spent = handed_back(seals, "k", "m", READS, (*loop, Message("user", "Remember.")))
    assert spent == 40
    answer = Message("assistant", "21.", sealed=second)
    _, spent = handed_back(seals, "k", "m", READS, (*loop, answer, Message("user", "And now?")))
    assert spent == 0


def test_a_turn_with_one_good_seal_and_one_bad_is_refused() -> None:
    seals = SealedThoughts([SECRET])
    good = seals.seal(b"thought", "k", "m")
    with pytest.raises(RequestError) as wrong:
        handed_back(seals, "k", "m", READS, (Message("assistant", "", sealed=f"{good}{SEVERAL}{good[:-4]}"),))
    assert wrong.value.param == "messages.0.sealed"


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_servers_of_one_file_open_what_the_others_seal(tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    file.write_bytes(b"n" * 40 + b"\n\n" + b"o" * 32 + b"\n")
    settings = SealedThoughtSettings(secret_file=file)
    assert configured(settings) == [b"n" * 40, b"o" * 32]
    data = sealing(settings).seal(b"thought", "k", "m")
    told = SealedThoughtSettings.model_validate({"secrets": ["n" * 40]})
    assert opened(sealing(told), data) == "thought"


def test_a_server_that_is_told_none_has_one_of_its_own_that_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = sealing(SealedThoughtSettings()).seal(b"thought", "k", "m")
    file = tmp_path / "ponder" / FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert opened(sealing(SealedThoughtSettings()), data) == "thought"


@pytest.mark.parametrize("content", [None, b"", b"short", b"n" * 32 + b"\nshort"], ids=str)
def test_a_file_that_cannot_be_used_is_said_before_anything_is_loaded(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "secrets"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WrongSettings, match=r"sealed_thoughts\.secret_file"):
        configured(SealedThoughtSettings(secret_file=file))


def test_without_a_place_for_a_secret_it_is_said_and_thoughts_are_sealed_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ponder").write_text("a file in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seals = sealing(SealedThoughtSettings())
    assert opened(seals, seals.seal(b"thought", "k", "m")) == "thought"
    assert "after a restart" in caplog.text
