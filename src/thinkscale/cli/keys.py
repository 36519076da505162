"""`thinkscale keys`: make, list and revoke the keys that clients of the gateway present."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TypeVar

import typer
from rich.console import Console
from rich.table import Table

from thinkscale.cli.output import print_json
from thinkscale.store.database import Database, default_database
from thinkscale.store.keys import Key, KeyLimits, KeyStore

_T = TypeVar("_T")


def add(
    name: str,
    *,
    admin: bool,
    models: Collection[str] | None,
    policies: Collection[str] | None,
    limits: KeyLimits,
    database: str | None,
    as_json: bool,
) -> None:
    """Print the secret alone on standard output, so that a script may keep it; the rest goes to standard error."""
    key, secret = _with_keys(
        database, lambda keys: keys.add(name, admin=admin, models=models, policies=policies, limits=limits)
    )
    if as_json:
        print_json({**asdict(key), "secret": secret})
        return
    typer.echo(f"Key {key.name} ({key.id}): {_scope(key)}; {_limits(key.limits)}.", err=True)
    typer.echo("Its secret, shown this once only, is what clients send as their API key:", err=True)
    typer.echo(secret)


def show(*, database: str | None, as_json: bool) -> None:
    found = _with_keys(database, lambda keys: keys.list())
    if as_json:
        print_json({"keys": [asdict(key) for key in found]})
        return
    if not found:
        typer.echo("No keys yet: thinkscale keys add NAME makes one.", err=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("key", "id", "may use", "limits", "made", "revoked"):
        table.add_column(heading, overflow="fold")
    for key in found:
        table.add_row(key.name, key.id, _scope(key), _limits(key.limits), _day(key.created_at), _day(key.revoked_at))
    Console(markup=False).print(table)


def revoke(name: str, *, database: str | None, as_json: bool) -> None:
    key = _with_keys(database, lambda keys: keys.revoke(name))
    if as_json:
        print_json(asdict(key))
        return
    typer.echo(f"Key {key.name} ({key.id}) is revoked; a running gateway refuses it within 5 seconds.", err=True)


def _with_keys(url: str | None, act: Callable[[KeyStore], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with Database(url or default_database()) as database:
            return await act(KeyStore(database))

    return asyncio.run(run())


def _scope(key: Key) -> str:
    models = ", ".join(key.models) if key.models is not None else "all models"
    policies = ", ".join(key.policies) if key.policies is not None else "all policies"
    return f"{models}; {policies}" + ("; admin" if key.admin else "")


def _limits(limits: KeyLimits) -> str:
    given = {name: limit for name, limit in asdict(limits).items() if limit is not None}
    return ", ".join(f"{limit:,} {name.replace('_', ' ')}" for name, limit in given.items()) or "no limits"


def _day(when: float | None) -> str:
    return "" if when is None else f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d}"
