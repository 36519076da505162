"""ETS: pruning that values what branches share (Hooper et al. 2025)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.rebase import Rebase, softmax
from thinkscale.strategies.search.tree import Node, Path, Tree, known


@dataclass(frozen=True)
class EfficientTreeSearch(Rebase):
    """ETS: keep few branches that share much, then share the width out as in REBASE. The kept set S maximises

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
        single = max(([node] for node in nodes), key=lambda one: self._chosen(nodes, one).worth)
        best = max((self._chosen(nodes, start).climbed() for start in (single, nodes)), key=lambda one: one.worth)
        return [node for node in nodes if node.path in best.paths]

    def _chosen(self, nodes: Sequence[Node], start: Sequence[Node]) -> _Chosen:
        weights = softmax(known(nodes), self.temperature)
        return _Chosen(nodes, weights, start, sharing=self.sharing, diversity=self.diversity)


class _Chosen:
    """A set of branches and its worth. What one more or one less would change follows from counts of what is shared."""

    def __init__(
        self,
        nodes: Sequence[Node],
        weights: Sequence[float],
        start: Sequence[Node],
        *,
        sharing: float,
        diversity: float,
    ) -> None:
        self.paths: set[Path] = set()
        self.worth = 0.0
        self._weights = {node.path: weight for node, weight in zip(nodes, weights, strict=True)}
        self._held: Counter[Path] = Counter()
        self._kinds: Counter[tuple[str, ...]] = Counter()
        self._kind_of = {node.path: _stated(node) for node in nodes}
        every = {path[:length] for path in self._weights for length in range(1, len(path) + 1)}
        self._node_cost = sharing / len(every)
        self._kind_gain = diversity / len(set(self._kind_of.values()))
        for node in start:
            self._flip(node.path)

    def climbed(self) -> _Chosen:
        """Add or drop the branch that helps most, until none does."""
        while True:
            gains = {path: self._gain(path) for path in self._weights if self.paths != {path}}
            best = max(gains, key=lambda path: gains[path], default=None)
            if best is None or gains[best] <= 1e-12:
                return self
            self._flip(best)

    def _gain(self, path: Path) -> float:
        """What flipping it changes: a prefix or a kind matters where nothing else holds it."""
        mine = path in self.paths
        alone = sum(self._held[path[:length]] == mine for length in range(1, len(path) + 1))
        kind = self._kinds[self._kind_of[path]] == mine
        gain = self._weights[path] - self._node_cost * alone + self._kind_gain * kind
        return -gain if mine else gain

    def _flip(self, path: Path) -> None:
        self.worth += self._gain(path)
        change = -1 if path in self.paths else 1
        self.paths ^= {path}
        self._kinds[self._kind_of[path]] += change
        for length in range(1, len(path) + 1):
            self._held[path[:length]] += change


def _stated(node: Node) -> tuple[str, ...]:
    return tuple(re.findall(r"\d+(?:\.\d+)?", node.candidate.steps[-1]))
