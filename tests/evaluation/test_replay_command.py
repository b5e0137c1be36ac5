"""`ponder replay`: figures known beforehand, the same again, side by side and gone on with, and what is wrong."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ponder.__main__ import OF_THE_SERVER, main
from ponder.compute.policy import BUILT_IN, written
from ponder.engines.pools import RecordedQuestion, RecordedSample, line

VOTES = "majority_vote:n=5:first=5:confidence=1"


def made(file: Path, *, questions: int = 6, samples: int = 12, seed: int = 1, **more: Any) -> Path:
    """A pool whose questions are the easier the earlier they come."""
    chance = random.Random(seed)
    file.write_text(
        "".join(
            line(
                RecordedQuestion(
                    id=str(q),
                    answer="1",
                    samples=tuple(
                        RecordedSample(
                            answer="1" if chance.random() > q / (questions + 2) else str(chance.randint(2, 4)),
                            tokens=chance.randint(500, 1500),
                            **more,
                        )
                        for _ in range(samples)
                    ),
                )
            )
            for q in range(questions)
        )
    )
    return file


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *map(str, words)])
    return int(ended.value.code or 0)


def told(tmp_path: Path, *words: object) -> list[dict[str, Any]]:
    file = tmp_path / "told.json"
    assert run(*words, "--json", file) == 0
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    for row in rows:
        row.pop("cpu_seconds")
    return rows


def test_what_is_known_beforehand_comes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every sample is right and of one length, so nothing is left to chance."""
    sample = RecordedSample(answer="7", tokens=1000, visible=100)
    question = RecordedQuestion(id="a", answer="7", prompt_tokens=50, samples=(sample,) * 8)
    pool = tmp_path / "sure.jsonl"
    pool.write_text(line(question))
    prices = "input=1,thinking=2,answer=4,verifier=1"
    direct, votes = told(tmp_path, pool, "--strategies", "direct", VOTES, "--draws", 3, "--prices", prices)
    assert (direct["setup"], votes["setup"], direct["pool"], direct["requests"]) == ("direct", VOTES, "sure", 3)
    assert direct["right"] == {"value": 100, "low": 100, "high": 100, "low_here": 100, "high_here": 100}
    assert (direct["tokens"]["value"], direct["steps"]["value"], direct["chains"]) == (1000, 1000, 1)
    assert (votes["steps"]["value"], votes["of_its_steps"]["value"]) == (1000, 1)
    assert votes["difference"]["value"] == 0
    assert votes["of_its_tokens"]["value"] == votes["tokens"]["value"] / 1000 >= 3
    assert direct["usd"]["value"] == pytest.approx((50 * 1 + 900 * 2 + 100 * 4) / 1e6)
    table = capsys.readouterr().out
    assert "sure: 1 questions, 3 draws of each" in table
    assert "100.00" in table


def test_all_of_it_is_the_same_again_and_another_seed_is_another(tmp_path: Path) -> None:
    pool = made(tmp_path / "a.jsonl")
    words = [pool, "--strategies", "direct", VOTES, "--draws", 6]
    first = told(tmp_path, *words)
    assert told(tmp_path, *words) == first
    assert told(tmp_path, *words, "--seed", 1) != first
    assert first[1]["right"]["value"] > first[0]["right"]["value"]
    # Held against another setup, only what is relative differs.
    against = told(tmp_path, *words, "--against", VOTES)
    assert [row["setup"] for row in against] == [VOTES, "direct"]
    assert against[1]["difference"]["value"] == -first[1]["difference"]["value"]
    assert against[1]["tokens"] == first[0]["tokens"]


def test_several_pools_and_caps_side_by_side_are_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "pools"
    folder.mkdir()
    made(folder / "a.jsonl", questions=3)
    made(folder / "b.jsonl", questions=3, seed=2)
    kept = tmp_path / "kept.jsonl"
    words = [folder, "--strategies", "direct", VOTES, "--draws", 2, "--caps", "2000,none"]
    one_by_one = told(tmp_path, *words, "--resume", kept)
    assert [row["pool"] for row in one_by_one] == ["a"] * 4 + ["b"] * 4 + ["all pools"] * 4
    assert [row["cap"] for row in one_by_one[:4]] == [2000, 2000, None, None]
    values = [row["right"]["value"] for row in one_by_one if row["setup"] == "direct" and row["cap"] == 2000]
    assert values[2] == pytest.approx(sum(values[:2]) / 2)
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    # It was stopped: six are there whole, and of the seventh a part.
    kept.write_text("".join(lines[:6]) + lines[6][:100])
    assert told(tmp_path, *words, "--resume", kept, "--jobs", 2) == one_by_one
    assert len(kept.read_text().splitlines()) == 8
    kept.write_text("else\n")
    assert run(*words, "--resume", kept) == 1


def test_questions_that_two_pools_have_are_no_more_questions(tmp_path: Path) -> None:
    one = made(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(one.read_bytes())
    (tmp_path / "c.jsonl").write_text(one.read_text().replace('"id": "', '"id": "other '))
    same = told(tmp_path, one, tmp_path / "b.jsonl", "--strategies", "direct", "--draws", 3)
    assert [row["pool"] for row in same] == ["a", "b", "all pools"]
    assert same[2]["right"]["low"] == pytest.approx(same[0]["right"]["low"], abs=3)
    apart = told(tmp_path, one, tmp_path / "c.jsonl", "--strategies", "direct", "--draws", 3)
    assert apart[2]["right"]["low"] > same[2]["right"]["low"] + 3


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    pool, plot = made(tmp_path / "a.jsonl", questions=2), tmp_path / f"a.{suffix}"
    assert run(pool, "--strategies", "direct", "majority_vote:n=3", VOTES, "--draws", 2, "--plot", plot) == 0
    assert plot.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    if suffix == "svg":
        # A line a strategy: votes differ in numbers alone.
        assert plot.read_text().count("majority_vote") < 3


def test_json_on_standard_output_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made(tmp_path / "a.jsonl", questions=1), "--draws", 1, "--json", "-") == 0
    out, err = capsys.readouterr()
    assert [row["setup"] for row in json.loads(out)["rows"]] == ["direct", "auto"]
    assert "right %" in err


