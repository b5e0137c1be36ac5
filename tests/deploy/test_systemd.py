"""The units are as systemd takes them, and what they and the page about them say of the programs is true."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ponder.__main__ import parser
from ponder.metering.database import state_folder
from ponder.server import made
from ponder.server.ending import AFTER
from ponder.server.settings import Settings
from tests.deploy.programs import unknown_to_vllm
from tests.test_architecture import ROOT

HERE = ROOT / "deploy" / "systemd"
PAGE = (ROOT / "docs" / "plain-host.md").read_text()
SECONDS = {"": 1, "s": 1, "min": 60}


def unit(name: str) -> dict[str, list[str]]:
    """The values of each setting, in whichever section."""
    found = defaultdict[str, list[str]](list)
    for line in (HERE / name).read_text().splitlines():
        if re.match(r"\w+=", line):
            setting, _, value = line.partition("=")
            found[setting].append(value)
    return found


def command(name: str) -> list[str]:
    (line,) = unit(name)["ExecStart"]
    return shlex.split(line)


def seconds(name: str, setting: str) -> int:
    ((number, what),) = re.findall(r"^(\d+)(\w*)$", unit(name)[setting][0])
    return int(number) * SECONDS[what]


def test_systemd_takes_them(tmp_path: Path) -> None:
    """With a program that is here in place of those that they start."""
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("systemd-analyze is not here")
    for file in HERE.iterdir():
        if file.suffix in (".service", ".socket"):
            (tmp_path / file.name).write_text(re.sub(r"/opt/\S+/bin/\w+", sys.executable, file.read_text()))
    units = ["ponder.service", "ponder.socket", "vllm@0.service"]
    (tmp_path / "vllm@0.service").write_text((tmp_path / "vllm@.service").read_text())
    run = subprocess.run(
        [systemd, "verify", "--man=no", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_what_they_start_takes_these_flags() -> None:
    program, *words = command("ponder.service")
    assert program == "/opt/ponder/current/bin/ponder"
    assert parser(words).parse_args(words).config == "/etc/ponder/ponder.toml"
    program, subcommand, *words = command("vllm@.service")
    assert (program, subcommand, words[0], words[-1]) == ("/opt/vllm/bin/vllm", "serve", "$MODEL", "$ARGS")
    assert not unknown_to_vllm(words)


def test_a_door_has_the_time_to_drain() -> None:
    assert seconds("ponder.service", "TimeoutStopSec") > Settings().drain_timeout + AFTER
    assert unit("ponder.service")["Type"] == ["notify"]
    assert unit("ponder.service")["Requires"] == ["ponder.socket"]


def test_the_address_is_the_usual_one() -> None:
    settings = Settings()
    assert unit("ponder.socket")["ListenStream"] == [f"{settings.host}:{settings.port}"]


def test_what_is_kept_is_kept_where_the_units_let_it_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found = unit("ponder.service")
    for pair in found["Environment"][0].split():
        monkeypatch.setenv(*pair.split("=", 1))
    assert state_folder() == Path("/var/lib", *found["StateDirectory"])
    assert made.cache() == Path("/var/cache", *found["CacheDirectory"])
    assert found["ProtectSystem"] == ["strict"]


def test_users_are_made() -> None:
    made_ = {line.split()[1] for line in (HERE / "ponder.conf").read_text().splitlines() if line.startswith("u ")}
    assert made_ == {unit(name)["User"][0] for name in ("ponder.service", "vllm@.service")}


def test_the_page_names_commands_files_and_paths_that_are_there() -> None:
    lines = re.findall(r"/opt/ponder/current/bin/ponder (.+)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert parser(shlex.split(line)).parse_args(shlex.split(line))
    (replicas,) = re.findall(r"^replicas = (\[.*\])$", PAGE, re.MULTILINE)
    (port,) = re.findall(r"--port (\S+)", unit("vllm@.service")["ExecStart"][0])
    assert json.loads(replicas) == [f"http://127.0.0.1:{port.replace('%i', number)}" for number in ("0", "1")]
    for word in re.findall(r"deploy/systemd/\S+", PAGE):
        assert list(ROOT.glob(word.strip("`;"))), word
    for path in ("/etc/ponder/secrets.env", "/etc/ponder/ponder.toml", "/etc/vllm/vllm.env"):
        assert f"`{path}`" in PAGE
        assert any(path in file.read_text() for file in HERE.glob("*.service")), path
