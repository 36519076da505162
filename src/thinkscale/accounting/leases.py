"""One limit, many processes: each leases a part of what is left, spends it in process, and gives back what lies idle.

Invariant over all processes: spent + leased <= limit, as long as a call costs no more than its reservation. A request
whose reservations fit what its process has in hand costs no trip to anybody.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

from thinkscale.accounting.ledger import Claim, Ledger
from thinkscale.types import Budget, Usage

Per = Literal["minute", "day", "month"]

_NANO = 10**9
_ROUNDING = 1e-3  # nanodollars; the ledger's own tolerance
_CHUNK = 20  # one trip fetches this part of the limit at least: few trips, and little kept from other processes
_SOON_S = 1.0  # others give back what lies idle about this often
_UNITS = {"max_total_tokens": "tokens", "max_cost_usd": "usd"}


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is counted per window. Whole numbers, so that sums over processes are exact; 0 where nothing is counted."""

    tokens: int = 0
    nano_usd: int = 0
    requests: int = 0

    @classmethod
    def of(cls, usage: Usage, requests: int = 0) -> Self:
        """Fractions of a nanodollar count as a whole one; an unknown cost as none, since no dollar limit allows it."""
        return cls(usage.total_tokens, math.ceil((usage.cost_usd or 0) * _NANO - _ROUNDING), requests)

    def __iter__(self) -> Iterator[int]:
        return iter((self.tokens, self.nano_usd, self.requests))

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*map(operator.add, self, other))

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(*map(operator.sub, self, other))

    def most(self, other: Amounts) -> Amounts:
        """The greater, amount by amount."""
        return Amounts(*map(max, self, other))

    def least(self, other: Amounts) -> Amounts:
        """The smaller, amount by amount."""
        return Amounts(*map(min, self, other))

    def where(self, other: Amounts) -> Amounts:
        """Only those of which `other` has any."""
        return Amounts(*(mine if theirs else 0 for mine, theirs in zip(self, other, strict=True)))


