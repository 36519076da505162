"""Beam search over steps and its diverse variant (Snell et al. 2024; Beeching et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.tree import Grow, Tree, ranked


@dataclass(frozen=True)
class Beam(StepSearch):
    """Keep the N/M best prefixes at each step and grow each M ways (N = `width`, M = `expand`).

    A finished reply among the N/M best keeps its place, so that the beam narrows as replies end; a level never costs
    more than N steps. Of several children with the same words one is kept.
    """

    width: int = 16
    expand: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_beams(self.width, self.expand)

    def ask(self, tree: Tree) -> list[Grow]:
        level = tree.round
        if level == 0:
            return [Grow(tree.root, self.width)]
        places, beam = self.width // self.expand, [tree.root]
        for depth in range(1, level + 1):
            beam = ranked(tree.level(depth))[:places]
            places -= sum(node.end == "finished" for node in beam)
        return [Grow(node, self.expand) for node in beam if node.end is None]


@dataclass(frozen=True)
class DiverseBeam(StepSearch):
    """DVTS: N/M independent subtrees, each searched greedily: grow M ways, go on from the best (N = `width`, M =
    `expand`). A subtree ends where its best reply does.
    """

    width: int = 16
    expand: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_beams(self.width, self.expand)

    def ask(self, tree: Tree) -> list[Grow]:
        if tree.round == 0:
            return [Grow(tree.root, self.width)]
        subtrees = groupby(tree.level(tree.round), key=lambda node: (node.path[0] - tree.first) // self.expand)
        groups = [list(nodes) for _, nodes in subtrees]
        best = [(ranked(nodes) or nodes)[0] for nodes in groups]  # a subtree may begin like another one
        return [Grow(node, self.expand) for node in best if node.end is None]


def whole_beams(width: int, expand: int) -> None:
    at_least("expand", expand, 1)
    at_least("width", width, 1)
    if width % expand:
        raise ValueError(f"width {width} is not a multiple of expand {expand}")
