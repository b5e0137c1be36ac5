"""Strategies whose requests say what they may cost: a reward model's reading is part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest

from ponder.compute.budget import Budget
from ponder.compute.cost import CostLimit
from ponder.compute.engine import Hold, Read, Reward, unheld
from ponder.compute.identity import CallIdentity
from ponder.compute.outcome import Outcome
from ponder.compute.text import Candidate, Prompt
from ponder.strategies.beam_search import BeamSearch
from ponder.strategies.best_of_n import BestOfN
from ponder.testing import JudgingEngine, ScriptedRewards, always
from ponder.testing.case import CHAINS, Case, Setting
from ponder.verifiers.prm import Prm

LIMIT = CostLimit(hidden=2, visible=3, verifier=2, amount=400)


@dataclass
class Remembers(ScriptedRewards):
    """Reads a chain once for each tenant, as real ones do."""

    known: dict[object, Reward] = field(default_factory=dict[object, Reward])

    async def reward(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        read: Read,
        hold: Hold = unheld,
        tenant: str | None = None,
        calls: Sequence[CallIdentity] = (),
    ) -> Sequence[Reward]:
        rewards: list[Reward] = []
        for candidate in candidates:
            key = tenant, candidate.ids.unseal()
            if key not in self.known:
                (self.known[key],) = await super().reward(prompt, [candidate], read=read, hold=hold)
            rewards.append(self.known[key])
        return rewards


class Heedless(ScriptedRewards):
    """Reads without asking whether that is paid for."""

    async def reward(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        read: Read,
        hold: Hold = unheld,
        tenant: str | None = None,
        calls: Sequence[CallIdentity] = (),
    ) -> Sequence[Reward]:
        return await super().reward(prompt, candidates, read=read, tenant=tenant, calls=calls)


def case(rewards: ScriptedRewards, limit: CostLimit = LIMIT, *, seeded: bool = True) -> Case:
    setting = Setting(partial(BeamSearch, beams=4, step_tokens=9), Prm)
    return Case(setting, Budget(2000, 50, cost=limit), JudgingEngine(always(*CHAINS), seeded=seeded), rewards=rewards)


def judge(line: str) -> float:
    return min(1.0, len(line) / 30)


def test_with_a_seed_what_a_reward_model_read_for_others_does_not_lengthen_the_search() -> None:
    rewards = Remembers(judge)

    def once() -> tuple[Outcome, int]:
        one = case(rewards)
        out = asyncio.run(one.run())
        assert one.spending.cost <= LIMIT.amount + 50 * LIMIT.visible
        return out, one.spending.verifier

    (first, read), (again, read_again) = once(), once()
    assert first.stopped_by == "cost"
    assert (first.answer, first.spent, first.samples) == (again.answer, again.spent, again.samples)
    assert read == read_again > 0


def test_where_reading_is_too_dear_the_fallback_judges_and_nothing_more_is_begun() -> None:
    limit = CostLimit(hidden=1, visible=1, verifier=50, amount=2500, judging=1250)
    one = Case(Setting(partial(BestOfN, n=4), Prm), Budget(2000, 50, cost=limit), JudgingEngine(always(*CHAINS)))
    out = asyncio.run(one.run())
    one.check(out)
    assert (out.degraded, out.stopped_by, out.complete) == (True, "cost", True)
    assert one.spending.free == 0


def test_a_reward_model_that_does_not_hold_what_it_reads_is_found_out() -> None:
    limit = CostLimit(hidden=1, visible=1, verifier=50, amount=2500)
    one = case(Heedless(judge), limit)
    with pytest.raises(AssertionError, match="units of money, where"):
        one.check(asyncio.run(one.run()))
