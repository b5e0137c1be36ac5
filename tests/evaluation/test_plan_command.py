"""`ponder plan`: figures known beforehand, what is out of reach, what breaks first, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ponder.__main__ import OF_THE_SERVER, main
from ponder.engines.pools import RecordedQuestion, RecordedSample, line
from ponder.evaluation.planning import command as plan_command
from ponder.evaluation.planning.capacity import Database, Door

MODEL = "1:100,10:500"
"""Steps of 10 ms for one chain, of 20 ms for ten."""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *map(str, words)])
    return int(ended.value.code or 0)


def told(tmp_path: Path, *words: object) -> dict[str, Any]:
    file = tmp_path / "plan.json"
    assert run(*words, "--json", file) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_what_is_known_beforehand_comes_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Chains of 1,000 tokens: two seconds of a replica each. Ten a second are 20 seconds of work a second."""
    words = ["--arrivals", "10/s", "--model", MODEL, "--strategy", "direct", "--lengths", "1000,1000", "--prompt", 0]
    plan = told(tmp_path, *words, "--price", 3, "--requests", 2000)
    taken = {"tokens": 1000, "chains": 1, "counted": 1, "prompt": 0, "context": 500}
    assert plan["request"] == taken | {"replica_seconds": 2}
    assert (plan["replicas"], plan["load"], plan["cost_per_hour"]) == (25, 0.8, 75)
    assert (plan["doors"], plan["simulated_replicas"]) == (1, 16)
    assert 10 <= plan["simulated"]["latency"]["p50"] <= 21
    assert plan["door"]["busy"] == pytest.approx(10 * (Door().request_cpu + 1000 * Door().token_cpu))
    text = capsys.readouterr().out
    for words_of_it in (
        "replicas    25, at a load of 0.80; 0.83 while one is away",
        "at most 20 commits/s",
        "75.00 an hour",
    ):
        assert words_of_it in text


def test_a_plan_is_the_same_again_and_by_the_day_and_its_peak(tmp_path: Path) -> None:
    words = ["--model", MODEL, "--lengths", "300,900", "--strategy", "auto@0.2", "--strategy", "direct@0.8"]
    words += ["--requests", "300"]
    plan = told(tmp_path, *words, "--arrivals", "2")
    assert told(tmp_path, *words, "--arrivals", "2")["simulated"] == plan["simulated"]
    assert told(tmp_path, *words, "--arrivals", "2", "--seed", 1)["simulated"] != plan["simulated"]
    by_day = told(tmp_path, *words, "--arrivals", "86,400/day", "--peak", 2)
    assert (by_day["arrivals_per_second"], by_day["arrivals_per_second_at_peak"]) == (1, 2)
    assert (by_day["replicas"], by_day["simulated"]) == (plan["replicas"], plan["simulated"])
    assert set(plan["simulated"]["owners"]) == {"auto", "direct"}
    assert 1 < plan["request"]["chains"] < 32


def test_more_replicas_are_added_until_requests_are_quick_enough(tmp_path: Path) -> None:
    words = ["--arrivals", 4, "--model", MODEL, "--strategy", "direct", "--lengths", "1000,1000", "--requests", 400]
    least, quick = told(tmp_path, *words), told(tmp_path, *words, "--p95", 14)
    assert least["simulated"]["latency"]["p95"] > 14 >= quick["simulated"]["latency"]["p95"]
    assert quick["replicas"] > least["replicas"]


def test_what_no_fleet_can_do_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--arrivals", 4, "--model", MODEL, "--strategy", "direct", "--lengths", "1000,1000", "--requests", 300]
    assert run(*words, "--p95", 5) == 1
    said = capsys.readouterr().err
    assert "11 s on a replica that has nothing else to do: 5 s are out of reach" in said
    assert run(*words, "--replicas", 3) == 1
    said = capsys.readouterr().err
    assert "each 2 s of a replica, keep 8 replicas busy all the time: on 3 they would wait ever longer" in said


