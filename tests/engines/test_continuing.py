"""What a chain goes on with, on the real engine: a constrained answer that was cut anywhere stays one document, and a
chain in circles is ended, however many calls it was written in."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pytest

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Grammar, Sampling
from ponder.compute.errors import EngineError
from ponder.compute.text import Candidate, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions
from ponder.engines.profiles import Profile
from ponder.engines.scheduling import EVERY, circles
from ponder.engines.vllm import VllmEngine

T = TypeVar("T")
DEMO = Path(__file__).parents[2] / "models" / "demo"
STORY = "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"

NESTED = {
    "type": "object",
    "properties": {
        "who": {"type": "object", "properties": {"name": {"enum": ["Tom", "Ann"]}}, "required": ["name"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["who", "n", "sure"],
}
SCHEMAS: dict[str, Any] = {
    "nested": NESTED,
    "array": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 999},
        "minItems": 4,
        "maxItems": 6,
    },
    "enum": {"enum": ["apples", "apple trees", {"kind": "apple", "n": [1, 2, None]}]},
    "strings": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 5, "maxLength": 12},
            "more": {"type": "string", "pattern": "^[a-c]{4}$"},
        },
        "required": ["text", "more"],
    },
}


@dataclass
class Stage:
    """The engine in a loop of its own."""

    loop: asyncio.AbstractEventLoop
    engine: VllmEngine

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=300)

    async def write(
        self,
        thinking: int,
        answer: int,
        begun: Candidate | None = None,
        engine: VllmEngine | None = None,
        **wishes: Any,
    ) -> Candidate:
        prompt = begun.prompt if begun else Prompt((Message("user", STORY),))
        reservation = Spending(Budget(100_000, 100_000)).reserve("test", thinking=thinking, answer=answer, bound=True)
        transcript = Transcript(reservation, prompt, begun)
        sampling = Sampling(thinking=thinking, answer=answer, **wishes)
        async with aclosing((engine or self.engine).generate(prompt, sampling, transcript)) as stream:
            async for _ in stream:
                pass
        return transcript.candidate()


@pytest.fixture(scope="module")
def stage(loop: asyncio.AbstractEventLoop) -> Iterator[Stage]:
    options = EngineOptions(kv_cache_memory_bytes=1 << 28)
    started = asyncio.run_coroutine_threadsafe(
        vllm.start(str(DEMO), name="continuing", profile=None, options=options), loop
    )
    stage = Stage(loop, started.result(timeout=300))
    yield stage
    stage.do(stage.engine.close())


@pytest.mark.parametrize("thinking", [0, 40])
@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_cut_at_any_token_goes_on_as_the_same_document(stage: Stage, name: str, thinking: int) -> None:
    schema = SCHEMAS[name]
    grammar = Grammar(json.dumps(schema))

    async def cut_everywhere() -> tuple[Candidate, list[tuple[Candidate, Candidate]]]:
        whole = await stage.write(thinking, 300, seed=1, grammar=grammar)

        async def cut(at: int) -> tuple[Candidate, Candidate]:
            half = await stage.write(thinking, at, seed=1, grammar=grammar)
            return half, await stage.write(0, 300, half, seed=at, grammar=grammar)

        return whole, list(await asyncio.gather(*map(cut, range(1, whole.visible))))

    whole, cuts = stage.do(cut_everywhere())
    jsonschema.validate(json.loads(whole.text), schema)
    assert cuts
    for half, rest in cuts:
        assert half.ending == "length"
        assert rest.ending == "finished"
        assert rest.text.startswith(half.text)
        jsonschema.validate(json.loads(rest.text), schema)


def test_an_answer_cut_at_every_token_is_still_one_document(stage: Stage) -> None:
    async def grown() -> Candidate:
        chain = await stage.write(20, 1, seed=3, grammar=Grammar(json.dumps(NESTED)))
        while chain.ending == "length":
            chain = await stage.write(0, 1, chain, seed=len(chain.text), grammar=Grammar(json.dumps(NESTED)))
        return chain

    chain = stage.do(grown())
    assert chain.ending == "finished"
    jsonschema.validate(json.loads(chain.text), NESTED)


def test_an_answer_that_is_not_of_its_grammar_fails_alone(stage: Stage) -> None:
    async def wrong() -> Candidate:
        half = await stage.write(0, 3, temperature=0.0)
        assert half.text[:1] not in ("{", "")
        with pytest.raises(EngineError):
            await stage.write(0, 50, half, grammar=Grammar(json.dumps(NESTED)))
        return await stage.write(0, 200, grammar=Grammar(json.dumps(NESTED)))

    jsonschema.validate(json.loads(stage.do(wrong()).text), NESTED)


def test_what_the_last_token_of_a_thought_spells_beyond_it_is_no_part_of_a_document(stage: Stage) -> None:
    """Markers that are text end within a token as likely as behind one."""
    llm = stage.engine.llm
    profile = Profile(
        name="boxed", start="", end=" \\bo", opening="", closing="\n \\bo", closed="", switch="", step="\n"
    )
    engine = VllmEngine(llm, llm.get_tokenizer(), profile, "boxed")
    free = stage.do(stage.write(200, 1, engine=engine, temperature=0.0, logprobs=0))
    assert free.text.startswith("xed{")
    held = stage.do(stage.write(200, 200, engine=engine, temperature=0.0, grammar=Grammar(json.dumps(NESTED))))
    assert not held.forced
    jsonschema.validate(json.loads(held.text), NESTED)
    for n in (1, 5):
        half = stage.do(stage.write(200, n, engine=engine, temperature=0.0, grammar=Grammar(json.dumps(NESTED))))
        rest = stage.do(stage.write(0, 200, half, engine=engine, grammar=Grammar(json.dumps(NESTED))))
        jsonschema.validate(json.loads(rest.text), NESTED)


class Leaning:
    """A vLLM whose model writes one token again and again in its thoughts."""

    def __init__(self, llm: Any, token: int) -> None:
        self._llm, self._token = llm, token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    async def add_request(self, number: str, inputs: Any, params: Any) -> Any:
        if params.logit_bias is None:
            params = copy(params)
            params.logit_bias = {self._token: 100.0}
        return await self._llm.add_request(number, inputs, params)


CIRCLE = 512 + EVERY
"""Tokens by which the shortest pattern counts."""


def leaning(stage: Stage, **wishes: Any) -> VllmEngine:
    llm = stage.engine.llm
    token = stage.engine.model.prompts.with_markers("7")[0]
    return VllmEngine(Leaning(llm, token), llm.get_tokenizer(), stage.engine.model.profile, "leaning", **wishes)


def test_a_thought_in_circles_is_closed_and_answered(stage: Stage) -> None:
    candidate = stage.do(stage.write(700, 30, engine=leaning(stage)))
    assert candidate.circled
    assert candidate.forced
    assert 512 <= candidate.hidden <= CIRCLE
    assert candidate.visible > 0
    assert not stage.do(stage.write(400, 30, engine=leaning(stage))).circled


def test_a_circle_that_spans_calls_is_one(stage: Stage) -> None:
    """A search draws a thought in steps, each a call of its own."""
    engine = leaning(stage)

    async def steps() -> list[Candidate]:
        chain = [await stage.write(70, 0, engine=engine, until="\n")]
        while chain[-1].ending == "length" and len(chain) < 10:
            chain.append(await stage.write(70, 0, chain[-1], engine=engine, until="\n"))
            if chain[-1].circled:
                break
        return chain

    chain = stage.do(steps())
    assert chain[-1].circled
    assert not chain[-1].thinking
    assert 512 <= sum(candidate.hidden for candidate in chain) <= CIRCLE
    answered = stage.do(stage.write(0, 50, chain[-1]))
    assert answered.circled
    assert answered.visible > 0


def test_an_answer_in_circles_is_ended_where_the_operator_asks(stage: Stage) -> None:
    bias = ((stage.engine.model.prompts.with_markers("7")[0], 100.0),)
    free = stage.do(stage.write(0, 700, logit_bias=bias))
    assert (free.visible, free.circled) == (700, False)
    held = stage.do(stage.write(0, 700, logit_bias=bias, engine=leaning(stage, repetition_in_answers=True)))
    assert held.circled
    assert held.ending == "length"
    assert 512 <= held.visible <= CIRCLE


HONEST = {
    "zeros": "dp = [" + ", ".join(["0"] * 160) + "]",
    "grid": "\n".join([". . . . # . . ."] * 12),
    "table": "| n | n^2 |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(200)),
    "empty table": "|   |   |   |\n|---|---|---|\n" + "|   |   |   |\n" * 20,
    "loop": "for i in range(10):\n" + "    total += values[i]\n" * 20,
    "count": " ".join(map(str, range(400))),
    "json": json.dumps([{"id": n, "name": "apple", "price": 1.5, "tags": ["a", "b"]} for n in range(60)]),
    "same records": json.dumps([{"x": 0, "y": 0, "z": 0}] * 12),
    "cases": "".join(f"Case {n}: n is even, so the rule holds. Check: {n} / 2 = {n // 2}.\n" for n in range(2, 120, 2)),
    "doubts": "Wait, let me check that again. " * 8,
    "rule": "-" * 120 + "\n" + "=" * 120,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_repetition_is_no_circle(stage: Stage, name: str) -> None:
    ids = stage.engine.model.prompts.with_markers("Let me write it down.\n" + HONEST[name] + "\nSo that is it.")
    pattern = stage.engine.calls.repetition
    assert not any(circles(ids[:n], n, pattern) for n in range(1, len(ids) + 1))


@pytest.mark.parametrize(
    "unit",
    [
        "7",
        "no, ",
        "Wait, let me check that again. ",
        "First I add the apples, then I take the pens away, and so on.\n" * 3,
    ],
)
def test_a_circle_is_seen_whatever_its_length(stage: Stage, unit: str) -> None:
    pattern = stage.engine.calls.repetition
    ids = stage.engine.model.prompts.with_markers("Tom has 12 apples.\n" + unit * (3000 // len(unit)))
    seen = next(n for n in range(1, len(ids) + 1) if circles(ids[:n], n, pattern))
    assert seen <= 16 + 4 * (128 + len(stage.engine.model.prompts.with_markers(unit)))


APART = """
import asyncio, json, sys
from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Grammar, Sampling
from ponder.compute.transcript import Transcript
from ponder.compute.text import Message, Prompt
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text

