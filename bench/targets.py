"""What a bench aims at, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def target(name: str, limit: float, value: float | None, *, at_least: bool = False) -> dict[str, Any]:
    """One aim, as it goes into the report; `met` is `None` where nothing was measured."""
    met = None if value is None else (value >= limit if at_least else value <= limit)
    return {"name": name, "limit": limit, "at_least": at_least, "value": value, "met": met}


def targets_table(targets: Sequence[dict[str, Any]]) -> Table:
    table = Table("target", "aim", "measured", "met", title="targets")
    for one in targets:
        value = "not measured" if one["value"] is None else f"{one['value']:.2f}"
        met = {True: "yes", False: "no", None: "-"}[one["met"]]
        table.add_row(one["name"], f"{'>=' if one['at_least'] else '<='} {one['limit']:g}", value, met)
    return table
