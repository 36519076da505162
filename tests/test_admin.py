"""The admin API: what it tells, in which shape, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from test_records import GENERATED, NOON, VERIFIED, record

from thinkscale.errors import ThinkscaleError
from thinkscale.serve.admin import admin_routes
from thinkscale.serve.faults import fault_of
from thinkscale.store.database import Database
from thinkscale.store.keys import KeyLimits, KeyStore
from thinkscale.store.records import Records, RequestRecord


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(f"sqlite:///{tmp_path / 'gateway.db'}") as database:
        yield database


_ONE_ONLY = ("budget", "probability", "usage_by_purpose", "events", "context", "verdict", "passed")
LISTED = {name for name in RequestRecord.__slots__ if name not in _ONE_ONLY}
LISTED |= {"feedback"}


@web.middleware
async def errors(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    try:
        return await handler(request)
    except ThinkscaleError as error:
        fault = fault_of(error)
        return web.json_response(fault.body, status=fault.status)


@asynccontextmanager
async def serving(records: Records, database: Database) -> AsyncIterator[Callable[[str], Any]]:
    app = web.Application(middlewares=[errors])
    app.add_routes(admin_routes(records, lambda: {"models": [], "version": "1"}, KeyStore(database)))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:

        async def get(path: str) -> tuple[int, Any]:
            async with client.get(path) as response:
                return response.status, await response.json()

        try:
            yield get
        finally:
            await runner.cleanup()


async def test_the_admin_api_tells_what_is_kept(database: Database) -> None:
    async with Records(database, clock=lambda: NOON) as records, serving(records, database) as get:
        _key, secret = await KeyStore(database).add("app", models=("small",), limits=KeyLimits(requests_per_minute=5))
        for number in range(3):
            records.add(record(number))
        await records.feedback("trace2", correct=True, key="app")
        status, listed = await get(f"/admin/api/requests?limit=2&before={NOON + 2.5}")
        assert status == 200
        assert [row["trace_id"] for row in listed["requests"]] == ["trace2", "trace1"]
        assert listed["requests"][0]["feedback"] == {"correct": True, "score": None}
        assert set(listed["requests"][0]) == LISTED
        status, one = await get("/admin/api/requests/trace1")
        assert (status, one["budget"], len(one["events"])) == (200, {"max_calls": 8}, 1)
        assert one["usage_by_purpose"] == {"generate": GENERATED, "verify": VERIFIED}
        status, sums = await get("/admin/api/spend?days=1")
        assert (status, sums["by_day"][0]["day"], sums["by_day"][0]["tokens"]) == (200, "2025-11-25", 549)
        assert await get("/admin/api/setup") == (200, {"models": [], "version": "1"})
        status, keys = await get("/admin/api/keys")
        assert (status, keys["keys"][0]["name"], keys["keys"][0]["limits"]["requests_per_minute"]) == (200, "app", 5)
        assert secret not in str(keys)
        assert set(keys["keys"][0]) == {"name", "admin", "models", "policies", "limits", "created_at", "revoked_at"}


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("requests?limit=0", 400, "limit"),
        ("requests?limit=1001", 400, "limit"),
        ("requests?limit=ten", 400, "limit"),
        ("requests?limit=%C2%B2", 400, "limit"),
        ("requests?before=yesterday", 400, "before"),
        ("requests?before=nan", 400, "before"),
        ("spend?days=99999999999999999999", 400, "days"),
        ("spend?days=-1", 400, "days"),
        ("requests/nothing%00here", 404, "trace_id"),
    ],
)
async def test_wrong_queries_are_refused_in_the_clients_terms(
    database: Database, path: str, status: int, param: str
) -> None:
    async with Records(database) as records, serving(records, database) as get:
        got, body = await get(f"/admin/api/{path}")
        assert (got, body["error"]["param"], body["error"]["type"]) == (status, param, "invalid_request_error")
