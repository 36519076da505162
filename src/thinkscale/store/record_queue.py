"""Records on their way to the database: added without waiting, written in batches, once each."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, or_, select

from thinkscale.store.database import Database
from thinkscale.store.record_tables import Sums, add_to_spend, insert_into, requests, spend_rows

log = logging.getLogger(__name__)

_PAUSE_S = 0.25  # how long a record waits for others to travel with
_BATCH = 200  # rows
_MOST_CHARACTERS = 64 * 2**20  # of traces that wait in memory
_LONGEST_PAUSE_S = 10.0
_LAST_TRIES = 3  # when closing


@dataclass(slots=True)
class _Batch:
    """Rows of requests, and spending, which are written together or not at all."""

    rows: list[dict[str, Any]]
    sums: Sums
    tried: bool = False


class RecordQueue:
    """Writes rows of `requests` in the order they came, and sums of spending; prunes the table to the newest `keep`.

    `clock` tells when a row is stored. That is set anew with every try: a reader who looks for what was stored since it
    looked last then misses nothing that waited out an outage.

    What waits is bounded: beyond that the oldest rows lose their events, then themselves. Sums are never lost, and each
    is added once, though the connection breaks while a batch is being committed.
    """

    def __init__(self, database: Database, *, keep: int, clock: Callable[[], float]) -> None:
        self.sums: Sums = {}  # spending that is in no batch yet
        self._database = database
        self._keep = keep
        self._clock = clock
        self._rows: deque[dict[str, Any]] = deque()
        self._with_events: deque[dict[str, Any]] = deque()  # those of the rows that have some, in the same order
        self._characters = 0
        self._batch: _Batch | None = None  # being written, or to be tried again
        self._unpruned = 0
        self._failures = 0
        self._dropping = False
        self._some = asyncio.Event()  # there is something to write
        self._due = asyncio.Event()  # and it should be written now
        self._closing = False
        self._waiters: list[asyncio.Future[None]] = []
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._writer = asyncio.create_task(self._write_on(), name="records")

    async def aclose(self) -> None:
        """Write the rest. Where the database cannot be reached, try a few times, and log what was lost."""
        if self._writer is None:
            return
        self._closing = True
        self._some.set()
        self._due.set()
        writer, self._writer = self._writer, None
        await writer

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if row["events"]:
            self._with_events.append(row)
            self._characters += len(row["events"])
        if self._characters > _MOST_CHARACTERS or len(self._rows) > self._keep:
            self._make_room()
        self._some.set()
        if len(self._rows) == _BATCH:
            self._due.set()

    async def written(self) -> None:
        """Return when everything added so far is in the database. Raises what the database raised."""
        if self._writer is None or not self._pending:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiters.append(done)
        self._some.set()  # the batch under way may be all there is, and its waiters are taken already
        self._due.set()
        await done

    @property
    def _pending(self) -> int:
        """Rows that are not yet known to be in the database."""
        return len(self._rows) + (len(self._batch.rows) if self._batch else 0)

    def _make_room(self) -> None:
        if not self._dropping:
            self._dropping = True
            log.warning("requests come faster than the database takes their records: the oldest traces are dropped")
        while self._characters > _MOST_CHARACTERS:
            row = self._with_events.popleft()
            self._characters -= len(row["events"])
            row["events"] = None
        while len(self._rows) > self._keep:  # once written they would be pruned at once
            self._take()

    def _take(self) -> dict[str, Any]:
        row = self._rows.popleft()
        if self._with_events and self._with_events[0] is row:
            self._with_events.popleft()
            self._characters -= len(row["events"])
        return row

    async def _write_on(self) -> None:
        while self._pending or self._waiters or not self._closing:
            await self._some.wait()
            pause = min(_PAUSE_S * 2 ** min(self._failures, 16), _LONGEST_PAUSE_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), pause)
            self._some.clear()
            self._due.clear()
            waiters, self._waiters = self._waiters, []
            failure: Exception | None = None
            try:
                await self._write_all()
            except Exception as error:  # noqa: BLE001  # drivers raise what they like; it is logged, and tried again
                failure = error
            self._passed(waiters, failure)
            if failure and self._closing and self._failures >= _LAST_TRIES:
                log.error("the records of %d requests, and what they spent, could not be written", self._pending)
                return

    def _passed(self, waiters: list[asyncio.Future[None]], failure: Exception | None) -> None:
        if failure is None:
            if self._failures:
                log.warning("the database %s takes records again", self._database.name)
            self._failures, self._dropping = 0, False
        else:
            if not self._failures:
                why = getattr(failure, "orig", None) or failure  # without the statement, which holds the record
                log.warning("cannot write records to %s: %s; they are kept and tried again", self._database.name, why)
            self._failures += 1
        for waiter in waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(failure)
        if self._pending:
            self._some.set()
            if failure is None and len(self._rows) >= _BATCH:
                self._due.set()

    async def _write_all(self) -> None:
        """Write what is here now; what comes meanwhile is for the next pass."""
        left = self._pending
        while left > 0 and self._pending:
            if self._batch is None:
                rows = [self._take() for _ in range(min(_BATCH, len(self._rows)))]
                self._batch, self.sums = _Batch(rows, self.sums), {}
            await self._write(self._batch)
            left -= len(self._batch.rows)
            self._unpruned += len(self._batch.rows)
            self._batch = None
        if self._unpruned >= max(1, self._keep // 10):
            await self._prune()
            self._unpruned = 0

    async def _write(self, batch: _Batch) -> None:
        dialect = self._database.dialect
        insert = insert_into(requests, dialect).on_conflict_do_nothing()
        async with self._database.begin() as connection:
            stored_at = self._clock()
            first, *others = ({**row, "stored_at": stored_at} for row in batch.rows)
            tried, batch.tried = batch.tried, True
            done = await connection.execute(insert, first)
            if tried and not done.rowcount:
                return  # an earlier try was committed, though its connection broke before we heard of it
            if others:
                await connection.execute(insert, others)
            if batch.sums:
                await connection.execute(add_to_spend(dialect), spend_rows(batch.sums))

    async def _prune(self) -> None:
        newest = select(requests.c.at, requests.c.trace_id).order_by(requests.c.at.desc(), requests.c.trace_id.desc())
        async with self._database.begin() as connection:
            last = (await connection.execute(newest.offset(self._keep).limit(1))).one_or_none()
            if last is None:
                return
            at, trace_id = last
            older = or_(requests.c.at < at, and_(requests.c.at == at, requests.c.trace_id <= trace_id))
            await connection.execute(delete(requests).where(older))
