"""One request's permission to compute: the `Run` a strategy is given, and `execute`, which runs one to its end.

A strategy reaches the model through the verbs of `Run` alone. So whatever it does, every call is held in the ledger
before it is made, every token is counted, nothing runs on after the request, and there is always an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar, cast

from ponder.compute.answers import group
from ponder.compute.budget import Budget, Reservation, Spending
from ponder.compute.engine import Delta, Engine, Reward, RewardModel, Sampling, read_beside, tokens
from ponder.compute.errors import DeadlinePassed, EngineError, Exhausted
from ponder.compute.lengths import Lengths
from ponder.compute.outcome import Outcome, StoppedBy, Vote
from ponder.compute.text import Answer, Candidate, Hidden, Prompt, Score
from ponder.compute.transcript import Transcript

log = logging.getLogger(__name__)

OnDelta = Callable[[Delta], Awaitable[None]]
"""Takes new text at once, before anything is awaited; then it may wait until there is room for more. Cancelled while it
waits it has taken the text, and whoever hears is told it."""

T = TypeVar("T")

CLOSING = 16
"""Tokens of the context kept free for a closing phrase."""

SHORT_ANSWER = 64
"""Visible tokens: a caller who allows an answer fewer wants answers cut."""

LEAST_STEP = 8
"""Hidden tokens without which a continuation is not begun, as long as there is another use for them."""

GRACE = 10.0
"""Seconds before a deadline (or a tenth of the time allowed, if that is less) kept for closing and answering."""


class Strategy(Protocol):
    """A way to spend a thinking budget: is given a run, returns the candidate that is the answer."""

    async def __call__(self, run: Run) -> Candidate: ...


class Verifier(Protocol):
    """A way of judging: one score in [0, 1] for each candidate, in order."""

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]: ...


@dataclass(frozen=True, slots=True)
class Selection(Generic[T]):
    """A strategy or verifier and the name it is listed under."""

    name: str
    call: T


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was decided about a request before it runs. Made in `server/plan.py` and never changed."""

    prompt: Prompt
    strategy: Selection[Strategy]
    budget: Budget
    sampling: Sampling
    """The caller's wishes; its token limits are set anew for each call from what is held for it."""
    verifier: Selection[Verifier] | None = None
    fallback: Selection[Verifier] | None = None
    """Judges where `verifier` fails."""
    timeout: float | None = None
    """Seconds from the start of the run."""
    keep_text: bool = False
    """The operator wants the text of every call in the trace."""
    stream: bool = True
    """The caller hears the answer as it is written; else it is told in one piece at the end, which costs less."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run works with: the model, what is known of its chains, and a reward model where there is one."""

    engine: Engine
    lengths: Lengths
    reward_model: RewardModel | None = None


class StopSignal:
    """Lets whoever started a run end it early: what it has by then is answered."""

    def __init__(self) -> None:
        self.reason: StoppedBy | None = None
        self.expired = False
        """the time was up or the signal was set; a `TimeoutError` of somebody else's does not say so."""
        self._timeout: asyncio.Timeout | None = None

    def set(self, reason: StoppedBy = "draining") -> None:
        """End the run now. The first reason stands."""
        if self.reason is None:
            self.reason = reason
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    @asynccontextmanager
    async def scope(self, deadline: float | None) -> AsyncGenerator[None]:
        """Work inside ends with `TimeoutError` at `deadline` (loop time) or when it is set."""
        async with asyncio.timeout_at(deadline) as timeout:
            self._timeout = timeout
            try:
                if self.reason is not None:
                    timeout.reschedule(0)
                yield
            finally:
                self._timeout = None
                self.expired = timeout.expired()


@dataclass(eq=False, slots=True)
class _Seat:
    """One chain of a sampling whose chains settle in the order they were begun."""

    turn: asyncio.Event = field(default_factory=asyncio.Event)
    """It may settle, or try again."""
    stands: asyncio.Event = field(default_factory=asyncio.Event)
    """It has settled, or the budget could not pay for the rest of its answer."""
    last: bool = False
    """Nothing more will be given back: it settles as it is."""
    candidate: Candidate | None = None

    async def go(self) -> None:
        """Lets it settle as far as it can."""
        self.turn.set()
        await self.stands.wait()
        self.stands.clear()


class Arriving:
    """The candidates of `Run.sampling`, as they come."""

    def __init__(self, stream: AsyncGenerator[Candidate], begun: Sequence[int]) -> None:
        self._stream = stream
        self.begun = begun
        """Numbers of the chains in the order they were begun, those still being written included."""

    def __aiter__(self) -> AsyncGenerator[Candidate]:
        return self._stream


