"""A resumable run on disk: every finished sample and every finished unit, in SQLite."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import orjson

from thinkscale.errors import UsageError

_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, settings BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS samples (
    unit TEXT NOT NULL, key TEXT NOT NULL, sample INTEGER NOT NULL, recorded BLOB NOT NULL,
    PRIMARY KEY (unit, key, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (unit TEXT PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1


class RunStore:
    """One run's database. A sample is there once it is finished, a unit once it is done; a kill loses neither.

    `unit` names an independent piece of work, (problem, strategy). All access is from one thread of its own, so the
    event loop never waits for the disk.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = orjson.dumps(dict(settings), option=orjson.OPT_SORT_KEYS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="thinkscale-store")
        self._db: sqlite3.Connection | None = None
        self._lock: IO[str] | None = None  # held while open; the system drops it when the process dies

    async def __aenter__(self) -> Self:
        try:
            await self._do(self._open)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        def close() -> None:
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

        await self._do(close)
        self._thread.shutdown()

    async def samples(self, unit: str, key: str, first: int, n: int) -> dict[int, Any]:
        """The recorded samples with index in [first, first + n)."""

        def read() -> dict[int, Any]:
            rows = self._connection.execute(
                "SELECT sample, recorded FROM samples WHERE unit = ? AND key = ? AND sample >= ? AND sample < ?",
                (unit, key, first, first + n),
            )
            return {sample: orjson.loads(recorded) for sample, recorded in rows}

        return await self._do(read)

    async def add_samples(self, unit: str, key: str, recorded: Sequence[tuple[int, Any]]) -> None:
        """Keep finished samples, all or none; one that is there already is replaced."""
        rows = [(unit, key, sample, orjson.dumps(content)) for sample, content in recorded]

        def write() -> None:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?)", rows)

        await self._do(write)

    async def has_samples(self, unit: str) -> bool:
        """Whether an earlier try at this unit left samples behind."""

        def read() -> bool:
            found = self._connection.execute("SELECT 1 FROM samples WHERE unit = ? LIMIT 1", (unit,)).fetchone()
            return found is not None

        return await self._do(read)

    async def of_unit(self, unit: str) -> list[tuple[str, int, Any]]:
        """Every recorded sample of a unit: its key, its index and what was recorded."""

        def read() -> list[tuple[str, int, Any]]:
            rows = self._connection.execute("SELECT key, sample, recorded FROM samples WHERE unit = ?", (unit,))
            return [(key, sample, orjson.loads(recorded)) for key, sample, recorded in rows]

        return await self._do(read)

    async def drop(self, unit: str) -> None:
        """Forget a unit's samples: they are kept elsewhere now."""

        def write() -> None:
            with self._connection:
                self._connection.execute("DELETE FROM samples WHERE unit = ?", (unit,))

        await self._do(write)

    async def is_empty(self) -> bool:
        """Whether there is nothing that a later run could go on from."""

        def read() -> bool:
            query = "SELECT EXISTS (SELECT 1 FROM samples) OR EXISTS (SELECT 1 FROM units)"
            return not self._connection.execute(query).fetchone()[0]

        return await self._do(read)

    async def remove(self) -> None:
        """Close, and delete the run's files, and its folder where nothing else is in it."""

        def delete() -> None:
            self._connection.close()
            self._db = None
            # The lock goes last: until then nobody else can begin a run here.
            for suffix in ("-wal", "-shm", ""):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._path.with_suffix(".lock").unlink(missing_ok=True)
            with suppress(OSError):
                self._path.parent.rmdir()

        await self._do(delete)

    async def finish(self, unit: str, row: Mapping[str, Any]) -> None:
        content = orjson.dumps(dict(row))

        def write() -> None:
            with self._connection:
                self._connection.execute("INSERT INTO units VALUES (?, ?)", (unit, content))

        await self._do(write)

    async def finished(self) -> dict[str, dict[str, Any]]:
        """Every finished unit's row."""

        def read() -> dict[str, dict[str, Any]]:
            rows = self._connection.execute("SELECT unit, row FROM units").fetchall()
            return {unit: orjson.loads(row) for unit, row in rows}

        return await self._do(read)

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the store is not open: use `async with store`")
        return self._db

    async def _do(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except sqlite3.IntegrityError:
            raise  # a unit finished twice: a fault of the caller's, not of the disk
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"cannot use {self._path}: {error}; what was finished is kept, run again to resume"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UsageError(f"{self._path} is not a run of thinkscale ({error}); choose another --out") from error

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {self._path.parent}: {error.strerror}") from None
        self._lock = self._path.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another process works on {self._path.parent}: wait for it, or choose another --out"
            ) from None
        self._db = sqlite3.connect(self._path, timeout=10)
        self._db.execute("PRAGMA journal_mode = WAL")
        # Survives the death of the process; only a power cut could lose the last moments.
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._db:
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO run VALUES (1, ?, ?)", (_VERSION, self._settings))
        version, settings = self._db.execute("SELECT version, settings FROM run").fetchone()
        if version != _VERSION:
            raise UsageError(
                f"{self._path} has format {version}, this thinkscale reads {_VERSION}; choose another --out"
            )
        before, now = orjson.loads(settings), orjson.loads(self._settings)
        differing = ", ".join(
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        )
        if differing:
            raise UsageError(f"{self._path.parent} holds another run ({differing}); choose another --out or delete it")
