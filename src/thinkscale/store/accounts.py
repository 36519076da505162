"""Every key's account: its limits per minute, day and month, kept across requests, processes and restarts."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache
from typing import Self
from weakref import WeakValueDictionary

from thinkscale.accounting import Ledger
from thinkscale.accounting.leases import NOTHING, ONE, Amounts, LeasedLedger, Per, Window
from thinkscale.errors import BudgetExhausted, TooManyRequests
from thinkscale.store.database import Database
from thinkscale.store.keys import Key, KeyLimits
from thinkscale.store.leasing import reap, trade
from thinkscale.types import Budget

FLUSH_S = 1.0
LEASE_S = 60.0
_REAP_S = 3600.0
_FORGET_S = 86400.0
_PATIENCE_S = 5.0  # with one transaction; a database that hangs is away
_CLOSING_TRIES = 3
_CLOSING_PAUSE_S = 0.2

logger = logging.getLogger("thinkscale.store")


class Accounts:
    """Admits requests within their keys' limits. Use it as an async context manager.

    Windows are fixed and in UTC; a request draws on those it was admitted in. This process, one holder among several,
    leases allowance from the database and spends it without asking; every second one task reports what was spent and
    gives back what lies idle. While the database is away, what is in hand may be used, and what was spent is kept and
    reported later. A process that dies is charged its whole lease, 60 seconds after its last word.

    `clock` tells Unix seconds; the clocks of all holders must agree within a few seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._holder = uuid.uuid4().hex
        self._ledgers: WeakValueDictionary[Window, LeasedLedger] = WeakValueDictionary()
        self._active: set[LeasedLedger] = set()  # they have something to report or to give back
        self._needs: dict[LeasedLedger, Amounts] = {}
        self._round = asyncio.Event()  # set at the end of the trade that answers the needs of now
        self._called = asyncio.Event()
        self._flush_called = False
        self._closing = False
        self._trader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._reap()
        self._trader = asyncio.create_task(self._trade_until_closed(), name="accounts")

    async def aclose(self) -> None:
        """Report what was spent and give back the rest; what cannot be reported is charged when its lease expires."""
        if self._trader is not None:
            self._closing = True
            self._called.set()
            await self._trader
            self._trader = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def admit(self, key: Key) -> Ledger:
        """Count one request, and return the account it draws on: the parent for the request's own ledger.

        Raises `TooManyRequests` where the minute is used up, and `BudgetExhausted` where the day or the month is.
        """
        if key.limits == KeyLimits():
            return Ledger(name=f"key {key.name}")
        levels = self._levels(key)
        while short := [level for level in levels if level.lacks(ONE)]:
            await asyncio.gather(*(self.lend(level, ONE) for level in short))
        for level in levels:
            _refuse_if_used_up(level)
        minute = levels[-1]
        minute.count_request()
        return minute

    async def lend(self, ledger: LeasedLedger, need: Amounts) -> None:
        """Answer a ledger's need. One task trades with the database, for all who ask at a time."""
        self._active.add(ledger)
        self._needs[ledger] = self._needs.get(ledger, NOTHING) + need
        await self._next_round()

    async def flush(self) -> None:
        """Report what was spent and give back what lies idle now, not within the next second."""
        self._flush_called = True
        await self._next_round()

    async def _next_round(self) -> None:
        if self._trader is None or self._closing:
            raise RuntimeError("the accounts are not open: use `async with accounts`")
        self._called.set()
        await self._round.wait()

    def _levels(self, key: Key) -> list[LeasedLedger]:
        """The month, the day and the minute; limited or not, so that a limit may change while they are in use."""
        now = self._clock()
        levels: list[LeasedLedger] = []
        for per, budget, requests in _limits_per_window(key.limits):
            window = Window.at(key.id, per, now)
            level = self._ledgers.get(window)
            if level is None:
                parent = levels[-1] if levels else None
                level = LeasedLedger(window, self, name=f"key {key.name}", clock=self._clock, parent=parent)
                self._ledgers[window] = level
            level.limit_to(budget, requests)
            levels.append(level)
        return levels

    async def _trade_until_closed(self) -> None:
        clock = asyncio.get_running_loop().time
        flush_at, reap_at = clock() + FLUSH_S, clock() + _REAP_S
        while not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(flush_at if self._active else reap_at):
                    await self._called.wait()
            self._called.clear()
            if self._flush_called or clock() >= flush_at:
                self._flush_called = False
                flush_at = clock() + FLUSH_S
                await self._trade(self._active)
            elif self._needs:
                await self._trade(self._needs)
            if clock() >= reap_at:
                reap_at = clock() + _REAP_S
                await self._reap_if_possible()
        for _ in range(_CLOSING_TRIES):
            if await self._trade(self._active):
                return
            await asyncio.sleep(_CLOSING_PAUSE_S)
        logger.error("closed without a report: the leases of %d windows will be charged whole", len(self._active))

    async def _trade(self, ledgers: Collection[LeasedLedger]) -> bool:
        """One transaction for these ledgers, who include those in need. Returns whether it was done."""
        needs, self._needs = self._needs, {}
        answered, self._round = self._round, asyncio.Event()
        offers = {}
        for ledger in ledgers:
            if ledger not in needs:
                ledger.tidy(keep_some=not self._closing)
            offers[ledger.window] = ledger, ledger.offer(needs.get(ledger, NOTHING))
        try:
            if offers:
                async with asyncio.timeout(_PATIENCE_S), self._database.begin() as connection:
                    said = {window: offer for window, (_, offer) in offers.items()}
                    standings = await trade(connection, self._holder, said, now=self._clock(), lease_s=LEASE_S)
        except Exception:  # whatever ails the database, what was spent must not be lost with this task
            logger.exception(
                "cannot use the database %s: what was spent is kept and reported later", self._database.name
            )
            for ledger in needs:
                ledger.make_do()
            return False
        else:
            for window, (ledger, offer) in offers.items():
                ledger.settle_up(offer, standings[window])
                if ledger not in needs and ledger not in self._needs and ledger.is_idle:
                    ledger.forget_others()
                    self._active.discard(ledger)
            return True
        finally:
            answered.set()

    async def _reap(self) -> None:
        now = self._clock()
        async with self._database.begin() as connection:
            await reap(connection, now=now, forget_before=now - _FORGET_S)

    async def _reap_if_possible(self) -> None:
        try:
            await self._reap()
        except Exception:  # the next hour will do
            logger.exception("cannot use the database %s: old windows stay", self._database.name)


@lru_cache(maxsize=4096)
def _limits_per_window(limits: KeyLimits) -> tuple[tuple[Per, Budget, int | None], ...]:
    return (
        ("month", Budget(max_total_tokens=limits.tokens_per_month, max_cost_usd=limits.usd_per_month), None),
        ("day", Budget(max_total_tokens=limits.tokens_per_day, max_cost_usd=limits.usd_per_day), None),
        ("minute", Budget(max_total_tokens=limits.tokens_per_minute), limits.requests_per_minute),
    )


def _refuse_if_used_up(level: LeasedLedger) -> None:
    refused = level.used_up()
    if refused is None:
        return
    unit, seconds, elsewhere = refused
    limit = f"{level.name}: {unit} per {level.window.per}"
    why = "in use by other processes, or the database is away" if elsewhere else "used up"
    message = f"{limit}: {why}; ask again in {math.ceil(seconds)} s"
    if level.window.per == "minute":
        raise TooManyRequests(message, retry_after_s=seconds)
    raise BudgetExhausted("max_cost_usd" if unit == "usd" else "max_total_tokens", message, retry_after_s=seconds)
