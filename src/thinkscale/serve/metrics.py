"""Prometheus metrics of the gateway.

Labels are only what the configuration or this code names (models, policies, purposes, stop reasons, HTTP statuses): a
client cannot make a new series. Whoever records a name that came from a client and is not configured passes "".
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from thinkscale.store.records import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
_OVERHEAD_BUCKETS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_QUEUE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class _Route:
    """The series of one (model, policy), looked up once: finding a labelled series costs more than counting in it."""

    seconds: Histogram
    first_token: Histogram
    branches: Counter
    statuses: dict[int, Counter] = field(default_factory=dict)
    stop_reasons: dict[str, Counter] = field(default_factory=dict)


@dataclass(slots=True)
class _Bill:
    """The series of one (model, purpose)."""

    prompt: Counter
    output: Counter
    cached: Counter
    cost: Counter
    unpriced: Counter


class Metrics:
    """Everything `/metrics` shows, in a registry of its own.

    `queued` is the gauge of requests that wait for admission: set it, or give it a function to ask.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        route = ("model", "policy")

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"thinkscale_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"thinkscale_{name}", what, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests_total", "Requests answered or refused.", *route, "status")
        self._seconds = histogram("request_seconds", "Time from request to last byte.", _REQUEST_BUCKETS, *route)
        self._overhead = histogram(
            "overhead_seconds", "Time of a request not spent waiting for a model.", _OVERHEAD_BUCKETS
        )
        self._queue = histogram("queue_seconds", "Time waited for admission.", _QUEUE_BUCKETS)
        self._first_token = histogram(
            "first_token_seconds", "Time from request to the first streamed token.", _REQUEST_BUCKETS, *route
        )
        self._branches = counter("branches_total", "Samples drawn.", *route)
        self._tokens = counter(
            "tokens_total", "Tokens charged; cached ones are among the prompt's.", "model", "purpose", "kind"
        )
        self._stop_reasons = counter("stop_reasons_total", "What ended the runs.", *route, "stop_reason")
        self._cost = counter("cost_usd_total", "Dollars charged, as far as prices are known.", "model", "purpose")
        self._unpriced = counter("unpriced_calls_total", "Calls whose price is unknown.", "model", "purpose")
        self._failures = counter("upstream_failures_total", "Failed calls to models.", "model", "status")
        self._feedback = counter("feedback_total", "Feedback on answers.", *route, "outcome")
        self._in_flight = Gauge("thinkscale_in_flight", "Requests being worked on.", registry=registry)
        self.queued = Gauge("thinkscale_queued", "Requests waiting for admission.", registry=registry)
        self._routes: dict[tuple[str, str], _Route] = {}
        self._bills: dict[tuple[str, str], _Bill] = {}

    def in_flight(self) -> AbstractContextManager[None]:
        """The block counts as one request in flight."""
        return self._in_flight.track_inprogress()

    def finished(self, record: RequestRecord, *, overhead_s: float, first_token_s: float | None) -> None:
        """Count a request that ended. `first_token_s` is `None` where nothing was streamed.

        Failures of the model are read from the record's events; those that a fallback hid are in no trace: for them
        there is `upstream_failed`.
        """
        route = self._route(record.model, record.policy)
        status = route.statuses.get(record.status)
        if status is None:
            status = self._requests.labels(record.model, record.policy, str(record.status))
            route.statuses[record.status] = status
        status.inc()
        route.seconds.observe(record.seconds)
        self._overhead.observe(overhead_s)
        self._queue.observe(record.queue_s)
        if first_token_s is not None:
            route.first_token.observe(first_token_s)
        if record.samples:
            route.branches.inc(record.samples)
        if record.stop_reason is not None:
            stopped = route.stop_reasons.get(record.stop_reason)
            if stopped is None:
                stopped = self._stop_reasons.labels(record.model, record.policy, record.stop_reason)
                route.stop_reasons[record.stop_reason] = stopped
            stopped.inc()
        for purpose, usage in record.usage_by_purpose.items():
            bill = self._bill(record.model, purpose)
            bill.prompt.inc(usage["prompt_tokens"])
            bill.output.inc(usage["output_tokens"])
            bill.cached.inc(usage.get("cached_tokens") or 0)
            if usage["cost_usd"] is None:
                bill.unpriced.inc(usage["calls"])
            else:
                bill.cost.inc(usage["cost_usd"])
        for event in record.events or ():
            if event["event"] == "failed":
                self.upstream_failed(record.model, event["status"])

    def refused(self, status: int) -> None:
        """Count a request that never became a run: a wrong key, body, model or route."""
        self._requests.labels("", "", str(status)).inc()

    def upstream_failed(self, model: str, status: int | None) -> None:
        """Count a failed call to a model; `status` is `None` where no response came."""
        self._failures.labels(model, "none" if status is None else str(status)).inc()

    def feedback(self, model: str, policy: str, correct: bool | None) -> None:
        """Count feedback; `correct` is `None` where only a score was given."""
        outcome = "scored" if correct is None else "correct" if correct else "wrong"
        self._feedback.labels(model, policy, outcome).inc()

    def render(self) -> bytes:
        """The text that Prometheus reads, of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _route(self, model: str, policy: str) -> _Route:
        route = self._routes.get((model, policy))
        if route is None:
            route = self._routes[model, policy] = _Route(
                self._seconds.labels(model, policy),
                self._first_token.labels(model, policy),
                self._branches.labels(model, policy),
            )
        return route

    def _bill(self, model: str, purpose: str) -> _Bill:
        bill = self._bills.get((model, purpose))
        if bill is None:
            bill = self._bills[model, purpose] = _Bill(
                prompt=self._tokens.labels(model, purpose, "prompt"),
                output=self._tokens.labels(model, purpose, "output"),
                cached=self._tokens.labels(model, purpose, "cached"),
                cost=self._cost.labels(model, purpose),
                unpriced=self._unpriced.labels(model, purpose),
            )
        return bill
