"""Best-first search over steps (Yao et al. 2023 search thoughts so; Koh et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.tree import Grow, Tree, ranked


@dataclass(frozen=True)
class BestFirst(StepSearch):
    """Grow the most promising open branches first, wherever in the tree they are, until `finish` replies are done.

    Each round the `batch` best grow `expand` ways; at equal scores the deeper goes first, then the earlier. It ends
    after `expansions` growths too.
    """

    expand: int = 4
    batch: int = 2
    finish: int = 4
    expansions: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("expand", "batch", "finish", "expansions"):
            at_least(field, getattr(self, field), 1)

    def ask(self, tree: Tree) -> list[Grow]:
        left = self.expansions - tree.expansions
        if len(tree.done) >= self.finish or left < 1:
            return []
        promising = ranked(tree.open)
        now = promising[: min(self.batch, left)]
        return [Grow(node, self.expand if node in now else 0) for node in promising]
