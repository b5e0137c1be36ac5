"""Log-probabilities of many drawn tokens, in few lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class FlatLogprobs(Protocol):
    """Natural-log probabilities as vLLM lays them out flat: position `i` has those from `start_indices[i]` to before
    `end_indices[i]`, first the drawn token's, then the likeliest."""

    start_indices: list[int]
    end_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


def likelihood(logprobs: FlatLogprobs | None, first: int, last: int) -> Sequence[float]:
    """The log-probabilities of the drawn tokens; vLLM puts the drawn one first at each place."""
    if logprobs is None:
        return ()
    return [logprobs.logprobs[k] for k in logprobs.start_indices[first:last]]


def top(logprobs: FlatLogprobs, position: int, wanted: int) -> list[tuple[int, float]]:
    """The likeliest tokens at a position and their log-probabilities, best first.

    vLLM lists the token that was drawn and then the likeliest, itself perhaps among them; where it has put two outputs
    into one, each token is listed once.
    """
    here = slice(logprobs.start_indices[position], logprobs.end_indices[position])
    (drawn, *likeliest) = zip(logprobs.token_ids[here], logprobs.logprobs[here], strict=True)
    if len(likeliest) < wanted and drawn not in likeliest:
        likeliest = sorted((drawn, *likeliest), key=lambda one: -one[1])
    return likeliest[:wanted]
