"""The documents are true: their code runs, their links lead somewhere, the flags they name exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, Page
from tests.plugins import Newcomer

NEWCOMERS = [page for page in PAGES if page.path.name.startswith("write-a")]
SERVERS = ("ponder", "curl")
"""What a command of a page is that wants a server or a model: its flags are looked at, it is not run."""


def named(page: Page) -> str:
    return str(page.path.relative_to(ROOT))


@pytest.mark.parametrize("page", NEWCOMERS, ids=named)
def test_a_newcomers_page_works_word_for_word(page: Page, tmp_path: Path) -> None:
    newcomer = Newcomer(tmp_path, page)
    printed = [block.text for block in page.blocks if block.language == "text"]
    for block in page.blocks:
        if block.language == "python" and not block.title:
            assert newcomer.python("-c", block.text) == printed.pop(0)
    assert not printed
    ran: set[str] = set()
    for command, output in page.commands:
        words = shlex.split(command)
        if words[0] == "pytest":
            assert re.search(r"\b\d+ passed", newcomer.run(*words, "-p", "no:cacheprovider"))
        elif words[0] == "python":
            assert newcomer.python(*words[1:]) == output
        else:
            assert words[0] in SERVERS or words[:2] == ["pip", "install"], f"{named(page)}: {command} is not tried"
        ran.add(words[0])
    assert "pytest" in ran


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_of_code_are_what_they_say(page: Page) -> None:
    for block in page.blocks:
        where = f"{named(page)}, line {block.line}"
        try:
            match block.language:
                case "python":
                    ast.parse(block.text)
                case "json":
                    json.loads(block.text)
                case "toml":
                    tomllib.loads(block.text)
                case _:
                    assert block.language in ("", "text", "console"), f"{where}: no test for {block.language}"
        except (SyntaxError, ValueError) as error:
            pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{named(page)}: {link}"
        if anchor:
            assert anchor in Page(target).anchors, f"{named(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_that_are_named_exist(page: Page) -> None:
    """Paths in code type, of folders of ours."""
    for path in re.findall(r"`((?:[a-z_]+/)+[\w.-]+\.(?:py|md|toml|txt))`", page.prose):
        if (ROOT / path.split("/")[0]).is_dir():
            assert (ROOT / path).exists(), f"{named(page)}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_that_are_named_exist(page: Page) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.prose):
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), (
            f"{named(page)}: {test}"
        )


@cache
def flags(*subcommand: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ponder", *subcommand, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


COMMANDS = "serve|doctor|ask|usage|compare|replay|export|keys new|ledger [a-z]+|receipt verify"
"""Of which a document shows flags."""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_their_flags_exist(page: Page) -> None:
    shown = [command for command, _ in page.commands] + re.findall(r"`([^`\n]+)`", page.prose)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in shown:
        where = f"{named(page)}: {command}"
        commands = "serve|doctor|ask|usage|compare|record|replay|export|keys new|ledger [a-z]+|receipt verify"
        for found in re.finditer(rf"(?:^|[\s/])ponder ((?:{commands})\b.*)", command):
            words = found[1].split()
            known = flags(*(words[:2] if words[0] in ("keys", "ledger", "receipt") else words[:1]))
            for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", found[1]):
                assert re.search(rf"{flag}\b(?!-)", known), f"{where}: no {flag}"
        for target in re.findall(r"^make ([a-z]+)", command):
            assert target in targets, where
        for module in re.findall(r"python (?:-m )?(bench[./]\w+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), where
