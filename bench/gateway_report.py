"""The tables of gateway.py, from its figures."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table
from targets import targets_table

_RATES = {"b": "(b) one sample per request", "c": "(c) voting over 5 samples per request"}


def show(report: dict[str, Any]) -> None:
    console = Console(width=max(120, Console().width))
    console.print(_delays("(a) one client, stub at 0 ms, in ms", report["delays"]["single"]))
    for section, title in _RATES.items():
        console.print(_rates(title, [row for row in report["rates"] if row["section"] == section]))
    console.print(_delays("(d) one client, streamed: to the first token, in ms", report["delays"]["streamed"]))
    console.print(_memory(report["memory_mb"]))
    console.print(targets_table(report["targets"]))


def _delays(title: str, figures: dict[str, dict[str, float]]) -> Table:
    columns = {"p50": "p50", "p95": "p95", "added_p50": "added p50", "added_p95": "added p95", "whole_p50": "whole p50"}
    shown = {name: column for name, column in columns.items() if name in figures["direct"]}
    table = Table("system", *shown.values(), title=title)
    for system, one in figures.items():
        table.add_row(system, *(f"{one[name]:.2f}" for name in shown))
    return table


def _rates(title: str, rows: list[dict[str, Any]]) -> Table:
    bare = {_load(row): row["median"] for row in rows if row["system"] == "bare proxy"}
    table = Table("stub", "clients", "system", "requests/s", "least", "most", title=title)
    for column in ("/ bare proxy", "calls/request", "CPU ms/request"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        ratio = f"{row['median'] / bare[_load(row)]:.2f}" if _load(row) in bare else ""
        calls = statistics.median(row["calls_per_request"])
        table.add_row(
            f"{1000 * row['latency_s']:.0f} ms",
            str(row["clients"]),
            row["system"],
            *(f"{value:.1f}" for value in (row["median"], min(row["requests_per_s"]), max(row["requests_per_s"]))),
            ratio,
            f"{calls:g}",
            "" if row["cpu_ms"] is None else f"{statistics.median(row['cpu_ms']):.2f}",
        )
    return table


def _load(row: dict[str, Any]) -> tuple[float, int]:
    return row["latency_s"], row["clients"]


def _memory(figures: dict[str, dict[str, float]]) -> Table:
    table = Table("system", "MB resident after so many requests", title="(e) memory, 16 clients")
    for system, points in figures.items():
        table.add_row(
            system, ", ".join(f"{int(requests):,}: {megabytes:.1f}" for requests, megabytes in points.items())
        )
    return table
