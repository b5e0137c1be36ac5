"""The task the two demo models know: arithmetic stories and bare chains of operations, with their true steps.

Training, rollouts, evaluation and tests all draw from here, so there is one source of truth. A problem is a chain
(a start value and 1 to 12 steps, every value between 1 and 999) in words. The chain alone decides on which side of the
train/test split a problem falls, so that no wording of a test chain is ever trained on.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

Op = Literal["+", "-", "*", "/"]
Split = Literal["train", "test"]

LOWEST, HIGHEST, MAX_STEPS = 1, 999, 12
TEST_SHARE = 0.04


@dataclass(frozen=True)
class Step:
    """One operation of a chain: `before op operand = after`."""

    before: int
    op: Op
    operand: int

    @property
    def after(self) -> int:
        return apply(self.before, self.op, self.operand)

    def __str__(self) -> str:
        return f"{self.before} {self.op} {self.operand} = {self.after}"


@dataclass(frozen=True)
class Problem:
    """A question in words with its chain. `distractors` are the numbers in its irrelevant sentences."""

    question: str
    steps: tuple[Step, ...]
    kind: Literal["story", "bare"]
    irrelevant: int
    distractors: tuple[int, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].after

    @property
    def lines(self) -> list[str]:
        """The true thought, one step a line."""
        return [str(step) for step in self.steps]

    @property
    def split(self) -> Split:
        return split_of(self.steps)


def apply(value: int, op: Op, operand: int) -> int:
    """The result of one operation; division rounds down, though the generator only divides without remainder."""
    if op == "+":
        return value + operand
    if op == "-":
        return value - operand
    return value * operand if op == "*" else value // operand


def split_of(steps: tuple[Step, ...]) -> Split:
    """The side of the train/test split a chain is on: a hash of its numbers and operations, not of its words."""
    chain = str(steps[0].before) + "".join(f"{step.op}{step.operand}" for step in steps)
    draw = int.from_bytes(hashlib.sha256(chain.encode()).digest()[:4], "big") / 2**32
    return "test" if draw < TEST_SHARE else "train"


def make(rng: random.Random, split: Split, steps: int | None = None, *, irrelevant: bool | None = None) -> Problem:
    """A random problem on the given side of the split.

    `steps` fixes the number of steps. `irrelevant` True asks for a story with irrelevant sentences, False for a story
    without; None leaves both kinds and the sentences to chance.
    """
    while True:
        chain = _chain(rng, steps or rng.choice(STEP_CHOICES))
        if split_of(chain) == split:
            return _word(rng, chain, irrelevant)


STEP_CHOICES = (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 12)

_LINE = re.compile(r"^(?:Wait, )?(\d+) ([-+*/]) (\d+) = (\d+)$")


def read_line(line: str) -> tuple[Step, int] | None:
    """The step a line of a thought states and the result it claims; None for a line of another shape."""
    found = _LINE.match(line.strip())
    if not found:
        return None
    before, op, operand, claimed = found.groups()
    if op == "/" and int(operand) == 0:
        return None
    return Step(int(before), op, int(operand)), int(claimed)  # type: ignore[arg-type]


def judge_lines(problem: Problem, lines: list[str]) -> list[bool]:
    """For each line of a thought, whether the thought is on the true chain after it.

    A line is good when it states the next true step rightly, or the one before once more (`Wait, ` at a false alarm).
    After a slip, lines are bad until a `Wait, ` line states the true step that was missed.
    """
    verdicts: list[bool] = []
    done, sound = 0, True
    for line in lines:
        read = read_line(line)
        again = line.strip().startswith("Wait,")
        good = False
        if read is not None and (sound or again):
            step, claimed = read
            if claimed == step.after and step in problem.steps[done : done + 1]:
                done, good = done + 1, True
            else:
                good = again and claimed == step.after and step in problem.steps[max(done - 1, 0) : done]
        sound = good
        verdicts.append(good)
    return verdicts


_BOXED = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")


def read_answer(text: str) -> int | None:
    """The integer in the last `\\boxed{}` of a text, None without one."""
    found = _BOXED.findall(text)
    return int(found[-1]) if found else None


def slip(rng: random.Random, problem: Problem, at: int, before: int) -> str:
    """A wrong line such as a small model writes at step `at`, going on from the value `before`.

    Half are wrong results of the right operation; the rest misread the number, mistake the operation, skip a step, or
    take a number out of an irrelevant sentence.
    """
    step = Step(before, problem.steps[at].op, problem.steps[at].operand)
    others: list[Step] = [Step(before, step.op, _misread(rng, step.operand))]
    others.append(Step(before, rng.choice([op for op in ("+", "-", "*") if op != step.op]), step.operand))
    if at + 1 < len(problem.steps):
        following = problem.steps[at + 1]
        others += [Step(before, following.op, following.operand)] * 2
    if at > 0:
        others.append(Step(before, problem.steps[at - 1].op, problem.steps[at - 1].operand))
    others += [Step(before, rng.choice(("+", "-")), number) for number in problem.distractors] * 2
    others = [o for o in others if o != step and LOWEST <= o.after <= HIGHEST]
    if others and rng.random() < 0.5:
        return str(rng.choice(others))
    return f"{step.before} {step.op} {step.operand} = {_miscount(rng, step.after)}"


def _misread(rng: random.Random, number: int) -> int:
    digits = list(str(number))
    place = rng.randrange(len(digits))
    digits[place] = str(rng.randint(1, 9))
    if rng.random() < 0.2 and len(digits) > 1:
        del digits[rng.randrange(len(digits))]
    return max(1, int("".join(digits)))


def _miscount(rng: random.Random, result: int) -> int:
    while True:
        if rng.random() < 0.7:
            wrong = result + rng.choice((-1, 1)) * rng.choice((1, 1, 1, 2, 10, 10, 100, 20, 9, 3))
        else:
            wrong = _misread(rng, result)
        if wrong != result and 0 <= wrong <= HIGHEST:
            return wrong


# --- the chain


def _chain(rng: random.Random, length: int) -> tuple[Step, ...]:
    value = _number(rng)
    steps: list[Step] = []
    while len(steps) < length:
        step = _step(rng, value)
        steps.append(step)
        value = step.after
    return tuple(steps)


def _number(rng: random.Random, high: int = HIGHEST) -> int:
    size = rng.random()
    top = 9 if size < 0.3 else 99 if size < 0.85 else 499
    return rng.randint(2 if high > 2 else 1, max(2, min(top, high))) if high > 1 else 1


def _step(rng: random.Random, value: int) -> Step:
    while True:
        op: Op = rng.choices(("+", "-", "*", "/"), (35, 33, 16, 16))[0]
        if op == "+" and value < HIGHEST:
            return Step(value, "+", min(_number(rng), HIGHEST - value))
        if op == "-" and value > 2:
            return Step(value, "-", min(_number(rng, value - 1), value - 1))
        if op == "*" and value * 2 <= HIGHEST:
            return Step(value, "*", rng.randint(2, min(9, HIGHEST // value)))
        if op == "/":
            divisors = [d for d in range(2, 10) if value % d == 0]
            if divisors:
                return Step(value, "/", rng.choice(divisors))


# --- the words


def phrases(text: str, by: str = ";") -> tuple[str, ...]:
    """A list written as one text, because sixty quoted lines are no easier to read."""
    return tuple(text.split(by))


NAMES = phrases(
    "Tom Anna Ben Clara David Emma Felix Grace Hugo Ida Jack Kate Leo Mia Nina Oscar Paul Rosa Sam Tina Umar "
    "Vera Will Yara Zoe Adam Bella Carlos Diana Elias Fatima George Hana Ivan Julia Karim Lena Mark Nora Omar "
    "Priya Ravi Sara Theo Wei Aisha Bruno Chen Elena Igor Kofi Lucy Maya Noah Olga Peter Ruth Simon Amir Lily",
    by=" ",
)
THINGS = phrases(
    "apples oranges pears lemons marbles stickers coins pencils books cards stamps shells buttons beads cookies "
    "candies balloons roses tulips stones eggs tickets cups plates bottles boxes toys cars kites ribbons nuts "
    "plums cherries muffins pies photos badges bricks keys bags hats socks candles bells magnets seeds tomatoes "
    "carrots potatoes onions crayons notebooks erasers puzzles dolls medals maps letters chairs lamps",
    by=" ",
)
PLACES = phrases(
    "in the park;at school;in the garden;at the market;on the street;in a drawer;at the beach;behind the "
    "house;in the kitchen;under the bed;in the car;at the fair"
)
_EVENTS: dict[Op, tuple[str, ...]] = {
    "+": phrases(
        "{N} buys {k} more.;{N} buys {k} {t}.;{O} gives {N} {k} {t}.;{N} finds {k} {t} {p}.;{N} gets {k} more "
        "{t} from {O}.;Then {N} wins {k} {t}.;{O} brings {k} more {t}.;{N} receives {k} {t} for a "
        "birthday.;After that, {N} picks up {k} more.;{N} collects {k} more {t} {p}.;Another {k} {t} arrive by "
        "mail.;{N} adds {k} to the pile."
    ),
    "-": phrases(
        "{N} loses {k}.;{N} gives {k} {t} to {O}.;{N} sells {k} {t}.;{O} takes {k} of them.;{N} drops {k} {t} "
        "{p}.;Then {k} {t} are stolen.;{N} throws away {k} {t}.;{O} borrows {k} {t} from {N}.;After that, {N} "
        "gives away {k}.;{N} leaves {k} {t} {p}.;{k} of the {t} get broken.;{N} trades {k} {t} for a drink."
    ),
    "*": phrases(
        "Then the number of {t} is multiplied by {k}.;{O} makes it {k} times as many.;{N} now collects until "
        "there are {k} times as many.;A magician turns every one of them into {k}.;The pile grows to {k} times "
        "its size.;{N} ends up with {k} times as many {t}."
    ),
    "/": phrases(
        "{N} splits them into {k} equal piles and keeps one.;{N} shares the {t} equally among {k} people, one of "
        "them {N}.;The {t} are divided by {k}, and {N} keeps one part.;{N} puts them evenly in {k} boxes and "
        "keeps only one box.;{N} keeps only one of every {k}."
    ),
}
_TWICE = phrases("Then the number of {t} doubles.;{O} doubles what {N} has.;{N} now gets twice as many {t}.")
_HALF = phrases("{N} gives half of them to {O}.;Half of the {t} get lost.;{N} keeps only half of the {t}.")
_OPEN = phrases(
    "{N} has {n} {t}.;{N} starts with {n} {t}.;At first {N} owns {n} {t}.;In the morning {N} has {n} {t}.;{N} "
    "counts {n} {t} {p}.;{N} keeps {n} {t} in a box.;There are {n} {t} on the table of {N}."
)
_ASK = phrases(
    "How many {t} does {N} have now?;How many {t} does {N} have in the end?;How many {t} are left?;How many {t} "
    "are there now?;What is the number of {t} now?;So how many {t} does {N} have?;How many are there at the end?"
)
_WATER_OPEN = phrases("A tank holds {n} litres of water.;There are {n} litres in the tank.;A pool contains {n} litres.")
_WATER: dict[Op, tuple[str, ...]] = {
    "+": ("{k} litres flow in.", "{N} pours in {k} litres.", "Rain adds {k} litres."),
    "-": ("{k} litres leak out.", "{N} uses {k} litres.", "{k} litres are pumped out."),
    "*": ("Then the water is multiplied by {k}.", "A flood makes it {k} times as much."),
    "/": ("Only one part in {k} remains.", "The water is divided equally among {k} tanks, and one is kept."),
}
_WATER_ASK = ("How many litres are there now?", "How much water is left?", "How many litres remain?")
_BUS_OPEN = phrases("There are {n} people on a train.;A ship carries {n} people.;{n} people are in the hall.")
_BUS: dict[Op, tuple[str, ...]] = {
    "+": ("{k} people get on.", "Then {k} more come in.", "{k} people join them.", "{N} brings {k} guests."),
    "-": ("{k} people get off.", "Then {k} leave.", "{k} people go home.", "{k} of them walk away."),
    "*": ("Soon there are {k} times as many people.", "The crowd grows to {k} times its size."),
    "/": ("They form {k} equal groups and only one group stays.", "Only one in {k} stays."),
}
_BUS_ASK = ("How many people are there now?", "How many people are left?", "How many people are there at the end?")
_MONEY_OPEN = ("{N} has {n} dollars.", "{N} saved {n} dollars.", "There are {n} dollars in the purse of {N}.")
_MONEY: dict[Op, tuple[str, ...]] = {
    "+": ("{N} earns {k} dollars.", "{O} pays {N} {k} dollars.", "{N} finds {k} dollars {p}.", "{N} gets {k} dollars."),
    "-": (
        "{N} spends {k} dollars.",
        "{N} pays {k} dollars for a book.",
        "{N} loses {k} dollars.",
        "{N} lends {O} {k}.",
    ),
    "*": ("A lucky bet multiplies the money by {k}.", "Then {N} has {k} times as much money."),
    "/": ("{N} splits the money among {k} friends, and keeps one share.", "{N} keeps only one dollar in {k}."),
}
_MONEY_ASK = (
    "How many dollars does {N} have now?",
    "How much money does {N} have?",
    "How many dollars are left?",
)
_STORIES = (
    (_OPEN, _EVENTS, _ASK),
    (_OPEN, _EVENTS, _ASK),
    (_OPEN, _EVENTS, _ASK),
    (_WATER_OPEN, _WATER, _WATER_ASK),
    (_BUS_OPEN, _BUS, _BUS_ASK),
    (_MONEY_OPEN, _MONEY, _MONEY_ASK),
)
_IRRELEVANT = phrases(
    "The shop opens at {h} o'clock.;{O} has {d} {u}.;It is {e} degrees outside.;{O} is {e} years old.;The book "
    "has {d} pages.;Bus {d} passes every {e} minutes.;The sun is shining.;{O} likes {u}.;The room has {h} "
    "windows.;{N} lives at number {d}.;The weather is nice.;{O} runs {h} kilometers a day.;A loaf of bread costs "
    "{h} dollars.;{O} sees {d} {u} in a shop window.;The dog of {O} weighs {e} kilograms.;It takes {e} minutes "
    "to walk there.;{N} wears a red hat.;{O} sings a song.;The {t} are blue.;The street is {d} meters long.;{O} "
    "wants to buy {d} {u} next year.;Today is day {e} of the month."
)
_BARE: dict[Op, tuple[str, ...]] = {
    "+": ("add {k}", "plus {k}", "increase it by {k}"),
    "-": ("subtract {k}", "minus {k}", "take away {k}", "decrease it by {k}"),
    "*": ("multiply by {k}", "times {k}"),
    "/": ("divide by {k}", "divided by {k}"),
}


def _word(rng: random.Random, chain: tuple[Step, ...], irrelevant: bool | None) -> Problem:
    if irrelevant is None and rng.random() < 0.28:
        return Problem(_bare(rng, chain), chain, "bare", 0, ())
    opening, events, asking = rng.choice(_STORIES)
    name, other, friend = rng.sample(NAMES, 3)
    thing, unrelated = rng.sample(THINGS, 2)

    def fill(template: str, **numbers: int) -> str:
        someone = other if rng.random() < 0.7 else friend
        text = template.format(N=name, O=someone, t=thing, u=unrelated, p=rng.choice(PLACES), **numbers)
        return text[0].upper() + text[1:]

    sentences = [fill(rng.choice(opening), n=chain[0].before)]
    for step in chain:
        choices = events[step.op]
        if opening is _OPEN and step.operand == 2 and step.op in "*/" and rng.random() < 0.7:
            choices = _TWICE if step.op == "*" else _HALF
        sentences.append(fill(rng.choice(choices), k=step.operand))
    distractors: list[int] = []
    extra = 0
    if irrelevant or (irrelevant is None and rng.random() < 0.5):
        extra = rng.randint(1, 3 if len(chain) > 2 else 2)
    for _ in range(extra):
        template = rng.choice(_IRRELEVANT)
        numbers = {"h": rng.randint(2, 12), "e": rng.randint(5, 60), "d": rng.randint(2, 400)}
        distractors += [number for key, number in numbers.items() if f"{{{key}}}" in template]
        sentences.insert(rng.randint(0, len(sentences)), fill(template, **numbers))
    sentences.append(fill(rng.choice(asking)))
    return Problem(" ".join(sentences), chain, "story", extra, tuple(distractors))


def _bare(rng: random.Random, chain: tuple[Step, ...]) -> str:
    start = chain[0].before
    inline = len(chain) == 1 or all(step.op in "+-" for step in chain)
    if inline and rng.random() < 0.75:
        gap = rng.choice((" ", " ", " ", ""))
        sign = {"*": rng.choice("*x×"), "/": rng.choice("/÷")}
        text = str(start) + "".join(f"{gap}{sign.get(s.op, s.op)}{gap}{s.operand}" for s in chain)
        shapes = ("What is {}?", "{} = ?", "{} =", "{}", "Calculate {}.", "Compute {}", "How much is {}?", "{}?")
        return rng.choice(shapes).format(text)
    parts = [rng.choice(_BARE[s.op]).format(k=s.operand) for s in chain]
    shape = rng.randrange(3)
    if shape == 0:
        body = " ".join(part[0].upper() + part[1:] + "." for part in parts)
        return f"{rng.choice(('Start with', 'Begin with', 'Take'))} {start}. {body} {rng.choice(_RESULT)}"
    if shape == 1:
        body = "".join(rng.choice((", ", ", then ")) + part for part in parts)
        return f"{rng.choice(('Start with', 'Take', 'Begin with'))} {start}{body}. {rng.choice(_RESULT)}"
    body = ", ".join(parts)
    return f"{start}, {body}. {rng.choice(_RESULT)}"


_RESULT = ("What do you get?", "What is the result?", "What number is it?", "Result?", "What is the final number?")
