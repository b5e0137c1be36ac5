"""What became of a request, call by call: `GET /v1/traces/{id}`, numbers only, for a key with the scope `trace`.

Traces are kept in memory, the latest few of each server: numbers. Text only in the ledgers, and there only where the
operator has switched that on (`retain_text`); it is shown to a key with the scope `reveal`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from compute.budget import Ledger
from compute.errors import NotFound
from compute.outcome import Outcome
from server import reveal
from server.keys import Key
from server.plan import Order
from server.status import answer


@dataclass(frozen=True, slots=True)
class Told:
    """One choice: its calls, and what is known of its end where it came to an answer."""

    ledger: Ledger
    facts: Mapping[str, str | float]


@dataclass(frozen=True, slots=True)
class Trace:
    """One request that is over."""

    owner: str
    model: str
    strategy: str
    budget: int
    ended: str
    seconds: float
    choices: tuple[Told, ...]


def trace(
    order: Order, ended: str, seconds: float, ledgers: Sequence[Ledger], outcomes: Sequence[Outcome | None]
) -> Trace:
    """What of a request is worth keeping. `ledgers` is empty where it never began."""
    choices = tuple(
        Told(ledger, {} if outcome is None else _facts(outcome))
        for ledger, outcome in zip(ledgers, outcomes, strict=False)
    )
    return Trace(order.owner, order.base, order.strategy, order.budget, ended, seconds, choices)


def _facts(outcome: Outcome) -> dict[str, str | float]:
    facts: dict[str, str | float] = {"stopped_by": outcome.stopped_by}
    if outcome.agreement is not None:
        facts["agreement"] = outcome.agreement
    return facts


class Traces:
    """The latest requests of this server, by `x-request-id`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Trace] = OrderedDict()

    def keep(self, request_id: str, trace: Trace) -> None:
        if self._most and trace.choices:
            self._kept[request_id] = trace
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    async def one(self, request: Request, key: Key) -> Response:
        """`GET /v1/traces/{id}`. A key sees its own requests, one with the scope `admin` all."""
        asked = str(request.path_params["id"])
        trace = self._kept.get(asked)
        if trace is None or not (key.may("admin") or trace.owner == key.name):
            raise NotFound("there is no such trace; the latest ones are kept", param="id", code="trace_not_found")
        return answer(
            {
                "id": asked,
                "object": "trace",
                "model": trace.model,
                "strategy": trace.strategy,
                "budget": trace.budget,
                "ended": trace.ended,
                "seconds": round(trace.seconds, 6),
                "choices": [_choice(i, choice, key) for i, choice in enumerate(trace.choices)],
            }
        )


def _choice(index: int, choice: Told, key: Key) -> dict[str, Any]:
    spent = choice.ledger.spent
    return {
        "index": index,
        "tokens": {"hidden": spent.hidden, "visible": spent.visible, "verifier": spent.verifier},
        "orchestration_seconds": round(choice.ledger.idle_seconds, 6),
        "calls": _calls(choice.ledger, key),
        **choice.facts,
    }


def _calls(ledger: Ledger, key: Key) -> Sequence[dict[str, object]]:
    calls = ledger.trace()
    if key.may("reveal"):
        for call, number in ((call, int(str(call["number"]))) for call in calls):
            if number in ledger.texts:
                call["text"] = reveal.texts(ledger, number)
    return calls
