"""What many simulated requests come to see, sample by sample: the states of their votes, and who leads there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from random import Random

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.requests import Requests, requests_of
from thinkscale.optimize.simulate import scored_by, weights_of
from thinkscale.optimize.table import Floats, Ints, Table, orders
from thinkscale.optimize.votes import leaders, leading, top_two, totals, upto
from thinkscale.optimize.worth import Worth
from thinkscale.policies.stopping import SCORE_STEPS, State

_REQUESTS = 8000
"""Simulated in all. More would make the estimates no better: the problems stay the same few."""

_ORDERS = 32
_NEITHER = 0.5  # samples that count for either where there are none
_UNJUDGED = -1
_SHARES = 4


@dataclass(frozen=True)
class Layer:
    """M requests after `drawn` samples, all before verification or all after it.

    `at` [M] is the place of each request's state in `states`; `right` [M] the chance that its leader is right (see
    `Worth`). `count` [S] is how many requests are in each state, `weight` [S] the problems that they make up; `alike`
    [S] numbers the classes of states with the same lead and about the same share of votes for the leader. `doubt` [S]
    is the chance that the runner-up would be ahead in the long run.
    """

    drawn: int
    states: tuple[State, ...]
    at: Ints
    right: Floats
    count: Ints
    weight: Floats
    alike: Ints
    doubt: Floats

    def mean(self, values: Floats) -> Floats:
        """Of each state, from one value a request."""
        means: Floats = np.bincount(self.at, values) / self.count
        return means

    def pooled(self, values: Floats, expected: Floats, prior: float, later: Floats) -> tuple[Floats, Floats]:
        """The means of the states [S], drawn towards what was `expected` of them [S] and what their class was above
        that; and this for the classes, drawn towards `later`, what it was for states of one sample more: as if `prior`
        more problems had been seen with it.
        """
        above = self.mean(values) - expected
        size = len(later)
        total = np.bincount(self.alike, self.weight * above, minlength=size) + prior * later
        classes: Floats = total / (np.bincount(self.alike, self.weight, minlength=size) + prior)
        return expected + (self.weight * above + prior * classes[self.alike]) / (self.weight + prior), classes


@dataclass(frozen=True)
class Larger:
    """`k` samples of the larger model: how often their vote is right, and the tokens they take: [M] both."""

    k: int
    right: Floats
    tokens: Floats


@dataclass(frozen=True)
class Lattice:
    """Requests that draw all `n` samples of their problems: the layers by samples drawn, `before` verification and
    `after` it (empty without a verifier). `spent` [n + 1, M] are the output tokens so far, `prompt` [M] the tokens of a
    prompt, which up to `max_n` samples share. `likelier`: ties go to the likelier answer. `check` is what verifying one
    sample takes.

    Samples that are drawn again tell less than fresh ones. So `known` has for each state that the recorded samples come
    to, in some order, how many problems were seen there and how often the leader was right; and `level` is how much
    more often that is so of a vote over all recorded samples than of a vote over all samples of these requests.
    """

    n: int
    before: tuple[Layer, ...]
    after: tuple[Layer, ...]
    known: Mapping[State, tuple[float, float]]
    spent: Floats
    prompt: Ints
    max_n: int
    check: float
    likelier: bool
    larger: tuple[Larger, ...]
    level: float

    @classmethod
    def of(
        cls,
        table: Table,
        *,
        batches: Sequence[int],
        larger: Table | None = None,
        verifier: str | None = None,
        check: float = 0.0,
        seed: int = 0,
    ) -> Lattice:
        """From many orders of the table's samples, which are exchangeable, and from resampled ones. `batches` are how
        many of the larger model's samples may be drawn. Raises `UsageError` where the two models were recorded on
        different problems, or where the verifier gave no scores.
        """
        if larger is not None and larger.problems != table.problems:
            raise UsageError(f"{larger.model} and {table.model} must have been recorded on the same problems")
        repeats = max(8, min(400, _REQUESTS // len(table)))
        recorded = _Draws.recorded(table, repeats, seed)
        draws = _Draws.recorded(table, repeats // 2, seed).beside(_Draws.resampled(table, repeats - repeats // 2, seed))
        before, known = (_layers(one, repeats, None) for one in (draws, recorded))
        after: tuple[Layer, ...] = ()
        if verifier is not None:
            verifier = scored_by(table, verifier)
            after, judged = (_layers(one, repeats, verifier) for one in (draws, recorded))
            known = (*known, *judged)
        requests = draws.requests
        spent = np.zeros((table.n + 1, len(requests)))
        np.cumsum(requests.see(table.output_tokens).T, axis=0, out=spent[1:])
        return cls(
            n=table.n,
            before=before,
            after=after,
            known=_known(known),
            spent=spent,
            prompt=table.prompt_tokens[requests.problem],
            max_n=table.max_n,
            check=check if after else 0.0,
            likelier=table.nll is not None,
            larger=() if larger is None else _larger(larger, [k for k in batches if k <= larger.n], requests.problem),
            level=_full_vote(recorded) - float(before[-1].right.mean()),
        )

    @property
    def classes(self) -> int:
        return _SHARES * (self.n + 1)

    def tokens(self, drawn: int, k: int) -> Floats:
        """What `k` more samples take after `drawn`, for each request [M]."""
        taken: Floats = self.spent[drawn + k] - self.spent[drawn] + -(-k // self.max_n) * self.prompt
        return taken


@cache
def _leads(first: int, second: int) -> float:
    """How sure the leader is to be ahead in the long run (as AdaptiveConsistency counts it): P(p > 1/2) for p ~
    Beta(first + 1, second + 1).
    """
    trials = first + second + 1
    ways = sum(comb(trials, successes) for successes in range(first + 1))
    return float(ways / 2**trials)


@dataclass(frozen=True)
class _Draws:
    """Requests, and the `answers` [M, n] that they get, numbered within each request."""

    requests: Requests
    answers: Ints

    @classmethod
    def resampled(cls, table: Table, repeats: int, seed: int) -> _Draws:
        """Each request draws `n` samples from its problem's own, with replacement.

        The recorded samples tell in any order what is likely, without bias, but they always end in the recorded votes:
        where these few problems never change their leader it would seem that none ever does. So half of the requests
        are of this kind. What only one recorded sample said stands for all that nobody said yet: drawn again it may be
        another answer (see `_fresh`). Else guesses would seem to agree.
        """
        rng = np.random.default_rng(Random(seed).getrandbits(64))
        problem = np.tile(np.arange(len(table)), repeats)
        place = rng.integers(table.n, size=(len(problem), table.n))
        requests = Requests(table, problem, place + problem[:, None] * table.n)
        fresh = rng.random(place.shape) < requests.see(_fresh(table))
        width = max(1, int(table.answers.max()) + 1)
        return cls(requests, np.where(fresh, width + np.arange(table.n), requests.see(table.answers)))

    @classmethod
    def recorded(cls, table: Table, repeats: int, seed: int) -> _Draws:
        """Each request sees the samples of its problem in another order."""
        parts = list(requests_of(table, orders(table, repeats, seed)))
        problem, order = (np.concatenate([getattr(part, name) for part in parts]) for name in ("problem", "order"))
        requests = Requests(table, problem, order)
        return cls(requests, requests.see(table.answers))

    def beside(self, other: _Draws) -> _Draws:
        """The requests of both."""
        mine, others = self.requests, other.requests
        problem, order = (
            np.concatenate([getattr(some, name) for some in (mine, others)]) for name in ("problem", "order")
        )
        return _Draws(Requests(mine.table, problem, order), np.concatenate([self.answers, other.answers]))

    @property
    def weights(self) -> Floats | None:
        """Of the votes. Where the record tells how likely replies were, ties go to the likelier answer: that is often
        the right one.
        """
        table = self.requests.table
        return None if table.nll is None else self.requests.see(table.likelihoods)

    def see(self, values: Floats) -> Floats:
        """Values of each problem's answers, and of no answer in a last column, as those of each request's answers."""
        known = values[self.requests.problem]
        own = known[np.arange(len(known))[:, None], self.requests.see(self.requests.table.answers)]
        return np.concatenate([known[:, :-1], own, known[:, -1:]], axis=1)


def _fresh(table: Table) -> Floats:
    """The chance that an answer like this sample's, drawn again, is a new one [P, N]: 0 where others gave it too.

    As Good and Turing: take one sample away, and ask whether it repeats one of the s answers that only one of the rest
    gave, or is new. Problems are pooled by s, to powers of two.
    """
    same = table.answers[:, :, None] == table.answers[:, None, :]
    times = np.where(table.answers >= 0, same.sum(axis=2), 0)
    once, twice = (times == 1).sum(axis=1), (times == 2).sum(axis=1)

    def size(singles: Ints) -> Ints:
        return np.log2(np.maximum(singles, 1)).astype(np.int64)

    new, repeated = np.zeros((2, table.n + 1))
    np.add.at(new, size(once - 1), np.where(once > 1, once, 0))
    np.add.at(repeated, size(once + 1), twice)
    chance = (new + _NEITHER) / (new + repeated + 2 * _NEITHER)
    return np.where(times == 1, chance[size(once)][:, None], 0.0)


def _layers(draws: _Draws, repeats: int, verifier: str | None) -> tuple[Layer, ...]:
    """The layers before verification, or with a verifier those after it."""
    first, second = top_two(draws.answers)
    if verifier is None:
        leader, fifths = leaders(draws.answers, draws.weights), None
    else:
        leader, fifths = _judged(draws, verifier)
    chances = draws.see(Worth.of(draws.requests.table, verifier).chances)
    right = chances[np.arange(len(chances)), leader]  # nobody, -1, is the last column
    layers = []
    for drawn in range(len(leader)):
        states, at = _states(drawn, first[drawn], second[drawn], None if fifths is None else fifths[drawn])
        count = np.bincount(at)
        layers.append(
            Layer(
                drawn=drawn,
                states=states,
                at=at,
                right=right[drawn],
                count=count,
                weight=count / repeats,
                alike=np.array([_SHARES * (a - b) + _SHARES * a // (drawn + 1) for _, a, b, _ in states]),
                doubt=np.array([1 - _leads(a, b) for _, a, b, _ in states]),
            )
        )
    return tuple(layers)


def _known(layers: Sequence[Layer]) -> dict[State, tuple[float, float]]:
    return {
        state: (float(weight), float(right))
        for layer in layers
        for state, weight, right in zip(layer.states, layer.weight, layer.mean(layer.right), strict=True)
    }


def _full_vote(draws: _Draws) -> float:
    """How often the vote of all samples is right, as recorded."""
    right = draws.see(Worth.of(draws.requests.table).right)
    return float(right[np.arange(len(right)), leaders(draws.answers, draws.weights)[-1]].mean())


def _states(drawn: int, first: Ints, second: Ints, fifths: Ints | None) -> tuple[tuple[State, ...], Ints]:
    """The distinct states, and the place of each request's among them."""
    wide, scores = drawn + 1, SCORE_STEPS + 2
    score = 0 if fifths is None else fifths + 1
    codes, at = np.unique((first * wide + second) * scores + score, return_inverse=True)
    states = []
    for code in codes.tolist():
        voted, judged = divmod(code, scores)
        states.append((drawn, *divmod(voted, wide), None if fifths is None else judged - 1))
    return tuple(states), at


