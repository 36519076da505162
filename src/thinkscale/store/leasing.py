"""The books that processes share: what each window's limit has spent and lent out, and to whom.

Invariant per window: spent + leased <= limit. A process that dies leaves a lease that expires; all of it that was not
reported as spent is charged then, since nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import BigInteger, Column, Double, Index, String, Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from thinkscale.accounting.leases import NOTHING, Amounts, Offer, Standing, Window
from thinkscale.store.database import metadata

_COUNTED = ("tokens", "nano_usd", "requests")


def _counts(word: str) -> list[Column[int]]:
    return [Column(f"{word}_{unit}", BigInteger, nullable=False) for unit in _COUNTED]


_windows = Table(
    "account_windows",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("per", String, nullable=False),
    Column("starts_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    *_counts("spent"),
    *_counts("leased"),  # and not spent yet
)
Index("account_windows_end", _windows.c.ends_at)

# What a holder had of a window in all, and what of it is charged to the window as spent. Both only describe what the
# holder said: said again after a failure nobody could see through, they change nothing.
_leases = Table(
    "account_leases",
    metadata,
    Column("window", String, primary_key=True),
    Column("holder", String, primary_key=True),
    Column("expires_at", Double, nullable=False),
    *_counts("leased"),
    *_counts("spent"),
)
Index("account_leases_expiry", _leases.c.expires_at)


async def trade(
    connection: AsyncConnection, holder: str, offers: Mapping[Window, Offer], *, now: float, lease_s: float
) -> dict[Window, Standing]:
    """Charge what a holder spent, take back what it lets go, and lend what it asks for where that is left."""
    windows = {_name(window): window for window in sorted(offers, key=_name)}
    books = await _lock(connection, windows)
    mine, expired = await _leases_of(connection, list(windows), holder, now)
    for row in expired:
        _charge_whole(books[row.window], row)
    answers: dict[Window, Standing] = {}
    kept: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = [{"w": row.window, "h": row.holder} for row in expired]
    for name, window in windows.items():
        offer, book, row = offers[window], books[name], mine.get(name)
        # Without a row nothing is out: all that this holder ever had is charged already.
        had, charged = (_read(row, "leased"), _read(row, "spent")) if row else (offer.known, offer.known)
        others = book["leased"] - (had - charged)
        spent = charged.most(offer.spent)
        book["spent"] += spent - charged
        left = offer.limit - book["spent"] - others
        leased = spent.most(offer.keep).most(offer.want.least(spent + left))
        book["leased"] = others + (leased - spent)
        answers[window] = Standing(leased, spent, book["spent"] - spent, others)
        if leased != spent:
            lease = {"window": name, "holder": holder, "expires_at": now + lease_s}
            kept.append({**lease, **_write("leased", leased), **_write("spent", spent)})
        elif row:
            done.append({"w": name, "h": holder})
    await _save(connection, books, kept, done)
    return answers


async def reap(connection: AsyncConnection, *, now: float, forget_before: float) -> None:
    """Charge every expired lease whole, and forget the windows that ended before `forget_before`."""
    names = sorted(await connection.scalars(select(_leases.c.window).where(_leases.c.expires_at < now).distinct()))
    if names:
        books = await _lock(connection, dict.fromkeys(names))
        _, expired = await _leases_of(connection, names, "", now)
        for row in expired:
            _charge_whole(books[row.window], row)
        await _save(connection, books, [], [{"w": row.window, "h": row.holder} for row in expired])
    in_use = select(_leases.c.window).where(_leases.c.window == _windows.c.id).exists()
    await connection.execute(delete(_windows).where(_windows.c.ends_at < forget_before, ~in_use))


def _name(window: Window) -> str:
    return f"{window.account}/{window.per}/{window.starts_at}"


async def _lock(connection: AsyncConnection, windows: Mapping[str, Window | None]) -> dict[str, dict[str, Amounts]]:
    """What the windows have spent and lent, nobody else changing them until the transaction ends.

    Everybody locks in the order of names, so that no two wait for each other.
    """
    these = select(_windows).where(_windows.c.id.in_(windows)).order_by(_windows.c.id).with_for_update()
    rows = list(await connection.execute(these))
    found = {row.id for row in rows}
    fresh = [
        {"id": name, **asdict(window), **_write("spent", NOTHING), **_write("leased", NOTHING)}
        for name, window in windows.items()
        if name not in found and window is not None
    ]
    if fresh:
        await connection.execute(_insert(connection, _windows).on_conflict_do_nothing(), fresh)
        rows = list(await connection.execute(these))
    return {row.id: {"spent": _read(row, "spent"), "leased": _read(row, "leased")} for row in rows}


async def _leases_of(
    connection: AsyncConnection, windows: Sequence[str], holder: str, now: float
) -> tuple[dict[str, Any], list[Any]]:
    """A holder's leases of these windows, and those of others that expired."""
    rows = await connection.execute(
        select(_leases).where(
            _leases.c.window.in_(windows), (_leases.c.holder == holder) | (_leases.c.expires_at < now)
        )
    )
    mine: dict[str, Any] = {}
    expired: list[Any] = []
    for row in rows:
        if row.holder == holder:
            mine[row.window] = row
        else:
            expired.append(row)
    return mine, expired


def _charge_whole(book: dict[str, Amounts], lease: Any) -> None:
    unknown = _read(lease, "leased") - _read(lease, "spent")
    book["spent"] += unknown
    book["leased"] -= unknown


async def _save(
    connection: AsyncConnection,
    books: Mapping[str, Mapping[str, Amounts]],
    kept: Sequence[dict[str, Any]],
    done: Sequence[dict[str, Any]],
) -> None:
    changed = [
        {"w": name, **_write("spent", book["spent"]), **_write("leased", book["leased"])}
        for name, book in books.items()
    ]
    await connection.execute(update(_windows).where(_windows.c.id == bindparam("w")), changed)
    if kept:
        written = _insert(connection, _leases)
        columns = {name: written.excluded[name] for name in kept[0] if name not in ("window", "holder")}
        await connection.execute(written.on_conflict_do_update(index_elements=["window", "holder"], set_=columns), kept)
    if done:
        gone = (_leases.c.window == bindparam("w")) & (_leases.c.holder == bindparam("h"))
        await connection.execute(delete(_leases).where(gone), done)


def _insert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _read(row: Any, word: str) -> Amounts:
    return Amounts(*(getattr(row, f"{word}_{unit}") for unit in _COUNTED))


def _write(word: str, amounts: Amounts) -> dict[str, int]:
    return {f"{word}_{unit}": amount for unit, amount in zip(_COUNTED, amounts, strict=True)}
