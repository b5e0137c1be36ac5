"""`ponder compare` as it is typed, against a real server over an engine that repeats what it is asked."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ponder.clients.client import Client
from tests.clients.serving import comes_true, serving
from tests.evaluation.asked import HeldEngine, Read, ponder, process, sums, write

PLANS = ("--strategies", "direct", "majority_vote:n=4", "--budgets", "16,256")


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """The server's address and its engine."""
    engine = HeldEngine()
    with serving(engine, price={"input": 1, "thinking": 2}) as url:
        yield SimpleNamespace(url=url, engine=engine)


@pytest.fixture(autouse=True)
def _free(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served.engine.free = None
    served.engine.asked.clear()
    monkeypatch.setenv("PONDER_URL", served.url)
    monkeypatch.delenv("PONDER_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_table_a_picture_and_a_page_tell_what_came_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: SimpleNamespace
) -> None:
    hostile = "<script>alert(1)</script> <img src=http://x/> &amp; \\boxed{5}"
    questions = write(
        tmp_path / "sums.v2.jsonl", [*sums(5, wrong=2), {"id": "<b>", "question": hostile, "answer": "5"}]
    )
    told = ponder(
        capsys, "compare", str(questions), *PLANS, "--repeat", "2", "--seed", "7", "--instruction", "Be\nbrief."
    )
    head, *lines = told.splitlines()
    assert head.split()[:2] == ["strategy", "budget"]
    assert [line.split()[:3] for line in lines[:4]] == [
        [name, budget, "66.7"] for name in ("direct", "majority_vote:n=4") for budget in ("16", "256")
    ]
    out = tmp_path / "sums-compare"
    table = list(csv.DictReader((out / "table.csv").open()))
    with Client(served.url) as client:
        usage = client.chat("?", thinking_budget=16, strategy="direct")
    for line in table:
        assert float(line["right_low"]) < 2 / 3 < float(line["right_high"])
        assert float(line["cost_usd"]) == pytest.approx(
            (float(line["prompt_tokens"]) + 2 * float(line["thinking_tokens"]) + 2 * float(line["visible_tokens"]))
            / 1e6
        )
        assert float(line["tokens"]) == pytest.approx(float(line["thinking_tokens"]) + float(line["visible_tokens"]))
        assert (line["answers"], line["errors"]) == ("12", "0")
        assert 0 < float(line["first_p50_seconds"]) <= float(line["p50_seconds"]) <= float(line["p90_seconds"])
    assert float(table[0]["thinking_tokens"]) == usage.usage.reasoning_tokens == 16
    assert table[0]["better"] == ""
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")

    source = (out / "report.html").read_text()
    page = Read(source)
    assert not {"script", "link", "iframe", "object", "form", "b"} & page.tags.keys()
    addresses = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "action", "data")]
    assert len(addresses) == 2
    assert all(value.startswith("data:image/svg+xml;base64,") for value in addresses)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert hostile in page.text
    assert "prefers-color-scheme: dark" in source
    assert (page.tags["details"], page.tags["caption"]) == (6 + 6 * 8, 1)
    assert [value for _, name, value in page.attributes if name == "alt"] != [""]
    assert "Be\nbrief." in page.text
    assert page.text.count("right in 0 of 8") == 2


def test_a_run_that_was_killed_goes_on_and_asks_nothing_twice_that_was_answered(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: SimpleNamespace
) -> None:
    questions = write(tmp_path / "sums.jsonl", sums(20))
    words = (str(questions), "--strategies", "direct", "--budgets", "256", "--concurrency", "4", "--out", "run")
    journal = tmp_path / "run" / "answers.jsonl"
    served.engine.free = 9
    with process("compare", *words) as running:
        comes_true("answers in the journal", 120, lambda: journal.exists() and journal.read_bytes().count(b"\n") == 9)
        comes_true("four questions under way", 120, lambda: served.engine.asked.total() == 13)
        running.send_signal(signal.SIGKILL)
    answered = {json.loads(line)["question"] for line in journal.read_text().splitlines()}
    assert len(answered) == 9
    before = served.engine.asked.copy()
    assert set(before.values()) == {1}
    with journal.open("a") as file:
        file.write('{"plan": "direct @ 256", "quest')
    served.engine.free = None
    told = ponder(capsys, "compare", *words)
    assert "9/20" in told.replace("\r", "\n")
    again = served.engine.asked - before
    every = {one["question"]: one["id"] for one in sums(20)}
    assert again == {text: 1 for text, id in every.items() if id not in answered}
    assert len(journal.read_text().splitlines()) == 20
    assert ponder(capsys, "compare", *words).splitlines()[:2] == told.splitlines()[:2]
    assert (served.engine.asked - before) == again
    assert "questions was" in ponder(capsys, "compare", str(write(questions, sums(21))), *words[1:], status=1)
    assert "plans was" in ponder(
        capsys, "compare", str(write(questions, sums(20))), *words[1:], "--budgets", "9", status=1
    )
    assert (served.engine.asked - before) == again


def test_errors_are_shown_and_the_status_tells_of_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    long: dict[str, Any] = {"id": "long", "question": "x" * 300_000, "answer": "1"}
    questions = write(tmp_path / "q.jsonl", [*sums(3), long])
    told = ponder(capsys, "compare", str(questions), "--strategies", "direct", status=1)
    assert "75.0" in told.splitlines()[1]
    assert told.splitlines()[1].endswith(" 1")
    assert "1 of 4 requests failed, the last with: 400: " in told
    assert "error</td>" in (tmp_path / "q-compare" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--strategies", "dirct"], 2, "--strategies dirct: the server lists "),
        (["--strategies", "majority_vote:16"], 2, "a parameter is NAME=VALUE"),
        (["--strategies", "direct", "--model", "none"], 2, "--model none: the server lists scripted, "),
        (["--strategies", "direct", "--budgets", "1k"], 2, '--budgets 1k: a number of tokens, or "auto"'),
        (["--strategies", "direct", "--budgets", "1,1"], 2, "--budgets: one stands there twice"),
        (["--strategies", "direct", "--repeat", "0"], 2, "0 is no whole number above 0"),
        (["--strategies", "majority_vote:n=100000"], 1, "stopped: majority_vote:n=100000 @ default: "),
        (["--strategies", "direct", "--verifier", "nobody"], 1, "stopped: direct @ default: "),
        (["--strategies", "direct", "--url", "http://127.0.0.1:1"], 1, "no server answers at http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    served: SimpleNamespace,
    words: list[str],
    status: int,
    told: str,
) -> None:
    questions = str(write(tmp_path / "q.jsonl", sums(2)))
    assert told in ponder(capsys, "compare", questions, *words, status=status)
    assert "q.jsonl, line 1 is no JSON" in ponder(capsys, "compare", str(_broken(tmp_path)), *words[:2], status=1)
    assert served.engine.asked.total() == 0


def _broken(tmp_path: Path) -> Path:
    (tmp_path / "q.jsonl").write_text("x")
    return tmp_path / "q.jsonl"


def test_what_is_not_installed_is_told(tmp_path: Path) -> None:
    questions = str(write(tmp_path / "q.jsonl", sums(2)))
    with process(
        "compare", questions, "--strategies", "direct", code="import sys; sys.modules['tqdm'] = None"
    ) as running:
        _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert err == "ponder: tqdm is missing: pip install 'ponder-server[evaluation]' brings it\n"


def test_code_questions_want_a_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = {"task_id": "x", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f()"}
    questions = str(write(tmp_path / "q.jsonl", [code]))
    monkeypatch.setenv("PATH", "/nowhere")
    with process("compare", questions, "--strategies", "direct") as running:
        _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "ponder: the sandbox needs bubblewrap: apt-get install bubblewrap" in err
