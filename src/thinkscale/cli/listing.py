"""Lists: strategies and models; and fetching one."""

from __future__ import annotations

import asyncio
import inspect

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinkscale.cli.fetching import fetching
from thinkscale.cli.output import print_json
from thinkscale.options import describe
from thinkscale.strategies import STRATEGIES


def show_strategies(*, as_json: bool) -> None:
    rows = [
        {"name": name, "parameters": describe(kind), "summary": (inspect.getdoc(kind) or "").split("\n")[0]}
        for name, kind in STRATEGIES.items()
    ]
    if as_json:
        print_json({"strategies": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("strategy", "parameters and defaults", "what it does"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row["name"], row["parameters"].replace(",", ", "), Text(row["summary"]))
    Console().print(table)


def show_models(*, as_json: bool) -> None:
    from thinkscale.models import catalog

    rows = [
        {
            "name": entry.name,
            "size_mb": round(entry.size / 1e6),
            "here": catalog.is_pulled(entry.name),
            "description": entry.description,
        }
        for entry in catalog.entries()
    ]
    if as_json:
        print_json({"models": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    table.add_column("MB", justify="right")
    table.add_column("here")
    table.add_column("description", overflow="fold")
    for row in rows:
        table.add_row(str(row["name"]), f"{row['size_mb']:,}", "yes" if row["here"] else "", str(row["description"]))
    Console().print(table)


def pull(name: str) -> None:
    from thinkscale.models.opening import fetch

    with fetching(Console(stderr=True), name) as progress:
        path = asyncio.run(fetch(name, progress))
    typer.echo(path)
