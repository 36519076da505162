"""A contextual bandit over strategies: it learns from feedback which one pays for which requests, and keeps learning.

Thompson sampling (Thompson 1933; Agrawal and Goyal 2013 for linear rewards): a strategy is taken with the probability
that it is the best one, given what was seen. Deviations: the probabilities are computed by quadrature and the choice is
drawn from them, so that the propensity on record is exact; every strategy keeps a floor; arms share what they have in
common, and old observations fade (`regression.py`), for traffic changes. What sets the strategies apart counts as
independent, with the noise seen lately, and with standard deviations that narrow to 0.3 of their size in the first 500
feedbacks (Chapelle and Li 2011 reshape the posterior so): fading keeps the true ones so wide that many requests would
go to strategies known to be worse.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random, SystemRandom
from statistics import NormalDist
from typing import Any, Literal, Self

from thinkscale.errors import UsageError
from thinkscale.policies.features import request_features
from thinkscale.policies.needs import needed
from thinkscale.policies.regression import Belief, Moments, Regression
from thinkscale.types import Action, Controller, Request, Seen

ARMS = {
    "single": 1.0,
    "adaptive-consistency:n=8": 5.0,
    "adaptive-consistency:n=16": 6.5,
    "self-consistency:n=16": 16.0,
}
"""What there is to choose from by default, each with the samples that it is expected to take."""

FEATURES = (
    "length",
    "context",
    "sentences",
    "numbers",
    "formulas",
    "lines",
    "code",
    "choices",
    "kind_number",
    "kind_text",
)
"""What there is to see of a request, and worth the sums that are kept of it."""

_GAIN = 0.05  # what endless samples are expected to add to one sample's accuracy, before anything is known
_FEW = 0.5  # that accuracy
_NOISE = (4.0, 20.0)  # squared errors of as many rewards, before anything is known: the variance of p = .28 or .72
_NARROWED, _SETTLING = 0.3, 200.0
_BATCH = 50  # feedbacks that are learned from with one look at the errors of the predictions
_NODES = tuple(NormalDist().inv_cdf((i + 0.5) / 32) for i in range(32))
_ROOT_HALF = math.sqrt(0.5)
_SYSTEM = SystemRandom()


@dataclass(frozen=True, slots=True)
class Logged:
    """One decision and what came of it.

    `features` describe the request, `probability` is the chance with which `strategy` was taken, `None` where nobody
    wrote it down. `reward` is in [0, 1], `cost` in tokens or dollars, `at` in unix seconds.
    """

    features: Mapping[str, float]
    strategy: str
    probability: float | None
    reward: float
    cost: float
    at: float = 0.0


@dataclass(frozen=True)
class Arm:
    """One strategy, the accuracy and cost expected of it before anything was seen, and what was seen."""

    strategy: str
    reward: float
    cost: float
    moments: Moments


@dataclass(frozen=True)
class Spending:
    """Recent costs, discounted, and how many requests they are worth."""

    cost: float = 0.0
    requests: float = 0.0

    def plus(self, cost: float, window: float) -> Spending:
        kept = 1 - 1 / window
        return Spending(kept * self.cost + cost, kept * self.requests + 1)


@dataclass(frozen=True)
class Learned:
    """All that was learned: per arm, and the squared errors of the predictions, discounted, with their count."""

    arms: tuple[Arm, ...]
    noise: tuple[float, float] = _NOISE
    feedback: int = 0

    @cached_property
    def regression(self) -> Regression:
        return Regression([arm.moments for arm in self.arms], [(arm.reward, arm.cost) for arm in self.arms])


@dataclass(frozen=True)
class BanditPolicy:
    """Immutable: `learned` and `charged` give the next one.

    A strategy is worth its chance to be right minus `price` times its cost in `unit`s. `features` name what is looked
    at of a request; none makes it the same choice for all. `memory` is after how many feedbacks an observation has
    faded to 1/e. `explore` is the share of requests that is spread evenly over the strategies.

    `allowance` is a limit on the average cost of a request, over about `window` requests: a strategy is left out where
    its expected cost would lift the average above it. The cheapest is never left out, so an allowance below its cost
    does not hold. Requests in flight are not counted before they are `charged`.
    """

    state: Learned
    price: float
    unit: Literal["tokens", "usd"] = "tokens"
    features: tuple[str, ...] = FEATURES
    memory: float = 1000.0
    explore: float = 0.05
    allowance: float | None = None
    window: float = 200.0
    spending: Spending = field(default_factory=Spending)

    def __post_init__(self) -> None:
        strategies = [arm.strategy for arm in self.state.arms]
        if not strategies or len(set(strategies)) < len(strategies):
            raise ValueError("a bandit needs strategies, each once")
        if self.unit not in ("tokens", "usd"):
            raise ValueError(f"costs are in tokens or usd, not {self.unit}")
        if not (self.price >= 0 and math.isfinite(self.price)):
            raise ValueError(f"price must be a number from 0, not {self.price}")
        if not (self.memory >= 10 and self.window >= 10):
            raise ValueError("memory and window must be at least 10 requests")
        if not 0 < self.explore <= 1:
            raise ValueError("explore must be above 0 and at most 1: without it nothing new is learned")
        if self.allowance is not None and not self.allowance > 0:
            raise ValueError(f"allowance must be positive, not {self.allowance}")

    @classmethod
    def cold(
        cls, arms: Mapping[str, float] = ARMS, *, price: float, sample_cost: float = 400.0, **settings: Any
    ) -> Self:
        """One that has seen nothing. `arms` maps strategies to the samples that they are expected to take, of
        `sample_cost` each. More samples are taken to help, but ever less, so that it begins with cheap votes.
        """
        size = len(settings.get("features", FEATURES))
        priors = (
            Arm(strategy, _FEW + _GAIN * (1 - 1 / samples), samples * sample_cost, Moments.none(size))
            for strategy, samples in arms.items()
        )
        return cls(Learned(tuple(priors)), price, **settings)

    def beliefs(self, features: Mapping[str, float]) -> dict[str, Belief]:
        """What each strategy is expected to earn and cost for a request of these features."""
        beliefs = self.state.regression.beliefs(self._context(features))
        return dict(zip((arm.strategy for arm in self.state.arms), beliefs, strict=True))

    def chances(self, features: Mapping[str, float], allowed: Collection[str] | None = None) -> dict[str, float]:
        """The probability with which each strategy is taken, 0 for one left out. `allowed` names those that may be."""
        beliefs = self.beliefs(features)
        if allowed is not None and not beliefs.keys() & set(allowed):
            raise UsageError(f"none of {', '.join(allowed)} is among the policy's strategies: {', '.join(beliefs)}")
        open_ = self._affordable({name: beliefs[name] for name in beliefs if allowed is None or name in allowed})
        best = _best_of([belief.reward - self.price * belief.cost for belief in open_.values()], self._sds(open_))
        floor = self.explore / len(open_)
        drawn = {name: floor + (1 - self.explore) * share for name, share in zip(open_, best, strict=True)}
        return {name: drawn.get(name, 0.0) for name in beliefs}

    def choose(
        self, features: Mapping[str, float], *, allowed: Collection[str] | None = None, random: Random = _SYSTEM
    ) -> tuple[str, float]:
        """A strategy, and the probability with which it was taken."""
        chances = self.chances(features, allowed)
        (chosen,) = random.choices(list(chances), list(chances.values()))
        return chosen, chances[chosen]

    def controller(self, request: Request) -> Controller:
        """Runs the strategy chosen for a request. Chance comes from the system, not from the request's seed: whoever
        picks the seed would pick the strategy, and the propensities would be wrong.
        """
        return _Choice(self, request)

    def learned(self, feedback: Iterable[Logged]) -> Self:
        """What follows from more feedback, oldest first. Rows of strategies that are none of the arms are left out.

        Raises `UsageError` for a reward outside [0, 1] or a cost that is negative or not finite.
        """
        places = {arm.strategy: place for place, arm in enumerate(self.state.arms)}
        known = [row for row in feedback if row.strategy in places]
        for row in known:
            if not (0 <= row.reward <= 1 and 0 <= row.cost < math.inf):
                raise UsageError(f"feedback with reward {row.reward} and cost {row.cost}: a reward is from 0 to 1")
        policy = self
        for first in range(0, len(known), _BATCH):
            policy = policy._learned(known[first : first + _BATCH], places)
        return policy

    def _learned(self, batch: Sequence[Logged], places: Mapping[str, int]) -> Self:
        moments = [arm.moments for arm in self.state.arms]
        squared, weight = self.state.noise
        kept = 1 - 1 / self.memory
        for age, row in zip(range(len(batch) - 1, -1, -1), batch, strict=True):
            place, x = places[row.strategy], self._context(row.features)
            belief = self.state.regression.beliefs(x)[place]
            error = row.reward - belief.reward - self.price * (row.cost - belief.cost)
            squared, weight = kept * squared + error * error, kept * weight + 1
            # Everything fades at the end, at once: what came late must count for more until then.
            moments[place] = moments[place].plus(x, row.reward, row.cost, kept ** (age - len(batch)))
        faded = kept ** len(batch)
        arms = (replace(arm, moments=one.faded(faded)) for arm, one in zip(self.state.arms, moments, strict=True))
        return replace(self, state=Learned(tuple(arms), (squared, weight), self.state.feedback + len(batch)))

    def charged(self, cost: float) -> Self:
        """What follows from one more request's bill, in `unit`s, whether or not its answer gets feedback."""
        return replace(self, spending=self.spending.plus(cost, self.window))

    def body(self) -> dict[str, Any]:
        """All of it; the sums are over z = (1, features), discounted."""
        learned = self.state
        return {
            "unit": self.unit,
            "price": self.price,
            "allowance": self.allowance,
            "window": self.window,
            "memory": self.memory,
            "explore": self.explore,
            "features": list(self.features),
            "feedback": learned.feedback,
            "noise": list(learned.noise),
            "spending": [self.spending.cost, self.spending.requests],
            "arms": [
                {
                    "strategy": arm.strategy,
                    "prior_reward": arm.reward,
                    "prior_cost": arm.cost,
                    "reward_sums": list(arm.moments.reward),
                    "cost_sums": list(arm.moments.cost),
                    "gram": [list(row) for row in arm.moments.gram],
                }
                for arm in learned.arms
            ],
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        features = tuple(str(name) for name in body["features"])
        arms = tuple(_arm(row, len(features) + 1) for row in body["arms"])
        squared, weight = _numbers(body["noise"], 2)
        cost, requests = _numbers(body["spending"], 2)
        return cls(
            Learned(arms, (squared, weight), int(body["feedback"])),
            float(body["price"]),
            body["unit"],
            features,
            float(body["memory"]),
            float(body["explore"]),
            None if body["allowance"] is None else float(body["allowance"]),
            float(body["window"]),
            Spending(cost, requests),
        )

    def _context(self, features: Mapping[str, float]) -> tuple[float, ...]:
        """A feature that is not known counts as the average one."""
        mean = self.state.regression.mean
        return tuple(features.get(name, usual) for name, usual in zip(self.features, mean, strict=True))

    def _affordable(self, beliefs: dict[str, Belief]) -> dict[str, Belief]:
        if self.allowance is None:
            return beliefs
        cheapest = min(beliefs, key=lambda name: beliefs[name].cost)
        return {
            name: belief
            for name, belief in beliefs.items()
            if name == cheapest or self._average_with(belief.cost) <= self.allowance
        }

    def _average_with(self, cost: float) -> float:
        then = self.spending.plus(cost, self.window)
        return then.cost / then.requests

    def _sds(self, beliefs: dict[str, Belief]) -> list[float]:
        squared, weight = self.state.noise
        narrowed = max(_NARROWED, _SETTLING / (_SETTLING + self.state.feedback))
        return [narrowed * math.sqrt(belief.variance * squared / weight) for belief in beliefs.values()]


class _Choice:
    def __init__(self, policy: BanditPolicy, request: Request) -> None:
        self.features = needed(arm.strategy for arm in policy.state.arms)
        self._policy = policy
        self._request = request

    async def act(self, seen: Seen) -> Action:
        strategy, probability = self._policy.choose(request_features(self._request))
        return Action("run", strategy=strategy, probability=probability)


def _best_of(means: list[float], sds: list[float]) -> list[float]:
    """The probability of each of some independent normal variables to be the largest."""
    shares = []
    for i, (mean, sd) in enumerate(zip(means, sds, strict=True)):
        others = [(means[j], _ROOT_HALF / sds[j]) for j in range(len(means)) if j != i]
        # All but a factor of 1/2 each of P(other < x), over x at equally likely places.
        below = (
            math.prod(1 + math.erf((mean + sd * node - other) * scale) for other, scale in others) for node in _NODES
        )
        shares.append(math.fsum(below))
    total = math.fsum(shares)
    return [share / total for share in shares]


def _arm(row: Mapping[str, Any], size: int) -> Arm:
    gram = tuple(_numbers(line, size) for line in row["gram"])
    if len(gram) != size:
        raise ValueError(f"the gram matrix of {row['strategy']} has {len(gram)} rows instead of {size}")
    moments = Moments(gram, _numbers(row["reward_sums"], size), _numbers(row["cost_sums"], size))
    reward, cost = _numbers([row["prior_reward"], row["prior_cost"]], 2)
    return Arm(str(row["strategy"]), reward, cost, moments)


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"expected {count} finite numbers, found {values}")
    return numbers
