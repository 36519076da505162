"""Several step verifiers as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from statistics import fmean
from typing import Literal

from thinkscale.types import Request, Verdict
from thinkscale.verifiers.base import Generate, together
from thinkscale.verifiers.steps import Solution, StepVerifier

Rule = Literal["first", "mean", "min"]
"""How several verdicts on one step become one."""

_TOTAL: dict[Rule, Callable[[Sequence[float]], float]] = {"mean": fmean, "min": min}


class Combined:
    """Step verifiers that judge together.

    `first` takes the verdict of the first that can judge the step; a later one is asked only for the steps that the
    earlier ones could not judge, so put the exact and cheap before the costly. `mean` and `min` ask all of them at
    once, over the scores of those that could judge. There a step fails where one of them says so, and passes where all
    that could judge pass it.
    """

    def __init__(self, verifiers: Sequence[StepVerifier], rule: Rule = "first") -> None:
        if not verifiers:
            raise ValueError("nothing to combine: give at least one step verifier")
        self.name = "+".join(verifier.name for verifier in verifiers)
        self._verifiers = tuple(verifiers)
        self._rule = rule

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        if self._rule == "first":
            return await self._first(request, solutions, generate)
        told = await together([one.judge(request, solutions, generate) for one in self._verifiers])
        return [[self._total(verdicts) for verdicts in zip(*of_one, strict=True)] for of_one in zip(*told, strict=True)]

    async def _first(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        told = [list(verdicts) for verdicts in await self._verifiers[0].judge(request, solutions, generate)]
        for verifier in self._verifiers[1:]:
            gaps = [(place, start, end) for place, verdicts in enumerate(told) for start, end in _gaps(verdicts)]
            if not gaps:
                break
            parts = [
                Solution(whole.steps[: whole.judged + end], whole.judged + start)
                for whole, start, end in ((solutions[place], start, end) for place, start, end in gaps)
            ]
            for (place, start, end), verdicts in zip(gaps, await verifier.judge(request, parts, generate), strict=True):
                told[place][start:end] = verdicts
        return told

    def _total(self, verdicts: Sequence[Verdict]) -> Verdict:
        judged = [
            (verifier.name, verdict.score, verdict)
            for verifier, verdict in zip(self._verifiers, verdicts, strict=True)
            if verdict.score is not None
        ]
        if not judged:
            return Verdict(None, reason="; ".join(verdict.reason for verdict in verdicts if verdict.reason))
        passes = [verdict.passed for _, _, verdict in judged]
        return Verdict(
            _TOTAL[self._rule]([score for _, score, _ in judged]),
            passed=False if False in passes else True if all(passes) else None,
            reason="; ".join(f"{name}: {verdict.reason or f'{score:.2f}'}" for name, score, verdict in judged),
        )


def _gaps(verdicts: Sequence[Verdict]) -> Iterator[tuple[int, int]]:
    """Runs of steps that could not be judged, as (start, end)."""
    for unjudged, run in groupby(range(len(verdicts)), key=lambda place: verdicts[place].score is None):
        places = list(run)
        if unjudged:
            yield places[0], places[-1] + 1
