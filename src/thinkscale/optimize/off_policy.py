"""What another policy would have been worth, from the record of decisions that were taken at random.

Every row says with which probability its strategy was taken. A row counts for a policy by w, how much likelier that
policy is to take the same: the inverse propensity score (Horvitz and Thompson 1952), self-normalized (Swaminathan and
Joachims 2015), and doubly robust with a regression that is fitted on other rows (Dudik et al. 2011; cross-fitting:
Chernozhukov et al. 2018). Worth is reward minus price times cost. Intervals are 95%, by the studentized bootstrap over
rows (Efron and Tibshirani 1993, 12.5), which heeds the skewness of the weights.

What it rests on: the propensities are those that were drawn from, and feedback comes as often for one strategy as for
another. Rows are taken as independent; those of a policy that learned meanwhile are not quite, and the estimates stay
unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.bootstrap import Estimate
from thinkscale.optimize.table import Floats, Ints
from thinkscale.policies.bandit import BanditPolicy, Logged

Target = BanditPolicy | str | Callable[[Mapping[str, float]], Mapping[str, float]] | None
"""A policy to judge: a bandit, one strategy for all, or anything that gives each strategy's probability from the
features of a request. `None` is whatever took the decisions on record.
"""

Method = Literal["ips", "snips", "dr"]

_FOLDS = 5
_RESAMPLES = 1000
_TOGETHER = 1 << 18  # numbers that are drawn at once
_SHARED, _OWN = 10.0, 50.0  # ridge penalties, in rows: what strategies share, what sets one apart
_UNTRIED = 0.01


@dataclass(frozen=True)
class Value:
    """A policy's worth per request. `effective` is how many rows of its own the weighted ones are worth (Kish 1965),
    `clipped` the share of rows whose weight was cut, which biases the estimate.
    """

    method: Method
    estimate: Estimate
    effective: float
    clipped: float


@dataclass(frozen=True)
class Judgement:
    """Whether a policy is better than another (`None`: cannot tell), by how much, and why, in words.

    `rows` of the log were drawn at random, `unused` were not or do not say how likely they were.
    """

    better: bool | None
    words: str
    rows: int
    unused: int
    gain: Estimate | None = None
    candidate: Value | None = None
    current: Value | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    target: Target,
    log: Sequence[Logged],
    *,
    price: float,
    method: Method = "dr",
    clip: float | None = None,
    seed: int = 0,
) -> Value:
    """A policy's worth by the rows of a log that were drawn at random. No weight counts for more than `clip`.

    Raises `UsageError` where there are fewer than two such rows.
    """
    record = _Record.of(log, price)
    weights, clipped = record.weights(target, clip)
    terms = record.terms(target, weights, method, seed)
    return Value(method, _interval(terms, seed), _effective(weights), clipped)


def promotes(
    candidate: Target,
    current: Target,
    log: Sequence[Logged],
    *,
    price: float,
    method: Method = "dr",
    clip: float | None = None,
    fewest: float = 100,
    seed: int = 0,
) -> Judgement:
    """Whether a policy is worth putting in another's place: better only where the gain's interval lies above 0.

    It cannot tell where the rows are worth fewer than `fewest` of either policy's own, where the candidate would take
    strategies that the log never tried, or that it had no chance to take, and where the interval holds 0.
    """
    usable = [row for row in log if _random(row)]
    unused = len(log) - len(usable)

    def cannot(why: str) -> Judgement:
        return Judgement(None, f"Cannot tell: {why}.", len(usable), unused)

    if len(usable) < 2:
        if len(log) < 2:
            return cannot(f"there are {len(log)} decisions with feedback on record")
        return cannot(
            f"of {len(log)} decisions on record {len(usable)} were drawn at random with a probability that is known; "
            "what was always done the same way says nothing of other ways"
        )
    record = _Record.of(usable, price)
    sides = []
    for name, target in (("the new policy", candidate), ("the present one", current)):
        untried = record.untried(target)
        if sum(untried.values()) > _UNTRIED:
            return cannot(
                f"{name} would take {', '.join(untried)} for {sum(untried.values()):.0%} of the requests, and nothing "
                "on record did"
            )
        weights, clipped = record.weights(target, clip)
        terms = record.terms(target, weights, method, seed)
        sides.append((terms, Value(method, _interval(terms, seed), _effective(weights), clipped)))
        off = abs(float(weights.mean()) - 1)
        if clipped == 0 and off > 4 * float(weights.std()) / math.sqrt(len(usable)) + 1e-9:
            return cannot(
                f"what {name} would do was often left out when the decisions on record were drawn (its weights average "
                f"{weights.mean():.2f} instead of 1)"
            )
    (ours, new), (theirs, present) = sides
    gain = _interval(ours - theirs, seed)
    effective = min(new.effective, present.effective)
    better = None
    if effective < fewest:
        words = (
            f"Cannot tell: the {len(usable)} decisions drawn at random are worth {effective:.0f} of the policies' own, "
            f"and {fewest:g} are needed."
        )
    elif gain.low is None or gain.high is None:
        words = "Cannot tell: the policies would have done the same."
    else:
        better = True if gain.low > 0 else False if gain.high < 0 else None
        word = {True: "Better than what is in service", False: "Worse than what is in service", None: "Cannot tell"}
        words = f"{word[better]}: {gain} a request, cost paid, from {len(usable)} decisions drawn at random."
    return Judgement(better, words, len(usable), unused, gain, new, present)


def _random(row: Logged) -> bool:
    return row.probability is not None and 0 < row.probability < 1


@dataclass(frozen=True)
class _Record:
    """T rows that were drawn at random as arrays: `taken` [T] are places among K strategies, `worth` and `probability`
    [T], `context` [T, D] standardized features.
    """

    rows: tuple[Logged, ...]
    strategies: tuple[str, ...]
    taken: Ints
    worth: Floats
    probability: Floats
    context: Floats

    @classmethod
    def of(cls, log: Sequence[Logged], price: float) -> _Record:
        rows = tuple(row for row in log if _random(row))
        if len(rows) < 2:
            raise UsageError(
                f"of {len(log)} decisions on record {len(rows)} were drawn at random: too few to judge another policy"
            )
        strategies = tuple(dict.fromkeys(row.strategy for row in rows))
        return cls(
            rows,
            strategies,
            np.array([strategies.index(row.strategy) for row in rows], dtype=np.int64),
            np.array([row.reward - price * row.cost for row in rows], dtype=np.float64),
            np.array([row.probability for row in rows], dtype=np.float64),
            _standardized(rows),
        )

    def chances(self, target: Target) -> Floats:
        """With which probability a policy takes each strategy: [T, K]."""
        if isinstance(target, str):
            row = [float(target == strategy) for strategy in self.strategies]
            return np.tile(np.array(row), (len(self.rows), 1))
        drawn = self._drawn(target)
        return np.array([[chances.get(strategy, 0.0) for strategy in self.strategies] for chances in drawn])

    def untried(self, target: Target) -> dict[str, float]:
        """The strategies that a policy takes and the log never did, with the share of requests that it takes them for.

        Only the log knows what else it might have done itself.
        """
        if target is None:
            return {}
        if isinstance(target, str):
            return {} if target in self.strategies else {target: 1.0}
        share: dict[str, float] = {}
        for chances in self._drawn(target):
            for strategy, chance in chances.items():
                if strategy not in self.strategies and chance > 0:
                    share[strategy] = share.get(strategy, 0.0) + chance / len(self.rows)
        return share

    def _drawn(self, target: Target) -> list[Mapping[str, float]]:
        assert target is not None
        assert not isinstance(target, str)
        chances = target.chances if isinstance(target, BanditPolicy) else target
        return [chances(row.features) for row in self.rows]

    def weights(self, target: Target, clip: float | None) -> tuple[Floats, float]:
        """How much each row counts for a policy, and the share of them that were cut to `clip`."""
        if target is None:
            return np.ones(len(self.rows)), 0.0
        weights = self.chances(target)[np.arange(len(self.rows)), self.taken] / self.probability
        if clip is None:
            return weights, 0.0
        return np.minimum(weights, clip), float((weights > clip).mean())

    def terms(self, target: Target, weights: Floats, method: Method, seed: int) -> Floats:
        """One number for each row, whose mean is the policy's worth and whose spread is that of the estimate."""
        if target is None:
            return self.worth
        if method == "ips":
            return weights * self.worth
        if method == "snips":
            total = float(weights.mean())
            if total <= 0:
                raise UsageError("nothing on record is what the policy would have done")
            worth = float((weights * self.worth).mean()) / total
            return np.asarray(worth + weights * (self.worth - worth) / total)
        expected = self._expected(seed)
        own = expected[np.arange(len(self.rows)), self.taken]
        return np.asarray((self.chances(target) * expected).sum(axis=1) + weights * (self.worth - own))

    def _expected(self, seed: int) -> Floats:
        """The worth of every strategy for every row, by a ridge regression on the rows of the other folds: [T, K]."""
        count, arms = len(self.rows), len(self.strategies)
        fold = np.random.default_rng(seed).permutation(count) % min(_FOLDS, count)
        ones = np.hstack([np.ones((count, 1)), self.context])
        size = ones.shape[1]

        def design(arm: Ints) -> Floats:
            own = np.zeros((count, arms, size))
            own[np.arange(count), arm] = ones
            return np.hstack([ones, own.reshape(count, -1)])

        taken = design(self.taken)
        penalty = np.diag(np.concatenate([[1e-6], np.full(size - 1, _SHARED), np.full(arms * size, _OWN)]))
        expected = np.zeros((count, arms))
        lines = {}
        for held in range(int(fold.max()) + 1):
            rest = fold != held
            x, y = taken[rest], self.worth[rest]
            lines[held] = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        for arm in range(arms):
            would = design(np.full(count, arm, dtype=np.int64))
            for held, line in lines.items():
                expected[fold == held, arm] = would[fold == held] @ line
        return expected


