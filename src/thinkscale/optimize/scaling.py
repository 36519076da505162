"""How accuracy rises with samples: one live pool per problem, every strategy and budget read off the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkscale.engine import Engine
from thinkscale.models.base import prompt_key
from thinkscale.models.replay import Recorded, ReplayModel
from thinkscale.optimize.bench import request_for
from thinkscale.optimize.stats import wilson
from thinkscale.tasks.base import Problem
from thinkscale.tasks.grading import grade
from thinkscale.trace import Event
from thinkscale.types import Params, Usage
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.code import passes_tests

BUDGETS = (1, 4, 16, 64)
_BATCHES = "1/3/12/48"  # each budget is a prefix of the next, drawn as a live run would draw it


@dataclass(frozen=True)
class Pool:
    """One problem's samples, with when each had arrived: `arrived_s[i]`, seconds from the start, samples 0..i."""

    problem: Problem
    samples: list[Recorded]
    arrived_s: list[float]


@dataclass
class Outcome:
    """One strategy at one budget, over the problems so far."""

    task: str
    strategy: str
    budget: int
    correct: list[bool] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / len(self.correct) if self.correct else 0.0

    def row(self) -> dict[str, Any]:
        low, high = wilson(sum(self.correct), len(self.correct))
        return {
            "task": self.task,
            "strategy": self.strategy,
            "budget": self.budget,
            "n_problems": len(self.correct),
            "accuracy": self.accuracy,
            "ci_low": low,
            "ci_high": high,
            "total_tokens": self.usage.total_tokens,
            "seconds": self.seconds,
            "cost_usd": self.usage.cost_usd,
            "samples": self.samples,
        }


async def draw(engine: Engine, problem: Problem, params: Params, seed: int, *, heard: Callable[[Event], None]) -> Pool:
    """Sample one problem live, in the batches that the budgets share."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        if event["event"] == "candidate":
            events.append(event)
        heard(event)

    await engine.solve(
        request_for(problem, params, seed),
        strategy=f"best-of-n:n={BUDGETS[-1]},batches={_BATCHES}",
        verifier=CheckerVerifier(problem.check or (lambda _answer: None)),
        listeners=(listen,),
    )
    prompt_tokens = await engine.model.count_prompt_tokens(problem.prompt)
    samples, arrived = [], [0.0]
    for event in sorted(events, key=lambda event: event["path"]):
        samples.append(
            Recorded(
                event["text"],
                finish_reason=event["finish_reason"] or "stop",
                prompt_tokens=prompt_tokens,
                output_tokens=event["output_tokens"],
            )
        )
        arrived.append(max(arrived[-1], event["t"]))
    return Pool(problem, samples, arrived[1:])


async def replay(pool: Pool, engine: Engine, outcomes: Sequence[Outcome], params: Params, seed: int) -> None:
    """Add one problem to each outcome, by running its strategy over the pool's samples."""
    problem = pool.problem
    replaying = ReplayModel({prompt_key(problem.prompt): pool.samples}, max_n=engine.model.capabilities.max_n)
    verifier = CheckerVerifier(problem.check) if problem.check else None
    async with Engine(replaying, price=engine.price) as over:
        for outcome in outcomes:
            result = await over.solve(
                request_for(problem, params, seed),
                strategy=f"{outcome.strategy}:n={outcome.budget}",
                verifier=verifier,
            )
            right = result.answer is not None and await grade(problem, result.answer, engine.equivalent, passes_tests)
            outcome.correct.append(right)
            outcome.samples += result.samples
            outcome.seconds += pool.arrived_s[min(result.samples, len(pool.arrived_s)) - 1] if pool.arrived_s else 0.0
            outcome.usage += result.usage


def outcomes_for(task: str, *, checkable: bool) -> list[Outcome]:
    """A vote at every budget, and selection by the checker where the task has one."""
    strategies = ["first-verified", "self-consistency"] if checkable else ["self-consistency"]
    return [Outcome(task, strategy, budget) for strategy in strategies for budget in BUDGETS]
