"""REBASE: reward-balanced search (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import Literal

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.tree import Grow, Node, Tree, known

Rounding = Literal["ceil", "round"]


@dataclass(frozen=True)
class Rebase(StepSearch):
    """Share the width out among all open branches by their reward, step by step; then a weighted vote.

    B_0 = N (`width`), B_i = B_{i-1} - completed; branch j gets W_j = B_i exp(R_j/T) / sum_k exp(R_k/T), T =
    `temperature` (T_b = 0.1 in the paper). `rounding`: `round` to the nearest (the paper; may spend less or more than
    B_i), or `ceil`, in descending order until the width is used up (the authors' code; spends exactly B_i).
    """

    width: int = 16
    temperature: float = 0.1
    rounding: Rounding = "ceil"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("width", self.width, 1)
        if self.temperature <= 0:
            raise ValueError("temperature must be positive")

    def ask(self, tree: Tree) -> list[Grow]:
        if tree.round == 0:
            return [Grow(tree.root, self.width)]
        nodes = self.keep(tree)
        budget = self.width - len(tree.done)
        widths = shares(known(nodes), budget, self.temperature, self.rounding)
        return [Grow(node, n) for node, n in zip(nodes, widths, strict=True) if n > 0]

    def keep(self, tree: Tree) -> list[Node]:
        """The branches among which the width is shared out."""
        return tree.open


def shares(rewards: Sequence[float], budget: int, temperature: float, rounding: Rounding) -> list[int]:
    """W_j for each reward. Ties of `ceil` go to the first."""
    if budget < 1 or not rewards:
        return [0] * len(rewards)
    parts = [budget * weight for weight in softmax(rewards, temperature)]
    if rounding == "round":
        return [int(part + 0.5) for part in parts]
    widths = [0] * len(parts)
    for place in sorted(range(len(parts)), key=lambda place: -parts[place]):
        widths[place] = min(budget, ceil(parts[place] - 1e-9))
        budget -= widths[place]
    return widths


def softmax(values: Sequence[float], temperature: float) -> list[float]:
    most = max(values)
    weights = [exp((value - most) / temperature) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
