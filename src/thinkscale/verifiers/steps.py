"""Judging a reply step by step: the seam for step verifiers, and what turns their words into one score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

from thinkscale.steps import Boundary
from thinkscale.types import Candidate, Request, Verdict
from thinkscale.verifiers.base import Generate

Aggregation = Literal["last", "min", "prod", "mean"]

AGGREGATIONS: dict[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "prod": prod,
    "mean": fmean,
}


@dataclass(frozen=True, slots=True)
class Solution:
    """A reply in steps, whole or still growing. The first `judged` steps have their verdicts; the others are asked for.

    `"".join(steps)` is the reply from its start; a step begins with the space that separates it.
    """

    steps: tuple[str, ...]
    judged: int = 0


class StepVerifier(Protocol):
    """Judges single steps in batches: the score of a step says whether it is right, given the steps before it."""

    name: str

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        """For each solution one verdict per step from `judged` on, in order. `score=None`: could not judge the step."""
        ...


class Stepwise:
    """A step verifier as a verifier of candidates: no step of a request is judged twice, and the scores become one.

    A candidate that grew step by step is judged by those steps, any other is split at `boundary`. Steps that could not
    be judged do not count; where none could, neither can the candidate. A candidate fails where a step does, and passes
    where it is finished and every step that was judged passes; where steps have scores only, it does neither. `last`
    suits verifiers whose scores foretell the answer (Monte-Carlo values), `min` and `prod` those that judge each step
    for itself.
    """

    def __init__(
        self, steps: StepVerifier, *, aggregate: Aggregation = "min", boundary: Boundary | None = None
    ) -> None:
        self.name = steps.name
        self._steps = steps
        self._aggregate = AGGREGATIONS[aggregate]
        self._boundary = boundary or Boundary()
        # What one request has paid for serves that request alone: no other gets its verdicts unbilled.
        self._known: WeakKeyDictionary[Generate, dict[tuple[str, ...], Verdict]] = WeakKeyDictionary()

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        replies = [candidate.steps or self._boundary.split(candidate.text) for candidate in candidates]
        judged = await self.judge(request, replies, generate)
        return [self._total(verdicts, one.finished) for one, verdicts in zip(candidates, judged, strict=True)]

    async def judge(
        self, request: Request, replies: Sequence[tuple[str, ...]], generate: Generate
    ) -> list[list[Verdict]]:
        """The verdicts of every step of each reply; only what is not known yet is asked for, and only once."""
        known = self._known.setdefault(generate, {})
        asked: list[Solution] = []
        coming: set[tuple[str, ...]] = set()
        # A longer reply brings the verdicts of its prefixes, also those it shares with others.
        for steps in sorted(dict.fromkeys(replies), key=len, reverse=True):
            prefixes = [steps[: length + 1] for length in range(len(steps))]
            first = next((i for i, one in enumerate(prefixes) if one not in coming and one not in known), None)
            if first is not None:
                asked.append(Solution(steps, first))
                coming.update(prefixes[first:])
        if asked:
            judged = await self._steps.judge(request, asked, generate)
            for solution, verdicts in zip(asked, judged, strict=True):
                for length, verdict in zip(range(solution.judged, len(solution.steps)), verdicts, strict=True):
                    known.setdefault(solution.steps[: length + 1], verdict)
        return [[known[steps[: i + 1]] for i in range(len(steps))] for steps in replies]

    def _total(self, verdicts: Sequence[Verdict], finished: bool) -> Verdict:
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        passes = [verdict.passed for verdict in verdicts if verdict.score is not None or verdict.passed is not None]
        wrong = next((place for place, verdict in enumerate(verdicts) if verdict.passed is False), None)
        told = verdicts[wrong].reason if wrong is not None else verdicts[-1].reason if verdicts else ""
        return Verdict(
            self._aggregate(scores) if scores else None,
            passed=False if wrong is not None else True if finished and passes and all(passes) else None,
            reason=f"step {wrong + 1}: {told}" if wrong is not None else told,
            steps=tuple(verdict.score for verdict in verdicts),
        )
