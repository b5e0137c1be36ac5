"""`ponder record` as it is typed, against a real server over a model whose chains depend on their seeds."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from ponder.compute.engine import Sampling
from ponder.compute.text import Prompt
from ponder.engines.pools import question_of, together
from ponder.engines.samples import read
from ponder.evaluation.asking.ask import seed_of
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Scope
from ponder.testing import MARKER, Chain
from tests.clients.serving import comes_true, serving
from tests.evaluation.asked import HeldEngine, ponder, process, sums, write
from tests.needs import tool

LIKELY = -0.25


class SeededEngine(HeldEngine):
    """Thinks for a time that follows from the seed, and answers rightly where it could think to the end."""

    def chain(self, prompt: Prompt, sampling: Sampling, thought: str, number: int) -> Chain:
        whole = (MARKER + "." * 200)[: length(sampling.seed or 0)]
        right = super().chain(prompt, sampling, "", number).answer
        early = f"The answer is \\boxed{{{1000 + sampling.thinking}}}."
        return Chain(whole, right if sampling.thinking > len(whole) else early, LIKELY)


def length(seed: int) -> int:
    return 20 + seed % 100


@pytest.fixture(scope="module")
def served() -> Iterator[SimpleNamespace]:
    """The server's address and its engine."""
    engine = SeededEngine()
    keys = [
        KeySettings(name="all", hash=digest("all"), scopes=frozenset(get_args(Scope))),
        KeySettings(name="plain", hash=digest("plain"), scopes=frozenset({"infer"})),
    ]
    with serving(engine, keys, price={"input": 1, "thinking": 2}, retain_text=True) as url:
        yield SimpleNamespace(url=url, engine=engine)


@pytest.fixture(autouse=True)
def _free(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served.engine.free = None
    served.engine.asked.clear()
    monkeypatch.setenv("PONDER_URL", served.url)
    monkeypatch.setenv("PONDER_API_KEY", "all")
    monkeypatch.chdir(tmp_path)


def lines(pool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pool.read_text().splitlines()]


def test_a_pool_has_samples_with_likelihoods_and_what_chains_say_half_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    questions = str(write(tmp_path / "q.jsonl", sums(3)))
    words = ("record", questions, "-o", "pool.jsonl", "--budget", "500", "--answer-tokens", "100", "--seed", "5")
    told = ponder(capsys, *words, "--samples", "8", "--probes", "90,50", "--likelihood")
    assert f"24 samples to draw: at most 72 requests and {24 * (600 + 190 + 150):,} generated tokens" in told
    assert "at what the first sample cost, at most about 0.0" in told
    pool = tmp_path / "pool.jsonl"
    assert MARKER not in pool.read_text()
    written = together(question_of(line) for line in lines(pool))
    assert sorted((one.id, one.question, one.answer) for one in written) == [
        (line["id"], line["question"], line["answer"]) for line in sums(3)
    ]
    for line in lines(pool):
        (sample,) = line["samples"]
        thought = length(seed_of(5, line["id"], line["draw"])) + 1
        assert sample["tokens"] - sample["visible"] == thought
        assert sample["answer"] == str(int(line["id"][1:]) + 1)
        assert sample.get("probes", []) == [[k, str(1000 + k)] for k in (50, 90) if k < thought]
        windows = -(-sample["tokens"] // line["likelihood_window"])
        assert sample["likelihood"] == pytest.approx([LIKELY] * windows, abs=0.02)
    assert any("probes" not in line["samples"][0] for line in lines(pool))
    read_back = asyncio.run(read(pool.read_text()))
    assert [(len(one.samples), len(one.right)) for one in read_back] == [(8, 1)] * 3
    assert all(sample.answer in one.right for one in read_back for sample in one.samples)


def test_more_samples_come_behind_and_another_plan_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: SimpleNamespace
) -> None:
    words = ("record", str(write(tmp_path / "q.jsonl", sums(3))), "-o", "pool.jsonl", "--budget", "500")
    ponder(capsys, *words, "--samples", "2", "--max-questions", "2")
    first = (tmp_path / "pool.jsonl").read_bytes()
    assert "6 samples more" not in ponder(capsys, *words, "--samples", "2", "--max-questions", "2")
    assert served.engine.asked.total() == 4
    assert "pool.jsonl: 5 samples more" in ponder(capsys, *words, "--samples", "3")
    assert (tmp_path / "pool.jsonl").read_bytes().startswith(first)
    assert served.engine.asked == {line["question"]: 3 for line in sums(3)}
    assert "budget was 500, now it is 400" in ponder(capsys, *words[:-1], "400", status=1)
    assert "probes was [], now it is [9]" in ponder(capsys, *words, "--probes", "9", status=1)


def test_a_recording_that_was_killed_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, served: SimpleNamespace
) -> None:
    words = ("record", str(write(tmp_path / "q.jsonl", sums(6))), "-o", "pool.jsonl", "--samples", "4", "--concurrency")
    pool = tmp_path / "pool.jsonl"
    served.engine.free = 9
    with process(*words, "3") as running:
        comes_true("samples in the pool", 120, lambda: pool.exists() and pool.read_bytes().count(b"\n") == 9)
        comes_true("three under way", 120, lambda: served.engine.asked.total() == 12)
        running.send_signal(signal.SIGKILL)
    served.engine.free = None
    assert "15 samples more" in ponder(capsys, *words, "3")
    assert served.engine.asked.total() == 12 + 15
    assert sorted((line["id"], line["draw"]) for line in lines(pool)) == [
        (f"q{i}", d) for i in range(6) for d in range(4)
    ]


def test_chains_that_the_budget_has_closed_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("record", str(write(tmp_path / "q.jsonl", sums(2))), "-o", "pool.jsonl", "--samples", "2", "--budget")
    assert "4 of them were closed before they ended" in ponder(capsys, *words, "30")


def test_programs_are_right_or_wrong_and_have_no_probes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tool("bwrap", "bubblewrap")
    code = {"task_id": "x", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() is None"}
    questions = str(write(tmp_path / "q.jsonl", [code]))
    ponder(capsys, "record", questions, "-o", "pool.jsonl", "--samples", "1", "--probes", "9")
    (line,) = lines(tmp_path / "pool.jsonl")
    (sample,) = line["samples"]
    # The echo repeats the head of the function, which is no whole one.
    assert (sample["right"], "answer" in sample, "probes" in sample) == (False, False, False)


@pytest.mark.parametrize(
    ("words", "key", "status", "told"),
    [
        (["--likelihood"], "plain", 1, "the likelihood of a sample cannot be read from its trace: "),
        (["--budget", "0"], "all", 2, "0 is no whole number above 0"),
        (["--probes", "a"], "all", 2, "argument --probes: "),
        (["--budget", "10"], "none", 1, "ponder: "),
    ],
)
def test_what_cannot_be_recorded_is_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    key: str,
    status: int,
    told: str,
) -> None:
    monkeypatch.setenv("PONDER_API_KEY", key)
    questions = str(write(tmp_path / "q.jsonl", sums(2)))
    assert told in ponder(capsys, "record", questions, "-o", "pool.jsonl", "--samples", "1", *words, status=status)
