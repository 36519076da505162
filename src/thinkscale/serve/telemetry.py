"""OpenTelemetry spans of requests and their model calls, made from trace events. Needs the extra `otel`.

Where they go is set by the standard OTEL_* environment variables. Nothing that people or models wrote is in them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from thinkscale.errors import UsageError
from thinkscale.trace import Event

NAMES = {
    # The semantic conventions for generative AI, where they have a name.
    "operation": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "model": "gen_ai.request.model",
    "max_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "status": "http.response.status_code",
    "error": "error.type",
    # Ours.
    "trace": "thinkscale.trace_id",
    "policy": "thinkscale.policy",
    "strategy": "thinkscale.strategy",
    "purpose": "thinkscale.purpose",
    "calls": "thinkscale.calls",
    "stop_reason": "thinkscale.stop_reason",
    "confidence": "thinkscale.confidence",
    "cost_usd": "thinkscale.cost_usd",
    "counted": "thinkscale.usage_counted",
}
"""Attribute names; the only place that knows them."""

_CALLED = ("purpose", "n", "max_tokens")
_USED = ("calls", "prompt_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "cost_usd", "counted")
_DECIDED = ("stop_reason", "confidence")


class Spans:
    """Makes spans and exports them in the background. `exporter`: `None` for OTLP over HTTP, as the environment says.

    Raises `UsageError` where the environment asks for an exporter that is not here.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(resource=_resource())
        if exporter is None:
            exporter = _from_environment()
        if exporter is not None:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("thinkscale")

    def listener(self, *, model: str, policy: str = "", headers: Mapping[str, str] | None = None) -> RequestSpans:
        """A listener for one request's trace, whose `end` must be called. `headers` are the caller's: where they name a
        trace, the span continues it.
        """
        return RequestSpans(self._tracer, model, policy, propagate.extract(headers) if headers else None)

    async def aclose(self) -> None:
        """Export what is left."""
        await asyncio.to_thread(self._provider.shutdown)


class RequestSpans:
    """Hears the events of one trace. Call `end` when the request is over: a run that failed has no `result` event."""

    def __init__(self, tracer: trace.Tracer, model: str, policy: str, parent: Context | None) -> None:
        self._tracer = tracer
        self._name = f"chat {model}".rstrip()
        self._known = _named({"operation": "chat", "model": model})
        self._clock_ns = (
            time.time_ns() - time.monotonic_ns()
        )  # a clock set back must not make a span end before it began
        self._span = tracer.start_span(
            self._name,
            parent,
            SpanKind.SERVER,
            self._known | _named({"provider": "thinkscale", "policy": policy or None}),
            start_time=self._now(),
        )
        self._context = trace.set_span_in_context(self._span)
        # Calls that nothing tells apart (a judge's on several prompts) are taken to settle in the order they were made.
        self._calls: defaultdict[tuple[str, tuple[int, ...]], deque[Span]] = defaultdict(deque)
        self._failure: Event | None = None

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "request":
                self._span.set_attribute(NAMES["trace"], event["trace"])
            case "plan":
                self._span.set_attribute(NAMES["strategy"], event["strategy"])
            case "call":
                self._call(event)
            case "settle":
                self._settle(event)
            case "result":
                self._span.set_attributes(_named(_of(event["usage"], _USED) | _of(event, _DECIDED)))
        self._failure = event if event["event"] == "failed" else None  # of the call that is settled next

    def end(self, *, status: int | None = None, error: BaseException | None = None) -> None:
        """End the request's span, and calls that nobody settled. `status` is that of the HTTP response. Once is enough,
        twice does no harm.
        """
        if not self._span.is_recording():
            return  # ended, or left out by the sampler
        for open_calls in self._calls.values():
            for call in open_calls:
                call.end(self._now())
        if status is not None:
            self._span.set_attribute(NAMES["status"], status)
        if error is not None:
            self._span.set_attribute(NAMES["error"], type(error).__qualname__)
        if error is not None or (status is not None and status >= 500):
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._now())

    def _call(self, event: Event) -> None:
        call = self._tracer.start_span(
            self._name,
            self._context,
            SpanKind.CLIENT,
            self._known | _named(_of(event, _CALLED)),
            start_time=self._now(),
        )
        self._calls[event["purpose"], tuple(event["path"])].append(call)

    def _settle(self, event: Event) -> None:
        calls = self._calls[event["purpose"], tuple(event["paths"][0])]
        if not calls:
            return  # never asked: there is no call without its span
        call = calls.popleft()
        call.set_attributes(_named(_of(event, _USED)))
        failure = self._failure
        if failure and failure["purpose"] == event["purpose"] and set(failure["paths"]) <= set(event["paths"]):
            status = failure["status"]
            call.set_attributes(_named({"status": status, "error": str(status or "no_response")}))
            call.set_status(Status(StatusCode.ERROR))
        call.end(self._now())

    def _now(self) -> int:
        return self._clock_ns + time.monotonic_ns()


def _of(fields: Event, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: fields.get(name) for name in names}


def _named(known: Mapping[str, Any]) -> dict[str, Any]:
    return {NAMES[name]: value for name, value in known.items() if value is not None}


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "thinkscale"}))
    return resource


def _from_environment() -> SpanExporter | None:
    asked = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if asked not in ("otlp", "none"):
        raise UsageError(f"OTEL_TRACES_EXPORTER={asked} is not here: use otlp (OTLP over HTTP) or none")
    return OTLPSpanExporter() if asked == "otlp" else None
