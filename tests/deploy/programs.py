"""What programs take, read without running them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def sources_of_vllm() -> Path:
    home = find_spec("vllm")
    assert home is not None
    assert home.origin is not None
    return Path(home.origin).parent


@cache
def _settings_of_vllm() -> frozenset[str]:
    tables = "engine/arg_utils.py", "entrypoints/launchers/cli_args.py"
    text = "".join((sources_of_vllm() / table).read_text() for table in tables)
    return frozenset(re.findall(r"^    (\w+):", text, re.MULTILINE))


def unknown_to_vllm(words: Sequence[str]) -> list[str]:
    """The flags that its servers do not have."""
    flags = [word for word in words if word.startswith("--")]
    return [flag for flag in flags if flag[2:].replace("-", "_") not in _settings_of_vllm()]
