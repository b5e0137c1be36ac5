"""Requests as spans of OpenTelemetry: one for each request, children for the calls of its strategy, numbers only.

Names are those of the GenAI semantic conventions (https://github.com/open-telemetry/semantic-conventions-genai); what
they have no name for begins with `ponder.`. `gen_ai.usage` is what is billed and stands at the request alone, so that
whoever adds it up over spans counts each token once; a call has its tokens under `ponder.tokens`. Calls are told when
the request is over, from the times they were counted with, so nothing is added to the path of the tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from ponder.compute.budget import Judgement, Reservation, Spending
from ponder.compute.clock import now
from ponder.compute.outcome import Outcome
from ponder.compute.price import NANO
from ponder.metering.series import release
from ponder.server import answers
from ponder.server.calls import ToolCallParser
from ponder.server.plan import ResolvedRequest

Attributes = dict[str, AttributeValue]

MOST = 64
"""Children of a span: a request may make thousands of calls."""
EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
PROPAGATOR = TraceContextTextMapPropagator()
"""Reads `traceparent`. What other vendors want to be kept (`tracestate`) and baggage are words of the caller's, and
nothing is asked of others on its behalf: they are left where they are."""


class Spans:
    """Begins the spans of requests, and has them sent by a thread of the library's."""

    def __init__(self, protocol: str) -> None:
        """`protocol` is one of `EXPORTERS`; endpoint, headers, sampling and batches are as the environment says. Raises
        `ModuleNotFoundError`."""
        exporter: Callable[[], SpanExporter] = import_module(EXPORTERS[protocol]).OTLPSpanExporter
        # What the environment names goes before.
        known = Resource({SERVICE_NAME: "ponder", SERVICE_VERSION: release()})
        found = Resource.create()
        if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            found = found.merge(known)
        self._provider = TracerProvider(resource=known.merge(found), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter()))
        self._tracer = self._provider.get_tracer("ponder", release())

    def begin(self, path: str, traceparent: str | None) -> RequestSpan:
        """As `Tracing`."""
        context = PROPAGATOR.extract({} if traceparent is None else {"traceparent": traceparent}, Context())
        return RequestSpan(self._tracer, context, path)

    def close(self) -> None:
        """As `Tracing`."""
        self._provider.shutdown()


