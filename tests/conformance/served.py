"""The server over the test engine, in a process of its own, for as long as a block lasts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from tests.pages import ROOT


@contextmanager
def served(*models: str, key: str | None = None, more: Sequence[str] = ()) -> Generator[str]:
    """Its address. A server that does not end in order, when it is asked to, fails."""
    words = [*(word for model in models for word in ("--model", model)), *(["--key", key] if key else []), *more]
    command = [sys.executable, "-m", "ponder.testing.server", *words]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0
