"""One budget for many requests: samples go where they gain most for their tokens.

The ledger that all requests draw on keeps the total, whatever is decided here; each request has it as its account. What
is decided here is who asks it for more.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from thinkscale.accounting import Ledger
from thinkscale.errors import UsageError
from thinkscale.policies.gain import CoverageGain, Gain, Prospect, VoteGain, gain_of
from thinkscale.types import Action, Controller, Request, Seen

_WINDOW = 20  # requests over which a stream makes up for what it spent too much or too little
_ENOUGH = Action("stop")
_SPENT = Action("stop", reason="budget")


class BatchAllocator:
    """Shares one total among a batch of requests by marginal gain (after Damani et al. 2024).

    Every request first draws what it begins with. Then always the request with the largest gain per token gets its next
    samples, until the total is spent or nobody has anything to gain. Another request is given more while fewer than
    `width` are drawing: 1 is strictly the best one first, more is faster and compares a little early.

    Where fewer requests run at a time than there are, those that run get more only as long as it gains what it would
    gain elsewhere: `Gain.price` of what is left per request. What the others begin with is set aside.

    A request waits only while another one is drawing, so that nobody waits for ever, whatever fails, ends or is
    cancelled. Raises `UsageError` for a ledger without `max_total_tokens`.
    """

    def __init__(self, gain: Gain, ledger: Ledger, requests: int, *, width: int = 1) -> None:
        self._gain = gain
        self._ledger = ledger
        self._total = _total(ledger)
        self._coming = requests
        self._width = width
        self._price = gain.price(self._total / max(requests, 1))
        self._first = gain.first(self._price)
        self._drawing: dict[object, float] = {}
        self._waiting: dict[object, _Wish] = {}

    @contextmanager
    def request(self) -> Iterator[Controller]:
        """The controller of one request, for as long as it runs."""
        who = object()

        async def more(seen: Seen) -> Action:
            return await self._more(who, seen)

        self._coming = max(0, self._coming - 1)
        self._drawing[who] = self._gain.tokens(Seen(), self._first)
        try:
            yield _Share(self._gain, more)
        finally:
            self._drawing.pop(who, None)
            self._share_out()

    async def _more(self, who: object, seen: Seen) -> Action:
        if not seen.drawn:
            return Action("draw", self._first)
        prospect = self._gain.prospect(seen, self._price)
        if prospect is None:
            return _ENOUGH
        wish = self._waiting[who] = _Wish(seen, prospect, asyncio.get_running_loop().create_future())
        del self._drawing[who]
        self._share_out()
        try:
            return await wish.decided
        finally:
            self._waiting.pop(who, None)

    def _share_out(self) -> None:
        """Give the best of those that wait more, while few enough are drawing; end them where nothing is left."""
        while len(self._drawing) < self._width:
            waiting = {
                who: wish for who, wish in self._waiting.items() if not wish.decided.done()
            }  # cancelled just now
            if not waiting:
                return
            free = self._total - self._ledger.spent.total_tokens - sum(self._drawing.values())
            left = free - self._coming * self._gain.tokens(Seen(), 1)
            fitting = [who for who, wish in waiting.items() if self._gain.tokens(wish.seen, 1) <= left]
            if not fitting:
                if not self._drawing:  # else what those leave over may do
                    self._end(waiting, _SPENT)
                return
            best = max(fitting, key=lambda who: waiting[who].prospect.rate)
            if self._coming and waiting[best].prospect.rate < self._gain.price(free / (self._coming + len(waiting))):
                self._end(waiting, _ENOUGH)
                return
            k = affordable(self._gain, waiting[best].seen, waiting[best].prospect.k, left)
            self._decide(best, Action("draw", k), self._gain.tokens(waiting[best].seen, k))

    def _end(self, waiting: dict[object, _Wish], action: Action) -> None:
        for who in waiting:
            self._decide(who, action, 0.0)

    def _decide(self, who: object, action: Action, tokens: float) -> None:
        """Until it comes back, or ends, it counts as drawing."""
        self._drawing[who] = tokens
        self._waiting.pop(who).decided.set_result(action)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a waiting request has seen and is promised, and what is decided for it."""

    seen: Seen
    prospect: Prospect
    decided: asyncio.Future[Action]


