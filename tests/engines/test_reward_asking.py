"""How a reward model is asked: whether it answers, and once for what several want to know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from compute.engine import Checked
from compute.errors import EngineError
from compute.text import Candidate, Hidden, Message, Prompt
from engines.reward import ProcessRewardModel, Reading
from engines.reward_profiles import REWARD_PROFILES
from tests.fakes import Told

PRM = Path(__file__).parents[2] / "models" / "demo-prm"


class Reads:
    """A reader that remembers what it was given, and is away when told to be."""

    context = 1000

    def __init__(self) -> None:
        self.read_ids: list[Sequence[int]] = []
        self.away = False
        self.slow = 0.0

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None = None) -> Reading:
        self.read_ids.append(ids)
        await asyncio.sleep(self.slow)
        if self.away:
            raise EngineError("away")
        return Reading([[0.2, 0.8]] * len(ids), cached=3)

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

    asyncio.run(go())


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

    asyncio.run(go())


def test_whoever_waits_for_a_judgement_that_is_cut_short_or_fails_asks_again() -> None:
    async def go() -> None:
        reader, model = judging()
        reader.slow = 0.01
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

    asyncio.run(go())
