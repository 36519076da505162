"""Choosing the best plan of each difficulty under one budget (Snell et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.logistic import logistic
from thinkscale.optimize.requests import requests_of
from thinkscale.optimize.seeing import Sight, State
from thinkscale.optimize.table import Floats, Ints, Outcomes, Table, orders
from thinkscale.policies.features import request_features
from thinkscale.policies.plans import PROBED, Bin, Ease, Planned, PlansPolicy, probe_features
from thinkscale.types import Request

_MOST_BINS = 5
_ENOUGH = 15  # problems for one bin more
_PRIOR = 10.0  # problems' worth of belief that a plan does for a bin what it does for all
_ALIKE = 0.002  # accuracies nearer than this are alike: the cheaper is taken
_FEW = 8  # orders of a problem's samples that teach how hard it looks: more are too alike to teach more
_FOLDS = 5
_SURE = 2.0  # standard errors
_ROUNDING = 1e-12

Features = Mapping[str, float]


def fit_plans(
    table: Table,
    plans: Sequence[str],
    *,
    tokens: float,
    probes: int = 4,
    bins: int | None = None,
    prompts: Sequence[Request] | None = None,
    verifier: str | None = None,
    repeats: int = 16,
    seed: int = 0,
) -> PlansPolicy:
    """The policy that is expected to be most accurate at `tokens` a request on average, prompt and probes included.

    Difficulty is the chance that a sample is right, which a ridge logistic regression finds from the samples beyond the
    probes; `bins` (by default one for 15 problems, 5 at most) hold equally many requests. A bin has few problems, so
    what a plan does there beyond what it does everywhere counts only in part. Of all ways to give the bins plans within
    the budget the best is found exactly. Whether difficulty is worth judging at all, by the prompt alone or by the
    probes too, is decided on problems held out in turn: the simpler way stands unless the other is surely more accurate
    there, by two standard errors. `prompts` are the problems' requests, in the table's order; without, only the
    probes tell. `repeats` are the orders of the samples that each problem is seen in.

    Raises `UsageError` for fewer than two problems, fewer samples than probes, and a budget that no plan fits.
    """
    if len(table) < 2:
        raise UsageError("plans by difficulty need at least two problems: with one, nothing tells easy from hard")
    if not plans:
        raise UsageError("name the plans to choose from, such as single and self-consistency:n=16")
    if not 0 <= probes <= table.n:
        raise UsageError(f"probes must be from 0 to the {table.n} samples that each problem has, not {probes}")
    if prompts is not None and len(prompts) != len(table):
        raise UsageError(f"there are {len(prompts)} prompts for {len(table)} problems")
    count = min(_MOST_BINS, max(1, len(table) // _ENOUGH)) if bins is None else bins
    if count < 1:
        raise UsageError(f"bins must be at least 1, not {bins}")
    given = orders(table, repeats, seed)
    outright = _Ground.of(table, given, plans, 0, prompts, verifier)
    every = np.arange(len(table))
    plain = outright.fitted(every, tokens, 1, seed)
    if count == 1:
        return plain
    try:
        best, right = plain, outright.held_out(tokens, 1, seed)
    except UsageError:
        return plain  # the budget barely holds the cheapest plan: there is nothing to choose
    others = [outright] if prompts else []
    if probes:
        others.append(_Ground.of(table, given, plans, probes, prompts, verifier))
    for ground in others:
        try:
            policy, found = ground.fitted(every, tokens, count, seed), ground.held_out(tokens, count, seed)
        except UsageError:
            continue  # the probes alone take more than the budget holds
        gain = found - right
        if gain.mean() > _SURE * gain.std(ddof=1) / len(gain) ** 0.5:
            best, right = policy, found
    return best


def planned(
    policy: PlansPolicy,
    table: Table,
    orders: Ints,
    *,
    prompts: Sequence[Request] | None = None,
    verifier: str | None = None,
) -> Outcomes:
    """What the policy answers and spends on requests that see the samples in these [R, P, N] orders."""
    bins = [policy.bin(one) for one in _features(table, orders, policy.probes, prompts)]
    words = sorted({one.plan for one in bins})
    chosen = np.array([words.index(one.plan) for one in bins]).reshape(orders.shape[:2])
    every = [_outcomes(plan, table, orders, policy.probes, verifier) for plan in words]

    def of_chosen(name: str) -> Any:
        values = [getattr(one, name) for one in every]
        if name == "missing" and any(value is not None for value in values):
            values = [np.zeros(chosen.shape, np.bool_) if value is None else value for value in values]
        return None if any(value is None for value in values) else np.choose(chosen, values)

    return Outcomes(**{field.name: of_chosen(field.name) for field in fields(Outcomes)})


@dataclass(frozen=True)
class _Ground:
    """What there is to choose by: features [R, P, D] of R requests on each of P problems, the rate of right samples
    [R, P] that the features know nothing of, and what each plan got right and cost, [plan, R, P].
    """

    plans: Sequence[str]
    probes: int
    names: Sequence[str]
    features: Floats
    rates: Floats
    right: Floats
    cost: Floats

    @classmethod
    def of(
        cls,
        table: Table,
        given: Ints,
        plans: Sequence[str],
        probes: int,
        prompts: Sequence[Request] | None,
        verifier: str | None,
    ) -> _Ground:
        seen = _features(table, given, probes, prompts)
        names = sorted(seen[0])
        beyond = given[:, :, probes if probes < table.n else 0 :]
        outcomes = [_outcomes(plan, table, given, probes, verifier) for plan in plans]
        return cls(
            plans,
            probes,
            names,
            np.array([[one[name] for name in names] for one in seen]).reshape(*given.shape[:2], len(names)),
            np.take_along_axis(np.broadcast_to(table.correct, given.shape), beyond, axis=2).mean(axis=2),
            np.array([one.correct for one in outcomes], np.float64),
            np.array([one.tokens for one in outcomes], np.float64),
        )

    def fitted(self, problems: Ints, tokens: float, bins: int, seed: int) -> PlansPolicy:
        """The best policy for some of the problems."""
        ease = self._ease(problems, seed) if bins > 1 else Ease(0.5, {}, {})
        eases = self._eases(ease)[:, problems]
        edges = np.unique(np.quantile(eases, np.arange(1, bins) / bins).round(4))
        edges = edges[np.unique(np.searchsorted(edges, eases))[:-1]]  # no bin without a request
        places = np.searchsorted(edges, eases)
        shares = np.array([(places == place).mean() for place in range(len(edges) + 1)])
        accuracy = _estimates(self.right[:, :, problems], places, len(shares))
        spent = _means(self.cost[:, :, problems], places, len(shares))
        chosen = _best(shares, accuracy, spent, tokens)
        found = [
            Bin(
                float(upto),
                self.plans[plan],
                round(float(np.clip(accuracy[place, plan], 0, 1)), 4),
                round(float(spent[place, plan]), 1),
                round(float(shares[place]), 4),
            )
            for place, (upto, plan) in enumerate(zip([*edges, 1.0], chosen, strict=True))
        ]
        return PlansPolicy(self.probes, ease, tuple(found))

    def held_out(self, tokens: float, bins: int, seed: int) -> Floats:
        """The accuracy [P] on each problem of the policy that was fitted without it and its fold."""
        problems = self.rates.shape[1]
        fold = np.random.default_rng(seed).permutation(np.arange(problems) % min(_FOLDS, problems))
        right = np.zeros(problems)
        for one in range(fold.max() + 1):
            out = np.flatnonzero(fold == one)
            policy = self.fitted(np.flatnonzero(fold != one), tokens, bins, seed)
            places = np.searchsorted([each.upto for each in policy.bins[:-1]], self._eases(policy.ease)[:, out])
            plans = np.array([self.plans.index(each.plan) for each in policy.bins])[places]
            right[out] = np.take_along_axis(self.right[:, :, out], plans[None], axis=0)[0].mean(axis=0)
        return right

    def _ease(self, problems: Ints, seed: int) -> Ease:
        matrix = self.features[:_FEW, problems].reshape(-1, len(self.names))
        rates = self.rates[:_FEW, problems].reshape(-1)
        groups = np.tile(np.arange(len(problems)), len(rates) // len(problems))
        intercept, weights = logistic(matrix, rates, groups, seed=seed)
        kept = [place for place, weight in enumerate(weights) if weight]
        return Ease(
            round(intercept, 6),
            {self.names[place]: round(float(weights[place]), 6) for place in kept},
            {self.names[place]: round(float(matrix[:, place].mean()), 6) for place in kept},
        )

    def _eases(self, ease: Ease) -> Floats:
        """For every request: [R, P]."""
        weights = np.array([ease.weights.get(name, 0.0) for name in self.names])
        found: Floats = 1 / (1 + np.exp(-np.clip(ease.intercept + self.features @ weights, -30.0, 30.0)))
        return found


def _features(table: Table, given: Ints, probes: int, prompts: Sequence[Request] | None) -> list[Features]:
    """Of R requests on P problems each, R * P: those of the prompt, and of the probes where there are any."""
    known = [request_features(request) for request in prompts] if prompts else [{} for _ in table.problems]
    found: list[Features] = []
    for requests in requests_of(table, given):
        if not probes:
            found += [known[problem] for problem in requests.problem]
            continue
        sight = Sight(requests, frozenset({"drawn", "first", *PROBED.values()}))
        every = np.arange(len(requests))
        state = State(every, np.full(len(requests), probes), np.zeros(len(requests), np.bool_), None)
        columns = sight.columns(state, None)
        found += [
            {**probe_features(sight.seen(columns, row)), **known[problem]}
            for row, problem in zip(every.tolist(), requests.problem.tolist(), strict=True)
        ]
    return found


def _outcomes(plan: str, table: Table, given: Ints, probes: int, verifier: str | None) -> Outcomes:
    """The plan on every request, after the probes."""
    always = PlansPolicy(probes, Ease(0.0, {}, {}), (Bin(1.0, plan, 0.0, 0.0, 1.0),))
    return simulate_controller(Planned(always, {}), table, given, verifier=verifier)


def _means(values: Floats, places: Ints, bins: int) -> Floats:
    """Of values [plan, R, P] over the requests in each bin: [bin, plan]."""
    return np.array([values[:, places == place].mean(axis=1) for place in range(bins)])


def _estimates(right: Floats, places: Ints, bins: int) -> Floats:
    """The accuracy of each plan in each bin [bin, plan], its excess over what bin and plan say apart shrunken."""
    found = _means(right, places, bins)
    everywhere = right.mean(axis=(1, 2))
    apart = found.mean(axis=1, keepdims=True) + (everywhere - everywhere.mean())
    problems = np.array([(places == place).mean(axis=0).sum() for place in range(bins)])[:, None]
    estimates: Floats = apart + problems / (problems + _PRIOR) * (found - apart)
    return estimates


def _best(shares: Floats, accuracy: Floats, spent: Floats, tokens: float) -> tuple[int, ...]:
    """A plan for each bin: the cheapest way that is all but as accurate as the best within the budget.

    Exact: bin by bin, of the ways that reach as far only those are kept that no other beats in both.
    """
    ways: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]  # cost, errors, plans
    for share, right, cost in zip(shares, accuracy, spent, strict=True):
        longer = sorted(
            (before + share * cost[plan], errors + share * (1 - right[plan]), (*chosen, plan))
            for (before, errors, chosen), plan in product(ways, range(len(cost)))
        )
        ways = []
        for way in longer:
            if not ways or way[1] < ways[-1][1] - _ROUNDING:
                ways.append(way)
    if ways[0][0] > tokens:
        raise UsageError(f"no plan fits {tokens:g} tokens a request: the cheapest takes {ways[0][0]:.0f} on average")
    affordable = [way for way in ways if way[0] <= tokens]
    fewest = affordable[-1][1]
    return next(chosen for _, errors, chosen in affordable if errors <= fewest + _ALIKE)
