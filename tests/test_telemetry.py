"""Spans made from the traces of real runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from thinkscale.accounting import Price
from thinkscale.engine import Engine
from thinkscale.errors import ModelError, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.serve.telemetry import NAMES, Spans
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Params, Prompt, Request

USED = ("calls", "prompt_tokens", "output_tokens", "reasoning_tokens", "cached_tokens", "cost_usd", "counted")
REQUEST = Request(Prompt.of("SECRET: what is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))


class Run:
    """One request, and the spans it left."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.spans: tuple[ReadableSpan, ...] = ()

    @property
    def root(self) -> ReadableSpan:
        (root,) = [span for span in self.spans if span.kind is SpanKind.SERVER]
        return root

    @property
    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]


async def solve(
    answers: Any = None,
    *,
    strategy: str = "self-consistency:n=4",
    headers: Mapping[str, str] | None = None,
    failures: Mapping[int, Exception] | None = None,
    max_n: int = 1,
) -> Run:
    run, exporter = Run(), InMemorySpanExporter()
    spans = Spans(exporter)
    listener = spans.listener(model="small", policy="careful", headers=headers)
    model = ScriptedModel(answers or {"7": 1.0}, failures=failures, capabilities=Capabilities(max_n))
    async with Engine(model, price=Price(1.0, 2.0)) as engine:
        try:
            await engine.solve(REQUEST, strategy=strategy, listeners=(run.events.append, listener))
            listener.end(status=200)
        except ModelError as error:
            listener.end(status=502, error=error)
        listener.end(status=500)
    await spans.aclose()
    run.spans = exporter.get_finished_spans()
    return run


def attributes(span: ReadableSpan) -> dict[str, Any]:
    known = {full: name for name, full in NAMES.items()}
    return {known[full]: value for full, value in (span.attributes or {}).items()}


def events(run: Run, name: str) -> list[Event]:
    return [event for event in run.events if event["event"] == name]


async def test_a_request_is_one_span_with_a_span_for_each_call() -> None:
    run = await solve()
    (result,) = events(run, "result")
    assert attributes(run.root) == {
        "operation": "chat",
        "provider": "thinkscale",
        "model": "small",
        "policy": "careful",
        "trace": run.events[0]["trace"],
        "strategy": "self-consistency:n=4",
        "status": 200,
        "stop_reason": result["stop_reason"],
        "confidence": 1.0,
        **{name: result["usage"][name] for name in USED if result["usage"][name] is not None},
    }
    assert run.root.name == "chat small"
    assert run.root.status.status_code is StatusCode.UNSET
    settled = events(run, "settle")
    assert len(run.calls) == len(settled) == 4
    assert sum(attributes(call)["output_tokens"] for call in run.calls) == result["usage"]["output_tokens"]
    assert sum(attributes(call)["cost_usd"] for call in run.calls) == pytest.approx(result["usage"]["cost_usd"])
    for call in run.calls:
        assert call.parent is not None
        assert call.parent == run.root.context
        assert (attributes(call)["purpose"], attributes(call)["n"], attributes(call)["max_tokens"]) == (
            "generate",
            1,
            64,
        )
        assert run.root.start_time <= call.start_time <= call.end_time <= run.root.end_time  # type: ignore[operator]


async def test_spans_last_as_long_as_their_calls() -> None:
    run = await solve(lambda _prompt, _index, _rng: Reply("\\boxed{7}", latency_s=0.05), strategy="single")
    (call,) = run.calls
    assert call.start_time is not None
    assert call.end_time is not None
    assert 0.04e9 < call.end_time - call.start_time < 2e9


async def test_a_failed_call_is_marked_and_the_others_are_not() -> None:
    run = await solve(failures={0: ModelUnavailable("overloaded", status=500)})
    failed = [call for call in run.calls if call.status.status_code is StatusCode.ERROR]
    assert [attributes(call)["status"] for call in failed] == [500]
    assert [attributes(call)["error"] for call in failed] == ["500"]
    assert len(run.calls) > len(failed)
    assert run.root.status.status_code is StatusCode.UNSET, "one failed sample does not fail the request"


