"""Keys: shown once, stored hashed, found fast, gone when revoked; and the commands that make them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from thinkscale.errors import UsageError
from thinkscale.store.database import Database, default_database
from thinkscale.store.keys import KeyLimits, KeyStore

OPERATORS = "correct horse battery staple"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counted(Database):
    trips = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        self.trips += 1
        async with super().begin() as connection:
            yield connection


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Counted]:
    async with Counted(f"sqlite:///{tmp_path}/gateway.db") as database:
        yield database


async def test_a_key_is_found_by_its_secret_and_by_nothing_else(database: Counted) -> None:
    keys = KeyStore(database, clock=Clock())
    limits = KeyLimits(requests_per_minute=3, usd_per_day=0.5)
    key, secret = await keys.add("alice", admin=True, models=["m", "n"], policies=["p"], limits=limits)
    assert re.fullmatch(r"ts-[0-9a-f]{8}-[A-Za-z0-9_-]{43}", secret)
    assert secret.split("-")[1] == key.id
    assert (key.name, key.admin, key.models, key.policies, key.limits) == ("alice", True, ("m", "n"), ("p",), limits)
    assert (key.created_at, key.revoked_at) == (Clock.now, None)
    assert await keys.find(secret) == key
    assert await KeyStore(database).find(secret) == key
    last = "B" if secret[-1] == "A" else "A"
    for wrong in (
        "",
        "x",
        key.id,
        secret[:-1],
        secret[:-1] + last,
        secret + "A",
        secret.upper(),
        f"ts-{key.id}-",
        "\udcff",
    ):
        assert await keys.find(wrong) is None
    assert await keys.count() == 1
    assert await keys.list() == [key]


async def test_only_the_hash_is_stored(database: Counted, tmp_path: Path) -> None:
    keys = KeyStore(database)
    _, secret = await keys.add("alice")
    await keys.declare("bob", OPERATORS)
    await database.aclose()
    stored = contents(tmp_path)
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored
    assert secret.split("-", 2)[2].encode() not in stored
    assert OPERATORS.encode() not in stored
    assert secret not in repr(vars(keys))


async def test_secrets_differ(database: Counted) -> None:
    keys = KeyStore(database)
    made = [await keys.add(f"k{n}") for n in range(20)]
    assert len({key.id for key, _ in made}) == len({secret for _, secret in made}) == 20
    for key, secret in made:
        assert await keys.find(secret) == key


async def test_a_found_key_costs_no_trip_for_five_seconds(database: Counted) -> None:
    clock = Clock()
    keys = KeyStore(database, clock=clock)
    _, secret = await keys.add("alice")
    before = database.trips
    for _ in range(50):
        assert await keys.find(secret)
        clock.now += 0.09
    assert database.trips == before + 1
    clock.now += 0.6
    assert await keys.find(secret)
    assert database.trips == before + 2
    clock.now -= 3600  # a clock set back must not keep a key for an hour
    assert await keys.find(secret)
    assert database.trips == before + 3


async def test_wrong_secrets_cost_a_trip_a_second_at_most(database: Counted) -> None:
    clock = Clock()
    keys = KeyStore(database, clock=clock)
    before = database.trips
    for n in range(200):
        assert await keys.find(f"sk-{n}") is None
        clock.now += 0.01
    assert database.trips - before <= 3
    _, secret = await KeyStore(database, clock=clock).add("made-elsewhere")
    clock.now += 1
    assert await keys.find(secret)


async def test_a_revoked_key_stops_at_once_here_and_within_five_seconds_elsewhere(database: Counted) -> None:
    clock = Clock()
    here, elsewhere = KeyStore(database, clock=clock), KeyStore(database, clock=clock)
    key, secret = await here.add("alice")
    assert await here.find(secret) == await elsewhere.find(secret) == key
    revoked = await here.revoke("alice")
    assert (revoked.id, revoked.revoked_at) == (key.id, clock.now)
    assert await here.find(secret) is None
    clock.now += 5
    assert await elsewhere.find(secret) is None
    assert await here.count() == 0
    assert await here.list() == [revoked]
    with pytest.raises(UsageError, match="no working key is named 'alice'"):
        await here.revoke("alice")


async def test_a_name_is_one_working_key_s(database: Counted) -> None:
    keys = KeyStore(database)
    await keys.add("alice")
    with pytest.raises(UsageError, match="exists already"):
        await keys.add("alice")
    await keys.revoke("alice")
    key, secret = await keys.add("alice")  # a lost key is replaced under its name
    assert await keys.find(secret) == key
    assert [one.revoked_at is None for one in await keys.list()] == [False, True]


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda keys: keys.add(""), "1 to 64"),
        (lambda keys: keys.add("two words"), "1 to 64"),
        (lambda keys: keys.add("a" * 65), "1 to 64"),
        (lambda keys: keys.add("alice", models=[]), "models must be names"),
        (lambda keys: keys.add("alice", policies=[" "]), "policies must be names"),
        (lambda keys: keys.declare("alice", "short"), "at least 20 characters"),
    ],
)
async def test_nonsense_is_refused(database: Counted, ask: Callable[[KeyStore], Any], complaint: str) -> None:
    keys = KeyStore(database)
    with pytest.raises(UsageError, match=complaint):
        await ask(keys)
    assert await keys.list() == []


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_limits_must_be_positive(wrong: float) -> None:
    with pytest.raises(UsageError, match="usd per day must be positive"):
        KeyLimits(usd_per_day=wrong)


async def test_an_operator_declares_a_key_again_and_again(database: Counted) -> None:
    clock = Clock()
    keys = KeyStore(database, clock=clock)
    first = await keys.declare("ops", OPERATORS, models=["m"])
    assert await keys.find(OPERATORS) == first
    clock.now += 100
    second = await keys.declare("ops", OPERATORS, admin=True)
    assert second.id == first.id == hashlib.sha256(OPERATORS.encode()).hexdigest()[:8]
    assert (second.admin, second.models, second.created_at) == (True, None, first.created_at)
    assert await keys.find(OPERATORS) == second
    assert await keys.list() == [second]


async def test_a_new_declared_secret_replaces_the_old_one(database: Counted) -> None:
    keys = KeyStore(database)
    await keys.declare("ops", OPERATORS)
    new = "ts-00000000-" + "x" * 43  # an issued form from elsewhere: its id here comes from its hash
    key = await keys.declare("ops", new)
    assert await KeyStore(database).find(OPERATORS) is None
    assert await KeyStore(database).find(new) == key
    assert await keys.count() == 1


async def test_a_declared_key_takes_no_name_or_secret_of_another(database: Counted) -> None:
    keys = KeyStore(database)
    await keys.add("alice")
    with pytest.raises(UsageError, match="'alice' exists already"):
        await keys.declare("alice", OPERATORS)
    await keys.declare("ops", OPERATORS)
    with pytest.raises(UsageError, match="too like that of key ops"):
        await keys.declare("bob", OPERATORS)
    with pytest.raises(UsageError, match="'ops' exists already"):
        await keys.add("ops")


async def test_a_revoked_secret_is_not_revived_by_declaring_it_again(database: Counted) -> None:
    keys = KeyStore(database)
    await keys.declare("ops", OPERATORS)
    await keys.revoke("ops")
    with pytest.raises(UsageError, match="was revoked: give it a new one"):
        await keys.declare("ops", OPERATORS)
    assert await keys.find(OPERATORS) is None
    await keys.declare("ops", OPERATORS + "!")


async def test_what_is_declared_no_more_stops_working(database: Counted) -> None:
    keys = KeyStore(database)
    _, secret = await keys.add("alice")
    await keys.declare("ops", OPERATORS)
    await keys.declare("other", OPERATORS[::-1])
    assert await keys.find(OPERATORS)
    assert await keys.keep_declared(["other"]) == ["ops"]
    assert await keys.find(OPERATORS) is None
    assert await keys.find(OPERATORS[::-1])
    assert await keys.find(secret)
    renamed = await keys.declare("operators", OPERATORS)
    assert await keys.find(OPERATORS) == renamed


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def thinkscale(*words: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thinkscale.cli", "keys", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XDG_DATA_HOME": str(folder), "THINKSCALE_DATABASE": "", "COLUMNS": "160"} | env,
    )


async def test_the_commands_make_list_and_revoke_keys(tmp_path: Path) -> None:
    made = thinkscale(
        "add", "alice", "--model", "m", "--model", "n:fast", "--tokens-per-day", "100000", "--usd-per-month", "2.5",
        folder=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret = made.stdout.rstrip("\n")
    assert re.fullmatch(r"ts-[0-9a-f]{8}-[\w-]{43}", secret)
    assert secret not in made.stderr
    assert "100,000 tokens per day, 2.5 usd per month" in made.stderr
    async with Database(f"sqlite:///{tmp_path}/thinkscale/gateway.db") as database:
        found = await KeyStore(database).find(secret)
        assert found is not None
        assert (found.models, found.policies, found.admin) == (("m", "n:fast"), None, False)
        assert found.limits == KeyLimits(tokens_per_day=100_000, usd_per_month=2.5)
    listed = thinkscale("list", folder=tmp_path)
    assert "alice" in listed.stdout
    assert secret not in listed.stdout + listed.stderr
    revoked = json.loads(thinkscale("revoke", "alice", "--json", folder=tmp_path).stdout)
    assert revoked["revoked_at"] is not None
    keys = json.loads(thinkscale("list", "--json", folder=tmp_path).stdout)["keys"]
    assert [(key["name"], key["limits"]["tokens_per_day"]) for key in keys] == [("alice", 100_000)]
    assert keys[0] == revoked


def test_the_commands_refuse_clearly(tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    made = thinkscale("add", "alice", "--admin", "--json", "--database", other, folder=tmp_path)
    assert json.loads(made.stdout)["secret"].startswith("ts-")
    again = thinkscale("add", "alice", folder=tmp_path, THINKSCALE_DATABASE=other)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "thinkscale: a key named 'alice' exists already: choose another name, or revoke it first\n"
    gone = thinkscale("revoke", "bob", "--database", other, folder=tmp_path)
    assert (gone.returncode, gone.stdout) == (2, "")
    assert "no working key is named 'bob'" in gone.stderr
    zero = thinkscale("add", "carol", "--usd-per-day", "0", "--database", other, folder=tmp_path)
    assert zero.returncode == 2
    assert "usd per day must be positive" in zero.stderr


def test_the_database_is_the_user_s_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("THINKSCALE_DATABASE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_database() == f"sqlite:///{tmp_path}/thinkscale/gateway.db"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_database() == f"sqlite:///{tmp_path}/.local/share/thinkscale/gateway.db"
    monkeypatch.setenv("THINKSCALE_DATABASE", "postgresql://db/thinkscale")
    assert default_database() == "postgresql://db/thinkscale"
