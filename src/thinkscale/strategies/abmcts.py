"""Wider or deeper: a tree of whole answers that decides anew each time whether to start afresh or to revise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.abmcts_tree import Prior, Tree, Trial
from thinkscale.strategies.base import Schedule, at_least
from thinkscale.strategies.sequential import revision_of
from thinkscale.types import Candidate, Selection, Verdict
from thinkscale.verifiers.base import together

_Judged = tuple[Candidate, Verdict]


@dataclass(frozen=True)
class AdaptiveBranching:
    """AB-MCTS-A (Inoue et al. 2025): Thompson sampling between a new answer and a revision of one there is.

    A new answer at the root is a fresh sample; below, it revises its parent with the verifier's reason in view. The
    first candidate that the verifier passes ends the run ("verified"); else the highest score stands, ties to the
    earliest. `prior` says how scores are modelled: `gaussian` (Normal-Inverse-chi^2 with m=0, kappa=1, nu=1,
    tau^2=0.1) or `beta` (1/2, 1/2). A candidate that could not be judged may be revised but is no evidence.

    Deviation: the paper draws one sample at a time. `batch` of them are drawn and judged together, which trades
    adaptivity for time and energy; `Tree` says how a batch spreads. batch=1 is the paper's algorithm.
    """

    n: int = 16
    batch: int = 4
    prior: Prior = "gaussian"

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("batch", self.batch, 1)

    async def __call__(self, session: Session) -> Selection:
        session.need_verifier()
        tree = Tree(seed=session.request.seed, prior=self.prior)
        judged: dict[int, _Judged] = {}
        for batch in Schedule((self.batch,)).batches(self.n):
            trials = tree.ask(batch)
            grown = await _grow(session, trials, judged)
            verdicts = await session.verify(list(grown.values()))
            judged.update(zip(grown, zip(grown.values(), verdicts, strict=True), strict=True))
            for candidate, verdict in (judged[number] for number in grown):
                if verdict.passed:
                    return Selection(candidate, verdict.score, "verified")
            if session.ended:
                break
            for trial in trials:
                if trial.number in judged:
                    tree.tell(trial, judged[trial.number][1].score)
                else:
                    tree.fail(trial)
            if judged:
                leader = _best(judged)
                session.offer(leader.candidate, leader.confidence)
        return _best(judged)


async def _grow(session: Session, trials: Sequence[Trial], judged: Mapping[int, _Judged]) -> dict[int, Candidate]:
    """The candidates that came, by trial. Trials of one parent are samples of one prompt and travel together."""
    siblings: dict[int, list[int]] = {}
    for trial in trials:
        siblings.setdefault(trial.parent, []).append(trial.number)

    async def sample(parent: int, numbers: list[int]) -> list[tuple[int, Candidate]]:
        if parent not in judged:
            return list(zip(numbers, await session.sample(len(numbers)), strict=False))
        attempt, verdict = judged[parent]
        prompt = revision_of(session.request.prompt, attempt, verdict.reason)
        return list(zip(numbers, await session.sample(len(numbers), prompt=prompt, parent=attempt), strict=False))

    came = await together([sample(parent, numbers) for parent, numbers in siblings.items()])
    return dict(sorted(pair for pairs in came for pair in pairs))


def _best(judged: Mapping[int, _Judged]) -> Selection:
    return selection.best([candidate for candidate, _ in judged.values()], [verdict for _, verdict in judged.values()])
