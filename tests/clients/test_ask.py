"""`ponder ask` as a process of its own, against a real server over a scripted engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from ponder.clients.client import Client
from ponder.testing import MARKER, Chain, ScriptedEngine, always
from tests.clients.serving import comes_true, serving

ROOT = Path(__file__).parent.parent.parent
THOUGHT = f"12 and 7 {MARKER}"
ANSWER = "The answer is 19."


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As for what a shell has begun in the background; children would ignore it too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PONDER_")}
    return subprocess.Popen(
        [sys.executable, "-m", "ponder", "ask", *arguments],
        env=environment | {"PYTHONPATH": str(ROOT), "PONDER_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_answer_goes_to_standard_output_and_the_counts_to_standard_error() -> None:
    with (
        serving(ScriptedEngine(always(Chain(THOUGHT, ANSWER)))) as url,
        start(url, "12 + 7?", "--budget", "256") as asked,
    ):
        out, err = asked.communicate(timeout=120)
    assert (asked.returncode, out) == (0, f"{ANSWER}\n")
    assert err == f"thought {len(THOUGHT) + 1} of 256 tokens, answered {len(ANSWER)}; direct, finished\n"


def test_a_budget_that_binds_and_a_strategy_are_told() -> None:
    engine = ScriptedEngine(always(Chain(THOUGHT, ANSWER)))
    with (
        serving(engine) as url,
        start(url, "?", "--budget", "5", "--strategy", "direct", "--model", "scripted") as asked,
    ):
        out, err = asked.communicate(timeout=120)
    assert (asked.returncode, out) == (0, f"{ANSWER}\n")
    assert err == f"thought 5 of 5 tokens, answered {len(ANSWER)}; direct, budget\n"


def test_what_it_costs_is_told_beside_what_it_may() -> None:
    engine = ScriptedEngine(always(Chain(THOUGHT * 20, ANSWER)))
    with (
        serving(engine, price={"input": 1, "thinking": 2}) as url,
        start(url, "12 + 7?", "--max-cost", "0.0002", "--strategy", "direct") as asked,
        Client(url) as client,
    ):
        out, err = asked.communicate(timeout=120)
        thinking = client.chat("12 + 7?", max_cost_usd=0.0002, strategy="direct").thinking
    assert (asked.returncode, out) == (0, f"{ANSWER}\n")
    assert thinking.cost_usd is not None
    assert thinking.cost_usd <= 0.0002 == thinking.max_cost_usd
    assert err.endswith(f"; direct, cost; {thinking.cost_usd:f} of 0.0002 USD\n")


def test_an_error_is_told_in_the_servers_words_with_a_status() -> None:
    with (
        serving(ScriptedEngine(always(Chain(THOUGHT, ANSWER)))) as url,
        start(url, "?", "--strategy", "no_such") as asked,
    ):
        out, err = asked.communicate(timeout=120)
    assert (asked.returncode, out) == (1, "")
    assert err.startswith("ponder: ")
    assert "strategy" in err


def test_text_is_printed_as_it_is_written_and_ctrl_c_hangs_up() -> None:
    engine = ScriptedEngine(always(Chain("x" * 20, "y" * 100_000)), delay=0.02)
    with serving(engine) as url, start(url, "?", "--budget", "100") as asked:
        assert asked.stdout is not None
        assert asked.stdout.read(5) == "yyyyy"
        assert engine.running == 1
        asked.send_signal(signal.SIGINT)
        _, err = asked.communicate(timeout=60)
        assert (asked.returncode, err) == (130, "\nponder: hung up\n")
        comes_true("the model has stopped", 60, lambda: engine.running == 0)
        assert engine.produced < 50_000
