"""What a strategy and a verifier work with: the `Run`, one request's permission to compute.

A strategy reaches the model through the verbs of `Run` alone. So whatever it does, tokens are reserved for every call
before it is made, every token is counted, nothing runs on after the request, and there is always an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Sequence, Set
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar, cast

from ponder.compute.answers.documents import called
from ponder.compute.answers.grouping import group
from ponder.compute.answers.phrases import asks_for_a_number
from ponder.compute.budget import Judgement
from ponder.compute.chains import Chains
from ponder.compute.clock import now
from ponder.compute.engine import Reward, RewardModel, unheld
from ponder.compute.errors import EngineError, Exhausted, Unaffordable, first
from ponder.compute.evidence import Foresight
from ponder.compute.full_vote import Ballots
from ponder.compute.groups import TaskGroup, apart
from ponder.compute.growth import grow
from ponder.compute.identity import CallIdentity
from ponder.compute.likelihood import window_of
from ponder.compute.outcome import Notes
from ponder.compute.policy import Policy
from ponder.compute.probes import PURPOSE, probed
from ponder.compute.race import Race
from ponder.compute.resources import Resources
from ponder.compute.text import Candidate, Hidden, Prompt, Score, ToolCall
from ponder.compute.vote import Vote, tally

log = logging.getLogger(__name__)

T = TypeVar("T")

QUESTION = 4_000
"""Characters from the end of a question that say what it asks for."""


class Strategy(Protocol):
    """A way to spend a thinking budget.

    It is called once for each answer, with a run of its own, and returns the candidate that is the answer: one that
    this run wrote. The errors of the verbs pass through it.
    """

    async def __call__(self, run: Run) -> Candidate: ...


class Verifier(Protocol):
    """A way of judging.

    It is called with candidates, finished or half-written, and returns one score in [0, 1] for each, in their order. If
    it raises, the fallback judges.
    """

    async def __call__(self, run: Run, candidates: Sequence[Candidate]) -> Sequence[Score]: ...


@dataclass(frozen=True, slots=True)
class Selection(Generic[T]):
    """A strategy or verifier and the name it is listed under."""

    name: str
    call: T


def counts(verifier: Selection[Verifier] | None) -> bool:
    """Whether this verifier tells nothing that a vote does not."""
    return verifier is None or bool(getattr(verifier.call, "counts", False))


def wants_likelihood(*chosen: Selection[Strategy] | Selection[Verifier] | None) -> bool:
    """Whether a strategy or verifier goes by how likely the model found its chains (`Sampling.likelihood`)."""
    return any(getattr(one and one.call, "needs_likelihood", False) for one in chosen)


def decides(verifier: Selection[Verifier] | None) -> bool:
    """Whether this verifier decides (it runs the program, checks the rule) and does not estimate."""
    return verifier is not None and bool(getattr(verifier.call, "exact", False))


ReadCalls = Callable[[str, bool], "Sequence[ToolCall] | None"]
"""(text of an answer, whether it is complete) -> the calls of tools in it, none where it was cut within its only one.
None: it calls nothing."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is about, as far as its verbs must know."""

    prompt: Prompt
    strategy: str
    """Its name, for messages."""
    verifier: Selection[Verifier] | None = None
    fallback: Selection[Verifier] | None = None
    """Judges where `verifier` fails."""
    cut: float | None = None
    """When the strategy has to end, in loop time."""
    yields: bool = False
    """It may make do with fewer chains where many calls wait for the model."""
    called: ReadCalls | None = None
    """Reads the calls of tools in an answer; None where no tool may be called."""