class RequestSpan:
    """The span of one request, as `Span`."""

    def __init__(self, tracer: Tracer, context: Context, path: str) -> None:
        self._tracer = tracer
        # A loop may have a clock of its own.
        self._began, self._wall = now(), time.time_ns()
        facts: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "ponder",
            "http.request.method": "POST",
            "http.route": path,
            "url.path": path,
        }
        self._span = tracer.start_span("chat", context, kind=SpanKind.SERVER, attributes=facts, start_time=self._wall)
        self._ended: str | None = None

    @property
    def ids(self) -> tuple[str, str]:
        """Of its trace and of itself."""
        own = self._span.get_span_context()
        return format_trace_id(own.trace_id), format_span_id(own.span_id)

    def told(
        self,
        resolved: ResolvedRequest,
        ended: str,
        spendings: Sequence[Spending],
        outcomes: Sequence[Outcome | None],
        parsers: Sequence[ToolCallParser],
        first: float | None,
    ) -> None:
        """What came of it, and its calls."""
        if not self._span.is_recording():
            return
        self._ended = ended
        self._span.update_name(f"chat {resolved.model}")
        self._span.set_attributes(_asked(resolved) | _used(resolved, spendings) | _came(ended, outcomes, parsers))
        if resolved.stream and first is not None:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", first)
        self._children(resolved, spendings)

    def end(self, status: int | None, request_id: str) -> None:
        """It is over."""
        span = self._span
        if span.is_recording():
            span.set_attribute("ponder.request.id", request_id)
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if self._ended == "failed" or (status is not None and status >= 500):
                span.set_attribute("error.type", str(status) if status is not None and status >= 400 else "failed")
                span.set_status(Status(StatusCode.ERROR))
        span.end(self._at(now()))

    # -- children -----------------------------------------------------------------------------------------------------

    def _children(self, resolved: ResolvedRequest, spendings: Sequence[Spending]) -> None:
        """Those of the chains that were answered with, then the others in their order, as many as there may be."""
        context = set_span_in_context(self._span, Context())
        chosen = [spending.line(spending.chosen) for spending in spendings]
        calls = [(i, one) for i, spending in enumerate(spendings) for one in spending.reservations]
        judged = [(i, one) for i, spending in enumerate(spendings) for one in spending.judgements]
        calls.sort(key=lambda call: call[1].number not in chosen[call[0]])
        room = MOST - min(len(judged), MOST // 4)
        told = [*calls[:room], *judged[: MOST - min(len(calls), room)]]
        self._span.set_attribute("ponder.calls", len(calls) + len(judged))
        if left := len(calls) + len(judged) - len(told):
            self._span.set_attribute("ponder.calls_left_out", left)
        for answer, one in told:
            if isinstance(one, Reservation):
                name, facts = one.purpose, _of_call(resolved, one, one.number in chosen[answer])
                over = None if one.seconds is None else one.started + one.seconds
            else:
                name, facts, over = "score", _of_judgement(one), one.started + one.seconds
            child = self._tracer.start_span(
                name, context, attributes=facts | {"ponder.answer": answer}, start_time=self._at(one.started)
            )
            if isinstance(one, Reservation) and one.ending == "lost":
                child.set_attribute("error.type", "lost")
                child.set_status(Status(StatusCode.ERROR))
            child.end(self._at(now() if over is None else over))

    def _at(self, seconds: float) -> int:
        """A moment of the loop's clock, in nanoseconds since 1970."""
        return self._wall + round((seconds - self._began) * 1e9)


def _given(facts: Mapping[str, AttributeValue | None]) -> Attributes:
    return {name: value for name, value in facts.items() if value is not None}


def _asked(resolved: ResolvedRequest) -> Attributes:
    plan = resolved.plans[0]
    sampling, answers_ = plan.sampling, len(resolved.plans)
    return _given(
        {
            "gen_ai.request.model": resolved.model,
            "gen_ai.response.model": resolved.base,
            "gen_ai.request.stream": True if resolved.stream else None,
            "gen_ai.request.choice.count": answers_ if answers_ > 1 else None,
            "gen_ai.request.max_tokens": plan.budget.total,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k or None,
            "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
            "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
            "ponder.key_owner": resolved.owner,
            "ponder.strategy": resolved.strategy,
            "ponder.verifier": plan.verifier.name if plan.verifier else None,
            "ponder.thinking_budget": resolved.budget,
        }
    )


def _used(resolved: ResolvedRequest, spendings: Sequence[Spending]) -> Attributes:
    usage = answers.spent(resolved, spendings)
    return _given(
        {
            "gen_ai.usage.input_tokens": usage.prompt,
            "gen_ai.usage.cache_read.input_tokens": usage.prompt_cached,
            "gen_ai.usage.output_tokens": usage.generated,
            "gen_ai.usage.reasoning.output_tokens": usage.hidden,
            "ponder.tokens.discarded": usage.discarded,
            "ponder.tokens.wasted": usage.wasted,
            "ponder.tokens.verifier": usage.verifier,
            "ponder.calls.unseen": usage.unseen_calls or None,
            "ponder.cost_usd": None if resolved.price is None else resolved.price.cost(usage) / NANO,
        }
    )


def _came(ended: str, answered: Sequence[Outcome | None], parsers: Sequence[ToolCallParser]) -> Attributes:
    outcomes = [outcome for outcome in answered if outcome is not None]
    return _given(
        {
            "ponder.outcome": ended,
            "ponder.samples": sum(outcome.samples for outcome in outcomes),
            "ponder.stopped_by": answers.stopped_by(outcomes) if outcomes else None,
            "ponder.agreement": next((one.agreement for one in outcomes if one.agreement is not None), None),
            "ponder.confidence": next((one.confidence for one in outcomes if one.confidence is not None), None),
            "gen_ai.response.finish_reasons": [_finish(*one) for one in zip(answered, parsers, strict=True)],
        }
    )


def _finish(outcome: Outcome | None, parser: ToolCallParser) -> str:
    """Why an answer ended, in the conventions' words."""
    if outcome is None:
        return "error"
    if parser.calls and not parser.cut:
        return "tool_call"
    return "stop" if outcome.complete else "length"


def _of_call(resolved: ResolvedRequest, call: Reservation, chosen: bool) -> Attributes:
    return _given(
        {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "ponder",
            "gen_ai.request.model": resolved.base,
            "ponder.call": call.number,
            "ponder.call.parent": call.parent,
            "ponder.call.purpose": call.purpose,
            "ponder.call.ending": call.ending,
            "ponder.call.chosen": chosen,
            "ponder.call.score": call.score,
            "ponder.call.resumed": call.resumed or None,
            "ponder.call.unseen": call.unseen or None,
            "ponder.tokens.hidden": call.hidden,
            "ponder.tokens.visible": call.visible,
            "ponder.tokens.prompt": call.prompt,
            "ponder.tokens.cached": call.cached,
        }
    )


def _of_judgement(judgement: Judgement) -> Attributes:
    return {
        "gen_ai.evaluation.name": judgement.verifier,
        "ponder.candidates": judgement.candidates,
        "ponder.tokens.verifier": judgement.tokens,
    }
