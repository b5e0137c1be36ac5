"""One call to the engine: reserve tokens, draw, continue an answer that was cut, learn from its length.

All calls of a run go through `Chains`. So every call is paid for before it is made, every token is counted, and every
chain has its seed, its draft and its place in the trace.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ponder.compute.budget import Reservation, Spending
from ponder.compute.drafts import Drafts
from ponder.compute.engine import ModelCard, Recovers, Reopens, Sampling, read_beside, tokens
from ponder.compute.errors import EngineError, Exhausted, Lost, OutOfQuota
from ponder.compute.estimates import Estimates
from ponder.compute.groups import TaskGroup, apart
from ponder.compute.quota import Drawing
from ponder.compute.resources import Resources
from ponder.compute.seeds import Seeds
from ponder.compute.slots import READING
from ponder.compute.stream import OnDelta, Stream
from ponder.compute.text import Candidate, Hidden, Prompt, Written
from ponder.compute.transcript import Transcript

CLOSING = 16
"""Tokens of the context kept free for a closing phrase."""

SHORT_ANSWER = 64
"""Visible tokens: a caller who allows an answer fewer wants answers cut."""

T = TypeVar("T")


class Turns(Protocol):
    """The order in which chains wait whose answers need more than the budget can pay for at the moment."""

    @property
    def last(self) -> bool:
        """No other call will give tokens back: the chain ends as it is."""
        ...

    async def next(self) -> None:
        """Returns when it may try again."""
        ...


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a call may make before more is drawn from the quota of its key."""

    sampling: Sampling
    tokens: int
    before: int
    """Tokens that counted before it."""
    partly: bool
    """It may be gone on with."""