class Arriving:
    """The candidates of `Run.sampling`, to be read with `async for`."""

    def __init__(self, race: Race, stream: AsyncGenerator[Candidate | None]) -> None:
        self._race, self._stream = race, stream
        self.ages = race.ages
        """For each chain still being written how long it has been, where those that have ended took 1 on average; none
        with a seed."""
        self.begun: Sequence[int] = race.begun
        """Numbers (`Candidate.number`) of the chains in the order they were begun, unfinished ones included."""
        self.lost: Set[int] = race.lost
        """Of these, the numbers of the chains that were lost or dropped: no candidate is to come of them."""

    def __aiter__(self) -> AsyncGenerator[Candidate]:
        return cast("AsyncGenerator[Candidate]", self._stream)

    def watched(self, every: int) -> AsyncGenerator[Candidate | None]:
        """The same, and between the candidates None, whenever the chains that are being written have grown by `every`
        tokens each, on average: time to look at `running`. A look that comes while the one before is still made use of
        is left out. To be called before anything was read. With a seed there are no looks."""
        self._race.watch(every)
        return self._stream

    def look_every(self, tokens: int) -> None:
        """From now on a look comes after so many tokens; no more often than the chains that run were begun for."""
        self._race.watch(tokens)

    @property
    def running(self) -> list[Candidate]:
        """The chains that are being written, half-written as they stand, in the order they were begun: their numbers,
        how many tokens they have, their likelihood. None of them waits. With a seed it is empty: how far they are
        depends on what else the model does."""
        return self._race.running

    def drop(self, candidate: Candidate) -> None:
        """Stops one of the running chains at the engine: nothing is to come of it, what it has not used is free again,
        and another may begin in its place."""
        self._race.drop(candidate.number)


