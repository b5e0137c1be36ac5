"""How a reward model is asked whether it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import AutoTokenizer

from compute.engine import Checked
from compute.errors import EngineError
from engines.reward import ProcessRewardModel, Reading
from engines.reward_profiles import REWARD_PROFILES

PRM = Path(__file__).parents[2] / "models" / "demo-prm"


class Reads:
    """A reader that remembers what it was given, and is away when told to be."""

    context = 1000

    def __init__(self) -> None:
        self.read_ids: list[Sequence[int]] = []
        self.away = False

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None = None) -> Reading:
        if self.away:
            raise EngineError("away")
        self.read_ids.append(ids)
        return Reading([[0.2, 0.8]] * len(ids), cached=3)

    async def close(self) -> None: ...


def test_a_reward_model_reads_a_chain_to_show_that_it_answers_unless_it_has_just_read_one() -> None:
    async def go() -> None:
        reader = Reads()
        tokenizer = cast("Any", AutoTokenizer).from_pretrained(str(PRM))
        model = ProcessRewardModel(reader, tokenizer, REWARD_PROFILES["demo-prm"], "prm")
        reader.away = True
        with pytest.raises(EngineError):
            await model.check()
        reader.away = False
        took = await model.check()
        assert took == Checked(prompt=len(reader.read_ids[0]), cached=3)
        assert await model.check() is None
        assert len(reader.read_ids) == 1

    asyncio.run(go())