async def test_a_batch_that_fails_half_way_is_one_failed_call() -> None:
    run = await solve(
        lambda _prompt, index, _rng: Reply("7", error=ModelUnavailable("cut") if index == 2 else None), max_n=4
    )
    first, *again = sorted(run.calls, key=lambda call: call.start_time or 0)
    assert (attributes(first)["n"], attributes(first)["error"], attributes(first).get("status")) == (
        4,
        "no_response",
        None,
    )
    assert first.status.status_code is StatusCode.ERROR
    assert len(events(run, "settle")) == 1 + len(again)


async def test_a_failed_request_is_marked_with_what_failed() -> None:
    run = await solve(strategy="single", failures={0: ModelRefused("no", status=400)})
    assert run.root.status.status_code is StatusCode.ERROR
    assert attributes(run.root)["status"] == 502
    assert attributes(run.root)["error"] == "ModelRefused"
    assert not events(run, "result")


async def test_judges_calls_are_told_apart_though_they_look_the_same() -> None:
    """A judge asks about several candidates at once, each with a first sample: every call has its own span."""
    run, exporter = Run(), InMemorySpanExporter()
    spans = Spans(exporter)
    listener = spans.listener(model="small")
    begun: Event = {"event": "call", "purpose": "verify", "path": (0,), "n": 1, "max_tokens": 1}
    usage = {"calls": 1, "prompt_tokens": 9, "cached_tokens": None, "cost_usd": None, "counted": False}
    for _ in range(3):
        listener(begun)
    for tokens in (1, 2):
        listener({"event": "settle", "purpose": "verify", "paths": [(0,)], "output_tokens": tokens, **usage})
    listener.end(status=499)
    await spans.aclose()
    run.spans = exporter.get_finished_spans()
    assert [attributes(call).get("output_tokens") for call in run.calls] == [1, 2, None]
    assert "cost_usd" not in attributes(run.calls[0]), "an unknown cost is not zero"
    assert "policy" not in attributes(run.root)


async def test_no_content_in_any_span() -> None:
    run = await solve(
        lambda _prompt, _index, _rng: Reply("SECRET \\boxed{7}"), failures={0: ModelRefused("SECRET", status=400)}
    )
    assert "SECRET" in str(run.events)
    assert "SECRET" not in "".join(span.to_json() for span in run.spans)


async def test_the_callers_trace_is_continued() -> None:
    run = await solve(headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    assert run.root.parent is not None
    assert run.root.context is not None
    assert run.root.context.trace_id == run.root.parent.trace_id == int("ab" * 16, 16)
    plain = await solve(headers={"traceparent": "nonsense"})
    assert plain.root.parent is None


async def test_the_environment_says_where_spans_go(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, str | None, bytes]] = []

    async def collect(request: web.Request) -> web.Response:
        received.append((request.path, request.headers.get("x-team"), await request.read()))
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/collect/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}/collect")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=reasoning")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "our-gateway")
    try:
        spans = Spans()
        spans.listener(model="small").end(status=200)
        await spans.aclose()
    finally:
        await runner.cleanup()
    ((path, team, body),) = received
    assert (path, team) == ("/collect/v1/traces", "reasoning")
    assert b"our-gateway" in body
    assert b"chat small" in body


async def test_spans_can_be_switched_off_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    spans = Spans()
    spans.listener(model="small").end()
    await spans.aclose()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(UsageError, match="carrier-pigeon"):
        Spans()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    exporter = InMemorySpanExporter()
    silent = Spans(exporter)
    silent.listener(model="small").end()
    await silent.aclose()
    assert exporter.get_finished_spans() == ()


async def test_the_service_has_a_name() -> None:
    run = await solve(strategy="single")
    assert run.root.resource.attributes["service.name"] == "thinkscale"
