"""The one place where a thought leaves the house: for a key with the scope `reveal`."""

from __future__ import annotations

from compute.budget import Ledger
from compute.errors import NotPermitted
from compute.outcome import Outcome
from server.keys import Key


def permitted(key: Key, asked: bool) -> bool:
    """Whether the answer is to carry its thought. Raises `NotPermitted` for a key that may not ask."""
    if asked and not key.may("reveal"):
        raise NotPermitted(
            "include_reasoning needs an API key with the scope reveal", param="include_reasoning", code="not_permitted"
        )
    return asked


def texts(ledger: Ledger, number: int) -> dict[str, str]:
    """What a call has written, for a trace; kept only where the operator wants it, shown only to such a key."""
    thought, answer = ledger.texts[number]
    return {"thought": thought.reveal(), "answer": answer.reveal()}


def thought(outcome: Outcome) -> str:
    """The thought of the chosen chain; call it only where `permitted` said so."""
    return outcome.thought.reveal()
