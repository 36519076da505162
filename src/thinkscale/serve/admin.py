"""The admin API: what happened, what it cost, how things are set up. All of it only reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web

from thinkscale.serve.bodies import BadRequest
from thinkscale.serve.faults import Fault
from thinkscale.store.keys import Key, KeyStore
from thinkscale.store.records import Records

_MOST_REQUESTS = 1000
_MOST_DAYS = 3660


def admin_routes(records: Records, setup: Callable[[], dict[str, Any]], keys: KeyStore) -> list[web.RouteDef]:
    """GET /admin/api/requests[/TRACE_ID], spend, setup and keys. Whoever adds them checks the admin key before.

    `setup` tells how the gateway is set up, as it should be shown. Wrong query values raise `BadRequest`.
    """

    async def requests(request: web.Request) -> web.Response:
        limit = _whole(request, "limit", default=50, most=_MOST_REQUESTS)
        return _reply({"requests": await records.recent(limit, _moment(request, "before"))})

    async def one(request: web.Request) -> web.Response:
        found = await records.one(request.match_info["trace_id"])
        if found is None:
            unknown = "no request of that trace id is kept: it never was, or it is older than those that are"
            return _reply(Fault(404, unknown, "invalid_request_error", "not_found", "trace_id").body, status=404)
        return _reply(found)

    async def spend(request: web.Request) -> web.Response:
        return _reply(await records.spend(_whole(request, "days", default=30, most=_MOST_DAYS)))

    async def set_up(_request: web.Request) -> web.Response:
        return _reply(setup())

    async def list_keys(_request: web.Request) -> web.Response:
        return _reply({"keys": [_shown(key) for key in await keys.list()]})

    return [
        web.get("/admin/api/requests", requests),
        web.get("/admin/api/requests/{trace_id}", one),
        web.get("/admin/api/spend", spend),
        web.get("/admin/api/setup", set_up),
        web.get("/admin/api/keys", list_keys),
    ]


def _shown(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "admin": key.admin,
        "models": key.models,
        "policies": key.policies,
        "limits": asdict(key.limits),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }


def _reply(content: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(content),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _whole(request: web.Request, name: str, *, default: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadRequest(f"{name} must be a whole number from 1 to {most}", param=name)
    return int(text)


def _moment(request: web.Request, name: str) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        moment = float(text)
    except ValueError:
        moment = math.nan
    if not math.isfinite(moment):
        raise BadRequest(f"{name} must be a time in unix seconds, such as 1764000000.5", param=name)
    return moment