def test_a_verifier_that_fails_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = made(tmp_path / "a.jsonl", questions=1)
    assert run(pool, "--strategies", "best_of_n:n=2", "--verifier", "confidence", "--draws", 1) == 0
    assert "in 1 of 1 requests the verifier failed" in capsys.readouterr().out


CONFIGURED = """
[prices]
version = "2026-01"
[prices.default]
input = 1
thinking = 2
[prices.models.small]
input = 0.5
thinking = 0.5
"""


def test_prices_are_those_of_a_configuration(tmp_path: Path) -> None:
    pool, file = made(tmp_path / "a.jsonl", questions=1), tmp_path / "ponder.toml"
    file.write_text(CONFIGURED)
    words = [pool, "--strategies", "direct", "--draws", 1, "--prices", file]
    (default,), (small,) = told(tmp_path, *words), told(tmp_path, *words, "--model", "small")
    tokens = default["tokens"]["value"]
    assert default["usd"]["value"] == pytest.approx((64 + 2 * tokens) / 1e6)
    assert small["usd"]["value"] == pytest.approx((64 + tokens) / 2e6)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--strategies", "voting"], "voting is no strategy; there are auto,"),
        (["--strategies", "majority_vote:n"], "'n' is no parameter; write majority_vote:NAME=VALUE"),
        (["--strategies", "majority_vote:n=0"], "majority_vote:n=0: n: Input should be greater"),
        (["--strategies", "majority_vote:m=2"], "majority_vote:m=2: m: Unexpected keyword"),
        (["--verifier", "guess"], "guess is no verifier"),
        (["--against", "nobody"], "nobody is no strategy"),
        (["--caps", "0"], "0 is no whole number above 0"),
        (["--prior", "5"], "5 is no P50,P90"),
        (["--plot", "a.pdf"], "a plot is a .png or a .svg"),
        (["--json", "nowhere/a.json"], "there is no folder nowhere"),
        (["--prices", "output=1"], "prices want input"),
        (["--prices", "input=x,output=1"], "prices are numbers"),
        (["--prices", "inputs=1"], "'inputs=1' is no price"),
        (["--prices", "none.toml"], "none.toml"),
        (["--model", "a"], "--model wants --prices"),
        (["--json", "."], ".: this is a folder"),
        (["--resume", "."], ".: this is a folder"),
        (["--policy", "none.json"], "none.json"),
    ],
)
def test_a_command_that_cannot_be_meant_says_why(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made(tmp_path / "a.jsonl", questions=1), *words) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("", "there is no question with samples"),
        ('{"id": 1, "gold_groups": [0], "samples": [1]}', "line 1 of the pool: "),
        ('{"id": 1, "gold": "7", "samples": [["7", 10.5]]}', "line 1 of the pool: 10.5 is no number of tokens"),
        ("[" * 100_000, "line 1 of the pool: it is nested too deeply"),
        ('{"version": 1, "id": 1, "samples": [{"answer": 1}]}', "line 1 of the pool: samples.0.tokens: Field required"),
        ('{"version": 1, "id": 1, "samples": [{"answer": 1, "tokens": 5}]}', "it is known which answers are right"),
    ],
)
def test_a_pool_that_cannot_be_replayed_says_why(
    text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "a.jsonl"
    if text is not None:
        pool.write_text(text)
    assert run(pool) == 2
    assert why in capsys.readouterr().err


def test_auto_goes_by_the_policy_that_is_named(tmp_path: Path) -> None:
    pool, file = made(tmp_path / "a.jsonl"), tmp_path / "policy.json"
    file.write_text(written(BUILT_IN))
    words = [pool, "--strategies", "auto", "--draws", 2]
    built_in = told(tmp_path, *words)
    assert told(tmp_path, *words, "--policy", file) == built_in
    file.write_text(written(replace(BUILT_IN, start=6)))
    assert told(tmp_path, *words, "--policy", file)[0]["tokens"] != built_in[0]["tokens"]


def test_a_question_of_a_judge_was_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--strategies", "best_of_n:n=2", "--verifier", "judge", "--draws", "1"]
    assert run(made(tmp_path / "a.jsonl", questions=1), *words) == 0
    assert "in 1 of 1 requests the verifier failed" in capsys.readouterr().out


@pytest.mark.skipif("TEST_POOLS" not in os.environ, reason="TEST_POOLS is no folder of recorded samples")
def test_a_full_vote_over_real_samples_is_as_good_as_is_known(tmp_path: Path) -> None:
    """gpt-oss-20b on AIME 2024: a majority of 32 is right in 90.8 % of all orders, one chain in 70 to 80 %."""
    pool = Path(os.environ["TEST_POOLS"]) / "aime2024-gpt-oss-20b.jsonl"
    setups = ["direct", "majority_vote:n=32:mode=rounds"]
    direct, votes = told(tmp_path, pool, "--strategies", *setups, "--draws", 2)
    assert 88 <= votes["right"]["value"] <= 94
    assert 65 <= direct["right"]["value"] <= 85
    assert votes["steps"]["value"] > direct["steps"]["value"]


def test_every_command_that_wants_the_server_says_so_where_it_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")}
    assert {name for name in listed if name.isalpha()} >= set(OF_THE_SERVER)
    assert {"replay", "compare", "record", "calibrate", "export"} <= set(OF_THE_SERVER)
