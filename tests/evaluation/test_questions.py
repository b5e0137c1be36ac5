"""Question files: our own form, those that are published, and what is wrong with others."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ponder.evaluation.asking.judging import judge, ready
from ponder.evaluation.asking.questions import Expected, Program, Questions, WrongQuestions, read
from tests.evaluation.asked import write
from tests.needs import tool

GSM8K = {
    "question": "Natalia sold clips to 48 of her friends, and half as many in May. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 1,048+24 = <<1048+24=1072>>1,072.\n#### 1,072",
}
MATH = {
    "problem": "Convert the point $(0,3)$ to polar coordinates.",
    "solution": "We have that ... $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}$",
    "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
}
BODY = "    return sum(a <= limit for a in numbers) + helper()\n"
PROMPT = """from typing import List


def helper() -> int:
    return 0


def count(numbers: List[int], limit: int) -> int:
    '''How many are not above the limit.'''
"""
TEST = """

METADATA = {}


def check(candidate):
    assert candidate([1, 2, 3], 2) == 2
    assert candidate([], 5) == 0
"""
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "entry_point": "count",
    "canonical_solution": BODY,
    "test": TEST,
}


def of(tmp_path: Path, *lines: Mapping[str, Any]) -> Questions:
    return read(write(tmp_path / "questions.jsonl", lines))


def right(questions: Questions, text: str) -> bool:
    return asyncio.run(judge(questions.all[0], text)).right


def test_published_forms_are_told_by_their_first_line(tmp_path: Path) -> None:
    gsm = of(tmp_path, GSM8K)
    assert (gsm.form, gsm.all[0].id, gsm.all[0].right) == ("GSM8K", "1", Expected("1,072", True))
    math = of(tmp_path, MATH)
    assert (math.form, math.all[0].id) == ("MATH-500", "test/precalculus/807.json")
    assert math.all[0].text == MATH["problem"]
    code = of(tmp_path, HUMANEVAL)
    assert (code.form, code.all[0].id) == ("HumanEval", "HumanEval/0")
    assert isinstance(code.all[0].right, Program)
    assert HUMANEVAL["prompt"] in code.all[0].text


def test_our_own_form_has_questions_or_conversations_and_ids_where_one_likes(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12 + 7?"}]
    asked = of(tmp_path, {"question": "1 + 1?", "answer": 2}, {"id": 7, "messages": talk, "answer": "19"})
    assert [(one.id, one.text, one.answer) for one in asked.all] == [("1", "1 + 1?", "2"), ("7", "12 + 7?", "19")]
    assert list(asked.all[1].messages) == talk
    assert [one.id for one in asked.first(1).all] == ["1"]


def test_a_packed_file_is_the_same_file(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.jsonl", [GSM8K])
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(packed) == read(plain)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "has no questions"),
        (["{"], "line 1 is no JSON (Expecting"),
        (["[]"], "line 1 is no JSON object"),
        (['{"q": 1}'], '"question" (or "messages") and "answer"'),
        (['{"question": "a", "answer": "b"}', "", '{"question": "a"}'], 'line 3, field "answer": is missing'),
        (['{"question": " ", "answer": "b"}'], 'line 1, field "question": is no text that says something'),
        (['{"question": "a", "answer": ["b"]}'], 'line 1, field "answer": is no text'),
        (['{"question": "a", "answer": true}'], 'line 1, field "answer": is no text'),
        (['{"id": [1], "question": "a", "answer": "b"}'], 'line 1, field "id": is neither'),
        (['{"question": "a", "messages": [], "answer": "b"}'], 'field "messages": stands beside "question"'),
        (['{"messages": [], "answer": "b"}'], 'field "messages": is no list of messages'),
        (['{"messages": [{"role": "user"}], "answer": "b"}'], 'field "messages.0": is no object with'),
        (['{"id": 1, "question": "a", "answer": "b"}'] * 2, 'line 2: the id "1" is that of line 1, too'),
        (
            ['{"question": "a", "answer": "#### 1"}', '{"question": "a", "answer": "2"}'],
            'line 2, field "answer": has no',
        ),
        (
            ['{"task_id": "x", "prompt": "def f():", "entry_point": "f()", "test": "x"}'],
            'field "entry_point": is no name',
        ),
        (
            ['{"task_id": "x", "prompt": "def f():", "entry_point": "f", "test": "%s"}' % ("x" * 20_000)],
            'line 1, field "test": String should have at most 20000 characters',
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_field(tmp_path: Path, lines: list[str], told: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(WrongQuestions) as wrong:
        read(path)
    assert str(wrong.value).startswith(str(path))
    assert told in str(wrong.value)


def test_files_that_are_not_there_or_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(WrongQuestions, match=r"cannot be read: .*No such file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(WrongQuestions, match="no text in UTF-8"):
        read(tmp_path / "bytes")
    (tmp_path / "plain.gz").write_text("{}")
    with pytest.raises(WrongQuestions, match="cannot be read"):
        read(tmp_path / "plain.gz")


# -- what is right ----------------------------------------------------------------------------------------------------


def test_answers_are_right_that_would_vote_together(tmp_path: Path) -> None:
    gsm, math = of(tmp_path, GSM8K), of(tmp_path, MATH)
    assert right(gsm, "So she sold 1072 clips in all.")
    assert right(gsm, "The answer is \\boxed{1,072}.")
    assert not right(gsm, "The answer is 72.")
    assert right(math, "It is $\\boxed{(3, \\pi/2)}$.")
    assert not right(math, "It is $\\boxed{(3, \\pi)}$.")
    assert not right(math, "I cannot say.")


def test_multiple_choice_is_answered_by_a_letter(tmp_path: Path) -> None:
    choice = of(tmp_path, {"question": "Which is even? (A) 3 (B) 4 (C) 5", "answer": "B"})
    for text in ("The answer is (B).", "B", "\\boxed{B}", "**B**", "Answer: B) 4", "\\boxed{\\text{(B)}}"):
        assert right(choice, text), text
    for text in ("A", "The answer is (C).", "All of them are numbers."):
        assert not right(choice, text), text


def test_programs_are_right_that_pass_the_test_in_the_sandbox(tmp_path: Path) -> None:
    tool("bwrap", "bubblewrap")
    code = of(tmp_path, HUMANEVAL)
    asyncio.run(ready(code.all))
    head = "def count(numbers: List[int], limit: int) -> int:\n"
    for text in (
        BODY,
        f"```python\n{BODY}```",
        f"Sure:\n```python\n{head}{BODY}```\nIt counts.",
        f"```\n{head}{BODY}```",
    ):
        assert right(code, text), text
    for text in ("", "I cannot.", f"```python\n{head}    return 2\n```", "```python\ndef check(f): pass\n```"):
        assert not right(code, text), text


def test_a_packed_file_that_is_damaged_and_a_number_that_is_too_long_are_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"question": "a", "answer": "1"}\n' * 1000))
    packed[20] ^= 255
    (tmp_path / "q.jsonl.gz").write_bytes(packed)
    with pytest.raises(WrongQuestions, match=r"q\.jsonl\.gz cannot be read"):
        read(tmp_path / "q.jsonl.gz")
    (tmp_path / "q.jsonl").write_text('{"question": "a", "answer": ' + "1" * 5000 + "}")
    with pytest.raises(WrongQuestions, match="line 1 cannot be read"):
        read(tmp_path / "q.jsonl")
