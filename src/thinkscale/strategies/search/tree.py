"""The state of a search over steps: what has grown so far, with its scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import Literal

from thinkscale.strategies import selection
from thinkscale.types import Candidate, Selection, Verdict, derive_seed

Path = tuple[int, ...]
Select = Literal["weighted", "vote", "best"]

_UNKNOWN = 0.5


@dataclass(frozen=True, slots=True)
class Node:
    """A reply that has come so far. `score` is the verifier's word on it, `None` where it could not judge.

    `end` says why it grows no further: it is a finished reply; or `stuck`, its last step repeating the one before word
    for word, which a model that loops goes on doing; or as `deep` as it may be. `None`: it may grow. `twin`: an elder
    sibling has written the same words.
    """

    candidate: Candidate
    score: float | None = None
    end: Literal["finished", "stuck", "deep"] | None = None
    twin: bool = False

    @property
    def path(self) -> Path:
        return self.candidate.path

    @property
    def depth(self) -> int:
        return len(self.candidate.path)


@dataclass(frozen=True, slots=True)
class Grow:
    """Grow `node` by one step, `n` ways; with 0, leave it open for later. Of a finished node, keep `n` copies."""

    node: Node
    n: int


class Tree:
    """What a search knows. It is told nodes in any order; what it gives is in the order of their paths.

    `open` nodes may grow and were neither grown nor pruned; `done` ones are finished replies, `copies` how many of each
    are held. `round` counts the calls of `apply`. No branch is longer than `depth`; `first` is the place of the root's
    first child.
    """

    def __init__(self, root: Candidate, *, seed: int = 0, depth: int = 40, first: int = 0) -> None:
        self.root = Node(root)
        self.seed = seed
        self.depth = depth
        self.first = first
        self.round = 0
        self.nodes: dict[Path, Node] = {(): self.root}
        self.copies: dict[Path, int] = {}
        self._open: set[Path] = {()}

    @property
    def open(self) -> list[Node]:
        return self._sorted(self._open)

    @property
    def done(self) -> list[Node]:
        return self._sorted(path for path, copies in self.copies.items() if copies)

    @property
    def expansions(self) -> int:
        """How many nodes have grown."""
        return len({path[:-1] for path in self.nodes if path})

    def level(self, depth: int) -> list[Node]:
        """The replies that are `depth` steps long, growing or finished; not the dead."""
        alive = (path for path, node in self.nodes.items() if len(path) == depth and node.end in (None, "finished"))
        return self._sorted(alive)

    def tell(self, children: Sequence[Candidate], verdicts: Sequence[Verdict]) -> None:
        """Take in what grew, each with its verdict."""
        for child, verdict in zip(children, verdicts, strict=True):
            node = self.nodes[child.path] = Node(child, verdict.score, self._end(child))
            if node.end is None:
                self._open.add(node.path)
            elif node.end == "finished":
                self.copies[node.path] = 1
        for parent in {child.path[:-1] for child in children}:
            self._mark_twins(parent)

    def apply(self, growths: Sequence[Grow]) -> tuple[list[Grow], list[Node]]:
        """Take a decision: returns what is to grow now, and the open nodes it leaves out, which are pruned."""
        self.round += 1
        chosen = {grow.node.path: grow for grow in growths}
        pruned = [node for node in self.open if node.path not in chosen]
        self.copies.update({path: grow.n for path, grow in chosen.items() if path in self.copies})
        self._open = {path for path in self._open if path in chosen and not chosen[path].n}
        return [grow for path, grow in sorted(chosen.items()) if grow.n and path not in self.copies], pruned

    def random(self) -> Random:
        """The chance of this round: the same seed gives the same draws."""
        return Random(derive_seed(self.seed, ("search", self.round)))

    def _end(self, candidate: Candidate) -> Literal["finished", "stuck", "deep"] | None:
        if candidate.finish_reason != "step":
            return "finished"
        steps = [step.strip() for step in candidate.steps[-2:]]
        if len(steps) == 2 and steps[0] == steps[1]:
            return "stuck"
        return "deep" if len(candidate.path) >= self.depth else None

    def _mark_twins(self, parent: Path) -> None:
        seen: set[str] = set()
        for path in sorted(path for path in self.nodes if path and path[:-1] == parent):
            node = self.nodes[path]
            self.nodes[path] = replace(node, twin=node.candidate.text in seen)
            seen.add(node.candidate.text)

    def _sorted(self, paths: Iterable[Path]) -> list[Node]:
        return [self.nodes[path] for path in sorted(paths)]


def known(nodes: Sequence[Node]) -> list[float]:
    """Scores to compare nodes by: a node that could not be judged counts as the mean of those that could."""
    scores = [node.score for node in nodes if node.score is not None]
    unknown = fmean(scores) if scores else _UNKNOWN
    return [unknown if node.score is None else node.score for node in nodes]


def chosen(nodes: Sequence[Node], select: Select) -> Selection:
    """The answer of finished replies; a plain vote where no score tells them apart or none is above 0."""
    candidates = [node.candidate for node in nodes]
    scores = known(nodes)
    if select == "vote" or all(node.score is None for node in nodes) or not any(scores):
        return selection.majority(candidates)
    if select == "best":
        return selection.best(candidates, [Verdict(score) for score in scores])
    return selection.majority(candidates, scores)


def ranked(nodes: Sequence[Node]) -> list[Node]:
    """Best first; ties go to the deeper, then to the earlier path. Twins of another node are left out."""
    scored = [(score, node) for score, node in zip(known(nodes), nodes, strict=True) if not node.twin]
    return [node for _, node in sorted(scored, key=lambda pair: (-pair[0], -pair[1].depth, pair[1].path))]
