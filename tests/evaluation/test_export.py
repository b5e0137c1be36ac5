"""`ponder export`: what comes of traces and pools, in each form, and what never leaves a server."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from ponder.__main__ import parser
from ponder.compute.text import Prompt
from ponder.engines.pools import RecordedQuestion, RecordedSample, line
from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, Settings
from ponder.testing import Chain, ScriptedEngine
from ponder.testing.scripted import question
from tests.server.serving import Place, door, serving

KEYS = {
    "ann": ["infer", "trace", "reveal"],
    "bob": ["infer", "trace", "reveal"],
    "blind": ["infer", "trace"],
    "boss": ["infer", "trace", "reveal", "admin"],
}
SUMS = [f"What is {n} + 1?" for n in range(6)]
VOTE = {"strategy": {"name": "majority_vote", "n": 4, "first": 4, "confidence": 1}, "thinking_budget": 4000}
Export = Callable[..., tuple[int, str, list[dict[str, Any]]]]


def script(prompt: Prompt, thought: str, call: int) -> Chain:
    """Three of four chains are right, each in words of its own; a secret is thought about as such."""
    asked = question(prompt)
    if not asked.startswith("What is"):
        return Chain(f"secret of {asked}\n", "It is 1.")
    number = int(asked.split()[2]) + 1 + (call % 4 == 3)
    return Chain(f"Try {call}: {asked} It is {number}.\n", f"It is \\boxed{{{number}}}.")


def served(**settings: Any) -> Generator[Place]:
    keys = [KeySettings.model_validate({"name": k, "hash": digest(k), "scopes": s}) for k, s in KEYS.items()]
    with serving(door(ScriptedEngine(script), Settings(keys=keys, **settings))) as place:
        yield place


@pytest.fixture(scope="module")
def server() -> Generator[Place]:
    """A server that keeps texts, and was asked by several keys."""
    for place in served(retain_text=True):
        for asked in SUMS:
            chat(place, "ann", asked, **VOTE)
        chat(place, "ann", SUMS[0], **VOTE)
        chat(place, "bob", "The secret of Bob")
        chat(place, "blind", "The secret of Blind")
        yield place


def chat(place: Place, key: str, asked: str, **fields: Any) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": asked}], **fields}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{place.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Runs the command: its status, what it said, the rows it wrote."""

    def run(kind: str, *words: str, key: str = "ann", out: str = "rows.jsonl") -> tuple[int, str, list[dict[str, Any]]]:
        monkeypatch.setenv("PONDER_API_KEY", key)
        command = ["export", kind, "-o", str(tmp_path / out), *words]
        options = parser(command).parse_args(command)
        status = options.command(options)
        said = capsys.readouterr()
        return status, said.out + said.err, rows(tmp_path / out)

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    """Those of a file of lines; none where there is no such file."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" and path.exists() else []
    return list(map(json.loads, lines))


@pytest.fixture
def truth(tmp_path: Path) -> str:
    path = tmp_path / "questions.jsonl"
    lines = [{"id": f"q{n}", "question": asked, "answer": str(n + 1)} for n, asked in enumerate(SUMS)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)


def user(asked: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": asked}]


def text(messages: Sequence[Mapping[str, str]]) -> str:
    (message,) = messages
    assert message["role"] == "assistant"
    return message["content"]


def answered(n: int) -> str:
    return f"\n</think>\n\nIt is \\boxed{{{n}}}."


def test_chosen_chains_are_prompts_and_completions_with_the_thought_in_its_markers(
    server: Place, export: Export
) -> None:
    status, said, found = export("sft", "--url", server.url)
    assert status == 0
    assert [set(row) for row in found] == [{"prompt", "completion"}] * 7  # one question was asked twice
    assert {row["prompt"][0]["content"] for row in found} == set(SUMS)
    for row in found:
        n = SUMS.index(row["prompt"][0]["content"])
        assert row["prompt"] == user(SUMS[n])
        assert text(row["completion"]).startswith("<think>\nTry ")
        assert text(row["completion"]).endswith(f"It is {n + 1}.{answered(n + 1)}")
    assert "chains that were not chosen" in said


def test_every_chain_the_right_ones_the_agreed_ones_and_so_many_of_a_question(
    server: Place, export: Export, truth: str
) -> None:
    url = ("--url", server.url)
    assert len(export("sft", *url, "--every-chain")[2]) == 28
    right = export("sft", *url, "--every-chain", "--right", "--truth", truth)[2]
    assert len(right) == 21
    assert right == export("sft", *url, "--every-chain", "--min-agreement", "0.5")[2]
    assert len(export("sft", *url, "--every-chain", "--max-per-question", "2")[2]) == 12
    assert len(export("sft", *url, "--every-chain", "--right", "--truth", truth, "--max-per-question", "5")[2]) == 20
    status, said, none = export("sft", *url, "--right", out="none.jsonl")
    assert (status, none) == (2, [])
    assert "--truth" in said


def test_a_chain_whose_thought_was_closed_by_force_is_left_out_until_it_is_asked_for(export: Export) -> None:
    for place in served(retain_text=True):
        chat(place, "ann", SUMS[1], thinking_budget=9)
        chat(place, "ann", SUMS[2], thinking_budget=900)
        assert [row["prompt"] for row in export("sft", "--url", place.url)[2]] == [user(SUMS[2])]
        both = export("sft", "--url", place.url, "--forced")[2]
        assert [row["prompt"] for row in both] == [user(SUMS[2]), user(SUMS[1])]
        # What a model wrote once is there once.
        chat(place, "ann", SUMS[1], thinking_budget=9)
        assert export("sft", "--url", place.url, "--forced")[2] != both


def test_pairs_are_of_right_and_wrong_chains_of_one_question(server: Place, export: Export, truth: str) -> None:
    status, _, found = export("preferences", "--url", server.url, "--truth", truth)
    assert status == 0
    assert len(found) == 7
    for row in found:
        assert set(row) == {"prompt", "chosen", "rejected"}
        n = SUMS.index(row["prompt"][0]["content"])
        assert text(row["chosen"]).endswith(answered(n + 1))
        assert text(row["rejected"]).endswith(answered(n + 2))
    assert len(export("preferences", "--url", server.url, "--truth", truth, "--max-per-question", "1")[2]) == 6
    status, said, _ = export("preferences", "--url", server.url, out="none.jsonl")
    assert status == 2
    assert "--reward" in said
    agreed = export("preferences", "--url", server.url, "--reward", "agreement")[2]
    assert agreed == found
    assert export("preferences", "--url", server.url, "--reward", "agreement", "--margin", "0.6")[2] == []


def test_prompts_carry_their_answers_as_trl_and_verl_read_them(server: Place, export: Export, truth: str) -> None:
    wanted = [{"prompt": user(asked), "answer": str(n + 1)} for n, asked in enumerate(SUMS)]
    assert export("prompts", "--truth", truth)[2] == wanted
    assert sorted(export("prompts", "--truth", truth, "--url", server.url)[2], key=lambda row: row["answer"]) == wanted
    found = export("prompts", "--truth", truth, "--form", "verl", "--data-source", "sums", "--ability", "math")[2]
    assert found == [
        {
            "data_source": "sums",
            "prompt": user(asked),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"split": "train", "index": n, "id": f"q{n}"},
        }
        for n, asked in enumerate(SUMS)
    ]


def test_groups_have_advantages_that_grpo_gives_their_rewards(server: Place, export: Export, truth: str) -> None:
    found = export("groups", "--url", server.url, "--truth", truth)[2]
    assert {row["prompt"][0]["content"] for row in found} == set(SUMS)
    for row in found:
        rewards = [one["reward"] for one in row["rollouts"]]
        assert rewards.count(0.0) * 3 == rewards.count(1.0) > 0
        assert row["mean"] == 0.75
        assert row["std"] == statistics.stdev(rewards)
        for one in row["rollouts"]:
            assert one["advantage"] == pytest.approx((one["reward"] - 0.75) / (row["std"] + 1e-4))
            assert (one["reward"], one["advantage"] > 0) == (float(one["right"]), one["right"])
            assert one["tokens"] == len(text(one["completion"])) - len("<think>\n" + "\n</think>\n\n") + 1 + 1
        assert sum(one["advantage"] for one in row["rollouts"]) == pytest.approx(0)


def test_questions_are_split_by_their_words_with_all_their_rows(
    server: Place, export: Export, tmp_path: Path, truth: str
) -> None:
    words = ("--url", server.url, "--every-chain", "--test-share", "0.5")
    sides: list[set[str]] = []
    for _ in range(2):
        assert export("sft", *words)[0] == 0
        train, test = (rows(tmp_path / f"rows.{side}.jsonl") for side in ("train", "test"))
        assert len(train) + len(test) == 28
        sides = [{row["prompt"][0]["content"] for row in side} for side in (train, test)]
        assert sides[0] | sides[1] == set(SUMS)
        assert not sides[0] & sides[1]
    export("prompts", "--truth", truth, "--form", "verl", "--test-share", "0.5")
    verl = rows(tmp_path / "rows.test.jsonl")
    assert {row["prompt"][0]["content"] for row in verl} == sides[1]
    assert [row["extra_info"] | {"id": ""} for row in verl] == [
        {"split": "test", "index": n, "id": ""} for n in range(len(verl))
    ]


def test_nothing_leaves_a_server_that_the_key_may_not_see(server: Place, export: Export, tmp_path: Path) -> None:
    """Texts want `reveal`, and those of others are never exported, not by an administrator either."""
    for key in ("ann", "bob", "boss", "blind", "nobody"):
        for kind in ("sft", "groups"):
            words = ("--every-chain",) if kind == "sft" else ("--reward", "agreement")
            status, said, found = export(kind, "--url", server.url, *words, key=key, out=f"{key}-{kind}.jsonl")
            assert (status == 0) is (key in ("ann", "bob")), said
            everything = said + json.dumps(found)
            assert ("secret" in everything) is (key == "bob" and kind == "sft")
            assert "Blind" not in everything
            assert ("Try" in everything) is (key == "ann")
    assert "reveal" in export("sft", "--url", server.url, key="blind")[1]
    assert "traces of this key" in export("sft", "--url", server.url, key="boss")[1]
    for place in served(retain_text=False):
        chat(place, "ann", SUMS[0])
        status, said, found = export("sft", "--url", place.url, out="silent.jsonl")
        assert (status, found) == (2, [])
        assert "retain_text" in said


def test_conversations_with_tools_are_left_out_and_counted(server: Place, export: Export) -> None:
    for place in served(retain_text=True):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        chat(place, "ann", SUMS[0], tools=[tool])
        chat(place, "ann", SUMS[1])
        _, said, found = export("sft", "--url", place.url)
        assert [row["prompt"] for row in found] == [user(SUMS[1])]
        assert "left out: 1 conversations with tools" in said


def test_rows_of_pools_are_answers_without_thoughts(export: Export, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        line(
            RecordedQuestion(
                id="1",
                question="What is 1 + 1?",
                answer="2",
                samples=(
                    RecordedSample(text="It is 2.", tokens=90, step_scores=(0.2, 0.9)),
                    RecordedSample(text="It is 3.", tokens=70, step_scores=(0.9, 0.1)),
                    RecordedSample(answer="2", tokens=80),
                ),
            )
        )
        + line(RecordedQuestion(id="2", answer="2", samples=(RecordedSample(answer="2", tokens=80),)))
    )
    status, said, found = export("sft", "--pool", str(pool), "--right")
    assert (status, found) == (
        0,
        [{"prompt": user("What is 1 + 1?"), "completion": [{"role": "assistant", "content": "It is 2."}]}],
    )
    assert "1 samples without text" in said
    assert "1 questions without their words" in said
    assert [row["completion"][0]["content"] for row in export("sft", "--pool", str(pool), "--min-score", "0.5")[2]] == [
        "It is 2."
    ]
    (pair,) = export("preferences", "--pool", str(pool), "--reward", "score")[2]
    assert (text(pair["chosen"]), text(pair["rejected"])) == ("It is 2.", "It is 3.")
    assert export("prompts", "--pool", str(pool))[2] == [{"prompt": user("What is 1 + 1?"), "answer": "2"}]
    pool.write_text('{"id": "1"}\n{"id": "1", "samples": 3}\n')
    assert "line 2" in export("sft", "--pool", str(pool))[1]


def test_parquet_wants_pyarrow_and_says_so(export: Export, tmp_path: Path, truth: str) -> None:
    status, said, _ = export("prompts", "--truth", truth, out="rows.parquet")
    if find_spec("pyarrow") is None:
        assert (status, (tmp_path / "rows.parquet").exists()) == (1, False)
        assert "pip install pyarrow" in said
    else:
        assert (status, (tmp_path / "rows.parquet").read_bytes()[:4]) == (0, b"PAR1")
