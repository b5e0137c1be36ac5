"""Rows of training data in files: lines of JSON, or Parquet where pyarrow is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


class NoParquet(Exception):
    """pyarrow is missing; the message says what to do."""


def check(path: Path) -> None:
    """Raises `NoParquet` where a file of this name could not be written."""
    if path.suffix == ".parquet":
        _arrow("pyarrow")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A file that is there whole or not at all, Parquet where its name ends so. Raises `NoParquet` and `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    if path.suffix == ".parquet":
        table = _arrow("pyarrow").Table.from_pylist(list(rows))
        _arrow("pyarrow.parquet").write_table(table, beside)
    else:
        with beside.open("w", encoding="utf-8", errors="replace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    beside.replace(path)


def _arrow(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise NoParquet(
            "Parquet is written by pyarrow, which is missing: pip install pyarrow, or name a file that ends with .jsonl"
        ) from None
