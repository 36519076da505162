"""What verifiers ask and pay through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from thinkscale.accounting import Claim, Ledger, Price, Reservation
from thinkscale.errors import BudgetExhausted
from thinkscale.models.base import Model
from thinkscale.session.fanout import emit_settled
from thinkscale.trace import Trace
from thinkscale.types import Candidate, Params, Prompt, Usage
from thinkscale.verifiers.base import Charge, Generate


class Meter:
    """`Metered` for one session: `generate` asks a model, `charge` pays a server that only reads. `out_of_budget` hears
    when the budget has no room for that.
    """

    def __init__(
        self, generate: Generate, ledger: Ledger, trace: Trace, out_of_budget: Callable[[BudgetExhausted], None]
    ) -> None:
        self._generate = generate
        self._ledger = ledger
        self._trace = trace
        self._out_of_budget = out_of_budget

    async def __call__(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]:
        return await self._generate(prompt, params, n=n, model=model)

    @asynccontextmanager
    async def charge(self, prompt_tokens: int, *, price: Price | None = None) -> AsyncIterator[Charge]:
        try:
            # The ledger counts room in output tokens, so a trip that only reads holds one.
            hold = await self._ledger.reserve(Claim(prompt_tokens, 1, price=price, purpose="verify"))
        except BudgetExhausted as full:
            self._out_of_budget(full)
            raise
        self._trace.emit("call", purpose="verify", path=(), n=1, max_tokens=0)
        reading = _Reading(hold, self._trace)
        try:
            yield reading
        finally:
            reading.leave()


class _Reading:
    """One trip of a reader to its server; unsettled it is charged at what it might have read."""

    def __init__(self, hold: Reservation, trace: Trace) -> None:
        self._hold = hold
        self._trace = trace

    def settle(self, prompt_tokens: int) -> None:
        self._settle(Usage(prompt_tokens, calls=1, requests=1, cached_tokens=None))

    def leave(self) -> None:
        if not self._hold.settled:
            self._settle(self._hold.held)

    def _settle(self, usage: Usage) -> None:
        emit_settled(self._trace, self._hold, usage, [()])
