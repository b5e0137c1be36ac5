"""Grammars reach the engine only where they compiled in time, in a process that can be killed; and nobody waits for
another's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import xgrammar
from transformers import AutoTokenizer

from ponder.compute.engine import CallSchema, Grammar, Sampling
from ponder.compute.errors import RequestError, Unavailable
from ponder.engines.grammars import encoded
from ponder.engines.held_grammars import Held, HeldGrammars, _Remembered  # pyright: ignore[reportPrivateUsage]
from tests.compute.test_pool import none_left, workers
from tests.engines.scripted_vllm import FAMILIES, ScriptedVllm, engine

DEMO = Path(__file__).parents[2] / "models" / "demo"
EVER = 600.0
"""Seconds of processor time that no test waits for."""


@cache
def vocabulary() -> str:
    tokenizer = cast(Any, AutoTokenizer).from_pretrained(str(DEMO))
    return xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=1154).serialize_json()


@pytest.fixture
def grammars() -> Iterator[HeldGrammars]:
    """Of the bundled model, with all the time there is."""
    made = HeldGrammars("hermes", EVER, vocabulary)
    yield made
    made.close()


def names(n: int, length: int = 12) -> Grammar:
    """One of so many names, all different."""
    return Grammar(json.dumps({"enum": [f"{i * 7919 % 999983:0{length}d}" for i in range(n)]}))


SMALL = Grammar('{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}')
SLOW = names(9_000)
"""Takes seconds to compile."""


def test_what_compiles_is_held_as_it_was_made(grammars: HeldGrammars) -> None:
    calls = Grammar(None, calls=(CallSchema("time", '{"type": "object", "properties": {"zone": {}}}'),), document=False)

    async def main() -> list[Held]:
        return [await grammars.held(grammar, "a") for grammar in (SMALL, calls, Grammar())]

    assert [(held.kind, held.text) for held in asyncio.run(main())] == [*map(encoded, (SMALL, calls, Grammar()))]


def test_what_is_known_takes_no_worker(grammars: HeldGrammars) -> None:
    asyncio.run(grammars.held(SMALL, "a"))
    with pytest.raises(StopIteration) as known:
        grammars.held(SMALL, "a").send(None)
    assert isinstance(known.value.value, Held)


@pytest.mark.parametrize("schema", ['{"type": "no-such-secret"}', '{"not": {}}', '{"$ref": "http://secret"}'])
def test_a_schema_that_cannot_be_held_is_refused_in_the_same_words_each_time(
    grammars: HeldGrammars, schema: str
) -> None:
    with pytest.raises(RequestError) as here:
        encoded(Grammar(schema))
    for _ in range(2):
        with pytest.raises(RequestError) as refused:
            asyncio.run(grammars.held(Grammar(schema), "a"))
        assert (refused.value.message, refused.value.param) == (here.value.message, here.value.param)
        assert "secret" not in refused.value.message


def test_one_that_takes_too_long_is_refused_with_what_to_do() -> None:
    hasty = HeldGrammars("hermes", 0.02, vocabulary)
    try:
        for _ in range(2):
            with pytest.raises(RequestError, match=r"takes more than 0\.02 s to be compiled: use fewer") as refused:
                asyncio.run(hasty.held(SLOW, "a"))
            assert (refused.value.param, refused.value.code) == ("response_format", "invalid_json_schema")
    finally:
        hasty.close()


def test_a_caller_who_goes_takes_the_compiling_along(grammars: HeldGrammars) -> None:
    async def main() -> bool:
        await grammars.held(SMALL, "a")
        # What they took to start is none of it.
        before = {worker: worker.cpu_times().user for worker in workers()}
        compiling = asyncio.create_task(grammars.held(SLOW, "a"))
        while not (busy := {worker for worker, spent in before.items() if worker.cpu_times().user > spent + 1}):
            assert not compiling.done()
            await asyncio.sleep(0.01)
        compiling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await compiling
        return none_left(busy)

    assert asyncio.run(main())


def test_another_tenants_small_schema_waits_for_no_bomb(grammars: HeldGrammars) -> None:
    async def main() -> list[bool]:
        await grammars.held(SMALL, "a")
        async with asyncio.TaskGroup() as tasks:
            bombs = [tasks.create_task(grammars.held(names(9_000 + i), "bomber")) for i in range(8)]
            await asyncio.sleep(0)
            await grammars.held(SMALL, "b")
            await grammars.held(Grammar('{"type": "integer"}'), "b")
            done = [bomb.done() for bomb in bombs]
            for bomb in bombs:
                bomb.cancel()
        return done

    assert asyncio.run(main()) == [False] * 8


def test_the_same_schema_asked_for_at_once_is_compiled_once(grammars: HeldGrammars) -> None:
    async def main() -> tuple[int, int]:
        await grammars.begin()
        before = workers()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(grammars.held(SMALL, "a"))
        return len(before), len(workers() | before)

    before, after = asyncio.run(main())
    assert after <= before + 1


def test_a_machine_without_memory_is_no_unknown_vocabulary() -> None:
    """And the next request may find some."""
    times = iter([MemoryError(), None])

    def written() -> str:
        if (error := next(times)) is not None:
            raise error
        return vocabulary()

    async def main() -> Held:
        with pytest.raises(Unavailable):
            await grammars.held(SMALL, "a")
        return await grammars.held(SMALL, "a")

    grammars = HeldGrammars("hermes", EVER, written)
    try:
        assert asyncio.run(main()).text
    finally:
        grammars.close()


def test_what_is_remembered_is_bounded_and_costs_whoever_has_most() -> None:
    known = _Remembered(40_000)
    known.put("small", SMALL, Held("grammar", "x"))
    many = [Grammar(f'"{i}"') for i in range(100)]
    for grammar in many:
        known.put("much", grammar, Held("grammar", "y" * 1000))
    assert known.get("small", SMALL) is not None
    assert known.get("much", many[0]) is None
    assert known.get("much", many[-1]) is not None
    assert known.get("small", many[-1]) is None


BOMBS: dict[str, Any] = {
    "an enum": {"enum": [f"{i:032d}" for i in range(8_000)]},
    "properties": {"type": "object", "properties": {f"{i:060d}": {} for i in range(2_500)}},
    "patterns": {"type": "array", "prefixItems": [{"type": "string", "pattern": "^(a{100}|b{100}){5}$"}] * 300},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_schema_that_grows_out_of_all_bounds_is_refused_before_it_is_compiled(name: str) -> None:
    with pytest.raises(RequestError, match=r"its grammar would have about [0-9]+ states") as refused:
        encoded(Grammar(json.dumps(BOMBS[name])))
    assert refused.value.code == "invalid_json_schema"


def test_an_engine_accepts_what_compiles_in_time_and_nothing_else() -> None:
    model = engine(ScriptedVllm(FAMILIES["ids"]))

    async def main() -> None:
        await model.accept(Sampling(0, 1, grammar=SMALL))
        with pytest.raises(RequestError, match=r"too large to be enforced|to be compiled"):
            await model.accept(Sampling(0, 1, grammar=Grammar(json.dumps(BOMBS["an enum"]))))
        await model.close()

    asyncio.run(main())


def test_the_grammar_of_a_request_that_goes_on_is_not_compiled_anew_when_it_was_forgotten(
    grammars: HeldGrammars,
) -> None:
    grammars._known = _Remembered(0)  # pyright: ignore[reportPrivateUsage] - of others there may be any number
    own = Grammar(SMALL.schema)
    asyncio.run(grammars.held(own, "a"))
    with pytest.raises(StopIteration):
        grammars.held(own, "a").send(None)
    in_hand = grammars._in_hand  # pyright: ignore[reportPrivateUsage]
    assert len(in_hand) == 1
    del own
    assert not in_hand
