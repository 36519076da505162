"""`thinkscale frontier`: what every strategy reaches and costs on a bank, as tables, a chart and a page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from thinkscale import __version__, strategies
from thinkscale.cli.output import print_json
from thinkscale.cli.words import writable_folder
from thinkscale.errors import UsageError

if TYPE_CHECKING:  # they need an extra, whose lack is to be told in words
    from thinkscale.banks import Bank
    from thinkscale.optimize.difficulty import Difficulty
    from thinkscale.optimize.frontier import Extra, Frontier, Row


_CURVES = 8  # as many as a chart in the terminal can tell apart


@dataclass(frozen=True)
class Options:
    bank: Path
    out: Path
    models: tuple[str, ...]
    samples: int | None
    strategies: tuple[str, ...]
    policies: tuple[Path, ...]
    larger: str | None
    verifier: str | None
    weights: tuple[str, ...]
    accuracy: float | None
    tokens: float | None
    usd: float | None
    seconds: float | None
    repeats: int
    seed: int
    json: bool

    @property
    def limits(self) -> dict[str, float]:
        """The targets of cost, by axis."""
        given = {"tokens": self.tokens, "usd": self.usd, "seconds": self.seconds}
        return {by: limit for by, limit in given.items() if limit is not None}


def run(options: Options) -> None:
    """Replay, and report into the folder."""
    try:
        import numpy as np  # noqa: F401  # all of what follows needs it
    except ImportError:
        raise UsageError("frontier needs the extra optimize: pip install 'thinkscale[optimize]'") from None
    from thinkscale.banks.parquet import read_bank
    from thinkscale.optimize import report
    from thinkscale.optimize.choosing import beside, compared
    from thinkscale.optimize.difficulty import as_json, by_difficulty
    from thinkscale.optimize.frontier import frontier, summary, triple
    from thinkscale.optimize.frontier_page import page

    weights = _weights(options.weights)
    for words in options.strategies:
        strategies.parse(words)
    bank = read_bank(options.bank)
    extras = _extras(options, bank)
    errors = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors,
        transient=True,
    ) as bars:  # fmt: skip
        task = bars.add_task("settings replayed", total=None)
        found = frontier(
            bank,
            options.models,
            n=options.samples,
            extras=extras,
            repeats=options.repeats,
            seed=options.seed,
            weights=weights,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
        task = bars.add_task("models by difficulty", total=len(found.tables))
        difficulties = []
        for name in found.tables:
            difficulties.append(by_difficulty(found, name, extras=extras, repeats=options.repeats, seed=options.seed))
            bars.advance(task)
    choices = _choices(options, found)
    command = shlex.join(["thinkscale", *sys.argv[1:]])
    content = {
        "thinkscale": __version__,
        "command": command,
        "bank": str(options.bank),
        "repeats": options.repeats,
        "seed": options.seed,
        **summary(found),
        "difficulty": [as_json(one) for one in difficulties],
        "choices": choices,
        "beside": [
            {
                "larger": one.larger.model,
                "smaller": one.smaller,
                "by": found.axes[0],
                "setting": one.row.setting.name,
                "gain": triple(one.gain),
                "sure": one.sure,
                "words": compared(found, one, found.axes[0]),
            }
            for one in beside(found, found.axes[0])
        ],
    }
    writable_folder(options.out)
    report.write_json(options.out / "summary.json", content)
    asked = dict(options.limits) | ({} if options.accuracy is None else {"accuracy": options.accuracy})
    said = [choice["words"] for choice in choices]
    report.write(options.out / "report.html", page(found, difficulties, said=said, asked=asked, made_by=command))
    if options.json:
        print_json(content)
    else:
        _print(found, difficulties, said)
    errors.print(f"written: {options.out}/summary.json, {options.out}/report.html", soft_wrap=True)


def _weights(given: Sequence[str]) -> dict[str, float]:
    weights = {}
    for text in given:
        name, equals, value = text.rpartition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = float("nan")
        if not equals or not name or not (weights[name] > 0 and isfinite(weights[name])):
            raise UsageError(f"--weight {text!r} is not MODEL=NUMBER, how many times a token of it costs")
    return weights


def _extras(options: Options, bank: Bank) -> list[Extra]:
    from thinkscale.optimize.fitted import fitted
    from thinkscale.optimize.frontier import Extra, by_engine, by_simulation
    from thinkscale.optimize.settings import Setting
    from thinkscale.optimize.simulate import SIMULATED
    from thinkscale.policies.artifact import Artifact

    extras = []
    for words in dict.fromkeys(options.strategies):
        measure = by_simulation if words.partition(":")[0] in SIMULATED else by_engine(bank)
        extras.append(Extra(Setting(words, options.verifier), measure))
    for path in options.policies:
        extras.append(
            fitted(Artifact.load(path), f"policy {path.name}", bank, larger=options.larger, verifier=options.verifier)
        )
    return extras


def _choices(options: Options, found: Frontier) -> list[dict[str, Any]]:
    from thinkscale.optimize.choosing import best_for, cheapest_for

    asked = [
        ({"accuracy": options.accuracy, "by": by}, cheapest_for(found, options.accuracy, by))
        for by in found.axes
        if options.accuracy is not None
    ]
    asked += [({by: limit}, best_for(found, limit, by)) for by, limit in options.limits.items()]
    return [
        {
            "target": target,
            "setting": choice.row and found.name(choice.row),
            "sure": choice.sure and found.name(choice.sure),
            "words": choice.words,
        }
        for target, choice in asked
    ]


def _print(found: Frontier, difficulties: Sequence[Difficulty], said: Sequence[str]) -> None:
    from thinkscale.optimize import chart
    from thinkscale.optimize.choosing import beside, compared
    from thinkscale.optimize.frontier_page import curves

    # Tables of figures need room: in a narrower terminal lines go on below, and no number is cut.
    console = Console()
    console.width = max(console.width, 110) if sys.stdout.isatty() else 140
    by = found.axes[0]
    drawn = curves(found, by)[:_CURVES]
    if drawn:
        picture = chart.terminal("accuracy against compute", drawn, x_label=f"{found.unit(by)} per request (log scale)")
        console.print(Text(picture), soft_wrap=True)
    console.print(_table(found, by))
    console.print("● on the Pareto front; else the most accurate setting of its strategy; per request", style="dim")
    for one in difficulties:
        console.print(_bins(one))
    console.print("better: whichever setting had come out first (95% over all of them)", style="dim")
    for line in [*said, *(compared(found, one, by) for one in beside(found, by))]:
        console.print(Text(line))
    for line in found.notes:
        console.print(Text(f"note: {line}"), style="dim")


def _table(found: Frontier, by: str) -> Table:
    """The Pareto front, and of each strategy that is not on it its most accurate setting."""
    from thinkscale.optimize.choosing import amount
    from thinkscale.optimize.frontier import pareto

    front = pareto(found.rows, by)
    best: dict[tuple[str, str], Row] = {}
    for row in found.rows:
        key = (row.model, row.setting.family)
        if row.cost(by) is not None and (key not in best or row.accuracy > best[key].accuracy):
            best[key] = row
    on_it = {(row.model, row.setting.family) for row in front}
    rows = front + [row for key, row in best.items() if key not in on_it]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("setting", overflow="fold")
    for heading in ("accuracy [95%]", *(found.unit(axis) for axis in found.axes), "samples", "rounds", "oracle", "gap"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda one: one.cost(by) or 0.0):
        covered = None if row.covered is None else float(row.covered.mean())
        cells = [
            "●" if row in front else "",
            found.name(row),
            str(found.bootstrap.share(row.correct)),
            *(amount(row.cost(axis), axis) for axis in found.axes),
            f"{row.samples.mean():.1f}",
            f"{row.rounds.mean():.1f}",
            *(("–", "–") if covered is None else (f"{covered:.3f}", f"{covered - row.accuracy:.3f}")),
        ]
        table.add_row(*map(Text, cells))
    return table


def _bins(difficulty: Difficulty) -> Table:
    """Of each bin, the largest cost that is matched."""
    how = "in-sample: flattering" if difficulty.in_sample else "by pass@1 on the other half of the samples"
    title = Text(f"\nmost accurate at the tokens of a vote, {difficulty.model}, {how}")
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="")
    for heading in ("pass@1", "problems", "votes", "tokens", "vote"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("winner", overflow="fold")
    for heading in ("accuracy", "tokens", "gain [95%]", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in difficulty.bins:
        rates = f"{one.low:.2f}–{one.high:.2f}" if one.low < one.high else f"{one.low:.2f}"
        for match in one.matched:
            gain = match.gain
            between = "" if gain.low is None else f" [{gain.low:+.2f}, {gain.high:+.2f}]"
            cells = [
                rates, str(len(one.problems)), str(match.n), f"{match.limit:,.0f}",
                f"{match.vote.accuracy:.3f}", match.winner.setting.name, f"{match.winner.accuracy:.3f}",
                f"{match.winner.cost('tokens'):,.0f}", f"{gain.mean:+.3f}{between}",
                "better" if match.sure else "cannot tell",
            ]  # fmt: skip
            table.add_row(*map(Text, cells))
    return table
