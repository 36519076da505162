"""Many problems under many strategies, resumable, with what each cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from thinkscale.engine import Engine
from thinkscale.errors import ModelRefused, NoAnswer
from thinkscale.models.base import Model
from thinkscale.optimize.stats import paired_difference, wilson
from thinkscale.store import Recorder, RunStore
from thinkscale.tasks.base import Problem
from thinkscale.tasks.grading import grade
from thinkscale.trace import Event
from thinkscale.types import Budget, Params, Request, Usage
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.code import passes_tests

Row = dict[str, Any]
VerifierFor = Callable[[Problem], Verifier | None]


@dataclass(frozen=True)
class Bench:
    """What to measure. One unit is one problem under one strategy; each draws samples of its own.

    `concurrency` units run at a time, so a unit's seconds include its wait for the others' calls.
    """

    task: str
    problems: Sequence[Problem]
    strategies: Sequence[str]
    params: Params = field(default_factory=Params)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    concurrency: int = 4

    def request(self, problem: Problem) -> Request:
        return request_for(problem, self.params, self.seed)


def request_for(problem: Problem, params: Params, seed: int) -> Request:
    """A problem as a request; the problem's own stop words and token cap go before the general ones."""
    params = replace(
        params,
        stop=problem.stop or params.stop,
        max_tokens=min(params.max_tokens, problem.max_tokens or params.max_tokens),
    )
    return Request(problem.prompt, problem.kind, params, seed, problem.id)


def unit_of(problem: Problem, strategy: str) -> str:
    return f"{problem.id}|{strategy}"


async def run(
    bench: Bench,
    engine: Engine,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    verifier_for: VerifierFor = lambda _problem: None,
    done: Callable[[Row], None] = lambda _row: None,
) -> list[Row]:
    """Run what `folder` does not hold yet and return every unit's row. `done` hears each row, resumed ones first.

    An unreachable server or a refused key ends the run with its error; what was finished stays and the same call goes
    on from there. A request the server refuses (too long, say) counts as wrong, with the refusal in its row.
    """
    async with RunStore(folder / "run.db", settings) as store:
        rows = await store.finished()
        units = {unit_of(problem, strategy) for problem in bench.problems for strategy in bench.strategies}
        for unit in units & rows.keys():
            done(rows[unit])
        slots = asyncio.Semaphore(bench.concurrency)

        async def work(problem: Problem, strategy: str) -> None:
            unit = unit_of(problem, strategy)
            async with slots:
                resumed = await store.has_samples(unit)
                row = await _measure(
                    bench, engine, problem, strategy, verifier_for(problem), lambda model: Recorder(model, store, unit)
                )
                if resumed:
                    row["seconds"] = None  # part of it was spent in a run that ended: unknown, and not short
                await store.finish(unit, row)
                rows[unit] = row
                done(row)

        for strategy in bench.strategies:
            missing = [one for one in bench.problems if unit_of(one, strategy) not in rows]
            try:
                async with asyncio.TaskGroup() as group:
                    for problem in missing:
                        group.create_task(work(problem, strategy))
            except BaseExceptionGroup as failures:
                raise first_failure(failures) from None  # the first failure explains the rest
    return list(rows.values())


