"""A bandit that begins with what a bank tells, instead of cold."""

from __future__ import annotations

from collections.abc import Sequence

from thinkscale.errors import UsageError
from thinkscale.optimize.reaching import charged
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Table, orders
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.policies.features import request_features
from thinkscale.policies.needs import verifies
from thinkscale.types import Request


def fit_bandit(
    table: Table,
    arms: Sequence[str],
    *,
    price: float,
    prompts: Sequence[Request] | None = None,
    allowance: float | None = None,
    verifier: str | None = None,
    verifier_tokens: float = 0.0,
    seed: int = 0,
) -> BanditPolicy:
    """One that has seen every arm once on every problem, as if traffic had brought them in a random order.

    `price` is in right answers per token, `allowance` in tokens per request. Without `prompts`, the problems' requests
    in the table's order, it knows no features and learns one preference for all. Arms that ask a verifier go by the
    scores of `verifier`, at `verifier_tokens` a sample. Raises `UsageError` for arms that
    want more samples than are recorded, or another than the strategies that can be simulated.
    """
    if not arms:
        raise UsageError("name the strategies that the bandit chooses from")
    given = orders(table, len(arms) + 1, seed)[1:]
    results = {}
    for place, arm in enumerate(arms):
        outcomes = simulate(arm, table, given[place : place + 1], verifier=verifier)
        if outcomes.missing is not None:
            raise UsageError(
                f"{arm} wants more samples than the {table.n} of each problem that are recorded: "
                "name strategies that want fewer, or record more with `thinkscale collect`"
            )
        results[arm] = charged(outcomes, outcomes.samples, verifier_tokens) if verifies(arm) else outcomes
    samples = {arm: float(outcomes.samples.mean()) for arm, outcomes in results.items()}
    sample_cost = sum(float(outcomes.tokens.mean()) for outcomes in results.values()) / sum(samples.values())
    cheapest = min(float(outcomes.tokens.mean()) for outcomes in results.values())
    if allowance is not None and allowance < cheapest:
        raise UsageError(
            f"the cheapest strategy takes {cheapest:.0f} tokens a request: an allowance of {allowance:g} cannot hold"
        )
    seen = [request_features(request) for request in prompts or ()]
    settings = {} if seen else {"features": ()}
    cold = BanditPolicy.cold(samples, price=price, sample_cost=sample_cost, allowance=allowance, **settings)
    shuffled = orders(table, 2, seed)[1, :, 0].argsort(kind="stable")
    return cold.learned(
        Logged(
            seen[place] if seen else {},
            arm,
            1 / len(arms),
            float(outcomes.correct[0, place]),
            float(outcomes.tokens[0, place]),
        )
        for place in map(int, shuffled)
        for arm, outcomes in results.items()
    )
