"""The examples run as they stand: each asks one server that a test has started, gets its answer, is held to its budget,
and says what it cost."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ponder.server.auth.keys import digest
from ponder.server.settings import KeySettings, PriceBook, Settings
from ponder.testing.echo import EchoEngine
from tests.clients.serving import comes_true
from tests.conformance.environments import made_of
from tests.needs import npm_project, tool
from tests.pages import ROOT
from tests.server.serving import door, serving

EXAMPLES = ROOT / "examples"
QUESTION = "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"
BUDGET = 256
KEY = "pk-ann"
PRICES = {"input": 0.1, "thinking": 0.4, "answer": 0.4}
TOLD_IN_USD = ("anthropic_messages", "openai_chat", "openai_responses", "vercel_ai")
"""Whose clients hand on what a server adds to an answer."""


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """A server whose model thinks for longer than any example allows, and then repeats what it was asked."""
    settings = Settings(
        keys=[KeySettings(name="ann", hash=digest(KEY))],
        prices=PriceBook.model_validate({"version": "1", "default": PRICES}),
    )
    with serving(door(EchoEngine(thought="so " * BUDGET), settings)) as place:
        yield place.url


def printed(words: list[str], url: str, key: str = KEY) -> str:
    """What a program prints that is told where the server is."""
    environ = os.environ | {"PONDER_URL": url, "PONDER_API_KEY": key}
    ran = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def holds(told: str, *, usd: bool) -> None:
    """The answer, the hidden tokens of the budget, and what they cost."""
    answer, tokens, *cost = told.splitlines()
    assert answer == QUESTION
    assert tokens == f"{BUDGET} hidden tokens"
    if usd:
        assert re.fullmatch(r"0\.000[0-9]+ USD", cost.pop())
    assert not cost


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_in_python(url: str, name: str) -> None:
    python = made_of(EXAMPLES / "requirements.txt", "examples") / "bin" / "python"
    holds(printed([str(python), str(EXAMPLES / f"{name}.py")], url), usd=name in TOLD_IN_USD)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.mjs")))
def test_an_example_for_node(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "node_modules").symlink_to(npm_project(EXAMPLES / "package.json"))
    script = shutil.copy(EXAMPLES / f"{name}.mjs", tmp_path)
    holds(printed([tool("node", "nodejs"), str(script)], url), usd=name in TOLD_IN_USD)


def test_the_example_for_curl(url: str) -> None:
    tool("curl", "curl")
    answer = json.loads(printed(["sh", str(EXAMPLES / "curl.sh")], url))
    assert answer["choices"][0]["message"]["content"] == QUESTION
    assert answer["thinking"]["spent"] == answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == BUDGET
    assert answer["thinking"]["cost_usd"] > 0


@contextmanager
def litellm(url: str, master: str, folder: Path) -> Generator[str]:
    """The address of LiteLLM's proxy in front of a server; its clients have the key `master`."""
    command = made_of(EXAMPLES / "litellm-requirements.txt", "litellm") / "bin" / "litellm"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = f"http://127.0.0.1:{port}"
    environ = os.environ | {
        "PONDER_API_BASE": f"{url}/v1",
        "PONDER_API_KEY": KEY,
        "LITELLM_MASTER_KEY": master,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # It would be fetched.
    }
    words = [str(command), "--config", str(EXAMPLES / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w+") as log:
        proxy = subprocess.Popen(words, env=environ, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

        def answers() -> bool:
            assert proxy.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                return httpx.get(f"{place}/health/liveliness").is_success
            except httpx.TransportError:
                return False

        try:
            comes_true("LiteLLM's proxy", 240, answers)
            yield place
        finally:
            proxy.terminate()
            proxy.wait(60)


@pytest.mark.soak
def test_the_example_for_litellm(url: str, tmp_path: Path) -> None:
    """OpenAI's client speaks to the proxy as it does to the server: the budget and the cost go through. Left to `make
    soak`, for what it installs has 580 MB."""
    python = made_of(EXAMPLES / "requirements.txt", "examples") / "bin" / "python"
    master = f"sk-{secrets.token_hex(16)}"
    with litellm(url, master, tmp_path) as proxy:
        holds(printed([str(python), str(EXAMPLES / "openai_chat.py")], proxy, master), usd=True)
