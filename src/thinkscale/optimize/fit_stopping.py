"""Fitting when to stop, from a table of recorded samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypedDict, Unpack

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.lattice import Lattice
from thinkscale.optimize.programme import Programme
from thinkscale.optimize.table import Table
from thinkscale.policies.stopping import StoppingPolicy, StoppingRule

BATCHES = (1, 2, 3, 4, 8)
_PRICES = 25


class Options(TypedDict, total=False):
    """What may be said about fitting.

    `verifier` names the scores that may be asked for, at `verifier_tokens` a sample; to `larger`, recorded on the same
    problems, a request may escalate. `batches` are the numbers of samples that may be drawn together. `round_price` is
    the price of each wait for a batch, in chances of a right answer.
    """

    larger: Table | None
    verifier: str | None
    verifier_tokens: float
    batches: Sequence[int]
    round_price: float
    seed: int


def fit_stopping(table: Table, *, price: float, **options: Unpack[Options]) -> StoppingPolicy:
    """The policy of the most reward, which is 1 for a right answer less `price` for each token.

    Optimal stopping by fitted Q-iteration: backward induction over simulated requests, from their last sample to none
    (as Longstaff and Schwartz 2001 price options). What an action gains at a state of the votes is the mean, over the
    requests that come there, of what they end with if they take it and do the best known from then on. Few problems
    leave states that few of them reach; so this mean is drawn towards that of states of a like lead with as many
    samples and with more, and that towards what the doubt about the leader lets expect, P(p < 1/2) under Beta(first +
    1, second + 1), times what such a doubt is worth on this table. Half of the requests draw from resampled
    problems (see `lattice`), and what counts as right is smoothed (see `worth`): rules fitted to the very answers of a
    few dozen problems do worse on others.

    Raises `UsageError` where nothing can be learnt: one problem, one sample each, or all samples right, or wrong.
    """
    return StoppingPolicy(Fitting.of(table, **options).rule(price))


def stopping_family(
    table: Table, *, prices: Sequence[float] | None = None, **options: Unpack[Options]
) -> list[tuple[float, StoppingPolicy]]:
    """The policies for many prices, dearest first; by default from where one sample is all to where nothing is spared.
    Prices with the same policy are one.
    """
    return [(rule.price, StoppingPolicy(rule)) for rule in Fitting.of(table, **options).family(prices)]


@dataclass(frozen=True)
class Fitting:
    """All that is known of a table, ready for any price. `dearest` is the price at which a sample is worth nothing."""

    lattice: Lattice
    batches: tuple[int, ...]
    round_price: float
    dearest: float

    @classmethod
    def of(
        cls,
        table: Table,
        *,
        larger: Table | None = None,
        verifier: str | None = None,
        verifier_tokens: float = 0.0,
        batches: Sequence[int] = BATCHES,
        round_price: float = 0.0,
        seed: int = 0,
    ) -> Fitting:
        """See `Options`."""
        if not batches or min(batches) < 1:
            raise UsageError("batches must be whole numbers from 1 on")
        if len(table) < 2:
            raise UsageError("when to stop cannot be told from one problem: a bank of many is needed")
        if table.n < 2:
            raise UsageError("when to stop cannot be told from one sample of each problem: more are needed")
        if table.correct.all() or not table.correct.any():
            every = "right" if table.correct.any() else "wrong"
            raise UsageError(f"when to stop cannot be told: every sample of {table.model} is {every}")
        lattice = Lattice.of(table, batches=batches, larger=larger, verifier=verifier, check=verifier_tokens, seed=seed)
        sample = float(table.output_tokens.mean() + table.prompt_tokens.mean() / table.max_n)
        return cls(lattice, tuple(sorted(set(batches))), round_price, 1 / sample)

    def rule(self, price: float) -> StoppingRule:
        """The best rule where a token has this price."""
        if not 0 <= price < inf:
            raise UsageError(f"the price of a token must be 0 or more, not {price}")
        return Programme(self.lattice, self.batches, price, self.round_price).rule()

    def family(self, prices: Sequence[float] | None = None) -> list[StoppingRule]:
        """Rules for these prices, the dearest first, without repetitions."""
        if prices is None:
            prices = [*np.geomspace(self.dearest, self.dearest * 1e-5, _PRICES).tolist(), 0.0]
        rules: list[StoppingRule] = []
        for price in sorted(prices, reverse=True):
            rule = self.rule(price)
            if not rules or not rule.alike(rules[-1]):
                rules.append(rule)
        return rules
