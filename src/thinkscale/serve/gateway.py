"""One request through the house: the key's account, a place inside, the engine, and the record of what it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thinkscale import strategies
from thinkscale.accounting import Ledger
from thinkscale.engine import unread
from thinkscale.errors import ThinkscaleError
from thinkscale.models.base import Model
from thinkscale.policies.features import request_features
from thinkscale.serve.admission import Admission, Ticket
from thinkscale.serve.cache import Computed, ResponseCache, cache_key
from thinkscale.serve.deployment import Deployment, Route
from thinkscale.serve.faults import fault_of
from thinkscale.serve.learning import Learning
from thinkscale.serve.logs import access, request_id
from thinkscale.serve.metrics import Metrics
from thinkscale.serve.upstream import Upstream
from thinkscale.store.accounts import Accounts
from thinkscale.store.keys import Key
from thinkscale.store.records import Records, RequestRecord
from thinkscale.strategies.auto import Auto
from thinkscale.trace import Event, Listener
from thinkscale.types import Request, Result, Usage, flat

_GONE = 499
"""The status noted for a client that went away before its answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, ready to run. `id` is its trace's. `n` > 1 wants that many samples as they are, which only `single`
    gives. `seeded`: the client chose the seed, rather than none. `carrier` are the headers of the request, where they
    may name a trace to continue.
    """

    id: str
    route: Route
    request: Request
    model: str
    key: Key | None = None
    n: int = 1
    seeded: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    carrier: Mapping[str, str] = field(default_factory=dict)

    @property
    def passes_through(self) -> bool:
        """Whether the client gets samples as they are, token by token, rather than a decision over several."""
        return self.route.strategy == "single"

    @property
    def automatic(self) -> bool:
        """Whether the policy in service decides, if there is one."""
        return isinstance(strategies.parse(self.route.strategy), Auto)

    @property
    def drawn_by(self) -> str:
        """The strategy that draws the samples; of several that pass through, nobody's vote is looked at."""
        return self.route.strategy if self.n == 1 else f"self-consistency:n={self.n}"


class Gateway:
    """What all routes share. `spans` hears the runs where tracing to OpenTelemetry is on."""

    def __init__(
        self,
        deployment: Deployment,
        *,
        accounts: Accounts,
        admission: Admission,
        records: Records,
        metrics: Metrics,
        learning: Learning,
        cache: ResponseCache[Result] | None = None,
        spans: Any | None = None,
    ) -> None:
        self.deployment = deployment
        self.accounts = accounts
        self.admission = admission
        self.records = records
        self.metrics = metrics
        self.learning = learning
        self.cache = cache
        self.spans = spans

    async def answer(
        self, ask: Ask, *, listeners: tuple[Listener, ...] = (), upstream: Upstream | None = None
    ) -> Result:
        """Solve a request on its key's account and keep the record of it, whatever becomes of it.

        Raises what `Engine.solve` raises, `TooManyRequests` where there is no place, `BudgetExhausted` where the key's
        allowance is used up.
        """
        if self.cache is None or listeners or upstream:
            return await self._run(ask, listeners, upstream or Upstream())

        async def compute() -> Computed[Result]:
            result = await self._run(ask, (), Upstream())
            return Computed(result, _size(result), result.stop_reason)

        result, known = await self.cache.get(_identity(ask), compute)
        return await self._again(ask, result) if known else result

    async def _again(self, ask: Ask, result: Result) -> Result:
        """An answer that was given before, as this request's: it counts as a request, and costs nothing."""
        at = time.time()
        if ask.key is not None:
            await self.accounts.admit(ask.key)
        result = replace(result, trace_id=ask.id, usage=Usage(), usage_by_purpose={}, seconds=0.0)
        record = _record(ask, at, time.time() - at, 0.0, 200, [], result)
        self.records.add(record)
        self.metrics.finished(record, overhead_s=record.seconds, first_token_s=None)
        access(record, request_id.get() or ask.id)
        return result

    async def _run(self, ask: Ask, listeners: tuple[Listener, ...], upstream: Upstream) -> Result:
        at, began = time.time(), time.monotonic()
        events: list[Event] = []
        heard = (events.append, *listeners)
        span = None
        if self.spans is not None:
            span = self.spans.listener(model=ask.route.served.name, policy=ask.route.policy, headers=ask.carrier)
            heard += (span,)
        result: Result | None = None
        context: Mapping[str, float] | None = None
        queue_s, status = 0.0, 200
        try:
            async with self.admission.enter(ask.key.id if ask.key else "") as ticket:
                account = await self.accounts.admit(ask.key) if ask.key is not None else None
                if ask.automatic:
                    context = request_features(ask.request)
                try:
                    result = await self._solve(ask, account, ticket, upstream, heard)
                finally:
                    queue_s = ticket.queue_s
            return result
        except asyncio.CancelledError:
            status = _GONE
            raise
        except ThinkscaleError as error:
            status = fault_of(error).status
            raise
        except BaseException:
            status = 500
            raise
        finally:
            seconds = time.monotonic() - began
            policy = self.deployment.config.policies.get(ask.route.policy)
            own = policy is not None and policy.verifier == ask.route.verifier_word
            record = _record(ask, at, seconds, queue_s, status, events, result, context, own_verifier=own)
            self.records.add(record)
            if _chosen(events) is not None:
                self.learning.charged(record)
            self.metrics.finished(
                record,
                overhead_s=max(0.0, seconds - upstream.busy_s - queue_s),
                first_token_s=upstream.first_token_s,
            )
            if span is not None:
                span.end(status=status)
            access(record, request_id.get() or ask.id)

    async def _solve(
        self, ask: Ask, account: Ledger | None, ticket: Ticket, upstream: Upstream, listeners: tuple[Listener, ...]
    ) -> Result:
        def through(model: Model) -> Model:
            return self.deployment.slots_of(model).gate(upstream.through(model), ticket)

        served = ask.route.served
        controller = None
        if ask.automatic:
            able = {"verifier": ask.route.verifier is not None, "larger": served.engine.larger is not None}
            controller = self.learning.controller(served.name, ask.request, **able)
        with self.metrics.in_flight():
            return await served.engine.solve(
                ask.request,
                strategy=ask.drawn_by,
                budget=ask.route.budget,
                verifier=ask.route.verifier,
                account=account,
                through=through,
                listeners=listeners,
                trace_id=ask.id,
                controller=controller,
                canonical=unread if ask.passes_through else None,
            )


def _record(
    ask: Ask,
    at: float,
    seconds: float,
    queue_s: float,
    status: int,
    events: list[Event],
    result: Result | None,
    context: Mapping[str, float] | None = None,
    *,
    own_verifier: bool = False,
) -> RequestRecord:
    """`own_verifier`: the operator chose it, so its yes or no may be learned from."""
    bill = _bill(events)
    costs = [part["cost_usd"] for part in bill.values()]
    chosen = _chosen(events)
    verdict, passed = _judged(events, result) if result else (None, None)
    return RequestRecord(
        trace_id=ask.id,
        at=at,
        key=ask.key.name if ask.key else "",
        model=ask.route.served.name,
        policy=ask.route.policy,
        strategy=chosen["strategy"] if chosen else ask.route.strategy,
        probability=chosen["probability"] if chosen else 1.0,
        context=context,
        verdict=verdict,
        passed=passed if own_verifier else None,
        budget={name: limit for name, limit in flat(ask.route.budget).items() if limit is not None},
        status=status,
        stop_reason=result.stop_reason if result else None,
        confidence=result.confidence if result else None,
        prompt_tokens=sum(part["prompt_tokens"] for part in bill.values()),
        output_tokens=sum(part["output_tokens"] for part in bill.values()),
        calls=sum(part["calls"] for part in bill.values()),
        samples=result.samples if result else sum(event["event"] == "candidate" for event in events),
        cost_usd=None if None in costs else sum(costs),
        seconds=seconds,
        queue_s=queue_s,
        usage_by_purpose=bill,
        events=events,
    )


def _chosen(events: list[Event]) -> Event | None:
    """The decision with which a policy handed the request over to a strategy."""
    return next((event for event in events if event["event"] == "decision" and event["action"] == "run"), None)


def _judged(events: list[Event], result: Result) -> tuple[float | None, bool | None]:
    """The verifier's last word on the answer that was given: its score, and its hard yes or no."""
    for event in reversed(events):
        if event["event"] == "verdict" and event["path"] == result.candidate.path:
            passed: bool | None = event["passed"]
            score: float | None = event["score"]
            return (score if passed is None else float(passed)), passed
    return None, None


def _size(result: Result) -> int:
    """About how many bytes a result takes in memory."""
    candidates = result.candidates
    return sum(len(one.text + one.reasoning) + len(str(one.tool_calls)) + 200 * len(one.tokens) for one in candidates)


def _bill(events: list[Event]) -> dict[str, dict[str, Any]]:
    """What was charged, by purpose, from the settlements: there whether or not a result was."""
    bill: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "settle":
            part = bill.get(event["purpose"])
            if part is None:
                bill[event["purpose"]] = {field: event[field] for field in _BILLED}
                continue
            for name in _BILLED:
                value = event[name]
                part[name] = None if value is None or part[name] is None else part[name] + value
    return bill


_NO_SEED = 2**63  # beyond those that a client may give
_BILLED = ("prompt_tokens", "output_tokens", "calls", "cached_tokens", "cost_usd")


def _identity(ask: Ask) -> str:
    """The key of the response cache: everything that an answer depends on."""
    route = ask.route
    return cache_key(
        ask.request if ask.seeded else replace(ask.request, seed=_NO_SEED),
        model=route.served.name,
        strategy=ask.drawn_by,
        budget=route.budget,
        verifier=route.verifier_word,
        n=ask.n,
        key_id=ask.key.id if ask.key else "",
    )
