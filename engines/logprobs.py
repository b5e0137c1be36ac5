"""Log-probabilities of many drawn tokens, in few lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ponder.compute.text import TokenLogprob


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


def token_logprobs(
    logprobs: FlatLogprobs, ids: Sequence[int], offset: int, wanted: int, spell: Callable[[int], bytes]
) -> tuple[TokenLogprob, ...]:
    """The drawn tokens `ids`, the first of which is at position `offset`, each with the `wanted` likeliest at its
    place. `spell`: the bytes of a token."""

    def one(token: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        encoded = spell(token)
        return TokenLogprob(encoded.decode(errors="replace"), encoded, max(value, -9999.0), top)

    tokens: list[TokenLogprob] = []
    for i, token in enumerate(ids, offset):
        likeliest = tuple(one(*other) for other in top(logprobs, i, wanted))
        tokens.append(one(token, logprobs.logprobs[logprobs.start_indices[i]], likeliest))
    return tuple(tokens)


@dataclass(slots=True)
class Waiting:
    """Visible tokens whose text may turn out to be none of the answer's: they are told when that is known."""

    _tokens: list[TokenLogprob] = field(default_factory=list[TokenLogprob])

    def told(self, tokens: Sequence[TokenLogprob], unread: str) -> tuple[TokenLogprob, ...]:
        """Those that may be told now, of all so far; `unread`: the text that is kept back, with which the last end."""
        self._tokens.extend(tokens)
        first, rest = len(self._tokens), len(unread.encode())
        while first and rest > 0:
            first -= 1
            rest -= len(self._tokens[first].bytes)
        told, self._tokens = self._tokens[:first], self._tokens[first:]
        return tuple(told)

    def last(self, read: str) -> tuple[TokenLogprob, ...]:
        """Those that spell the text that was kept back and is read after all."""
        rest = len(read.encode())
        told: list[TokenLogprob] = []
        for token in self._tokens:
            if rest <= 0:
                break
            rest -= len(token.bytes)
            told.append(token)
        return tuple(told)
