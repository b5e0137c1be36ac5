"""The one place where a thought leaves the server: for a key with the scope `reveal`."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ponder.compute.outcome import Outcome
from ponder.compute.text import Hidden
from ponder.server.auth.keys import Key


class Text(NamedTuple):
    """What a call has written."""

    thought: Hidden[str]
    answer: Hidden[str]
    forced: bool
    """The thought was closed by force."""
    own_prompt: bool
    """It answers the request's prompt, and not a question of the strategy's or a verifier's."""


Texts = Mapping[int, Text]
"""Of calls, by their number."""
Ids = Mapping[int, "Hidden[array[int]]"]
"""Token ids that calls have made, by their number."""
Likely = Mapping[int, "Hidden[array[float]]"]
"""Mean log-probabilities of the windows of chains, by the numbers of their last calls."""
WINDOW = 32
"""Tokens of such a window."""
PAIR = 300
"""Bytes of memory of the objects around two texts."""


def permitted(key: Key, asked: bool) -> bool:
    """Whether the answer carries its thought: where it was asked for, with a key that may see it."""
    return asked and key.may("reveal")


def shown(text: Text) -> dict[str, Any]:
    """What a call has written, for a trace; kept only where the operator wants it, shown only to such a key."""
    return {
        "thought": text.thought.unseal(),
        "answer": text.answer.unseal(),
        "forced": text.forced,
        "own_prompt": text.own_prompt,
    }


def given(prompt: Hidden[str]) -> str:
    """The prompt of a request, as JSON; kept and shown as texts are."""
    return prompt.unseal()


def ids(made: Hidden[array[int]]) -> list[int]:
    """What a call has made, token by token; kept and shown as texts are."""
    return made.unseal().tolist()


def windows(likelihood: Hidden[tuple[float, ...]]) -> Hidden[array[float]]:
    """The mean log-probability of each `WINDOW` tokens of a chain, in turn; of the last ones fewer."""
    values = likelihood.unseal()
    parts = (values[begin : begin + WINDOW] for begin in range(0, len(values), WINDOW))
    return Hidden(array("d", (sum(part) / len(part) for part in parts)))


def means(likely: Hidden[array[float]]) -> list[float]:
    """Those of a call, for a trace; kept and shown as texts are."""
    return [round(mean, 5) for mean in likely.unseal()]


def salt(hidden: Hidden[bytes]) -> str:
    """The salt of a receipt, in hexadecimal digits; shown as texts are."""
    return hidden.unseal().hex()


def size(texts: Texts, ids: Ids, likely: Likely, prompt: Hidden[str] | None) -> int:
    """Bytes of memory they take."""
    hidden = [one for text in texts.values() for one in (text.thought, text.answer)]
    hidden += [] if prompt is None else [prompt]
    words = PAIR * len(texts) + sum(sys.getsizeof(text.unseal()) for text in hidden)
    return words + sum(PAIR + sys.getsizeof(made.unseal()) for told in (ids, likely) for made in told.values())


def shared(prompts: Sequence[Hidden[str] | None]) -> int:
    """Bytes that were counted once more for each answer which has the same prompt as another."""
    given = [one for one in prompts if one is not None]
    return sum(sys.getsizeof(one.unseal()) for n, one in enumerate(given) if any(one is other for other in given[:n]))


def bytes_of(thought: Hidden[str]) -> int:
    """Bytes of memory that a thought takes; 0 for one that says nothing."""
    text = thought.unseal()
    return sys.getsizeof(text) if text.strip() else 0


def encrypted(thought: Hidden[str], *, empty: bool) -> bytes | None:
    """A thought as bytes, for `sealed_thoughts` alone, which encrypts them; None for one that says nothing, unless that
    is to be encrypted, too."""
    text = thought.unseal()
    if not text.strip():
        return b"" if empty else None
    return text.encode("utf-8", "surrogatepass")


def joined(thoughts: Sequence[Hidden[str]]) -> Hidden[str]:
    """Several thoughts of one turn, one behind the other."""
    return thoughts[0] if len(thoughts) == 1 else Hidden("\n\n".join(one.unseal() for one in thoughts))


def over(thought: Hidden[str]) -> str:
    """The thought of the chain that is told, before its answer; call it only where `permitted` said so."""
    return thought.unseal()


def thought(outcome: Outcome) -> str:
    """The thought of the chosen chain; call it only where `permitted` said so."""
    return outcome.thought.unseal()
