"""Named ways to spend compute. Each is a frozen dataclass that reads like its paper."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from thinkscale.errors import UsageError
from thinkscale.strategies.base import Schedule, Strategy, build, describe
from thinkscale.strategies.deepconf import DeepConfOffline, DeepConfOnline
from thinkscale.strategies.sequential import BudgetForcing, Refine
from thinkscale.strategies.verified import BestOfN, FirstVerified
from thinkscale.strategies.vote import AdaptiveConsistency, EarlyStopping, SelfConsistency, Single

STRATEGIES: dict[str, type[Any]] = {
    "single": Single,
    "self-consistency": SelfConsistency,
    "adaptive-consistency": AdaptiveConsistency,
    "esc": EarlyStopping,
    "best-of-n": BestOfN,
    "first-verified": FirstVerified,
    "deepconf": DeepConfOffline,
    "deepconf-online": DeepConfOnline,
    "refine": Refine,
    "budget-forcing": BudgetForcing,
}


@lru_cache(maxsize=256)
def parse(spec: str) -> Strategy:
    """Make a strategy from `name` or `name:key=value,key=value`. Raises `UsageError` naming what is wrong.

    Strategies are values without state, so one object serves every request with the same words.
    """
    name, _, rest = spec.strip().partition(":")
    if name not in STRATEGIES:
        from difflib import get_close_matches

        near = get_close_matches(name, STRATEGIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown strategy {name!r}{hint} (known: {', '.join(STRATEGIES)})")
    arguments: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(
                f"strategy {name}: {part!r} is not key=value (parameters: {describe(STRATEGIES[name]) or 'none'})"
            )
        arguments[key.strip().replace("-", "_")] = value.strip()
    strategy: Strategy = build(STRATEGIES[name], name, arguments)
    return strategy


__all__ = ["STRATEGIES", "Schedule", "Strategy", "describe", "parse"]
