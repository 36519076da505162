"""`thinkscale judge-steps`: how well a step verifier finds the first wrong step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from thinkscale.accounting import Price
from thinkscale.api import list_price
from thinkscale.cli.fetching import fetching
from thinkscale.cli.output import print_json
from thinkscale.models.base import Model
from thinkscale.models.opening import Local, open_model
from thinkscale.optimize.judging import Judged, Judging
from thinkscale.tasks.processbench import LabelledSolution, ProcessBench
from thinkscale.types import AnswerKind
from thinkscale.verifiers.words import check_step_word, step_verifier


@dataclass(frozen=True)
class Options:
    task: str
    verifier: str
    model: str
    limit: int | None
    threshold: float
    concurrency: int
    seed: int
    price: str | None
    local: Local
    json: bool


def run(options: Options) -> None:
    """Check every word, then judge and report."""
    task = ProcessBench.parse(options.task)
    asks = check_step_word(options.verifier)
    price = Price.parse(options.price) if options.price else None
    solutions = task.solutions(options.limit, options.seed)
    errors = Console(stderr=True)
    found = asyncio.run(_measure(options, solutions, task.kind, price, errors, asks=asks))
    told = {"task": options.task, "verifier": options.verifier, "model": options.model if asks else None}
    figures = told | {"threshold": options.threshold, "seed": options.seed} | found
    if options.json:
        print_json(figures)
    else:
        Console().print(table(figures))
        if figures["failed"]:
            errors.print(f"{figures['failed']} of {figures['solutions']} solutions failed: {figures['error']}")
        if figures["steps_judged"] == 0:
            errors.print(f"no step could be judged: {next(iter(figures['unjudged']))}")


async def _measure(
    options: Options,
    solutions: Sequence[LabelledSolution],
    kind: AnswerKind,
    price: Price | None,
    errors: Console,
    *,
    asks: bool,
) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        model: Model | None = None
        with fetching(errors, options.model) as progress:
            if asks:
                opening = open_model(options.model, local=options.local, progress=progress)
                model = await stack.enter_async_context(opening)
            verifier = await stack.enter_async_context(step_verifier(options.verifier, options.local, progress))
        bar = stack.enter_context(
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), console=errors,
            )
        )  # fmt: skip
        task = bar.add_task(options.verifier, total=len(solutions))

        def done(_judged: Judged) -> None:
            bar.advance(task)

        return await Judging(
            verifier,
            solutions,
            kind=kind,
            model=model,
            price_for=lambda asked: price if price and asked is model else list_price(asked),
            threshold=options.threshold,
            concurrency=options.concurrency,
            seed=options.seed,
        ).run(done)


def table(figures: dict[str, Any]) -> Table:
    """The figures for a terminal, one a line."""
    rows = Table(box=None, pad_edge=False, show_header=False)
    rows.add_column(no_wrap=True)
    rows.add_column(justify="right", no_wrap=True)
    rows.add_column(style="dim")
    rows.add_row("verifier", figures["verifier"])
    rows.add_row(
        "first wrong step found", _accuracy(figures, "error"), f"of {figures['erroneous']} erroneous solutions"
    )
    rows.add_row("nothing found wrong", _accuracy(figures, "correct"), f"of {figures['correct']} correct solutions")
    rows.add_row("F1", _number(figures["f1"]), "harmonic mean of the two")
    rows.add_row("false alarms", _percent(figures["false_alarms"]), "of all solutions: a right step found wrong")
    rows.add_row("steps judged", _percent(figures["steps_judged"]))
    each = figures["tokens_per_solution"]
    rows.add_row("tokens", f"{figures['tokens']:,}", f"{each:.0f} per solution, prompt and output")
    if figures["cost_usd"]:
        rows.add_row("dollars", f"{figures['cost_usd']:.4f}")
    rows.add_row("seconds", f"{figures['seconds']:.1f}")
    return rows


def _accuracy(figures: dict[str, Any], which: str) -> Text:
    interval = figures[f"accuracy_{which}_ci"]
    bounds = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return Text(_number(figures[f"accuracy_{which}"]) + bounds)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
