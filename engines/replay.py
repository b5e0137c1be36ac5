"""An engine without a model: it draws from pools of recorded samples, in virtual decode steps.

The real strategies run over it on the real code path, in seconds: on a `VirtualTimeLoop` a token of every chain that
runs takes one unit of time, and the clock jumps from one end of a chain to the next. Deadlines strike in that time.

A recorded sample says what its answer was and how many tokens it had. Of those, `answer_tokens` (at most half) are
taken to be the visible part and the rest the thought, where that was not recorded. A chain whose thought is closed by
force before its recorded end answers what the last probe before that place has found, and says so with the first tokens
of its visible part. Without a probe before it, it comes to no answer: nobody knows what the model would have said.
"""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge

from ponder.compute.alike import Runs, alike, runs_of
from ponder.compute.answers.grouping import group
from ponder.compute.answers.phrases import asks_for_a_number
from ponder.compute.engine import Checked, Delta, Hold, ModelCard, Read, Reward, Sampling, unheld
from ponder.compute.errors import EngineError
from ponder.compute.identity import CallIdentity
from ponder.compute.text import Candidate, Ending, Hidden, Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.samples import Question, Sample

THINKS, CLOSES, SAYS, KINDS = 0, 1, 2, 3
"""The three tokens there are of each sample: `KINDS` times its number and one of these. So a chain tells by its tokens
which sample it replays, also while it is being written."""

TOLD = 16
"""Tokens of an answer behind a thought closed by force in which it says what it answers."""

SO = "So: "
NOTHING = "No answer was reached in the end."


@dataclass
class _Request:
    """The samples of a question in the order in which one request draws them, each once before any comes again."""

    question: Question
    order: list[int]
    places: Mapping[tuple[int, ...], int] = field(default_factory=dict[tuple[int, ...], int])
    """Samples by their place in the tree of the request, where they are drawn as they were recorded."""
    drawn: set[int] = field(default_factory=set[int])

    def draw(self, seed: int | None, call: CallIdentity) -> int:
        """The sample recorded at the place of the call, else the next; with a seed the one it picks, or the next behind
        that which is left."""
        if len(self.drawn) == len(self.order):
            self.drawn.clear()
        if (recorded := self.places.get(call.path)) is not None:
            self.drawn.add(recorded)
            return recorded
        place = 0 if seed is None else random.Random(seed).randrange(len(self.order))  # noqa: S311 (no secret)
        sample = next(i for i in self.order[place:] + self.order[:place] if i not in self.drawn)
        self.drawn.add(sample)
        return sample