def _judged(draws: _Draws, verifier: str) -> tuple[Ints, Ints]:
    """After verification, by samples drawn: the leader of the votes weighted by score, -1 for none, and how the leader
    of the plain votes scores, in fifths: [n + 1, M] both.
    """
    requests, answers = draws.requests, draws.answers
    scores = requests.judged(verifier)
    finished, rows = requests.finished(), np.arange(len(requests))
    leader = np.full((requests.n + 1, len(requests)), -1, np.int64)
    fifths = np.full((requests.n + 1, len(requests)), _UNJUDGED, np.int64)
    for drawn in range(1, requests.n + 1):
        those, known = answers[:, :drawn], scores[:, :drawn]
        among = upto(np.full(len(requests), drawn))
        place = leading(those, None if finished is None else finished[:, :drawn], among, weights_of(known, among))
        leader[drawn] = those[rows, place]
        plain = those[rows, totals(those, among).argmax(axis=1)]
        mine = (those == plain[:, None]) & (those >= 0) & ~np.isnan(known)
        count = mine.sum(axis=1)
        mean = np.where(mine, known, 0.0).sum(axis=1) / np.maximum(count, 1)
        fifths[drawn] = np.where(count > 0, np.rint(mean * SCORE_STEPS), _UNJUDGED)
    return leader, fifths


def _larger(table: Table, batches: Sequence[int], problem: Ints) -> tuple[Larger, ...]:
    """How votes of the larger model's samples do, averaged over orders of them, for requests on these problems."""
    draws = _Draws.recorded(table, _ORDERS, 0)
    requests, answers = draws.requests, draws.answers
    finished = requests.finished()
    found = []
    for k in batches:
        among = upto(np.full(len(requests), k))
        place = leading(answers[:, :k], None if finished is None else finished[:, :k], among)
        right = requests.see(table.correct)[np.arange(len(requests)), place]
        output = requests.see(table.output_tokens, k).sum(axis=1)
        tokens = output + -(-k // table.max_n) * table.prompt_tokens[requests.problem]
        found.append(Larger(k, *(of.reshape(_ORDERS, -1).mean(axis=0)[problem] for of in (right, tokens))))
    return tuple(found)