class Chains:
    """The calls of one run to its engine."""

    __slots__ = (
        "_engine",
        "_keep_text",
        "_share",
        "_starved",
        "_streams",
        "drafts",
        "estimates",
        "lost",
        "seeds",
        "spending",
        "stream",
        "wishes",
    )

    def __init__(
        self,
        resources: Resources,
        spending: Spending,
        wishes: Sampling,
        on_delta: OnDelta,
        *,
        streams: bool = True,
        keep_text: bool = False,
    ) -> None:
        """`wishes` are the caller's; its token limits are set anew for each call. `streams`: the answer is
        sent while it is written. `keep_text`: the text of every call is kept with the spending."""
        self._engine = resources.engine
        self._share = resources.writing
        self.wishes = wishes
        self._streams = streams
        self._keep_text = keep_text
        self._starved: deque[asyncio.Future[None]] = deque()
        self.spending = spending
        self.stream = Stream(on_delta)
        self.drafts = Drafts()
        self.lost = 0
        """Chains in answer to the caller whose end was not seen."""
        self.seeds = Seeds(wishes.seed)
        self.estimates = Estimates(resources.lengths, seeded=wishes.seed is not None)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def ordered(self) -> bool:
        """The caller gave a seed: the result must not depend on which chain was quicker."""
        return self.wishes.seed is not None

    @property
    def card(self) -> ModelCard:
        """Facts about the model."""
        return self._engine.card

    def room(self, prompt: Prompt, begun: Candidate | None = None) -> int:
        """Tokens of the model's context that are left after a prompt and the begun chain."""
        length = tokens(self._engine, prompt, thinking=self.spending.budget.thinking > 0)
        return self._engine.card.context - length - (begun.length if begun else 0) - CLOSING

    def shares(self, share: int) -> tuple[int, int]:
        """(thinking, answer) limits in tokens of a chain that pays for both out of `share`. `answer` is kept for the
        case that the thought is closed by force."""
        most = self.spending.budget.answer
        if not self._engine.card.thinks:
            return 0, min(share, most)
        answer = max(1, min(self.estimates.current.answer * 3 // 2, most, share // 2))
        return max(0, share - answer), answer

    async def read(self, prompt: Prompt, thinking: bool | None = None) -> None:
        """Has a long prompt tokenised in a thread, if that was not done yet. `thinking`: for a thought; left out, where
        the request has a thinking budget."""
        way = self.spending.budget.thinking > 0 if thinking is None else thinking
        await read_beside(self._engine, prompt, thinking=way)

    # -- one call -----------------------------------------------------------------------------------------------------

    def reserve(
        self,
        purpose: str,
        *,
        thinking: int,
        answer: int,
        parent: int | None = None,
        bound: bool = False,
        aside: bool = False,
    ) -> Reservation:
        """Tokens set aside for one call, and the seed that it draws with. Raises `Exhausted`."""
        reservation = self.spending.reserve(purpose, thinking=thinking, answer=answer, parent=parent, bound=bound)
        self.seeds.add(reservation.number, parent, purpose if aside else None)
        return reservation

    def begin(self, group: TaskGroup, reservation: Reservation, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """A child task that pays from `reservation`, which is closed even if the task is cancelled before it begins."""
        task = group.create_task(work)
        task.add_done_callback(lambda _: reservation.close())
        return task

    async def write(
        self,
        reservation: Reservation,
        prompt: Prompt,
        begun: Candidate | None = None,
        *,
        until: str | None = None,
        streamed: bool = False,
        aside: bool = False,
        logprobs: int | None = None,
        urgent: bool = False,
        once: bool = False,
        unanswered: bool = False,
        unclosed: bool = False,
    ) -> Candidate:
        """One chain, within its reservation and the model's context; `begun` may be the chain of this very reservation.
        `streamed`: its text is sent as it comes, where the request is streamed. `aside`: a question of our own, to
        which the caller's wishes about the answer do not apply. `urgent`: the time of the request is nearly up, so it
        goes before other calls of the same key. `once`: where its model goes away it is not gone on with.
        `unanswered`: it ends with its thought. `unclosed`: a thought that has used its share stays open. Where the
        quota of the key is not drawn at once, it takes several calls
        to the engine. Raises `Exhausted` where the context is full, `OutOfQuota` where the key has no tokens for it,
        `Lost` where nobody saw the chain end, and what the engine raises."""
        engine, budget = self._engine, self.spending.budget
        streamed = streamed and self._streams
        await self.read(prompt)
        if begun is None and not reservation.thinking:
            await self.read(prompt, thinking=False)
        room = self.room(prompt, begun)
        if room < 1:
            raise Exhausted(f"{reservation.purpose}: prompt and chain fill the context of {engine.card.context} tokens")
        room += reservation.tokens
        answer = min(reservation.answer, room)
        thinking = min(reservation.thinking, room - answer)
        if not aside:
            left = self._room_to_think(room, begun)
            thinking = min(thinking, left)
            if begun is not None and begun.thinking and left < 1:
                until, unclosed = None, False  # The thought is closed, and the answer follows.
        total = self.spending.total_left if reservation.bound else None
        if total is not None:
            total += reservation.tokens
        wishes = self.wishes
        if aside:
            wishes = replace(wishes, stop=(), grammar=None, logit_bias=(), logprobs=logprobs)
        elif not reservation.bound:
            # One pot for thought and answer, of which the answer has what the thought leaves.
            inherited = self._said(reservation) - reservation.visible
            total = min(reservation.thinking + reservation.answer, room)
            answer = max(0, min(reservation.most, room, budget.answer - inherited))
        sampling = replace(
            wishes,
            thinking=thinking,
            answer=answer,
            tight=budget.answer < SHORT_ANSWER,
            total=total,
            seed=self.seeds.next(reservation.number),
            until=until,
            unanswered=unanswered,
            unclosed=unclosed,
            streamed=streamed,
            every=reservation.every,
        )
        quota, drawn = self.spending.quota, None
        if quota is not None:
            drawn = await self._draw(quota, reservation, sampling)
            sampling = drawn.sampling
        transcript = Transcript(
            reservation, prompt, begun, own=begun is not None and begun.number == reservation.number
        )
        if not aside:
            self.drafts.add(reservation.number, transcript)
        share, slot, before, resumed = self._share, None, _steps(reservation), reservation.resumed
        try:
            if share is not None:
                most = thinking + answer
                slot = share.take(most) or await share.turn(most, urgent=urgent)
            while not await self._whole(prompt, sampling, transcript, once=once):
                pass
        except EngineError:
            transcript.lose()
            self.lost += not aside
            raise
        finally:
            if share is not None and slot is not None:
                timed = reservation.resumed == resumed and not transcript.waited
                share.give(slot, _steps(reservation) - before, timed=timed)
            if quota is not None and drawn is not None:
                quota.give(drawn.tokens, _drawn(reservation) - drawn.before)
        candidate = transcript.candidate()
        if drawn is not None and drawn.partly and candidate.ending == "length":
            made = _drawn(reservation) - drawn.before
            if made >= drawn.tokens or (candidate.thinking and thinking > reservation.hidden >= sampling.thinking):
                return await self.write(
                    reservation,
                    prompt,
                    candidate,
                    until=until,
                    streamed=streamed,
                    aside=aside,
                    logprobs=logprobs,
                    urgent=urgent,
                    once=once,
                    unanswered=unanswered,
                    unclosed=unclosed,
                )
        if self._keep_text:
            written = Written(prompt, candidate.thought, Hidden(candidate.text), candidate.forced)
            self.spending.texts[reservation.number] = written
            if sampling.likelihood:
                self.spending.likelihoods[reservation.number] = candidate.likelihood
        if candidate.ending == "length" and self._said(reservation) >= budget.answer:
            candidate = replace(candidate, ending="full")
        return candidate

    async def write_on(
        self, reservation: Reservation, prompt: Prompt, words: str, *, least: int, rounds: int
    ) -> Candidate:
        """One chain that is streamed. Where the model ends its thought before it has made `least` hidden tokens, the
        words are put in in place of the end, at most `rounds` times. Raises what `write` does, and `EngineError` where
        the engine cannot do that."""
        engine = self._engine
        if not isinstance(engine, Reopens):
            raise EngineError(f"model {engine.card.name}: its engine cannot go on with a thought that has ended")
        least = min(least, reservation.thinking)
        begun: Candidate | None = None
        while rounds > 0 and reservation.hidden < least:
            begun = await self.write(reservation, prompt, begun, unanswered=True)
            on = None if reservation.hidden >= least else engine.reopened(begun, words)
            if on is None:
                break
            begun, rounds = on, rounds - 1
        return await self.write(reservation, prompt, begun, streamed=True)

    async def _draw(self, quota: Drawing, reservation: Reservation, sampling: Sampling) -> _Drawn:
        """What a call may make, as far as the quota goes. A chain that is bound to be the answer closes its thought
        where there is nothing left; for any other, raises `OutOfQuota`."""
        before, most = _drawn(reservation), sampling.thinking
        if not reservation.bound:
            most = sampling.thinking + sampling.answer if sampling.total is None else sampling.total
        wanted = max(0, most - before)
        tokens = await quota.draw(wanted) if wanted else 0
        if tokens >= wanted:
            return _Drawn(sampling, tokens, before, partly=False)
        if not tokens:
            self.spending.out_of_quota = True
            if not reservation.bound:
                raise OutOfQuota(f"{reservation.purpose}: the quota has no tokens for it")
        thinking = min(sampling.thinking, reservation.hidden + tokens)
        total = sampling.total if reservation.bound else before + tokens
        unclosed = sampling.unclosed or (tokens > 0 and thinking < sampling.thinking)
        return _Drawn(replace(sampling, thinking=thinking, total=total, unclosed=unclosed), tokens, before, tokens > 0)

    async def _whole(self, prompt: Prompt, sampling: Sampling, transcript: Transcript, *, once: bool) -> bool:
        """A chain to its end; False where its model went away in the middle and is back, so that it is to be gone on
        with. Within its limits: those count what was made before, too."""
        engine = self._engine
        try:
            await apart(self._generated(prompt, sampling, transcript))
            if transcript.ending in ("aborted", "lost"):
                raise Lost(f"model {engine.card.name}: the end of a chain was not seen")
        except Lost:
            if once or not isinstance(engine, Recovers):
                raise
            # A grammar holds an answer from its first token. Where the caller has read some of it, it is gone on with.
            transcript.resume(anew=sampling.grammar is not None and not sampling.streamed)
            if sampling.streamed:
                await self.stream.tell_rest(transcript.candidate())
            await engine.recovered(prompt, sampling, transcript)
            return False
        return True

    async def _generated(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> None:
        async with aclosing(self._engine.generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                if sampling.streamed:
                    await self.stream.tell(delta)

    async def write_or_lose(
        self,
        reservation: Reservation,
        prompt: Prompt,
        begun: Candidate | None = None,
        *,
        until: str | None = None,
        unclosed: bool = False,
    ) -> Candidate | Lost:
        """One chain, or what became of it. One that is lost keeps its share for as long as `reservation` is open."""
        try:
            return await self.write(reservation, prompt, begun, until=until, unclosed=unclosed)
        except Lost as lost:
            return lost
        except OutOfQuota as out:
            return Lost(out.message)

    async def go_on(self, reservation: Reservation, candidate: Candidate, turns: Turns | None = None) -> Candidate:
        """The chain, its answer continued where that was cut at its share and the budget can pay for more.

        Where calls that are still open may give tokens back, it waits for them: in the order of `turns`, else first
        come first served.
        """
        if reservation.bound:
            return candidate
        spending = self.spending
        while candidate.ending == "length" and not candidate.thinking and self.room(candidate.prompt, candidate) > 0:
            left = spending.budget.answer - self._said(reservation)
            more = min(max(reservation.visible, self.estimates.current.answer), left, spending.free)
            if more > 0:
                spending.grow(reservation, more)
                try:
                    candidate = await self.write(reservation, candidate.prompt, candidate)
                except OutOfQuota:
                    break
            elif turns is not None and not turns.last:
                await turns.next()
            elif turns is None and not self.ordered and spending.open > len(self._starved) + 1:
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                spending.on_close = self._released
                self._starved.append(waiting)
                try:
                    await waiting
                finally:
                    if waiting in self._starved:
                        self._starved.remove(waiting)
            else:
                break
        if self._starved and spending.free > 0:
            self._released()
        return candidate

    def learn(self, candidate: Candidate) -> None:
        """Takes the length of a finished chain into the estimates for those to come."""
        self.drafts.ended(candidate)
        if candidate.hidden or not self._engine.card.thinks:
            self.estimates.learn(candidate)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _room_to_think(self, room: int, begun: Candidate | None) -> int:
        """Tokens of the context that the thought of a chain may still take, of `room` behind what has begun. It leaves
        the answer all that its limit allows, but half of the context at most: what usual answers take, which is what
        the chain pays for, would let a thought that is written step by step fill the context."""
        written = begun.length if begun is not None else 0
        whole = room + written
        return max(0, whole - min(self.spending.budget.answer, whole // 2) - written)

    def _released(self) -> None:
        """A reservation was closed: a chain whose answer waits for tokens may find some."""
        if self._starved:
            waiting = self._starved.popleft()
            if not waiting.done():
                waiting.set_result(None)
        else:
            self.spending.on_close = None

    def _said(self, reservation: Reservation) -> int:
        """Visible tokens of a chain and of those it was continued from."""
        return sum(self.spending.reservations[i].visible for i in self.spending.line(reservation.number))


def _steps(reservation: Reservation) -> float:
    """What a call has cost the model so far, in tokens written."""
    return reservation.tokens + READING * (reservation.prompt - reservation.cached)


def _drawn(reservation: Reservation) -> int:
    """Tokens of a call that count against a quota: the answer of a chain that may lose is hidden then."""
    return reservation.hidden if reservation.bound else reservation.tokens