NOTHING = Amounts()
ONE = Amounts(1, 1, 1)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which an account's limits hold; Unix seconds, from `starts_at` up to `ends_at`, in UTC."""

    account: str
    per: Per
    starts_at: int
    ends_at: int

    @classmethod
    def at(cls, account: str, per: Per, now: float) -> Self:
        if per == "month":
            first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
            return cls(account, per, int(first.timestamp()), int(following.timestamp()))
        length = 60 if per == "minute" else 86400
        start = int(now // length) * length
        return cls(account, per, start, start + length)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a ledger tells its lender, all in sums since the ledger was made.

    It spent `spent`, does not let go of `keep`, would like to have `want`, and was last told to have `known`.
    """

    limit: Amounts
    spent: Amounts
    known: Amounts
    keep: Amounts
    want: Amounts


@dataclass(frozen=True, slots=True)
class Standing:
    """What a lender answers: what the ledger has in all, how much of that is charged as spent, and what others have."""

    leased: Amounts
    charged: Amounts
    spent_elsewhere: Amounts
    leased_elsewhere: Amounts


class Lender(Protocol):
    async def lend(self, ledger: LeasedLedger, need: Amounts) -> None:
        """Trade with the ledger, so that it has `need` in hand beyond what it uses, or learns that it cannot."""


class LeasedLedger(Ledger):
    """One window of an account, as one process sees it.

    `limit` holds for all processes together, `leased` is what this one may use of it; both include what was spent. What
    is not limited is not counted.

    A request draws on the window it was admitted in, however long it runs.
    """

    def __init__(
        self,
        window: Window,
        lender: Lender,
        *,
        name: str,
        clock: Callable[[], float],
        parent: Ledger | None = None,
    ) -> None:
        super().__init__(parent=parent, name=name)
        self.window = window
        self.limit = NOTHING
        self.leased = NOTHING
        self._lender = lender
        self._clock = clock
        self._requests = 0
        self._told = Standing(NOTHING, NOTHING, NOTHING, NOTHING)
        self._reported = NOTHING

    def limit_to(self, budget: Budget, requests: int | None) -> None:
        """Set what all processes together may use: `max_total_tokens` and `max_cost_usd`, and a number of requests."""
        self.budget = budget
        self.limit = Amounts(
            budget.max_total_tokens or 0,
            max(1, math.floor(budget.max_cost_usd * _NANO + _ROUNDING)) if budget.max_cost_usd is not None else 0,
            requests or 0,
        )

    @property
    def used(self) -> Amounts:
        """Spent and held; fractions are rounded up once, in the sum."""
        return Amounts.of(self.spent + self.held, self._requests).where(self.limit)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to report, to give back or to wait for."""
        busy = self._outstanding or self._waiting
        return not busy and self._spent() == self._reported and self._told.charged == self.leased

    def lacks(self, need: Amounts) -> bool:
        """Whether more of `need`, beyond what is used, may be had than is in hand."""
        if self.limit == NOTHING:
            return False
        wanted = (self.used + need.where(self.limit)).least(self._attainable())
        return any(have < due for have, due in zip(self.leased, wanted, strict=True))

    def used_up(self) -> tuple[str, float, bool] | None:
        """What leaves nothing for a new request, whatever the outstanding ones settle for; `None` where there is room.

        The unit that is used up, the seconds until that may change, and whether others may still give some back.
        """
        left = self._attainable() - self._spent()
        for unit, field in (("requests", "requests"), ("tokens", "tokens"), ("usd", "nano_usd")):
            if getattr(self.limit, field) and getattr(left, field) < 1:
                return unit, self._again_in(field), getattr(self._told.leased_elsewhere, field) > 0
        return None

    def count_request(self) -> None:
        """Use one of the requests in hand."""
        self._requests += 1

    def tidy(self, *, keep_some: bool) -> None:
        """Let go of what lies idle, but for a little where anything was spent since the last report."""
        used = self.used
        spare = self._chunk() if keep_some and self._spent() != self._reported else NOTHING
        self.leased = used.most(self.leased.least(used + spare))

    def offer(self, need: Amounts = NOTHING) -> Offer:
        need = need.where(self.limit)
        want = self.leased.most(self.used + need.most(self._chunk().where(need)))
        return Offer(self.limit, self._spent(), self._told.leased, self.leased, want)

    def settle_up(self, offer: Offer, standing: Standing) -> None:
        """Take what the lender answered to an offer."""
        self._reported = offer.spent
        self._told = standing
        self.leased = standing.leased
        self._wake_first()

    def forget_others(self) -> None:
        """What others use is old news: the next need asks."""
        self._told = replace(self._told, spent_elsewhere=NOTHING, leased_elsewhere=NOTHING)

    def make_do(self) -> None:
        """The lender cannot be reached: until the next report there is no more than what is in hand."""
        rest = self.limit - self._told.spent_elsewhere - self.leased
        self._told = replace(self._told, leased_elsewhere=rest.most(NOTHING))
        self._wake_first()

    def _spent(self) -> Amounts:
        return Amounts.of(self.spent, self._requests).where(self.limit)

    def _attainable(self) -> Amounts:
        return self.limit - self._told.spent_elsewhere - self._told.leased_elsewhere

    def _chunk(self) -> Amounts:
        limit = self.limit
        return Amounts(limit.tokens // _CHUNK, limit.nano_usd // _CHUNK, limit.requests // _CHUNK)

    def _again_in(self, field: str) -> float:
        if getattr(self._told.leased_elsewhere, field):
            return _SOON_S
        return max(0.0, self.window.ends_at - self._clock())

    def _fetching(self, claim: Claim, n: int, max_tokens: int) -> Coroutine[Any, Any, None] | None:
        if self.limit == NOTHING:
            return None
        need = Amounts.of(claim.cost(n, max_tokens))
        return self._lender.lend(self, need) if self.lacks(need) else None

    def _left(self) -> tuple[float, float, float, float]:
        calls, output, total, dollars = super()._left()
        others = self._told.spent_elsewhere + self._told.leased_elsewhere
        return calls, output, total - others.tokens, dollars - others.nano_usd / _NANO

    def _called(self, limit: str) -> str:
        return f"{self.name}: {_UNITS[limit]} per {self.window.per}"

    def _retry_after_s(self, limit: str) -> float | None:
        return self._again_in("tokens" if limit == "max_total_tokens" else "nano_usd")