class Run:
    """One request's permission to compute. `docs/strategies.md` shows each verb at work.

    Counts are tokens of the language model. The verbs raise `Exhausted` when the budget cannot pay for them and there
    is already something to answer with, and `EngineError` when the model fails. A strategy lets both pass; `execute`
    then answers with the best so far. A chain that is lost, because its model went away, is left out: it is no
    candidate and never votes. A cancelled verb stops the model before it returns.
    """

    def __init__(self, task: Task, resources: Resources, chains: Chains, notes: Notes) -> None:
        self._task, self._resources, self._chains, self._notes = task, resources, chains, notes
        self._spending = chains.spending
        self._calls: dict[tuple[int, int], str | None] = {}
        """What chains call, by their number and the length of their text; None: nothing."""
        self._only: dict[Prompt, Candidate] = {}
        """The one chain of each prompt, where nothing is left to chance."""

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def prompt(self) -> Prompt:
        """The caller's question."""
        return self._task.prompt

    @property
    def free(self) -> int:
        """Tokens of the thinking budget neither spent nor reserved, as far as the request's money pays for them."""
        return self._spending.free

    @property
    def blank(self) -> Candidate:
        """A chain of which nothing is written yet, with number -1. A search extends it first."""
        return Candidate(-1, self.prompt, Hidden(()), Hidden(""), "", 0, 0, self._resources.engine.card.thinks, "step")

    @property
    def seed(self) -> int | None:
        """The caller's seed, for strategies that draw random numbers; None where the caller gave none."""
        return self._chains.wishes.seed

    @property
    def tenant(self) -> str | None:
        """Whose request it is: the name of the API key. None outside a server."""
        return self._chains.wishes.tenant

    @property
    def greedy(self) -> bool:
        """Nothing is left to chance (temperature 0, or top_k 1): a prompt has one chain."""
        return self._chains.wishes.temperature == 0 or self._chains.wishes.top_k == 1

    @property
    def streamed(self) -> int | None:
        """The number of the chain whose text the caller was sent as it was written; None before `stream`."""
        return self._chains.drafts.streamed

    @property
    def step_ids(self) -> frozenset[int]:
        """The tokens that end a step of this model's thoughts; may be empty."""
        return self._resources.engine.card.step_ids

    @cached_property
    def numeric(self) -> bool:
        """The question asks for a number, as far as the words of the user's last turn tell."""
        asked = next((m.content for m in reversed(self.prompt.messages) if m.role == "user"), "")
        return isinstance(asked, str) and asks_for_a_number(asked[-QUESTION:])

    @property
    def policy(self) -> Policy:
        """The numbers that `auto` goes by for this model."""
        return self._resources.policy

    @property
    def window(self) -> int:
        """Tokens of a window in which the likelihood of chains is looked at: an eighth of a typical chain."""
        return window_of(self._chains.estimates.current.p50)

    @property
    def auc(self) -> float:
        """How well the least likely window of chains tells answers apart: the probability that a chain of the answer
        that wins has a likelier one than another chain, as learned of this model's votes. With a seed what the policy
        says: what other requests were like must not show."""
        prior = self.policy.likelihood
        return prior if self.seed is not None else self._resources.evidence.worth.auc(prior)

    def told_apart(self, auc: float) -> None:
        """So it was in this request, for those to come. Chains that a caller's wishes have made unlike the model's own
        tell them nothing."""
        if self._as_the_model_would:
            self._resources.evidence.worth.saw(auc)

    @property
    def _as_the_model_would(self) -> bool:
        """Chains are drawn at a temperature of at most 1, without penalties or biases."""
        wishes = self._chains.wishes
        bent = wishes.logit_bias or wishes.presence_penalty or wishes.frequency_penalty
        return wishes.temperature <= 1 and not bent

    @property
    def foresight(self) -> Foresight:
        """How often what a half-written chain of this model would answer holds."""
        return self._resources.evidence.foresight

    def stage(self, chain: Candidate) -> int:
        """How far a half-written chain is, for `foresight`."""
        return Foresight.stage(chain.tokens, self._chains.estimates.current.p50)

    def prevails(self, chain: Candidate) -> bool:
        """The chain is likelier than all others together, so that its answer would have the majority of a vote of any
        size; of a half-written one: it may be so. Only where its likelihood is known, and where it is drawn as the
        model would have it: at a temperature of at most 1, without penalties or biases."""
        if not self._as_the_model_would or chain.forced or chain.circled:
            return False
        certainty = chain.certainty(self.window)
        return certainty is not None and certainty.prevails

    @property
    def exact(self) -> bool:
        """The verifier decides (it runs the program, checks the rule) and does not estimate."""
        return decides(self._task.verifier) and not self._notes.degraded

    @property
    def discerns(self) -> bool:
        """There is a verifier that tells more of an answer than how many chains gave it."""
        return not counts(self._task.fallback if self._notes.degraded else self._task.verifier)

    def judging_is_dearer(self, candidates: Sequence[Candidate], chains: int) -> bool:
        """Whether what a reward model would read to judge these candidates costs more than so many more chains like
        them. Never where prices are not known, nor of a verifier that reads nothing."""
        price, verifier = self._resources.price, self._task.verifier
        if price is None or self._notes.degraded or not getattr(verifier and verifier.call, "reads", False):
            return False
        prompt, lengths = self._resources.engine.length(self.prompt), [c.tokens for c in candidates]
        usual = round(sum(lengths) / max(1, len(lengths)))
        return price.judging(prompt, lengths) > chains * price.chain(prompt, usual)

    def races(self, n: int) -> bool:
        """Whether of `n` chains more than one is likely to be drawn: where the first is shorter than usual, the budget
        feeds a second."""
        if n > 1 and not self.greedy and 2 * self.free >= 3 * self._chains.estimates.current.p50:
            return True
        return self.chains(n) > 1

    def chains(self, n: int) -> int:
        """How many chains to draw at once, from 1 to `n`: as many as what is free can give a whole share each. 1 where
        all would be the same."""
        notes = self._notes
        notes.wanted = max(notes.wanted, n)
        if self.greedy:
            notes.alike = notes.alike or n > 1
            return 1
        fed = max(1, self._chains.estimates.current.chains(n, self.free))
        notes.short = notes.short or fed < n
        return fed

    def makes_do(self, drawn: int, n: int) -> bool:
        """Whether a strategy that would draw `n` chains should end with the `drawn` it has, because others wait: with
        as many calls waiting as the model has slots, half of `n` are enough, with twice as many a third. Never with a
        seed, and only where the operator allows it; the response says so."""
        share = self._resources.writing
        if not self._task.yields or self.seed is not None or share is None or drawn >= n:
            return False
        enough = drawn >= n / (1 + share.slots.load)
        self._notes.reduced = self._notes.reduced or enough
        return enough

    async def room(self, prompt: Prompt) -> int:
        """Tokens of the model's context that are left behind a prompt; below 1 where it does not fit."""
        await self._chains.read(prompt)
        return self._chains.room(prompt)

    @contextmanager
    def keeping(self, tokens: int) -> Generator[None]:
        """Within the block so many tokens of the thinking budget are not free: they are kept for what the strategy
        does behind it."""
        self._spending.kept += tokens
        try:
            yield
        finally:
            self._spending.kept -= tokens

    # -- writing ------------------------------------------------------------------------------------------------------

    def _may(self) -> None:
        """Raises `RuntimeError` once an answer was streamed: what the caller has read is the answer."""
        if self.streamed is not None:
            raise RuntimeError(f"strategy {self._task.strategy}: stream() is the last verb of a run")

    async def sample(self, n: int, prompt: Prompt | Sequence[Prompt] | None = None) -> list[Candidate]:
        """Up to `n` finished candidates, ordered by number: fewer when the budget runs short or chains were lost, never
        none.

        Several prompts are taken in turn; `Candidate.prompt` says which one a candidate answers. Left out, it is the
        caller's. Raises `Exhausted`, `EngineError` (`Lost` where all chains were), and `RuntimeError` after `stream`.
        """
        async with self.sampling(n, prompt) as arriving:
            return sorted([candidate async for candidate in arriving], key=lambda candidate: candidate.number)

    @asynccontextmanager
    async def sampling(
        self,
        n: int,
        prompt: Prompt | Sequence[Prompt] | None = None,
        at_once: Callable[[], int] | None = None,
        sharing: Callable[[], int] | None = None,
    ) -> AsyncGenerator[Arriving]:
        """Up to `n` candidates as they finish; with a seed in the order they were begun, so that the result can be
        repeated. Leaving the block stops the rest at the engine.

        As many chains start at once as the budget can give a whole share each. The next starts when one has finished
        and left a part of its share. `at_once` returns how many may run side by side at most; it is asked at the
        beginning and after each candidate. `sharing` returns among how many side by side, those that run included, the
        budget is shared, where it feeds so many and fewer begin: the rest stays free, for those that begin while they
        run, and for probes. A chain whose answer outgrows its share goes on as long as the budget pays. Where nothing
        is left to chance, each prompt has one candidate, the same one each time. Raises what `sample` does.
        """
        self._may()
        notes = self._notes
        notes.requested += n
        prompts = [prompt or self.prompt] if prompt is None or isinstance(prompt, Prompt) else list(prompt)
        async with TaskGroup() as children:
            race = Race(self._chains, children, prompts, n, at_once, self._only if self.greedy else None, sharing)
            notes.alike = notes.alike or race.alike
            stream = race.settled()
            async with aclosing(stream):
                yield Arriving(race, stream)
            notes.short = notes.short or race.short
            notes.stopped_early = race.stop() or notes.stopped_early

    async def extend(
        self, beams: Sequence[Candidate], n: int = 1, until: int | None = None, *, steps: bool = True
    ) -> list[Candidate]:
        """`n` continuations of each half-written candidate: to the end of its next step, of at most `until` tokens, or
        to the end of the chain where `until` is left out. Without `steps`: by `until` tokens of thought, wherever that
        is, and an answer that begins within them is written whole.

        They are returned in the order of the beams. Beams that are over are returned once, as they are. There are fewer
        when the budget runs short or chains were lost, and none only while the run has other chains to go on with. With
        a seed the result depends on the order of the calls, not on how quick each chain was; so extend side by side in
        one call. Raises what `sample` does.
        """
        self._may()
        if self.greedy and n > 1:
            self._notes.alike, n = True, 1
        return await grow(self._chains, self._notes, beams, n, until, steps=steps)

    async def probe(self, beams: Sequence[Candidate], answer: int | None = None) -> list[Candidate]:
        """What half-written chains would answer now: their thoughts are closed by force in a call of its own, and an
        answer of at most `answer` tokens is written behind each; left out, of as many as nearly all answers have.

        The chains themselves go on. Each probe is a candidate whose `parent` is its chain, in the order of the beams.
        It is hidden and paid like a thought, for evidence alone: what is chosen is a chain that has ended by itself.
        There are fewer, or none, where the budget does not pay for more, where the model has no slot free, for chains
        that have begun their answer, and where a grammar or tools shape the answer, as probes are held to none. What
        comes of the running chains of a seeded request would not repeat, so `Arriving.running` has none there; beams of
        `extend` may be probed. Raises `EngineError`, and `RuntimeError` after `stream`.
        """
        self._may()
        return await probed(self._chains, self._resources.writing, beams, answer, self._task.called is not None)

    async def ask(
        self,
        prompt: Prompt,
        purpose: str,
        *,
        thinking: int | None = None,
        answer: int | None = None,
        logprobs: int | None = None,
    ) -> Candidate:
        """One answer to another question (a critique, a judgement). It is hidden, and paid like a thought.

        `thinking` and `answer` are its limits in tokens; left out, they are shares of what is free. `purpose` names
        the call in the trace. With `logprobs`, each visible token has its log-probability and those of this many
        others. Raises `Exhausted`; `EngineError` where the question does not fit into the context; `RuntimeError` after
        `stream`.
        """
        await self._chains.read(prompt)
        self._may()
        self._spending.unbind()
        free = self.free
        if free < 1:
            raise Exhausted(f"no thinking tokens left for {purpose}")
        if self._chains.room(prompt) < 1:
            raise EngineError(f"the question of the {purpose} does not fit into the model's context")
        share, visible = self._chains.shares(free)
        if answer is not None:
            visible = min(free, answer)
        share = min(free - visible, share if thinking is None else thinking)
        with self._chains.reserve(purpose, thinking=share, answer=visible, aside=True) as reservation:
            return await self._chains.write(reservation, prompt, aside=True, logprobs=logprobs)

    async def stream(
        self, prompt: Prompt | None = None, *, words: str = "", rounds: int = 0, least: int | None = None
    ) -> Candidate:
        """One candidate whose visible text is sent to the caller as it is written.

        It is the answer, and the last verb: after it `sample`, `extend`, `ask`, `score` and `stream` raise
        `RuntimeError`. So does this one while other chains are being written.

        A model that would end its thought too early may be made to think on: `rounds` times at most the end is not
        taken, and `words` are put in in its place, until `least` hidden tokens are made; left out, all it may have.
        Raises what `sample` does, and with `rounds` `EngineError` where the engine cannot do that.
        """
        self._may()
        if self._spending.busy:
            raise RuntimeError(f"strategy {self._task.strategy}: stream() while other chains are being written")
        self._notes.requested += 1
        self._spending.unbind()
        chains, allowance = self._chains, self._spending.allowance
        thinking = self._spending.free_thought
        with chains.reserve("stream", thinking=thinking, answer=allowance, bound=True) as reservation:
            chains.drafts.streamed = reservation.number
            prompt = prompt or self.prompt
            if rounds and thinking and chains.card.thinks:
                least = thinking if least is None else least
                candidate = await chains.write_on(reservation, prompt, words, least=least, rounds=rounds)
            else:
                candidate = await chains.write(reservation, prompt, streamed=True)
        chains.learn(candidate)
        return candidate

    # -- judging ------------------------------------------------------------------------------------------------------

    async def score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        """One score in [0, 1] for each candidate, in order, by the plan's verifier.

        The fallback judges, and the answer says so, where the verifier fails: it raises, gives another number of scores
        or one outside [0, 1], takes more than half of the time that is left, or reads more than the request's money
        pays for. A verifier that has failed is not asked again. Raises `EngineError` where there is no verifier,
        `Exhausted`, `RuntimeError` after `stream`, and what the fallback raises.
        """
        self._may()
        verifier, fallback = self._task.verifier, self._task.fallback
        if verifier is None:
            raise EngineError(f"strategy {self._task.strategy} wants a verifier and the plan has none")
        judge = fallback if self._notes.degraded and fallback is not None else verifier
        try:
            async with asyncio.timeout_at(None if judge is fallback else self._half_time()):
                scores = await apart(self._judged(judge, candidates))
        except Exception as failed:  # noqa: BLE001 (a verifier may be anybody's, and fail in any way)
            error = first(failed)
            ends = isinstance(error, Exhausted) and not isinstance(error, Unaffordable)
            if ends or fallback is None or judge is fallback:
                raise error from None
            level = logging.INFO if isinstance(error, Unaffordable) else logging.WARNING
            log.log(level, "verifier %s failed (%s); %s judges", judge.name, type(error).__name__, fallback.name)
            self._notes.degraded = True
            scores = await self._judged(fallback, candidates)
        for candidate, score in zip(candidates, scores, strict=True):
            self._notes.scores[candidate.number] = score
            if candidate.number >= 0:
                self._spending.reservations[candidate.number].score = score.value
        return scores

    async def _judged(self, judge: Selection[Verifier], candidates: Sequence[Candidate]) -> Sequence[Score]:
        """Its scores. Raises `EngineError` over another number of them, or one that is no number in [0, 1]."""
        spending, started, read = self._spending, now(), self._spending.verifier
        self._notes.judging += 1
        try:
            scores = await judge.call(self, candidates)
        finally:
            self._notes.judging -= 1
            seconds, tokens = now() - started, spending.verifier - read
            spending.judgements.append(Judgement(judge.name, len(candidates), started, seconds, tokens))
        if len(scores) != len(candidates):
            raise EngineError(f"verifier {judge.name} gave {len(scores)} scores for {len(candidates)} chains")
        for value in (value for score in scores for value in (score.value, *score.steps)):
            if not 0 <= value <= 1:
                raise EngineError(f"verifier {judge.name} gave a score of {value}, outside 0 to 1")
        return scores

    def _half_time(self) -> float | None:
        """Half-way to the end of the strategy's time, in loop time; None where that has no end."""
        cut = self._task.cut
        return None if cut is None else (asyncio.get_running_loop().time() + cut) / 2

    async def reward(self, candidates: Sequence[Candidate]) -> Sequence[Reward]:
        """For each candidate, in order, scores in [0, 1] of its steps by the process reward model (Lightman et al.
        2023). Raises `EngineError` where the model fails or none is configured, `Exhausted` where the request's money
        does not pay for what the model would read."""
        model = self._resources.reward_model
        if model is None:
            raise EngineError("no process reward model is configured for this model")
        by_prompt: dict[int, list[int]] = {}
        for i, candidate in enumerate(candidates):
            by_prompt.setdefault(id(candidate.prompt), []).append(i)
        rewards: dict[int, Reward] = {}
        for places in by_prompt.values():
            siblings = [candidates[i] for i in places]
            calls = [self._spending.identity(candidate.number, "reward") for candidate in siblings]
            rewards |= dict(zip(places, await self._judgements(model, siblings, calls), strict=True))
        return [rewards[i] for i in range(len(candidates))]

    async def _judgements(
        self, model: RewardModel, siblings: Sequence[Candidate], calls: Sequence[CallIdentity]
    ) -> Sequence[Reward]:
        """Scores of candidates of one prompt: as many at a time as the request is given slots of the reward model."""
        prompt, share = siblings[0].prompt, self._resources.judging
        read = self._spending.reads([candidate.number for candidate in siblings]).read
        tenant, bounded = self.tenant, self._spending.budget.cost is not None
        hold = self._spending.reading if bounded or self._spending.quota is not None else unheld
        if bounded and self.seed is not None:
            # What is left must not depend on what the model has read for other requests.
            tenant = f"{tenant} {self._spending.identity(None, 'reward')}"
        if share is None:
            return await model.reward(prompt, siblings, read=read, hold=hold, tenant=tenant, calls=calls)
        cost = 0.0

        def reading(tokens: int, cached: int) -> None:
            nonlocal cost
            cost += tokens - cached
            read(tokens, cached)

        rewards: list[Reward] = []
        while left := siblings[len(rewards) :]:
            slots = [share.take(left[0].length) or await share.turn(left[0].length)]
            while len(slots) < len(left) and (slot := share.take(left[len(slots)].length)) is not None:
                slots.append(slot)
            cost, at_once = 0.0, slice(len(rewards), len(rewards) + len(slots))
            try:
                judged = await model.reward(
                    prompt, siblings[at_once], read=reading, hold=hold, tenant=tenant, calls=calls[at_once]
                )
            finally:
                for slot in slots:
                    share.give(slot, cost / len(slots))
            rewards += [reward for reward, _ in zip(judged, slots, strict=True)]
        return rewards

    @property
    def reward_model(self) -> RewardModel | None:
        """The process reward model beside this model; None where none is configured."""
        return self._resources.reward_model

    def used_by_programs(self, seconds: float) -> None:
        """A program that a verifier ran has used so much processor time."""
        self._spending.program_seconds += seconds

    async def vote(
        self, candidates: Sequence[Candidate], scores: Sequence[Score] | None = None, *, shorter_first: bool = False
    ) -> Vote:
        """Groups the candidates by equivalent answers and adds up their scores; without scores it counts them (Wang et
        al. 2022, self-consistency).

        The leader is the best of the heaviest group, of equals the first, or with `shorter_first` the one whose chains
        have fewer tokens; it is offered. A candidate without an answer
        has no vote. A chain given twice (a particle and its copy) has one. One that went in circles votes only for an
        answer that others give too. Raises `ValueError` for a probe: see `groups`.
        """
        if any(self._spending.reservations[c.number].purpose == PURPOSE for c in candidates if c.number >= 0):
            raise ValueError("a probe is no chain and has no vote; run.groups() compares its answer with others")
        voters = {c.number: i for i, c in reversed(list(enumerate(candidates)))}
        places = sorted(voters.values())
        weights = [1.0 if scores is None else scores[i].value for i in places]
        candidates = [candidates[i] for i in places]
        groups = await self.groups(candidates)
        founded = {answer for c, answer in zip(candidates, groups, strict=True) if not c.circled}
        groups = [answer if answer in founded else None for answer in groups]
        for candidate, answer in zip(candidates, groups, strict=True):
            if answer is not None:
                self._spending.reservations[candidate.number].answer_group = answer
        vote = tally(candidates, weights, groups, shorter_first=shorter_first)
        self.offer(vote.leader)
        self._notes.votes = tuple(sorted(vote.counts, reverse=True))
        alike = all(c.prompt is self.prompt and c.parent is None for c in candidates)
        places = {c.number: place for c, place in zip(candidates, vote.votes, strict=True)}
        self._notes.ballots = Ballots(vote.counts, places) if alike else None
        if vote.counts:
            self._notes.agreement = vote.share
        self._notes.ungrouped = not vote.counts and len(candidates) > 1
        return vote

    async def groups(self, candidates: Sequence[Candidate]) -> list[int | None]:
        """For each candidate the number of its answer, counted from 0 in order of first appearance, the same for
        equivalent ones; None where it is not over or holds no answer. Calls of tools are the same that call the same
        tools with equal arguments, in any order."""
        texts = [c.text if c.over else "" for c in candidates]
        if self._task.called is None:
            return await group(texts, tenant=self.tenant, numeric=self.numeric)
        calls = [self._called(self._task.called, c) if c.over else None for c in candidates]
        said = [text if call is None else "" for text, call in zip(texts, calls, strict=True)]
        answers = await group(said, tenant=self.tenant, numeric=self.numeric)
        keys = [call or None if call is not None else answer for call, answer in zip(calls, answers, strict=True)]
        order = {key: place for place, key in enumerate(dict.fromkeys(key for key in keys if key is not None))}
        return [None if key is None else order[key] for key in keys]

    def _called(self, read: ReadCalls, candidate: Candidate) -> str | None:
        """What a candidate calls; empty where it was cut within its only call, None where it calls nothing."""
        key = candidate.number, len(candidate.text)
        if key not in self._calls:
            calls = read(candidate.text, candidate.complete)
            self._calls[key] = None if calls is None else called(calls) if calls else ""
        return self._calls[key]

    def offer(self, candidate: Candidate) -> None:
        """Names the best candidate so far: the answer, should the run be cut short. A probe, or what `ask` was told,
        answers no caller, so nothing is noted of it."""
        if candidate in self._chains.drafts:
            self._chains.drafts.offered = candidate
