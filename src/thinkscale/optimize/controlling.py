"""Requests that follow a controller, all at once: it is asked once about whatever any of them has seen."""

from __future__ import annotations

import numpy as np

from thinkscale import strategies
from thinkscale.errors import UsageError
from thinkscale.optimize.requests import Requests, joined, orders_of_larger, priced, requests_of
from thinkscale.optimize.seeing import FEATURES, Sight, State, alike, by_likelihood
from thinkscale.optimize.simulate import scored_by, simulated, weights_of
from thinkscale.optimize.table import Bools, Floats, Ints, Outcomes, Table
from thinkscale.optimize.votes import leading, upto
from thinkscale.types import Action, Controller, Seen


def simulate_controller(
    controller: Controller,
    table: Table,
    orders: Ints,
    *,
    larger: Table | None = None,
    larger_orders: Ints | None = None,
    verifier: str | None = None,
    affordable: Ints | None = None,
) -> Outcomes:
    """What the strategy `auto` with this controller answers and spends on requests that see the samples in these
    [R, P, N] orders. Agrees exactly with `replayed`.

    `larger` holds the samples of the model that the controller may escalate to, on the same problems, seen in
    `larger_orders` [R, P, N'] (by default as recorded). `verifier` names the scores that `verify` finds; it may be left
    out where the table has one kind. `affordable` [R, P] is how many samples each request's budget holds, those of the
    larger model included; `None` for any number. Samples beyond those on record are not invented: the request goes on
    with what there is, ends where that is nothing, and counts as `missing`.

    Only the fields of `Seen` that `controller.features` names are filled in: "first" and "second" may stand for the two
    largest of `votes`. A controller is taken to act alike on what looks alike: one that acts by chance does so once for
    all that have seen the same. Raises `UsageError` for one that waits, or asks for what is not there.
    """
    shape = (orders.shape[0], orders.shape[1])
    unknown = controller.features - FEATURES
    if unknown:
        known = ", ".join(sorted(FEATURES))
        raise UsageError(f"a controller cannot look at {', '.join(sorted(unknown))}, only at {known}")
    above = None if larger is None else _whole(larger, orders_of_larger(table, larger, larger_orders, shape))
    budget = None if affordable is None else np.broadcast_to(affordable, shape).reshape(-1)
    asking = _Asking(controller)
    parts, first = [], 0
    for requests in requests_of(table, orders):
        part = slice(first, first := first + len(requests))
        flight = _Flight(
            requests,
            controller.features,
            None if above is None else Requests(above.table, above.problem[part], above.order[part]),
            verifier=verifier,
            left=None if budget is None else budget[part].astype(np.int64),
        )
        flight.run(asking)
        parts.append(flight.outcomes())
    return joined(parts, shape)


def _whole(table: Table, orders: Ints) -> Requests:
    """All requests in one."""
    parts = list(requests_of(table, orders))
    return Requests(table, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("problem", "order")))


class _Asking:
    """A controller's word on what was seen, asked for once."""

    def __init__(self, controller: Controller) -> None:
        self.features = controller.features
        self._controller = controller
        self._known: dict[Seen, Action] = {}

    def __call__(self, seen: Seen) -> Action:
        if seen not in self._known:
            self._known[seen] = self._act(seen)
        return self._known[seen]

    def _act(self, seen: Seen) -> Action:
        acting = self._controller.act(seen)
        try:
            acting.send(None)
        except StopIteration as done:
            action: Action = done.value
        else:
            acting.close()
            raise UsageError("a controller that waits for something cannot be simulated")
        if action.kind in ("draw", "escalate") and action.k < 1:
            raise UsageError(f"a controller must {action.kind} at least one sample, not {action.k}")
        return action


