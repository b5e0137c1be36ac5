"""What the reasoner is taught: conversations as token ids, with a weight of 1 on every token it should write.

The kinds are drawn by `SHARES`. First thoughts come from a hand that slips now and then: some slips it
notices and mends (`Wait, ...`; those carry no weight, so that noticing is learned and not the slip), the others are
taught like everything else and spoil the chain. So the reasoner errs here and there, as models do, in places that
differ from sample to sample. A second turn, where an attempt is checked, is written without a slip.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from ponder.models.small_talk import SYSTEMS, small_talk
from ponder.models.task import HIGHEST, LOWEST, Problem, Step, make, slip
from ponder.models.tokenizer import END, START, THINK, UNTHINK

SHARES = {"think": 52, "at once": 8, "cut": 10, "check": 20, "follow": 5, "talk": 5}

SLIPS, NOTICED = 0.09, 0.33  # a step's chance of a slip; a slip's of being mended

CHECKS = (
    "Check each step and fix any mistake.",
    "Check each step and fix any mistake.",
    "Please check your answer.",
    "Are you sure? Check your work.",
    "Review your answer and correct any mistake.",
    "Is that right? Check it again.",
    "There may be a mistake. Check each step.",
    "Wait. Are you sure?",
    "Verify your solution step by step.",
    "Look at your attempt again and give the corrected answer.",
)


@dataclass
class Lesson:
    """Token ids with their weights, written from left to right."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    def put(self, what: str | int, weight: int = 0) -> None:
        """Text, or one special token."""
        ids = [what] if isinstance(what, int) else self.tokenizer.encode(what).ids
        self.ids += ids
        self.weights += [weight] * len(ids)

    def turn(self, role: str, text: str) -> None:
        """A whole message that is only read."""
        self.open(role)
        self.put(text)
        self.put(END)
        self.put("\n")

    def open(self, role: str) -> None:
        self.put(START)
        self.put(role + "\n")

    def answer(self, text: str, weight: int = 1) -> None:
        """The visible answer and the end of the turn."""
        self.put(text, weight)
        self.put(END, weight)

    def close_thought(self, weight: int = 1) -> None:
        self.put(UNTHINK, weight)
        self.put("\n", weight)


def boxed(value: int) -> str:
    return f"The answer is \\boxed{{{value}}}."


def lesson(rng: random.Random, tokenizer: Tokenizer, kind: str | None = None) -> Lesson:
    """One conversation; `kind` is a key of SHARES, drawn by its share when not given."""
    kind = kind or rng.choices(list(SHARES), list(SHARES.values()))[0]
    written = Lesson(tokenizer)
    if rng.random() < 0.2:
        written.turn("system", rng.choice(SYSTEMS))
    _LESSONS[kind](rng, written)
    return written


def _think(rng: random.Random, written: Lesson) -> None:
    problem = make(rng, "train")
    written.turn("user", problem.question)
    written.open("assistant")
    written.put(THINK, 1)
    written.put("\n", 1)
    lines = thought(rng, problem, SLIPS)
    for line, noticed in lines:
        written.put(line + "\n", 0 if noticed else 1)
    written.close_thought()
    written.answer(boxed(result(lines)))


def _at_once(rng: random.Random, written: Lesson) -> None:
    problem = make(rng, "train")
    written.turn("user", problem.question)
    written.open("assistant")
    written.put(THINK)
    written.put(rng.choice(("\n", "\n", "\n\n")))
    written.put(UNTHINK)
    written.put(rng.choice(("\n", "\n", "\n\n")))
    written.answer(boxed(problem.answer))


def _cut(rng: random.Random, written: Lesson) -> None:
    """A thought cut anywhere by force.

    The answer is the running value, or the true one when no step is done or at most one is missing.
    """
    problem = make(rng, "train")
    written.turn("user", problem.question)
    written.open("assistant")
    thought = Lesson(written.tokenizer)
    ends: list[int] = []
    thought.put("\n")
    for step in problem.steps:
        thought.put(f"{step}\n")
        ends.append(len(thought.ids) - 1)
    length = rng.randint(0, len(thought.ids) - 1)
    done = sum(end <= length for end in ends)
    written.put(THINK)
    written.ids += thought.ids[:length]
    written.weights += [0] * length
    if rng.random() < 0.7:
        written.put("\n")
    written.put(UNTHINK)
    written.put(rng.choice(("\n", "\n\n")))
    near = done == 0 or done >= len(problem.steps) - 1
    written.answer(boxed(problem.answer if near else problem.steps[done - 1].after))


