"""One chain of thought, its answer streamed as it is written (Wei et al. 2022, chain-of-thought prompting)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ponder.compute.run import Run
from ponder.compute.text import Candidate


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Direct:
    """One chain: think, then answer. Streams as it is written."""

    one_chain: ClassVar[bool] = True

    async def __call__(self, run: Run) -> Candidate:
        return await run.stream()
