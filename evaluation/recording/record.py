"""Samples of a model, recorded from a running server as a pool (`docs/pools.md`): single chains, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ponder.clients.client import AskError, AsyncClient, Refused, Reply
from ponder.engines.pools import RecordedQuestion, RecordedSample, told
from ponder.evaluation.asking import judging
from ponder.evaluation.asking.ask import OnWait, Stopped, ask, seed_of, side_by_side, with_instruction
from ponder.evaluation.asking.journal import Journal, WrongJournal
from ponder.evaluation.asking.questions import Expected, Question, Questions

LIKELY = {"name": "confidence"}
"""The verifier for whose sake a server keeps the likelihood of a chain."""
OF_ALL = ("model", "strategy", "verifier", "thinking_budget", "max_answer_tokens")
"""Fields of a request that are alike for all samples: a fault in one is no question's."""
LOOKS, BETWEEN = 20, 0.1
"""How often a trace is looked for, which a server may keep a moment after the answer, and seconds between."""


@dataclass(frozen=True, slots=True)
class Recording:
    """All that is to be drawn: of each question `samples` chains."""

    questions: Questions
    model: str
    samples: int
    budget: int
    """Hidden tokens of a chain at most, at which it is closed."""
    answer_tokens: int
    """Visible ones."""
    probes: Sequence[int] = ()
    """Hidden tokens at which each chain that is longer is asked what it answers, by drawing it anew up to there."""
    seed: int = 0
    likelihood: bool = False
    instruction: str | None = None
    timeout: float | None = None

    @property
    def planned(self) -> dict[str, Any]:
        """What may not change between two parts of one pool. More samples may be drawn."""
        return {
            "kind": "pool",
            "model": self.model,
            "questions": {"digest": self.questions.digest},
            "budget": self.budget,
            "answer_tokens": self.answer_tokens,
            "probes": self.probes,
            "seed": self.seed,
            "likelihood": self.likelihood,
            "instruction": self.instruction,
            "timeout": self.timeout,
        }

    @property
    def tasks(self) -> Iterator[tuple[Question, int]]:
        """All of them with their number: a pool that is cut has as many samples of each question, but for one."""
        return ((question, draw) for draw in range(self.samples) for question in self.questions.all)

    @property
    def requests_each(self) -> int:
        """Of one sample, at most."""
        return 1 + len(self.probes)

    @property
    def tokens_each(self) -> int:
        """What the model generates for one sample, at most."""
        return sum(budget + self.answer_tokens for budget in (self.budget, *self.probes))

    def fields(self, question: Question, draw: int, budget: int) -> dict[str, Any]:
        """The fields of a request for a chain, or for its beginning."""
        fields: dict[str, Any] = {
            "model": self.model,
            "strategy": {"name": "direct"},
            "thinking_budget": budget,
            "max_answer_tokens": self.answer_tokens,
            "seed": seed_of(self.seed, question.id, draw),
        }
        if self.likelihood:
            fields["verifier"] = LIKELY
        if self.timeout is not None:
            fields["timeout"] = self.timeout
        return fields


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of one sample, for who counts."""

    question: str
    error: str | None = None
    """Why there is none; it is in no pool, and drawn when the command is called again."""
    tokens: int = 0
    """Of the sample and its probes."""
    cost_usd: float | None = None
    closed: bool = False
    """Its budget has closed it: nobody knows what it would have come to."""
    strayed: int = 0
    """Probes that are left out: the chain went another way when it was drawn again."""


def recorded(journal: Journal) -> set[tuple[str, int]]:
    """The question and the number of each sample that a pool has."""
    try:
        return {(str(line["id"]), int(line["draw"])) for line in journal.lines}
    except (KeyError, TypeError, ValueError):
        raise WrongJournal("a line of the pool has no id, or no number of its draw: name another --out") from None


async def record(
    client: AsyncClient,
    recording: Recording,
    journal: Journal,
    *,
    at_once: int,
    patience: float,
    on_sample: Callable[[Drawn], None],
    on_wait: OnWait,
) -> None:
    """Draws what the pool has not, `at_once` samples at a time.

    `on_sample` is called when a sample is on the disk, or has failed. Raises `Stopped` where it cannot go on,
    `EngineError` where a question wants a sandbox and there is none.
    """
    await judging.ready(recording.questions.all)
    known = recorded(journal)
    missing = (task for task in recording.tasks if (task[0].id, task[1]) not in known)
    drawing = _Drawing(client, recording, patience, on_wait)

    async def work() -> None:
        # One generator for all: each takes the next that nobody has.
        for question, draw in missing:
            try:
                line, drawn = await drawing.sample(question, draw)
            except AskError as error:
                if isinstance(error, Refused) and (error.param or "").split(".")[0] in OF_ALL:
                    raise Stopped(f"{error.message} ({error.param})") from error
                on_sample(Drawn(question.id, error=str(error)))
            else:
                await journal.add(line)
                on_sample(drawn)

    await side_by_side(work, at_once)


@dataclass(frozen=True, slots=True)
class _Drawing:
    client: AsyncClient
    recording: Recording
    patience: float
    on_wait: OnWait

    async def sample(self, question: Question, draw: int) -> tuple[Mapping[str, Any], Drawn]:
        """A line of the pool, and what it took."""
        whole = await self._reply(question, draw, self.recording.budget)
        thought, visible = whole.usage.reasoning_tokens, whole.usage.visible_tokens
        replies, probes, strayed = [whole], dict[int, str | None](), 0
        if isinstance(question.right, Expected):
            for budget in self.recording.probes:
                if budget >= thought:
                    break
                probe = await self._reply(question, draw, budget)
                replies.append(probe)
                if probe.thinking.stopped_by == "budget" and probe.usage.reasoning_tokens < thought:
                    verdict = await judging.judge(question, probe.text)
                    probes[probe.usage.reasoning_tokens] = verdict.answer
                else:
                    strayed += 1
        verdict = await judging.judge(question, whole.text)
        likely = await self._likelihood(whole) if self.recording.likelihood else None
        compared = isinstance(question.right, Expected)
        sample = RecordedSample(
            text=whole.text,
            answer=(verdict.answer or "") if compared else None,
            right=None if compared else verdict.right,
            tokens=max(1, thought + visible),
            visible=visible,
            likelihood=() if likely is None else tuple(likely["means"]),
            probes=tuple(sorted(probes.items())),
        )
        first = draw == 0
        line = RecordedQuestion(
            id=question.id,
            question=question.text if first else None,
            answer=question.answer if first and compared else None,
            prompt_tokens=(whole.usage.prompt_tokens or None) if first else None,
            likelihood_window=None if likely is None else likely["window"],
            samples=(sample,),
        )
        costs = [reply.thinking.cost_usd for reply in replies]
        drawn = Drawn(
            question.id,
            tokens=sum(reply.usage.completion_tokens for reply in replies),
            cost_usd=None if None in costs else sum(cast("list[float]", costs)),
            closed=whole.thinking.stopped_by != "finished",
            strayed=strayed,
        )
        return told(line) | {"draw": draw, "request_id": whole.request_id}, drawn

    async def _reply(self, question: Question, draw: int, budget: int) -> Reply:
        messages = with_instruction(question.messages, self.recording.instruction)
        fields = self.recording.fields(question, draw, budget)
        asked = await ask(self.client, messages, fields, patience=self.patience, on_wait=self.on_wait)
        return asked.reply

    async def _likelihood(self, reply: Reply) -> dict[str, Any]:
        """The windows of the chain's likelihood, from the trace of its request."""
        calls = (await self._trace(reply.request_id or ""))["choices"][0]["calls"]
        call = [one for one in calls if one["chosen"]][-1]
        if "likelihood" not in call:
            raise Stopped(
                "the trace has no likelihood: the server keeps it with retain_text = true, and shows it to a key with "
                "the scopes trace and reveal"
            )
        return call["likelihood"]

    async def _trace(self, request_id: str) -> dict[str, Any]:
        looks = 0
        while True:
            try:
                return await self.client.trace(request_id)
            except Refused as error:
                looks += 1
                if error.status != 404 or looks == LOOKS:
                    raise Stopped(f"the likelihood of a sample cannot be read from its trace: {error}") from error
            await asyncio.sleep(BETWEEN)
