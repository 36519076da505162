"""The routes of the gateway."""

from __future__ import annotations

import importlib.resources
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from sqlalchemy.exc import SQLAlchemyError

from thinkscale.errors import ThinkscaleError
from thinkscale.serve import bodies, chat, completions, responses
from thinkscale.serve.access import Access
from thinkscale.serve.admin import admin_routes
from thinkscale.serve.config import ServerConfig
from thinkscale.serve.deployment import described
from thinkscale.serve.faults import INTERNAL, STORE_AWAY, Fault, UnknownModel, fault_of, told
from thinkscale.serve.gateway import Ask, Gateway
from thinkscale.serve.logs import request_id, trace_id
from thinkscale.serve.metrics import CONTENT_TYPE
from thinkscale.serve.openapi import document
from thinkscale.serve.stream import Wire, stream
from thinkscale.store.keys import KeyStore
from thinkscale.types import Result

_LOG = logging.getLogger("thinkscale.serve")
_ACCESS = logging.getLogger("thinkscale.access")
_Body = TypeVar("_Body", bodies.ChatBody, bodies.CompletionBody, bodies.ResponsesBody)
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PAGE = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Routes:
    """Every route, over what they share."""

    def __init__(self, gateway: Gateway, keys: KeyStore, access: Access, server: ServerConfig) -> None:
        self._gateway = gateway
        self._keys = keys
        self._access = access
        self._server = server

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._answering], client_max_size=int(self._server.max_body_mb * 2**20))
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.post("/v1/responses", self.responses),
                web.get("/v1/models", self.models),
                web.get("/v1/models/{name:.+}", self.model),
                web.post("/v1/feedback", self.feedback),
                web.get("/healthz", self.healthy),
                web.get("/readyz", self.ready),
                web.get("/metrics", self.metrics),
                web.get("/openapi.json", self.openapi),
                web.get("/", self.to_console),
                web.get("/console", self.to_console),
                web.get("/console/{file:[a-zA-Z0-9_.-]*}", self.console),
                *admin_routes(self._gateway.records, self._setup, self._keys),
            ]
        )
        return app

    def _setup(self) -> dict[str, Any]:
        return {**described(self._gateway.deployment), "auto": self._gateway.learning.versions()}

    # -- answers -----------------------------------------------------------------------------------------------

    async def chat(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, chat.read, chat.ChatWire, chat.completion)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, completions.read, completions.CompletionWire, completions.completion)

    async def responses(self, http: web.Request) -> web.StreamResponse:
        return await self._answer(http, responses.read, responses.ResponsesWire, responses.response)

    async def _answer(
        self,
        http: web.Request,
        read: Callable[..., Awaitable[tuple[Ask, _Body]]],
        wire: Callable[[Ask, _Body], Wire],
        whole: Callable[[Ask, _Body, Result], Mapping[str, Any]],
    ) -> web.StreamResponse:
        """A request in one API's words: `read` from its body, answered by its `wire` as a stream or as a `whole`."""
        key = await self._access.caller(http)
        raw = bodies.load_json(await http.read())
        ask, body = await read(raw, self._gateway.deployment, key, id=uuid.uuid4().hex)
        trace_id.set(ask.id)
        if self._gateway.spans is not None:
            ask = replace(ask, carrier={name.lower(): value for name, value in http.headers.items()})
        if body.stream:
            return await self._stream(http, ask, body, wire(ask, body))
        result = await self._gateway.answer(ask)
        return _json(whole(ask, body, result), headers=_result_headers(ask, result))

    async def _stream(self, http: web.Request, ask: Ask, body: _Body, wire: Wire) -> web.StreamResponse:
        trace = body.inference is not None and body.inference.trace
        headers = {**_ask_headers(ask), "x-request-id": request_id.get() or ask.id}
        return await stream(
            http, self._gateway, ask, wire, headers=headers, trace=trace, keep_alive_s=self._server.keep_alive_s
        )

    # -- what there is -----------------------------------------------------------------------------------------

    async def models(self, http: web.Request) -> web.Response:
        key = await self._access.caller(http)
        deployment = self._gateway.deployment
        entries = []
        for served in deployment.served.values():
            if deployment.may_use(key, served):
                policies = deployment.policies_of(served, key)
                entries += [_model(name) for name in (served.name, *served.config.aliases)]
                entries += [_model(f"{served.name}:{policy}") for policy in policies]
        return _json({"object": "list", "data": entries})

    async def model(self, http: web.Request) -> web.Response:
        key = await self._access.caller(http)
        name = http.match_info["name"]
        served, policy = self._gateway.deployment.find(name, key)
        if policy is not None and policy not in self._gateway.deployment.policies_of(served, key):
            raise UnknownModel(f"{served.name} has no policy {policy[:100]!r}")
        return _json(_model(name))

    async def feedback(self, http: web.Request) -> web.Response:
        key = await self._access.caller(http)
        body = bodies.parse(bodies.FeedbackBody, bodies.load_json(await http.read()))
        if body.correct is None and body.score is None:
            raise bodies.BadRequest("feedback says whether the answer was `correct`, or gives it a `score` from 0 to 1")
        decision = await self._gateway.records.feedback(
            body.trace_id, correct=body.correct, score=body.score, key=key.name if key else ""
        )
        if decision is None:
            return _refused(
                Fault(404, "no request of that trace id is known", "invalid_request_error", "not_found", "trace_id")
            )
        self._gateway.metrics.feedback(decision.model, decision.policy, body.correct)
        return _json({"trace_id": body.trace_id, "recorded": True})

    # -- how it goes -------------------------------------------------------------------------------------------

    async def healthy(self, _http: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def ready(self, _http: web.Request) -> web.Response:
        closed = self._gateway.admission.closed
        return _json({"status": "draining" if closed else "ready"}, status=503 if closed else 200)

    async def metrics(self, http: web.Request) -> web.Response:
        return web.Response(body=self._gateway.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _http: web.Request) -> web.Response:
        return _json(document())

    # -- the console -------------------------------------------------------------------------------------------

    async def to_console(self, _http: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/console/"})

    async def console(self, http: web.Request) -> web.StreamResponse:
        """The built page; it holds no secret, and everything that it shows it asks for with the user's key."""
        file = _console() / (http.match_info["file"] or "index.html")
        if not file.is_file():
            return _refused(_no_route(http))
        return web.FileResponse(file, headers=_PAGE)

    @web.middleware
    async def _answering(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error becomes a response in one shape; every response carries the request's id."""
        given = request.headers.get("x-request-id", "")
        id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(id)
        trace_id.set(None)  # a connection's requests share a task, and so its context
        try:
            if request.path.startswith("/admin/") or request.path == "/metrics":
                await self._access.admin(request)
            response = await handler(request)
        except ThinkscaleError as error:
            fault = fault_of(error)
            if fault.status >= 500:
                _LOG.warning("%s %s: %s", request.method, request.path, told(error), extra={"error": str(error)})
            response = _refused(fault)
        except web.HTTPRequestEntityTooLarge as error:
            response = _refused(
                Fault(413, f"the body is too large: {error.text}", "invalid_request_error", "body_too_large")
            )
        except web.RequestPayloadError:
            response = _refused(
                Fault(400, "the body is not what its Content-Encoding says", "invalid_request_error", "invalid_body")
            )
            response.force_close()  # where the next request begins cannot be told
        except web.HTTPException as error:
            if error.status < 400:
                raise
            fault = (
                _no_route(request)
                if error.status == 404
                else Fault(error.status, error.reason, "invalid_request_error")
            )
            response = _refused(fault, error.headers.get("Allow"))
        except (SQLAlchemyError, OSError) as error:
            _LOG.error("%s %s: the database cannot be used: %s", request.method, request.path, type(error).__name__)
            response = _refused(STORE_AWAY)
        except Exception:  # noqa: BLE001 - the last place where a fault of ours can be told
            _LOG.exception("%s %s failed", request.method, request.path)
            response = _refused(INTERNAL)
        if not response.prepared:
            response.headers["x-request-id"] = id
        if response.status >= 400 and trace_id.get() is None:  # what became a run has its own record
            self._gateway.metrics.refused(response.status)
            _ACCESS.info("%d %s %s", response.status, request.method, request.path)
        return response


def _console() -> Path:
    return Path(str(importlib.resources.files("thinkscale.serve"))) / "console"


def _no_route(http: web.Request) -> Fault:
    return Fault(404, f"there is no {http.method} {http.path[:200]} here", "invalid_request_error", "not_found")


def _refused(fault: Fault, allow: str | None = None) -> web.Response:
    headers = {**fault.headers} | ({"Allow": allow} if allow else {})
    return web.Response(body=fault.content, status=fault.status, content_type="application/json", headers=headers)


def _json(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json", headers=headers)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "thinkscale"}


def _ask_headers(ask: Ask) -> dict[str, str]:
    return {
        "x-thinkscale-trace-id": ask.id,
        "x-thinkscale-policy": ask.route.policy,
        "x-thinkscale-strategy": ask.route.strategy,
    }


def _result_headers(ask: Ask, result: Result) -> dict[str, str]:
    known = {
        "stop-reason": result.stop_reason,
        "samples": str(result.samples),
        "seconds": f"{result.seconds:.4f}",
        "confidence": None if result.confidence is None else f"{result.confidence:.4f}",
        "cost-usd": None if result.usage.cost_usd is None else f"{result.usage.cost_usd:.8f}",
    }
    return _ask_headers(ask) | {f"x-thinkscale-{name}": value for name, value in known.items() if value is not None}