def first_failure(error: BaseException) -> BaseException:
    """The innermost first error of a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _measure(
    bench: Bench,
    engine: Engine,
    problem: Problem,
    strategy: str,
    verifier: Verifier | None,
    through: Callable[[Model], Model],
) -> Row:
    answers: list[str] = []
    failures: dict[tuple[int, ...], str] = {}

    def listen(event: Event) -> None:
        if event["event"] == "candidate" and event["answer"] is not None:
            answers.append(event["answer"])
        elif event["event"] == "failed" and event["purpose"] == "generate":
            failures.update(dict.fromkeys(map(tuple, event["paths"]), event["error"]))
        if event["event"] == "candidate":
            failures.pop(tuple(event["path"]), None)  # drawn again, and there after all

    row: Row = {"task": bench.task, "problem": problem.id, "strategy": strategy}
    try:
        result = await engine.solve(
            bench.request(problem),
            strategy=strategy,
            budget=bench.budget,
            verifier=verifier,
            through=through,
            listeners=(listen,),
        )
    except (NoAnswer, ModelRefused) as error:
        if isinstance(error, ModelRefused) and not error.about_the_request:
            raise  # the key, the address, the account: no fault of this problem's
        reason = error.stop_reason if isinstance(error, NoAnswer) else "refused"
        nothing = {
            "answer": None,
            "correct": False,
            "covered": False,
            "confidence": None,
            "samples": 0,
            "seconds": None,
        }
        spent = error.usage if isinstance(error, NoAnswer) else Usage()
        return row | nothing | {"stop_reason": reason, "error": str(error)} | _bill(spent)
    graded = {
        answer: await grade(problem, answer, engine.equivalent, passes_tests)
        for answer in {*answers, result.answer}
        if answer is not None
    }
    return row | {
        "answer": result.answer,
        "correct": result.answer is not None and graded[result.answer],
        "covered": any(graded.values()),
        "confidence": result.confidence,
        "stop_reason": result.stop_reason,
        "samples": result.samples,
        "seconds": result.seconds,
        "failed_samples": len(failures),
        "error": next(iter(failures.values()), None),
        **_bill(result.usage),
    }


def _bill(usage: Usage) -> Row:
    return {**asdict(usage), "total_tokens": usage.total_tokens}


def summarize(bench: Bench, rows: Sequence[Row]) -> list[Row]:
    """One row per strategy, in the order given.

    `accuracy` with its 95% Wilson interval; `coverage` is an oracle figure (some sample was right), `selection_gap` the
    distance to it; `difference` compares with the first strategy over the same problems (paired bootstrap). Tokens,
    seconds and dollars are sums over problems, the full cost of the method; `None` where any part is unknown.
    """
    found = {(row["strategy"], row["problem"]): row for row in rows}
    groups = {
        strategy: {
            problem.id: found[strategy, problem.id] for problem in bench.problems if (strategy, problem.id) in found
        }
        for strategy in bench.strategies
    }
    first = groups[bench.strategies[0]]
    return [_summary(bench, strategy, group, first) for strategy, group in groups.items() if group]


def _summary(bench: Bench, strategy: str, group: Mapping[str, Row], first: Mapping[str, Row]) -> Row:
    rows = list(group.values())
    correct, covered = sum(row["correct"] for row in rows), sum(row["covered"] for row in rows)
    low, high = wilson(correct, len(rows))
    shared = [problem for problem in group if problem in first]
    difference, diff_low, diff_high = paired_difference(
        [group[problem]["correct"] for problem in shared], [first[problem]["correct"] for problem in shared]
    )
    return {
        "task": bench.task,
        "strategy": strategy,
        "budget": {name: limit for name, limit in asdict(bench.budget).items() if limit is not None},
        "n_problems": len(rows),
        "accuracy": correct / len(rows),
        "ci_low": low,
        "ci_high": high,
        "coverage": covered / len(rows),
        "selection_gap": (covered - correct) / len(rows),
        "difference": difference,
        "difference_low": diff_low,
        "difference_high": diff_high,
        "samples": fmean(row["samples"] for row in rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        "output_tokens": sum(row["output_tokens"] for row in rows),
        "total_tokens": sum(row["total_tokens"] for row in rows),
        "calls": sum(row["calls"] for row in rows),
        "seconds": _known_sum(rows, "seconds"),
        "cost_usd": _known_sum(rows, "cost_usd"),
        "failed_samples": sum(row.get("failed_samples", 0) for row in rows),
        "error": next((row["error"] for row in rows if row["error"]), None),
        "stop_reasons": dict(Counter(row["stop_reason"] for row in rows).most_common()),
    }


def _known_sum(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows]
    return None if any(value is None for value in values) else float(sum(values))