def test_a_fleet_that_is_too_small_for_reading_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It makes enough tokens, and has no time for them: words about tokens alone would not be true."""
    model = tmp_path / "model.json"
    model.write_text('{"tokens_per_second": {"1": 100}, "read_seconds": 0.01}')
    words = ["--arrivals", 1, "--model", model, "--strategy", "direct", "--lengths", "10,10", "--requests", 0]
    assert run(*words, "--prompt", 500, "--replicas", 2) == 1
    assert "each 5.1 s of a replica, keep 5.1 replicas busy" in capsys.readouterr().err


def test_what_breaks_first_is_named_and_what_is_too_small_already(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--arrivals", 4, "--model", MODEL, "--lengths", "1000,1000", "--requests", 0]
    assert run(*words, "--strategy", "direct") == 0
    assert "first       replicas: 80% used (add replicas)" in capsys.readouterr().out
    assert run(*words, "--strategy", "best_of_n:n=64", "--max-chains", 100) == 0
    text = capsys.readouterr().out
    assert "first       max_chains" in text
    assert "too small already: max_chains (raise max_chains, or add a door)" in text
    assert run(*words, "--strategy", "direct", "--database", 4) == 0
    assert "first       PostgreSQL: 100% used" in capsys.readouterr().out
    assert run(*words, "--strategy", "direct", "--door-request", 200) == 0
    assert "doors       2: 0.41 of a processor each" in capsys.readouterr().out


def test_a_budget_cuts_chains_and_feeds_fewer(tmp_path: Path) -> None:
    words = ["--arrivals", 1, "--model", MODEL, "--lengths", "1000,2000", "--requests", 0]
    direct = told(tmp_path, *words, "--strategy", "direct", "--budget", 500)
    assert direct["request"]["tokens"] <= 500
    few = told(tmp_path, *words, "--strategy", "best_of_n:n=16", "--budget", 12_000)
    assert few["request"]["chains"] == 4
    assert few["request"]["tokens"] <= 12_000


def test_a_model_of_a_file_and_chains_of_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, pool = tmp_path / "model.json", tmp_path / "pool.jsonl"
    model.write_text(
        json.dumps(
            {
                "name": "mine",
                "step_seconds": {"1": 0.01, "10": 0.02},
                "read_seconds": 0.001,
                "slots": 5,
                "lengths": {"p50": 7, "p90": 9},
                "price_per_hour": 2,
            }
        )
    )
    sample = RecordedSample(answer="7", tokens=1000)
    pool.write_text(line(RecordedQuestion(id="a", answer="7", samples=(sample,) * 8)))
    words = ["--arrivals", 1, "--model", model, "--pool", pool, "--strategy", "direct", "--requests", 0]
    plan = told(tmp_path, *words)
    step = 0.01 + 0.01 * 4 / 9
    assert plan["model"]["name"] == "mine"
    assert plan["request"]["tokens"] == 1000
    assert plan["request"]["replica_seconds"] == pytest.approx(1000 * step / 5 + 500 * 0.001)
    assert plan["cost_per_hour"] == 2 * plan["replicas"]
    assert "context" not in capsys.readouterr().out
    model.write_text(json.dumps(json.loads(model.read_text()) | {"context_seconds": 1e-6}))
    # A prompt of 500 tokens, and half of a chain of 1,000.
    longer = told(tmp_path, *words)["request"]["replica_seconds"] - plan["request"]["replica_seconds"]
    assert longer == pytest.approx(1000 * 1e-6 * 1000)
    assert "5 chains at once of 1,000 tokens of context each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arrivals", "5/week"], "'week' is no unit"),
        (["--arrivals", "many"], "'many' is no number above 0"),
        (["--arrivals", "1,5/s"], "'1,5' is no number above 0"),
        (["--model", "gpt"], "gpt is no file and no model that is known here (qwen2.5-7b-h100)"),
        (["--model", "1:100,x:5"], "'x' is no number of chains at once"),
        (["--model", "1:100,1.5:5"], "'1.5' is no number of chains at once"),
        (["--model", "1:100,8:0"], "'0' is no number above 0"),
        (["--model", "1:100,8:nan"], "'nan' is no number above 0"),
        (["--model", "1:100,8:9000"], "of one chain, or of all together?"),
        (["--lengths", "900,300"], "p90 300 is below p50 900"),
        (["--lengths", "900"], 'write {"p50": 800, "p90": 3700}'),
        (["--strategy", "guess"], "guess is no strategy"),
        (["--strategy", "beam_search"], "beam_search: how it draws is not modelled"),
        (["--strategy", "direct@0"], "'0' is no number above 0"),
        (["--load", "1"], "--load: 1.0 is no part of a replica's time"),
        (["--peak", "0.5"], "--peak: 0.5 is below 1"),
        (["--p95", "9", "--requests", "0"], "--p95 wants requests to be simulated"),
        (["--replicas", "0"], "--replicas: 0 is no number above 0"),
        (["--prompt", "-1"], "--prompt: -1 is below 0"),
        (["--json", "/no/such/folder/file"], "there can be no such file"),
        (["--pool", "/no/such/pool"], "No such file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_reckoned(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--arrivals", "1", "--model", MODEL, *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("ponder plan: ")
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{", "is no JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "one of tokens_per_second and step_seconds"),
        ('{"tokens_per_secnd": {}}', "no field 'tokens_per_secnd'; did you mean tokens_per_second?"),
        ('{"tokens_per_second": {}}', "there is nothing in it"),
        ('{"tokens_per_second": [1, 2]}', "tokens_per_second is no table"),
        ('{"step_seconds": {"1": 0.01, "01": 0.01}}', "1 stands there twice"),
        ('{"step_seconds": {"1": -1}}', "-1 is no number above 0"),
        ('{"step_seconds": {"1": true}}', "True is no number above 0"),
        ('{"step_seconds": {"1": 0.01}, "context_seconds": -1}', "context_seconds: -1 is no number above 0"),
        ('{"step_seconds": {"1": 0.01}, "slots": 1.5}', "slots: 1.5 is no whole number"),
        ('{"step_seconds": {"1": 0.01}, "lengths": {"p50": 3}}', "None is no number above 0"),
    ],
)
def test_a_wrong_table_of_a_model_is_told_by_its_field(
    tmp_path: Path, written: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.json"
    file.write_text(written)
    assert run("--arrivals", 1, "--model", file) == 2
    said = capsys.readouterr().err
    assert says in said
    assert str(file) in said


def test_help_says_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("tokens_per_second", "votes alone", "measured on two cores", "docs/scaling.md", "--arrivals"):
        assert words in said
    assert "plan" in OF_THE_SERVER
    assert 1e3 * Door().request_cpu == plan_command.REQUEST_MS
    assert pytest.approx(1e6 * Door().token_cpu) == plan_command.TOKEN_US
    assert f"({Database().requests}, as measured)" in said
