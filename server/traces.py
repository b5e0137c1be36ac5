"""What became of a request, call by call: `GET /v1/traces/{id}`, numbers only, for a key with the scope `trace`.

Traces are kept in memory, the latest few of each server. With text only where the operator has switched that on
(`retain_text`) and the key has the scope `reveal` besides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from compute.budget import Ledger
from compute.errors import NotFound
from compute.run import Outcome
from server import reveal
from server.keys import Key
from server.plan import Order
from server.status import answer


@dataclass(frozen=True, slots=True)
class Trace:
    """One request that is over."""

    order: Order
    ended: str
    seconds: float
    ledgers: tuple[Ledger, ...]
    outcomes: tuple[Outcome | None, ...]


class Traces:
    """The latest requests of this server, by `x-request-id`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Trace] = OrderedDict()

    def keep(self, request_id: str, trace: Trace) -> None:
        if self._most and trace.ledgers:
            self._kept[request_id] = trace
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    async def one(self, request: Request, key: Key) -> Response:
        """`GET /v1/traces/{id}`. A key sees its own requests, one with the scope `admin` all."""
        asked = str(request.path_params["id"])
        trace = self._kept.get(asked)
        if trace is None or not (key.may("admin") or trace.order.owner == key.name):
            raise NotFound("there is no such trace; the latest ones are kept", param="id", code="trace_not_found")
        order = trace.order
        return answer(
            {
                "id": asked,
                "object": "trace",
                "model": order.base,
                "strategy": order.strategy,
                "budget": order.budget,
                "ended": trace.ended,
                "seconds": round(trace.seconds, 6),
                "choices": [
                    _choice(i, ledger, outcome, key)
                    for i, (ledger, outcome) in enumerate(zip(trace.ledgers, trace.outcomes, strict=True))
                ],
            }
        )


def _choice(index: int, ledger: Ledger, outcome: Outcome | None, key: Key) -> dict[str, Any]:
    spent = ledger.spent
    told: dict[str, Any] = {
        "index": index,
        "tokens": {"hidden": spent.hidden, "visible": spent.visible, "verifier": spent.verifier},
        "orchestration_seconds": round(ledger.idle_seconds, 6),
        "calls": _calls(ledger, key),
    }
    if outcome is not None:
        told["stopped_by"] = outcome.stopped_by
        if outcome.agreement is not None:
            told["agreement"] = outcome.agreement
    return told


def _calls(ledger: Ledger, key: Key) -> Sequence[dict[str, object]]:
    calls = ledger.trace()
    if key.may("reveal"):
        for call, number in ((call, int(str(call["number"]))) for call in calls):
            if number in ledger.texts:
                call["text"] = reveal.texts(ledger, number)
    return calls
