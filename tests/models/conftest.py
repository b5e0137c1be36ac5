"""Where the shipped weights are."""

from __future__ import annotations

from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="session")
def demo() -> Path:
    return MODELS / "demo"


@pytest.fixture(scope="session")
def demo_prm() -> Path:
    return MODELS / "demo-prm"


@pytest.fixture(scope="session")
def tokenizer_folder(demo: Path) -> Path:
    return demo
