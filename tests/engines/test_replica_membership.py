"""Who belongs to a pool: what is read of a file or a name, and what changes nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ponder.engines.replicas.membership import InDns, InFile, Listed, Together, address
from ponder.testing import in_virtual_time


def read(source: Any) -> Sequence[str] | None:
    return asyncio.run(source.read())


def put(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, file)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "replicas"
    source = InFile(file)
    put(file, "# the first\nhttp://a:1\n\nhttp://b:2/v1/  # the second\n")
    assert read(source) == ["http://a:1", "http://b:2"]
    assert read(source) is None
    put(file, "http://b:2\n")
    assert read(source) == ["http://b:2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no address in it"),
        ("# none\n", "there is no address in it"),
        ("http://a:1\nb:2\n", "line 2: the address of a replica is http://host:port or https://host:port"),
        ("http://me:secret@a:1", "line 1: the key of a replica is set beside its address, not in it"),
        ("http://a:99999", "line 1: the address of a replica is"),
    ],
)
def test_a_file_that_is_broken_changes_nothing_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, words: str
) -> None:
    file = tmp_path / "replicas"
    source = InFile(file)
    put(file, "http://a:1\n")
    assert read(source) == ["http://a:1"]
    put(file, text)
    with caplog.at_level(logging.ERROR):
        assert read(source) is None
        assert read(source) is None
    assert [words in record.message for record in caplog.records] == [True]
    assert "secret" not in caplog.text
    file.unlink()
    assert read(source) is None
    put(file, "http://c:3\n")
    assert read(source) == ["http://c:3"]


def test_a_name_is_each_of_its_addresses(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [
        [("10.0.0.2", 80), ("10.0.0.1", 80), ("10.0.0.1", 80), ("fd00::1", 80, 0, 0)],
        socket.gaierror(-2, "Name or service not known"),
        [],
        [("10.0.0.3", 80)],
    ]

    class Loop(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
            assert (host, port) == ("vllm", 8001)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in answer]

    source = InDns("http://vllm:8001")
    with asyncio.Runner(loop_factory=Loop) as runner:
        found = [runner.run(source.read()) for _ in range(4)]
    assert found == [
        ["http://10.0.0.1:8001", "http://10.0.0.2:8001", "http://[fd00::1]:8001"],
        None,
        None,
        ["http://10.0.0.3:8001"],
    ]
    assert "Name or service not known" in caplog.text


def test_sources_together_are_all_of_them_and_one_that_is_away_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "replicas"
    put(file, "http://b:1\n")
    source = Together([Listed(["http://a:1"]), InFile(file)])
    assert read(source) == ["http://a:1", "http://b:1"]
    put(file, "")
    assert read(source) == ["http://a:1", "http://b:1"]
    put(file, "http://c:1\n")
    assert read(source) == ["http://a:1", "http://c:1"]


def test_nobody_is_nobody() -> None:
    assert in_virtual_time(Listed([]).read()) is None
    assert address(" https://a:1/v1/ ") == "https://a:1"
