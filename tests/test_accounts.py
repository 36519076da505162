"""Accounts of keys: whatever holders do, die of or are not told, no limit is ever passed and nothing spent is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from thinkscale.accounting import Claim, Ledger, Price, Reservation
from thinkscale.accounting.leases import Amounts, Window
from thinkscale.errors import BudgetExhausted, TooManyRequests, UsageError
from thinkscale.store import accounts as accounts_module
from thinkscale.store.accounts import Accounts
from thinkscale.store.database import Database
from thinkscale.store.keys import Key, KeyLimits
from thinkscale.types import Budget, Usage

PRICE = Price(input_mtok=3.0, output_mtok=15.0)
NOON = datetime(2026, 11, 24, 12, 0, 5, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Faulty(Database):
    """A database that can go away (`refuse`), or do what it was told without saying so (`lose`)."""

    fault: str | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        if self.fault == "refuse":
            raise ConnectionRefusedError("the database is away")
        async with super().begin() as connection:
            yield connection
        if self.fault == "lose":
            raise ConnectionResetError("the reply was lost")


@pytest.fixture(autouse=True)
def closes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_module, "_CLOSING_PAUSE_S", 0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Faulty]:
    async with Faulty(f"sqlite:///{tmp_path}/gateway.db") as database:
        yield database


def key(**limits: Any) -> Key:
    return Key("a11ce000", "alice", False, None, None, KeyLimits(**limits), NOON, None)


async def windows(database: Database) -> dict[str, dict[str, int]]:
    """By period, summed over its windows: what is spent and leased, after checking that the leases add up."""
    async with database.begin() as connection:
        rows = (await connection.execute(text("SELECT * FROM account_windows"))).mappings().all()
        leases = (await connection.execute(text("SELECT * FROM account_leases"))).mappings().all()
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        mine = [lease for lease in leases if lease["window"] == row["id"]]
        for unit in ("tokens", "nano_usd", "requests"):
            assert row[f"leased_{unit}"] == sum(one[f"leased_{unit}"] - one[f"spent_{unit}"] for one in mine)
            for word in ("spent", "leased"):
                period = sums.setdefault(row["per"], {})
                period[f"{word}_{unit}"] = period.get(f"{word}_{unit}", 0) + row[f"{word}_{unit}"]
    return sums


async def within(database: Database, limits: KeyLimits) -> None:
    """spent + leased <= limit, window by window."""
    async with database.begin() as connection:
        rows = (await connection.execute(text("SELECT * FROM account_windows"))).mappings().all()
    most = {
        ("minute", "requests"): limits.requests_per_minute,
        ("minute", "tokens"): limits.tokens_per_minute,
        ("day", "tokens"): limits.tokens_per_day,
        ("month", "tokens"): limits.tokens_per_month,
        ("day", "nano_usd"): limits.usd_per_day and limits.usd_per_day * 1e9,
        ("month", "nano_usd"): limits.usd_per_month and limits.usd_per_month * 1e9,
    }
    for row in rows:
        for unit in ("tokens", "nano_usd", "requests"):
            limit = most.get((row["per"], unit))
            total = row[f"spent_{unit}"] + row[f"leased_{unit}"]
            assert row[f"leased_{unit}"] >= 0
            assert total <= (limit + 0.001 if limit is not None else 0), (row["id"], unit, total, limit)


async def spend(account: Ledger, tokens: int, *, price: Price | None = None) -> None:
    hold = await Ledger(parent=account).reserve(Claim(0, tokens, price=price))
    hold.settle(Usage(0, hold.max_tokens, 1, 1))


small = st.none() | st.integers(1, 400)
limit_sets = st.builds(
    KeyLimits,
    requests_per_minute=st.none() | st.integers(1, 12),
    tokens_per_minute=small,
    tokens_per_day=small,
    tokens_per_month=small,
    usd_per_day=st.none() | st.floats(1e-6, 0.005),
    usd_per_month=st.none() | st.floats(1e-8, 0.005),
).filter(lambda limits: limits != KeyLimits())


@settings(max_examples=40, deadline=None)
@given(limits=limit_sets, holders=st.integers(1, 3), steps=st.integers(5, 18), calm=st.booleans(), seed=st.integers())
def test_no_window_is_ever_overspent(limits: KeyLimits, holders: int, steps: int, calm: bool, seed: int) -> None:
    """Holders ask, settle, flush, lose replies, stall and die at random; if none stalls or dies, the sums are exact."""
    rng = Random(seed)

    async def scenario(folder: str) -> None:
        world = World(f"sqlite:///{folder}/gateway.db", limits, rng)
        try:
            for _ in range(holders):
                await world.join()
            for _ in range(steps):
                await world.step(calm=calm)
                await within(world.watch, limits)
        finally:
            await world.end()
        await within(world.watch, limits)
        for period in (await windows(world.watch)).values():
            assert not any(amount for name, amount in period.items() if name.startswith("leased"))
        if limits.tokens_per_day is not None:
            charged = (await windows(world.watch)).get("day", {}).get("spent_tokens", 0)
            assert charged == world.used if calm else charged >= world.used
        await world.watch.aclose()

    logging.getLogger("thinkscale.store").setLevel(logging.CRITICAL)
    try:
        with TemporaryDirectory() as folder:
            asyncio.run(scenario(folder))
    finally:
        logging.getLogger("thinkscale.store").setLevel(logging.NOTSET)


class World:
    """Several holders of one key over one database."""

    def __init__(self, url: str, limits: KeyLimits, rng: Random) -> None:
        self.url, self.key, self.rng = url, key(**vars(limits)), rng
        self.clock = Clock()
        self.watch = Database(url)
        self.holders: list[tuple[Faulty, Accounts]] = []
        self.asking: set[asyncio.Task[None]] = set()
        self.open: list[Reservation] = []
        self.used = 0

    async def join(self) -> None:
        if not self.holders:
            await self.watch.open()
        database = Faulty(self.url)
        await database.open()
        accounts = Accounts(database, clock=self.clock)
        await accounts.open()
        self.holders.append((database, accounts))

    async def step(self, *, calm: bool) -> None:
        rng = self.rng
        database, accounts = rng.choice(self.holders)
        deed = rng.choice(
            ["ask", "ask", "ask", "settle", "settle", "flush", "lose", "refuse", "cancel", "wait", "stall", "die"]
        )
        if deed == "ask":
            task = asyncio.create_task(self.ask(accounts))
            self.asking.add(task)
            await asyncio.wait({task}, timeout=0.02)
        elif deed == "settle" and self.open:
            self.settle(self.open.pop(rng.randrange(len(self.open))))
        elif deed == "flush":
            await accounts.flush()
        elif deed in ("lose", "refuse"):
            database.fault = deed
            await accounts.flush()
            task = asyncio.create_task(self.ask(accounts))
            self.asking.add(task)
            await asyncio.wait({task}, timeout=0.02)
            database.fault = None
        elif deed == "cancel" and self.asking:
            rng.choice(list(self.asking)).cancel()
        elif deed == "wait":
            self.clock.now += 2
        elif deed == "stall" and not calm:
            self.clock.now += 61
        elif deed == "die" and not calm and len(self.holders) > 1:
            database.fault = "refuse"
            self.holders.remove((database, accounts))
            await accounts.aclose()
            await database.aclose()

    async def ask(self, accounts: Accounts) -> None:
        rng = self.rng
        price = rng.choice([PRICE, Price(0.0005, 0.0003)])  # the second below a nanodollar a token
        claim = Claim(rng.randrange(60), rng.randint(1, 120), rng.randint(1, 4), price=price)
        try:
            account = await accounts.admit(self.key)
            hold = await Ledger(Budget(max_calls=rng.randint(1, 4)), parent=account).reserve(claim)
        except (BudgetExhausted, TooManyRequests) as refused:
            assert refused.retry_after_s is not None
            assert refused.retry_after_s >= 0
            return
        except RuntimeError:
            return  # it died while this one waited for it
        self.open.append(hold)

    def settle(self, hold: Reservation) -> None:
        if self.rng.random() < 0.2:
            with hold:
                pass
            self.used += hold.held.total_tokens
        else:
            used = hold.settle(
                Usage(hold.claim.prompt_tokens, self.rng.randint(0, hold.n * hold.max_tokens), hold.n, 1)
            )
            self.used += used.total_tokens

    async def end(self) -> None:
        for task in self.asking:
            task.cancel()
        await asyncio.gather(*self.asking, return_exceptions=True)
        for task in self.asking:
            assert task.cancelled() or task.exception() is None
        for hold in self.open:
            self.settle(hold)
        for database, accounts in self.holders:
            await accounts.aclose()
            await database.aclose()
        self.clock.now += 61
        async with Accounts(self.watch, clock=self.clock):
            pass  # whoever comes next charges what the dead had


async def test_a_limit_holds_to_the_last_token_and_across_restarts(database: Faulty) -> None:
    clock, alice = Clock(), key(tokens_per_day=1000)
    async with Accounts(database, clock=clock) as first:
        await spend(await first.admit(alice), 600)
    async with Accounts(database, clock=clock) as second:
        account = await second.admit(alice)
        hold = await account.reserve(Claim(0, 900))
        assert hold.max_tokens == 400  # shortened to what the first process left
        hold.settle(Usage(0, 400, 1, 1))
        with pytest.raises(BudgetExhausted, match="key alice: tokens per day") as full:
            await Ledger(parent=account).reserve(Claim(0, 10))
        assert full.value.limit == "max_total_tokens"
        assert full.value.retry_after_s == pytest.approx(12 * 3600 - 5)
        with pytest.raises(BudgetExhausted, match="key alice: tokens per day: used up"):
            await second.admit(alice)
        clock.now += 12 * 3600
        await spend(await second.admit(alice), 1000)  # a new day
    assert (await windows(database))["day"]["spent_tokens"] == 2000


async def test_dollars_are_counted_in_whole_nanodollars_and_a_price_must_be_known(database: Faulty) -> None:
    async with Accounts(database, clock=Clock()) as accounts:
        alice = key(usd_per_month=0.003)
        await spend(await accounts.admit(alice), 100, price=PRICE)
        account = await accounts.admit(alice)
        with pytest.raises(UsageError, match="price"):
            await account.reserve(Claim(0, 1))
        hold = await account.reserve(Claim(0, 1000, price=PRICE))
        assert hold.max_tokens == 100
        hold.settle(Usage(0, 100, 1, 1))
        with pytest.raises(BudgetExhausted, match="usd per month: used up") as full:
            await accounts.admit(alice)
        assert full.value.limit == "max_cost_usd"
    assert (await windows(database))["month"]["spent_nano_usd"] == 3_000_000


async def test_a_claim_of_the_last_half_nanodollar_is_leased_before_it_is_spent(database: Faulty) -> None:
    cheap = Price(0.0005, 0.0005)  # half a nanodollar a token
    alice = key(usd_per_day=1e-6)
    async with Accounts(database, clock=Clock()) as accounts:
        account = await accounts.admit(alice)
        await spend(account, 1, price=cheap)
        hold = await account.reserve(Claim(0, 1999, price=cheap))
        assert hold.max_tokens == 1999
        day = (await windows(database))["day"]
        assert day["spent_nano_usd"] + day["leased_nano_usd"] == 1000
        hold.settle(Usage(0, 1999, 1, 1))
    assert (await windows(database))["day"]["spent_nano_usd"] == 1000


async def test_requests_per_minute_are_counted_at_admission(database: Faulty) -> None:
    clock, alice = Clock(), key(requests_per_minute=30)
    async with Accounts(database, clock=clock) as accounts:
        for _ in range(30):
            await accounts.admit(alice)
        with pytest.raises(TooManyRequests, match="requests per minute: used up; ask again in 55 s") as full:
            await accounts.admit(alice)
        assert full.value.retry_after_s == pytest.approx(55)
        clock.now += 55
        await accounts.admit(alice)


async def test_a_request_refused_for_its_day_does_not_count_for_its_minute(database: Faulty) -> None:
    alice = key(requests_per_minute=10, tokens_per_day=5)
    async with Accounts(database, clock=Clock()) as accounts:
        await spend(await accounts.admit(alice), 5)
        for _ in range(20):
            with pytest.raises(BudgetExhausted):
                await accounts.admit(alice)
    assert (await windows(database))["minute"]["spent_requests"] == 1


async def test_tokens_of_a_minute_used_up_are_a_rate_limit(database: Faulty) -> None:
    clock, alice = Clock(), key(tokens_per_minute=50)
    async with Accounts(database, clock=clock) as accounts:
        await spend(await accounts.admit(alice), 50)
        with pytest.raises(TooManyRequests, match="key alice: tokens per minute: used up"):
            await accounts.admit(alice)
        clock.now += 60
        await spend(await accounts.admit(alice), 50)


async def test_what_is_held_by_others_of_the_key_is_waited_for(database: Faulty) -> None:
    alice = key(tokens_per_day=100)
    async with Accounts(database, clock=Clock()) as accounts:
        first = await (await accounts.admit(alice)).reserve(Claim(0, 100))
        account = await accounts.admit(alice)  # nothing is left, but something may come back
        waiting = asyncio.create_task(account.reserve(Claim(0, 60)))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        first.settle(Usage(0, 30, 1, 1))
        assert (await asyncio.wait_for(waiting, 1)).max_tokens == 60


async def test_a_request_that_fits_what_is_leased_costs_no_trip(database: Faulty) -> None:
    alice = key(tokens_per_day=100_000, requests_per_minute=6000)
    async with Accounts(database, clock=Clock()) as accounts:
        await accounts.admit(alice)
        database.fault = "refuse"
        for _ in range(40):
            await spend(await accounts.admit(alice), 100)
        database.fault = None
        await accounts.flush()
        assert (await windows(database))["day"]["spent_tokens"] == 4000


async def test_an_unlimited_key_never_asks(database: Faulty) -> None:
    async with Accounts(database, clock=Clock()) as accounts:
        database.fault = "refuse"
        account = await accounts.admit(key())
        await spend(account, 10_000)
        assert account.spent.output_tokens == 10_000
        database.fault = None
    assert await windows(database) == {}


async def test_a_claim_leases_no_more_than_the_request_may_take(database: Faulty) -> None:
    async with Accounts(database, clock=Clock()) as accounts:
        account = await accounts.admit(key(tokens_per_day=10_000))
        await Ledger(Budget(max_total_tokens=700), parent=account).reserve(Claim(0, 9000, 16))
        day = (await windows(database))["day"]
        assert day["leased_tokens"] == 700


async def test_idle_allowance_goes_to_who_needs_it(database: Faulty, tmp_path: Path) -> None:
    alice, clock = key(tokens_per_day=1000), Clock()
    async with (
        Database(f"sqlite:///{tmp_path}/gateway.db") as other,
        Accounts(database, clock=clock) as here,
        Accounts(other, clock=clock) as there,
    ):
        hold = await (await here.admit(alice)).reserve(Claim(0, 1000))
        with pytest.raises(BudgetExhausted, match="in use by other processes") as full:
            await there.admit(alice)
        assert full.value.retry_after_s == 1.0
        hold.settle(Usage(0, 100, 1, 1))
        await here.flush()
        await here.flush()  # the second time nothing was spent since: everything idle goes
        await there.flush()
        await spend(await there.admit(alice), 900)
        with pytest.raises(BudgetExhausted):
            await (await there.admit(alice)).reserve(Claim(0, 1))
    assert (await windows(database))["day"]["spent_tokens"] == 1000


async def test_flushes_happen_by_themselves_and_then_stop(
    database: Faulty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accounts_module, "FLUSH_S", 0.02)
    async with Accounts(database, clock=Clock()) as accounts:
        await spend(await accounts.admit(key(tokens_per_day=1000)), 100)
        for _ in range(200):
            await asyncio.sleep(0.01)
            day = (await windows(database))["day"]
            if (day["spent_tokens"], day["leased_tokens"]) == (100, 0):
                break
        else:
            pytest.fail(f"nothing was reported or given back: {day}")
        await asyncio.sleep(0.05)
        database.fault = "refuse"  # an idle process asks nothing of its database
        await asyncio.sleep(0.1)
        assert not caplog.records
        database.fault = None


async def test_spending_survives_a_database_that_goes_away(database: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    alice = key(tokens_per_day=1000)
    async with Accounts(database, clock=Clock()) as accounts:
        account = await accounts.admit(alice)
        hold = await account.reserve(Claim(0, 300))
        database.fault = "refuse"
        hold.settle(Usage(0, 300, 1, 1))
        await accounts.flush()
        assert "spent is kept" in caplog.text
        with pytest.raises(BudgetExhausted) as full:
            await account.reserve(Claim(0, 300))
        assert full.value.retry_after_s == 1.0
        database.fault = None
        await accounts.flush()
        assert (await windows(database))["day"]["spent_tokens"] == 300
        await spend(account, 700)
    assert (await windows(database))["day"]["spent_tokens"] == 1000


async def test_a_lost_reply_is_not_charged_twice(database: Faulty) -> None:
    alice = key(tokens_per_day=1000)
    async with Accounts(database, clock=Clock()) as accounts:
        await spend(await accounts.admit(alice), 300)
        database.fault = "lose"
        await accounts.flush()
        await accounts.flush()
        database.fault = None
        await accounts.flush()
        assert (await windows(database))["day"]["spent_tokens"] == 300


async def test_the_lease_of_the_dead_is_charged_whole_when_it_expires(database: Faulty, tmp_path: Path) -> None:
    clock, alice = Clock(), key(tokens_per_day=1000)
    doomed_database = Faulty(f"sqlite:///{tmp_path}/gateway.db")
    async with doomed_database:
        doomed = Accounts(doomed_database, clock=clock)
        await doomed.open()
        await spend(await doomed.admit(alice), 100)
        await doomed.flush()
        await (await doomed.admit(alice)).reserve(Claim(0, 400))
        doomed_database.fault = "refuse"
        await doomed.aclose()
    async with Accounts(database, clock=clock) as heir:
        clock.now += 59
        account = await heir.admit(alice)
        with pytest.raises(BudgetExhausted):
            await account.reserve(Claim(0, 600, min_tokens=600))
        clock.now += 2
        await heir.flush()
        await spend(account, 500)
        with pytest.raises(BudgetExhausted, match="used up"):
            await heir.admit(alice)
    assert (await windows(database))["day"]["spent_tokens"] == 1000


async def test_a_holder_taken_for_dead_goes_on_with_what_it_paid(database: Faulty, tmp_path: Path) -> None:
    clock, alice = Clock(), key(tokens_per_day=1000)
    async with Database(f"sqlite:///{tmp_path}/gateway.db") as other, Accounts(database, clock=clock) as stalled:
        hold = await (await stalled.admit(alice)).reserve(Claim(0, 400))
        clock.now += 61
        async with Accounts(other, clock=clock) as heir:
            await spend(await heir.admit(alice), 500)
        hold.settle(Usage(0, 400, 1, 1))
        await stalled.flush()
        assert (await windows(database))["day"]["spent_tokens"] == 900
        await spend(await stalled.admit(alice), 100)
    assert (await windows(database))["day"]["spent_tokens"] == 1000


async def test_a_call_that_costs_more_than_it_held_is_charged_in_full(database: Faulty) -> None:
    alice = key(tokens_per_day=100)
    async with Accounts(database, clock=Clock()) as accounts:
        hold = await (await accounts.admit(alice)).reserve(Claim(0, 100))
        hold.settle(Usage(0, 130, 1, 1))
        with pytest.raises(BudgetExhausted, match="used up"):
            await accounts.admit(alice)
    assert (await windows(database))["day"]["spent_tokens"] == 130


async def test_a_limit_may_change_while_it_is_in_use(database: Faulty) -> None:
    async with Accounts(database, clock=Clock()) as accounts:
        account = await accounts.admit(key(tokens_per_day=100))
        await spend(account, 100)
        with pytest.raises(BudgetExhausted):
            await accounts.admit(key(tokens_per_day=100))
        await spend(await accounts.admit(key(tokens_per_day=150)), 50)
        with pytest.raises(BudgetExhausted):
            await accounts.admit(key(tokens_per_day=150))
    assert (await windows(database))["day"]["spent_tokens"] == 150


async def test_what_is_held_stays_leased_though_the_limit_shrinks(database: Faulty) -> None:
    async with Accounts(database, clock=Clock()) as accounts:
        hold = await (await accounts.admit(key(tokens_per_day=100))).reserve(Claim(0, 80))
        await accounts.admit(key(tokens_per_day=50))
        await accounts.flush()
        assert (await windows(database))["day"]["leased_tokens"] == 80
        hold.settle(Usage(0, 20, 1, 1))
        await spend(await accounts.admit(key(tokens_per_day=50)), 30)
    assert (await windows(database))["day"]["spent_tokens"] == 50


async def test_an_idle_holder_asks_anew_what_others_left(database: Faulty, tmp_path: Path) -> None:
    alice, clock = key(tokens_per_day=1000), Clock()
    async with (
        Database(f"sqlite:///{tmp_path}/gateway.db") as other,
        Accounts(database, clock=clock) as here,
        Accounts(other, clock=clock) as there,
    ):
        account = await there.admit(alice)
        await there.flush()
        hold = await (await here.admit(alice)).reserve(Claim(0, 1000))
        with pytest.raises(BudgetExhausted):
            await account.reserve(Claim(0, 500))
        await there.flush()
        hold.settle(Usage(0, 0, 1, 1))
        await here.flush()
        await here.flush()
        await spend(account, 500)
    assert (await windows(database))["day"]["spent_tokens"] == 500


async def test_many_cancelled_requests_leave_nothing_behind(database: Faulty) -> None:
    alice = key(tokens_per_day=1000)
    async with Accounts(database, clock=Clock()) as accounts:

        async def ask() -> None:
            account = await accounts.admit(alice)
            with await Ledger(parent=account).reserve(Claim(0, 500)) as hold:
                try:
                    await asyncio.sleep(10)
                finally:
                    hold.settle(Usage())

        tasks = [asyncio.create_task(ask()) for _ in range(20)]
        for task in tasks:
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await accounts.flush()
        await accounts.flush()
        day = (await windows(database))["day"]
        assert (day["spent_tokens"], day["leased_tokens"]) == (0, 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "accounts"]


async def test_old_windows_are_forgotten(database: Faulty) -> None:
    clock = Clock()
    async with Accounts(database, clock=clock) as accounts:
        await spend(await accounts.admit(key(tokens_per_minute=10, tokens_per_month=10)), 10)
    assert set(await windows(database)) == {"minute", "month"}
    clock.now += 2 * 86400
    async with Accounts(database, clock=clock):
        assert set(await windows(database)) == {"month"}


async def test_closed_accounts_say_so(database: Faulty) -> None:
    accounts = Accounts(database, clock=Clock())
    with pytest.raises(RuntimeError, match="not open"):
        await accounts.admit(key(tokens_per_day=1))


def test_windows_begin_and_end_where_the_calendar_says() -> None:
    def at(*when: int) -> float:
        return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]

    def bounds(per: Any, now: float) -> Iterator[float]:
        window = Window.at("k", per, now)
        return iter((window.starts_at, window.ends_at))

    last = at(2027, 12, 31, 23, 59, 59) + 0.9
    assert list(bounds("minute", last)) == [at(2027, 12, 31, 23, 59), at(2028, 1, 1)]
    assert list(bounds("day", last)) == [at(2027, 12, 31), at(2028, 1, 1)]
    assert list(bounds("month", last)) == [at(2027, 12, 1), at(2028, 1, 1)]
    assert list(bounds("month", at(2028, 2, 29))) == [at(2028, 2, 1), at(2028, 3, 1)]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_nanodollars_never_fall_short(costs: list[float]) -> None:
    total = sum(costs)
    counted = Amounts.of(Usage(cost_usd=total)).nano_usd
    assert total * 1e9 - 0.01 <= counted < total * 1e9 + 1.01
