"""`POST /v1/chat/completions`: from the bytes of a request to its order, and from outcomes to OpenAI's shapes.

Answers are plain dicts: what goes out was made here and needs no checking on its way.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from ponder.compute.account import Account
from ponder.compute.budget import Spending
from ponder.compute.clock import now
from ponder.compute.engine import Delta
from ponder.compute.errors import RequestError
from ponder.compute.outcome import Outcome
from ponder.compute.text import TokenLogprob, ToolCall
from ponder.metering.metrics import Metrics
from ponder.server import unseal, wire
from ponder.server.admission import Admission
from ponder.server.body import read
from ponder.server.calls import ToolCallParser
from ponder.server.keys import Key
from ponder.server.plan import Registry, ResolvedRequest, ServedModel, make
from ponder.server.respond import CompletionResponse, Planned
from ponder.server.settings import Settings
from ponder.server.traces import Traces

LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of nothing, which JSON cannot say."""


class ChatForm:
    """One chat completion, whole or in chunks."""

    def __init__(self, order: ResolvedRequest) -> None:
        self._order = order
        self._id = "chatcmpl-" + secrets.token_hex(12)
        self._created = int(time.time())
        self._parsers = [ToolCallParser(order.tools) for _ in order.plans]
        usage = ', "usage": null' if order.include_usage else ""
        self._head = (
            f'data: {{"id": "{self._id}", "object": "chat.completion.chunk", "created": {self._created}, '
            f'"model": {json.dumps(order.model)}{usage}, "choices": [{{"index": '
        )

    # -- streamed -----------------------------------------------------------------------------------------------------

    def _chunk(self, choice: int, delta: str, logprobs: str = "", finish: str = "null", more: str = "") -> bytes:
        """An event; all but the numbers are JSON text."""
        return f'{self._head}{choice}, "delta": {delta}{logprobs}, "finish_reason": {finish}}}]{more}}}\n\n'.encode()

    def opening(self) -> bytes:
        delta = '{"role": "assistant", "content": ""}'
        return b"".join(self._chunk(i, delta) for i in range(len(self._order.plans)))

    def delta_events(self, choice: int, delta: Delta) -> bytes:
        logprobs = ""
        if self._order.logprobs and delta.logprobs:
            logprobs = f', "logprobs": {json.dumps(token_logprobs(delta.logprobs))}'
        text, calls = self._parsers[choice].feed(delta.text)
        return self._events(choice, text, calls, logprobs)

    def _events(self, choice: int, text: str, calls: Sequence[ToolCall], logprobs: str = "") -> bytes:
        events = b""
        if text or logprobs:
            lead = f'{self._head}{choice}, "delta": {{"content": '
            events = f'{lead}{json.dumps(text)}}}{logprobs}, "finish_reason": null}}]}}\n\n'.encode()
        if not calls:
            return events
        number = len(self._parsers[choice].calls) - len(calls)
        for i, call in enumerate(calls, number):
            events += self._chunk(choice, json.dumps({"tool_calls": [{"index": i} | shaped(call)]}))
        return events

    def closed(self, choice: int, outcomes: Sequence[Outcome | None], spendings: Sequence[Spending]) -> bytes:
        order, outcome = self._order, outcomes[choice]
        assert outcome is not None  # noqa: S101 - the choice that has just ended
        parser = self._parsers[choice]
        events = self._events(choice, *parser.end(outcome.complete))
        if order.reasoning:
            thought = unseal.thought(outcome)
            events += self._chunk(choice, json.dumps({"reasoning": thought, "reasoning_content": thought}))
        ended = [one for one in outcomes if one is not None]
        last, more = len(ended) == len(outcomes), ""
        if last and not order.include_usage:
            more = f', "thinking": {json.dumps(thinking(order, ended))}'
        events += self._chunk(choice, "{}", finish=f'"{finish_reason(outcome, parser)}"', more=more)
        if last and order.include_usage:
            facts: dict[str, Any] = {
                "choices": [],
                "usage": usage(order, ended, spendings),
                "thinking": thinking(order, ended),
            }
            events += b"data: " + json.dumps(self._base("chat.completion.chunk") | facts).encode() + b"\n\n"
        return events

    # -- whole --------------------------------------------------------------------------------------------------------

    def _base(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._order.model}

    def whole(self, outcomes: Sequence[Outcome], spendings: Sequence[Spending]) -> Mapping[str, Any]:
        order = self._order
        return self._base("chat.completion") | {
            "choices": [self._choice(i, outcome) for i, outcome in enumerate(outcomes)],
            "usage": usage(order, outcomes, spendings),
            "thinking": thinking(order, outcomes),
        }

    def _choice(self, index: int, outcome: Outcome) -> dict[str, Any]:
        parser = self._parsers[index]
        text = parser.feed(outcome.answer.text)[0] + parser.end(outcome.complete)[0]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if parser.calls:
            message["content"] = text or None
            message["tool_calls"] = [shaped(call) for call in parser.calls]
        if self._order.reasoning:
            message["reasoning"] = message["reasoning_content"] = unseal.thought(outcome)
        logprobs = token_logprobs(outcome.answer.logprobs) if self._order.logprobs else None
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish_reason(outcome, parser),
        }


