"""How likely an answer is right, by how many of a problem's samples gave it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinkscale.optimize.table import Bools, Floats, Ints, Table

_RIDGE = 0.1
_STEPS = 30


@dataclass(frozen=True)
class Worth:
    """The chance that an answer is right: a conditional logit (McFadden 1974), in which exactly one of a problem's
    answers is right, or none that was given. An answer's weight is the number of samples that gave it (and half of one)
    to some power, times one for its mean score where a verifier gave `scores` [P, answers]; the weight of none depends
    on the share of the answer that leads. `right` [P, answers] is what the record says.

    On a few dozen problems, single lucky or unlucky ones would else decide what voting is worth. The power is not
    negative: more votes never speak against an answer.
    """

    n: int
    weights: Floats
    right: Bools
    scores: Floats | None

    @classmethod
    def of(cls, table: Table, verifier: str | None = None) -> Worth:
        counts, right, scores = _answers(table, verifier)
        options = _options(counts, table.n, scores)
        there = np.pad(counts > 0, ((0, 0), (0, 1)), constant_values=True)
        chosen = np.pad(right, ((0, 0), (0, 1))).astype(np.float64)
        chosen[:, -1] = ~right.any(axis=1)
        chosen /= chosen.sum(axis=1, keepdims=True)
        return cls(table.n, _fitted(options, there, chosen), right, scores)

    def smooth(self, problem: Ints, counts: Floats) -> Floats:
        """The chances on these problems [M] where each answer is given by so many of `n` samples [M, answers]; a last
        column is for no answer, which is never right.
        """
        there = np.pad(counts > 0, ((0, 0), (0, 1)), constant_values=True)
        scores = None if self.scores is None else self.scores[problem]
        chances = _chosen(_options(counts, self.n, scores), there, self.weights)
        chances[:, -1] = 0.0
        return chances

    def exact(self, problem: Ints) -> Floats:
        """The same as it is on record."""
        return np.pad(self.right[problem], ((0, 0), (0, 1))).astype(np.float64)


def _options(counts: Floats, n: int, scores: Floats | None) -> Floats:
    """What speaks for each answer, and in the last place for none: [M, answers + 1, 5]."""
    options = np.zeros((len(counts), counts.shape[1] + 1, 5))
    options[:, :-1, 0] = np.log((counts + 0.5) / (n + 0.5))
    if scores is not None:
        options[:, :-1, 1] = scores
    lead = counts.max(axis=1) / n
    options[:, -1, 2:] = np.stack([np.ones_like(lead), lead, lead**2], axis=-1)
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


def _answers(table: Table, verifier: str | None) -> tuple[Floats, Bools, Floats | None]:
    """How many samples gave each answer, whether it is right, and its mean score (one half where nobody could judge):
    [P, answers].
    """
    width = max(1, int(table.answers.max()) + 1)
    rows = np.broadcast_to(np.arange(len(table))[:, None], table.answers.shape)
    voted = table.answers >= 0
    cells = (rows[voted], table.answers[voted])
    counts = np.zeros((len(table), width))
    np.add.at(counts, cells, 1)
    right = np.zeros((len(table), width), np.bool_)
    np.logical_or.at(right, cells, table.correct[voted])
    if verifier is None:
        return counts, right, None
    given = (table.scores or {})[verifier][voted]
    known = ~np.isnan(given)
    total, judged = np.zeros_like(counts), np.zeros_like(counts)
    np.add.at(total, cells, np.where(known, given, 0.0))
    np.add.at(judged, cells, known)
    return counts, right, np.divide(total, judged, out=np.full_like(total, 0.5), where=judged > 0)
