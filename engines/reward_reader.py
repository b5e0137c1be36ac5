"""What a reward model makes of the tokens it reads, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

LIKELIEST = 20
"""Next tokens whose probabilities are asked for where the verdict is one of them; vLLM gives no more."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model made of a chain: the numbers for each of its last `len(rows)` tokens, and how many tokens of the
    chain were in its cache."""

    rows: Sequence[Sequence[float]]
    cached: int = 0


class Reader(Protocol):
    """A way to have a reward model read chains."""

    @property
    def context(self) -> int:
        """Tokens the model reads and writes together, at most."""
        ...

    async def read(self, ids: Sequence[int], labels: Sequence[int], tenant: str | None, name: str = "check") -> Reading:
        """What the model's pooler gives for these tokens; prefixes are cached for each tenant apart. With labels, for a
        model that writes its verdicts: one row, the natural-log probabilities of the labels as the next token. `name`
        is the call's, for the logs of whoever serves the model. Cancelling stops the model. Raises `EngineError`."""
        ...

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        ...


def of_labels(labels: Sequence[int], likely: Mapping[int, float]) -> list[float]:
    """The log-probabilities of the labels. One that is not among the likeliest counts as the least of them."""
    least = min(likely.values())
    return [likely.get(label, least) for label in labels]
