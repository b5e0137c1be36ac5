"""openai-python's own tests of its API, from its published source, pass against this server; what is not offered is
refused by name, and they fail in just that way. CI runs them over a test engine, `make soak` over the demo, too."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conformance.environments import environment, source
from tests.conformance.front import front
from tests.conformance.served import served
from tests.server.test_serve import ponder_serve

MODELS = ("gpt-6-astra", "gpt-3.5-turbo-instruct")
"""The models that the tests ask for."""


@dataclass(frozen=True)
class Refused:
    """How tests end that ask for what is not offered."""

    error: str
    """The SDK's class."""
    words: str
    """What the message says."""

    def fits(self, message: str) -> bool:
        return self.error in message and self.words in message


@dataclass(frozen=True)
class Group:
    """Tests of a file that come out alike."""

    names: str
    """A regular expression of their names."""
    count: int
    """How many there are, over all kinds of clients (synchronous and not, strict and not, aiohttp)."""
    refused: Refused | None = None
    """None: they pass."""


@dataclass(frozen=True)
class Suite:
    """One file of the tests. The first group that has a test's name counts."""

    file: str
    groups: Sequence[Group]


NOT_INCLUDED = Refused("BadRequestError", "include may name reasoning.encrypted_content")
NO_MODEL = Refused("NotFoundError", "no such model")
NO_ROUTE = Refused("NotFoundError", "there is no such route")
NO_METHOD = Refused("APIStatusError", "this route does not take this method")
SUITES = (
    Suite(
        "chat/test_completions.py",
        (
            Group("test_method_create_with_all_params", 10, Refused("BadRequestError", "audio is not supported")),
            Group("test_(method|raw_response|streaming_response)_create", 30),
            Group("test_path_params|test_create_disallows_pydantic", 15),
            Group("test_(method|raw_response|streaming_response)_list", 20, NO_METHOD),
            Group("test_(method|raw_response|streaming_response)_(retrieve|update|delete)", 45, NO_ROUTE),
        ),
    ),
    Suite(
        "test_completions.py",
        (Group("test_(method|raw_response|streaming_response)_create", 40),),
    ),
    Suite(
        "test_responses.py",
        (
            Group("test_method_create_with_all_params", 10, Refused("BadRequestError", "background_options is not")),
            Group("test_method_retrieve_with_all_params", 10, NOT_INCLUDED),
            Group("test_(method|raw_response|streaming_response)_create", 30),
            Group("test_(method|raw_response|streaming_response)_(retrieve|delete|cancel)", 60),
            Group("test_path_params|test_parse_method_in_sync", 20),
            Group("test_(method|raw_response|streaming_response)_compact", 20, NO_METHOD),
        ),
    ),
    Suite(
        "responses/test_input_items.py",
        (
            Group("test_method_list_with_all_params", 5, NOT_INCLUDED),
            Group("test_(method|raw_response|streaming_response)_list", 15),
            Group("test_path_params", 5),
        ),
    ),
    Suite(
        "responses/test_input_tokens.py",
        (
            Group("test_method_count_with_all_params", 5, Refused("BadRequestError", "conversation is not supported")),
            Group("test_(method|raw_response|streaming_response)_count", 15),
        ),
    ),
    Suite(
        "test_models.py",
        (
            Group("test_(method|raw_response|streaming_response)_(retrieve|list)", 30),
            Group("test_path_params", 10),
            Group("test_(method|raw_response|streaming_response)_delete", 15, NO_MODEL),
        ),
    ),
)
ON_THE_DEMO = (
    *(one for one in SUITES if one.file in ("chat/test_completions.py", "test_responses.py", "test_models.py")),
    Suite(
        "test_completions.py",
        (
            Group("test_method_create_with_all_params", 10, Refused("BadRequestError", "suffix is not supported")),
            Group("test_(method|raw_response|streaming_response)_create", 30),
        ),
    ),
)
"""Its vocabulary has no tokens to fill in a middle."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(*MODELS) as url, front(url, MODELS[0]) as address:
        yield address


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`ponder serve demo` under the names that these tests ask for."""
    folder = tmp_path_factory.mktemp("demo")
    settings = {"PONDER_ALIASES": json.dumps(MODELS), "XDG_STATE_HOME": str(folder)}
    with ponder_serve(folder, "demo", environment=settings) as (_, url), front(url, MODELS[0]) as address:
        yield address


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.file)
def test_its_own_tests_come_out_as_the_table_says(suite: Suite, address: str, tmp_path: Path) -> None:
    judge(suite, address, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("suite", ON_THE_DEMO, ids=lambda suite: suite.file)
def test_they_come_out_so_over_a_real_engine(suite: Suite, demo: str, tmp_path: Path) -> None:
    judge(suite, demo, tmp_path)


def judge(suite: Suite, address: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    python = environment("openai-python") / "bin" / "python"
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "-q", "--tb=line", f"--junit-xml={report}"]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, f"tests/api_resources/{suite.file}"],
        cwd=source("openai-python", "openai"),
        env={**os.environ, "TEST_API_BASE_URL": f"{address}/v1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(told(report))
    counts = dict.fromkeys(suite.groups, 0)
    for name, message in found:
        group = next((group for group in suite.groups if re.match(group.names, name)), None)
        assert group is not None, f"the table has no row for {name}"
        kept = message is None if group.refused is None else message is not None and group.refused.fits(message)
        assert kept, f"{name}: {message}"
        counts[group] += 1
    assert counts == {group: group.count for group in suite.groups}, done.stdout[-2000:]


def told(report: Path) -> Iterator[tuple[str, str | None]]:
    """(name, what failed or None) of each test. One that was skipped has failed here."""
    for case in ElementTree.parse(report).iter("testcase"):
        bad = [one for one in case if one.tag in ("failure", "error", "skipped")]
        yield case.attrib["name"], f"{bad[0].attrib.get('message')} {bad[0].text}" if bad else None
