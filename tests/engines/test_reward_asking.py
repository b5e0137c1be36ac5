"""How a reward model is asked: whether it answers, and once for what several want to know."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from ponder.compute.engine import LONG, Checked
from ponder.compute.errors import EngineError, Lost, Unaffordable
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Hidden, Message, Prompt
from ponder.engines.reward import ProcessRewardModel
from ponder.engines.reward_profiles import REWARD_PROFILES
from ponder.engines.reward_reader import Reading
from ponder.testing import MARKER, in_virtual_time
from tests.fakes import Told
from tests.memory import within

PRM = Path(__file__).parents[2] / "models" / "demo-prm"


class Reads:
    """A reader that remembers what it was given, and is away when told to be."""

    context = 1000

    def __init__(self) -> None:
        self.read_ids: list[Sequence[int]] = []
        self.names: list[str] = []
        self.away = False
        self.error: EngineError = EngineError("away")
        self.slow = self.slower = 0.0
        self.row = [0.2, 0.8]

    async def read(
        self, ids: Sequence[int], labels: Sequence[int], tenant: str | None = None, name: str = "check"
    ) -> Reading:
        self.read_ids.append(ids)
        self.names.append(name)
        self.slow += self.slower
        await asyncio.sleep(self.slow)
        if self.away:
            raise self.error
        return Reading([self.row] * (1 if labels else len(ids)), cached=3)

    async def close(self) -> None: ...


def judging() -> tuple[Reads, ProcessRewardModel]:
    reader = Reads()
    tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(PRM))
    return reader, ProcessRewardModel(reader, tokenizer, REWARD_PROFILES["demo-prm"], "prm")


def test_a_reward_model_reads_a_chain_to_show_that_it_answers_unless_it_has_just_read_one() -> None:
    async def go() -> None:
        reader, model = judging()
        reader.away = True
        with pytest.raises(EngineError):
            await model.check()
        reader.away = False
        reader.read_ids.clear()
        took = await model.check()
        assert took == Checked(prompt=len(reader.read_ids[0]), cached=3)
        assert await model.check() is None
        assert len(reader.read_ids) == 1

    in_virtual_time(go())


PROMPT = Prompt((Message("user", "What is 1 + 1?"),))
SAME = Candidate(0, PROMPT, Hidden(()), Hidden("1 + 1 = 2\n"), "", 0, 0, True, "step")


def test_what_several_want_to_know_at_once_is_read_once_for_each_tenant() -> None:
    async def go() -> None:
        reader, model = judging()
        reader.slow = 0.01
        told = Told()
        asked = [model.reward(PROMPT, [SAME, SAME], read=told, tenant=t) for t in ("a", "a", "b")]
        found = await asyncio.gather(*asked)
        assert [reward.steps for rewards in found for reward in rewards] == [(0.8,)] * 6
        assert len(reader.read_ids) == 2
        assert told.tokens == sum(map(len, reader.read_ids))

    in_virtual_time(go())


def test_each_call_is_made_within_a_hold_of_all_that_it_reads() -> None:
    async def go() -> None:
        reader, model = judging()
        told, held, most = Told(), 0, 0

        @asynccontextmanager
        async def hold(tokens: int) -> AsyncGenerator[None]:
            nonlocal held, most
            if held + told.tokens + tokens > most:
                raise Unaffordable("no")
            held += tokens
            yield
            held -= tokens

        longer = replace(SAME, thought=Hidden("1 + 1 = 2\nso 2\n"))
        with pytest.raises(Unaffordable):
            await model.reward(PROMPT, [SAME], read=told, hold=hold)
        assert not reader.read_ids
        most = 1000
        await model.reward(PROMPT, [SAME], read=told, hold=hold)
        most = told.tokens + 1
        with pytest.raises(Unaffordable):
            await model.reward(PROMPT, [longer], read=told, hold=hold)
        assert await model.reward(PROMPT, [SAME], read=told, hold=hold)
        assert (held, len(reader.read_ids)) == (0, 1)
        assert told.tokens == len(reader.read_ids[0])

    in_virtual_time(go())


def test_whoever_waits_for_a_judgement_that_is_cut_short_or_fails_asks_again() -> None:
    async def go() -> None:
        reader, model = judging()
        reader.slow = 0.2
        first = asyncio.create_task(model.reward(PROMPT, [SAME], read=Told()))
        await asyncio.sleep(0)
        second = asyncio.create_task(model.reward(PROMPT, [SAME], read=Told()))
        await asyncio.sleep(0.001)
        first.cancel()
        assert (await second)[0].steps == (0.8,)
        assert len(reader.read_ids) == 2

        other = replace(SAME, thought=Hidden("1 + 1 = 3\n"))
        reader.away = True
        both = await asyncio.gather(
            *(model.reward(PROMPT, [other], read=Told()) for _ in range(2)), return_exceptions=True
        )
        assert [type(one) for one in both] == [EngineError, EngineError]
        reader.away = False
        assert (await model.reward(PROMPT, [other], read=Told()))[0].steps == (0.8,)

    in_virtual_time(go())


def test_what_goes_away_with_the_model_is_not_billed() -> None:
    async def go() -> None:
        told: list[tuple[int, int]] = []

        def read(tokens: int, cached: int) -> None:
            told.append((tokens, cached))

        reader, model = judging()
        # One notices it before the others.
        reader.slower, reader.error = 1.0, Lost("the engine is dead")
        chains = [replace(SAME, thought=Hidden(f"1 + {n} = 2\n")) for n in range(3)]
        going = asyncio.create_task(model.reward(PROMPT, chains, read=read))
        await asyncio.sleep(0.5)
        reader.away = True
        with pytest.raises(Lost):
            await going
        assert told == []
        reader.away = False
        await model.reward(PROMPT, chains, read=read)
        assert len(told) == 3

    in_virtual_time(go())


def kept(model: ProcessRewardModel) -> tuple[int, int]:
    """(texts with the marker in them, numbers in rows) that a reward model keeps alive."""
    reached = list(within(model))
    texts = [value for value in reached if isinstance(value, str) and MARKER in value]
    rows = cast("list[list[object]]", [value for value in reached if isinstance(value, list | tuple)])
    numbers = [len(row) for row in rows if all(isinstance(one, int) for one in row)]
    return len(texts), sum(numbers)


@pytest.mark.parametrize("family", ["demo-prm", "qwen2.5-math-prm", "math-shepherd", "rlhflow", "skywork"])
def test_of_a_chain_that_was_judged_nothing_is_kept_but_hashes_and_verdicts(family: str) -> None:
    profile = REWARD_PROFILES[family]
    reader = Reads()
    tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(PRM))
    width = 1 if profile.verdict == "sigmoid" else 2
    reader.row = [0.4] * width
    model = ProcessRewardModel(reader, tokenizer, profile, "prm")
    step = profile.step

    def judge() -> int:
        prompt = Prompt((Message("user", f"Is {MARKER} so?"),))
        thought = step.join(f"{MARKER} {number} and on" for number in range(9))
        chain = Candidate(0, prompt, Hidden(()), Hidden(thought), f"It is {MARKER}.", 0, 0, False, "finished")
        told = Told()
        asyncio.run(model.reward(prompt, [chain], read=told))
        reader.read_ids.clear()
        return told.tokens

    before = kept(model)
    assert judge() > 0
    assert kept(model) == before
    assert judge() == 0, "the verdicts are known"


def test_a_long_chain_is_laid_out_beside_the_event_loop() -> None:
    class Watched(ProcessRewardModel):
        on_loop: list[bool]

        def prefixes(self, prompt: Prompt, thought: Sequence[str], answer: Sequence[str] = ()) -> list[list[int]]:
            self.on_loop.append(threading.current_thread() is threading.main_thread())
            return super().prefixes(prompt, thought, answer)

    tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(PRM))
    for words, on_loop in ((3, True), (LONG, False)):
        model = Watched(Reads(), tokenizer, REWARD_PROFILES["demo-prm"], "prm")
        model.on_loop = []
        prompt = Prompt((Message("user", "Why?"),))
        thought = Hidden(("so " * 100 + "\n") * (1 + words // 300))
        chain = Candidate(0, prompt, Hidden(()), thought, "", 0, 0, True, "step")
        asyncio.run(model.reward(prompt, [chain], read=Told()))
        assert set(model.on_loop) == {on_loop}


def test_whoever_serves_the_model_is_told_which_chain_of_which_request_is_judged() -> None:
    async def go() -> None:
        reader, model = judging()
        calls = [CallIdentity("req_1", (0, i), "reward") for i in range(2)]
        other = replace(SAME, thought=Hidden("1 + 1 = 3\n"))
        await model.reward(PROMPT, [SAME, other], read=Told(), calls=calls)
        assert sorted(reader.names) == ["req_1/0.0/reward", "req_1/0.1/reward"]

    in_virtual_time(go())
