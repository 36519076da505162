"""`thinkscale policy promote | rollback | list`: which policy each model's `auto` follows."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from thinkscale.cli.extras import need_optimize
from thinkscale.cli.output import print_json
from thinkscale.errors import UsageError
from thinkscale.policies.artifact import Artifact
from thinkscale.store.database import Database, default_database
from thinkscale.store.policies import PolicyStore, Promoted


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def promote(
    file: Path,
    bank: Path | None,
    model: str | None,
    worth: float | None,
    database: str | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Put a policy into service where it is shown to be better than what is there."""
    loaded = Artifact.load(file)
    artifact = Artifact(loaded.kind, model or loaded.model, loaded.policy, loaded.provenance)
    evidence: dict[str, Any] = {"forced": True}
    if not force:
        need_optimize("judging a policy")
        from thinkscale.cli.policy_judging import judged

        with Console(stderr=True).status("judging"):
            found = asyncio.run(judged(loaded, artifact.model, bank, None, worth, database))
        if not found.serves:
            raise UsageError(
                f"not promoted. {found.words} Record more samples or feedback, or promote it untested with --force"
            )
        evidence = found.as_json()

    async def write() -> Promoted:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).promote(artifact.model, artifact.kind, artifact.text(), evidence)

    promoted = asyncio.run(write())
    if as_json:
        print_json({"model": promoted.model, "version": promoted.version, "evidence": evidence})
        return
    out = console()
    out.print(
        f"{promoted.model}: auto follows policy v{promoted.version} ({promoted.kind}) from now on, a running gateway "
        "within 5 seconds",
        highlight=False,
    )
    if not force:
        out.print(str(evidence["words"]), highlight=False)


def rollback(model: str, database: str | None, *, as_json: bool) -> None:
    """Take the policy in service out of it."""

    async def write() -> tuple[Promoted | None, Promoted | None]:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).rollback(model)

    out, back = asyncio.run(write())
    if out is None:
        raise UsageError(f"no policy is in service for {model}: `thinkscale policy list` shows what is")
    if as_json:
        print_json({"model": model, "withdrawn": out.version, "in_service": back and back.version})
        return
    now = f"policy v{back.version} ({back.kind})" if back else "its default, a vote that stops once it is decided"
    console().print(f"{model}: v{out.version} is withdrawn; auto follows {now}", highlight=False)


def listed(database: str | None, *, as_json: bool) -> None:
    """Every policy that was promoted."""

    async def read() -> list[Promoted]:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).listed()

    rows = asyncio.run(read())
    serving: set[str] = set()
    states = []
    for row in rows:  # newest first
        in_service = row.withdrawn_at is None and row.model not in serving
        serving |= {row.model} if in_service else set()
        states.append("in service" if in_service else "withdrawn" if row.withdrawn_at else "before")
    if as_json:
        print_json(
            {"policies": [
                {"model": row.model, "version": row.version, "kind": row.kind, "state": state,
                 "promoted_at": row.promoted_at, "evidence": dict(row.evidence)}
                for row, state in zip(rows, states, strict=True)
            ]}
        )  # fmt: skip
        return
    if not rows:
        where = Database(database or default_database()).name
        console().print(f"no policy was promoted yet in {where}: thinkscale policy fit, then thinkscale policy promote")
        return
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "version", "kind", "state", "promoted", "evidence"):
        grid.add_column(heading)
    for row, state in zip(rows, states, strict=True):
        at = datetime.fromtimestamp(row.promoted_at, UTC).strftime("%Y-%m-%d %H:%M")
        why = "forced" if row.evidence.get("forced") else str(row.evidence.get("words", ""))
        grid.add_row(row.model, f"v{row.version}", row.kind, state, at, why)
    console().print(grid)
