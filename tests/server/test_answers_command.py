"""`ponder answers`, as somebody runs it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from ponder.__main__ import main
from ponder.server.commands.answers import tell


def told(*lines: str) -> tuple[int, list[dict[str, object]], str]:
    """(exit status, what is printed, what is complained of)."""
    out, errors = io.StringIO(), io.StringIO()
    status = tell(lines, out, errors)
    return status, [json.loads(line) for line in out.getvalue().splitlines()], errors.getvalue()


def test_each_line_of_texts_becomes_a_line_of_answers_and_groups() -> None:
    status, printed, errors = told(
        json.dumps({"texts": ["\\boxed{\\frac12}", "The answer is 0.5.", "Hm", "答案是2。"]}) + "\n",
        "\n",
        json.dumps({"texts": []}) + "\n",
    )
    assert printed == [
        {"answers": ["\\frac12", "0.5", None, "2"], "groups": [0, 0, None, 1]},
        {"answers": [], "groups": []},
    ]
    assert (status, errors) == (0, "")


def test_the_question_says_whether_a_last_sentence_is_an_answer() -> None:
    text = "It took them 12 minutes to get there."
    lines = [json.dumps({"texts": [text], "question": q}) for q in ("How many minutes did it take?", "Tell a story.")]
    _, printed, _ = told(*lines)
    assert [line["answers"] for line in printed] == [["12 minutes"], [None]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("secret", "is no JSON (Expecting value at character 1)"),
        ("[" * 100_000, "nested too deeply"),
        ('["secret"]', 'is no object; write {"texts": ["...", "..."]}'),
        ('{"text": ["secret"]}', 'has no field "texts"'),
        ('{"texts": "secret"}', '"texts" is no list of strings'),
        ('{"texts": ["a", 7]}', "something else than a string at place 1"),
        ('{"texts": [], "secret": 1}', "has 1 unknown field; there are texts and question"),
        ('{"texts": [], "question": 1}', '"question" is no string'),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_the_others_are_read(line: str, complaint: str) -> None:
    status, printed, errors = told('{"texts": ["7"]}', line, '{"texts": ["8"]}')
    assert status == 1
    assert [one["answers"] for one in printed] == [["7"], ["8"]]
    assert errors.startswith("ponder: line 2: ")
    assert complaint in errors
    assert "secret" not in errors


def test_half_of_a_surrogate_pair_is_written_as_it_came() -> None:
    _, printed, _ = told('{"texts": ["\\ud800 7"]}')
    assert len(printed) == 1


def test_a_file_is_read_and_one_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"texts": ["1/2", "50%"]}\n')
    with pytest.raises(SystemExit) as ended:
        main(["answers", str(lines)])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["groups"] == [0, 0]
    with pytest.raises(SystemExit) as ended:
        main(["answers", str(tmp_path / "none.jsonl")])
    assert ended.value.code == 2
    assert "none.jsonl: cannot be read: No such file or directory" in capsys.readouterr().err
