"""Groups of answers are the same whatever order they come in, and hold no two that differ."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.answers.grouping import group_answers
from ponder.compute.answers.keys import key, same
from ponder.compute.answers.phrases import asks_for_a_number
from ponder.compute.answers.readings import read
from ponder.compute.text import Message, Prompt
from tests.verifiers.hand import candidate, run_of

RIVALS = (
    ("12", "12 cm", "12 m"),
    ("50%", "50", "0.5", "1/2"),
    ("(1,2)", "1,2", "2,1", "\\{1,2\\}", "(2,1)"),
    ("x=3", "3", "y=3", "3 apples", "3 pears"),
    ("a=1, b=2", "1, 2", "b=1, a=2", "2, 1"),
    ("1/3", "0.3333333", "0.33333333", "0.333"),
    ("2:3", "2/3", "0.6666667", "4:6"),
    ("A", "A. Lincoln", "A. Einstein", "(A)"),
    ("1011_2", "1011", "1011_3", "11"),
    ("60 minutes", "1 hour", "60", "1"),
    ("0<x<1", "(0,1)", "0<y<1", "[0,1]"),
    ("y=2x", "2x", "f(x)=2x", "2x-y=0"),
)
"""Answers of which the first is the same as the second, the second as the third, and so not the first as the third."""


def parted(answers: list[str]) -> set[frozenset[int]]:
    """The groups, as places in a sorted list of the answers with duplicates."""
    groups = asyncio.run(group_answers(answers))
    found: dict[int | None, set[tuple[str, int]]] = {}
    seen: dict[str, int] = {}
    for answer, number in zip(answers, groups, strict=True):
        seen[answer] = seen.get(answer, 0) + 1
        found.setdefault(number, set()).add((answer, seen[answer]))
    order = {one: i for i, one in enumerate(sorted(one for members in found.values() for one in members))}
    return {frozenset(order[one] for one in members) for members in found.values()}


@pytest.mark.parametrize("answers", RIVALS, ids=lambda answers: answers[0])
@pytest.mark.parametrize("counted", [1, 3])
def test_every_order_gives_the_same_groups(answers: tuple[str, ...], counted: int) -> None:
    """Also where one of them is given more often than the others."""
    for often in answers if counted > 1 else answers[:1]:
        given_ = [*answers, *[often] * (counted - 1)]
        orders = set(itertools.permutations(given_)) if len(given_) < 6 else {tuple(given_), tuple(reversed(given_))}
        for order in list(orders):
            assert parted(list(order)) == parted(sorted(given_))


def test_shuffled_answers_of_all_kinds_fall_into_the_same_groups() -> None:
    data = (Path(__file__).parent / "data" / "answer_pairs.jsonl").read_text().splitlines()
    drawing = random.Random(7)
    pool = [side for line in data for side in (json.loads(line)["a"], json.loads(line)["b"])]
    for _ in range(40):
        answers = drawing.sample(pool, 24) + list(drawing.choice(RIVALS))
        first = parted(sorted(answers))
        for _ in range(4):
            drawing.shuffle(answers)
            assert parted(answers) == first


def test_no_group_holds_two_that_differ() -> None:
    answers = [answer for rivals in RIVALS for answer in rivals]
    groups = asyncio.run(group_answers(answers))
    for (a, i), (b, j) in itertools.combinations(zip(answers, groups, strict=True), 2):
        if i == j:
            close = {a, b} <= {"1/3", "0.3333333", "0.33333333"} or {a, b} <= {"2:3", "4:6", "2/3", "0.6666667"}
            assert same(a, b) or close, (a, b)


def test_an_answer_that_fits_two_groups_goes_to_the_larger() -> None:
    def of(*answers: str) -> list[int | None]:
        return asyncio.run(group_answers(answers))

    assert of("12", "12 m", "12 cm", "12 cm") == [0, 1, 0, 0]
    assert of("12 m", "12", "12 cm", "12 m") == [0, 0, 1, 0]
    assert of("50", "50%", "0.5", "50") == [0, 0, 1, 0]
    assert of("0.5", "50%", "0.5", "50") == [0, 0, 0, 1]


def test_a_vote_counts_the_same_whatever_order_chains_end_in() -> None:
    texts = ["12 cm", "12", "12 m", "50\\%", "0.5", "x = 12", "12 cm", "The answer is 12."]
    chains = [candidate(f"\\boxed{{{text}}}", number=i) for i, text in enumerate(texts)]

    async def counts(order: list[int]) -> tuple[int, ...]:
        run, spending = run_of()
        for _ in chains:
            spending.reserve("sample", thinking=1, answer=1)
        return (await run.vote([chains[i] for i in order])).counts

    drawing = random.Random(3)
    orders = [drawing.sample(range(len(texts)), len(texts)) for _ in range(12)]
    assert len({asyncio.run(counts(order)) for order in orders}) == 1


@given(
    st.lists(
        st.text(alphabet="0123456789/.,-+{}[]()<>=^_| \\$%abcxyAB*`\"':;!±√π∞°½²①三和或＝", max_size=24),
        min_size=1,
        max_size=5,
    )
)
def test_no_answer_makes_reading_fail_and_each_is_the_same_as_itself(answers: list[str]) -> None:
    for answer in answers:
        assert read(answer).readings
        assert same(answer, answer)
        for other in answers:
            assert same(answer, other) == same(other, answer)
    if not any(key(answer).algebra for answer in answers):
        assert parted(answers) == parted(sorted(answers))


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("How many apples are left?", True),
        ("Find the value of x.", True),
        ("小明还剩多少个苹果？", True),
        ("Wie viele Äpfel bleiben übrig?", True),
        ("Write a poem about the sea.", False),
        ("Who painted the ceiling?", False),
    ],
)
def test_whether_a_question_asks_for_a_number_is_read_off_its_words(question: str, number: bool) -> None:
    assert asks_for_a_number(question) is number


def test_a_last_sentence_with_a_number_votes_only_where_the_question_asks_for_one() -> None:
    texts = ["Tom gave away 5. In the end Tom has 19 apples.", "He had 24, so it must be 19 apples."]

    async def votes(question: str) -> tuple[int, ...]:
        run, spending = run_of(prompt=Prompt((Message("user", question),)))
        for _ in texts:
            spending.reserve("sample", thinking=1, answer=1)
        return (await run.vote([candidate(text, number=i) for i, text in enumerate(texts)])).counts

    assert asyncio.run(votes("How many apples has Tom?")) == (1,)
    assert asyncio.run(votes("Tell me a story about Tom.")) == ()