def shaped(call: ToolCall) -> dict[str, Any]:
    """A tool call as OpenAI writes it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def finish_reason(outcome: Outcome, parser: ToolCallParser) -> str:
    """`length` only where the visible answer was cut, if after calls then within the next."""
    if parser.calls and not parser.cut:
        return "tool_calls"
    return "stop" if outcome.complete else "length"


def usage(order: ResolvedRequest, outcomes: Sequence[Outcome], spendings: Sequence[Spending]) -> dict[str, Any]:
    """OpenAI's usage: the prompt once, everything the model made, and how much of it was hidden."""
    generated = sum(outcome.spent.generated for outcome in outcomes)
    hidden = sum(outcome.spent.hidden for outcome in outcomes)
    return {
        "prompt_tokens": order.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": order.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": _cached(order, spendings), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": hidden,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "audio_tokens": 0,
        },
    }


def _cached(order: ResolvedRequest, spendings: Sequence[Spending]) -> int:
    """Tokens of the prompt that were in the prefix cache when the first chain began. A chain whose thought was closed
    by force has read its prompt a second time, from the cache by nature."""
    reservations = spendings[0].reservations
    if not reservations:
        return 0
    again = max(0, reservations[0].prompt - order.prompt_tokens)
    return max(0, min(order.prompt_tokens, reservations[0].cached - again))


def thinking(order: ResolvedRequest, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The one extension object: what was decided about the thinking, and what came of it."""
    cut = next((o for o in outcomes if o.stopped_by != "finished"), outcomes[0])
    told: dict[str, Any] = {
        "strategy": order.strategy,
        "budget": order.budget,
        "budget_source": order.source,
        "spent": sum(o.spent.hidden for o in outcomes),
        "samples": sum(o.samples for o in outcomes),
        "samples_requested": sum(o.samples_requested for o in outcomes),
        "stopped_by": cut.stopped_by,
        "verifier_tokens": sum(o.spent.verifier for o in outcomes),
        "discarded_tokens": sum(o.spent.discarded for o in outcomes),
    }
    if order.clamped_from is not None:
        told["budget_clamped_from"] = order.clamped_from
    if len(outcomes) == 1:
        return told | _judged(outcomes[0])
    told["choices"] = [
        {"index": i, "spent": o.spent.hidden, "samples": o.samples, "stopped_by": o.stopped_by} | _judged(o)
        for i, o in enumerate(outcomes)
    ]
    return told


def _judged(outcome: Outcome) -> dict[str, Any]:
    facts = {"agreement": outcome.agreement, "verifier": outcome.verifier, "score": outcome.score}
    marks = {
        "verifier_degraded": outcome.degraded,
        "verifier_truncated": outcome.truncated,
        "ungrouped": outcome.ungrouped,
        "deterministic": outcome.alike,
    }
    told: dict[str, Any] = {name: fact for name, fact in facts.items() if fact is not None}
    return told | {name: True for name, marked in marks.items() if marked}


def token_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`choices[].logprobs`."""
    return {
        "content": [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in tokens],
        "refusal": None,
    }


def _token(token: TokenLogprob) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else LEAST_LOGPROB
    return {"token": token.text, "bytes": list(token.bytes), "logprob": logprob}


class Chat:
    """The endpoint."""

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ServedModel],
        registry: Registry,
        admission: Admission,
        account: Account,
        metrics: Metrics,
        traces: Traces,
    ) -> None:
        self._settings, self._models, self._registry = settings, models, registry
        self._admission, self._account = admission, account
        self._metrics, self._traces = metrics, traces

    async def __call__(self, request: Request, key: Key) -> CompletionResponse:
        began = now()
        settings = self._settings
        self._admission.check()
        wanted = wire.chat_request(await read(request, settings.limits), settings.limits)
        timeout = header_timeout(request)

        async def plan() -> Planned:
            order = await make(wanted, self._models, self._registry, settings, key, timeout)
            headers: dict[str, str] = {}
            if ignored := wire.ignored(wanted, order.ignored):
                headers["x-ignored-parameters"] = ignored
            if order.clamped_from is not None:
                headers["x-thinking-budget-clamped"] = str(order.budget)
            return Planned(order, ChatForm(order), headers)

        return CompletionResponse(
            plan,
            self._admission,
            self._account,
            self._metrics,
            self._traces,
            began=began,
            keepalive=settings.keepalive,
            send_timeout=settings.limits.send_timeout,
        )


def header_timeout(request: Request) -> float | None:
    """`X-Request-Timeout`, in seconds. Raises `RequestError`."""
    given = request.headers.get("x-request-timeout")
    if given is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", given) or float(given) <= 0:
        raise RequestError(
            "the header X-Request-Timeout holds seconds, above 0", param="X-Request-Timeout", code="invalid_value"
        )
    return float(given)
