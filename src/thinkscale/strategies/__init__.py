"""Named ways to spend compute. Each is a frozen dataclass that reads like its paper."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from thinkscale.errors import UsageError
from thinkscale.options import arguments, build, near
from thinkscale.strategies.abmcts import AdaptiveBranching
from thinkscale.strategies.aggregation import RecursiveAggregation
from thinkscale.strategies.auto import Auto
from thinkscale.strategies.base import Schedule, Strategy
from thinkscale.strategies.deepconf import DeepConfOffline, DeepConfOnline
from thinkscale.strategies.pairwise import Pairwise
from thinkscale.strategies.search import (
    Beam,
    BestFirst,
    CheckAndCorrect,
    DiverseBeam,
    EfficientTreeSearch,
    ParticleFilter,
    Rebase,
)
from thinkscale.strategies.sequential import BudgetForcing, Refine
from thinkscale.strategies.verified import BestOfN, FirstVerified
from thinkscale.strategies.vote import AdaptiveConsistency, EarlyStopping, SelfConsistency, Single

STRATEGIES: dict[str, type[Any]] = {
    "single": Single,
    "auto": Auto,
    "self-consistency": SelfConsistency,
    "adaptive-consistency": AdaptiveConsistency,
    "esc": EarlyStopping,
    "best-of-n": BestOfN,
    "first-verified": FirstVerified,
    "deepconf": DeepConfOffline,
    "deepconf-online": DeepConfOnline,
    "refine": Refine,
    "budget-forcing": BudgetForcing,
    "beam": Beam,
    "dvts": DiverseBeam,
    "rebase": Rebase,
    "ets": EfficientTreeSearch,
    "particle-filter": ParticleFilter,
    "best-first": BestFirst,
    "check-and-correct": CheckAndCorrect,
    "ab-mcts": AdaptiveBranching,
    "rsa": RecursiveAggregation,
    "pairwise": Pairwise,
}


@lru_cache(maxsize=256)
def parse(spec: str) -> Strategy:
    """Make a strategy from `name` or `name:key=value,key=value`. Raises `UsageError` naming what is wrong.

    Strategies are values without state, so one object serves every request with the same words.
    """
    name, _, rest = spec.strip().partition(":")
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}{near(name, STRATEGIES)}; known: {', '.join(STRATEGIES)}")
    what = f"strategy {name}"
    strategy: Strategy = build(STRATEGIES[name], what, arguments(what, rest, ","))
    return strategy


__all__ = ["STRATEGIES", "Schedule", "Strategy", "parse"]
