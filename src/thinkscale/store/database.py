"""One database for what outlives a request: SQLite on one machine, PostgreSQL for several replicas."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, MetaData, event, inspect
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from thinkscale.errors import UsageError

metadata = MetaData()
"""Every table of the gateway is declared on this, beside the code that uses it."""

_PATIENCE_S = 10.0
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


def default_database() -> str:
    """$THINKSCALE_DATABASE, or else a SQLite file in the user's data folder. It need not exist yet."""
    if own := os.environ.get("THINKSCALE_DATABASE"):
        return own
    base = os.environ.get("XDG_DATA_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "share"
    return f"sqlite:///{folder / 'thinkscale' / 'gateway.db'}"


class Database:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user:password@host/name`.

    Opening makes the tables that are missing. Raises `UsageError` where it cannot be used.
    """

    def __init__(self, url: str) -> None:
        scheme, colon, rest = url.partition(":")
        if not colon or scheme not in _DRIVERS:
            raise UsageError(f"the database must be sqlite:///FILE or postgresql://user@host/name, not {scheme}:…")
        # libpq's word for encryption, as providers write it, is another one for this driver.
        self._url = f"{_DRIVERS[scheme]}:{rest.replace('sslmode=', 'ssl=')}"
        self.name = url if scheme == "sqlite" else rest.rpartition("@")[2]  # for messages: without the password
        self.dialect = "sqlite" if scheme == "sqlite" else "postgresql"
        self._engine: AsyncEngine | None = None

    async def open(self) -> None:
        try:
            # A server that restarted must not fail one request for every connection that was kept.
            patience = {"timeout": _PATIENCE_S, "command_timeout": _PATIENCE_S}  # one that hangs is away
            self._engine = (
                create_async_engine(self._url)
                if self.dialect == "sqlite"
                else create_async_engine(self._url, pool_pre_ping=True, connect_args=patience)
            )
            if self.dialect == "sqlite":
                _make_folder(self._engine)
                event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
                event.listen(self._engine.sync_engine, "begin", _begin_immediately)
                event.listen(self._engine.sync_engine, "invalidate", _end_transaction)
            async with self._engine.begin() as connection:
                if self.dialect == "postgresql":  # replicas that start together must not both make the tables
                    await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7467316001)")
                await connection.run_sync(_make_tables)
        except ModuleNotFoundError as error:
            raise UsageError(f"PostgreSQL needs the extra: pip install 'thinkscale[postgres]' ({error})") from None
        except (SQLAlchemyError, ArgumentError, OSError, TypeError) as error:
            await self.aclose()
            raise UsageError(f"cannot use the database {self.name}: {_words(error)}") from error

    async def aclose(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await engine.dispose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end of the block, rolled back where it raises.

        On SQLite it holds the write lock from its start, so that what it read is still true when it writes.
        """
        if self._engine is None:
            raise RuntimeError("the database is not open: use `async with database`")
        async with self._engine.begin() as connection:
            yield connection


def _make_tables(connection: Connection) -> None:
    """Make what is missing: tables, and columns of tables that an earlier version made; those may be NULL."""
    metadata.create_all(connection)
    there = inspect(connection)
    for table in metadata.tables.values():
        known = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {kind}')


def _make_folder(engine: AsyncEngine) -> None:
    file = engine.url.database
    if file and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")  # survives the death of the process
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.close()


def _begin_immediately(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _end_transaction(connection: Any, *_why: object) -> None:
    """A transaction that was cancelled in the middle must not keep the write lock."""
    connection.rollback()


def _words(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
