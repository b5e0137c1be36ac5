"""Chat completions as OpenAI's own client and types read them."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ponder.compute.lengths import Lengths
from ponder.compute.text import TokenLogprob
from ponder.server.dialects.openai_writing import token_logprobs
from ponder.server.settings import Settings
from ponder.testing import MARKER, Chain, ScriptedEngine, ScriptedRewards, question
from tests.server.serving import answered, chat, door, events, refused, scripted, serving


def test_an_answer_is_exactly_openais_shape() -> None:
    body = answered(door(scripted()), thinking_budget=100)
    ChatCompletion.model_validate(body, strict=True)
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "It is 7.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["completion_tokens"] == hidden + len("It is 7.")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < hidden == body["thinking"]["spent"] <= body["thinking"]["budget"] == 100


def test_a_stream_is_exactly_openais_shape_and_says_the_same() -> None:
    engine = scripted()
    whole = answered(door(engine), thinking_budget=100, seed=5)
    stream = events(chat(door(engine), thinking_budget=100, seed=5, stream=True).text)
    for chunk in stream:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    assert stream[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in stream)
    assert text == whole["choices"][0]["message"]["content"]
    assert stream[-1]["choices"][0]["finish_reason"] == "stop"
    assert stream[-1]["thinking"] == whole["thinking"]


def test_usage_comes_last_where_it_was_asked_for_and_null_before() -> None:
    engine = scripted()
    whole = answered(door(engine), thinking_budget=30)
    stream = events(chat(door(engine), thinking_budget=30, stream=True, stream_options={"include_usage": True}).text)
    assert all(chunk["usage"] is None for chunk in stream[:-1])
    assert stream[-1]["choices"] == []
    assert stream[-1]["usage"] == whole["usage"]
    assert stream[-1]["thinking"] == whole["thinking"]


def test_nothing_numeric_is_in_a_delta() -> None:
    for chunk in events(chat(door(scripted()), stream=True).text):
        for choice in chunk["choices"]:
            assert all(isinstance(value, str) for value in choice["delta"].values())


@pytest.mark.parametrize("budget", [0, 1, 16, 64, 256, -1, None])
def test_the_sdk_asks_streamed_and_not_and_hears_the_same(budget: int | None) -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain(f"{MARKER} {question(p)} " * 3, f"Answer to {question(p)}"))
    extra = {} if budget is None else {"thinking_budget": budget}
    app = door(engine)
    with serving(app) as place, openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=0) as client:
        for story in range(3):
            messages: list[Any] = [{"role": "user", "content": f"story {story}"}]
            before = engine.produced
            whole = client.chat.completions.create(model="demo", messages=messages, seed=story, extra_body=extra)
            produced = engine.produced - before
            stream = client.chat.completions.create(
                model="demo",
                messages=messages,
                seed=story,
                extra_body=extra,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = list(stream)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert whole.choices[0].message.content == text == f"Answer to story {story}"
            assert whole.usage is not None
            assert whole.usage == chunks[-1].usage
            assert whole.usage.completion_tokens == produced
            assert whole.usage.completion_tokens_details is not None
            hidden = whole.usage.completion_tokens_details.reasoning_tokens
            assert hidden is not None
            if budget is not None and budget >= 0:
                assert hidden <= budget
            assert (hidden == 0) == (budget == 0)


def test_choices_run_the_strategy_each_and_share_one_budget() -> None:
    engine = scripted()
    body = answered(door(engine), n=3, thinking_budget=30, seed=1)
    ChatCompletion.model_validate(body, strict=True)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 30
    assert body["usage"]["completion_tokens"] == engine.produced
    assert body["usage"]["prompt_tokens"] == answered(door(engine), n=1)["usage"]["prompt_tokens"]
    assert [choice["spent"] for choice in body["thinking"]["choices"]] == [10, 10, 10]
    assert len({s.seed for s in engine.samplings[:3]}) == 3


def test_streamed_choices_each_have_their_role_text_and_end() -> None:
    stream = events(chat(door(scripted(delay=0.0001)), n=3, stream=True).text)
    for index in range(3):
        mine = [c for chunk in stream for c in chunk["choices"] if c["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == "It is 7."
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
    assert sum("thinking" in chunk for chunk in stream) == 1


def test_the_same_seed_gives_each_choice_the_same_seed_again() -> None:
    engine = scripted()
    app = door(engine)
    answered(app, n=4, seed=-7)
    answered(app, n=4, seed=-7)
    assert sorted(s.seed or 0 for s in engine.samplings[:4]) == sorted(s.seed or 0 for s in engine.samplings[4:])


def test_wishes_reach_the_engine() -> None:
    engine = scripted()
    answered(
        door(engine),
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1.5,
        logit_bias={"42": -100},
        logprobs=True,
        top_logprobs=3,
    )
    sampling = engine.samplings[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 0.5, 7, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1.5)
    assert (sampling.logit_bias, sampling.logprobs) == (((42, -100.0),), 3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_visible_answer_only(stream: bool) -> None:
    engine = scripted(Chain("stop here, it says", "first stop second"))
    app = door(engine)
    if stream:
        chunks = events(chat(app, stop="stop", stream=True).text)
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        finish = chunks[-1]["choices"][0]["finish_reason"]
    else:
        choice = answered(app, stop=["stop", "never"])["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    assert (text, finish) == ("first ", "stop")


def test_a_cut_answer_says_length_and_a_spent_budget_says_stop() -> None:
    app = door(scripted())
    body = answered(app, max_answer_tokens=3)
    assert body["choices"][0]["message"]["content"] == "It "
    assert body["choices"][0]["finish_reason"] == "length"
    body = answered(app, thinking_budget=5)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["thinking"]["stopped_by"] == "budget"


def test_logprobs_are_those_of_the_visible_answer() -> None:
    app = door(scripted())
    body = answered(app, logprobs=True, top_logprobs=0)
    ChatCompletion.model_validate(body, strict=True)
    content = body["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == "It is 7."
    stream = events(chat(app, logprobs=True, stream=True).text)
    streamed = [
        t for c in stream for choice in c["choices"] if "logprobs" in choice for t in choice["logprobs"]["content"]
    ]
    assert streamed == content


def test_the_logarithm_of_nothing_is_still_json() -> None:
    shaped = token_logprobs([TokenLogprob("a", b"a", float("-inf"), (TokenLogprob("b", b"b", -1.0),))])
    assert shaped["content"][0]["logprob"] == -9999.0
    assert shaped["content"][0]["top_logprobs"] == [{"token": "b", "bytes": [98], "logprob": -1.0}]


def test_response_format_becomes_a_grammar() -> None:
    engine = scripted(Chain("hm", '{"a": 1}'))
    app = door(engine)
    answered(app, response_format={"type": "json_object"})
    answered(app, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}})
    answered(app, response_format={"type": "text"})
    grammars = [s.grammar for s in engine.samplings]
    assert grammars[0] is not None
    assert grammars[0].schema is None
    assert grammars[1] is not None
    assert grammars[1].schema == '{"type": "object"}'
    assert grammars[2] is None


def test_all_roles_and_text_parts_become_the_prompt() -> None:
    engine = scripted()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "now?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "user", "content": "so?"},
    ]
    answered(door(engine), messages=messages)
    given = engine.prompts[0].messages
    assert [m.role for m in given] == ["developer", "user", "assistant", "tool", "user"]
    assert given[1].content == "what now?"
    assert given[2].tool_calls[0].name == "f"
    assert given[3].tool_call_id == "c1"


def test_a_strategy_is_chosen_by_name_by_object_and_by_model() -> None:
    for choice in ({"strategy": "majority_vote"}, {"strategy": {"name": "majority_vote", "n": 4}}):
        body = answered(door(scripted()), thinking_budget=500, **choice)
        assert body["thinking"]["strategy"] == "majority_vote"
        assert body["thinking"]["samples"] > 1
    body = answered(door(scripted()), model="demo:majority_vote", thinking_budget=500)
    assert body["thinking"]["strategy"] == "majority_vote"
    assert body["model"] == "demo:majority_vote"


def test_a_models_own_strategy_is_the_default() -> None:
    assert answered(door(scripted(), strategy="majority_vote"))["thinking"]["strategy"] == "majority_vote"
    assert answered(door(scripted()))["thinking"]["strategy"] == "direct"
    assert answered(door(scripted()), thinking_budget=-1)["thinking"]["strategy"] == "auto"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"strategy": "nonesuch"}, "strategy"),
        ({"strategy": {"name": "majority_vote", "n": "four"}}, "strategy.n"),
        ({"strategy": {"name": "majority_vote", "m": 4}}, "strategy.m"),
        ({"strategy": {"name": "majority_vote", "n": 10**9}}, "strategy.n"),
        ({"strategy": {"n": 4}}, "strategy.name"),
        ({"verifier": "nonesuch"}, "verifier"),
        ({"verifier": "prm"}, "verifier"),
        ({"model": "demo:direct", "strategy": "majority_vote"}, "strategy"),
    ],
)
def test_a_wrong_strategy_or_verifier_is_named(body: dict[str, Any], param: str) -> None:
    refused(chat(door(scripted()), **body), param=param)


def at_most(samples: int) -> Settings:
    return Settings(limits={"samples": samples})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("strategy", "param", "number"),
    [
        ({"name": "majority_vote", "n": 9}, "strategy.n", 9),
        ({"name": "auto", "n": 9}, "strategy.n", 9),
        ({"name": "beam_search", "beams": 12}, "strategy.beams", 12),
        ({"name": "dvts", "beams": 12, "width": 4}, "strategy.beams", 12),
        ({"name": "particle_filter", "particles": 9}, "strategy.particles", 9),
        ({"name": "revision", "chains": 4, "rounds": 2}, "strategy.chains", 12),
        ({"name": "revision", "chains": 5}, "strategy.chains", 20),
        ({"name": "revision", "rounds": 8}, "strategy.rounds", 9),
    ],
)
def test_more_chains_than_the_server_allows_are_refused(strategy: Any, param: str, number: int) -> None:
    message = refused(chat(door(scripted(), at_most(8)), strategy=strategy), code="above_max_value", param=param)
    assert f"{strategy['name']} asks for {number} chains" in message
    assert "limit of 8" in message


@pytest.mark.parametrize(
    ("strategy", "most"),
    [
        ("majority_vote", 8),
        ("auto", 8),
        ("best_of_n", 3),
        ("revision", 2),
        ({"name": "revision", "chains": 4}, 8),
        ({"name": "revision", "rounds": 2}, 3),
        ("beam_search", 2),
        ("dvts", 2),
        ("particle_filter", 3),
    ],
)
def test_chains_nobody_named_are_lowered_to_what_the_server_allows(strategy: Any, most: int) -> None:
    chains = [Chain(f"thought {i}", f"It is {i}.") for i in range(8)]
    app = door(scripted(*chains), at_most(most), reward_model=ScriptedRewards(lambda line: 0.5))
    for _ in range(2):
        told = answered(app, strategy=strategy, thinking_budget=20_000)["thinking"]
        assert 1 < told["samples"] <= most


def test_a_strategy_that_cannot_do_with_so_few_chains_is_refused() -> None:
    assert "revision" in refused(chat(door(scripted(), at_most(1)), strategy="revision"), param="strategy")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"strategy": {"name": "beam_search", "beams": 2, "width": 4}},
            "strategy: beams (2) must be at least width (4): N/M chains are kept a step",
        ),
        (
            {"strategy": {"name": "dvts", "beams": 2, "width": 4}},
            "strategy: beams (2) must be at least width (4): there are N/M subtrees",
        ),
        ({"strategy": {"name": "best_of_n", "m": 4}}, "strategy.m: there is no such parameter"),
        ({"verifier": "rules"}, "verifier needs at least one of `pattern`, `json_schema`, `number`"),
        ({"verifier": {"name": "code", "tests": []}}, "verifier.tests should have at least 1 item, not 0"),
        (
            {"verifier": {"name": "rules", "pattern": "("}},
            "verifier.pattern is not a regular expression of RE2 (https://github.com/google/re2/wiki/Syntax)",
        ),
        ({"messages": []}, "messages should have at least 1 item, not 0"),
        ({"messages": [5]}, "messages.0 should be an object"),
        ({"thinking_budget": "5"}, "thinking_budget should be a valid integer or 'auto'"),
    ],
)
def test_a_refusal_reads_well(body: dict[str, Any], message: str) -> None:
    assert refused(chat(door(scripted()), **body)) == message


def test_a_model_name_may_hold_slashes_and_a_wrong_one_is_404() -> None:
    app = door(scripted(), name="org/model")
    assert answered(app, model="org/model")["model"] == "org/model"
    assert answered(app, model="org/model:direct")["thinking"]["strategy"] == "direct"
    assert "org/none" not in refused(chat(app, model="org/none"), 404, "model_not_found", "model")
    refused(chat(app, model="org/model:nonesuch"), 404, "model_not_found", "model")


def test_tenants_have_their_own_caches() -> None:
    engine = scripted()
    answered(door(engine))
    assert engine.samplings[0].tenant == "anyone"


def test_many_at_once_each_get_their_own() -> None:
    engine = ScriptedEngine(lambda p, t, c: Chain("thinking", f"to {question(p)}"), delay=0.0001)
    app = door(engine, lengths=Lengths(20, 40))

    async def go(url: str) -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str | None:
                messages: list[Any] = [{"role": "user", "content": f"number {i}"}]
                done = await client.chat.completions.create(model="demo", messages=messages)
                return done.choices[0].message.content

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(i)) for i in range(32)]
            return [task.result() for task in tasks]

    with serving(app) as place:
        assert asyncio.run(go(place.url)) == [f"to number {i}" for i in range(32)]


ODD: dict[str, Any] = {"wei rd\n": 1}


def test_what_is_not_known_is_named_in_a_header() -> None:
    response = chat(door(scripted()), service_tier="auto", prompt_cache_key="x", store=False, **ODD)
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "service_tier, prompt_cache_key, ?"
    assert "x-ignored-parameters" not in chat(door(scripted()), store=False, user="me").headers


def test_what_is_not_known_inside_of_objects_is_named_by_its_path() -> None:
    earlier: dict[str, Any] = {
        "role": "assistant",
        "content": "x",
        "refusal": None,
        "annotations": [],
        "reasoning_content": "y",
    }
    part = {"type": "text", "text": "again", "cache_control": {"type": "ephemeral"}}
    response = chat(
        door(scripted()),
        messages=[{"role": "user", "content": "x"}, earlier, earlier, {"role": "user", "content": [part, part]}],
        reasoning={"effort": "low", "summary": "auto"},
        chat_template_kwargs={"add_vision_id": True},
        thinking_config={"include_thoughts": False},
        response_format={"type": "text", "odd one": 1},
        strategy={"name": "majority_vote", "n": 2},
        metadata={"mine": "own"},
        verbosity="low",
    )
    assert response.status_code == 200
    assert set(response.headers["x-ignored-parameters"].split(", ")) == {
        "verbosity",
        "messages.annotations",
        "messages.reasoning_content",
        "messages.content.cache_control",
        "chat_template_kwargs.add_vision_id",
        "thinking_config.include_thoughts",
        "?",
    }


def test_the_header_of_what_is_not_known_has_an_end() -> None:
    many = {f"{'k' * 50}{i}": 1 for i in range(1000)}
    response = chat(door(scripted()), chat_template_kwargs=many, verbosity="low")
    names = response.headers["x-ignored-parameters"].split(", ")
    assert names[0] == "verbosity"
    assert len(names) <= 32
    assert max(map(len, names)) <= 64


def test_a_judged_strategy_has_a_verifier_and_what_it_needs() -> None:
    engine = scripted()
    told = answered(door(engine), strategy="best_of_n", thinking_budget=600)["thinking"]
    assert told["verifier"] == "confidence"
    assert 0 <= told["score"] <= 1
    assert all(sampling.likelihood for sampling in engine.samplings)
    rewards = ScriptedRewards(lambda line: 0.75)
    told = answered(door(engine, reward_model=rewards), strategy="best_of_n", thinking_budget=600)["thinking"]
    assert (told["verifier"], told["score"], told["verifier_tokens"]) == ("prm", 0.75, rewards.read)
    told = answered(door(engine), strategy="best_of_n", verifier="agreement", thinking_budget=600)["thinking"]
    assert told["verifier"] == "agreement"


@pytest.mark.parametrize(("wish", "judge"), [({}, "consensus"), ({"verifier": "agreement"}, "agreement")])
def test_a_strategy_that_names_its_verifier_is_judged_by_it_where_the_request_names_none(
    wish: dict[str, Any], judge: str
) -> None:
    app = door(scripted(), reward_model=ScriptedRewards(lambda line: 0.75))
    told = answered(app, strategy="universal_self_consistency", thinking_budget=600, **wish)["thinking"]
    assert told["verifier"] == judge


def test_who_sends_a_verifier_and_no_strategy_gets_the_best_of_many() -> None:
    rules = {"name": "rules", "number": 7}
    chain = Chain("three and four", "The answer is \\boxed{7}.")
    response = chat(door(scripted(chain)), verifier=rules, thinking_budget=600)
    told = response.json()["thinking"]
    assert (told["strategy"], told["verifier"], told["score"]) == ("best_of_n", "rules", 1.0)
    assert told["samples"] > 1
    assert "x-ignored-parameters" not in response.headers
    told = answered(door(scripted(), strategy="majority_vote"), verifier=rules, thinking_budget=600)["thinking"]
    assert told["strategy"] == "best_of_n"
    told = answered(door(scripted(), strategy="revision"), verifier=rules, thinking_budget=600)["thinking"]
    assert told["strategy"] == "revision"


@pytest.mark.parametrize("body", [{"strategy": "direct"}, {"strategy": "majority_vote"}, {"model": "demo:direct"}])
def test_a_verifier_for_a_strategy_that_asks_none_is_named_as_without_effect(body: dict[str, Any]) -> None:
    app = door(scripted())
    response = chat(app, **body, verifier={"name": "rules", "number": 7}, verbosity="low")
    assert response.status_code == 200
    assert response.headers["x-ignored-parameters"] == "verifier, verbosity"
    refused(chat(app, **body, verifier={"name": "rules"}), param="verifier")
    assert "x-ignored-parameters" not in chat(app, **body).headers


def test_a_verifier_that_fails_is_stood_in_for_and_it_is_said() -> None:
    app = door(scripted(), reward_model=ScriptedRewards(lambda line: 0.75, fails=True))
    told = answered(app, strategy="best_of_n", thinking_budget=600)["thinking"]
    assert (told["verifier"], told["verifier_degraded"]) == ("agreement", True)


def test_the_configuration_chooses_with_parameters() -> None:
    app = door(scripted(), strategy={"name": "majority_vote", "n": 3, "mode": "rounds", "first": 3})
    told = answered(app, thinking_budget=6000)["thinking"]
    assert (told["strategy"], told["samples"]) == ("majority_vote", 3)
    judged = door(scripted(), strategy="best_of_n", verifier={"name": "rules", "number": 12345})
    told = answered(judged, thinking_budget=600)["thinking"]
    assert (told["verifier"], told["score"]) == ("rules", 0.0)


def test_what_a_judgement_lacks_is_said() -> None:
    whole = answered(door(scripted()), strategy="best_of_n", thinking_budget=600)["thinking"]
    assert not {"verifier_degraded", "verifier_truncated", "ungrouped"} & set(whole)
    rewards = ScriptedRewards(lambda line: 0.75, truncates=True)
    told = answered(door(scripted(), reward_model=rewards), strategy="best_of_n", thinking_budget=600)["thinking"]
    assert told["verifier_truncated"] is True
    silent = scripted(Chain("I wonder\n", "Who knows?"))
    told = answered(door(silent), strategy="majority_vote", thinking_budget=600)["thinking"]
    assert told["ungrouped"] is True
    assert "agreement" not in told
