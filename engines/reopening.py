"""A thought that its model has ended is opened again, with words put in where the end was (budget forcing, s1).

What ended it is left out of the chain, however it is written: a token, several, the head of the next message. So the
model finds itself within the thought, behind words that it might have written.
"""

from __future__ import annotations

from dataclasses import replace

from ponder.compute.text import Candidate, Hidden
from ponder.engines.model import Model
from ponder.engines.vocabulary import Vocabulary

MARKER = 64
"""Tokens that may spell the marker that ends a thought, at most."""


def reopened(model: Model, chain: Candidate, words: str) -> Candidate | None:
    """See `ponder.compute.engine.Reopens`. Where the thought does not end in white space, the words have a line of
    their own."""
    ids = chain.ids.unseal()
    end = len(ids) if chain.thinking else _ended_at(model.vocabulary, ids)
    if end is None or chain.forced or chain.text:
        return None
    kept = ids[:end]
    if model.vocabulary.mechanism == "text":
        words = words.replace(model.vocabulary.end, "")
    spaced = not kept or model.vocabulary.bytes(kept[-1])[-1:].isspace()
    put = tuple(model.prompts.encoded([(words if spaced else f"\n{words}", True)]))
    told = chain.likelihood.unseal()
    likelihood = (*told[:end], *(0.0 for _ in put)) if len(told) == len(ids) else ()
    whole = (*kept, *put)
    return replace(
        chain,
        ids=Hidden(whole),
        thought=Hidden(model.vocabulary.decode(whole)),
        thinking=True,
        likelihood=Hidden(likelihood),
    )


def _ended_at(vocabulary: Vocabulary, ids: tuple[int, ...]) -> int | None:
    """Where among these tokens of a chain what ends its thought begins; None where a call of a tool has ended it."""
    if vocabulary.harmony is not None:
        end = next((n for n in range(len(ids) - 1, -1, -1) if ids[n] == vocabulary.harmony.end), None)
        head = () if end is None else [token for token in ids[end + 1 :] if token != vocabulary.harmony.message]
        return None if head and vocabulary.harmony.side(head) != "answer" else end
    if vocabulary.by_ids:
        return len(ids) - 1 if ids and ids[-1] == vocabulary.end_id else None
    tail = range(len(ids) - 1, max(-1, len(ids) - 1 - MARKER), -1)
    return next((n for n in tail if vocabulary.end and vocabulary.end in vocabulary.spell(ids[n:])), None)
