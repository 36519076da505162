"""Calibrating when an answer may be called confident.

Learn then test (Angelopoulos et al. 2022): the rules form a sequence, from strict to loose; each is tested for being
wrong more often than promised among its confident answers, and the loosest one before the first that fails is taken.
The problem is the unit: samples of one problem are alike, so each problem counts once, with one order of its samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import ceil, exp, floor, inf, lgamma, log, log1p

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.requests import requests_of
from thinkscale.optimize.table import Bools, Floats, Ints, Table, orders
from thinkscale.optimize.votes import leading, top_two
from thinkscale.policies.risk import Promise, RiskPolicy

_RULES = 32  # from `cap` samples that all agree to a single one
_MOST = 1 << 15  # problems: who has so few that even more would be needed cannot know the rates well
_ROUNDING = 1e-9


def fit_risk(
    table: Table,
    *,
    alpha: float,
    delta: float = 0.05,
    cap: int | None = None,
    horizon: int | None = None,
    seed: int = 0,
) -> RiskPolicy:
    """The policy that calls most answers confident and is still wrong in at most `alpha` of those, with probability
    1 - `delta` over the draw of the table's problems. `cap` samples at most; by default all that are recorded.

    With `horizon` the promise holds for the share that is counted among so many later requests, exchangeable with the
    table's problems; without, for the chance that a confident answer is wrong, which a short stretch may exceed by
    luck. Errors among c confident answers are binomial (c, risk) in the long run, and those of c before m others
    hypergeometric, both exactly. The first rule tested is the strictest that could pass with no error at all. That
    choice looks at how many answers were confident and never at how many were right; the test stays exact where answers
    that pass stricter thresholds are not wrong more often than the rest.

    Where no rule passes the policy promises nothing: see `Promise.needs`. Raises `UsageError` for impossible values.
    """
    cap = table.n if cap is None else cap
    if not 1 <= cap <= table.n:
        raise UsageError(f"cap must be from 1 to the {table.n} samples that each problem has, not {cap}")
    if not 0 < alpha < 1 or not 0 < delta < 1:
        raise UsageError(f"alpha and delta must lie between 0 and 1, not {alpha} and {delta}")
    if horizon is not None and horizon < 1:
        raise UsageError(f"horizon must be at least 1 request, not {horizon}")
    order = orders(table, 2, seed)[1:, :, :cap]
    thresholds = _thresholds(cap)
    confident, wrong = _judged(table, order, thresholds)
    counts = [(int(c), int(w)) for c, w in zip(confident.sum(axis=1), wrong.sum(axis=1), strict=True)]
    total = len(table)
    best = None
    for place, (some, errors) in enumerate(counts):
        if _chance(some, 0, total, alpha, horizon) > delta:
            continue  # so few that even without an error it would tell nothing
        if _chance(some, errors, total, alpha, horizon) > delta:
            break
        best = place
    if best is None:
        return RiskPolicy(cap, None, _nearest(counts, total, alpha, delta, horizon))
    policy = RiskPolicy(cap, float(thresholds[best]), Promise(alpha, delta, horizon, total, *counts[best]))
    right = simulate_controller(policy, table, order).correct[0]
    sure = confident[best]
    return RiskPolicy(cap, policy.threshold, policy.promise, _share(right[sure]), _share(right[~sure]))


def _share(right: Bools) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None


def _thresholds(cap: int) -> Floats:
    """Strict to loose: as sure as `cap` samples that all agree, ..., as any one."""
    alike = np.unique(np.geomspace(cap, 1, _RULES).round(6))[::-1]
    return np.floor(1e6 * alike / (alike + 1)) / 1e6


def _judged(table: Table, order: Ints, thresholds: Floats) -> tuple[Bools, Bools]:
    """Which problems get a confident answer, and a wrong one, by each threshold: two arrays [G, P]."""
    (requests,) = requests_of(table, order)
    answers, finished = requests.see(table.answers), requests.finished()
    drawn = np.arange(1, requests.n + 1)
    share = top_two(answers)[0][1:].T / (drawn + 1)
    confident, wrong = [], []
    for threshold in thresholds:
        reached = share >= threshold - _ROUNDING
        sure = reached.any(axis=1)
        samples = np.where(sure, reached.argmax(axis=1) + 1, 1)
        place = leading(answers, finished, drawn <= samples[:, None])
        right = requests.see(table.correct)[np.arange(len(place)), place]
        confident.append(sure)
        wrong.append(sure & ~right)
    return np.array(confident), np.array(wrong)


def _nearest(
    counts: Sequence[tuple[int, int]], problems: int, alpha: float, delta: float, horizon: int | None
) -> Promise:
    """What is told of the rule that fewest more problems would do for, if its rates stayed what they are."""

    def needs(confident: int, wrong: int) -> float:
        times = 1.1
        while wrong < alpha * confident and problems * times < _MOST:
            some, errors, total = floor(confident * times), ceil(wrong * times), floor(problems * times)
            if _chance(some, errors, total, alpha, horizon) <= delta:
                return max(total, problems + 1)
            times *= 1.1
        return inf

    def nearness(count: tuple[int, int]) -> tuple[float, float]:
        confident, wrong = count
        return needs(confident, wrong), wrong / confident if confident else inf

    confident, wrong = min(counts, key=nearness)
    least = needs(confident, wrong)
    return Promise(alpha, delta, horizon, problems, confident, wrong, 0 if least == inf else int(least))


@lru_cache(maxsize=1 << 16)
def _chance(confident: int, wrong: int, problems: int, alpha: float, horizon: int | None) -> float:
    """The p-value of "wrong more often than `alpha`": the chance of so few errors if that were so."""
    if not confident:
        return 1.0
    if horizon is None:
        return _sum(
            _ways(confident, k) + k * log(alpha) + (confident - k) * log1p(-alpha) for k in range(wrong, -1, -1)
        )
    # The next answers break the promise with one error more than it allows. Given how many errors there then were in
    # all, which of the answers came first is a matter of chance.
    later = max(1, round(horizon * confident / problems))
    errors = wrong + floor(alpha * later + _ROUNDING) + 1
    fine = confident + later - errors
    return _sum(
        _ways(errors, k) + _ways(fine, confident - k) - _ways(confident + later, confident)
        for k in range(wrong, -1, -1)
        if confident - k <= fine
    )


def _sum(logarithms: Iterable[float]) -> float:
    """Of a tail's terms, which grow less: until they count no more."""
    total = 0.0
    for logarithm in logarithms:
        term = exp(logarithm)
        total += term
        if term < 1e-12 * total:
            break
    return min(total, 1.0)


def _ways(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
