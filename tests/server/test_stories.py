"""The whole of it: `ponder serve` with the bundled reasoner, asked by the OpenAI SDK, and what the engine itself
counted."""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ponder.models.task import make, read_answer
from tests.server.test_serve import ponder_serve

BUDGETS: list[int | None] = [0, 16, 64, 256, -1, None]
DEFAULT_CEILING = 1 << 18


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with ponder_serve(tmp_path_factory.mktemp("stories")) as (_, address):
        yield address


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server with the bundled process reward model beside the reasoner."""
    with ponder_serve(tmp_path_factory.mktemp("judged"), "demo", "--prm", "demo-prm") as (_, address):
        yield address


def stories(n: int, seed: int) -> list[Any]:
    chance = random.Random(seed)
    return [make(chance, "test", 1 + i % 5) for i in range(n)]


def series(url: str, path: str, pattern: str) -> float:
    """The sum of the samples of a metrics page whose line begins with `pattern`."""
    transcript = httpx.get(f"{url}{path}", timeout=60).text
    return sum(float(v) for v in re.findall(rf"^{pattern}(?:{{[^}}]*}})? ([0-9.e+]+)$", transcript, re.MULTILINE))


def by_us(url: str, role: str, kinds: str) -> float:
    """Tokens by our own metrics. Asking for them may have the models checked."""
    transcript = httpx.get(f"{url}/metrics", timeout=60).text
    lines = re.findall(r"^ponder_engine_tokens_total{([^}]*)} ([0-9.e+]+)$", transcript, re.MULTILINE)
    wanted = (f'role="{role}"', f'kind="({kinds})"')
    return sum(float(v) for labels, v in lines if all(re.search(label, labels) for label in wanted))


def written(url: str) -> float:
    """Tokens the model has written for requests, by our metrics; the engine's own counter tells the same."""
    ours, checks = by_us(url, "generator", "thinking|visible"), by_us(url, "check", "visible")
    end = time.monotonic() + 60
    while (engine := series(url, "/metrics/engine", "vllm:generation_tokens_total") - checks) != ours:
        assert time.monotonic() < end, f"the engine has written {engine} tokens, of which we know {ours}"
        time.sleep(0.05)
    return ours


@dataclass(frozen=True)
class Said:
    text: str
    finish: str | None
    usage: CompletionUsage
    thinking: dict[str, Any]

    @property
    def reasoning(self) -> int:
        assert self.usage.completion_tokens_details
        tokens = self.usage.completion_tokens_details.reasoning_tokens
        assert tokens is not None
        return tokens


