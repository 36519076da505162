"""Records of requests: what is kept, what it sums to, and what happens when the database is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from postgres import Postgres, postgres  # noqa: F401
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from thinkscale.engine import Engine
from thinkscale.errors import ModelRefused, NotAllowed, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.store import record_queue
from thinkscale.store.database import Database
from thinkscale.store.policies import PolicyStore
from thinkscale.store.record_tables import CONTENT, requests, spend
from thinkscale.store.records import Records, RequestRecord
from thinkscale.testing import ScriptedModel
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Prompt, Request

NOON = 1_764_072_000.0  # 2025-11-25 12:00 UTC
DAY_S = 86_400.0
GENERATED = {"prompt_tokens": 100, "output_tokens": 50, "calls": 4, "cost_usd": 0.25}
VERIFIED = {"prompt_tokens": 30, "output_tokens": 3, "calls": 2, "cost_usd": 0.125}


def record(number: int = 0, **given: Any) -> RequestRecord:
    usual: dict[str, Any] = {
        "trace_id": f"trace{number}",
        "at": NOON + number,
        "key": "app",
        "model": "small",
        "policy": "careful",
        "strategy": "self-consistency:n=4",
        "budget": {"max_calls": 8},
        "probability": 0.5,
        "context": {"length": 3.5},
        "verdict": None,
        "passed": None,
        "stop_reason": "consensus",
        "confidence": 0.75,
        "prompt_tokens": 130,
        "output_tokens": 53,
        "calls": 6,
        "samples": 4,
        "cost_usd": 0.375,
        "seconds": 1.5,
        "queue_s": 0.125,
        "usage_by_purpose": {"generate": GENERATED, "verify": VERIFIED},
        "events": [{"v": 1, "trace": f"trace{number}", "t": 0.5, "event": "call", "path": (0,), "n": 4}],
    }
    return RequestRecord(**{**usual, **given})


async def rows(database: Database, asked: Any) -> list[Any]:
    async with database.begin() as connection:
        return list((await connection.execute(asked)).all())


# -- what every database must do: run on SQLite here, on a real PostgreSQL server where one is installed -------------


async def keeps_all_of_a_request(database: Database) -> None:
    async with Records(database) as records:
        records.add(record(0, confidence=None, cost_usd=None))
        records.add(record(1))
        found = await records.one("trace1")
        assert found == {
            **{name: getattr(record(1), name) for name in RequestRecord.__slots__ if name != "events"},
            "events": [{"v": 1, "trace": "trace1", "t": 0.5, "event": "call", "path": [0], "n": 4}],
            "feedback": None,
        }
        listed = await records.recent()
        assert [row["trace_id"] for row in listed] == ["trace1", "trace0"], "newest first"
        assert listed[0] == {
            name: found[name]
            for name in found
            if name not in ("events", "budget", "probability", "usage_by_purpose", "context", "verdict", "passed")
        }
        assert (listed[1]["confidence"], listed[1]["cost_usd"]) == (None, None)
        assert await records.one("trace9") is None


async def pages_through_what_is_kept(database: Database) -> None:
    async with Records(database) as records:
        for number in range(7):
            records.add(record(number))
        seen: list[str] = []
        before: float | None = None
        while page := await records.recent(3, before):
            seen += [row["trace_id"] for row in page]
            before = page[-1]["at"]
        assert seen == [f"trace{number}" for number in reversed(range(7))]


async def sums_spending(database: Database) -> None:
    async with Records(database, clock=lambda: NOON) as records:
        unknown = {**GENERATED, "cost_usd": None}
        records.add(record(0, at=NOON - DAY_S))
        records.add(record(1))
        records.add(record(2, key="web", model="large", usage_by_purpose={"generate": unknown}))
        records.add(record(3, key="", status=429, usage_by_purpose={}))  # refused: a request, and nothing spent
        records.add(record(4, at=NOON - 40 * DAY_S))
        assert await records.spend(days=30) == {
            "by_day": [
                summed("day", "2025-11-24", 183, 6, 1, 0.375),
                summed("day", "2025-11-25", 333, 10, 3, 0.375, 4),
            ],
            "by_key": [
                summed("name", "app", 366, 12, 2, 0.75),
                summed("name", "web", 150, 4, 1, None, 4),
                summed("name", "", 0, 0, 1, 0.0),
            ],
            "by_model": [summed("name", "small", 366, 12, 3, 0.75), summed("name", "large", 150, 4, 1, None, 4)],
            "by_purpose": [
                summed("name", "generate", 450, 12, 4, 0.5, 4),
                summed("name", "verify", 66, 4, 0, 0.25),
            ],
        }
        assert [row["day"] for row in (await records.spend(days=1))["by_day"]] == ["2025-11-25"]
        assert len((await records.spend(days=41))["by_day"]) == 3


def summed(
    kind: str, name: str, tokens: int, calls: int, requests: int, cost_usd: float | None, unknown: int = 0
) -> dict[str, Any]:
    sums = {"tokens": tokens, "calls": calls, "requests": requests, "cost_usd": cost_usd}
    return {kind: name, **sums, "unknown_cost_calls": unknown}


async def adds_up_over_replicas(database: Database) -> None:
    """Four writers, the same rows of spending at the same time: nothing is lost and nobody waits in a circle."""

    async def replica(own: int) -> None:
        async with Records(database) as records:
            for number in range(300):
                one = record(number, trace_id=f"{own}-{number}", key=f"key{number % 7}")
                records.add(one)
                if number % 50 == 0:
                    await records.recent(1)

    async with asyncio.timeout(30):
        await asyncio.gather(*(replica(own) for own in range(4)))
    (sums,) = await rows(
        database, select(func.sum(spend.c.requests), func.sum(spend.c.calls), func.sum(spend.c.cost_usd))
    )
    assert [int(sums[0]), int(sums[1]), float(sums[2])] == [1200, 7200, 450.0]


async def prunes_requests_but_not_what_they_leave(database: Database) -> None:
    async with Records(database, keep=5, clock=lambda: NOON) as records:
        for number in range(4):
            records.add(record(number, at=NOON))  # all at one moment: what comes later by its trace id stays
        assert await records.feedback("trace0", correct=True, key="app")
        for number in range(4, 9):
            records.add(record(number, at=NOON))
        assert [row["trace_id"] for row in await records.recent()] == ["trace8", "trace7", "trace6", "trace5", "trace4"]
        assert await records.one("trace0") is None
        assert [decision.trace_id for decision in await records.outcomes()] == ["trace0"]
        assert (await records.spend())["by_key"][0]["requests"] == 9
        changed = await records.feedback("trace0", correct=False, key="app")
        assert changed is not None
        assert changed.correct is False, "feedback that is there can be changed although its request is gone"


async def keeps_feedback_with_its_decision(database: Database) -> None:
    now = [NOON + 60]
    async with Records(database, clock=lambda: now[0]) as records:
        records.add(record(0))
        decision = await records.feedback("trace0", correct=False, key="app")  # still in the queue
        assert decision is not None
        assert (decision.at, decision.correct, decision.score) == (NOON + 60, False, None)
        assert (decision.strategy, decision.budget, decision.probability) == (
            "self-consistency:n=4",
            {"max_calls": 8},
            0.5,
        )
        assert (await records.recent())[0]["feedback"] == {"correct": False, "score": None}
        now[0] = NOON + 120
        again = await records.feedback("trace0", score=0.25, key="app")
        assert again == replace(decision, at=NOON + 120, correct=None, score=0.25), "the later one replaces the first"
        assert await records.outcomes() == [again]
        found = await records.one("trace0")
        assert found is not None
        assert found["feedback"] == {"correct": None, "score": 0.25}


async def feedback_is_the_askers_alone(database: Database) -> None:
    async with Records(database) as records:
        records.add(record(0))
        records.add(record(1, key=""))
        for trace_id, key in (("trace0", "other"), ("trace0", ""), ("trace1", "app")):
            with pytest.raises(NotAllowed) as refused:
                await records.feedback(trace_id, correct=True, key=key)
            assert refused.value.known
        assert await records.feedback("trace9", correct=True, key="app") is None
        assert await records.feedback("trace1", correct=True, key="") is not None
        assert [decision.trace_id for decision in await records.outcomes()] == ["trace1"]


async def gives_what_can_be_learned_from(database: Database) -> None:
    """People's words go before verifiers'; without either there is nothing to learn; each is given once."""
    now = [NOON + 100]
    async with Records(database, clock=lambda: now[0]) as records:
        records.add(record(0, verdict=0.0, passed=False))
        records.add(record(1, verdict=1.0, passed=True))
        records.add(record(2, verdict=0.75))  # a score is no hard word
        records.add(record(3, passed=True, model="large"))
        await records.feedback("trace0", correct=True, key="app")

        async def learned(since: float = 0.0) -> list[tuple[str, float]]:
            found = await records.outcomes(since, model="small", verdicts=True)
            assert all(one.context == {"length": 3.5} for one in found)
            return [(one.trace_id, one.reward) for one in found]

        assert await learned() == [("trace0", 1.0), ("trace1", 1.0)]
        assert await learned(NOON + 100) == []
        assert [one.trace_id for one in await records.outcomes()] == ["trace0"], "feedback alone, unless asked"
        assert [one.trace_id for one in await records.outcomes(verdicts=True)] == ["trace0", "trace1", "trace3"]
        now[0] += 1
        await records.feedback("trace2", score=0.5, key="app")
        assert await learned(NOON + 100) == [("trace2", 0.5)]


async def tells_of_slow_answers_by_when_they_are_stored(database: Database) -> None:
    """An answer that began long before what was heard last, and came after it."""
    now = [NOON + 600]
    async with Records(database, clock=lambda: now[0]) as records:
        records.add(record(0, at=NOON + 500, passed=True))
        (quick,) = await records.outcomes(verdicts=True)
        now[0] += 1
        records.add(record(1, at=NOON, passed=False))
        assert [one.trace_id for one in await records.outcomes(quick.at, verdicts=True)] == ["trace1"]


async def keeps_policies_by_version(database: Database) -> None:
    store = PolicyStore(database, clock=lambda: NOON)
    assert await store.active("small") is None
    assert await store.rollback("small") == (None, None)
    first = await store.promote("small", "stopping", "{}", {"gain": 0.1})
    second = await store.promote("small", "bandit", "{}", {})
    other = await store.promote("large", "plans", "{}", {})
    assert [one.version for one in (first, second, other)] == [1, 2, 1]
    assert await store.active("small") == second
    out, back = await store.rollback("small")
    assert (out, back) == (second, first)
    assert await store.active("small") == first
    third = await store.promote("small", "risk", "{}", {})
    assert third.version == 3
    assert (await store.rollback("small"))[1] == first, "what was rolled back does not come again"
    assert (await store.rollback("small")) == (first, None)
    assert await store.active("small") is None
    assert [(one.model, one.version, one.withdrawn_at) for one in await store.listed()] == [
        ("large", 1, None),
        ("small", 3, NOON),
        ("small", 2, NOON),
        ("small", 1, NOON),
    ]


async def brings_the_tables_of_an_earlier_version_up_to_date(database: Database) -> None:
    async with database.begin() as connection:
        for table in ("requests", "feedback"):
            await connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN context")
            await connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN verdict")
            await connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN passed")
        await connection.exec_driver_sql("DROP INDEX requests_by_storing")
        await connection.exec_driver_sql("ALTER TABLE requests DROP COLUMN stored_at")
    await database.aclose()
    await database.open()
    await gives_what_can_be_learned_from(database)


async def takes_any_text(database: Database) -> None:
    async with Records(database, log_content=True) as records:
        odd = "a\0b\ud800c\n'\"✓"
        events = [{"event": "candidate", "text": odd, "path": (0,)}]
        records.add(record(0, strategy=odd, budget={"max_calls": 10**30}, events=events))
        records.add(record(1, events=[{"event": "candidate", "text": "NUL \0 and ✓"}]))
        found = await records.one("trace0")
        assert found is not None
        assert found["strategy"] == "a\N{REPLACEMENT CHARACTER}b?c\n'\"✓"
        assert found["budget"]["max_calls"] == 2**63 - 1
        found = await records.one("trace1")
        assert found is not None
        assert found["events"][0]["text"] == "NUL \0 and ✓"
        assert await records.one(odd) is None
        assert await records.feedback(odd, correct=True, key="app") is None


CHECKS: list[Callable[[Database], Any]] = [
    keeps_all_of_a_request,
    pages_through_what_is_kept,
    sums_spending,
    adds_up_over_replicas,
    prunes_requests_but_not_what_they_leave,
    keeps_feedback_with_its_decision,
    feedback_is_the_askers_alone,
    gives_what_can_be_learned_from,
    tells_of_slow_answers_by_when_they_are_stored,
    keeps_policies_by_version,
    brings_the_tables_of_an_earlier_version_up_to_date,
    takes_any_text,
]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{tmp_path / 'gateway.db'}") as database:
        yield database


@pytest.mark.parametrize("check", CHECKS)
async def test_on_sqlite(check: Callable[[Database], Any], database: Database) -> None:
    await check(database)


@pytest.mark.parametrize("check", CHECKS)
async def test_on_postgresql(check: Callable[[Database], Any], postgres: Postgres) -> None:  # noqa: F811
    async with Database(await asyncio.to_thread(postgres.fresh_database)) as database:
        await check(database)


async def test_an_outage_of_postgresql_loses_nothing(postgres: Postgres) -> None:  # noqa: F811
    """The server goes away and comes back; whatever the driver raises meanwhile."""
    async with Database(await asyncio.to_thread(postgres.fresh_database)) as database:
        async with Records(database, clock=lambda: NOON) as records:
            records.add(record(0))
            assert len(await records.recent()) == 1
            await asyncio.to_thread(postgres.stop)
            try:
                for number in range(1, 300):
                    records.add(record(number))
                await asyncio.sleep(0.6)  # a try or two of its own
            finally:
                await asyncio.to_thread(postgres.start)
        assert (await rows(database, select(func.sum(spend.c.requests))))[0][0] == 300
        assert (await rows(database, select(func.count()).select_from(requests)))[0][0] == 300


# -- content ---------------------------------------------------------------------------------------------------------


async def solved() -> list[Event]:
    """The events of a real run, one of whose samples fails."""
    events: list[Event] = []
    model = ScriptedModel(
        {"SECRET 7": 1.0}, failures={0: ModelRefused("SECRET error", status=400)}, capabilities=Capabilities(max_n=1)
    )
    async with Engine(model) as engine:
        request = Request(Prompt.of("SECRET question"), AnswerKind.TEXT)
        await engine.solve(request, strategy="self-consistency:n=4", listeners=(events.append,))
    return events


async def test_content_is_stored_only_where_it_is_switched_on(database: Database, tmp_path: Path) -> None:
    events = await solved()
    async with Records(database) as records:
        records.add(record(0, events=events))
    kept = await rows(database, select(requests))
    assert "SECRET" not in str(kept)
    bare = orjson.loads(kept[0].events)
    assert [event["event"] for event in bare] == [event["event"] for event in events]
    assert {name for event in events for name in event} & CONTENT, "the run wrote some"
    assert not {name for event in bare for name in event} & CONTENT
    files = await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.glob("gateway.db*")])
    assert files
    assert not any(b"SECRET" in content for content in files)
    async with Records(database, log_content=True) as records:
        records.add(record(1, events=events))
        found = await records.one("trace1")
    assert found is not None
    assert "SECRET" in found["events"][0]["prompt"]


async def test_a_request_refused_before_its_trace_is_kept_too(database: Database) -> None:
    async with Records(database) as records:
        records.add(record(0, trace_id="", events=None, status=429))
        records.add(record(1, trace_id="", events=None, status=429))
        kept = await records.recent()
        assert len({row["trace_id"] for row in kept} - {""}) == 2
        found = await records.one(kept[0]["trace_id"])
    assert found is not None
    assert found["events"] is None


@pytest.mark.parametrize("said", [{}, {"score": 1.5}, {"score": -0.1}, {"score": float("nan")}])
async def test_feedback_that_says_nothing_or_nonsense_is_refused(database: Database, said: dict[str, Any]) -> None:
    async with Records(database) as records:
        records.add(record(0))
        with pytest.raises(UsageError):
            await records.feedback("trace0", key="app", **said)


# -- the queue -------------------------------------------------------------------------------------------------------


class Flaky(Database):
    """A database that is away or slow when told to, and whose connection can break in the moment of committing."""

    away = False
    breaks_after_commit = 0
    gate: asyncio.Event | None = None
    at_gate = False

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        if self.away:
            raise ConnectionRefusedError("nobody there")
        if self.gate is not None:
            self.at_gate = True
            await self.gate.wait()
        async with super().begin() as connection:
            yield connection
        if self.breaks_after_commit:
            self.breaks_after_commit -= 1
            raise OperationalError("COMMIT", {}, Exception("connection lost"))


@pytest.fixture
async def flaky(tmp_path: Path) -> AsyncIterator[Flaky]:
    async with Flaky(f"sqlite:///{tmp_path / 'flaky.db'}") as database:
        yield database


async def test_what_was_added_is_written_a_moment_later_and_on_closing(database: Database) -> None:
    count = select(func.count()).select_from(requests)
    async with Records(database) as records:
        records.add(record(0))
        assert (await rows(database, count))[0][0] == 0, "adding does not wait"
        async with asyncio.timeout(2):
            while (await rows(database, count))[0][0] == 0:
                await asyncio.sleep(0.02)
        for number in range(1, 500):
            records.add(record(number))
    assert (await rows(database, count))[0][0] == 500
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "records"]


async def test_an_outage_loses_nothing(flaky: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    async with Records(flaky, clock=lambda: NOON) as records:
        flaky.away = True
        for number in range(450):
            records.add(record(number))
        with pytest.raises(ConnectionRefusedError):
            await records.recent()
        with pytest.raises(ConnectionRefusedError):
            await records.recent()
        flaky.away = False
        assert len(await records.recent(1000)) == 450
        assert (await records.spend())["by_key"][0]["requests"] == 450
    messages = [line.getMessage() for line in caplog.records]
    assert len([message for message in messages if "nobody there" in message]) == 1, "one line an outage"
    assert any("takes records again" in message for message in messages)


async def test_what_waited_out_an_outage_is_new_to_who_asks_for_news(flaky: Flaky) -> None:
    now = [NOON + 100]
    async with Records(flaky, clock=lambda: now[0]) as records:
        records.add(record(0, passed=True))
        flaky.away = True
        with pytest.raises(ConnectionRefusedError):
            await records.outcomes()
        flaky.away, now[0] = False, NOON + 500
        assert [one.at for one in await records.outcomes(NOON + 400, verdicts=True)] == [NOON + 500]


async def test_a_batch_is_spent_once_though_its_connection_breaks_in_the_commit(flaky: Flaky) -> None:
    async with Records(flaky, clock=lambda: NOON) as records:
        for number in range(3):
            records.add(record(number))
        flaky.breaks_after_commit = 2
        for _ in range(2):
            with pytest.raises(OperationalError):
                await records.recent()
        records.add(record(3))
        assert len(await records.recent()) == 4
        assert (await records.spend())["by_key"] == [summed("name", "app", 4 * 183, 24, 4, 1.5)]


async def test_in_a_long_outage_the_oldest_traces_go_first_and_sums_never(
    flaky: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(orjson.dumps(list(record(10).events or ())))
    monkeypatch.setattr(record_queue, "_MOST_CHARACTERS", 6 * size)
    async with Records(flaky, keep=12, clock=lambda: NOON) as records:
        flaky.away = True
        for number in range(10, 40):
            records.add(record(number))
        flaky.away = False
        kept = await records.recent(100)
        assert [row["trace_id"] for row in kept] == [f"trace{number}" for number in range(39, 27, -1)]
        with_events = [row["trace_id"] for row in kept if (await records.one(row["trace_id"]) or {})["events"]]
        assert with_events == [f"trace{number}" for number in range(39, 33, -1)]
        assert (await records.spend())["by_key"] == [summed("name", "app", 30 * 183, 180, 30, 11.25)]
    assert len([line for line in caplog.records if "oldest traces are dropped" in line.getMessage()]) == 1


async def test_closing_while_the_database_is_away_ends_and_says_what_is_lost(
    flaky: Flaky, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(record_queue, "_PAUSE_S", 0.01)
    records = Records(flaky)
    await records.open()
    records.add(record(0))
    records.add(record(1))
    flaky.away = True
    async with asyncio.timeout(5):
        await records.aclose()
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert "2 requests" in line.getMessage()


async def test_a_reader_that_goes_away_breaks_nothing(database: Database) -> None:
    async with Records(database, clock=lambda: NOON) as records, asyncio.timeout(20):
        for number in range(50):
            records.add(record(number))
            reading = asyncio.create_task(records.recent())
            await asyncio.sleep(0.0002 * number)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await records.recent()
            saying = asyncio.create_task(records.feedback("trace0", correct=True, key="app"))
            await asyncio.sleep(0.0001 * number)  # at every moment of a transaction: nothing is left to be written
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)
        assert len(await records.recent()) == 50
        assert (await records.spend())["by_key"][0]["requests"] == 50


async def test_a_reader_that_comes_while_the_last_batch_is_written_is_not_forgotten(flaky: Flaky) -> None:
    async with Records(flaky) as records, asyncio.timeout(5):
        flaky.gate = asyncio.Event()
        records.add(record(0))
        first = asyncio.create_task(records.recent())
        while not flaky.at_gate:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(records.recent())
        await asyncio.sleep(0.01)
        flaky.gate.set()
        assert [len(page) for page in await asyncio.gather(first, second)] == [1, 1]


async def test_a_record_must_have_room() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Records(Database("sqlite://"), keep=0)
