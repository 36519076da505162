"""How likely an answer is right, by how many of a problem's samples gave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinkscale.optimize.table import Bools, Floats, Ints, Table

_RIDGE = 0.1
_STEPS = 30


@dataclass(frozen=True)
class Worth:
    """The chance that an answer is right: a conditional logit (McFadden 1974), in which exactly one of a problem's
    answers is right, or none that was given. An answer's weight is the number of samples that gave it (and half of one)
    to some power, times what speaks for it besides: where the table has log-probabilities, how likely its samples were;
    where a verifier judged, its mean score. The weight of none depends on the share of the answer that leads. `chances`
    [P, answers + 1] are those of each problem's answers, `right` is what the record says of them; the last column is
    for no answer, which is never right.

    On a few dozen problems, single lucky or unlucky ones would else decide what voting is worth. The power is not
    negative: more votes never speak against an answer.
    """

    chances: Floats
    right: Floats

    @classmethod
    def of(cls, table: Table, verifier: str | None = None) -> Worth:
        votes = _Votes.of(table)
        evidence = []
        if table.nll is not None:
            typical = table.nll.mean(axis=1, keepdims=True)
            evidence.append(votes.mean(typical - table.nll, 0.0))
        if verifier is not None:
            evidence.append(votes.mean((table.scores or {})[verifier], 0.5))
        there = np.pad(votes.counts > 0, ((0, 0), (0, 1)), constant_values=True)
        right = np.pad(votes.right, ((0, 0), (0, 1))).astype(np.float64)
        chosen = right.copy()
        chosen[:, -1] = ~votes.right.any(axis=1)
        chosen /= chosen.sum(axis=1, keepdims=True)
        options = _options(votes.counts, table.n, evidence)
        chances = _chosen(options, there, _fitted(options, there, chosen))
        chances[:, -1] = 0.0
        return cls(chances, right)


@dataclass(frozen=True)
class _Votes:
    """How many samples gave each answer, and whether it is right: [P, answers]. `cells` are the places of the samples
    that voted, `voted` [P, N].
    """

    counts: Floats
    right: Bools
    cells: tuple[Ints, Ints]
    voted: Bools

    @classmethod
    def of(cls, table: Table) -> _Votes:
        voted = table.answers >= 0
        rows = np.broadcast_to(np.arange(len(table))[:, None], table.answers.shape)
        cells = (rows[voted], table.answers[voted])
        counts = np.zeros((len(table), max(1, int(table.answers.max()) + 1)))
        np.add.at(counts, cells, 1)
        right = np.zeros(counts.shape, np.bool_)
        np.logical_or.at(right, cells, table.correct[voted])
        return cls(counts, right, cells, voted)

    def mean(self, values: Floats, unknown: float) -> Floats:
        """Of each answer, from one value a sample, nan where that is not known; `unknown` where none is."""
        given = values[self.voted]
        known = ~np.isnan(given)
        total, count = np.zeros((2, *self.counts.shape))
        np.add.at(total, self.cells, np.where(known, given, 0.0))
        np.add.at(count, self.cells, known)
        means: Floats = np.divide(total, count, out=np.full_like(total, unknown), where=count > 0)
        return means


def _options(counts: Floats, n: int, evidence: Sequence[Floats]) -> Floats:
    """What speaks for each answer, and in the last place for none: [P, answers + 1, 4 + E]."""
    options = np.zeros((len(counts), counts.shape[1] + 1, 4 + len(evidence)))
    options[:, :-1, 0] = np.log((counts + 0.5) / (n + 0.5))
    for place, values in enumerate(evidence):
        options[:, :-1, 4 + place] = values
    lead = counts.max(axis=1) / n
    options[:, -1, 1:4] = np.stack([np.ones_like(lead), lead, lead**2], axis=-1)
    return options


def _chosen(options: Floats, there: Bools, weights: Floats) -> Floats:
    """The chance of each option of those that are there."""
    utility = np.where(there, options @ weights, -np.inf)
    odds = np.exp(utility - utility.max(axis=1, keepdims=True))
    chances: Floats = odds / odds.sum(axis=1, keepdims=True)
    return chances


def _fitted(options: Floats, there: Bools, chosen: Floats) -> Floats:
    """Weights by Newton's method, with a ridge."""
    weights = np.zeros(options.shape[2])
    ridge = _RIDGE * np.eye(len(weights))
    for _ in range(_STEPS):
        chances = _chosen(options, there, weights)
        mean = (chances[:, :, None] * options).sum(axis=1)
        spread = np.einsum("pj,pjf,pjg->fg", chances, options, options) - mean.T @ mean
        slope = ((chosen - chances)[:, :, None] * options).sum(axis=(0, 1)) - ridge @ weights
        step = np.linalg.solve(spread + ridge, slope)
        weights = weights + np.clip(step, -2.0, 2.0)
        weights[0] = max(weights[0], 0.0)
        if np.abs(step).max() < 1e-8:
            break
    return weights
