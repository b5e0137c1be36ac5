"""A file that outlives the process that fills it: a line of JSON for each thing that is done, beside what was planned.

A line is on the disk before it counts. So a run that was killed goes on where it stopped, and does nothing twice but
what was under way.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast


class WrongJournal(Exception):
    """A file that cannot be gone on with; the message says why and what to do."""


class Journal:
    """The journal of one run, for this process alone. `lines` has all lines of its file `path`, oldest first; what was
    planned is kept in the file `beside`.

    Raises `WrongJournal` where that is something else than `planned`, or the file is no journal or in use.
    """

    def __init__(self, path: Path, beside: Path, planned: Mapping[str, Any]) -> None:
        self._path, self._beside = path, beside
        self._writing = asyncio.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise WrongJournal(f"{path} cannot be written to: {error}") from error
        try:
            self._lock()
            self._agree(planned)
            self.lines = self._whole_lines()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    async def add(self, line: Mapping[str, Any]) -> None:
        """Appends a line. It is on the disk when this returns."""
        data = json.dumps(line).encode() + b"\n"
        async with self._writing:
            await asyncio.to_thread(self._append, data)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongJournal(
                f"{self._path} is in use by another process: wait for it, or name another --out"
            ) from None

    def _agree(self, planned: Mapping[str, Any]) -> None:
        """What is planned is what was planned when the folder was new."""
        if not self._beside.exists():
            if self._path.stat().st_size:
                raise WrongJournal(f"{self._path} is there, and no {self._beside.name} beside it: name another --out")
            _write_whole(self._beside, json.dumps(planned, indent=2) + "\n")
            return
        try:
            before = json.loads(self._beside.read_text())
        except ValueError as error:
            raise WrongJournal(f"{self._beside} is no JSON ({error}): name another --out") from error
        # As JSON both: it has no tuples.
        now = json.loads(json.dumps(planned))
        told = cast("dict[str, Any]", before) if isinstance(before, dict) else {}
        other = [name for name in {**told, **now} if told.get(name) != now.get(name)]
        if other:
            changes = "; ".join(
                f"{name} was {_short(told.get(name))}, now it is {_short(now.get(name))}" for name in other
            )
            raise WrongJournal(f"{self._path} holds another run ({changes}): name another --out, or ask as before")

    def _whole_lines(self) -> list[dict[str, Any]]:
        """All lines; one that was being written when the process ended is taken out again."""
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        lines: list[dict[str, Any]] = []
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise WrongJournal(f"{self._path}, line {number} is no JSON: name another --out") from error
            if not isinstance(found, dict):
                raise WrongJournal(f"{self._path}, line {number} is no JSON object: name another --out")
            lines.append(cast("dict[str, Any]", found))
        return lines


def _write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _short(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 100 else text[:97] + "..."
