"""Several replicas over one real PostgreSQL: no limit is passed, and nothing is lost when they or it go away."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from postgres import Postgres, postgres
from sqlalchemy import text

from thinkscale.accounting import Claim, Ledger, Price
from thinkscale.errors import BudgetExhausted, TooManyRequests, UsageError
from thinkscale.store.accounts import Accounts
from thinkscale.store.database import Database
from thinkscale.store.keys import Key, KeyLimits, KeyStore
from thinkscale.types import Budget, Usage

__all__ = ["postgres"]

PRICE = Price(1.0, 2.0)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.fresh_database()


def clock() -> float:
    """It is always noon: no test runs over midnight, and no lease expires by itself."""
    return datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


def limited(name: str = "alice", **limits: int | float) -> Key:
    return Key(f"{name:0<8}", name, False, None, None, KeyLimits(**limits), 0.0, None)  # type: ignore[arg-type]


async def day_of(database: Database) -> tuple[int, int]:
    """Tokens spent and leased in the days of all keys, and what the leases add up to."""
    async with database.begin() as connection:
        row = (
            await connection.execute(
                text("SELECT sum(spent_tokens), sum(leased_tokens) FROM account_windows WHERE per = 'day'")
            )
        ).one()
    return int(row[0] or 0), int(row[1] or 0)


async def test_replicas_that_open_at_once_make_the_tables_once(url: str) -> None:
    databases = [Database(url) for _ in range(6)]
    await asyncio.gather(*(database.open() for database in databases))
    key, secret = await KeyStore(databases[0]).add("alice", models=["m"], limits=KeyLimits(tokens_per_day=5))
    assert await KeyStore(databases[5]).find(secret) == key
    await asyncio.gather(*(database.aclose() for database in databases))


async def test_replicas_hammering_one_key_never_pass_its_limit(url: str) -> None:
    """Thousands of small calls from three holders; then exactly what was used is charged, and not a token more."""
    limit, used = 40_000, 0
    keys = [limited(tokens_per_day=limit, usd_per_month=1.0), limited("bob", tokens_per_day=limit)]
    overspent = asyncio.Event()

    async def client(accounts: Accounts, key: Key, rng: Random) -> None:
        nonlocal used
        for _ in range(100):
            try:
                account = await accounts.admit(key)
                claim = Claim(rng.randrange(50), rng.randint(1, 900), rng.randint(1, 3), price=PRICE)
                with await Ledger(Budget(max_calls=3), parent=account).reserve(claim) as hold:
                    await asyncio.sleep(rng.random() * 0.01)
                    tokens = rng.randint(0, hold.n * hold.max_tokens)
                    used += hold.settle(Usage(claim.prompt_tokens, tokens, hold.n, 1)).total_tokens
            except (BudgetExhausted, TooManyRequests):
                await asyncio.sleep(0.02)

    async def watch(database: Database) -> None:
        while True:
            async with database.begin() as connection:
                most = await connection.scalar(text("SELECT max(spent_tokens + leased_tokens) FROM account_windows"))
            if (most or 0) > limit:
                overspent.set()
            await asyncio.sleep(0.005)

    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(Database(url)) for _ in range(4)]
        watcher = asyncio.create_task(watch(databases[3]))
        async with AsyncExitStack() as holders:
            replicas = [await holders.enter_async_context(Accounts(one, clock=clock)) for one in databases[:3]]
            clients = [
                client(replica, key, Random(f"{place}{key.name}{turn}"))
                for place, replica in enumerate(replicas)
                for key in keys
                for turn in range(4)
            ]
            await asyncio.gather(*clients)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        assert not overspent.is_set()
        assert await day_of(databases[0]) == (used, 0)
        assert used <= 2 * limit
        assert used > 2 * limit - 2000, "most of the allowance was refused to those who asked for it"


async def test_keys_and_spending_survive_a_restart_of_everything(url: str, postgres: Postgres) -> None:
    async with Database(url) as database:
        key, secret = await KeyStore(database).add("alice", limits=KeyLimits(tokens_per_day=1000))
        async with Accounts(database, clock=clock) as accounts:
            (await (await accounts.admit(key)).reserve(Claim(0, 700))).settle(Usage(0, 700, 1, 1))
    postgres.stop()
    postgres.start()
    async with Database(url) as database, Accounts(database, clock=clock) as accounts:
        found = await KeyStore(database).find(secret)
        assert found == key
        account = await accounts.admit(found)
        assert (await account.reserve(Claim(0, 700))).max_tokens == 300


async def test_a_server_that_restarts_meanwhile_loses_no_spending(url: str, postgres: Postgres) -> None:
    key = limited(tokens_per_day=1000)
    async with Database(url) as database, Accounts(database, clock=clock) as accounts:
        account = await accounts.admit(key)
        hold = await account.reserve(Claim(0, 400))
        postgres.stop()
        hold.settle(Usage(0, 400, 1, 1))
        await accounts.flush()
        with pytest.raises(BudgetExhausted) as full:
            await account.reserve(Claim(0, 600))
        assert full.value.retry_after_s == 1.0
        postgres.start()
        await accounts.flush()
        assert (await day_of(database))[0] == 400
        assert (await account.reserve(Claim(0, 900))).max_tokens == 600


async def test_connections_kept_over_a_restart_of_the_server_fail_nobody(url: str, postgres: Postgres) -> None:
    async with Database(url) as database:
        keys = KeyStore(database)
        await asyncio.gather(*(keys.count() for _ in range(5)))
        postgres.stop()
        postgres.start()
        assert await asyncio.gather(*(keys.count() for _ in range(5))) == [0] * 5


_DOOMED = """
import asyncio, sys
from test_postgres import Accounts, Claim, Database, clock, limited

async def main():
    async with Database(sys.argv[1]) as database, Accounts(database, clock=clock) as accounts:
        await (await accounts.admit(limited(tokens_per_day=1000))).reserve(Claim(0, 600))
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_replica_is_charged_its_lease(url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DOOMED, url, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"held\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    key = limited(tokens_per_day=1000)
    async with Database(url) as database:
        assert await day_of(database) == (0, 600)
        async with Accounts(database, clock=clock) as heir:
            with pytest.raises(BudgetExhausted):
                await (await heir.admit(key)).reserve(Claim(0, 500, min_tokens=500))
        async with Accounts(database, clock=lambda: clock() + 61) as heir:
            hold = await (await heir.admit(key)).reserve(Claim(0, 500))
            assert hold.max_tokens == 400
            hold.settle(Usage(0, 0, 1, 1))
        assert await day_of(database) == (600, 0)


async def test_replicas_declare_the_same_keys_at_once(url: str) -> None:
    async with AsyncExitStack() as stack:
        stores = [KeyStore(await stack.enter_async_context(Database(url))) for _ in range(4)]
        made = await asyncio.gather(*(store.declare("alice", "correct horse battery") for store in stores))
        assert {key.id for key in made} == {made[0].id}
        assert await stores[0].count() == 1
        added = await asyncio.gather(*(store.add("bob") for store in stores), return_exceptions=True)
        assert sum(isinstance(one, UsageError) for one in added) == 3


async def test_a_wrong_database_is_named_without_its_password(url: str) -> None:
    wrong = url.replace("thinkscale@", "thinkscale:sesame@") + "x"
    with pytest.raises(UsageError, match="cannot use the database") as refused:
        await Database(wrong).open()
    assert "sesame" not in str(refused.value)
