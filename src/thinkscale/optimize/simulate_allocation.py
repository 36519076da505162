"""Requests that share one budget, over recorded samples; and what such sharing must beat, and cannot."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

import numpy as np

from thinkscale.optimize.requests import Requests, joined, priced, requests_of
from thinkscale.optimize.table import Bools, Floats, Ints, Outcomes, Table
from thinkscale.optimize.votes import leaders, leading, top_two
from thinkscale.policies.allocation import Pace, affordable, next_of, spread
from thinkscale.policies.gain import Gain
from thinkscale.types import Seen


def simulate_allocation(gain: Gain, table: Table, orders: Ints, total_tokens: float) -> Outcomes:
    """What `BatchAllocator` makes of the table's problems as one batch under one total, once for each of the [R, P, N]
    orders. All run at a time and the best one is served first. Where the gain checks samples, the checker is taken to
    know which are correct.

    The total is never passed: a sample that does not fit is cut, as it would be, is charged and has no vote. `rounds`
    counts a request's own batches, not its waits for others, and `seconds` are unknown.
    """

    def share(flight: _Flight) -> None:
        price = gain.price(total_tokens / len(table))
        begin = gain.first(price)
        wishes: list[tuple[float, int, int, int]] = []
        came = count()  # who has waited longest goes before others with the same rate
        todo = [request for request in range(len(table)) if flight.draw(request, begin)]
        while todo or wishes:
            for request in todo:
                prospect = gain.prospect(flight.seen(request), price)
                if prospect is not None:
                    heappush(wishes, (-prospect.rate, next(came), request, prospect.k))
            todo = []
            if wishes:
                _, _, request, k = heappop(wishes)
                seen = flight.seen(request)
                if gain.tokens(seen, 1) <= flight.left and flight.draw(request, affordable(gain, seen, k, flight.left)):
                    todo.append(request)

    return _each(gain.checks, table, orders, total_tokens, share)


def simulate_stream(gain: Gain, table: Table, orders: Ints, total_tokens: float, pace: Pace) -> Outcomes:
    """What `StreamAllocator` makes of the table's problems as they come one after another, in the table's order; else
    as `simulate_allocation`. For a pace per second, each request takes one.
    """

    def share(flight: _Flight) -> None:
        for request in range(len(table)):
            spent = total_tokens - flight.left
            price = gain.price(pace.tokens(total_tokens, spent, request, float(request)), spread(request))
            aside = pace.set_aside(request + 1) * gain.tokens(Seen(), 1)
            while True:
                action = next_of(gain, flight.seen(request), price, flight.left - aside)
                if action.kind != "draw" or not flight.draw(request, action.k):
                    break

    return _each(gain.checks, table, orders, total_tokens, share)


def simulate_uniform(table: Table, orders: Ints, total_tokens: float) -> Outcomes:
    """The same number of samples for every request, in one batch, and a vote: what the total affords. Of what is left
    over, as many requests as it affords get one sample more; which ones has nothing to do with the problems.
    """

    def share(flight: _Flight) -> None:
        tokens = flight.tokens()
        n = max((n for n in range(table.n + 1) if tokens[:, n].sum() <= total_tokens), default=0)
        left = total_tokens - tokens[:, n].sum()
        given: Ints = np.full(len(table), n)
        scattered = np.argsort([spread(request) for request in range(len(table))])
        if n < table.n:
            more = np.cumsum((tokens[:, n + 1] - tokens[:, n])[scattered])
            given[scattered[more <= left]] += 1
        flight.at_once(given)

    return _each(False, table, orders, total_tokens, share)


def simulate_oracle(table: Table, orders: Ints, total_tokens: float) -> Outcomes:
    """An oracle that sees every vote in advance, and which answer is right: each request gets one sample, or as many as
    first make the vote right, the cheapest first. No sharing of the total among votes can be right more often.
    """

    def share(flight: _Flight) -> None:
        tokens = flight.tokens()
        right = flight.right()
        needed = np.where(right[:, 1:].any(axis=1), right[:, 1:].argmax(axis=1) + 1, 1)
        extra = tokens[np.arange(len(table)), needed] - tokens[:, 1]
        cheapest = np.argsort(extra, kind="stable")
        fits = tokens[:, 1].sum() + np.cumsum(extra[cheapest]) <= total_tokens
        given = np.ones(len(table), np.int64)
        given[cheapest[fits]] = needed[cheapest[fits]]
        flight.at_once(given)

    return _each(False, table, orders, total_tokens, share)


def _each(checks: bool, table: Table, orders: Ints, total: float, share: Callable[[_Flight], None]) -> Outcomes:
    parts = []
    for order in orders:
        for requests in requests_of(table, order[None]):
            flight = _Flight(requests, total, checks)
            share(flight)
            parts.append(flight.outcomes())
    return joined(parts, (orders.shape[0], orders.shape[1]))


class _Flight:
    """One request for each problem, each with its own order of the samples, under one total."""

    def __init__(self, requests: Requests, total: float, checks: bool) -> None:
        table, size = requests.table, len(requests)
        self._requests = requests
        self._checks = checks
        self._answers = requests.see(table.answers)
        self._first, self._second = top_two(self._answers)
        self._output = _running(requests.see(table.output_tokens))
        self._hits = _running(requests.see(table.correct))
        self._prompts = table.prompt_tokens[requests.problem]
        self.left = float(total)
        self.drawn = np.zeros(size, np.int64)
        self._trips = np.zeros(size, np.int64)
        self._rounds = np.zeros(size, np.int64)
        self._lost = np.zeros(size, np.int64)

    def seen(self, request: int) -> Seen:
        drawn = int(self.drawn[request])
        votes = (int(self._first[drawn, request]), int(self._second[drawn, request]))
        return Seen(
            drawn=drawn,
            votes=tuple(count for count in votes if count),
            output_tokens=int(self._output[request, drawn]),
            prompt_tokens=int(self._prompts[request]),
            best=float(self._hits[request, drawn] > 0) if self._checks and drawn else None,
        )

    def draw(self, request: int, k: int) -> bool:
        """Draw up to k samples, as many as are there; whether all came. One that does not fit is cut, and lost."""
        drawn = int(self.drawn[request])
        k = min(k, self._requests.n - drawn)
        trips = -(-k // self._requests.table.max_n)
        prompts = int(self._prompts[request]) * trips
        if k <= 0 or prompts >= self.left:
            return False
        output = self._output[request, drawn : drawn + k + 1] - self._output[request, drawn]
        whole = int(np.searchsorted(output, self.left - prompts, side="right")) - 1
        took = float(output[k]) if whole == k else self.left - prompts
        self.left -= prompts + took
        self._lost[request] += int(took - output[whole])
        self.drawn[request] += whole
        self._trips[request] += trips
        self._rounds[request] += 1
        return whole == k

    def at_once(self, given: Ints) -> None:
        """Draw so many of each in one batch."""
        self.drawn = given.astype(np.int64)
        self._trips = -(-self.drawn // self._requests.table.max_n)
        self._rounds = (self.drawn > 0).astype(np.int64)

    def tokens(self) -> Ints:
        """What 0, 1, ..., N samples in one batch take: [P, N + 1]."""
        trips = -(-np.arange(self._requests.n + 1) // self._requests.table.max_n)
        whole: Ints = self._prompts[:, None] * trips + self._output
        return whole

    def right(self) -> Bools:
        """Whether the vote is right after 0, 1, ..., N samples: [P, N + 1]."""
        correct = self._requests.see(self._requests.table.correct)
        leader = leaders(self._answers).T
        known = np.zeros((len(leader), int(self._answers.max(initial=0)) + 2), np.bool_)
        np.logical_or.at(known, (np.arange(len(leader))[:, None], self._answers), correct)
        good: Bools = np.take_along_axis(known, leader, axis=1) & (leader >= 0)
        return good

    def outcomes(self) -> Outcomes:
        requests, table = self._requests, self._requests.table
        rows = np.arange(len(requests))
        among = np.arange(requests.n) < self.drawn[:, None]
        place = leading(self._answers, requests.finished(), among)
        if self._checks:
            passed = requests.see(table.correct) & among
            place = np.where(passed.any(axis=1), passed.argmax(axis=1), place)
        chosen = requests.order[rows, place]
        some = self.drawn > 0
        prompt_tokens = self._trips * self._prompts
        output = self._output[rows, self.drawn] + self._lost
        return Outcomes(
            correct=np.take(table.correct, chosen) & some,
            chosen=np.where(some, np.take(table.answers, chosen), -1),
            samples=self.drawn,
            prompt_tokens=prompt_tokens,
            output_tokens=output,
            rounds=self._rounds,
            cost_usd=priced(table.price, prompt_tokens, output),
        )


def _running(values: Ints | Bools | Floats) -> Ints:
    """Sums of the first 0, 1, ..., N values of each row: [M, N + 1]."""
    sums = np.zeros((len(values), values.shape[1] + 1), np.int64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums
