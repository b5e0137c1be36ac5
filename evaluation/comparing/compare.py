"""Strategies and budgets held against one another: the same questions to a running server, every answer checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ponder.clients.client import AskError, AsyncClient, Refused
from ponder.evaluation.asking import judging
from ponder.evaluation.asking.ask import Asked, OnWait, Stopped, ask, seed_of, side_by_side, with_instruction
from ponder.evaluation.asking.journal import Journal, WrongJournal
from ponder.evaluation.asking.questions import Question, Questions
from ponder.evaluation.comparing.plans import Plan, Wish

OF_A_PLAN = ("model", "strategy", "verifier", "thinking_budget")
"""Fields of a request that are alike for all questions of a plan: a fault in one is the plan's."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is to be asked: each question `repeat` times in each plan."""

    questions: Questions
    plans: Sequence[Plan]
    model: str
    verifier: Wish | None = None
    repeat: int = 1
    seed: int | None = None
    instruction: str | None = None
    """Put behind each question, as a paragraph of its own."""
    timeout: float | None = None
    """Seconds after which the server answers with its best so far; None: its own."""

    @property
    def planned(self) -> dict[str, Any]:
        """What may not change between two parts of one run."""
        return {
            "kind": "comparison",
            "model": self.model,
            "questions": {"digest": self.questions.digest, "asked": len(self.questions.all)},
            "plans": [[plan.name, plan.strategy] for plan in self.plans],
            "verifier": self.verifier,
            "repeat": self.repeat,
            "seed": self.seed,
            "instruction": self.instruction,
            "timeout": self.timeout,
        }

    @property
    def tasks(self) -> Iterator[Task]:
        """All of them. Plans take turns, and another begins each time: what a server does meanwhile falls on all."""
        turn = 0
        for draw in range(self.repeat):
            for question in self.questions.all:
                for place in range(len(self.plans)):
                    yield Task(self.plans[(turn + place) % len(self.plans)], question, draw)
                turn += 1

    def request(self, task: Task) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
        """The conversation and the other fields of a request. Its seed is that of the question, in every plan."""
        fields: dict[str, Any] = {"model": self.model, **task.plan.fields}
        if self.verifier is not None:
            fields["verifier"] = self.verifier
        if self.seed is not None:
            fields["seed"] = seed_of(self.seed, task.question.id, task.draw)
        if self.timeout is not None:
            fields["timeout"] = self.timeout
        return with_instruction(task.question.messages, self.instruction), fields


@dataclass(frozen=True, slots=True)
class Task:
    """A question to be asked in a plan. `draw` counts how often it was asked before."""

    plan: Plan
    question: Question
    draw: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.plan.name, self.question.id, self.draw


class Answered(BaseModel):
    """What came of a task, as a line of the journal. Tokens are of the language model but for `verifier_tokens`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    plan: str
    question: str
    draw: int
    at: str
    error: str | None = None
    """Why there is no answer; then nothing below is known."""
    right: bool = False
    answer: str | None = None
    """What the text finally answers."""
    text: str = ""
    finish_reason: str | None = None
    stopped_by: str = ""
    budget: int | None = None
    prompt_tokens: int = 0
    thinking_tokens: int = 0
    visible_tokens: int = 0
    verifier_tokens: int = 0
    discarded_tokens: int = 0
    cost_usd: float | None = None
    samples: int = 1
    agreement: float | None = None
    first_seconds: float = 0.0
    seconds: float = 0.0
    tries: int = 1
    request_id: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.plan, self.question, self.draw

    @property
    def tokens(self) -> int:
        return self.thinking_tokens + self.visible_tokens


def answered(journal: Journal) -> dict[tuple[str, str, int], Answered]:
    """What a journal holds of each task. A task that failed and was asked again is what came of it last. Raises
    `WrongJournal` for a line that is none."""
    try:
        found = [Answered.model_validate(line) for line in journal.lines]
    except ValidationError as error:
        raise WrongJournal(
            f"a line of the journal is no answer ({error.errors()[0]['loc']}): name another --out"
        ) from None
    return {one.key: one for one in found}


async def compare(
    client: AsyncClient,
    comparison: Comparison,
    journal: Journal,
    *,
    at_once: int,
    patience: float,
    on_answer: Callable[[Answered], None],
    on_wait: OnWait,
) -> dict[tuple[str, str, int], Answered]:
    """Asks what the journal does not hold, and what failed before, `at_once` at a time; what came of all tasks.

    `on_answer` is called when an answer is on the disk. Raises `Stopped` where the run cannot go on, `EngineError`
    where a question wants a sandbox and there is none.
    """
    await judging.ready(comparison.questions.all)
    known = answered(journal)
    missing = (t for t in comparison.tasks if t.key not in known or known[t.key].error is not None)

    async def work() -> None:
        # One generator for all: each takes the next that nobody has.
        for task in missing:
            messages, fields = comparison.request(task)
            try:
                asked = await ask(client, messages, fields, patience=patience, on_wait=on_wait)
            except AskError as error:
                if isinstance(error, Refused) and (error.param or "").split(".")[0] in OF_A_PLAN:
                    raise Stopped(f"{task.plan.name}: {error.message} ({error.param})") from error
                line = Answered(**_head(task), error=_told(error))
            else:
                line = await _judged(task, asked)
            await journal.add(line.model_dump(exclude_none=True, exclude_defaults=line.error is not None))
            known[line.key] = line
            on_answer(line)

    await side_by_side(work, at_once)
    return known


async def _judged(task: Task, asked: Asked) -> Answered:
    reply = asked.reply
    verdict = await judging.judge(task.question, reply.text)
    return Answered(
        **_head(task),
        right=verdict.right,
        answer=verdict.answer,
        text=reply.text,
        finish_reason=reply.choices[0].finish_reason,
        stopped_by=reply.thinking.stopped_by,
        budget=reply.thinking.budget,
        prompt_tokens=reply.usage.prompt_tokens,
        thinking_tokens=reply.usage.reasoning_tokens,
        visible_tokens=reply.usage.visible_tokens,
        verifier_tokens=reply.thinking.verifier_tokens,
        discarded_tokens=reply.thinking.discarded_tokens,
        cost_usd=reply.thinking.cost_usd,
        samples=reply.thinking.samples,
        agreement=reply.thinking.agreement,
        first_seconds=round(asked.first, 6),
        seconds=round(asked.seconds, 6),
        tries=asked.tries,
        request_id=reply.request_id,
    )


def _head(task: Task) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"plan": task.plan.name, "question": task.question.id, "draw": task.draw, "at": at}


def _told(error: AskError) -> str:
    if isinstance(error, Refused):
        where = f" ({error.param})" if error.param else ""
        return f"{error.status}: {error.message}{where}"
    return str(error)
