"""What strategies that a policy may hand over to need, by their words."""

from __future__ import annotations

from collections.abc import Iterable

_SEARCHES = ("beam", "dvts", "rebase", "ets", "particle-filter", "best-first", "check-and-correct", "ab-mcts")
_VERIFYING = frozenset({"best-of-n", "first-verified", *_SEARCHES})


def verifies(words: str) -> bool:
    """Whether a strategy asks a verifier."""
    name, _, options = words.partition(":")
    return name.strip() in _VERIFYING or "weighted=true" in options or "verify=true" in options


def needed(strategies: Iterable[str]) -> frozenset[str]:
    """What a controller that may run any of these names among its features: `score` where one asks a verifier."""
    return frozenset({"score"} if any(map(verifies, strategies)) else ())
