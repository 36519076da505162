"""What a controller may look at, for many requests at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkscale.optimize.requests import Requests
from thinkscale.optimize.table import Bools, Floats, Ints, Table
from thinkscale.optimize.votes import top_two, totals, upto
from thinkscale.strategies.auto import NLL_STEP, rounded_nll
from thinkscale.types import Seen

_VOTES = frozenset({"votes", "first", "second"})
FEATURES = frozenset(Seen.__dataclass_fields__) | _VOTES | {"larger", "likelihood"}
"""What a controller may name."""

Columns = dict[str, NDArray[Any]]


def by_likelihood(table: Table, features: frozenset[str]) -> bool:
    """Whether ties go to the likelier answer."""
    return "likelihood" in features and table.nll is not None


@dataclass(frozen=True)
class State:
    """Where some requests are: `rows` [m] among all, samples `drawn` [m], whether they had these `verified` [m], and
    how many more samples each can pay for, `left` [m], `None` for any number.
    """

    rows: Ints
    drawn: Ints
    verified: Bools
    left: Ints | None


class Sight:
    """Reads the features that are named off the running sums over the samples of M requests.

    `scores` [M, N] are needed once a request has its samples verified.
    """

    def __init__(self, requests: Requests, features: frozenset[str]) -> None:
        table = requests.table
        self._features = features
        self._answers = requests.see(table.answers)
        self._prompt_tokens = table.prompt_tokens[requests.problem]
        self._nll = None if table.nll is None else requests.see(table.nll)
        self._weights = requests.see(table.likelihoods) if by_likelihood(table, features) else None
        if features & _VOTES:
            self._first, self._second = top_two(self._answers)
        self._sums = {
            name: _running(values)
            for name, values in (
                ("unanswered", self._answers < 0),
                ("capped", requests.see(table.capped)),
                ("output_tokens", requests.see(table.output_tokens)),
                ("nll", self._nll),
            )
            if name in features and values is not None
        }

    def columns(self, state: State, scores: Floats | None) -> Columns:
        """One array [m] for each feature; nan, or no array, where it is unknown."""
        rows, drawn, named = state.rows, state.drawn, self._features
        columns: Columns = {name: sums[rows, drawn] for name, sums in self._sums.items()}
        if "drawn" in named:
            columns["drawn"] = drawn
        if named & _VOTES:
            columns["first"], columns["second"] = self._first[drawn, rows], self._second[drawn, rows]
        if "votes" in named:
            columns |= {f"votes {place}": count for place, count in enumerate(self._counts(state))}
        if "prompt_tokens" in named:
            columns["prompt_tokens"] = self._prompt_tokens[rows]
        if "verified" in named:
            columns["verified"] = state.verified
        if "affordable" in named and state.left is not None:
            columns["affordable"] = state.left
        if "nll" in columns:
            columns["nll"] = _steps(columns["nll"], drawn)
        if "leader_nll" in named and self._nll is not None:
            mine = self._leaders(state)
            columns["leader_nll"] = _steps(np.where(mine, self._nll[rows, : mine.shape[1]], 0).sum(1), mine.sum(1))
        if named & {"score", "best"} and scores is not None and state.verified.any():
            among = upto(drawn)
            known = scores[rows, : among.shape[1]]
            judged = among & state.verified[:, None] & ~np.isnan(known)
            if "best" in named:
                best = np.where(judged, known, -np.inf).max(axis=1, initial=-np.inf)
                columns["best"] = np.where(judged.any(axis=1), best, np.nan)
            if "score" in named:
                mine = judged & self._leaders(state)
                columns["score"] = _mean(np.where(mine, known, 0).sum(1), mine.sum(1))
        return columns

    def seen(self, columns: Columns, row: int) -> Seen:
        """What one request has seen."""
        found = {name: column[row].item() for name, column in columns.items()}
        votes = [found.pop(name) for name in tuple(found) if name.startswith("votes ")]
        two = [found.pop(name, 0) for name in ("first", "second")]
        for name in ("nll", "leader_nll"):
            if name in found:
                found[name] = None if np.isnan(found[name]) else rounded_nll([found[name] * NLL_STEP])
        for name in ("score", "best"):
            if np.isnan(found.get(name, 0.0)):
                found[name] = None
        return Seen(votes=tuple(count for count in votes or two if count), **found)

    def _leaders(self, state: State) -> Bools:
        """Which of the samples gave the leading answer: [m, as many samples as any request has drawn]."""
        among = upto(state.drawn)
        answers = self._answers[state.rows, : among.shape[1]]
        weights = None if self._weights is None else self._weights[state.rows, : among.shape[1]]
        own = totals(answers, among, weights)
        most = own.max(axis=1, initial=0, keepdims=True)
        first = (own == most).argmax(axis=1) if among.shape[1] else state.drawn
        mine: Bools = among & (own > 0)
        if among.shape[1]:
            mine &= answers == answers[np.arange(len(answers)), first][:, None]
        return mine

    def _counts(self, state: State) -> Ints:
        """Votes of each answer, the largest first: [answers, m]."""
        among = upto(state.drawn)
        answers = self._answers[state.rows, : among.shape[1]]
        width = int(answers.max(initial=-1)) + 1
        votes = among & (answers >= 0)
        cells = np.arange(len(answers))[:, None] * width + answers
        counts = np.bincount(cells[votes], minlength=len(answers) * width).reshape(len(answers), width)
        return -np.sort(-counts, axis=1).T


def alike(columns: Columns, size: int) -> tuple[Ints, Ints]:
    """Groups of requests that have seen the same: one row of each group, and the group of each of `size` requests."""
    one, group = np.zeros(min(size, 1), np.int64), np.zeros(size, np.int64)
    for column in columns.values():
        values, places = np.unique(column, return_inverse=True)
        _, one, group = np.unique(group * len(values) + places, return_index=True, return_inverse=True)
    return one, group


def _running(values: NDArray[Any]) -> NDArray[Any]:
    """Sums over the first 0, 1, ..., N samples."""
    sums = np.zeros((len(values), values.shape[1] + 1), np.float64 if values.dtype.kind == "f" else np.int64)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _mean(total: NDArray[Any], count: Ints) -> Floats:
    """nan for the mean of nothing."""
    means = np.full(len(total), np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def _steps(total: NDArray[Any], count: Ints) -> Floats:
    """The mean in whole steps of `NLL_STEP`."""
    return np.rint(_mean(total, count) / NLL_STEP)
