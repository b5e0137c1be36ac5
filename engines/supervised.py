"""Models whose engines are started again when they go away: what was in flight goes on, what comes meanwhile waits.

These stand before any `Engine` or `RewardModel` whose process a `Supervisor` watches. A half-written chain is asked for
again, with its tokens, by `ponder.compute.chains`; here is waited for the engine and seen to who may go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ponder.compute.engine import (
    Checked,
    Delta,
    Engine,
    HasSlots,
    Hold,
    ModelCard,
    Read,
    ReadsWishes,
    Reopens,
    Reward,
    RewardModel,
    Sampling,
    unheld,
)
from ponder.compute.errors import EngineError, Lost, RequestError, Unavailable
from ponder.compute.identity import CallIdentity
from ponder.compute.slots import Slots
from ponder.compute.text import Candidate, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.quarantine import Quarantine
from ponder.engines.supervisor import Supervisor

JUDGEMENTS = 2
"""Engines that may die over one judgement."""
TRIES = 3
"""Calls for a chain that may break off, though its engine lives, while it gets no further."""


class SupervisedEngine:
    """An engine that comes back; fulfils `ponder.compute.engine.Engine` and `Recovers`."""

    def __init__(self, engine: Engine, supervision: Supervisor, quarantine: Quarantine | None = None) -> None:
        """`quarantine`: that of the engine's process, where several models are in one."""
        self.engine, self.supervision = engine, supervision
        self.quarantine = quarantine or Quarantine()

    @property
    def card(self) -> ModelCard:
        return self.engine.card

    @property
    def slots(self) -> Slots | None:
        """See `ponder.compute.engine.HasSlots`."""
        return self.engine.slots if isinstance(self.engine, HasSlots) else None

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        """See the contract. It does not take the engine's process."""
        return self.engine.length(prompt, thinking=thinking)

    def asks_to_think(self, prompt: Prompt) -> bool | None:
        """See `ponder.compute.engine.ReadsWishes`."""
        return self.engine.asks_to_think(prompt) if isinstance(self.engine, ReadsWishes) else None

    def reopened(self, chain: Candidate, words: str) -> Candidate | None:
        """See `ponder.compute.engine.Reopens`."""
        return self.engine.reopened(chain, words) if isinstance(self.engine, Reopens) else None

    async def accept(self, sampling: Sampling) -> None:
        """See the contract. It does not take the engine's process."""
        await self.engine.accept(sampling)

    def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        """One chain; see the contract. It waits while the engine is started again. Raises `RequestError` for what the
        engine has died over."""
        if self.quarantine.refused and self.quarantine.knows(prompt, sampling):
            raise refused()
        if self.supervision.state != "up":
            transcript.waited = True
            return self._later(prompt, sampling, transcript)
        transcript.life = len(self.supervision.deaths)
        return self.engine.generate(prompt, sampling, transcript)

    async def _later(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        await self._ready()
        transcript.life = len(self.supervision.deaths)
        async with aclosing(self.engine.generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                yield delta

    async def _ready(self) -> None:
        try:
            await self.supervision.ready()
        except Unavailable as error:
            raise Lost(error.message) from None

    async def recovered(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> None:
        """See `ponder.compute.engine.Recovers`."""
        death = await self.supervision.death(transcript.life)
        if death is None:
            if transcript.broke_off() >= TRIES:
                raise Lost(f"model {self.card.name}: a chain was lost again and again though the engine goes on")
            return
        self.quarantine.lost(transcript, death)
        await self._ready()
        if not await self.quarantine.admit(prompt, sampling, transcript, death):
            raise refused()

    async def check(self) -> Checked | None:
        """See the contract."""
        if self.supervision.state != "up":
            raise Unavailable(
                f"model {self.card.name} is being started again",
                code="engine_unavailable",
                retry_after=self.supervision.wait,
            )
        return await self.engine.check()

    async def close(self) -> None:
        """Frees the model. Idempotent."""
        await self.engine.close()


def refused() -> RequestError:
    """For a request over which engines have died."""
    return RequestError(
        "the model's engine died over this request more than once, so it is not tried again: change the request "
        "before it is sent again",
        code="request_quarantined",
    )


class SupervisedRewardModel:
    """A reward model that comes back; fulfils `ponder.compute.engine.RewardModel`. A judgement that was broken off is
    asked for again."""

    def __init__(self, model: RewardModel, supervision: Supervisor) -> None:
        self.model, self.supervision = model, supervision

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def slots(self) -> Slots | None:
        """See `ponder.compute.engine.HasSlots`."""
        return self.model.slots if isinstance(self.model, HasSlots) else None

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
        """See the contract. Raises `EngineError` where the model cannot be started, or died of itself over this more
        than once."""
        broken = 0
        while True:
            await self._ready()
            life = len(self.supervision.deaths)
            try:
                return await self.model.reward(prompt, candidates, read=read, hold=hold, tenant=tenant, calls=calls)
            except Lost:
                death = await self.supervision.death(life)
                broken += death is None or death.by_itself
                if broken >= JUDGEMENTS:
                    what = "broke off a judgement" if death is None else "died over a chain"
                    raise EngineError(f"reward model {self.name} {what} {broken} times") from None

    async def _ready(self) -> None:
        try:
            await self.supervision.ready()
        except Unavailable as error:
            raise EngineError(error.message) from None

    def aggregate(self, steps: Sequence[float]) -> float:
        """See the contract."""
        return self.model.aggregate(steps)

    async def check(self) -> Checked | None:
        """See the contract."""
        if self.supervision.state != "up":
            raise Unavailable(f"reward model {self.name} is being started again", code="engine_unavailable")
        return await self.model.check()

    async def close(self) -> None:
        """Frees the model. Idempotent."""
        await self.model.close()
