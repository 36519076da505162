"""Reserve before spending, settle after.

Invariant at every level: spent + held <= budget, whatever runs in parallel, as long as a call costs no more than its
reservation (the session reserves upper bounds). Ledgers nest: a reservation holds at every level or at none.

A level may have only part of its budget in hand and fetch more when a reservation needs it: `accounting/leases.py`.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from types import TracebackType
from typing import Any

from thinkscale.accounting.prices import Price
from thinkscale.errors import BudgetExhausted, UsageError
from thinkscale.types import Budget, Usage

_ROUNDING = 1e-12  # dollars; sums of floats must not refuse a call that fits exactly
_UNLIMITED = (float("inf"),) * 4


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model request may cost at most: one prompt, and up to `n` samples of up to `max_tokens` each.

    The ledger may grant fewer samples now, and, when nothing outstanding could free more, a shorter last one, but
    never one shorter than `min_tokens`. `price` is `None` where unknown.
    """

    prompt_tokens: int
    max_tokens: int
    n: int = 1
    min_tokens: int = 1
    price: Price | None = None
    purpose: str = "generate"

    def cost(self, n: int, max_tokens: int) -> Usage:
        output = n * max_tokens
        return Usage(
            prompt_tokens=self.prompt_tokens,
            output_tokens=output,
            calls=n,
            requests=1,
            cached_tokens=None,
            cost_usd=self.price.cost_usd(self.prompt_tokens, output) if self.price else None,
        )


class Reservation:
    """Budget held for one model request: `n` samples of at most `max_tokens` output tokens each.

    Use it as a context manager. Left unsettled (a crash or a cancellation nobody could count), it is charged whole.
    """

    def __init__(self, ledger: Ledger, claim: Claim, n: int, max_tokens: int) -> None:
        self.n = n
        self.max_tokens = max_tokens
        self.claim = claim
        self.held = claim.cost(n, max_tokens)
        self._ledger: Ledger | None = ledger

    @property
    def settled(self) -> bool:
        return self._ledger is None

    def settle(self, usage: Usage) -> Usage:
        """Replace the hold by what the call really used, priced. Settling twice is an error."""
        if self._ledger is None:
            raise RuntimeError("this reservation was settled already")
        ledger, self._ledger = self._ledger, None
        price = self.claim.price
        cost = price.cost_usd(usage.prompt_tokens, usage.output_tokens) if price else None
        priced = replace(usage, cost_usd=cost)
        ledger._settle(self, priced)
        return priced

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ledger is not None:
            self.settle(self.held)


_arrivals = itertools.count()
_by_arrival = attrgetter("number")


class _Turn:
    """One reservation's place in the queue of the level that blocks it: large claims are not starved by small ones.

    Queues are in order of arrival, whichever level a reservation waited at before. Two that wait at different levels
    could otherwise each stand behind the other for ever.
    """

    def __init__(self) -> None:
        self.number = next(_arrivals)
        self.woken = asyncio.Event()
        self._level: Ledger | None = None

    async def at(self, level: Ledger) -> None:
        """Wait, in line, for something to change at `level`."""
        if self._level is not level:
            self.leave()
            self._level = level
            bisect.insort(level._waiting, self, key=_by_arrival)
        self.woken.clear()
        await self.woken.wait()

    def leave(self) -> None:
        """Give up the place; the next in line may have room now."""
        if self._level is not None:
            level, self._level = self._level, None
            level._waiting.remove(self)
            level._wake_first()


