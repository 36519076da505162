"""Sampling and voting, and knowing when the vote is decided."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import Schedule, at_least
from thinkscale.types import AnswerKind, Candidate, Selection


@dataclass(frozen=True)
class Single:
    """One sample, returned as it is: the baseline that everything else must beat."""

    async def __call__(self, session: Session) -> Selection:
        return selection.majority(await session.sample(1))


@dataclass(frozen=True)
class SelfConsistency:
    """Sample n, return the most frequent answer (Wang et al. 2023): argmax_a sum_i 1[a_i = a].

    `weighted` sums verifier scores instead of ones (Li et al. 2023); a candidate that could not be judged has weight 0.
    Ties go to the answer with the lowest sample index.
    """

    n: int = 16
    weighted: bool = False

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)

    async def __call__(self, session: Session) -> Selection:
        if self.weighted:
            session.need_verifier()
        candidates = await session.sample(self.n)
        if not self.weighted or not candidates:
            return selection.majority(candidates)
        session.offer(selection.majority(candidates).candidate)
        verdicts = await session.verify(candidates)
        if all(verdict.score is None for verdict in verdicts):
            return selection.majority(candidates)
        return selection.majority(candidates, [verdict.score or 0.0 for verdict in verdicts])


@dataclass(frozen=True)
class AdaptiveConsistency:
    """Stop sampling once the leader would win the full vote (Aggarwal et al. 2023, Beta criterion).

    With a and b votes for the two most frequent answers, stop when P(p > 1/2) >= confidence under Beta(a+1, b+1).
    Deviation: the paper draws one sample at a time; `batches` trades samples against time and energy. The first batch
    of 4 loses nothing, for 4-0 is the earliest lead that passes at 0.95. And where the answers are texts and no two of
    the first `prose` agree, it stops (`disagreement`): open-ended replies give a vote nothing to count. 0: never.
    """

    n: int = 40
    confidence: float = 0.95
    batches: Schedule = Schedule((4,))
    prose: int = 4

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        if not 0.5 < self.confidence < 1:
            raise ValueError("confidence must lie between 0.5 and 1")
        at_least("prose", self.prose, 0)

    async def __call__(self, session: Session) -> Selection:
        candidates: list[Candidate] = []
        texts = self.prose > 0 and session.request.kind is AnswerKind.TEXT
        for batch in self.batches.batches(self.n):
            candidates += await session.sample(batch)
            if session.ended:
                break
            if not candidates:
                continue
            leader = selection.majority(candidates)
            votes = selection.tally(candidates)
            if leads(votes) >= self.confidence:
                return selection.majority(candidates, stop_reason="consensus")
            if texts and len(candidates) >= self.prose and max(votes.values(), default=0) <= 1:
                return selection.majority(candidates, stop_reason="disagreement")
            session.offer(leader.candidate, leader.confidence)
        return selection.majority(candidates)


def leads(votes: dict[str, float]) -> float:
    """P(p > 1/2) for p ~ Beta(a+1, b+1), a and b the two largest counts: P(Bin(a+b+1, 1/2) <= a), exactly."""
    a, b = (*sorted((int(count) for count in votes.values()), reverse=True), 0, 0)[:2]
    trials = a + b + 1
    ways = sum(comb(trials, successes) for successes in range(a + 1))
    return float(ways / 2**trials)


@dataclass(frozen=True)
class EarlyStopping:
    """ESC (Li et al. 2024): draw windows of samples and stop when all answers of one window agree; else vote on all.

    Deviation: windows are checked in sample order while `batches` of them may be drawn together (default: one window
    at a time). Samples without an answer break unanimity.
    """

    n: int = 40
    window: int = 5
    batches: Schedule = Schedule((5,))

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("window", self.window, 2)

    async def __call__(self, session: Session) -> Selection:
        candidates: list[Candidate] = []
        checked = 0
        for batch in self.batches.batches(self.n):
            candidates += await session.sample(batch)
            while checked + self.window <= len(candidates):
                window = candidates[checked : checked + self.window]
                checked += self.window
                if window[0].answer is not None and len({candidate.answer for candidate in window}) == 1:
                    return selection.majority(candidates, stop_reason="consensus")
            if session.ended:
                break
            if not candidates:
                continue
            leader = selection.majority(candidates)
            session.offer(leader.candidate, leader.confidence)
        return selection.majority(candidates)