class Run:
    """One request's permission to compute. See `docs/strategies.md` for each verb at work.

    The verbs raise `Exhausted` when the budget cannot pay for them and there is already something to answer with, and
    `EngineError` when the model fails; a strategy lets both pass, `execute` knows what to do.
    """

    def __init__(self, plan: Plan, resources: Resources, spending: Spending, on_delta: OnDelta) -> None:
        self._plan = plan
        self._resources = resources
        self._spending = spending
        self._on_delta = on_delta
        self._shared: Lengths | None = None
        self._own: Lengths | None = None
        self._starved: deque[asyncio.Future[None]] = deque()
        self._greedy: dict[Prompt, Candidate] = {}
        self._drafts: dict[int, Transcript] = {}
        self._sent_chars = self._sent_logprobs = 0
        self._answering: int | None = None
        self._best: Candidate | None = None
        self._streamed: int | None = None
        self._finished = 0
        self._requested = self._wanted = 0
        self._scores: dict[int, Score] = {}
        self._seeds: dict[int, int] = {}
        self._calls: dict[int, int] = {}
        self._siblings: dict[int | str, int] = {}
        self.cut: float | None = None
        """When the strategy has to end, in loop time."""
        self.agreement: float | None = None
        self.stopped_early = False
        self.short = False
        """The budget allowed fewer chains than were asked for."""
        self.degraded = False
        self.ungrouped = False
        self.alike = False
        """Many chains were asked for and would have been the same: nothing is left to chance."""

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def prompt(self) -> Prompt:
        """The caller's question."""
        return self._plan.prompt

    @property
    def free(self) -> int:
        """Tokens of the thinking budget neither spent nor held."""
        return self._spending.free

    @property
    def blank(self) -> Candidate:
        """A chain of which nothing is written yet: what a search extends first."""
        return Candidate(-1, self.prompt, Hidden(()), Hidden(""), "", 0, 0, self._resources.engine.card.thinks, "step")

    @property
    def seed(self) -> int | None:
        """The caller's seed, for strategies that draw lots themselves."""
        return self._plan.sampling.seed

    @property
    def tenant(self) -> str | None:
        """Whose request it is."""
        return self._plan.sampling.tenant

    @property
    def greedy(self) -> bool:
        """Nothing is left to chance (temperature 0): a prompt has one chain."""
        return self._plan.sampling.temperature == 0 or self._plan.sampling.top_k == 1

    @property
    def streamed(self) -> int | None:
        """The number of the chain that was heard as it was written; None before `stream`."""
        return self._streamed

    @property
    def step_ids(self) -> frozenset[int]:
        """The tokens that end a step of this model's thoughts; may be empty."""
        return self._resources.engine.card.step_ids

    @property
    def exact(self) -> bool:
        """The verifier's word is final (it runs the program, checks the rule), not a guess."""
        verifier = self._plan.verifier
        return bool(verifier and getattr(verifier.call, "exact", False)) and not self.degraded

    def chains(self, n: int) -> int:
        """How many of `n` chains to race with: as many as the budget feeds without starving any, at least one; one
        where all would be the same."""
        self._wanted = max(self._wanted, n)
        if self.greedy:
            self.alike = self.alike or n > 1
            return 1
        fed = max(1, self._lengths.chains(n, self.free))
        self.short = self.short or fed < n
        return fed

    # -- the verbs ----------------------------------------------------------------------------------------------------

    def _may(self) -> None:
        """Raises `RuntimeError` once an answer is streamed: what the caller has read is the answer."""
        if self._streamed is not None:
            raise RuntimeError(f"strategy {self._plan.strategy.name}: stream() is the last verb of a run")

    async def sample(self, n: int, prompt: Prompt | Sequence[Prompt] | None = None) -> list[Candidate]:
        """Up to `n` finished candidates: fewer when the budget runs short, never none. Given several prompts, the
        samples take them in turn; `Candidate.prompt` tells whose it is."""
        async with self.sampling(n, prompt) as arriving:
            return sorted([candidate async for candidate in arriving], key=lambda candidate: candidate.number)

    @asynccontextmanager
    async def sampling(
        self,
        n: int,
        prompt: Prompt | Sequence[Prompt] | None = None,
        at_once: Callable[[], int] | None = None,
    ) -> AsyncGenerator[Arriving]:
        """Up to `n` candidates as they finish (with a seed: in the order they were begun, so that the same come again).
        Leaving the block stops the rest at the engine.

        As many chains start at once as the budget can feed without starving any; the next starts when one settles for
        less than its share. `at_once` may want fewer under way: it is asked at the begin and after each candidate. A
        chain whose answer outgrows its share goes on as long as the budget pays. Where nothing is left to chance, each
        prompt has one candidate, and the same one each time.
        """
        self._may()
        prompts = [prompt or self.prompt] if prompt is None or isinstance(prompt, Prompt) else list(prompt)
        self._requested += n
        known: list[Candidate] = []
        if self.greedy:
            different = list(dict.fromkeys(prompts[i % len(prompts)] for i in range(n)))
            self.alike = self.alike or len(different) < n
            known = [self._greedy[one] for one in different if one in self._greedy]
            prompts = [one for one in different if one not in self._greedy]
            n = len(prompts)
        ordered = self.seed is not None
        arrived: asyncio.Queue[Candidate] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        seats: list[_Seat] = []
        begun: list[int] = []
        given = 0

        async with asyncio.TaskGroup() as children:

            async def one(reservation: Reservation, prompt: Prompt, seat: _Seat) -> None:
                try:
                    candidate = await self._write(reservation, prompt)
                    if ordered:
                        await seat.turn.wait()
                    candidate = await self._go_on(reservation, candidate, seat if ordered else None)
                except asyncio.CancelledError:
                    self._all.censored(reservation.tokens)
                    reservation.close(forfeit=ordered)
                    raise
                finally:
                    reservation.close()
                self._learn(candidate)
                if self.greedy:
                    self._greedy[prompt] = candidate
                seat.candidate = candidate
                seat.stands.set()
                arrived.put_nowait(candidate)

            def start(thinking: int, answer: int, bound: bool = False) -> None:
                reservation = self._reserve("sample", thinking=thinking, answer=answer, bound=bound)
                seat = _Seat()
                tasks.append(
                    self._begin(children, reservation, one(reservation, prompts[len(begun) % len(prompts)], seat))
                )
                seats.append(seat)
                begun.append(reservation.number)

            def fill() -> None:
                """Starts what is wanted now and the budget can feed."""
                free, left = self.free, n - len(begun)
                wanted = left if at_once is None else min(left, at_once() - (len(begun) - given))
                if wanted < 1:
                    return
                lengths = self._lengths
                if not self._spending.reservations and lengths.at_first(left, free) <= 1:
                    start(free, self._spending.allowance, bound=True)
                    return
                free = self._spending.contested
                if free >= lengths.p50:
                    self._spending.unbind()
                    chains = max(1, lengths.at_first(left, free))
                    for _ in range(min(chains, wanted)):
                        start(*self._shares(free // chains))
                elif not begun and not known:
                    raise Exhausted(f"{n} samples asked for, {max(0, free)} thinking tokens left")

            async def settled(place: int) -> Candidate:
                """The chain at this place of the order. Where the budget cannot pay for the rest of its answer, those
                begun after it settle first, one by one, and leave what they do not need."""
                seat = seats[place]
                if seat.candidate is None:
                    await seat.go()
                for other in seats[place + 1 :]:
                    if seat.candidate is not None:
                        break
                    if other.candidate is None:
                        await other.go()
                        await seat.go()
                if seat.candidate is None:
                    seat.last = True
                    await seat.go()
                return cast("Candidate", seat.candidate)

            async def arriving() -> AsyncGenerator[Candidate]:
                nonlocal given
                for candidate in known:
                    yield candidate
                while True:
                    if ordered or arrived.empty():
                        fill()
                    if given == len(begun):
                        break
                    candidate = await settled(given) if ordered else await arrived.get()
                    given += 1
                    yield candidate
                self.short = self.short or len(begun) < n

            stream = arriving()
            async with aclosing(stream):
                yield Arriving(stream, begun)
            if given < len(begun):
                self.stopped_early = True
                for task in tasks:
                    task.cancel()

    async def extend(self, beams: Sequence[Candidate], n: int = 1, until: int | None = None) -> list[Candidate]:
        """`n` continuations of each half-written candidate, to its next step (of at most `until` tokens) or, with
        `until` left out, to its end. In the order of the beams; those that are over are returned as they are. Fewer
        when the budget runs short: none only while other chains are still being written. With a seed, what comes hangs
        on what was extended in which order, and not on who was quicker: extend side by side in one call."""
        self._may()
        if self.greedy and n > 1:
            self.alike, n = True, 1
        wanted = n * sum(not beam.over for beam in beams)
        self._spending.unbind()
        fed = min(wanted, self.free // (2 * min(LEAST_STEP, until or LEAST_STEP)))
        if fed < wanted:
            self.short = True
            if not fed and not self._spending.busy:
                if self.free < 2:
                    raise Exhausted(f"{wanted} continuations asked for, {self.free} thinking tokens left")
                fed = 1
        thinking, answer = self._shares(self.free // max(1, fed))
        step = None
        if until is not None:
            step = self._resources.engine.card.step
            thinking, answer = (min(thinking, until), answer) if thinking else (0, min(answer, until))
        ordered = self.seed is not None

        async def one(
            reservation: Reservation, beam: Candidate, before: asyncio.Event | None, done: asyncio.Event
        ) -> Candidate:
            try:
                begun = beam if beam.number >= 0 else None
                candidate = await self._write(reservation, beam.prompt, begun, until=step)
                if before is not None:
                    await before.wait()
                if step is None or self._resources.engine.card.thinks:
                    candidate = await self._go_on(reservation, candidate)
            except asyncio.CancelledError:
                reservation.close(forfeit=ordered)
                raise
            finally:
                reservation.close()
            done.set()
            if candidate.over:
                self._finished += 1
                self._best = self._best or candidate
            return candidate

        written: list[Candidate | asyncio.Task[Candidate]] = []
        before: asyncio.Event | None = None
        async with asyncio.TaskGroup() as tasks:
            for beam in beams:
                if beam.over:
                    written.append(beam)
                    continue
                for _ in range(min(n, fed)):
                    fed -= 1
                    parent = beam.number if beam.number >= 0 else None
                    reservation = self._reserve("extend", thinking=thinking, answer=answer, parent=parent)
                    done = asyncio.Event()
                    written.append(self._begin(tasks, reservation, one(reservation, beam, before, done)))
                    before = done if ordered else None
        return [c.result() if isinstance(c, asyncio.Task) else c for c in written]

    async def ask(
        self,
        prompt: Prompt,
        purpose: str,
        *,
        thinking: int | None = None,
        answer: int | None = None,
        logprobs: int | None = None,
    ) -> Candidate:
        """One answer to another question (a critique, a judgement): hidden and paid like any thought."""
        await self._read(prompt)
        self._may()
        self._spending.unbind()
        free = self.free
        if free < 1:
            raise Exhausted(f"no thinking tokens left for {purpose}")
        if self._room(prompt, None) < 1:
            raise EngineError(f"the question of the {purpose} does not fit into the model's context")
        share, visible = self._shares(free)
        if answer is not None:
            visible = min(free, answer)
        share = min(free - visible, share if thinking is None else thinking)
        with self._reserve(purpose, thinking=share, answer=visible, aside=True) as reservation:
            return await self._write(reservation, prompt, aside=True, logprobs=logprobs)

    async def stream(self, prompt: Prompt | None = None) -> Candidate:
        """One candidate whose visible text the caller hears as it is written. It is the answer, and the last verb:
        others raise `RuntimeError` behind it, as it does itself while chains are being written."""
        self._may()
        if self._spending.busy:
            raise RuntimeError(f"strategy {self._plan.strategy.name}: stream() while other chains are being written")
        self._requested += 1
        self._spending.unbind()
        with self._reserve("stream", thinking=self.free, answer=self._spending.allowance, bound=True) as reservation:
            self._streamed = reservation.number
            candidate = await self._write(reservation, prompt or self.prompt, streamed=self._plan.stream)
        self._learn(candidate)
        return candidate

    async def score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """A score for each candidate by the plan's verifier; by the fallback, and said so, where that fails: raises,
        gives another number of scores, or takes more than half of the time that is left. A verifier that has failed is
        not asked again."""
        self._may()
        verifier, fallback = self._plan.verifier, self._plan.fallback
        if verifier is None:
            raise EngineError(f"strategy {self._plan.strategy.name} wants a verifier and the plan has none")
        judge = fallback if self.degraded and fallback is not None else verifier
        try:
            async with asyncio.timeout_at(None if judge is fallback else self._half_time()):
                scores = await self._judged(judge, candidates)
        except Exception as failed:  # noqa: BLE001 (a verifier may be anybody's, and fail in any way)
            error = _first(failed)
            if isinstance(error, Exhausted) or fallback is None or judge is fallback:
                raise error from None
            log.warning("verifier %s failed (%s); %s judges", judge.name, type(error).__name__, fallback.name)
            self.degraded = True
            scores = await self._judged(fallback, candidates)
        for candidate, score in zip(candidates, scores, strict=True):
            self._scores[candidate.number] = score
            if candidate.number >= 0:
                self._spending.reservations[candidate.number].score = score.value
        return scores

    async def _judged(self, judge: Selection[Verifier], candidates: Sequence[Candidate]) -> Sequence[Score]:
        """Its scores. Raises `EngineError` over another number of them, or one that is no number in [0, 1]."""
        scores = await judge.call(self, candidates)
        if len(scores) != len(candidates):
            raise EngineError(f"verifier {judge.name} gave {len(scores)} scores for {len(candidates)} chains")
        for value in (value for score in scores for value in (score.value, *score.steps)):
            if not 0 <= value <= 1:
                raise EngineError(f"verifier {judge.name} gave a score of {value}, outside 0 to 1")
        return scores

    def _half_time(self) -> float | None:
        """Half-way to the end of the strategy's time, in loop time."""
        return None if self.cut is None else (asyncio.get_running_loop().time() + self.cut) / 2

    async def reward(self, candidates: Sequence[Candidate]) -> Sequence[Reward]:
        """Step scores by the process reward model. Raises `EngineError` where none is configured."""
        model = self._resources.reward_model
        if model is None:
            raise EngineError("no process reward model is configured for this model")
        by_prompt: dict[int, list[int]] = {}
        for i, candidate in enumerate(candidates):
            by_prompt.setdefault(id(candidate.prompt), []).append(i)
        rewards: dict[int, Reward] = {}
        for places in by_prompt.values():
            siblings = [candidates[i] for i in places]
            judged = await model.reward(
                siblings[0].prompt,
                siblings,
                read=self._spending.read_for_verifier,
                tenant=self._plan.sampling.tenant,
            )
            rewards |= dict(zip(places, judged, strict=True))
        return [rewards[i] for i in range(len(candidates))]

    @property
    def reward_model(self) -> RewardModel | None:
        """The process reward model of this model, where one is configured."""
        return self._resources.reward_model

    async def vote(self, candidates: Sequence[Candidate], scores: Sequence[Score] | None = None) -> Vote:
        """Groups the candidates by equivalent answers and adds up their scores (or counts them, without); offers the
        leader: the best of the heaviest group. Of equals the one seen first. Without an answer nobody votes; a chain
        given twice (a particle and its copy) votes once, and one that went in circles only for what others answer too.
        """
        voters = {c.number: i for i, c in reversed(list(enumerate(candidates)))}
        places = sorted(voters.values())
        weights = [1.0 if scores is None else scores[i].value for i in places]
        candidates = [candidates[i] for i in places]
        groups = await group([c.text if c.over else "" for c in candidates], tenant=self.tenant)
        founded = {answer for c, answer in zip(candidates, groups, strict=True) if not c.circled}
        groups = [answer if answer in founded else None for answer in groups]
        totals: dict[int, tuple[float, int]] = {}
        for candidate, weight, answer in zip(candidates, weights, groups, strict=True):
            if answer is not None:
                total, count = totals.get(answer, (0.0, 0))
                totals[answer] = total + weight, count + 1
                self._spending.reservations[candidate.number].answer_group = answer
        ranked = sorted(totals, key=lambda answer: (-totals[answer][0], -totals[answer][1], answer))
        if ranked:
            running = [i for i, answer in enumerate(groups) if answer == ranked[0]]
        else:
            running = [i for i, c in enumerate(candidates) if c.complete] or list(range(len(candidates)))
        leader = candidates[max(running, key=lambda i: (weights[i], -i))]
        counts, shares = tuple(totals[a][1] for a in ranked), tuple(totals[a][0] for a in ranked)
        votes = tuple(None if answer is None else ranked.index(answer) for answer in groups)
        vote = Vote(leader, counts, shares, len(candidates), votes)
        self.offer(leader)
        if ranked:
            self.agreement = vote.share
        self.ungrouped = not ranked and len(candidates) > 1
        return vote

    def offer(self, candidate: Candidate) -> None:
        """The best so far, should the run be cut short."""
        self._best = candidate

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(
        self, group: asyncio.TaskGroup, reservation: Reservation, work: Coroutine[None, None, T]
    ) -> asyncio.Task[T]:
        """A child task that pays from `reservation`, which is closed even if the task is cancelled before it begins."""
        task = group.create_task(work)
        task.add_done_callback(lambda _: reservation.close())
        return task

    def _shares(self, share: int) -> tuple[int, int]:
        """(thinking, answer) of a chain that pays for both out of `share` tokens: what is kept for the answer should
        the thought be closed by force."""
        if not self._resources.engine.card.thinks:
            return 0, min(share, self._spending.budget.answer)
        answer = max(1, min(self._lengths.answer * 3 // 2, self._spending.budget.answer, share // 2))
        return max(0, share - answer), answer

    @property
    def _all(self) -> Lengths:
        """What is known of the model's chains, to which this request adds."""
        if self._shared is None:
            self._shared = self._resources.lengths.request()
        return self._shared

    @property
    def _lengths(self) -> Lengths:
        """What this request goes by. With a seed everything follows from the request: what other callers' chains were
        like must not show."""
        if self.seed is None:
            return self._all
        if self._own is None:
            self._own = self._resources.lengths.prior()
        return self._own

    def _learn(self, candidate: Candidate) -> None:
        """What a chain that has come to rest tells about those to come."""
        self._finished += 1
        self._best = self._best or candidate
        if candidate.hidden == 0 and self._resources.engine.card.thinks:
            return
        for lengths in (self._all, self._own):
            if lengths is None:
                continue
            if not candidate.complete:
                lengths.censored(candidate.tokens, None if candidate.thinking else candidate.visible)
            elif candidate.forced:
                lengths.censored(candidate.tokens)
                lengths.saw_answer(candidate.visible)
            else:
                lengths.saw(candidate.tokens, candidate.visible)

    def _reserve(
        self,
        purpose: str,
        *,
        thinking: int,
        answer: int,
        parent: int | None = None,
        bound: bool = False,
        aside: bool = False,
    ) -> Reservation:
        """Tokens set aside for one call, and the seed that it draws with."""
        reservation = self._spending.reserve(purpose, thinking=thinking, answer=answer, parent=parent, bound=bound)
        self._seed(reservation, parent, aside)
        return reservation

    def _released(self) -> None:
        """A hold was closed: a chain whose answer waits for tokens may find some."""
        if self._starved:
            waiting = self._starved.popleft()
            if not waiting.done():
                waiting.set_result(None)
        else:
            self._spending.on_close = None

    async def _go_on(self, reservation: Reservation, candidate: Candidate, seat: _Seat | None = None) -> Candidate:
        """The chain with its answer written on, where that was cut at its share and the budget can pay for more; where
        others that are being written may leave some, it waits for them (at its seat, for its next turn)."""
        if reservation.bound:
            return candidate
        while candidate.ending == "length" and not candidate.thinking and self._room(candidate.prompt, candidate) > 0:
            left = self._spending.budget.answer - self._said(reservation)
            more = min(max(reservation.visible, self._lengths.answer), left, self.free)
            if more > 0:
                self._spending.grow(reservation, more)
                candidate = await self._write(reservation, candidate.prompt, candidate)
            elif seat is not None and not seat.last:
                seat.turn.clear()
                seat.stands.set()
                await seat.turn.wait()
            elif seat is None and self.seed is None and self._spending.open > len(self._starved) + 1:
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._spending.on_close = self._released
                self._starved.append(waiting)
                try:
                    await waiting
                finally:
                    if waiting in self._starved:
                        self._starved.remove(waiting)
            else:
                break
        if self._starved and self.free > 0:
            self._released()
        return candidate

    def _said(self, reservation: Reservation) -> int:
        """Visible tokens of a chain, those it was continued from included."""
        return sum(self._spending.reservations[i].visible for i in self._spending.line(reservation.number))

    async def _write(
        self,
        reservation: Reservation,
        prompt: Prompt,
        begun: Candidate | None = None,
        *,
        until: str | None = None,
        streamed: bool = False,
        aside: bool = False,
        logprobs: int | None = None,
    ) -> Candidate:
        """One chain, within its hold and the model's context; `begun` may be the chain of this very hold. `aside`: a
        question of our own, to which the caller's wishes about the answer do not apply."""
        engine = self._resources.engine
        await self._read(prompt)
        if begun is None and not reservation.thinking:
            await self._read(prompt, thinking=False)
        room = self._room(prompt, begun)
        if room < 1:
            raise Exhausted(f"{reservation.purpose}: prompt and chain fill the context of {engine.card.context} tokens")
        room += reservation.tokens
        answer = min(reservation.answer, room)
        thinking = min(reservation.thinking, room - answer)
        total = self._spending.total_left if reservation.bound else None
        wishes = self._plan.sampling
        if aside:
            wishes = replace(wishes, stop=(), grammar=None, logit_bias=(), logprobs=logprobs)
        elif not reservation.bound:
            # One pot for thought and answer, of which the answer has what the thought leaves.
            inherited = self._said(reservation) - reservation.visible
            total = min(reservation.thinking + reservation.answer, room)
            answer = max(0, min(reservation.most, room, self._spending.budget.answer - inherited))
        sampling = replace(
            wishes,
            thinking=thinking,
            answer=answer,
            tight=self._spending.budget.answer < SHORT_ANSWER,
            total=total,
            seed=self._call_seed(reservation),
            until=until,
            streamed=streamed,
        )
        transcript = Transcript(
            reservation, prompt, begun, own=begun is not None and begun.number == reservation.number
        )
        if not aside:
            self._drafts[reservation.number] = transcript
        async with aclosing(engine.generate(prompt, sampling, transcript)) as stream:
            async for delta in stream:
                if streamed:
                    await self._tell(delta)
        candidate = transcript.candidate()
        reservation.ending = candidate.ending
        if self._plan.keep_text:
            self._spending.texts[reservation.number] = candidate.thought, Hidden(candidate.text)
        if candidate.ending == "length" and self._said(reservation) >= self._spending.budget.answer:
            candidate = replace(candidate, ending="full")
        return candidate

    def _seed(self, reservation: Reservation, begun: int | None, aside: bool) -> None:
        """Gives a call a seed that follows from the caller's (which the first chain has itself), the chain gone on from
        and how many went on from it before: not from what else happened to run at the time."""
        if self.seed is None:
            return
        parent = reservation.purpose if aside else -1 if begun is None else begun
        at = self._siblings.get(parent, 0)
        self._siblings[parent] = at + 1
        seed = self.seed if begun is None else self._seeds[begun]
        if at or parent != -1:
            seed = _derived(f"{seed}:{parent if aside else begun is not None}:{at}")
        self._seeds[reservation.number] = seed

    def _call_seed(self, reservation: Reservation) -> int | None:
        """The seed of the next call to the engine for a hold: its own, then others that follow from it."""
        if self.seed is None:
            return None
        seed, calls = self._seeds[reservation.number], self._calls.get(reservation.number, 0)
        self._calls[reservation.number] = calls + 1
        return _derived(f"{seed}:on:{calls}") if calls else seed

    def _room(self, prompt: Prompt, begun: Candidate | None) -> int:
        """Tokens of the model's context left behind a prompt and what is begun."""
        engine = self._resources.engine
        length = tokens(engine, prompt, thinking=self._plan.budget.thinking > 0)
        return engine.card.context - length - (begun.length if begun else 0) - CLOSING

    async def _read(self, prompt: Prompt, thinking: bool | None = None) -> None:
        """Has the model read a long prompt beside the event loop, if it has not yet; for a thought where the request
        may have one."""
        way = self._plan.budget.thinking > 0 if thinking is None else thinking
        await read_beside(self._resources.engine, prompt, thinking=way)

    async def _tell(self, delta: Delta) -> None:
        """Counted and taken in one: a telling that is cut off was only waiting for room."""
        self._sent_chars += len(delta.text)
        self._sent_logprobs += len(delta.logprobs)
        await self._on_delta(delta)

    # -- the end ------------------------------------------------------------------------------------------------------

    def best(self) -> Candidate | None:
        """What there is to answer with when the run is cut short: the streamed chain, the best offered, one that is
        whole, the longest half-written one."""
        if self._answering is not None:
            return self._drafts[self._answering].candidate()
        if self._streamed is not None:
            transcript = self._drafts.get(self._streamed)
            return transcript and transcript.candidate()
        if self._best is not None:
            return self._best
        drafts = [transcript.candidate() for transcript in self._drafts.values()]
        return max(drafts, key=lambda c: (c.complete, not c.thinking, c.length), default=None)

    def wrote(self, candidate: object) -> bool:
        """It is a chain of this run, written in answer to the caller."""
        return isinstance(candidate, Candidate) and candidate.number in self._drafts

    async def finish(self, chosen: Candidate | None) -> Candidate:
        """Makes `chosen` whole: closes its thought and completes its answer from what is kept back for that, heard as
        it is written. With None, an answer without a thought."""
        if chosen is not None:
            self._spending.bind(chosen.number)
            await self.tell_rest(chosen)
        allowance = self._spending.allowance
        prompt = self.prompt if chosen is None else chosen.prompt
        unfinished = chosen is None or not chosen.complete
        if unfinished and allowance > 0 and self._room(prompt, chosen) > 0:
            parent = None if chosen is None else chosen.number
            with self._reserve("answer", thinking=0, answer=allowance, parent=parent, bound=True) as reservation:
                self._answering = reservation.number
                self._drafts[reservation.number] = Transcript(reservation, prompt, chosen)
                chosen = await self._write(reservation, prompt, chosen, streamed=self._plan.stream)
        if chosen is None:
            raise DeadlinePassed("time was up before there was anything to answer with")
        return chosen

    async def tell_rest(self, chosen: Candidate) -> None:
        """What the caller has not heard of it yet."""
        if len(chosen.text) > self._sent_chars:
            await self._tell(Delta(chosen.text[self._sent_chars :], chosen.logprobs[self._sent_logprobs :]))

    def outcome(self, chosen: Candidate, stopped_by: StoppedBy) -> Outcome:
        self._spending.choose(chosen.number)
        if stopped_by == "finished" and chosen.circled:
            stopped_by = "repetition"
        if stopped_by == "finished" and (chosen.forced or self.short):
            stopped_by = "budget"
        if stopped_by == "finished" and self.stopped_early:
            stopped_by = "early_agreement"
        line = self._spending.line(chosen.number)
        score = next((self._scores[n] for n in sorted(line, reverse=True) if n in self._scores), None)
        verifier = self._plan.fallback if self.degraded else self._plan.verifier
        return Outcome(
            answer=Answer(chosen.text, logprobs=chosen.logprobs),
            complete=chosen.complete,
            stopped_by=stopped_by,
            spent=self._spending.spent,
            samples=max(1, self._finished),
            samples_requested=max(1, self._requested, self._wanted, self._finished),
            agreement=self.agreement,
            score=score.value if score else None,
            verifier=verifier.name if verifier and score else None,
            degraded=self.degraded,
            truncated=bool(score and score.truncated),
            ungrouped=self.ungrouped,
            alike=self.alike,
            thought=chosen.thought,
        )


async def execute(
    plan: Plan, resources: Resources, spending: Spending, on_delta: OnDelta, stop_signal: StopSignal | None = None
) -> Outcome:
    """Runs the plan's strategy to an answer, within its budget and its time.

    The visible text goes to `on_delta`, all of it exactly once, in order, as early as the strategy allows. Cut short by
    the budget, by time or by the stop signal, the best so far is completed and answered. Raises `DeadlinePassed` when
    there is nothing at all, `EngineError` when the model fails before there is a complete answer, `RequestError` for a
    request the model refuses. Cancelled, it stops the model, and the spending is complete when it has returned.
    """
    try:
        return await _execute(plan, resources, spending, on_delta, stop_signal or StopSignal())
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _execute(
    plan: Plan, resources: Resources, spending: Spending, on_delta: OnDelta, stop_signal: StopSignal
) -> Outcome:
    run = Run(plan, resources, spending, on_delta)
    stopped_by: StoppedBy = "finished"
    chosen: Candidate | None = None
    now = asyncio.get_running_loop().time()
    deadline = None if plan.timeout is None else now + plan.timeout
    run.cut = None if plan.timeout is None else now + plan.timeout - min(GRACE, plan.timeout / 10)
    try:
        async with stop_signal.scope(run.cut):
            chosen = await plan.strategy.call(run)
            if not run.wrote(chosen):
                raise TypeError(f"strategy {plan.strategy.name} returned no candidate of its run")
            if run.streamed not in (None, chosen.number):
                log.warning(
                    "strategy %s returned another chain than it streamed; what was streamed stands", plan.strategy.name
                )
                chosen = run.best()
    except* Exhausted:
        stopped_by = "budget"
    except* TimeoutError:
        # Anybody may raise one; ours alone says that the time was up.
        if not stop_signal.expired:
            raise
        stopped_by = stop_signal.reason or "deadline"
    except* EngineError:
        chosen = run.best()
        if chosen is None or not chosen.complete:
            raise
        stopped_by = "engine_error"
    try:
        async with asyncio.timeout_at(deadline):
            chosen = await run.finish(chosen or run.best())
    except TimeoutError:
        stopped_by = stop_signal.reason or "deadline"
        chosen = run.best()
        if chosen is None or not chosen.text:
            raise DeadlinePassed("time was up before there was anything to answer with") from None
    await run.tell_rest(chosen)
    return run.outcome(chosen, stopped_by)


def _derived(text: str) -> int:
    """A seed, below 2^63, that follows from a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def _first(error: BaseException) -> BaseException:
    """The error a task group has wrapped: the first that was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
