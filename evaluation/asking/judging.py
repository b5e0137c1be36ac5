"""Whether an answer is right: by the equivalence that votes go by, or by a test in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.grouping import group_answers
from ponder.evaluation.asking.questions import Expected, Program, Question
from ponder.verifiers.code import Code
from ponder.verifiers.programs import program
from ponder.verifiers.sandbox import Sandbox

MEMORY_MB = 256
"""Of a program, as the verifier `code` has it where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an answer. `answer` is what its text finally answers; None: nothing, or a program."""

    right: bool
    answer: str | None = None


async def ready(questions: Sequence[Question]) -> None:
    """Raises `EngineError` where a question wants a sandbox, and this machine has none."""
    if any(isinstance(one.right, Program) for one in questions):
        await Sandbox(MEMORY_MB).probe()


async def judge(question: Question, text: str) -> Verdict:
    """Whether a text answers a question. Raises `EngineError` as `ready` does."""
    if isinstance(question.right, Program):
        return Verdict(await _passes(question.right, text))
    return await _same(question.right, text)


async def _same(expected: Expected, text: str) -> Verdict:
    answer = final_answer(text, expected.numeric)
    # The answer that is known goes the way of one that a model has written: units, spaces and boxes alike.
    known = final_answer(f"\\boxed{{{expected.answer}}}") or expected.answer
    given, right = await group_answers([answer, known])
    return Verdict(given is not None and given == right, answer)


async def _passes(wanted: Program, text: str) -> bool:
    """The program is the last code block. Where it has the body of the function alone, it stands behind its head."""
    written = program(text)
    if not written.strip():
        return False
    source = (wanted.before + "\n" if wanted.defined_in(written) else wanted.prompt) + written
    return await Code(tests=(wanted.test,)).passed(Sandbox(MEMORY_MB), source, None) == 1.0
