"""Stopping policies for what people ask for: an accuracy as cheaply as possible, or the most accuracy at a cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thinkscale.errors import UsageError
from thinkscale.optimize.fit_stopping import stopping_family
from thinkscale.optimize.table import Table
from thinkscale.policies.stopping import StoppingPolicy, StoppingRule


def cheapest_for(table: Table, accuracy: float, **how: Any) -> StoppingPolicy:
    """The policy that is expected to reach this accuracy with fewest tokens; where none is, the most accurate one.

    `how` goes to `stopping_family`.
    """
    rules = worthwhile(stopping_family(table, **how))
    above = next((place for place, rule in enumerate(rules) if rule.accuracy >= accuracy), None)
    if above is None:
        return StoppingPolicy(rules[-1])
    if above == 0:
        return StoppingPolicy(rules[0])
    low, high = rules[above - 1], rules[above]
    return _mixed(high, low, (high.accuracy - accuracy) / (high.accuracy - low.accuracy))


def best_for(table: Table, tokens: float, **how: Any) -> StoppingPolicy:
    """The policy that is expected to be most accurate at so many tokens a request, prompts included, on average.

    `how` goes to `stopping_family`. Raises `UsageError` where even one sample takes more.
    """
    rules = worthwhile(stopping_family(table, **how))
    if rules[0].tokens > tokens:
        raise UsageError(
            f"the cheapest policy takes {rules[0].tokens:.0f} tokens a request on average: {tokens:g} are too few"
        )
    below = max(place for place, rule in enumerate(rules) if rule.tokens <= tokens)
    if below == len(rules) - 1:
        return StoppingPolicy(rules[-1])
    low, high = rules[below], rules[below + 1]
    return _mixed(high, low, (high.tokens - tokens) / (high.tokens - low.tokens))


def worthwhile(family: Sequence[tuple[float, StoppingPolicy]]) -> list[StoppingRule]:
    """The rules that are worth taking, the cheapest first: no mixture of two others is expected to be more accurate at
    the same cost. Between neighbours, every cost and accuracy can be had by taking one for a share of the requests.
    """
    best: list[StoppingRule] = []
    for rule in sorted((policy.rule for _, policy in family), key=lambda rule: (rule.tokens, -rule.accuracy)):
        if best and rule.accuracy <= best[-1].accuracy:
            continue
        while len(best) > 1 and _slope(best[-2], best[-1]) <= _slope(best[-1], rule):
            best.pop()
        best.append(rule)
    return best


def _slope(low: StoppingRule, high: StoppingRule) -> float:
    return (high.accuracy - low.accuracy) / max(high.tokens - low.tokens, 1e-9)


def _mixed(rule: StoppingRule, other: StoppingRule, share: float) -> StoppingPolicy:
    return StoppingPolicy(rule, other, share) if share > 0 else StoppingPolicy(rule)
