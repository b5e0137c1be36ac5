"""The documents as tests read them: their blocks of code, their links and their headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n)+")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, the file it is the text of (or ""), and its text."""

    language: str
    title: str
    text: str
    line: int


@dataclass(frozen=True)
class Page:
    """One document."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(found[1], found[2] or "", found[3], self.text.count("\n", 0, found.start()) + 1)
            for found in _FENCE.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return _FENCE.sub("", self.text)

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(command, what is printed behind it) of all shell blocks, lines that go on put together."""
        found: list[tuple[str, str]] = []
        for block in self.blocks:
            if block.language == "console":
                for piece in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                    command, _, printed = piece.replace("\\\n", " ").partition("\n")
                    found.append((command, printed))
        for block in _INDENTED.findall(self.prose):
            lines = re.sub(r"\\\n", " ", block).splitlines()
            found.extend((re.sub(r"\s+#.*", "", line).strip(), "") for line in lines)
        return found

    @cached_property
    def anchors(self) -> set[str]:
        """The names GitHub gives the headings."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(self.prose))
        return {heading.strip().replace(" ", "-") for heading in plain}

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)


PAGES = [
    Page(path)
    for path in sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md"), *ROOT.glob("examples/*.md")]
    )
]
"""All documents of the repository."""