async def main():
    options = EngineOptions(kv_cache_memory_bytes=3 << 20, max_model_len=256, max_num_seqs=48)
    engine = await vllm.start(sys.argv[1], name="apart", profile=None, options=options)
    grammar = Grammar(sys.argv[2])

    async def write(thinking, answer, begun=None, *, seed):
        prompt = begun.prompt if begun else Prompt((Message("user", f"What is {seed} + 7?"),))
        reservation = Spending(Budget(1000, 1000)).reserve("test", thinking=thinking, answer=answer, bound=True)
        transcript = Transcript(reservation, prompt, begun)
        async for _ in engine.generate(prompt, Sampling(thinking, answer, grammar=grammar, seed=seed), transcript):
            pass
        return transcript.candidate()

    async def cut(n):
        half = await write(60, 2 + n % 20, seed=n)
        return half.text, (await write(0, 120, half, seed=n)).text

    texts = await asyncio.gather(*map(cut, range(48)))
    lines = metrics_text().decode().splitlines()
    preempted = sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_preemptions_total{"))
    print(json.dumps({"texts": texts, "preempted": preempted}))
    await engine.close()

asyncio.run(main())
"""


def test_an_engine_in_a_process_of_its_own_goes_on_with_answers_even_if_it_has_to_read_them_again() -> None:
    """Its cache is too small for all of them, so some are put aside and read anew."""
    schema = {"type": "array", "items": {"enum": ["apples", "pens", "books"]}, "minItems": 5, "maxItems": 6}
    ran = subprocess.run(
        [sys.executable, "-c", APART, str(DEMO), json.dumps(schema)],
        cwd=DEMO.parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    assert found["preempted"] > 0
    for half, whole in found["texts"]:
        assert whole.startswith(half)
        jsonschema.validate(json.loads(whole), schema)