def _standardized(rows: Sequence[Logged]) -> Floats:
    """Every feature that any row has, an absent one as the average; those that never vary are left out."""
    names = list(dict.fromkeys(name for row in rows for name in row.features))
    values = np.array([[row.features.get(name, math.nan) for name in names] for row in rows], dtype=np.float64)
    values = values.reshape(len(rows), len(names))
    values = np.where(np.isnan(values), np.nanmean(values, axis=0), values) if names else values
    spread = values.std(axis=0)
    varied = spread > 1e-9
    standard: Floats = (values[:, varied] - values[:, varied].mean(axis=0)) / spread[varied]
    return standard


def _effective(weights: Floats) -> float:
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _interval(terms: Floats, seed: int) -> Estimate:
    """The mean with its 95% studentized bootstrap interval; no interval where the terms do not vary."""
    count, mean, spread = len(terms), float(terms.mean()), float(terms.std())
    if spread == 0:
        return Estimate(mean, None, None)
    rng = np.random.default_rng(seed)
    ratios: list[float] = []
    together = max(1, _TOGETHER // count)
    while len(ratios) < _RESAMPLES:
        drawn = terms[rng.integers(count, size=(together, count))]
        off = drawn.std(axis=1)
        varied = off > 0
        ratios += ((drawn.mean(axis=1) - mean)[varied] / off[varied]).tolist()
    low, high = np.quantile(ratios[:_RESAMPLES], (0.025, 0.975))
    return Estimate(mean, mean - float(high) * spread, mean - float(low) * spread)