class StreamAllocator:
    """Shares one total among requests that come one by one, none waiting for another.

    A token has a price, the dual variable of the total: a request goes on while its gain per token is at least that.
    The price is the one at which, by the bank, requests spend what the pace leaves for each of those to come: where
    they spend more than the bank's did, less is left and the price goes up. A request keeps the price that it came at.
    Raises `UsageError` for a ledger without `max_total_tokens`.
    """

    def __init__(self, gain: Gain, ledger: Ledger, pace: Pace, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gain = gain
        self._ledger = ledger
        self._total = _total(ledger)
        self._pace = pace
        self._clock = clock
        self._since = clock()
        self._begun = 0
        self._ended = 0

    @property
    def price(self) -> float:
        """What a token of the next request must gain, in chances of a right answer."""
        spent = self._ledger.spent.total_tokens
        each = self._pace.tokens(self._total, spent, self._ended, self._clock() - self._since)
        return self._gain.price(each, spread(self._begun))

    @contextmanager
    def request(self) -> Iterator[Controller]:
        """The controller of one request, for as long as it runs."""
        price = self.price
        self._begun += 1

        async def more(seen: Seen) -> Action:
            free = self._total - (self._ledger.spent + self._ledger.held).total_tokens
            aside = self._pace.set_aside(self._begun) * self._gain.tokens(Seen(), 1)
            return next_of(self._gain, seen, price, free - aside)

        try:
            yield _Share(self._gain, more)
        finally:
            self._ended += 1


def next_of(gain: Gain, seen: Seen, price: float, left: float = math.inf) -> Action:
    """What a request does next that pays this price for a token and may have `left` of them. It draws one sample at
    least, which the budget may refuse.
    """
    if not seen.drawn:
        return Action("draw", affordable(gain, seen, gain.first(price), left))
    prospect = gain.prospect(seen, price)
    if prospect is None or prospect.rate < price:
        return _ENOUGH
    if gain.tokens(seen, 1) > left:
        return _SPENT
    return Action("draw", affordable(gain, seen, prospect.k, left))


def spread(place: int) -> float:
    """Numbers in [0, 1) that are spread evenly over it, however many are taken: multiples of the golden ratio."""
    return place * 0.6180339887498949 % 1


@dataclass(frozen=True)
class Pace:
    """How fast a stream may spend its total: evenly over `requests` to come, or `per_request` tokens each on average,
    or `per_second` tokens. Exactly one of them; raises `UsageError` otherwise.
    """

    requests: int | None = None
    per_request: float | None = None
    per_second: float | None = None

    def __post_init__(self) -> None:
        given = [one for one in (self.requests, self.per_request, self.per_second) if one is not None]
        if len(given) != 1 or not given[0] > 0:
            raise UsageError("a pace is one of requests, per_request and per_second, and larger than 0")

    def set_aside(self, begun: int) -> int:
        """How many requests are known to come, when so many have begun."""
        return 0 if self.requests is None else max(0, self.requests - begun)

    def tokens(self, total: float, spent: float, ended: int, seconds: float) -> float:
        """What the next request may spend, after `ended` ones in that time. Never more than is left."""
        if self.requests is not None:
            return (total - spent) / max(1, self.requests - ended)
        if self.per_request is not None:
            each, earned = self.per_request, self.per_request * ended
        else:
            earned = (self.per_second or 0.0) * seconds
            each = earned / max(1, ended)
        return min(each + (earned - spent) / _WINDOW, total - spent)


@dataclass(frozen=True)
class AllocationPolicy:
    """A gain as a policy for single requests: each draws as long as a token gains `price` right answers. For many that
    share one total, give the `gain` to `solve_batch`.
    """

    gain: VoteGain | CoverageGain
    price: float

    def controller(self, request: Request) -> Controller:
        async def more(seen: Seen) -> Action:
            return next_of(self.gain, seen, self.price)

        return _Share(self.gain, more)

    def body(self) -> dict[str, Any]:
        return {"price": self.price, "gain": self.gain.body()}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        price = float(body["price"])
        if not 0 <= price < math.inf:
            raise ValueError(f"the price of a token must be 0 or more, not {price}")
        return cls(gain_of(body["gain"]), price)


class _Share:
    """One request's controller. Where samples are checked, the first ones are; the session then checks all others."""

    def __init__(self, gain: Gain, more: Callable[[Seen], Awaitable[Action]]) -> None:
        self.features = gain.features
        self._more = more
        self._checks = gain.checks

    async def act(self, seen: Seen) -> Action:
        if seen.drawn and self._checks and not seen.verified:
            return Action("verify")
        return await self._more(seen)


def affordable(gain: Gain, seen: Seen, k: int, left: float) -> int:
    """At most k samples, as many as are likely to fit; one at least."""
    while k > 1 and gain.tokens(seen, k) > left:
        k -= 1
    return k


def _total(ledger: Ledger) -> int:
    total = ledger.budget.max_total_tokens
    if total is None:
        raise UsageError("what is shared is tokens: the total needs max_total_tokens, beside any other limit")
    return total
