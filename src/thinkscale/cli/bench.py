"""`thinkscale bench`: measure, resume, report."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from thinkscale import __version__, strategies
from thinkscale.accounting import Price
from thinkscale.api import open_engine
from thinkscale.cli.fetching import fetching
from thinkscale.cli.following import check, follow
from thinkscale.cli.output import print_json
from thinkscale.cli.words import sampling, writable_folder
from thinkscale.errors import UsageError
from thinkscale.models.opening import Local
from thinkscale.optimize import bench as benching
from thinkscale.optimize import chart, report
from thinkscale.tasks import parse_task
from thinkscale.verifiers.words import check_word, problem_verifier, shared_verifier
from thinkscale.words import parse_budget


@dataclass(frozen=True)
class Options:
    task: str
    out: Path
    model: str
    strategies: tuple[str, ...]
    limit: int
    seed: int
    budget: str | None
    verifier: str | None
    temperature: float
    max_tokens: int
    concurrency: int
    price: str | None
    local: Local
    json: bool
    policy: Path | None = None
    larger: str | None = None


def run(options: Options) -> None:
    """Check every word, then measure and report into the folder."""
    for number, strategy in enumerate(options.strategies):
        strategies.parse(strategy)
        if strategy in options.strategies[:number]:
            raise UsageError(f"strategy {strategy} is named twice")
    check(options.strategies, options.policy, options.larger)
    check_word(options.verifier, own_checks=True)
    problems = list(parse_task(options.task).problems(options.limit, options.seed))
    bench = benching.Bench(
        options.task,
        problems,
        options.strategies,
        sampling(options.temperature, options.max_tokens, options.verifier),
        parse_budget(options.budget),
        options.seed,
        options.concurrency,
    )
    price = Price.parse(options.price) if options.price else None
    own_verifiers = problem_verifier(options.verifier, options.task, problems)
    errors = Console(stderr=True)
    rows = asyncio.run(_measure(options, bench, price, own_verifiers, errors))
    summary = benching.summarize(bench, rows)
    write_reports(options, bench, summary)
    if options.json:
        print_json({"rows": summary})
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(summary_table(summary))
        console.print("samples, tokens and seconds per problem; oracle: some sample was right", style="dim")
        for row in summary:
            if early := {why: n for why, n in row["stop_reasons"].items() if why in _EARLY}:
                ended = ", ".join(f"{n} by {why}" for why, n in early.items())
                errors.print(
                    f"{row['strategy']}: {sum(early.values())} of {row['n_problems']} problems ended early ({ended})"
                )
        errors.print(f"written: {options.out}/summary.json, {options.out}/report.html")


async def _measure(
    options: Options,
    bench: benching.Bench,
    price: Price | None,
    own_verifiers: Any,
    errors: Console,
) -> list[benching.Row]:
    async with AsyncExitStack() as stack:
        with fetching(errors, options.model) as progress:
            engine = await stack.enter_async_context(
                open_engine(
                    options.model,
                    local=options.local,
                    price=price,
                    prompts=[problem.prompt for problem in bench.problems],
                    progress=progress,
                )
            )
            word = None if own_verifiers else options.verifier
            shared = await stack.enter_async_context(shared_verifier(word, options.local, progress))
            followed = None
            if check(options.strategies, options.policy, options.larger):
                followed = await follow(
                    engine, stack, errors,
                    policy=options.policy, larger=options.larger, local=options.local, progress=progress,
                )  # fmt: skip
        writable_folder(options.out)
        bars = stack.enter_context(
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), TextColumn("accuracy {task.fields[accuracy]}"), console=errors,
            )
        )  # fmt: skip
        tasks = {name: bars.add_task(name, total=len(bench.problems), accuracy="–") for name in bench.strategies}
        right: dict[str, list[bool]] = {name: [] for name in bench.strategies}

        def done(row: benching.Row) -> None:
            name = row["strategy"]
            right[name].append(row["correct"])
            bars.update(tasks[name], advance=1, accuracy=f"{sum(right[name]) / len(right[name]):.2f}")

        return await benching.run(
            bench,
            engine,
            options.out,
            settings=settings(options, engine.model.name, followed),
            verifier_for=own_verifiers or (lambda _problem: shared),
            done=done,
        )


def settings(options: Options, model: str, followed: str | None = None) -> dict[str, Any]:
    """What must be the same for a run to be resumed. Strategies and problems may be added to it."""
    budget = parse_budget(options.budget)
    auto = {"policy": followed and sha256(followed.encode()).hexdigest(), "larger": options.larger}
    return {
        **{name: given for name, given in auto.items() if given is not None},
        "task": options.task,
        "model": model,
        "seed": options.seed,
        "verifier": options.verifier,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "price": options.price,
        "budget": {name: limit for name, limit in asdict(budget).items() if limit is not None},
    }


def write_reports(options: Options, bench: benching.Bench, summary: Sequence[benching.Row]) -> None:
    """`summary.json` and `report.html`, each whole or not at all."""
    command = shlex.join(["thinkscale", *sys.argv[1:]])
    report.write_json(
        options.out / "summary.json",
        {
            "thinkscale": __version__,
            "command": command,
            "model": options.model,
            "concurrency": bench.concurrency,
            "rows": list(summary),
        },
    )
    picture = chart.svg(
        f"{options.task.split('?')[0].split('/')[-1]}: accuracy against tokens",
        accuracy_series(summary),
        x_label=X_LABEL,
    )
    lead = (
        f"{len(bench.problems)} problems, model {options.model}, temperature {options.temperature:g}, "
        f"at most {options.max_tokens} tokens a sample. Bars are 95% Wilson intervals. Coverage is an oracle figure: "
        "some sample was right."
    )
    page = report.page(
        f"thinkscale bench: {options.task}",
        lead,
        [("Accuracy against tokens", picture), ("Figures", report.table(COLUMNS, [flat(row) for row in summary]))],
        made_by=command,
    )
    report.write(options.out / "report.html", page)


_EARLY = ("budget", "deadline", "failed", "refused")

X_LABEL = "prompt and output tokens per problem, verifier included (log scale)"

COLUMNS = {
    "strategy": "strategy",
    "n_problems": "problems",
    "accuracy": "accuracy",
    "interval": "95% interval",
    "versus": "against the first",
    "coverage": "coverage (oracle)",
    "selection_gap": "gap",
    "samples": "samples",
    "tokens": "tokens each",
    "seconds_each": "seconds each",
    "cost_usd": "dollars",
    "failed_samples": "samples missing",
}


def flat(row: benching.Row) -> dict[str, Any]:
    """A summary row with the figures people compare: per problem, intervals as text."""
    n = row["n_problems"]
    return row | {
        "interval": f"{row['ci_low']:.3f} to {row['ci_high']:.3f}",
        "versus": f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]",
        "tokens": round(row["total_tokens"] / n),
        "seconds_each": None if row["seconds"] is None else row["seconds"] / n,
    }


def summary_table(summary: Sequence[benching.Row]) -> Table:
    """The figures for a terminal; what the page has in columns of its own stands together here."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("strategy", overflow="fold")
    headings = ["accuracy [95%]", "against the first", "oracle", "samples", "tokens", "seconds", "dollars"]
    missing = any(row["failed_samples"] for row in summary)
    for heading in [*headings, *(["missing"] if missing else [])]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in map(flat, summary):
        cells = [
            f"{row['accuracy']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]",
            f"{row['difference']:+.2f} [{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]",
            f"{row['coverage']:.3f}",
            f"{row['samples']:.1f}",
            *(report.shown(row[key]) for key in ("tokens", "seconds_each", "cost_usd")),
        ]
        table.add_row(row["strategy"], *map(Text, cells), *([str(row["failed_samples"])] if missing else []))
    return table


def accuracy_series(summary: Sequence[benching.Row]) -> list[chart.Series]:
    """One line per strategy name, its parameter settings as points."""
    names = dict.fromkeys(row["strategy"].partition(":")[0] for row in summary)
    return [
        chart.Series(
            name,
            [
                chart.Point(
                    max(1, row["total_tokens"] / row["n_problems"]),
                    row["accuracy"],
                    row["ci_low"],
                    row["ci_high"],
                    row["strategy"].partition(":")[2],
                )
                for row in summary
                if row["strategy"].partition(":")[0] == name
            ],
        )
        for name in names
    ]
