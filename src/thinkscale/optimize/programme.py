"""Dynamic programming over simulated requests: what to do at each state of the votes, where tokens have a price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Literal

import numpy as np

from thinkscale.optimize.lattice import Lattice, Layer
from thinkscale.optimize.table import Floats
from thinkscale.policies.stopping import State, Step, StoppingRule

_PRIOR = 5.0
"""Problems that the estimate for like states counts for, beside those that were seen at a state."""

_FADE = 0.8
_LEAST = 1e-6
_FLOOR = 0.2
"""Another vote does not make things worse, whatever a few problems seem to say: it gains at least this share of what
the doubt about the leader lets expect. So where tokens cost nothing, all samples are drawn."""

_RARE = 5e-4
"""A state that a smaller share of requests comes to is not kept: it is decided as the nearest one."""

_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class _Way:
    """What may be done at a layer: how `right` each request [M] ends that then does the best, and the `tokens` that the
    step itself takes. It leads to the layer `then`: after verification or not, and after so many samples; `None` where
    the request has ended.
    """

    kind: Literal["draw", "verify", "escalate"]
    k: int
    right: Floats
    tokens: Floats
    then: tuple[bool, int] | None


@dataclass(frozen=True)
class _Later:
    """What was found for a way at states of one sample more: the gains and prices of the classes above what was
    expected, and how much is gained per doubt about the leader, as a sum of products over one of squares.
    """

    gained: Floats
    paid: Floats
    product: float
    square: float

    @classmethod
    def none(cls, classes: int) -> _Later:
        return cls(np.zeros(classes), np.zeros(classes), 0.0, 0.0)

    def gains(self, layer: Layer, way: _Way, paid: Floats, least: float) -> tuple[Floats, _Later]:
        """The gains of the states [S], less the price paid for them."""
        gained = way.right - layer.right
        product, square, expected = self.product, self.square, np.zeros(len(layer.states))
        if way.kind == "draw":
            weight = layer.weight * layer.doubt
            product = _FADE * product + float(weight @ layer.mean(gained))
            square = _FADE * square + float(weight @ layer.doubt)
            expected = max(product / square, _LEAST) * layer.doubt
        gain, classes = layer.pooled(gained, expected, _PRIOR, self.gained)
        price, paid_by = layer.pooled(paid, np.full(len(expected), least), _PRIOR, self.paid)
        if way.kind == "draw":
            gain = np.maximum(gain, _FLOOR * expected)
        return gain - price, _Later(classes, paid_by, product, square)


class Programme:
    """Backward induction for one price; then forward, to see where it leads."""

    def __init__(self, lattice: Lattice, batches: Sequence[int], price: float, round_price: float) -> None:
        self._lattice, self._price, self._round_price = lattice, price, round_price
        self._batches = sorted(batches, reverse=True)  # of equals, the largest is taken: it takes the fewest rounds
        # What becomes of each request from there on [M]: the chance that its answer is right, and the price paid.
        self._right: dict[tuple[bool, int], Floats] = {}
        self._paid: dict[tuple[bool, int], Floats] = {}
        self._best: dict[tuple[bool, int], list[_Way | None]] = {}
        self._later: dict[tuple[bool, str, int], _Later] = {}
        for drawn in range(self._lattice.n, -1, -1):
            for judged in (True, False):
                if layer := self._layer(judged, drawn):
                    self._solve(layer, judged)

    def _layer(self, judged: bool, drawn: int) -> Layer | None:
        layers = self._lattice.after if judged else self._lattice.before
        return layers[drawn] if layers else None

    def _ways(self, layer: Layer, judged: bool) -> Iterator[_Way]:
        lattice, drawn = self._lattice, layer.drawn
        for k in self._batches:
            if drawn + k <= lattice.n:
                tokens = lattice.tokens(drawn, k) + (k * lattice.check if judged else 0.0)
                yield _Way("draw", k, self._right[judged, drawn + k], tokens, (judged, drawn + k))
        if drawn and not judged and lattice.after:
            tokens = np.full(len(layer.at), drawn * lattice.check)
            yield _Way("verify", 1, self._right[True, drawn], tokens, (True, drawn))
        for larger in lattice.larger:
            yield _Way("escalate", larger.k, larger.right, larger.tokens, None)

    def _solve(self, layer: Layer, judged: bool) -> None:
        # Nobody can stop before there is an answer.
        gain = np.full(len(layer.states), 0.0 if layer.drawn else -inf)
        best: list[_Way | None] = [None] * len(gain)
        right, paid = layer.right.copy(), np.zeros(len(layer.at))
        for way in self._ways(layer, judged):
            more = self._price * way.tokens + (0.0 if way.kind == "verify" else self._round_price)
            then_paid = more if way.then is None else more + self._paid[way.then]
            line = (judged, way.kind, way.k)
            later = self._later.get(line) or _Later.none(self._lattice.classes)
            gains, self._later[line] = later.gains(layer, way, then_paid, float(more.mean()))
            better = gains > gain + _ROUNDING
            if better.any():
                gain = np.where(better, gains, gain)
                chosen = better[layer.at]
                right, paid = np.where(chosen, way.right, right), np.where(chosen, then_paid, paid)
                for place in np.flatnonzero(better).tolist():
                    best[place] = way
        here = (judged, layer.drawn)
        self._best[here], self._right[here], self._paid[here] = best, right, paid

    def rule(self) -> StoppingRule:
        lattice = self._lattice
        requests = len(lattice.prompt)
        there = {(False, 0): np.ones(requests, np.bool_)}
        steps: dict[State, Step] = {}
        accuracy = tokens = 0.0
        for drawn, judged in product(range(lattice.n + 1), (False, True)):
            on, layer = there.get((judged, drawn)), self._layer(judged, drawn)
            if on is None or layer is None:
                continue
            count = np.bincount(layer.at, on, minlength=len(layer.states))
            best, right = self._best[judged, drawn], layer.mean(layer.right)
            worth = layer.mean(self._right[judged, drawn] - self._paid[judged, drawn])
            for way in dict.fromkeys(best):
                taking = on & np.array([one is way for one in best])[layer.at]
                if way is None:
                    accuracy += float((layer.right[taking] + lattice.level).sum())
                    continue
                tokens += float(way.tokens[taking].sum())
                if way.then is None:
                    accuracy += float(way.right[taking].sum())
                else:
                    there[way.then] = there[way.then] | taking if way.then in there else taking
            for place in np.flatnonzero(count >= max(1, _RARE * requests)).tolist():
                state = layer.states[place]
                weight, known = lattice.known.get(state, (0.0, 0.0))
                chance = (weight * known + float(right[place])) / (weight + 1)
                steps[state] = _step(best[place], chance, float(worth[place]))
        return StoppingRule(
            n=lattice.n,
            price=float(f"{self._price:.6g}"),
            accuracy=round(accuracy / requests, 6),
            tokens=float(f"{tokens / requests:.6g}"),
            steps=steps,
            likelier=lattice.likelier,
        )


def _step(way: _Way | None, right: float, worth: float) -> Step:
    right, worth = min(max(round(right, 3), 0.0), 1.0), round(worth, 3)
    return Step("stop", 1, right, worth) if way is None else Step(way.kind, way.k, right, worth)
