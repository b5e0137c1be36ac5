"""What the Dockerfile copies is there and reaches the build, and what it runs is what a checkout runs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.from_path import from_path
from tests.test_architecture import ROOMS, ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def copied() -> list[tuple[list[str], str]]:
    """What each `COPY` from the checkout takes, and where it puts it."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [(words[:-1], words[-1]) for words in map(str.split, lines)]


def kept() -> set[str]:
    """The patterns `.dockerignore` lets through; it begins by leaving everything out."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    assert lines[0] == "**"
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def test_what_is_copied_is_there_and_keeps_its_place() -> None:
    for sources, target in copied():
        for source in sources:
            assert (ROOT / source).exists(), source
            assert (ROOT / source).is_file() if target == "./" else target == source, source


def test_what_is_copied_is_let_through() -> None:
    for sources, _ in copied():
        for source in sources:
            assert source in kept() or f"{source}/*.py" in kept(), source


def test_every_room_and_whatever_installing_needs_is_copied() -> None:
    there = {source for sources, _ in copied() for source in sources}
    assert ROOMS.keys() <= there
    links = {link.name for link in (ROOT / "ponder").iterdir() if link.is_symlink()}
    assert links <= there
    assert {"pyproject.toml", "README.md", "LICENSE", "tools"} <= there


def test_what_is_run_is_there() -> None:
    commands = re.findall(r"python3 (\S+/install\.py) (\w+)\b", DOCKERFILE, re.MULTILINE)
    assert {extra for _, extra in commands} == {"cpu", "gpu", "server", "console"}
    assert DOCKERFILE.count("python -m compileall") == len(commands)
    for script, extra in commands:
        wanted = from_path("its_installer", ROOT / script).wanted_packages([extra])
        assert wanted[-2:] == ["--editable", f".[{extra}]"]
        held = [Path(wanted[at + 1]) for at, word in enumerate(wanted) if word.endswith("constraint")]
        assert held
        assert all(file.is_file() for file in held)


def test_stages_are_built_from_stages_that_are_there_and_ports_agree() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= set(stages)
    assert {"cpu", "gpu", "door", "console"} <= set(stages)
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == re.findall(
        r"127\.0\.0\.1:(\d+)/(?:livez|login)", DOCKERFILE
    )