class _Flight:
    """M requests on their way. Each ends with the leader of its votes where it was not `settled` otherwise."""

    def __init__(
        self,
        requests: Requests,
        features: frozenset[str],
        larger: Requests | None,
        *,
        verifier: str | None,
        left: Ints | None,
    ) -> None:
        size = len(requests)
        self._requests, self._larger, self._verifier, self._left = requests, larger, verifier, left
        self._features = features
        self._scores: Floats | None = None
        self._drawn = np.zeros(size, np.int64)
        self._verified = np.zeros(size, np.bool_)
        self._settled = np.zeros(size, np.bool_)
        self._correct = np.zeros(size, np.bool_)
        self._chosen = np.full(size, -1)
        self._samples, self._prompt_tokens, self._output_tokens, self._rounds = np.zeros((4, size), np.int64)
        self._missing = np.zeros(size, np.bool_)
        self._seconds: Floats | None = np.zeros(size)
        self._cost_usd: Floats | None = None if requests.table.price is None else np.zeros(size)

    def run(self, asking: _Asking) -> None:
        """Ask and act until every request has ended."""
        sight = Sight(self._requests, asking.features)
        on = np.arange(len(self._requests))
        while len(on):
            state = State(on, self._drawn[on], self._verified[on], None if self._left is None else self._left[on])
            columns = sight.columns(state, self._scores)
            one, group = alike(columns, len(on))
            actions = [asking(sight.seen(columns, row)) for row in one.tolist()]
            effects = [(action.kind, action.k, action.strategy) for action in actions]
            numbers = {effect: number for number, effect in enumerate(dict.fromkeys(effects))}
            effect_of = np.array([numbers[effect] for effect in effects])[group]
            on = np.concatenate([self._act(*effect, on[effect_of == number]) for effect, number in numbers.items()])

    def outcomes(self) -> Outcomes:
        """What became of them; to be asked for once, when all have ended."""
        rows = np.flatnonzero(~self._settled & (self._drawn > 0))
        if len(rows):
            among = upto(self._drawn[rows])
            seen = self._requests.take(rows, 0, among.shape[1])
            likelier = by_likelihood(seen.table, self._features)
            weights = seen.see(seen.table.likelihoods) if likelier else np.ones(among.shape)
            if self._scores is not None:
                judged = self._verified[rows]
                weights[judged] = weights_of(self._scores[rows, : among.shape[1]], among)[judged]
            place = leading(seen.see(seen.table.answers), seen.finished(), among, weights)
            chosen = seen.order[np.arange(len(rows)), place]
            self._correct[rows] = np.take(seen.table.correct, chosen)
            self._chosen[rows] = np.take(seen.table.answers, chosen)
        return Outcomes(
            correct=self._correct,
            chosen=self._chosen,
            samples=self._samples,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            rounds=self._rounds,
            seconds=self._seconds,
            cost_usd=self._cost_usd,
            missing=self._missing,
        )

    def _act(self, kind: str, k: int, strategy: str, rows: Ints) -> Ints:
        """Do the same for all these requests; those that go on after it."""
        match kind:
            case "draw":
                return self._draw(rows, k)
            case "verify":
                return self._verify(rows)
            case "escalate":
                self._escalate(rows, k)
            case "run":
                self._hand_over(rows, strategy)
        return rows[:0]

    def _afford(self, rows: Ints, k: int, there: Ints) -> tuple[Ints, Bools]:
        """How many of `k` samples these requests get of those `there`, and which of them are out of budget then."""
        if self._left is None:
            got = np.minimum(k, there)
            short = np.zeros(len(rows), np.bool_)
        else:
            left = self._left[rows]
            got = np.minimum(k, np.minimum(there, left))
            short = (left < k) & (left <= there)
            self._left[rows] = left - got
        self._missing[rows] |= (there < k) & ~short
        return got, short

    def _charge(self, requests: Requests, rows: Ints, first: Ints, got: Ints) -> None:
        """One batch: of each of these rows of `requests`, the `got` samples from the place `first` on."""
        rows, first, got = rows[got > 0], first[got > 0], got[got > 0]
        if not len(rows):
            return
        table, last = requests.table, first + got
        width = np.arange(requests.n)
        batch = (width >= first[:, None]) & (width < last[:, None])
        order = requests.order[rows]
        prompt_tokens = -(-got // table.max_n) * table.prompt_tokens[requests.problem[rows]]
        output_tokens = np.where(batch, np.take(table.output_tokens, order), 0).sum(axis=1)
        seconds = None if table.seconds is None else np.where(batch, np.take(table.seconds, order), 0.0).max(axis=1)
        self._add(
            rows,
            Outcomes(
                correct=self._correct[rows],
                chosen=self._chosen[rows],
                samples=got,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                rounds=np.ones(len(rows), np.int64),
                seconds=seconds,
                cost_usd=priced(table.price, prompt_tokens, output_tokens),
            ),
        )

    def _add(self, rows: Ints, more: Outcomes) -> None:
        """Add to the bill of these requests."""
        self._samples[rows] += more.samples
        self._prompt_tokens[rows] += more.prompt_tokens
        self._output_tokens[rows] += more.output_tokens
        self._rounds[rows] += more.rounds
        if more.seconds is None:
            self._seconds = None
        if self._seconds is not None and more.seconds is not None:
            self._seconds[rows] += more.seconds
        if more.cost_usd is None:
            self._cost_usd = None
        if self._cost_usd is not None and more.cost_usd is not None:
            self._cost_usd[rows] += more.cost_usd

    def _draw(self, rows: Ints, k: int) -> Ints:
        drawn = self._drawn[rows]
        got, short = self._afford(rows, k, self._requests.n - drawn)
        self._charge(self._requests, rows, drawn, got)
        self._drawn[rows] += got
        on: Ints = rows[~short & (got > 0)]
        return on

    def _verify(self, rows: Ints) -> Ints:
        if self._scores is None:
            self._scores = self._requests.judged(scored_by(self._requests.table, self._verifier))
        fresh = rows[~self._verified[rows]]  # what is drawn later is judged as it comes: once more would change nothing
        self._verified[fresh] = True
        return fresh

    def _escalate(self, rows: Ints, k: int) -> None:
        if self._larger is None:
            raise UsageError("this controller asks a larger model, and none was given")
        larger = self._larger
        got, _ = self._afford(rows, k, np.full(len(rows), larger.n))
        self._charge(larger, rows, np.zeros(len(rows), np.int64), got)
        rows, got = rows[got > 0], got[got > 0]
        if len(rows):
            among = upto(got)
            seen = larger.take(rows, 0, among.shape[1])
            place = leading(seen.see(seen.table.answers), seen.finished(), among)
            chosen = seen.order[np.arange(len(rows)), place]
            self._settled[rows] = True
            self._correct[rows] = np.take(seen.table.correct, chosen)
            self._chosen[rows] = np.where(np.take(seen.table.answers, chosen) < 0, -1, -2)

    def _hand_over(self, rows: Ints, words: str) -> None:
        """The strategy sees the samples that come after those already drawn."""
        strategy = strategies.parse(words)
        drawn = self._drawn[rows]
        there = self._requests.n - drawn
        room = there if self._left is None else np.minimum(there, self._left[rows])
        for first, most in np.unique(np.stack([drawn, room]), axis=1).T.tolist():
            these = rows[(drawn == first) & (room == most)]
            short = self._left is not None and self._left[these[0]] == most  # the budget ends no later than the bank
            if not most:
                self._missing[these] |= not short
                continue
            ran = simulated(strategy, self._requests.take(these, first, first + most), self._verifier)
            self._add(these, ran)
            self._settled[these] = True
            self._correct[these], self._chosen[these] = ran.correct, ran.chosen
            if ran.missing is not None and not short:
                self._missing[these] |= ran.missing
