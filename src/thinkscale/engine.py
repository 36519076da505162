"""The composition root: a request goes in, a strategy spends compute on it under a budget, a result comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Self

from thinkscale import strategies
from thinkscale.accounting import Ledger, Price
from thinkscale.errors import NoAnswer
from thinkscale.models.base import Model
from thinkscale.policies import Fixed, Policy
from thinkscale.session import Canonical, Session, Through, as_it_is
from thinkscale.strategies import selection
from thinkscale.trace import Listener, Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Controller, Plan, Request, Result, Selection, flat
from thinkscale.verifiers.answers import answer_of
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.equivalence import Answers, equivalent
from thinkscale.verifiers.judge import question_of
from thinkscale.verifiers.math_worker import MathWorker


class Engine:
    """Answers requests with one model. Use it as an async context manager; it opens and closes the model.

    `verifier` and `policy` apply where a call names none. `price` is the main model's, `None` where unknown;
    `price_of` finds those of other models (a judge's). `auto` makes the controller that the strategy `auto` follows, or
    `None` for its default; `larger` is the model that it may escalate to, opened and closed by the caller.
    """

    def __init__(
        self,
        model: Model,
        *,
        verifier: Verifier | None = None,
        policy: Policy | None = None,
        price: Price | None = None,
        price_of: Callable[[Model], Price | None] = lambda _model: None,
        auto: Callable[[Request], Controller | None] = lambda _request: None,
        larger: Model | None = None,
    ) -> None:
        self.model = model
        self.verifier = verifier
        self.policy = policy or Fixed()
        self.price = price
        self.auto = auto
        self.larger = larger
        self._price_of = price_of
        self._math = MathWorker()
        self._running: set[Session] = set()

    async def __aenter__(self) -> Self:
        await self.model.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._math.aclose()
        await self.model.aclose()

    async def solve(
        self,
        request: Request,
        *,
        strategy: str | None = None,
        budget: Budget | None = None,
        verifier: Verifier | None = None,
        account: Ledger | None = None,
        interrupt: asyncio.Event | None = None,
        through: Through = as_it_is,
        listeners: tuple[Listener, ...] = (),
        trace_id: str | None = None,
        controller: Controller | None = None,
        canonical: Canonical | None = None,
    ) -> Result:
        """Solve one request.

        `strategy` (`name:key=value,...`) overrides the policy's, not its budget. `account` is a ledger of a wider
        scope (a key, a deployment) that this request draws on too. Setting `interrupt` ends the run with the best
        answer so far.
        `through` wraps each model the request uses, a judge's too (to record its samples, say). `listeners` hear every
        trace event as it happens. `trace_id` names the run, a fresh one by default. `controller` is what the strategy
        `auto` follows in this run. `canonical` tells a candidate's answer in place of the usual reading of its text;
        `unread` looks for none, for samples that are passed on as they are.

        Raises `UsageError` for a wrong strategy or a missing verifier, `ModelError` when no sample succeeded, and
        `NoAnswer` when the budget or deadline ended the run before there was anything to return.
        """
        trace = Trace(listeners=listeners, id=trace_id)
        plan = self.policy.plan(request, budget or Budget())
        if strategy:
            plan = Plan(strategy, plan.budget)
        run = strategies.parse(plan.strategy)
        trace.emit("request", id=request.id, kind=request.kind, prompt=question_of(request.prompt), seed=request.seed)
        trace.emit("plan", strategy=plan.strategy, budget=flat(plan.budget))
        ledger = Ledger(plan.budget, parent=account)
        answers = Answers(request.kind, math=self._math)
        session = Session(
            request,
            model=self.model,
            ledger=ledger,
            trace=trace,
            canonical=canonical or answers.canonical,
            verifier=verifier or self.verifier,
            price_for=self.price_for,
            through=through,
            controller=controller or self.auto(request),
            larger=self.larger,
        )
        loop = asyncio.get_running_loop()
        deadline = plan.budget.deadline_s
        timer = loop.call_later(deadline, session.halt, "deadline") if deadline is not None else None
        watcher = asyncio.create_task(_relay(interrupt, session)) if interrupt else None
        self._running.add(session)
        try:
            selected = await self._decide(run, session)
        finally:
            self._running.discard(session)
            if timer:
                timer.cancel()
            if watcher:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher
        if selected.stop_reason == "complete" and session.ended:
            selected = replace(selected, stop_reason=session.ended)
        result = Result(
            candidate=selected.candidate,
            confidence=selected.confidence,
            stop_reason=selected.stop_reason,
            usage=ledger.spent,
            usage_by_purpose=dict(ledger.by_purpose),
            seconds=trace.seconds,
            samples=len(session.candidates),
            strategy=session.ran or plan.strategy,
            trace_id=trace.id,
            candidates=tuple(sorted(session.candidates, key=lambda candidate: candidate.path)),
        )
        trace.emit(
            "result",
            answer=result.answer,
            path=result.candidate.path,
            confidence=result.confidence,
            stop_reason=result.stop_reason,
            usage=flat(result.usage),
        )
        return result

    async def _decide(self, run: strategies.Strategy, session: Session) -> Selection:
        try:
            return await run(session)
        except NoAnswer:
            fallback = _best_so_far(session)
            if fallback is not None:
                return fallback
            if session.error is not None and session.ended in (None, "failed", "budget"):
                raise session.error from None
            reason = session.ended or "failed"
            why = f": {session.exhausted}" if session.exhausted else ""
            raise NoAnswer(
                reason, f"no answer, the run ended ({reason}) before any sample finished{why}", session.spent
            ) from session.exhausted

    def interrupt(self) -> None:
        """End every run under way with its best answer so far."""
        for session in list(self._running):
            session.halt("interrupted")

    async def equivalent(self, a: str, b: str, kind: AnswerKind) -> bool:
        """Whether two answers are the same by meaning."""
        return await equivalent(a, b, kind, math=self._math)

    def price_for(self, model: Model) -> Price | None:
        """What a model that a request uses costs, the main one or a judge's; `None` where unknown."""
        return self.price if model is self.model else self._price_of(model)


def _best_so_far(session: Session) -> Selection | None:
    """What the strategy last offered, else a plain vote over what finished, else the longest reply that was cut, one
    that had stated its answer first.
    """
    if session.offers:
        candidate, value = session.offers[-1]
        return Selection(candidate, value)
    if session.candidates:
        return selection.majority(session.candidates)
    kind = session.request.kind
    stated = [replace(one, answer=answer_of(one, kind)) for one in session.partial]
    fullest = max(stated, key=lambda one: (one.answer is not None, len(one.text)), default=None)
    return Selection(fullest) if fullest else None


async def unread(_candidate: Candidate) -> str | None:
    """No answer: see `Engine.solve`."""
    return None


async def _relay(interrupt: asyncio.Event, session: Session) -> None:
    await interrupt.wait()
    session.halt("interrupted")
