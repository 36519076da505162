"""REBASE: reward-balanced search (Wu et al. 2024), and pruning that values what branches share (ETS)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp
from typing import Literal

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.tree import Grow, Node, Path, Tree, known

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


@dataclass(frozen=True)
class EfficientTreeSearch(Rebase):
    """ETS (Hooper et al. 2025): before the width is shared out as in REBASE, keep the set S of branches that maximises

        sum_{j in S} W_j / sum_j W_j  -  lambda_c |nodes(S)| / |nodes|  +  lambda_s |clusters(S)| / |clusters|

    where nodes(S) are all nodes on the paths to S, which is what a prefix cache must hold, and clusters group branches
    that say the same next. `sharing` is lambda_c, `diversity` lambda_s. Deviations: clusters are branches whose last
    step states the same numbers, where the paper compares embeddings; and the set is found by adding and dropping
    single branches while that helps, from the best one and from all, where the paper solves an integer program.
    """

    sharing: float = 1.0
    diversity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("sharing", self.sharing, 0)
        at_least("diversity", self.diversity, 0)

    def keep(self, tree: Tree) -> list[Node]:
        nodes = tree.open
        if not nodes:
            return []
        paths = [node.path for node in nodes]
        weights = dict(zip(paths, softmax(known(nodes), self.temperature), strict=True))
        clusters = {node.path: _stated(node) for node in nodes}
        every, kinds = len(_held(paths)), len(set(clusters.values()))

        def worth(chosen: frozenset[Path]) -> float:
            return (
                sum(weights[path] for path in sorted(chosen))
                - self.sharing * len(_held(chosen)) / every
                + self.diversity * len({clusters[path] for path in chosen}) / kinds
            )

        def climbed(chosen: frozenset[Path]) -> frozenset[Path]:
            while True:
                better = max(filter(None, (chosen ^ {path} for path in paths)), key=worth)
                if worth(better) <= worth(chosen) + 1e-12:
                    return chosen
                chosen = better

        single = max((frozenset([path]) for path in paths), key=worth)
        best = max(climbed(single), climbed(frozenset(paths)), key=worth)
        return [node for node in nodes if node.path in best]


def _held(paths: Iterable[Path]) -> set[Path]:
    return {path[:length] for path in paths for length in range(1, len(path) + 1)}


def _stated(node: Node) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+(?:\.\d+)?", node.candidate.steps[-1]))
