"""What many simulated requests come to see, sample by sample: the states of their votes, and who leads there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from random import Random

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.fit_allocation import leaders
from thinkscale.optimize.requests import Requests, requests_of
from thinkscale.optimize.simulate import scored_by, weights_of
from thinkscale.optimize.table import Floats, Ints, Table, orders
from thinkscale.optimize.votes import leading, top_two, totals, upto
from thinkscale.optimize.worth import Worth
from thinkscale.policies.stopping import SCORE_STEPS, State

_REQUESTS = 8000
"""Simulated in all. More would make the estimates no better: the problems stay the same few."""

_UNJUDGED = -1
_SHARES = 4


@dataclass(frozen=True)
class Layer:
    """M requests after `drawn` samples, all before verification or all after it.

    `at` [M] is the place of each request's state in `states`; `right` and `exact` [M] whether its leader is right:
    smoothed (see `worth.chances`), and as it is. `weight` [S] is how many problems were seen in each state, counted in
    requests of a problem's own; `alike` [S] numbers the states in which the lead is the same.
    """

    drawn: int
    states: tuple[State, ...]
    at: Ints
    right: Floats
    exact: Floats
    weight: Floats
    alike: Ints
    doubt: Floats

    def mean(self, values: Floats) -> Floats:
        """Of each state, from one value a request."""
        means: Floats = np.bincount(self.at, values, minlength=len(self.states)) / np.bincount(self.at)
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
    prompt, which up to `max_n` samples share. `likelier`: ties go to the likelier answer. `check` is what
    verifying one sample takes.
    """

    n: int
    before: tuple[Layer, ...]
    after: tuple[Layer, ...]
    spent: Floats
    prompt: Ints
    max_n: int
    check: float
    likelier: bool
    larger: tuple[Larger, ...]

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
        """From many orders of the table's samples, which are exchangeable. `batches` are how many of the larger model's
        samples may be drawn. Raises `UsageError` where the two models were recorded on different problems, or where the
        verifier gave no scores.
        """
        if larger is not None and larger.problems != table.problems:
            raise UsageError(f"{larger.model} and {table.model} must have been recorded on the same problems")
        repeats = max(8, min(400, _REQUESTS // len(table)))
        requests, counts = _resampled(table, repeats, seed)
        votes = top_two(requests.see(table.answers))
        # Where the record tells how likely replies were, ties go to the likelier answer: that is often the right one.
        weights = None if table.nll is None else requests.see(table.likelihoods)
        leader = leaders(requests.see(table.answers), weights)
        after: tuple[Layer, ...] = ()
        if verifier is not None:
            verifier = scored_by(table, verifier)
            after = _layers(requests, repeats, votes, *_judged(requests, verifier), Worth.of(table, verifier), counts)
        spent = np.zeros((table.n + 1, len(requests)))
        np.cumsum(requests.see(table.output_tokens).T, axis=0, out=spent[1:])
        return cls(
            n=table.n,
            before=_layers(requests, repeats, votes, leader, None, Worth.of(table), counts),
            after=after,
            spent=spent,
            prompt=table.prompt_tokens[requests.problem],
            max_n=table.max_n,
            check=check if after else 0.0,
            likelier=weights is not None,
            larger=() if larger is None else _larger(larger, [k for k in batches if k <= larger.n], requests.problem),
        )

    @property
    def classes(self) -> int:
        return _SHARES * (self.n + 1)

    def tokens(self, drawn: int, k: int) -> Floats:
        """What `k` more samples take after `drawn`, for each request [M]."""
        taken: Floats = self.spent[drawn + k] - self.spent[drawn] + -(-k // self.max_n) * self.prompt
        return taken


def _all(table: Table, repeats: int, seed: int) -> Requests:
    parts = list(requests_of(table, orders(table, repeats, seed)))
    problem, order = (np.concatenate([getattr(part, name) for part in parts]) for name in ("problem", "order"))
    return Requests(table, problem, order)


@cache
def _leads(first: int, second: int) -> float:
    """How sure the leader is to be ahead in the long run (as AdaptiveConsistency counts it): P(p > 1/2) for p ~
    Beta(first + 1, second + 1).
    """
    trials = first + second + 1
    ways = sum(comb(trials, successes) for successes in range(first + 1))
    return float(ways / 2**trials)


def _resampled(table: Table, repeats: int, seed: int) -> tuple[Requests, Floats]:
    """Requests on problems like the table's: each has `n` samples drawn, with replacement, from a problem's own, whose
    weights are drawn at random (the Bayesian bootstrap, Rubin 1981). And how many of `n` samples would give each answer
    by those weights [M, answers].

    The recorded samples in another order would always end in the recorded votes, and where these few problems never
    change their leader it would seem that none ever does.
    """
    rng = np.random.default_rng(Random(seed).getrandbits(64))
    shape = (repeats * len(table), table.n)
    problem = np.tile(np.arange(len(table)), repeats)
    edges = np.cumsum(rng.exponential(size=shape), axis=1)
    edges /= edges[:, -1:]
    # All rows are searched at once: row r lies between r and r + 1.
    rows = np.arange(len(problem))[:, None]
    found = np.searchsorted((edges + rows).ravel(), (rng.random(shape) + rows).ravel()).reshape(shape)
    place = np.minimum(found - rows * table.n, table.n - 1)
    width = max(1, int(table.answers.max()) + 1)
    answers = table.answers[problem]
    cells = np.where(answers < 0, width, answers) + rows * (width + 1)
    weights = np.diff(edges, axis=1, prepend=0.0)
    counts = table.n * np.bincount(cells.ravel(), weights.ravel(), minlength=len(problem) * (width + 1))
    counted: Floats = counts.reshape(-1, width + 1)[:, :-1].astype(np.float64)
    return Requests(table, problem, place + problem[:, None] * table.n), counted


def _layers(
    requests: Requests,
    repeats: int,
    votes: tuple[Ints, Ints],
    leader: Ints,
    fifths: Ints | None,
    worth: Worth,
    counts: Floats,
) -> tuple[Layer, ...]:
    """Who leads [n + 1, M], -1 for nobody, and after verification how the leader of the plain votes scores."""
    rows = np.arange(len(requests))
    smooth = worth.smooth(requests.problem, counts)[rows, leader]  # nobody is the last column
    exact = worth.exact(requests.problem)[rows, leader]
    layers = []
    for drawn in range(requests.n + 1):
        states, at = _states(drawn, votes[0][drawn], votes[1][drawn], None if fifths is None else fifths[drawn])
        alike = [_SHARES * (first - second) + _SHARES * first // (drawn + 1) for _, first, second, _ in states]
        layers.append(
            Layer(
                drawn=drawn,
                states=states,
                at=at,
                right=smooth[drawn],
                exact=exact[drawn],
                weight=np.bincount(at) / repeats,
                alike=np.array(alike),
                doubt=np.array([1 - _leads(first, second) for _, first, second, _ in states]),
            )
        )
    return tuple(layers)


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


def _judged(requests: Requests, verifier: str) -> tuple[Ints, Ints]:
    """After verification, by samples drawn: the leader of the votes weighted by score, -1 for none, and how the leader
    of the plain votes scores, in fifths: [n + 1, M] both.
    """
    answers, scores = requests.see(requests.table.answers), requests.judged(verifier)
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
    repeats = 32
    requests = _all(table, repeats, 0)
    answers, finished = requests.see(table.answers), requests.finished()
    found = []
    for k in batches:
        among = upto(np.full(len(requests), k))
        place = leading(answers[:, :k], None if finished is None else finished[:, :k], among)
        right = requests.see(table.correct)[np.arange(len(requests)), place]
        output = requests.see(table.output_tokens, k).sum(axis=1)
        tokens = output + -(-k // table.max_n) * table.prompt_tokens[requests.problem]
        found.append(Larger(k, *(of.reshape(repeats, -1).mean(axis=0)[problem] for of in (right, tokens))))
    return tuple(found)