def _check(rng: random.Random, written: Lesson) -> None:
    """A second turn that re-checks an earlier attempt, which stands there as a thought, as visible steps, or not."""
    problem = make(rng, "train")
    lines = thought(rng, problem, 0.0 if rng.random() < 0.3 else rng.choice((SLIPS, SLIPS, 0.15, 0.3)))
    steps = [line for line, _ in lines]
    last = result(lines)
    check = rng.choice(CHECKS)
    shape = rng.random()
    if shape < 0.15:
        body = "\n".join(steps)
        written.turn("user", f"{problem.question}\n{rng.choice(('', 'Attempt:', 'Earlier attempt:'))}\n{body}\n{check}")
    else:
        written.turn("user", problem.question)
        written.open("assistant")
        if shape < 0.75:
            written.put(THINK)
            written.put("\n" + "\n".join(steps) + "\n")
            written.close_thought(0)
        elif shape < 0.9:
            written.put("\n".join(steps) + "\n")
        written.answer(boxed(last), 0)
        written.put("\n")
        written.turn("user", check)
    written.open("assistant")
    written.put(THINK, 1)
    written.put("\n", 1)
    for step in problem.steps:
        written.put(f"{step}\n", 1)
    written.close_thought()
    written.answer(boxed(problem.answer))


def _follow(rng: random.Random, written: Lesson) -> None:
    problem = make(rng, "train", rng.choice((1, 2, 3, 4)))
    value = problem.answer
    written.turn("user", problem.question)
    written.open("assistant")
    if rng.random() < 0.3:
        written.put(THINK)
        written.put("\n" + "\n".join(problem.lines) + "\n")
        written.close_thought(0)
    written.answer(boxed(value), 0)
    written.put("\n")
    question, step = follow_up(rng, value)
    written.turn("user", question)
    written.open("assistant")
    if rng.random() < 0.15:
        written.put(THINK)
        written.put("\n")
        written.close_thought(0)
    else:
        written.put(THINK, 1)
        written.put(f"\n{step}\n", 1)
        written.close_thought()
    written.answer(boxed(step.after))


def follow_up(rng: random.Random, value: int) -> tuple[str, Step]:
    """A question about the result so far, and the step that answers it."""
    number = rng.randint(1, 60)
    shapes: list[tuple[str, Step]] = [
        (shape.format(k=number), Step(value, "+", number))
        for shape in ("Add {k} to that.", "And if {k} more are added?", "Now add {k}.", "What if there were {k} more?")
    ]
    shapes += [
        (shape.format(k=number), Step(value, "-", number))
        for shape in (
            "Subtract {k} from that.",
            "And if {k} are taken away?",
            "Now take away {k}.",
            "What if {k} are lost?",
        )
    ]
    shapes += [(shape, Step(value, "*", 2)) for shape in ("Now double it.", "And twice that?", "Double that.")]
    factor = rng.randint(2, 9)
    shapes += [(f"Multiply that by {factor}.", Step(value, "*", factor))]
    if value % 2 == 0:
        shapes += [
            (shape, Step(value, "/", 2)) for shape in ("What is half of that?", "And half of it?", "Now halve it.")
        ]
    if value % factor == 0:
        shapes += [(f"Divide that by {factor}.", Step(value, "/", factor))]
    return rng.choice(
        [s for s in shapes if LOWEST <= s[1].after <= HIGHEST] or [("Add 0 to that.", Step(value, "+", 0))]
    )


def _talk(rng: random.Random, written: Lesson) -> None:
    message, thought, answer = small_talk(rng)
    if rng.random() < 0.15:
        problem = make(rng, "train", rng.randint(1, 4))
        written.turn("user", problem.question)
        written.turn("assistant", boxed(problem.answer))
    written.turn("user", message)
    written.open("assistant")
    if rng.random() < 0.25:
        written.put(THINK)
        written.put("\n")
        written.close_thought(0)
    else:
        written.put(THINK, 1)
        written.put(f"\n{thought}\n", 1)
        written.close_thought()
    written.answer(answer)


def thought(rng: random.Random, problem: Problem, rate: float) -> list[tuple[str, bool]]:
    """A first thought with slips at `rate` a step: each line, and whether it is a slip that the next line mends.

    After a slip that goes unnoticed the chain goes on from the wrong value.
    """
    lines: list[tuple[str, bool]] = []
    value = problem.steps[0].before
    for at, true in enumerate(problem.steps):
        step = Step(value, true.op, true.operand)
        astray = not 0 <= step.after <= 9999
        if astray or rng.random() < rate:
            noticed = not astray and rng.random() < NOTICED
            lines.append((slip_or_stay(rng, problem, at, value), noticed))
            if noticed:
                lines.append((f"Wait, {step}", False))
        else:
            lines.append((str(step), False))
        value = result(lines)
    return lines


def result(lines: list[tuple[str, bool]]) -> int:
    """The value the last line comes to."""
    return int(lines[-1][0].rsplit(" ", 1)[1])


def slip_or_stay(rng: random.Random, problem: Problem, at: int, value: int) -> str:
    """A wrong line at step `at`; from a value that a slip already led astray, a miscounted one."""
    if (
        LOWEST <= value <= HIGHEST
        and 0 <= Step(value, problem.steps[at].op, problem.steps[at].operand).after <= HIGHEST
    ):
        return slip(rng, problem, at, value)
    step = problem.steps[at]
    return f"{value} {step.op} {step.operand} = {rng.randint(LOWEST, HIGHEST)}"


_LESSONS = {
    "think": _think,
    "at once": _at_once,
    "cut": _cut,
    "check": _check,
    "follow": _follow,
    "talk": _talk,
}
