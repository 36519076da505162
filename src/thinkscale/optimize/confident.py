"""DeepConf over a table: which samples vote, and with which weight."""

from __future__ import annotations

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.requests import Requests
from thinkscale.optimize.table import Bools, Floats, Ints, Table
from thinkscale.strategies.deepconf import DeepConfOffline, Score


def confident_votes(strategy: DeepConfOffline, requests: Requests, n: int) -> tuple[Bools, Floats]:
    """Of the first `n` samples of each request those that are kept, and the weights of all: two arrays of [M, n].

    All are kept where none has an answer. Raises `UsageError` where the table has no token confidences.
    """
    table = requests.table
    if table.confidences is None:
        raise UsageError("deepconf needs the likeliest alternatives of each token, and this bank does not hold them")
    lengths = np.array([[len(sample) for sample in row] for row in table.confidences])
    windows = np.full(len(requests), strategy.window)
    if not strategy.window:
        windows = np.rint(np.median(requests.see(lengths, n), axis=1) / 10).astype(np.int64).clip(8, 2048)
    weights = np.empty((len(requests), n))
    for window in np.unique(windows):
        rows = np.flatnonzero(windows == window)
        weights[rows] = np.take(
            _trace_confidences(table, np.unique(requests.problem[rows]), int(window), strategy.score),
            requests.order[rows, :n],
        )
    voters = requests.see(table.answers, n) >= 0
    ranks = np.where(voters, -weights, np.inf).argsort(axis=1, kind="stable").argsort(axis=1)
    # Half to even, as Python rounds.
    most = np.maximum(1, np.rint(voters.sum(axis=1) * strategy.eta / 100))
    kept: Bools = voters & (ranks < most[:, None])
    kept[~voters.any(axis=1)] = True
    return kept, weights


def _trace_confidences(table: Table, problems: Ints, window: int, score: Score) -> Floats:
    """The confidences of these problems' samples, [P, N]; nan for the others."""
    confidences = np.full((len(table), table.n), np.nan)
    assert table.confidences is not None
    for problem in problems:
        confidences[problem] = [_trace_confidence(sample, window, score) for sample in table.confidences[problem]]
    return confidences


def _trace_confidence(values: Floats, window: int, score: Score) -> float:
    """What `strategies.deepconf.trace_confidence` gives for the same tokens, to the last bit: added in its order."""
    size = min(window, len(values))
    if score == "mean":
        return float(sum(values.tolist()) / len(values))
    if score == "tail":
        return float(sum(values[-size:].tolist()) / size)
    changes = values[size:] - values[:-size]
    groups = np.add.accumulate(np.concatenate([[sum(values[:size].tolist())], changes])) / size
    if score == "lowest":
        return float(groups.min())
    count = max(1, len(groups) // 10)
    return float(sum(np.sort(groups)[:count].tolist()) / count)
