"""Pages of `docs/` of which a tool writes the parts between two comments; what is around them is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def placed(page: str, file: Path, begin: str, end: str, lines: Iterable[str]) -> str:
    """The text of a page with these lines between two comments, of which `begin` ends its line. Raises `SystemExit`
    where they are not there; `file` is what it calls the page."""
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{file}: there is no {begin.strip()} ... {end}")
    return before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


def write(file: Path, made: Callable[[str], str], arguments: Sequence[str]) -> int:
    """Writes a page as it is to be; with `--check` it says whether that would change it."""
    page = file.read_text(encoding="utf-8")
    now = made(page)
    if "--check" in arguments:
        return int(now != page)
    file.write_text(now, encoding="utf-8")
    return 0
