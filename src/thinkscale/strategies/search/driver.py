"""What every search over steps shares: it asks for growth, the session grows and judges, the tree is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from thinkscale.session import Session
from thinkscale.steps import Boundary
from thinkscale.strategies import selection
from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.tree import Grow, Node, Tree, known
from thinkscale.types import Candidate, Selection, Verdict

Select = Literal["weighted", "vote", "best"]


class Rule(Protocol):
    """The algorithm itself: a pure function from the tree to what grows next; nothing to grow ends the search."""

    def ask(self, tree: Tree) -> list[Grow]: ...


@dataclass(frozen=True, kw_only=True)
class StepSearch:
    """The options that every search over steps has.

    `step` is where a step ends; `auto` draws one whole reply first, whose form tells, which is an early incumbent and
    has a vote. No branch has more than `depth` steps. `select` is how the finished replies are chosen from: the answer
    with the most score (`weighted`), with the most replies (`vote`), or the reply with the highest score (`best`).
    """

    step: Boundary = Boundary()
    depth: int = 40
    select: Select = "weighted"

    def __post_init__(self) -> None:
        at_least("depth", self.depth, 1)

    def ask(self, tree: Tree) -> list[Grow]:
        raise NotImplementedError

    async def __call__(self, session: Session) -> Selection:
        """Grow and judge, round by round, until the rule wants no more. Ends early as the session does.

        The search is over too where a round brings nothing: the server failed, or every branch is as long as it may be.
        Where no branch came to its end, one plain sample stands in, if there is budget left.
        """
        session.need_continuation()
        session.need_verifier()
        drafts, step = await self._probe(session)
        tree = Tree(session.root, seed=session.request.seed)
        while not session.ended:
            asked = [grow for grow in self.ask(tree) if grow.node.depth < self.depth or not grow.node.may_grow]
            growths, pruned = tree.apply(asked)
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
        session.prune([node.candidate for node in nodes if node.stuck], "repeats itself")
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
        finished = [node.candidate for node in done]
        if self.select == "vote" or all(node.score is None for node in done):
            return selection.majority(finished)
        scores = known(done)
        if self.select == "best":
            return selection.best(finished, [Verdict(score) for score in scores])
        return selection.majority(finished, scores)
