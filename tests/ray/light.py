"""What a replica of Ray Serve runs in tests. Each replica imports this file, so it imports little."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ponder.engines.ray.commands import Command
from tests.engines.replica_process import Writer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Light:
    """The program of a replica: `tests.ray.light_server`."""

    folder: str
    writer: Writer

    def __call__(self, host: str, port: int, key: str) -> Command:
        words = [sys.executable, "-m", "tests.ray.light_server", host, str(port), self.folder]
        return Command([*words, json.dumps(asdict(self.writer))], {"VLLM_API_KEY": key, "PYTHONPATH": str(ROOT)})
