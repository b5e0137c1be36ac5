"""What the tests of real engines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real small language model: SmolLM2-135M-Instruct."""
    return needs.model("smollm2")
