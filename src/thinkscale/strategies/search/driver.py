"""What every search over steps shares: it asks for growth, the session grows and judges, the tree is told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from thinkscale.session import Session
from thinkscale.steps import Boundary
from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.tree import Grow, Node, Select, Tree, chosen
from thinkscale.types import Candidate, Selection, Verdict


@dataclass(frozen=True, kw_only=True)
class StepSearch(ABC):
    """A search over steps: its rule is `ask`, all else is the same for every search.

    `step` is where a step ends; `auto` draws one whole reply first, whose form tells, which is an early incumbent and
    has a vote. No branch has more than `depth` steps. `select` is how the finished replies are chosen from: the answer
    with the most score (`weighted`), with the most replies (`vote`), or the reply with the highest score (`best`).
    """

    step: Boundary = Boundary()
    depth: int = 40
    select: Select = "weighted"

    def __post_init__(self) -> None:
        at_least("depth", self.depth, 1)

    @abstractmethod
    def ask(self, tree: Tree) -> list[Grow]:
        """What is to grow next: a pure function of the tree. Nothing ends the search."""

    async def __call__(self, session: Session) -> Selection:
        """Grow and judge, round by round, until the rule wants no more. Ends early as the session does.

        The search is over too where a round brings nothing: the server failed, or every branch is as long as it may be.
        Where no branch came to its end, one plain sample stands in, if there is budget left.
        """
        session.need_continuation()
        session.need_verifier()
        drafts, step = await self._probe(session)
        tree = Tree(
            session.root, seed=session.request.seed, depth=self.depth, first=1 if self.step.kind == "auto" else 0
        )
        while not session.ended:
            growths, pruned = tree.apply(self.ask(tree))
            session.prune([node.candidate for node in pruned], "outscored")
            if not growths:
                break
            children = await session.extend(
                [grow.node.candidate for grow in growths], [grow.n for grow in growths], step=step
            )
            if not children:
                break
            tree.tell(children, await session.verify(children))
            self._report(session, tree, drafts, children)
        if not (drafts or tree.done or session.ended):
            drafts = await self._judged(session, await session.sample(1))
        return self._choose(tree, drafts)

    def _report(self, session: Session, tree: Tree, drafts: list[Node], children: list[Candidate]) -> None:
        nodes = [tree.nodes[child.path] for child in children]
        session.prune([node.candidate for node in nodes if node.end == "stuck"], "repeats itself")
        session.prune([node.candidate for node in nodes if node.end == "deep"], "as long as it may be")
        if any(node.path in tree.copies for node in nodes):
            leader = self._choose(tree, drafts)
            session.offer(leader.candidate, leader.confidence)

    async def _probe(self, session: Session) -> tuple[list[Node], Boundary]:
        if self.step.kind != "auto":
            return [], self.step
        draft = await session.sample(1)
        for candidate in draft:
            session.offer(candidate)
        return await self._judged(session, draft), self.step.found_in(draft[0].text if draft else "")

    async def _judged(self, session: Session, candidates: list[Candidate]) -> list[Node]:
        verdicts: list[Verdict] = await session.verify(candidates)
        return [Node(one, verdict.score) for one, verdict in zip(candidates, verdicts, strict=True)]

    def _choose(self, tree: Tree, drafts: list[Node]) -> Selection:
        """From the finished replies, each as often as it is held; the drafts come last, so that ties go to the tree."""
        done = [node for node in tree.done for _ in range(tree.copies[node.path])] + drafts
        return chosen(done, self.select)