class Ledger:
    """The account of one request, key or deployment. `parent` is the account it draws on in turn; `name` is what a
    refusal calls this one.
    """

    def __init__(self, budget: Budget | None = None, *, parent: Ledger | None = None, name: str = "the budget") -> None:
        self.budget = budget or Budget()
        self.parent = parent
        self.name = name
        self.spent = Usage()
        self.by_purpose: dict[str, Usage] = {}
        self._outstanding: set[Reservation] = set()
        self._held = Usage()
        self._waiting: list[_Turn] = []

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit hangs on how many tokens a prompt has, here or at a level above."""
        mine = self.budget.max_total_tokens is not None or self.budget.max_cost_usd is not None
        return mine or (self.parent is not None and self.parent.counts_tokens)

    @property
    def held(self) -> Usage:
        """The sum of what outstanding reservations may still cost."""
        return self._held

    def room(self, claim: Claim) -> int | None:
        """How many samples surely fit now, in requests of up to the claim's `n`; `None` where nothing limits them."""
        most = min(level._whole_samples(claim) for level in self._levels())
        return None if most == float("inf") else max(0, int(most))

    async def reserve(self, claim: Claim) -> Reservation:
        """Hold as many of the claim's samples as fit now; wait for settlements if none does, in order of arrival.

        Raises `BudgetExhausted` when no sample fits and nothing outstanding could make room, and `UsageError` when a
        dollar budget meets a model without a known price.
        """
        levels = list(self._levels())
        if claim.price is None and any(level.budget.max_cost_usd is not None for level in levels):
            raise UsageError(
                "a dollar budget needs a price, and none is known for this model: give one (--price IN/OUT, or `price` "
                "in the gateway's configuration)"
            )
        turn = _Turn()
        try:
            while True:
                self._refuse_the_hopeless(levels, claim)
                busy = self._to_wait_for(levels, turn, claim)
                if busy is not None:
                    await turn.at(busy)
                    continue
                n, max_tokens = self._most(levels, claim)
                fetching = [level._fetching(claim, n, max_tokens) for level in levels]
                if not any(fetching):
                    return self._hold(levels, claim, n, max_tokens)
                await asyncio.gather(*filter(None, fetching))
        finally:
            turn.leave()

    def _fetching(self, claim: Claim, n: int, max_tokens: int) -> Coroutine[Any, Any, None] | None:
        """Where part of the budget's room for these samples must be fetched first: the fetching of it, after which it
        is there, or known not to be. `None` where all is in hand.
        """
        return None

    def _called(self, limit: str) -> str:
        """What a refusal calls this limit."""
        return f"{self.name}'s {limit}"

    def _retry_after_s(self, limit: str) -> float | None:
        """When this limit may have room again, beyond what is outstanding here; `None`: never."""
        return None

    def _levels(self) -> Iterator[Ledger]:
        level: Ledger | None = self
        while level is not None:
            yield level
            level = level.parent

    @staticmethod
    def _to_wait_for(levels: list[Ledger], turn: _Turn, claim: Claim) -> Ledger | None:
        """The level whose next settlement may make more room for the claim, `None` where it has what it can get."""
        blocking = next((level for level in levels if not level._lets(turn, claim)), None)
        if blocking is None or blocking._outstanding or not blocking._is_first(turn):
            return blocking
        # Nothing can make more room here. Levels above may be busy: their turn comes after.
        return next((level for level in levels if level._outstanding and not level._lets(turn, claim)), None)

    @staticmethod
    def _most(levels: list[Ledger], claim: Claim) -> tuple[int, int]:
        """How many samples fit, and of how many output tokens: one last, shortened sample where no whole one does."""
        n = min(level._samples_that_fit(claim) for level in levels)
        return (n, claim.max_tokens) if n else (1, Ledger._last_sample(levels, claim))

    def _hold(self, levels: list[Ledger], claim: Claim, n: int, max_tokens: int) -> Reservation:
        reservation = Reservation(self, claim, n, max_tokens)
        for level in levels:
            level._outstanding.add(reservation)
            level._held += reservation.held
        return reservation

    def _settle(self, reservation: Reservation, usage: Usage) -> None:
        purpose = reservation.claim.purpose
        for level in self._levels():
            level._outstanding.discard(reservation)
            # Starting anew when nothing is out keeps the rounding of dollars from piling up.
            level._held = level._held - reservation.held if level._outstanding else Usage()
            level.spent += usage
            level.by_purpose[purpose] = level.by_purpose.get(purpose, Usage()) + usage
            level._wake_first()

    def _wake_first(self) -> None:
        if self._waiting:
            self._waiting[0].woken.set()

    def _is_first(self, turn: _Turn) -> bool:
        return not self._waiting or self._waiting[0].number >= turn.number

    def _lets(self, turn: _Turn, claim: Claim) -> bool:
        """Whether this level has room for a sample, and nobody who came earlier waits for it."""
        return self._is_first(turn) and self._samples_that_fit(claim) > 0

    @staticmethod
    def _refuse_the_hopeless(levels: list[Ledger], claim: Claim) -> None:
        """Fail at once where a level has nothing outstanding and no room for even the shortest sample."""
        idle = [level for level in levels if not level._outstanding]
        if idle:
            Ledger._last_sample(idle, claim)

    def _left(self) -> tuple[float, float, float, float]:
        """What may still be reserved: calls, output tokens, total tokens, dollars; infinite where unlimited."""
        budget = self.budget
        if budget.max_calls is budget.max_output_tokens is budget.max_total_tokens is budget.max_cost_usd is None:
            return _UNLIMITED
        used = self.spent + self.held

        def left(limit: float | None, amount: float | None) -> float:
            return float("inf") if limit is None else limit - (amount or 0)

        return (
            left(budget.max_calls, used.calls),
            left(budget.max_output_tokens, used.output_tokens),
            left(budget.max_total_tokens, used.total_tokens),
            left(budget.max_cost_usd, used.cost_usd) + _ROUNDING,
        )

    def _whole_samples(self, claim: Claim) -> float:
        calls, output, total, dollars = self._left()

        def fit(left: float, fixed: float, each: float) -> float:
            if left == float("inf") or fixed + each == 0:
                return float("inf")
            requests, rest = divmod(left, fixed + each * claim.n)
            beyond = (rest - fixed) // each if each else claim.n - 1.0
            return requests * claim.n + min(max(beyond, 0), claim.n - 1)

        price = claim.price or Price(0, 0)
        return min(
            calls,
            fit(output, 0, claim.max_tokens),
            fit(total, claim.prompt_tokens, claim.max_tokens),
            fit(dollars, price.cost_usd(claim.prompt_tokens, 0), price.cost_usd(0, claim.max_tokens)),
        )

    def _samples_that_fit(self, claim: Claim) -> int:
        calls, output, total, dollars = self._left()
        most = min(claim.n, calls, output // claim.max_tokens, (total - claim.prompt_tokens) // claim.max_tokens)
        if claim.price and self.budget.max_cost_usd is not None:
            fixed, each = claim.price.cost_usd(claim.prompt_tokens, 0), claim.price.cost_usd(0, claim.max_tokens)
            if fixed > dollars:
                return 0
            if each > 0:
                most = min(most, (dollars - fixed) // each)
        return max(0, int(most))

    @staticmethod
    def _last_sample(levels: list[Ledger], claim: Claim) -> int:
        """The output tokens that one final, shortened sample may have."""
        longest, binding, at = float(claim.max_tokens), "", levels[0]
        for level in levels:
            calls, output, total, dollars = level._left()
            room = {
                "max_calls": longest if calls >= 1 else 0.0,
                "max_output_tokens": output,
                "max_total_tokens": total - claim.prompt_tokens,
            }
            if claim.price and level.budget.max_cost_usd is not None:
                spare = dollars - claim.price.cost_usd(claim.prompt_tokens, 0)
                each = claim.price.cost_usd(0, 1)
                room["max_cost_usd"] = spare // each if each > 0 else (longest if spare >= 0 else 0.0)
            for limit, tokens in room.items():
                if tokens < longest:
                    longest, binding, at = tokens, limit, level
        if longest < min(claim.min_tokens, claim.max_tokens):
            raise BudgetExhausted(
                binding,
                f"{at._called(binding)} has no room for another call, whose prompt takes {claim.prompt_tokens} tokens",
                retry_after_s=at._retry_after_s(binding),
            )
        return int(longest)
