"""Log-probabilities of many drawn tokens, in few lists."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
class Spelling:
    """Tells the tokens of an answer so that they spell its text: those of white space, wrappers and stop strings that
    are no part of it are left out, and of a token that is one in part, what is no part of it."""

    _tokens: deque[TokenLogprob] = field(default_factory=deque[TokenLogprob])
    """Those whose text was not told yet."""
    _text: bytes = b""
    """What was told of the first of them."""

    def told(self, tokens: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
        """Those that may be told now, with new tokens and the new text of the answer, which may lag behind them."""
        self._tokens.extend(tokens)
        self._text += text.encode()
        told: list[TokenLogprob] = []
        while self._tokens and self._text:
            spelt = self._tokens[0].bytes
            if self._text.startswith(spelt):
                told.append(self._tokens.popleft())
                self._text = self._text[len(spelt) :]
            elif spelt.startswith(self._text):
                break
            elif not self._skip():
                self._text = b""
        if not self._tokens:
            # What no token spells was put in.
            self._text = b""
        return tuple(told)

    def last(self, text: str) -> tuple[TokenLogprob, ...]:
        """The rest, with the last text: the token in which the answer ends, as far as it is part of it."""
        told = self.told((), text)
        if not self._text or not self._tokens:
            return told
        return *told, _spelt(self._tokens[0], self._text)

    def _skip(self) -> bool:
        """Leaves out what stands before the text and is no part of it; False where the text stands nowhere."""
        spelt = b"".join(token.bytes for token in self._tokens)
        size = left = max(0, spelt.find(self._text))
        while left > 0:
            first = self._tokens.popleft()
            if len(first.bytes) > left:
                self._tokens.appendleft(_spelt(first, first.bytes[left:]))
            left -= len(first.bytes)
        return size > 0


def _spelt(token: TokenLogprob, part: bytes) -> TokenLogprob:
    """A token of which this part counts."""
    return replace(token, text=part.decode(errors="replace"), bytes=part)
