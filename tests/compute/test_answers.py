"""What a text answers, and which answers are the same."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.compute.answers.extraction import final_answer
from ponder.compute.answers.grouping import group
from ponder.compute.answers.keys import number, same


def groups(*texts: str) -> list[int | None]:
    return asyncio.run(group(texts))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 7.", "7"),
        ("First 3. The answer is 4. No: the answer is 3.14. Done", "3.14"),
        ("So it is \\boxed{\\frac{1}{2}}, as claimed.", "\\frac{1}{2}"),
        ("\\boxed{1} and then \\boxed{2}", "2"),
        ("\\boxed{2} and then \\boxed{3", "2"),
        ("Final answer: **42**", "42"),
        ("**Answer:** (C)", "(C)"),
        ("#### 12", "12"),
        ("The answer is\n$$\n42\n$$", "$$ 42 $$"),
        ("The answer is 5 because 2 and 3 are 5.", "5"),
        ("The correct answer to the question is B", "B"),
        ("Tom has **19** apples.", "19"),
        ("19 apples", "19 apples"),
        ("x = 5", "x = 5"),
        ("B) Paris", "B) Paris"),
        ("positive", "positive"),
        ('{"why": "so", "answer": 7}', "7"),
        ('{"b": 1, "a": [2]}', '{"a":[2],"b":1}'),
        ("Here:\n```python\nprint(1)\n```", "print(1)"),
        ("Run\n```python\nprint(1)\n```\nThe answer is 1.", "1"),
        ('```json\n{"b": 1, "a": 2}\n```', '{"a":2,"b":1}'),
    ],
)
def test_the_answer_is_found_where_it_stands(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "Hm",
        "I am not sure.",
        "I don't know",
        "ok",
        "Sorry, no",
        "What is it?",
        "\\boxed{12",
        "\\boxed{}",
        "A long text about many things that comes to nothing in the end.",
        "[" * 5000,
        '{"a": ' * 5000,
    ],
)
def test_a_text_without_an_answer_has_none(text: str) -> None:
    assert final_answer(text) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1/2", "0.5"),
        ("\\frac12", "\\dfrac{1}{2}"),
        ("1,000", "1000"),
        ("$5,000.00", "\\$5000"),
        ("19 apples", "19"),
        ("10\\text{ cm}", "10 cm"),
        ("90^\\circ", "90"),
        ("x = 5", "5"),
        ("(A)", "A."),
        ("A", "A) Paris"),
        ("Paris", "paris."),
        ("-3", "\u22123"),
        ("1/3", "0.3333333"),
        ("\\left( 1, 2 \\right)", "(1,2)"),
    ],
)
def test_what_strings_can_tell_is_told_at_once(a: str, b: str) -> None:
    assert same(a, b) is True
    assert same(b, a) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3.14", "3.15"),
        ("10 km", "10 m"),
        ("A", "B"),
        ("Paris", "London"),
        ("2024-01-02", "2024-02-01"),
        ("3:30", "30"),
        ("(1,2)", "\\{1,2\\}"),
        ("print(X)", "print(x)"),
    ],
)
def test_different_answers_are_told_apart_at_once(a: str, b: str) -> None:
    assert same(a, b) is False


def test_expressions_that_look_different_and_are_equal_fall_into_one_group() -> None:
    assert groups("$x^2+2x+1$", "$(x+1)^2$", "$x^2+2$") == [0, 0, 1]
    assert groups("\\boxed{\\frac{\\sqrt{2}}{2}}", "\\boxed{1/\\sqrt 2}") == [0, 0]
    assert groups("\\{1,2\\}", "\\{2,1\\}", "(1,2)", "(2,1)") == [0, 0, 1, 2]
    assert groups("50\\%", "The answer is 0.5.") == [0, 0]


def test_equality_is_asked_both_ways_round() -> None:
    assert groups("\\boxed{x>3}", "\\boxed{(3,\\infty)}") == groups("\\boxed{(3,\\infty)}", "\\boxed{x>3}") == [0, 0]


def test_groups_are_numbered_as_they_appear_and_no_answer_is_no_group() -> None:
    assert groups("Hm", "The answer is 7.", "9", "", "\\boxed{7}") == [None, 0, 1, None, 0]
    assert groups() == []


def test_a_call_is_the_same_with_and_without_its_tags() -> None:
    bare = '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}'
    tagged = '<tool_call>\n{"arguments": {"days": 2, "city": "Rome"}, "name": "weather"}\n</tool_call>'
    other = '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'
    assert groups(bare, tagged, other, f"{tagged}\n{tagged}") == [0, 0, 1, 2]


def test_tool_calls_are_the_same_whatever_the_order_of_their_arguments() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>'
    a, b, c = call % '{"x": 1, "y": 2}', "Well. " + call % '{"y":2,"x":1}', call % '{"x": 1, "y": 3}'
    assert groups(a, b, c) == [0, 0, 1]


def test_a_comparison_that_hangs_counts_as_different_and_holds_nothing_up() -> None:
    towers = [f"\\boxed{{{n}^{{{n}^{{{n}^{{{n}^{{{n}}}}}}}}}}}" for n in (7, 8, 9)]

    async def main() -> tuple[list[int | None], int]:
        ticks = 0
        async with asyncio.TaskGroup() as tasks:
            grouping = tasks.create_task(group([*towers, "\\boxed{(x+1)^2}", "\\boxed{x^2+2x+1}"], seconds=3))
            while not grouping.done():
                await asyncio.sleep(0.05)
                ticks += 1
        return grouping.result(), ticks

    found, ticks = asyncio.run(main())
    assert found[:3] == [0, 1, 2]
    assert ticks > 3, "the loop goes on"


def test_the_value_of_an_answer_is_read_with_its_unit() -> None:
    assert number("1,234 apples") == 1234
    assert number("\\frac{1}{4}") == 0.25
    assert number("Paris") is None


@given(st.lists(st.text(alphabet="0123456789/.,-{}[]()\\ $%abcAB\n*`\"':=", max_size=12), max_size=5))
def test_no_text_makes_grouping_fail(texts: list[str]) -> None:
    found = [(final_answer(t), final_answer(t)) for t in texts]
    for answer, again in found:
        if answer is not None and again is not None:
            assert same(answer, again)
            assert same(answer, "7") == same("7", answer)


def test_calls_and_documents_are_the_same_however_their_numbers_are_written_and_calls_in_any_order() -> None:
    rome, oslo = (f'<tool_call>{{"name": "f", "arguments": {{"x": {x}}}}}</tool_call>' for x in ("2", "3.5"))
    again = '<tool_call>{"name": "f", "arguments": {"x": 2.0}}</tool_call>'
    assert groups(f"{rome}\n{oslo}", f"{oslo}\n{again}", rome, '{"x": 1, "y": 2}', '{"y":2.0,"x":1e0}') == [
        0,
        0,
        1,
        2,
        2,
    ]
    assert groups(r'\boxed{["a", 2]}', r'\boxed{["a",2.0]}', r'\boxed{["a", "2"]}') == [0, 0, 1]
    assert groups('{"x": "2"}', '{"x": "2.0"}', '{"x": 1}', '{"x": true}') == [0, 1, 2, 3]
