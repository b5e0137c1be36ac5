"""A thought behind tool calls comes back with their results: to the same key and model, for the same calls, and it is
bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ponder.compute.text import Hidden, Message, Prompt, ToolCall
from ponder.server.auth.keys import digest
from ponder.server.loop_thoughts import OVERHEAD, LoopThoughts
from ponder.server.settings import KeySettings, Settings
from ponder.testing import CARD, MARKER, Chain, JudgingEngine, ScriptedEngine
from tests.server.serving import ASK, answered, ask, chat, door, events, its_door, joined

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]
READS = replace(CARD, shows_thoughts=True)


def reader(*chains: Chain, everywhere: bool = False) -> ScriptedEngine:
    """A model that reads its thoughts, and judges."""
    said = list(chains or (Chain(f"{MARKER} one", CALL), Chain(f"{MARKER} two", "It is warm.")))

    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        last = prompt.messages[-1].role == "tool" and len(said) > 1
        return said[-1] if last else said[0]

    return JudgingEngine(script, replace(READS, keeps_thoughts=everywhere))


def thoughts(prompt: Prompt) -> list[str | None]:
    """Those of the assistant's turns."""
    return [one.thought and one.thought.unseal() for one in prompt.messages if one.role == "assistant"]


def results(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The turn as a client sends it back, and what its calls gave."""
    turn = {name: value for name, value in message.items() if name in ("role", "content", "tool_calls")}
    return [turn, *({"role": "tool", "tool_call_id": call["id"], "content": "21"} for call in turn["tool_calls"])]


def streamed(text: str) -> dict[int, dict[str, Any]]:
    """The messages of a stream, by their index."""
    found: dict[int, dict[str, Any]] = {}
    deltas: dict[int, list[dict[str, Any]]] = {}
    for chunk in events(text):
        for choice in chunk["choices"]:
            message = found.setdefault(choice["index"], {"role": "assistant", "content": "", "tool_calls": []})
            message["content"] += choice["delta"].get("content") or ""
            deltas.setdefault(choice["index"], []).append(choice["delta"])
    for index, message in found.items():
        message["tool_calls"] = joined(deltas[index])
    return found


def called(app: Any, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    """The message of an answer that calls."""
    response = chat(app, headers, tools=TOOLS, **body)
    assert response.status_code == 200, response.text
    assert MARKER not in response.text
    if body.get("stream"):
        return streamed(response.text)[0]
    return response.json()["choices"][0]["message"]


def after(message: dict[str, Any], *more: dict[str, Any]) -> dict[str, Any]:
    """The next request of the loop."""
    return {"messages": [*ASK["messages"], *results(message), *more], "tools": TOOLS}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [-1, 400])
@pytest.mark.parametrize("strategy", ["direct", "majority_vote", "best_of_n", "revision", "auto"])
def test_a_thought_comes_back_with_the_results(strategy: str, budget: int, stream: bool) -> None:
    engine = reader()
    app = door(engine)
    message = called(app, stream=stream, strategy=strategy, thinking_budget=budget)
    before = engine.calls
    answered(app, **after(message))
    assert thoughts(engine.prompts[before]) == [f"{MARKER} one"]
    # The turn itself is as the client has sent it.
    assert engine.prompts[before].messages[1].tool_calls[0].arguments == '{"city": "Rome", "days": 2}'


@pytest.mark.parametrize("stream", [False, True])
def test_each_of_several_answers_has_its_own(stream: bool) -> None:
    def script(prompt: Prompt, thought: str, call: int) -> Chain:
        return Chain(f"{MARKER} {call}", CALL)

    engine = ScriptedEngine(script, READS)
    app = door(engine)
    response = chat(app, n=3, stream=stream, tools=TOOLS)
    found = streamed(response.text) if stream else dict(enumerate(c["message"] for c in response.json()["choices"]))
    told: list[str | None] = []
    for message in found.values():
        answered(app, **after(message))
        told += thoughts(engine.prompts[-1])
    assert sorted(map(str, told)) == [f"{MARKER} {n}" for n in range(3)]


def test_a_loop_of_many_turns_keeps_them_all_until_the_next_question() -> None:
    engine = reader(Chain(f"{MARKER} again", CALL))
    app = door(engine)
    body: dict[str, Any] = {"tools": TOOLS, "messages": list(ASK["messages"])}
    for turn in range(4):
        message = answered(app, **body)["choices"][0]["message"]
        assert thoughts(engine.prompts[-1]) == [f"{MARKER} again"] * turn
        body["messages"] += results(message)
    body["messages"] += [{"role": "assistant", "content": "21."}, {"role": "user", "content": "And now?"}]
    message = answered(app, **body)["choices"][0]["message"]
    assert thoughts(engine.prompts[-1]) == [None] * 5
    body["messages"] += results(message)
    answered(app, **body)
    assert thoughts(engine.prompts[-1]) == [*[None] * 5, f"{MARKER} again"]


def test_a_model_that_reads_all_its_thoughts_gets_those_of_earlier_questions() -> None:
    engine = reader(everywhere=True)
    app = door(engine)
    message = called(app)
    answered(app, **after(message, {"role": "assistant", "content": "21."}, {"role": "user", "content": "And now?"}))
    assert thoughts(engine.prompts[-1]) == [f"{MARKER} one", None]


@pytest.mark.parametrize(
    ("changed", "back"),
    [
        ({}, True),
        ({"arguments": '{"days":2,"city":"Rome"}'}, True),
        ({"arguments": '{"city": "Roma", "days": 2}'}, False),
        ({"arguments": '{"city": "Rome", "days": "2"}'}, False),
        ({"arguments": '{"city": "Rome"'}, False),
        ({"name": "time"}, False),
        ({"id": "call_000000000000000000000000"}, False),
    ],
    ids=str,
)
def test_calls_that_were_altered_bring_nothing_back(changed: dict[str, str], back: bool) -> None:
    engine = reader()
    app = door(engine)
    message = called(app)
    call = message["tool_calls"][0]
    call["id"] = changed.get("id", call["id"])
    call["function"] |= {name: value for name, value in changed.items() if name != "id"}
    answered(app, **after(message))
    assert thoughts(engine.prompts[-1]) == [f"{MARKER} one" if back else None]


def test_a_turn_with_other_calls_beside_it_brings_nothing_back() -> None:
    engine = reader(Chain(MARKER, CALL + TIME))
    app = door(engine)
    message = called(app)
    answered(app, **after(message | {"tool_calls": message["tool_calls"][:1]}))
    assert thoughts(engine.prompts[-1]) == [None]
    answered(app, **after(message | {"tool_calls": message["tool_calls"][::-1]}))
    assert thoughts(engine.prompts[-1]) == [None]
    answered(app, **after(message))
    assert thoughts(engine.prompts[-1]) == [MARKER]


def keyed(*names: str, **settings: Any) -> Settings:
    keys = [KeySettings(name=name, hash=digest(f"pk-{name}"), scopes=frozenset({"infer"})) for name in names]
    return Settings(keys=keys, **settings)


def test_another_key_gets_nothing() -> None:
    engine = reader()
    app = door(engine, keyed("ann", "bob"))
    message = called(app, {"authorization": "Bearer pk-ann"})
    for name, back in (("bob", None), ("ann", f"{MARKER} one")):
        response = chat(app, {"authorization": f"Bearer pk-{name}"}, **after(message))
        assert response.status_code == 200
        assert MARKER not in response.text
        assert thoughts(engine.prompts[-1]) == [back]


@pytest.mark.parametrize("card", [CARD, READS])
def test_nothing_is_kept_where_the_model_reads_none_or_the_operator_wants_none(card: Any) -> None:
    engine = reader()
    engine.card = card
    app = door(engine, Settings(loop_thoughts=0) if card.shows_thoughts else None)
    answered(app, **after(called(app)))
    assert thoughts(engine.prompts[-1]) == [None]


class Long(ScriptedEngine):
    """Whose thoughts of earlier turns are tokens of its prompts."""

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        kept = [one.thought for one in prompt.messages if one.thought is not None]
        return super().length(prompt, thinking=thinking) + sum(len(one.unseal()) for one in kept)


def test_a_thought_counts_as_a_part_of_the_prompt_and_is_left_out_where_it_does_not_fit() -> None:
    thought = f"{MARKER} " * 10
    sizes: list[int] = []
    for context in (100_000, 100):
        engine = Long(lambda p, t, c: Chain(thought, CALL) if len(p.messages) < 2 else Chain("", "21."), READS)
        app = door(engine)
        message = called(app)
        engine.card = replace(READS, context=context)
        sizes.append(answered(app, **after(message))["usage"]["prompt_tokens"])
        assert thoughts(engine.prompts[-1]) == [thought if context > 1000 else None]
    assert sizes[0] - sizes[1] == len(thought)


@pytest.mark.parametrize(
    ("context", "wish"),
    [
        (1200, {}),
        (1200, {"max_answer_tokens": 5000}),
        (3000, {"thinking_budget": 1500, "on_overflow": "error", "max_answer_tokens": 300, "strategy": "direct"}),
    ],
    ids=str,
)
def test_a_thought_that_fits_takes_neither_the_answer_nor_what_the_caller_insists_on(
    context: int, wish: dict[str, Any]
) -> None:
    thought, said = MARKER * 1100, "It is warm. " * 40
    thought = thought[: 1000 if context == 1200 else 1500]
    engine = Long(lambda p, t, c: Chain(thought, CALL) if len(p.messages) < 2 else Chain("", said), READS)
    app = door(engine)
    message = called(app)
    engine.card = replace(READS, context=context)
    choice = answered(app, **after(message), **wish)["choices"][0]
    assert thoughts(engine.prompts[-1]) == [None]
    if not wish:
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", said)
    engine.card = READS
    answered(app, **after(message), **wish)
    assert thoughts(engine.prompts[-1]) == [thought]


@pytest.mark.parametrize(("usd", "back"), [(0.002, True), (0.0005, False), (0.00005, False)])
def test_a_thought_comes_back_only_where_the_caller_s_money_pays_for_the_answer_behind_it(
    usd: float, back: bool
) -> None:
    thought = MARKER * 100
    engine = Long(lambda p, t, c: Chain(thought, CALL) if len(p.messages) < 2 else Chain("", "21."), READS)
    app = door(engine)
    message = called(app)
    told = answered(app, **after(message), max_cost_usd=usd, max_answer_tokens=1200)
    assert thoughts(engine.prompts[-1]) == [thought if back else None]
    assert told["choices"][0]["message"]["content"] == "21."
    assert told["thinking"]["cost_usd"] <= usd


def test_coarse_numbers_do_not_tell_how_long_a_thought_is_that_comes_back() -> None:
    told: list[dict[str, Any]] = []
    headers = {"authorization": "Bearer pk-ann"}
    for letters in (3, 60):
        engine = Long(
            lambda p, t, c, n=letters: Chain("t" * n, CALL) if len(p.messages) < 2 else Chain("", "21."), READS
        )
        key = KeySettings(name="ann", hash=digest("pk-ann"), scopes=frozenset({"infer"}), coarse_tokens=64)
        app = door(engine, Settings(keys=[key]))
        message = called(app, headers)
        told += [chat(app, headers, **after(message)).json()["usage"]]
        assert thoughts(engine.prompts[-1]) == ["t" * letters]
    assert told[0] == told[1]


def test_the_same_turn_written_often_brings_its_thought_back_once() -> None:
    engine = reader()
    app = door(engine)
    message = called(app)
    body = after(message)
    body["messages"] += results(message) * 50
    answered(app, **body)
    assert [one for one in thoughts(engine.prompts[-1]) if one] == [f"{MARKER} one"]


def test_the_thought_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    engine = reader()
    app = door(engine, Settings(retain_text=True))
    message = called(app)
    second = chat(app, **after(message))
    refused = chat(app, **after(message), strategy="no such")
    for response in (second, refused, ask(app, "GET", f"/v1/traces/{second.headers['x-request-id']}")):
        assert MARKER not in response.text
    assert MARKER not in caplog.text
    assert MARKER not in its_door(app).metrics.render()[0].decode()
    assert MARKER not in repr(engine.prompts[-1])


# -- what is kept -----------------------------------------------------------------------------------------------------


class Kept:
    """Thoughts of one model under a clock in the hand."""

    def __init__(self, turns: int = 100, size: int = 1 << 20, seconds: float = 60, keys: int = 1) -> None:
        self.time = 0.0
        self.thoughts = LoopThoughts(turns, size, seconds, keys, lambda: self.time)

    def keep(self, key: str, number: int, letters: int = 10) -> None:
        self.thoughts.keep(key, "m", [ToolCall(f"call_{number}", "f", "{}")], Hidden("x" * letters))

    def there(self, key: str, *numbers: int, model: str = "m") -> list[int]:
        """Which of these it has."""
        found: list[int] = []
        for number in numbers:
            turn = Message("assistant", "", tool_calls=(ToolCall(f"call_{number}", "f", "{}"),))
            (given,) = self.thoughts.given_back(key, model, (turn,))
            found += [number] if given.thought is not None else []
        return found


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    kept = Kept(turns=3)
    for number in range(3):
        kept.keep("a", number)
    assert kept.there("a", 0) == [0]
    kept.keep("a", 3)
    assert kept.there("a", 0, 1, 2, 3) == [0, 2, 3]


def test_bytes_are_bounded_and_one_key_takes_nothing_from_another() -> None:
    letters = 1000
    kept = Kept(size=2 * 3 * (letters + OVERHEAD + 100), keys=2)
    for number in range(3):
        kept.keep("a", number, letters)
    for number in range(3, 50):
        kept.keep("b", number, letters)
    assert kept.there("a", 0, 1, 2) == [0, 1, 2]
    assert kept.there("b", *range(3, 50)) == [47, 48, 49]
    kept.keep("a", 99, 100_000)
    assert kept.there("a", 0, 1, 2, 99) == [0, 1, 2]


def test_what_is_old_is_forgotten_of_all_keys() -> None:
    kept = Kept(seconds=60)
    kept.keep("a", 0)
    kept.time = 50
    assert kept.there("a", 0) == [0]
    kept.time = 109
    assert kept.there("a", 0) == [0]
    kept.time = 170
    assert kept.there("a", 0) == []
    kept.keep("b", 1)
    assert list(kept.thoughts._of) == ["b"]  # pyright: ignore[reportPrivateUsage]


def test_another_model_and_another_order_of_words_are_told_apart() -> None:
    kept = Kept()
    kept.keep("a", 0)
    assert kept.there("a", 0, model="other") == []
    assert kept.there("b", 0) == []
    kept.keep("a", 1, 0)
    assert kept.there("a", 1) == []


def test_arguments_that_are_no_json_are_compared_as_they_are() -> None:
    store = LoopThoughts(10, 1 << 20, 60, 1)
    for text in ("[" * 100_000, "{", "NaN", "\ud800"):
        call = ToolCall("c" + str(len(text)) + text[:1], "f", text)
        store.keep("a", "m", [call], Hidden("x"))
        (back,) = store.given_back("a", "m", (Message("assistant", "", tool_calls=(call,)),))
        assert back.thought is not None
        (other,) = store.given_back("a", "m", (Message("assistant", "", tool_calls=(replace(call, arguments="{}"),)),))
        assert other.thought is None


def test_thoughts_that_no_context_can_hold_are_not_put_into_a_prompt() -> None:
    """To render them would hold others up for as long as they are long, only to leave them out again."""
    kept = Kept()
    for number in range(3):
        kept.keep("a", number, 1000)
    turns = tuple(Message("assistant", "", tool_calls=(ToolCall(f"call_{n}", "f", "{}"),)) for n in range(3))
    assert kept.thoughts.given_back("a", "m", turns, context=100) is turns
    given = kept.thoughts.given_back("a", "m", turns[:1], context=100)
    assert given[0].thought is not None
    assert all(turn.thought for turn in kept.thoughts.given_back("a", "m", turns, context=1000))
