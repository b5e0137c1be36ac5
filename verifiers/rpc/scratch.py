"""Keeps the scratch folders of the two sandboxes equal."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCRATCH = "/tmp"  # noqa: S108 - the sandbox's own
SMALL_FILE = 2**16


class Scratch:
    """The scratch folder of this side. A program can read the files that a test writes, and the other way round."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def now(self) -> dict[str, Any]:
        """What is in the folder, by path: None for a folder, else a value that changes when the file does."""
        found: dict[str, Any] = {}
        folders = [SCRATCH]
        for folder in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    path = entry.path.removeprefix(f"{SCRATCH}/")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        found[path] = None
                    elif entry.is_file(follow_symlinks=False):
                        found[path] = self.state(entry.path)
        return found

    def state(self, path: str) -> Any:
        status = os.stat(path)
        if status.st_size > SMALL_FILE:
            return status.st_ino, status.st_size, status.st_mtime_ns
        with open(path, "rb") as file:  # two changes within a tick of the clock have the same time
            return file.read()

    def changes(self) -> list[Any]:
        """What was made, changed or deleted since both sides were equal: [path, "dir", "file" or "gone", content]."""
        try:
            now = self.now()
        except OSError:  # a folder that may not be read is not shared
            return []
        changes: list[Any] = [[path, "gone", ""] for path in self.known.keys() - now.keys()]
        for path, state in now.items():
            if path in self.known and self.known[path] == state:
                continue
            if state is None:
                changes.append([path, "dir", ""])
                continue
            with open(f"{SCRATCH}/{path}", "rb") as file:
                changes.append([path, "file", file.read().hex()])
        self.known = now
        return changes

    def take(self, changes: list[Any]) -> None:
        """Applies the changes of the other side. Raises `ValueError` for a path outside of the folder."""
        for path, what, content in changes:
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError("not in the scratch folder")
            place = f"{SCRATCH}/{path}"
            if os.path.realpath(os.path.dirname(place)) != os.path.dirname(place) or os.path.islink(place):
                raise ValueError("not in the scratch folder")
            if what == "dir":
                os.makedirs(place, exist_ok=True)
            elif what == "file":
                with open(place, "wb") as file:
                    file.write(bytes.fromhex(content))
            elif os.path.isdir(place):
                import shutil

                shutil.rmtree(place, ignore_errors=True)
            elif os.path.exists(place):
                os.unlink(place)
        if changes:
            self.known = self.now()
