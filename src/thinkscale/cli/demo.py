"""`thinkscale demo`: accuracy rising with compute, on a small model on this machine, in minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from thinkscale.api import open_engine
from thinkscale.cli.fetching import fetching
from thinkscale.cli.output import print_json
from thinkscale.cli.solve import interruptible
from thinkscale.cli.words import writable_folder
from thinkscale.engine import Engine
from thinkscale.models.opening import Local
from thinkscale.optimize import chart, report
from thinkscale.optimize.scaling import BUDGETS, Outcome, draw, outcomes_for, replay
from thinkscale.tasks import parse_task
from thinkscale.tasks.base import Problem
from thinkscale.trace import Event
from thinkscale.types import Params

_MODEL = "smollm2"
_TASKS = {"linear": 24, "countdown:largest=20": 18, "chain_sum": 12}
_PARAMS = Params(temperature=0.8)


class Board:
    """The live display: where the run is, and the accuracies so far."""

    def __init__(self, outcomes: Sequence[Outcome], problems: int, seconds: float) -> None:
        self._outcomes = outcomes
        self._problems = problems
        self._seconds = seconds
        self._began = time.monotonic()
        self._samples = self._tokens = 0
        self.solved = 0
        self.current = ""

    def hear(self, event: Event) -> None:
        if event["event"] == "candidate":
            self._samples += 1
            self._tokens += event["output_tokens"]

    def __rich__(self) -> Group:
        elapsed = time.monotonic() - self._began
        rate = self._tokens / elapsed if elapsed > 1 else 0
        width = 30
        full = width * self.solved // self._problems
        head = Text.assemble(
            ("█" * full, "cyan"), ("░" * (width - full), "dim"),
            f" {self.solved}/{self._problems} problems  {self._samples:,} samples  {rate:.0f} tokens/s  "
            f"{elapsed:.0f} of at most {self._seconds:.0f} s\n",
            (self.current, "dim"),
        )  # fmt: skip
        return Group(head, accuracy_table(self._outcomes))


def accuracy_table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    table.add_column("problems", justify="right")
    for budget in BUDGETS[:-1]:
        table.add_column(str(budget), justify="right")
    table.add_column(f"{BUDGETS[-1]} samples", justify="right")
    for first in outcomes[:: len(BUDGETS)]:
        group = [one for one in outcomes if (one.task, one.strategy) == (first.task, first.strategy)]
        cells = [f"{one.accuracy:.0%}" if one.correct else "" for one in group]
        table.add_row(first.task, first.strategy, str(len(first.correct)), *cells)
    return table


def run(out: Path, seed: int, seconds: float, threads: int | None, *, as_json: bool) -> None:
    errors = Console(stderr=True)
    writable_folder(out)
    outcomes = [
        outcome
        for task in _TASKS
        for outcome in outcomes_for(task, checkable=parse_task(task).problems(1, seed)[0].check is not None)
    ]
    solved, elapsed = asyncio.run(_measure(outcomes, seed, seconds, threads, errors))
    rows = [outcome.row() for outcome in outcomes if outcome.correct]
    write_reports(out, outcomes, rows, seed, elapsed)
    if as_json:
        print_json({"rows": rows})
        return
    console = Console()
    for task, series in series_by_task(outcomes).items():
        console.print()
        console.print(Text.from_ansi(chart.terminal(f"{task}: accuracy", series, x_label=_X_LABEL)))
    console.print()
    console.print(accuracy_table([outcome for outcome in outcomes if outcome.correct]))
    console.print(f"\n{conclusion(outcomes)}", highlight=False)
    console.print(f"{solved} problems, {elapsed:.0f} s. Report: {out}/report.html", highlight=False)


async def _measure(
    outcomes: list[Outcome], seed: int, seconds: float, threads: int | None, errors: Console
) -> tuple[int, float]:
    """Solve problems, tasks in turn, until all are done or the time is up; whole problems only."""
    async with AsyncExitStack() as stack:
        with fetching(errors, _MODEL) as progress:
            engine = await stack.enter_async_context(
                open_engine(_MODEL, local=Local(threads=threads), progress=progress)
            )
        problems = _in_turn([(task, list(parse_task(task).problems(n, seed))) for task, n in _TASKS.items()])
        board = Board(outcomes, len(problems), seconds)
        stack.enter_context(Live(board, console=errors, refresh_per_second=4, transient=True))
        interrupt = stack.enter_context(interruptible())
        began = time.monotonic()
        for task, problem in problems:
            spent = time.monotonic() - began
            if interrupt.is_set() or spent + (spent / board.solved if board.solved else 0) > seconds:
                break
            await _one(engine, task, problem, outcomes, board, seed)
        return board.solved, time.monotonic() - began


async def _one(engine: Engine, task: str, problem: Problem, outcomes: list[Outcome], board: Board, seed: int) -> None:
    board.current = f"{task}: {problem.prompt.messages[-1]['content']}"
    pool = await draw(engine, problem, _PARAMS, seed, heard=board.hear)
    await replay(pool, engine, [outcome for outcome in outcomes if outcome.task == task], _PARAMS, seed)
    board.solved += 1


def _in_turn(tasks: list[tuple[str, list[Problem]]]) -> list[tuple[str, Problem]]:
    """Tasks mixed in proportion, so that a run cut short has some of each."""
    placed = [
        ((place + 0.5) / len(problems), task, problem)
        for task, problems in tasks
        for place, problem in enumerate(problems)
    ]
    return [(task, problem) for _, task, problem in sorted(placed, key=lambda item: item[:2])]


_X_LABEL = "tokens per problem (log scale)"


def series_by_task(outcomes: Sequence[Outcome]) -> dict[str, list[chart.Series]]:
    series: dict[str, list[chart.Series]] = {}
    for first in outcomes[:: len(BUDGETS)]:
        group = [one for one in outcomes if (one.task, one.strategy) == (first.task, first.strategy) and one.correct]
        if group:
            points = [_point(outcome) for outcome in group]
            dashed = first.strategy == "self-consistency"
            series.setdefault(first.task, []).append(chart.Series(first.strategy, points, dashed))
    return series


def _point(outcome: Outcome) -> chart.Point:
    row = outcome.row()
    tokens = outcome.usage.total_tokens / len(outcome.correct)
    return chart.Point(tokens, row["accuracy"], row["ci_low"], row["ci_high"], f"n={outcome.budget}")


def conclusion(outcomes: Sequence[Outcome]) -> str:
    """What the figures say, checkable tasks together: one sample against the largest budget, and the vote."""
    checked = {outcome.task for outcome in outcomes if outcome.strategy == "first-verified"}

    def share(strategy: str, budget: int) -> float:
        right = [
            one
            for o in outcomes
            if o.task in checked and (o.strategy, o.budget) == (strategy, budget)
            for one in o.correct
        ]
        return sum(right) / len(right) if right else 0.0

    one, most, vote = (
        share("first-verified", 1),
        share("first-verified", BUDGETS[-1]),
        share("self-consistency", BUDGETS[-1]),
    )
    times = f", {most / one:.1f} times as many" if one else ""
    return (
        f"Where answers can be checked: {one:.0%} right with one sample, {most:.0%} with up to {BUDGETS[-1]}{times}; "
        f"a plain vote over the same {BUDGETS[-1]} samples gets {vote:.0%}."
    )


def write_reports(out: Path, outcomes: list[Outcome], rows: list[dict[str, Any]], seed: int, elapsed: float) -> None:
    command = f"thinkscale demo --seed {seed}"
    charts = {
        task: chart.svg(f"{task}: accuracy against tokens", series, x_label=_X_LABEL)
        for task, series in series_by_task(outcomes).items()
    }
    lead = (
        f"{conclusion(outcomes)} The model is SmolLM2-135M on this machine's processor; {elapsed:.0f} seconds in all. "
        f"Each problem was sampled {BUDGETS[-1]} times, in batches of 1, 3, 12 and 48; each row runs its strategy over "
        "a prefix of those samples, and its seconds are how long they took to arrive. The checker never sees the "
        "answer: it substitutes into the equation, or evaluates the expression. Bars are 95% Wilson intervals."
    )
    columns = {
        "task": "task",
        "strategy": "strategy",
        "budget": "samples at most",
        "n_problems": "problems",
        "accuracy": "accuracy",
        "ci_low": "from",
        "ci_high": "to",
        "samples": "samples drawn",
        "total_tokens": "tokens",
        "seconds": "seconds",
        "cost_usd": "dollars",
    }
    sections = [(f"{task}", picture) for task, picture in charts.items()]
    page = report.page(
        "More compute, more right answers", lead, [*sections, ("Figures", report.table(columns, rows))], made_by=command
    )
    report.write(out / "report.html", page)
    report.write_json(out / "summary.json", {"command": command, "seconds": elapsed, "rows": rows})
    for task, picture in charts.items():
        report.write(out / f"{task.partition(':')[0]}.svg", picture)