class ReplayEngine:
    """Replays the samples of some questions; `ask` gives the prompts it understands.

    It honours the limits of `Sampling` on thought, answer and both together, and `until` where the scores of steps were
    recorded: steps are equal parts of the thought then. Seeds, half-written chains, and chains that are still being
    written are honoured. The likelihood of a chain is that of its windows, where it was recorded. What the recorded
    chains cannot show (log-probabilities of tokens, grammars, stop strings, penalties) it refuses or passes over.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        *,
        typical_chain: tuple[int, int],
        answer_tokens: int = 400,
        prompt_tokens: int = 64,
        seed: int = 0,
        token_seconds: float = 1.0,
    ) -> None:
        """`prompt_tokens` are those of a question where they were not recorded, `token_seconds` seconds of the loop's
        clock for a token of each chain."""
        self.card = ModelCard(name="replay", context=1 << 24, thinks=True, typical_chain=typical_chain)
        self.questions = questions
        self.produced = 0
        self.running = 0
        self._answer_tokens = answer_tokens
        self._prompt_tokens = prompt_tokens
        self._seed = seed
        self.token_seconds = token_seconds
        self._requests: dict[Message, _Request] = {}

    def ask(self, question: int, draw: int | None) -> Prompt:
        """The prompt of a request for a question. Its samples come in an order that follows from `draw`; with None, as
        they were recorded: a call at the same place of the tree gets the same chain."""
        asked = Message("user", f"Question {self.questions[question].name}", name=f"{question}.{draw}")
        samples = self.questions[question].samples
        order = list(range(len(samples)))
        if draw is None:
            places = {sample.path: i for i, sample in enumerate(samples) if sample.path}
            self._requests[asked] = _Request(self.questions[question], order, places)
        else:
            random.Random(f"{self._seed}.{question}.{draw}").shuffle(order)  # noqa: S311 (no secret)
            self._requests[asked] = _Request(self.questions[question], order)
        return Prompt((asked,))

    def forget(self, prompt: Prompt) -> None:
        """A request is over: nothing more is asked of it."""
        del self._requests[prompt.messages[0]]

    def right(self, prompt: Prompt, text: str) -> bool:
        """Whether an answer to this prompt is, to the letter, one that is known to be right."""
        question = self._request(prompt).question
        told = {_answer(number) for number in question.right}
        return text in told or any(text == one.text and one.answer in question.right for one in question.samples)

    async def judge(self, prompt: Prompt, text: str) -> bool:
        """Whether an answer to this prompt is right: also one that was cut, or that nobody has recorded."""
        question = self._request(prompt).question
        if self.right(prompt, text):
            return True
        if question.gold is None or text.startswith(SO) or any(text == one.text for one in question.samples):
            return False
        numeric = None if question.text is None else asks_for_a_number(question.text)
        gold, answer = await group([f"\\boxed{{{question.gold}}}", text], numeric=numeric)
        return gold is not None and answer == gold

    def sample(self, candidate: Candidate) -> tuple[Sample, int, int]:
        """The sample that a chain replays, how many tokens its thought has, and how many when it ends by itself."""
        number = _replayed(candidate)
        if number is None:
            raise EngineError("of a chain without a token nobody knows which it is")
        sample = self._request(candidate.prompt).question.samples[number]
        thinks = _ids(candidate).count(KINDS * number + THINKS)
        return sample, thinks, sample.tokens - self._visible(sample)

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        request = self._requests.get(prompt.messages[0]) if prompt.messages else None
        recorded = request.question.prompt_tokens if request else None
        return self._prompt_tokens * len(prompt.messages) if recorded is None else recorded

    async def accept(self, sampling: Sampling) -> None:
        """Everything: what it cannot replay is not known before."""

    async def check(self) -> Checked | None:
        """There is nothing that could fail to answer."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        if sampling.logprobs is not None or sampling.grammar is not None:
            raise EngineError("recorded samples hold neither log-probabilities nor answers in a grammar")
        request = self._request(prompt)
        begun = transcript.begun
        if not request.order:
            raise EngineError("of this question no chain was recorded to its end")
        number = None if begun is None else _replayed(begun)
        if number is None:
            number = request.draw(sampling.seed, transcript.call)
        transcript.read(self.length(prompt), 0)
        sample = request.question.samples[number]
        transcript.alike()
        writing = _Writing(self, sampling, transcript, sample, KINDS * number)
        self.running += 1
        try:
            await writing.think(self._visible(sample))
            if not writing.thinking and (text := await writing.say(self._visible(sample))):
                yield Delta(text)
        finally:
            self.running -= 1
            transcript.end(writing.ending, Hidden(str(number)))

    def _request(self, prompt: Prompt) -> _Request:
        request = self._requests.get(prompt.messages[0]) if prompt.messages else None
        if request is None:
            raise EngineError("this is none of the questions of the pool")
        return request

    def _visible(self, sample: Sample) -> int:
        """Tokens of its visible part."""
        if sample.visible is not None:
            return sample.visible
        return max(1, min(self._answer_tokens, sample.tokens // 2))


class _Writing:
    """One stream of a `ReplayEngine`."""

    def __init__(
        self, engine: ReplayEngine, sampling: Sampling, transcript: Transcript, sample: Sample, ids: int
    ) -> None:
        """`ids`: the first of the three tokens of the sample."""
        self.engine, self.sampling, self.transcript, self.sample, self.ids = engine, sampling, transcript, sample, ids
        begun = transcript.begun
        written = _ids(begun) if begun else ()
        self.thought, self.said = written.count(ids + THINKS), written.count(ids + SAYS)
        self.thinking = begun.thinking if begun else True
        self.forced = begun.forced if begun else False
        self.ending: Ending = "aborted"

    async def think(self, visible: int) -> None:
        """To the end of the thought, of the step, or of what may be thought."""
        if not self.thinking:
            return
        whole = self.sample.tokens - visible
        end, steps = whole, len(self.sample.steps)
        if self.sampling.until and steps:
            end = next((at for i in range(1, steps) if (at := whole * i // steps) > self.thought), whole)
        tokens = max(0, min(end - self.thought, self.sampling.thinking - self.transcript.hidden, self.left))

        def write(made: int) -> None:
            self.transcript.think(alike(self.ids + THINKS, made), self.likelihood(made))
            self.thought += made

        await self.decode(tokens, self.looks(tokens), write)
        if self.thought == whole:
            self.transcript.close_thought()
            self.thinking = False
        elif self.sampling.until or self.sampling.unclosed:
            self.ending = "step" if self.sampling.until and self.thought == end else "length"
        else:
            self.transcript.force((self.ids + CLOSES,))
            self.thinking, self.forced = False, True

    def looks(self, tokens: int) -> Iterator[int]:
        """After how many of so many tokens of a thought the transcript is told of them: as often as was asked for, and
        where a probe was recorded, which is what can be learned by looking."""
        every = self.sampling.every
        regular = range(every, tokens, every) if every else ()
        probed = (at - self.thought for at, _ in self.sample.probes if self.thought < at < self.thought + tokens)
        yield from merge(regular, list(probed))
        yield tokens

    async def say(self, visible: int) -> str:
        """The answer, or as many of its tokens as are allowed."""
        tokens = max(0, min(visible - self.said, self.sampling.answer - self.transcript.visible, self.left))
        before = len(self.text(self.said, visible))

        def write(made: int) -> None:
            text = self.text(self.said + made, visible)[before:]
            self.transcript.say(alike(self.ids + SAYS, made), text, self.likelihood(made))
            self.said += made

        await self.decode(tokens, (tokens,), write)
        self.ending = "finished" if self.said == visible else "length"
        return self.text(self.said, visible)[before:]

    def text(self, said: int, visible: int) -> str:
        """The visible text behind so many of its tokens. What tells a made-up answer comes with the last one; behind a
        thought that was closed by force earlier."""
        recorded = None if self.forced else self.sample.text
        if recorded is not None:
            return recorded if said == visible else recorded[: len(recorded) * said // visible]
        probe = self.probe if self.forced else None
        if said == visible or (probe is not None and said >= TOLD):
            return _answer(probe if self.forced else self.sample.answer)
        return SO if said else ""

    @property
    def probe(self) -> int | None:
        """What the last probe has found before the place where the thought was closed."""
        probes = self.sample.probes
        place = bisect_right(probes, self.thought, key=lambda probe: probe[0])
        return probes[place - 1][1] if place else None

    def likelihood(self, made: int) -> Runs[float]:
        """Of so many tokens more, each that of its window, where it is wanted and was recorded."""
        recorded, window = self.sample.likelihood, self.sample.window
        found = Runs[float]()
        if not self.sampling.likelihood or not recorded:
            return found
        at, end = self.thought + self.said, self.thought + self.said + made
        while at < end:
            place = min(at // window, len(recorded) - 1)
            until = end if place == len(recorded) - 1 else min(end, (place + 1) * window)
            found.add(recorded[place], until - at)
            at = until
        return found

    @property
    def left(self) -> int:
        """Tokens it may still make under the limit of both parts."""
        total = self.sampling.total
        return 1 << 40 if total is None else total - self.transcript.hidden - self.transcript.visible

    async def decode(self, tokens: int, looks: Iterable[int], write: Callable[[int], None]) -> None:
        """So many steps of the model, written down after each number of `looks`; stopped earlier, as many as there was
        time for."""
        clock, second = asyncio.get_running_loop().time, self.engine.token_seconds
        begun = clock()
        made = 0

        def up_to(place: int) -> None:
            nonlocal made
            new, made = place - made, max(made, place)
            if new > 0:
                self.engine.produced += new
                write(new)

        try:
            for place in looks:
                if place > made or not tokens:
                    await asyncio.sleep((place - made) * second)
                    up_to(place)
        finally:
            up_to(min(tokens, int((clock() - begun) / second + 1e-6)))


def _replayed(chain: Candidate) -> int | None:
    """The number of the sample that a chain replays; None where it was stopped before its first token."""
    if ids := _ids(chain):
        return next(iter(ids)) // KINDS
    thought = chain.thought.unseal()
    return int(thought) if thought else None


def _ids(chain: Candidate) -> Runs[int] | tuple[int, ...]:
    """Its tokens, not written out where they need not be."""
    return runs_of(chain.ids) or chain.ids.unseal()


def _answer(number: int | None) -> str:
    return f"{SO}{NOTHING if number is None else f'the answer is {number}.'}"


class RecordedRewards:
    """The process reward model whose scores were recorded with the samples an engine replays."""

    name = "recorded"

    def __init__(self, engine: ReplayEngine, aggregate: Callable[[Sequence[float]], float] = math.prod) -> None:
        self._engine = engine
        self._aggregate = aggregate

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
            sample, thinks, thought = self._engine.sample(candidate)
            if not sample.steps:
                raise EngineError("the scores of steps were not recorded in this pool")
            async with hold(candidate.length):
                read(candidate.length, 0)
            rewards.append(Reward(sample.steps[: len(sample.steps) * thinks // max(1, thought)]))
        return rewards

    def aggregate(self, steps: Sequence[float]) -> float:
        return self._aggregate(steps) if steps else 0.0

    async def check(self) -> Checked | None:
        """There is nothing that could fail to answer."""

    async def close(self) -> None:
        """There is nothing to let go of."""
