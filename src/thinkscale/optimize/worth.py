"""How likely an answer is right, by how many of a problem's samples gave it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinkscale.optimize.table import Bools, Floats, Ints, Table

_RIDGE = 1.0
_STEPS = 30


@dataclass(frozen=True)
class Worth:
    """The chance that an answer is right, as a logistic regression over the answers of all problems: on the log odds of
    the answer's share of the samples, whether it leads, and the share of the one that leads; with a verifier, on the
    answer's mean score too, `scores` [P, answers]. `right` [P, answers] is what the record says.

    On a few dozen problems, single lucky or unlucky ones would else decide what voting is worth.
    """

    n: int
    weights: Floats
    right: Bools
    scores: Floats | None

    @classmethod
    def of(cls, table: Table, verifier: str | None = None) -> Worth:
        counts, right, scores = _answers(table, verifier)
        given = counts > 0
        x = _columns(counts, table.n, scores)
        return cls(table.n, _logistic(x[given], right[given]), right, scores)

    def smooth(self, problem: Ints, counts: Floats) -> Floats:
        """The chances on these problems [M] where each answer is given by so many of `n` samples [M, answers]; a last
        column is for no answer, which is never right.
        """
        chances = np.zeros((len(problem), counts.shape[1] + 1))
        x = _columns(counts, self.n, None if self.scores is None else self.scores[problem])
        chances[:, :-1] = _sigmoid(x @ self.weights)
        return chances

    def exact(self, problem: Ints) -> Floats:
        """The same as it is on record."""
        return np.pad(self.right[problem], ((0, 0), (0, 1))).astype(np.float64)


def _columns(counts: Floats, n: int, scores: Floats | None) -> Floats:
    share = counts / n
    leads = share.max(axis=1, keepdims=True)
    columns = [
        np.ones_like(share),
        np.log((counts + 0.5) / (n - counts + 0.5)),
        (share == leads).astype(np.float64),
        np.broadcast_to(np.log(leads + 0.02), share.shape),
    ]
    return np.stack(columns if scores is None else [*columns, scores], axis=-1)


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


def _logistic(x: Floats, right: Bools) -> Floats:
    """Weights by Newton's method, with a ridge on all but the first column."""
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[0, 0] = 0.01
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        hessian = (x.T * (p * (1 - p) + 1e-9)) @ x + ridge
        step = np.linalg.solve(hessian, x.T @ (right - p) - ridge @ weights)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _sigmoid(x: Floats) -> Floats:
    chances: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return chances
