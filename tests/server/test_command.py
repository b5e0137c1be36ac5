"""The `ponder` command, run as people run it: in a process of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from ponder.server.auth import keys
from ponder.server.auth.keys import Keyring
from ponder.server.dialects import DEFAULT as OPENAI
from ponder.server.settings import KeySettings

ROOT = Path(__file__).parent.parent.parent


def ponder(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command's status and what it said, from an empty folder and without settings of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PONDER_")}
    return subprocess.run(
        [sys.executable, "-m", "ponder", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def test_it_tells_its_version(tmp_path: Path) -> None:
    done = ponder(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"ponder {version('ponder-server')}\n")


def test_every_flag_of_serve_is_explained(tmp_path: Path) -> None:
    done = ponder(tmp_path, "serve", "--help")
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    for flag in ("MODEL", "--host", "--port", "--config", "--prm", "--thinking-budget"):
        assert flag in words
    assert "0 chooses a free one and prints it" in words


def test_a_new_key_is_shown_once_and_its_table_is_what_the_server_takes(tmp_path: Path) -> None:
    done = ponder(tmp_path, "keys", "new", "alice", "--scopes", "infer,reveal")
    assert done.returncode == 0
    secret, _, table = done.stdout.partition("\n")
    assert secret not in table
    settings = [KeySettings(**key) for key in tomllib.loads(table)["keys"]]
    assert settings[0].hash == keys.digest(secret)
    key = Keyring(settings).who(OPENAI.key({"authorization": f"Bearer {secret}"}), OPENAI.key_hint)
    assert (key.name, key.scopes, key.max_thinking_budget) == ("alice", {"infer", "reveal"}, None)


def test_a_new_key_may_have_a_highest_budget(tmp_path: Path) -> None:
    done = ponder(tmp_path, "keys", "new", "alice", "--max-thinking-budget", "2048")
    assert done.returncode == 0
    secret, _, table = done.stdout.partition("\n")
    settings = [KeySettings(**key) for key in tomllib.loads(table)["keys"]]
    assert (
        Keyring(settings).who(OPENAI.key({"authorization": f"Bearer {secret}"}), OPENAI.key_hint).max_thinking_budget
        == 2048
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "new", "a", "--scopes", "infr"], "--scopes 'infr': should be 'infer', 'usage'"),
        (["keys", "new", "a b"], "NAME 'a b'"),
        (["keys", "new", "a", "--max-thinking-budget", "-1"], "--max-thinking-budget -1: should be greater than"),
        (["serve", "--host", "0.0.0.0"], "Make a key with `ponder keys new NAME`"),
        (["serve", "--port", "http"], "command line: port 'http'"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml: there is no such file"),
        (["serve", "--strategy", "dirct"], "there is no such strategy; did you mean direct?"),
        (["serve", "--verifier", "zzz"], "there is no such verifier"),
        (["serve", "--verifier", "prm"], "verifier prm (of model demo): it judges by a process reward model, and none"),
        (["serve", "--config", "wrong.toml"], "strategy best_of_n (of model demo): strategy.m: there is no such param"),
        (
            ["serve", "--config", "judge.toml"],
            "prm_profile.name 'skywrk': there is no such family; did you mean skywork?",
        ),
        (["ask", "why?", "--budget", "much"], '--budget much: a number of tokens, or "auto"'),
        (["sreve"], "invalid choice: 'sreve'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "wrong.toml").write_text('strategy = { name = "best_of_n", m = 4 }')
    (tmp_path / "judge.toml").write_text('prm_profile = "skywrk"')
    done = ponder(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_port_that_is_taken_is_said_to_be_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = ponder(tmp_path, "serve", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken by another program" in done.stderr
    assert "--port 0" in done.stderr
    assert "loading" not in done.stderr


def test_a_model_that_is_nowhere_is_said_to_be(tmp_path: Path) -> None:
    done = ponder(tmp_path, "serve", "./nothing", "--port", "0")
    assert done.returncode == 1
    assert "./nothing: no such folder, no bundled model (there is demo" in done.stderr


def test_a_hub_id_that_is_not_cached_is_told_offline_without_a_traceback(tmp_path: Path) -> None:
    done = ponder(tmp_path, "serve", "owner/name", "--port", "0", HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ponder: model 'owner/name' is neither a folder here nor can it be had from the hub")
    assert "download it and give its folder" in last
    assert "Traceback" not in done.stderr


def test_asking_where_nobody_serves_says_so(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = ponder(tmp_path, "ask", "why?", PONDER_URL=url)
    assert done.returncode == 1
    assert f"no server answers at {url}: is `ponder serve` running there?" in done.stderr


def test_the_doctor_finds_a_missing_model_and_nothing_else_missing_here(tmp_path: Path) -> None:
    done = ponder(tmp_path, "doctor", "./nothing", "--port", "0")
    assert done.returncode == 1, done.stderr
    assert "missing  ./nothing: no folder ./nothing, and it is no hub id\n         mend: " in done.stdout
    assert re.search(r"^1 of \d+ checks want mending$", done.stdout, re.MULTILINE), done.stdout
