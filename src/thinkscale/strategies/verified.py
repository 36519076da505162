"""Sampling against a verifier: the best of n, and the first that passes."""

from __future__ import annotations

from dataclasses import dataclass

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import Schedule, at_least
from thinkscale.types import Candidate, Selection, Verdict


@dataclass(frozen=True)
class BestOfN:
    """Sample n, return the one the verifier scores highest: argmax_i s_i (Cobbe et al. 2021).

    Ties go to the lowest index. A verifier that errs is exploited as n grows: compare with a plain vote.
    `batches` draws and judges in turns, so that a tight budget is not all spent before anything is judged.
    """

    n: int = 16
    batches: Schedule = Schedule((16,))

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)

    async def __call__(self, session: Session) -> Selection:
        session.need_verifier()
        candidates: list[Candidate] = []
        verdicts: list[Verdict] = []
        for batch in self.batches.batches(self.n):
            drawn = await session.sample(batch)
            candidates += drawn
            verdicts += await session.verify(drawn)
            if session.ended:
                break
            if not candidates:
                continue
            leader = selection.best(candidates, verdicts)
            session.offer(leader.candidate, leader.confidence)
        return selection.best(candidates, verdicts)


@dataclass(frozen=True)
class FirstVerified:
    """Sample in growing batches until the verifier passes one (repeated sampling, Brown et al. 2024).

    A candidate passes where the verifier says so, or scores at least `threshold` where it gives only scores. If none
    does, the highest score stands. With an exact checker the accuracy is the coverage.
    """

    n: int = 64
    batches: Schedule = Schedule((1, 3, 12, 48))
    threshold: float = 0.5

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)

    async def __call__(self, session: Session) -> Selection:
        session.need_verifier()
        candidates: list[Candidate] = []
        verdicts: list[Verdict] = []
        for batch in self.batches.batches(self.n):
            drawn = await session.sample(batch)
            judged = await session.verify(drawn)
            for candidate, verdict in zip(drawn, judged, strict=True):
                if self._passes(verdict):
                    return Selection(candidate, verdict.score, "verified")
            candidates += drawn
            verdicts += judged
            if session.ended:
                break
            if not candidates:
                continue
            leader = selection.best(candidates, verdicts)
            session.offer(leader.candidate, leader.confidence)
        return selection.best(candidates, verdicts)

    def _passes(self, verdict: Verdict) -> bool:
        if verdict.passed is not None:
            return verdict.passed
        return verdict.score is not None and verdict.score >= self.threshold