class Asker:
    """An unmodified OpenAI client."""

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)

    def whole(self, question: str, **fields: Any) -> Said:
        create: Any = self.client.chat.completions.create
        out: ChatCompletion = create(model="demo", messages=[{"role": "user", "content": question}], **fields)
        assert out.usage
        extra: Any = out.model_extra
        return Said(out.choices[0].message.content or "", out.choices[0].finish_reason, out.usage, extra["thinking"])

    def streamed(self, question: str, **fields: Any) -> Said:
        create: Any = self.client.chat.completions.create
        chunks: list[ChatCompletionChunk] = list(
            create(
                model="demo",
                messages=[{"role": "user", "content": question}],
                stream=True,
                stream_options={"include_usage": True},
                **fields,
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        finish = next(c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason)
        last = chunks[-1]
        assert last.usage
        extra: Any = last.model_extra
        return Said(text, finish, last.usage, extra["thinking"])


@pytest.mark.parametrize("budget", BUDGETS)
def test_ten_stories_under_a_budget_streamed_and_not(url: str, budget: int | None) -> None:
    asker = Asker(url)
    before = written(url)
    billed = right = 0
    for i, story in enumerate(stories(10, seed=4)):
        wishes: dict[str, Any] = {"seed": 1000 + i, "extra_body": {"strategy": "direct"}}
        if budget is not None:
            wishes["extra_body"]["thinking_budget"] = budget
        whole, streamed = asker.whole(story.question, **wishes), asker.streamed(story.question, **wishes)
        for said in (whole, streamed):
            limit = budget if budget is not None and budget >= 0 else DEFAULT_CEILING
            assert said.reasoning <= limit
            assert said.reasoning < said.usage.completion_tokens
            assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
            assert said.thinking["spent"] == said.reasoning
            assert "think>" not in said.text
            if budget == 0:
                assert said.reasoning == 0
            else:
                assert said.reasoning > 0
            billed += said.usage.completion_tokens
            right += read_answer(said.text) == story.answer
        assert streamed.text == whole.text
        assert streamed.finish == whole.finish
        assert streamed.usage.completion_tokens == whole.usage.completion_tokens
        assert streamed.reasoning == whole.reasoning
    assert written(url) - before == billed
    if budget in (256, -1, None):
        assert right >= 8, f"{right} of 20 right"


def test_minus_one_alone_is_auto_within_the_servers_ceiling(url: str) -> None:
    """What the README shows, as a caller sends it: `thinking_budget: -1` and no strategy."""
    asker = Asker(url)
    before = written(url)
    billed = right = 0
    for i, story in enumerate(stories(10, seed=6)):
        wishes: dict[str, Any] = {"seed": 500 + i, "extra_body": {"thinking_budget": -1}}
        for said in (asker.whole(story.question, **wishes), asker.streamed(story.question, **wishes)):
            assert said.thinking["strategy"] == "auto"
            assert said.thinking["budget_source"] == "thinking_budget"
            assert 0 < said.reasoning == said.thinking["spent"] <= said.thinking["budget"] == DEFAULT_CEILING
            assert said.reasoning < said.usage.completion_tokens
            assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
            assert said.thinking["samples"] >= 1
            assert "think>" not in said.text
            billed += said.usage.completion_tokens
            right += read_answer(said.text) == story.answer
    assert written(url) - before == billed
    assert right >= 16, f"{right} of 20 right"


def test_auto_streamed_and_not_gives_the_same_for_a_seed(url: str) -> None:
    """But for the tokens of chains that were stopped, which are as many as the engine had made by then."""
    asker = Asker(url)
    for i, story in enumerate(stories(8, seed=7)):
        wishes: dict[str, Any] = {"seed": 900 + i, "extra_body": {"thinking_budget": -1}}
        whole, streamed = asker.whole(story.question, **wishes), asker.streamed(story.question, **wishes)
        assert streamed.text == whole.text
        assert streamed.finish == whole.finish
        assert streamed.thinking["samples"] == whole.thinking["samples"]
        assert streamed.thinking["agreement"] == whole.thinking["agreement"]
        visible = [said.usage.completion_tokens - said.reasoning for said in (streamed, whole)]
        assert visible[0] == visible[1]


@pytest.mark.parametrize("strategy", [{"name": "best_of_n", "n": 4}, "beam_search"], ids=["best_of_n", "beam_search"])
def test_the_reward_model_judges_and_every_token_it_reads_is_told(judged: str, strategy: Any) -> None:
    asker = Asker(judged)
    right = 0
    for i, story in enumerate(stories(4, seed=len(str(strategy)))):
        before, read = written(judged), by_us(judged, "verifier", "prompt|cached")
        wishes: dict[str, Any] = {"seed": i, "extra_body": {"strategy": strategy, "thinking_budget": 900}}
        said = (asker.streamed if i % 2 else asker.whole)(story.question, **wishes)
        assert said.thinking["verifier"] == "prm"
        assert "verifier_degraded" not in said.thinking
        assert 0 < said.thinking["score"] <= 1
        assert said.thinking["verifier_tokens"] == by_us(judged, "verifier", "prompt|cached") - read > 0
        assert said.reasoning <= 900
        assert written(judged) - before == said.usage.completion_tokens
        right += read_answer(said.text) == story.answer
    assert by_us(judged, "verifier", "thinking|visible") == 0
    assert right >= 2, f"{right} of 4 right"


def test_every_strategy_is_bounded_and_billed_on_the_real_engine(url: str) -> None:
    asker = Asker(url)
    names = [s["name"] for s in httpx.get(f"{url}/v1/strategies", timeout=60).json()["data"]]
    assert "majority_vote" in names
    for name in names:
        for budget in (40, 300):
            before = written(url)
            said = asker.whole(stories(1, seed=9)[0].question, extra_body={"strategy": name, "thinking_budget": budget})
            assert said.reasoning <= budget, name
            assert said.text, name
            assert written(url) - before == said.usage.completion_tokens, name


def test_hang_ups_at_random_moments_leave_nothing_running_and_nothing_uncounted(url: str) -> None:
    before = written(url)
    chance = random.Random(3)
    questions = [story.question for story in stories(100, seed=5)]

    async def hang_up(client: httpx.AsyncClient, question: str, streamed: bool, patience: float | None) -> bool:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": question}],
            "stream": streamed,
            "n": 4,
            "thinking_budget": 1000,
        }
        try:
            async with asyncio.timeout(patience):
                await client.post(f"{url}/v1/chat/completions", json=body)
        except TimeoutError:
            return True
        return False

    async def all_of_them() -> int:
        async with httpx.AsyncClient(timeout=300) as client, asyncio.TaskGroup() as group:
            gate = asyncio.Semaphore(8)
            durations: list[float] = []

            async def gated(i: int) -> bool:
                async with gate:
                    begun = time.monotonic()
                    # The first are waited for: how long an answer takes here says when "in the middle" is.
                    patience = None if i < 16 else chance.uniform(0, statistics.median(durations))
                    gone = await hang_up(client, questions[i // 2 % 100], bool(i % 2), patience)
                    if i < 16:
                        durations.append(time.monotonic() - begun)
                    return gone

            tasks = [group.create_task(gated(i)) for i in range(136)]
        return sum(task.result() for task in tasks)

    assert asyncio.run(all_of_them()) > 50
    end = time.monotonic() + 60
    while series(url, "/metrics", "ponder_inflight_requests"):
        assert time.monotonic() < end, "still in flight long after the last hang-up"
        time.sleep(0.02)
    assert series(url, "/metrics/engine", "vllm:num_requests_running") == 0
    assert written(url) > before


def test_anthropics_client_hears_what_openais_does_and_pays_the_same(url: str) -> None:
    """The demo's own engine: text, counts of tokens, the stop sequence that was met, and the thought handed back."""
    (story,) = stories(1, 33)
    seeded: dict[str, Any] = {"seed": 5, "thinking_budget": 64}
    asked: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": story.question}]}
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as theirs,
        anthropic.Anthropic(base_url=url, api_key="none") as client,
    ):
        completions: Any = theirs.chat.completions
        messages: Any = client.messages
        said = completions.create(**asked, max_tokens=500, extra_body=seeded)
        whole = messages.create(**asked, max_tokens=500, extra_body=seeded)
        with messages.stream(**asked, max_tokens=500, extra_body=seeded) as stream:
            streamed = stream.get_final_message()
        for message in (whole, streamed):
            (block,) = message.content
            assert block.text == said.choices[0].message.content
            read = message.usage.input_tokens + message.usage.cache_read_input_tokens
            hidden = message.usage.output_tokens_details.thinking_tokens
            assert read == said.usage.prompt_tokens == messages.count_tokens(**asked).input_tokens
            assert message.usage.output_tokens == said.usage.completion_tokens
            assert hidden == said.usage.completion_tokens_details.reasoning_tokens > 0
        answer = whole.content[0].text
        cut = messages.create(**asked, max_tokens=500, stop_sequences=[answer[-1]], extra_body=seeded)
        assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", answer[-1])
        thinking = {"type": "enabled", "budget_tokens": 64}
        turn = messages.create(**asked, max_tokens=500, thinking=thinking)
        assert [one.type for one in turn.content] == ["thinking", "text"]
        asked["messages"] += [turn.to_param(), {"role": "user", "content": story.question}]
        assert messages.create(**asked, max_tokens=500, thinking=thinking).content[-1].text
