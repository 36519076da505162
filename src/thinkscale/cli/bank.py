"""`thinkscale bank`: what is in a bank of samples, and taking samples in and out."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from thinkscale.accounting import Price
from thinkscale.banks.importing import import_file
from thinkscale.banks.jsonl import export_jsonl
from thinkscale.banks.parquet import read_bank, write_bank
from thinkscale.cli.output import print_json
from thinkscale.errors import UsageError
from thinkscale.optimize.collect import journal_of
from thinkscale.optimize.describing import Figures, described
from thinkscale.words import parse_kind


@dataclass(frozen=True)
class Import:
    file: Path
    out: Path
    form: str
    fields: tuple[str, ...]
    task: str | None
    kind: str | None
    model: str | None
    price: str | None
    max_n: int | None
    json: bool


def show(path: Path, *, as_json: bool) -> None:
    figures = described(read_bank(path))
    if as_json:
        print_json(figures)
        return
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
    print_contents(console, figures)


def _refuse_while_collecting(bank: Path) -> None:
    """`collect` writes the whole bank when it ends: what is imported meanwhile would be lost."""
    lock = journal_of(bank) / "drawing.lock"
    if lock.exists():
        with lock.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"samples are being collected into {bank}: import when that has ended") from None


def take_in(options: Import) -> None:
    """Import into the bank, which is made where it is not there."""
    errors = Console(stderr=True)
    _refuse_while_collecting(options.out)
    into = read_bank(options.out) if options.out.exists() else None
    before = 0 if into is None else len(into)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors,
        transient=True,
    ) as bars:  # fmt: skip
        bar = bars.add_task("reading", total=None)
        bank = import_file(
            options.file,
            form=options.form,
            fields=_fields(options.fields),
            task=options.task,
            kind=parse_kind(options.kind, "") if options.kind else None,
            model=options.model,
            price=Price.parse(options.price) if options.price else None,
            max_n=options.max_n,
            into=into,
            progress=lambda done, total: bars.update(bar, description="grading", completed=done, total=total),
        )
        bars.update(bar, description="writing", total=None)
        write_bank(bank, options.out)
    figures = described(bank)
    if options.json:
        print_json(figures)
    else:
        print_contents(Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False), figures)
    errors.print(f"{len(bank) - before:,} samples imported into {options.out}", highlight=False, soft_wrap=True)


def give_out(path: Path, out: Path) -> None:
    bank = read_bank(path)
    export_jsonl(bank, out)
    Console(stderr=True).print(f"{len(bank):,} samples written to {out}", highlight=False, soft_wrap=True)


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs) or ours in fields:
            why = f"{ours} is given twice" if ours in fields else "write OURS=THEIRS, for example answer=prediction"
            raise UsageError(f"--field {pair}: {why}")
        fields[ours] = theirs
    return fields


def print_contents(console: Console, figures: Figures) -> None:
    """What `described` tells, a column for each model."""
    models: Sequence[Mapping[str, Any]] = figures["models"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for model in models:
        table.add_column(model["name"], justify="right", overflow="fold")
    table.add_column("", style="dim")

    def row(title: str, cell: Callable[[Mapping[str, Any]], str], note: str = "") -> None:
        cells = [cell(model) for model in models]
        if any(cells):
            table.add_row(title, *(Text(cell or "–") for cell in cells), note)

    row("problems", lambda model: f"{model['problems']:,}")
    row("samples", lambda model: f"{model['samples']:,}")
    row("samples per problem", _per_problem)
    row(
        "pass@1",
        lambda model: _with_interval(model, "pass_at_1"),
        "of one sample, all problems; 95% Wilson over problems",
    )
    row("majority@n", lambda model: _with_interval(model, "majority"), _of_full(models))
    row("coverage@n (oracle)", lambda model: _with_interval(model, "coverage"), "some sample is right")
    row("tokens of a prompt", lambda model: _tokens(model, "prompt_tokens"))
    row("tokens of a sample", lambda model: _tokens(model, "output_tokens"), _about(models))
    row("seconds of a sample", lambda model: _number(model["seconds"]))
    row("without an answer", lambda model: _percent(model["unanswered"]))
    row("cut at the token cap", lambda model: _percent(model["cut"]))
    for what in ("texts", "logprobs", "confidences", "seconds", "steps"):
        row(f"with {what}", lambda model, what=what: _percent(model["recorded"][what]))  # type: ignore[misc]
    for word in dict.fromkeys(word for model in models for word in model["scores"]):
        row(f"score by {word}", lambda model, word=word: _percent(model["scores"].get(word)))  # type: ignore[misc]
    row("samples per request", lambda model: f"up to {model['max_n']}")
    row("price", _price, "dollars per million tokens, prompt/output")
    row("parameters", lambda model: ", ".join(f"{name} {value}" for name, value in model["params"].items()))
    console.print(table)
    console.print(f"task: {figures['task'] or 'unknown'}; problems: {figures['problems']:,}")
    for line in figures["history"]:
        console.print(f"history: {line}")


def _per_problem(model: Mapping[str, Any]) -> str:
    counts = model["samples_per_problem"]
    if counts["min"] == counts["max"]:
        return str(counts["max"])
    return f"{counts['min']} to {counts['max']}, median {counts['median']}"


def _of_full(models: Sequence[Mapping[str, Any]]) -> str:
    told = [f"n = {model['n']}, {model['n_problems']:,} problems have as many" for model in models]
    return told[0] if len(set(told)) == 1 else "n: the median of the samples per problem"


def _about(models: Sequence[Mapping[str, Any]]) -> str:
    return "~: estimated from the length" if any(model["estimated_tokens"] for model in models) else ""


def _with_interval(model: Mapping[str, Any], key: str) -> str:
    if model[key] is None:
        return ""
    low, high = model[f"{key}_ci"]
    return f"{model[key]:.3f} [{low:.2f}, {high:.2f}]"


def _tokens(model: Mapping[str, Any], key: str) -> str:
    return "" if model[key] is None else f"{'~' if model['estimated_tokens'] else ''}{model[key]:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    return "" if not share else f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def _price(model: Mapping[str, Any]) -> str:
    price = model["price"]
    return "" if price is None else f"{price['input_mtok']:g}/{price['output_mtok']:g}"
