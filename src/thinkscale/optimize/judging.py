"""How well a step verifier finds the first wrong step, and what that costs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thinkscale.accounting import Ledger, Price
from thinkscale.errors import MissingSample, ModelError, UsageError
from thinkscale.models.base import BaseModel, Model
from thinkscale.optimize.stats import wilson
from thinkscale.session import Session
from thinkscale.tasks.processbench import LabelledSolution
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Candidate, Chunk, Params, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.base import Generate, together
from thinkscale.verifiers.steps import Solution, StepVerifier


@dataclass(frozen=True, slots=True)
class Judged:
    """One solution, judged. `predicted` is the first step found wrong, -1 where none was.

    `judged` of its `steps` got a score; `unjudged` are the reasons why the others did not. `error` says why it could
    not be judged at all; `None` where it was.
    """

    id: str
    label: int
    predicted: int
    steps: int
    judged: int
    usage: Usage
    unjudged: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Judging:
    """What to measure: `verifier` on `solutions`, `concurrency` of them at a time.

    A step is found wrong where its verdict fails it, or scores it below `threshold`. `model` is what the verifier asks
    where it has no model of its own; `None` for verifiers that ask none. `seed` seeds what it samples.
    """

    verifier: StepVerifier
    solutions: Sequence[LabelledSolution]
    kind: AnswerKind = AnswerKind.NUMBER
    model: Model | None = None
    price_for: Callable[[Model], Price | None] = lambda _model: None
    threshold: float = 0.5
    concurrency: int = 4
    seed: int = 0

    async def run(self, done: Callable[[Judged], None] = lambda _judged: None) -> dict[str, Any]:
        """Judge every solution; `done` hears each as it is finished. The summary has the wall time as `seconds`.

        A solution whose model call failed is left out of the figures and counted; raises the error where all failed.
        """
        slots = asyncio.Semaphore(self.concurrency)
        errors: list[ModelError | MissingSample] = []

        async def one(solution: LabelledSolution) -> Judged:
            async with slots:
                judged = await self._judge(solution, errors)
            done(judged)
            return judged

        began = time.monotonic()
        rows = await together([one(solution) for solution in self.solutions])
        if errors and all(row.error for row in rows):
            raise errors[0]
        return summarize(rows) | {"seconds": time.monotonic() - began}

    async def _judge(self, solution: LabelledSolution, errors: list[ModelError | MissingSample]) -> Judged:
        prompt = Prompt.of(solution.problem)
        verifier = _Keeping(self.verifier)
        ledger = Ledger()
        session = Session(
            Request(prompt, self.kind, seed=self.seed, id=solution.id),
            model=self.model or _NoModel(),
            ledger=ledger,
            trace=Trace(),
            canonical=_no_answer,
            verifier=verifier,
            price_for=self.price_for,
        )
        text = "".join(solution.steps)
        await session.verify([Candidate((0,), prompt, text, finish_reason="stop", steps=solution.steps)])
        if session.error is not None:
            errors.append(session.error)
        return Judged(
            solution.id,
            solution.label,
            first_wrong(verifier.verdicts, self.threshold),
            len(solution.steps),
            sum(verdict.score is not None for verdict in verifier.verdicts),
            ledger.spent,
            tuple(verdict.reason for verdict in verifier.verdicts if verdict.score is None),
            None if session.error is None else str(session.error),
        )


def first_wrong(verdicts: Sequence[Verdict], threshold: float) -> int:
    """The first step that a verdict fails, or scores below `threshold`; -1 where there is none."""
    for place, verdict in enumerate(verdicts):
        if verdict.passed is False or (verdict.score is not None and verdict.score < threshold):
            return place
    return -1


def summarize(rows: Sequence[Judged]) -> dict[str, Any]:
    """The figures of ProcessBench, over the solutions that could be judged; `None` where there is nothing to count.

    `accuracy_error`: the share of erroneous solutions whose first wrong step was found, exactly. `accuracy_correct`:
    the share of correct ones in which nothing was. `f1` is their harmonic mean. Both with their 95% Wilson intervals.
    `false_alarms`: the share of all solutions in which a right step was found wrong, be the solution correct or wrong
    later. `steps_judged`: the share of steps that got a score; `unjudged`: why others did not, the most frequent
    reasons. `failed` solutions count in the tokens only.
    """
    kept = [row for row in rows if row.error is None]
    wrong = [row.predicted == row.label for row in kept if row.label >= 0]
    right = [row.predicted == row.label for row in kept if row.label < 0]
    alarms = [row.predicted >= 0 and (row.label < 0 or row.predicted < row.label) for row in kept]
    on_wrong, on_right = _share(sum(wrong), len(wrong)), _share(sum(right), len(right))
    usage = sum((row.usage for row in rows), Usage())
    return {
        "solutions": len(rows),
        "erroneous": len(wrong),
        "correct": len(right),
        "failed": len(rows) - len(kept),
        "error": next((row.error for row in rows if row.error), None),
        "accuracy_error": on_wrong,
        "accuracy_error_ci": wilson(sum(wrong), len(wrong)) if wrong else None,
        "accuracy_correct": on_right,
        "accuracy_correct_ci": wilson(sum(right), len(right)) if right else None,
        "f1": None if on_wrong is None or on_right is None else _harmonic(on_wrong, on_right),
        "false_alarms": _share(sum(alarms), len(alarms)),
        "steps_judged": _share(sum(row.judged for row in kept), sum(row.steps for row in kept)),
        "unjudged": dict(Counter(reason for row in kept for reason in row.unjudged).most_common(3)),
        "tokens": usage.total_tokens,
        "tokens_per_solution": _share(usage.total_tokens, len(rows)),
        "cost_usd": usage.cost_usd,
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


class _Keeping:
    """A step verifier as a verifier of whole candidates, that keeps the verdicts on the one candidate's steps."""

    def __init__(self, steps: StepVerifier) -> None:
        self.name = steps.name
        self.verdicts: Sequence[Verdict] = ()
        self._steps = steps

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        (candidate,) = candidates
        (self.verdicts,) = await self._steps.judge(request, [Solution(candidate.steps)], generate)
        return [Verdict(None, steps=tuple(verdict.score for verdict in self.verdicts))]


class _NoModel(BaseModel):
    """Stands in where the verifier is known to ask no model."""

    name = "no model"

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        raise UsageError("this verifier asks a model, and none was given")
        yield


async def _no_answer(_candidate: Candidate) -> str | None:
    return None
