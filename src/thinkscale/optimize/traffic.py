"""Traffic replayed from a bank, to see how a bandit fares: from a cold start, and when requests turn hard half way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from thinkscale.banks import Bank
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Floats, Ints, Table, orders
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.policies.features import request_features
from thinkscale.types import Request

_ORDERS = 64


@dataclass(frozen=True)
class Traffic:
    """T requests, and what each of K strategies would earn (1 for a right answer) and cost: arrays of shape [T, K].

    `accuracy` and `mean_costs` are what they would earn and cost on average over the samples' orders: what a choice was
    worth, without the luck. `half` is the place of the first request of the second half.
    """

    strategies: tuple[str, ...]
    features: tuple[Mapping[str, float], ...]
    rewards: Floats
    costs: Floats
    accuracy: Floats
    mean_costs: Floats
    half: int

    def __len__(self) -> int:
        return len(self.features)

    def worth(self, price: float) -> Floats:
        """Of each strategy on each request, on average: reward minus price times cost."""
        worth: Floats = self.accuracy - price * self.mean_costs
        return worth


def traffic(
    table: Table,
    strategies: Sequence[str],
    *,
    requests: int,
    seed: int,
    bank: Bank | None = None,
    easy: tuple[float, float] = (0.8, 0.2),
) -> Traffic:
    """Requests for random problems, each with its own order of the samples, which all strategies would see.

    `easy` is the share of requests, in the first and in the second half, for one of the easier half of the problems (by
    the share of right samples): by default the traffic turns hard half way. Features come from the prompts of `bank`;
    without one, or where it has no prompts, there are none. Costs are tokens, prompts included.
    """
    rng = np.random.default_rng(Random(seed).getrandbits(64))
    order = orders(table, _ORDERS, seed)
    half, middle = requests // 2, (len(table) + 1) // 2
    by_ease = np.argsort(-table.correct.mean(axis=1), kind="stable")
    is_easy = rng.random(requests) < np.where(np.arange(requests) < half, *easy)
    problem = np.where(is_easy, rng.choice(by_ease[:middle], requests), rng.choice(by_ease[-middle:], requests))
    repeat = rng.integers(_ORDERS, size=requests)
    outcomes = [simulate(words, table, order) for words in strategies]
    seen = [_features(bank, name) for name in table.problems]
    right = np.stack([one.correct for one in outcomes], axis=2).astype(np.float64)
    tokens = np.stack([one.tokens for one in outcomes], axis=2).astype(np.float64)
    return Traffic(
        tuple(strategies),
        tuple(seen[place] for place in problem),
        right[repeat, problem],
        tokens[repeat, problem],
        right.mean(axis=0)[problem],
        tokens.mean(axis=0)[problem],
        half,
    )


def _features(bank: Bank | None, name: str) -> Mapping[str, float]:
    problem = None if bank is None else bank.problems[name]
    return {} if problem is None or problem.prompt is None else request_features(Request(problem.prompt, problem.kind))


@dataclass(frozen=True)
class Run:
    """A bandit's run over traffic: the strategy taken for each request, by its place [T], the log, and what was
    learned.
    """

    chosen: Ints
    log: tuple[Logged, ...]
    policy: BanditPolicy


def run(policy: BanditPolicy, requests: Traffic, *, seed: int, delay: int = 1, said: float = 1.0) -> Run:
    """Send the traffic through a bandit. Feedback comes for a share `said` of the requests, and is learned from when
    `delay` requests have been answered; every bill counts at once. The log has a row for each feedback.
    """
    random = Random(seed)
    chosen = np.zeros(len(requests), dtype=np.int64)
    log: list[Logged] = []
    waiting: list[Logged] = []
    for t, features in enumerate(requests.features):
        strategy, probability = policy.choose(features, allowed=requests.strategies, random=random)
        place = chosen[t] = requests.strategies.index(strategy)
        reward, cost = float(requests.rewards[t, place]), float(requests.costs[t, place])
        policy = policy.charged(cost)
        if random.random() < said:
            waiting.append(Logged(features, strategy, probability, reward, cost, float(t)))
        if (t + 1) % delay == 0:
            policy = policy.learned(waiting)
            log += waiting
            waiting = []
    return Run(chosen, (*log, *waiting), policy.learned(waiting))


@dataclass(frozen=True)
class Standing:
    """How a run did over some of the requests: the mean worth of its choices, and of the strategy best for them all."""

    learner: float
    best: str
    fixed: float

    @property
    def missed(self) -> float | None:
        """The share of the best fixed strategy's worth that the learner missed; `None` where that is not positive."""
        return None if self.fixed <= 0 else 1 - self.learner / self.fixed


def standing(chosen: Ints, requests: Traffic, price: float, first: int, last: int) -> Standing:
    """Over the requests from `first` up to `last`."""
    worth = requests.worth(price)[first:last]
    means = worth.mean(axis=0)
    best = int(means.argmax())
    return Standing(
        float(worth[np.arange(len(worth)), chosen[first:last]].mean()), requests.strategies[best], float(means[best])
    )


def standings(chosen: Ints, requests: Traffic, price: float) -> dict[str, Standing]:
    """Over the whole run, and over the last quarter of each half, when a learner should have found its way."""
    half, total = requests.half, len(requests)
    spans = {
        "whole": (0, total),
        "end of the first half": (half - half // 4, half),
        "end of the second half": (total - (total - half) // 4, total),
    }
    return {name: standing(chosen, requests, price, first, last) for name, (first, last) in spans.items()}
