"""Which family a model is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ponder.engines.profiles.profile import Profile
from ponder.engines.profiles.tables import PROFILES


def find(path: str, config: Mapping[str, Any], template: str) -> Profile:
    """The profile that fits a model: by its name, its `config.json` and its chat template."""
    name = PurePath(path).name.lower()
    whole = path.lower()
    if "<think>" not in template and "think" not in template:
        return PROFILES["demo"] if name == "demo" else PROFILES["deepseek-r1" if _is_r1(whole) else "plain"]
    if name == "demo" or int(config.get("vocab_size") or 1_000_000) < 5000:
        return PROFILES["demo"]
    if "qwq" in whole:
        return PROFILES["qwq"]
    if _is_r1(whole):
        return PROFILES["deepseek-r1"]
    if "qwen3" in whole or str(config.get("model_type", "")).startswith("qwen3"):
        return PROFILES["qwen3"]
    return PROFILES["think"]


def _is_r1(name: str) -> bool:
    return "deepseek-r1" in name or "r1-distill" in name
