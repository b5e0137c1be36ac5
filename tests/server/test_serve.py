"""`ponder serve` as it is run: the bundled model on the CPU, asked by the OpenAI SDK, ended by a signal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai.types.chat import ChatCompletion

from ponder.engines.launch import EngineOptions
from ponder.server.serve import options_of
from ponder.server.settings import EngineSettings, ModelSettings, RewardEngineSettings, WrongSettings
from tests import needs

ROOT = Path(__file__).parent.parent.parent
QUESTION = "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"
READY = re.compile(r"^ponder: serving \w+ at (http://127\.0\.0\.1:\d+) ", re.MULTILINE)

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ [\w.]+: ")
"""A line of the log, whoever wrote what is in it."""


@contextmanager
def ponder_serve(
    folder: Path, *more: str, environment: Mapping[str, str] | None = None
) -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its address, once the ready line is out. `more` on its command line and in its environment."""
    given = {k: v for k, v in os.environ.items() if not k.startswith("PONDER_")} | {"PYTHONPATH": str(ROOT)}
    given |= environment or {}
    command = [sys.executable, "-m", "ponder", "serve", "--port", "0", *more]
    told, log = folder / "stdout", folder / "stderr"
    with (
        told.open("wb") as out,
        log.open("wb") as err,
        subprocess.Popen(command, cwd=folder, env=given, stdout=out, stderr=err) as process,
    ):
        try:
            end = time.monotonic() + 400
            while (ready := READY.search(told.read_text())) is None:
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < end, log.read_text()[-4000:]
                time.sleep(0.1)
            yield process, ready[1]
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


def test_a_gpu_is_shared_between_a_model_and_a_reward_model_beside_it() -> None:
    def shares(cpu: bool = False, prm: str = "p", **settings: Any) -> tuple[float | None, float | None]:
        own, beside = options_of(ModelSettings(path="m", prm=prm, **settings), cpu=cpu)
        return own.gpu_memory_utilization, beside.gpu_memory_utilization

    assert shares() == (0.7, 0.22)
    assert shares(prm_engine=RewardEngineSettings(gpu_memory_utilization=0.4)) == (0.52, 0.4)
    assert shares(engine=EngineSettings(gpu_memory_utilization=0.6)) == (0.6, 0.22)
    assert shares(prm="http://judge:8001") == (None, None)
    assert shares(cpu=True) == (None, None)
    with pytest.raises(WrongSettings, match=r"0\.3 for the reward model p does not leave 0\.8 for m"):
        shares(
            engine=EngineSettings(gpu_memory_utilization=0.8),
            prm_engine=RewardEngineSettings(gpu_memory_utilization=0.3),
        )
    with pytest.raises(WrongSettings, match="does not leave anything for m"):
        shares(prm_engine=RewardEngineSettings(gpu_memory_utilization=0.95))
    engine = EngineSettings(dtype="float16", seed=3, trust_remote_code=True, max_num_seqs=8)
    judge = RewardEngineSettings(trust_remote_code=False, kv_cache_memory_bytes=1 << 28)
    _, beside = options_of(ModelSettings(path="m", prm="p", engine=engine, prm_engine=judge), cpu=True)
    assert beside == EngineOptions(dtype="float16", seed=3, kv_cache_memory_bytes=1 << 28)


def inflight(url: str) -> int:
    return int(httpx.get(f"{url}/healthz", timeout=30).json()["inflight"])


def test_the_demo_is_served_from_the_ready_line_to_an_orderly_end(tmp_path: Path) -> None:
    with ponder_serve(tmp_path) as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
        assert next(model.id for model in client.models.list()) == "demo"

        def ask(**fields: Any) -> ChatCompletion:
            return client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": QUESTION}], extra_body=fields
            )

        answer = ask(thinking_budget=256)
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert 0 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) <= 256
        silent = ask(thinking_budget=0)
        assert silent.usage is not None
        assert silent.usage.completion_tokens_details is not None
        assert silent.usage.completion_tokens_details.reasoning_tokens == 0

        engine = httpx.get(f"{url}/metrics/engine", timeout=30).text
        assert "vllm:" in engine
        own = httpx.get(f"{url}/metrics", timeout=30).text
        assert "vllm:" not in own
        assert 'ponder_calls_waiting{model="demo",role="generator"} 0.0' in own

        prices = '[prices]\nversion = "later"\ndefault = {input = 0, thinking = 0, answer = 1000}\n'
        (tmp_path / "ponder.toml").write_text(prices)
        process.send_signal(signal.SIGHUP)
        while "changed: prices" not in (tmp_path / "stderr").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        dear = ask(thinking_budget=0)
        assert dear.usage is not None
        assert (dear.model_extra or {})["thinking"]["cost_usd"] == pytest.approx(dear.usage.completion_tokens / 1000)

        late: list[ChatCompletion] = []
        wishes = {"n": 16, "strategy": {"name": "majority_vote", "n": 16}, "thinking_budget": 40_000}
        asking = threading.Thread(target=lambda: late.append(ask(**wishes)))
        asking.start()
        while asking.is_alive() and not inflight(url):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert [len(one.choices) for one in late] == [16]
        assert process.wait(120) == 0, (tmp_path / "stderr").read_text()[-4000:]
    log = (tmp_path / "stderr").read_text()
    assert all(LINE.match(line) for line in log.splitlines()), log
    assert "apples" not in log


def test_a_signal_while_the_model_is_loading_ends_it_at_once(tmp_path: Path) -> None:
    log = tmp_path / "stderr"
    with log.open("wb") as err:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "ponder", "serve", "--port", "0"], cwd=tmp_path, env=environment, stderr=err
        )
        try:
            while "loading demo" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            time.sleep(1)
            process.terminate()
            assert process.wait(120) == 128 + signal.SIGTERM
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All that descend from it."""
    return psutil.Process(process.pid).children(recursive=True)


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def ended(processes: list[psutil.Process]) -> bool:
    """They end by themselves, soon. Those that do not are ended."""
    end = time.monotonic() + 30
    while any(map(runs, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [process for process in processes if runs(process)]
    for process in left:
        process.kill()
    return not left


def test_a_small_model_that_talks_is_served_by_its_name_and_its_engine_ends_with_a_server_that_is_killed(
    tmp_path: Path,
) -> None:
    needs.model("smollm2")
    with ponder_serve(tmp_path, "smollm2", environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}) as (process, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
        answer = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Name a fruit."}], max_completion_tokens=64, seed=1
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 64
        born = family(process)
        assert len(born) >= 2, "the engine and its worker"
        process.kill()
        process.wait()
        assert ended(born)


def test_a_server_that_is_killed_while_it_loads_leaves_no_engine_behind(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    command = [sys.executable, "-m", "ponder", "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
        born: list[psutil.Process] = []
        try:
            while not any("spawn_main" in command_line(child) for child in born):
                assert process.poll() is None
                born = family(process)
                time.sleep(0.05)
        finally:
            process.kill()
    assert ended(born)
