"""A made-up gateway for the console: it serves the built page and speaks the gateway's wire, without a model.

Run as a script it serves on port 8377, to work on the console by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from made_traces import QUESTION, Event, Maker, rebase

import thinkscale.serve

BUILT = Path(thinkscale.serve.__file__).parent / "console"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
CONTENT = ("prompt", "text", "reasoning", "answer", "error", "reason")
_VOTES = ("112.5", "240", "112.5", "120", "112.5", "112.5", None, "112.5", "240", "112.5", "112.5", "112.5")
_STEPS = (
    "The first pipe gives 240/3 = 80 litres an hour, the second 240/5 = 48.",
    "Together they give 80 + 48 = 128 litres an hour.",
    "So the tank is full after 240/128 = 1.875 hours, and 1.875 · 60 minutes are",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the next question is answered with instead of an answer."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    in_stream: bool = False
    cut: bool = False


def vote(
    prompt: str = QUESTION, n: int = 12, *, priced: bool = True, budget: Mapping[str, float] | None = None
) -> list[Event]:
    """Self-consistency whose samples travel alone, each billed when it arrives; the leader changes on the way."""
    make = Maker(seed=3)
    make.begin(f"self-consistency:n={n}", prompt, **(budget or {}))
    for index in range(n):
        make.emit("call", purpose="generate", path=[index], n=1, max_tokens=512)
    heard: Counter[str] = Counter()
    leader: tuple[list[int], str] | None = None
    for index in range(n):
        make.wait(make.rng.uniform(0.02, 0.2))
        answer = _VOTES[(index + 1) % len(_VOTES)]
        text = "\n\n".join((*_STEPS, f"{answer}." if answer else "I cannot tell."))
        make.settle([index], 1, 64, 90 + 7 * index, **({} if priced else {"cost_usd": None}))
        make.candidate([index], text, answer)
        if answer is None:
            continue
        heard[answer] += 1
        best = heard.most_common(1)[0][0]
        if leader is None or leader[1] != best:
            leader = ([index], best)
        make.emit("offer", path=leader[0], answer=best, value=round(heard[best] / (index + 1), 3))
    assert leader is not None
    make.result(leader[0], leader[1], round(heard[leader[1]] / n, 3))
    return make.events


def many(nodes: int) -> list[Event]:
    """A search with about `nodes` steps, each judged: 5,000 events and more."""
    return rebase(levels=10, width=nodes // 9, seed=5, temperature=5.0)


def bare(events: Sequence[Event]) -> list[Event]:
    """A trace of a gateway that keeps no message content."""
    return [{name: value for name, value in event.items() if name not in CONTENT} for event in events]


class FakeGateway:
    """`key` is the one it asks for, if any; `pace` the seconds between two events of a stream.

    `asked` are the bodies of the questions, `abandoned` counts the streams that the client left, `told` is feedback.
    """

    def __init__(self) -> None:
        self.key: str | None = None
        self.pace = 0.002
        self.refusals: deque[Refusal] = deque()
        self.asked: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.abandoned = 0
        self.records: dict[str, dict[str, Any]] = {}
        self.next_events: list[Event] | None = None
        self.url = ""

    def keep(self, trace_id: str, events: Sequence[Event], **fields: Any) -> None:
        """Put a finished request among the records."""
        bills: dict[str, dict[str, Any]] = {}
        for event in events:
            if event["event"] != "settle":
                continue
            bill = bills.setdefault(
                event["purpose"], {"prompt_tokens": 0, "output_tokens": 0, "calls": 0, "cost_usd": 0.0}
            )
            for name in ("prompt_tokens", "output_tokens", "calls"):
                bill[name] += event[name]
            known = bill["cost_usd"] is not None and event["cost_usd"] is not None
            bill["cost_usd"] = bill["cost_usd"] + event["cost_usd"] if known else None
        costs = [bill["cost_usd"] for bill in bills.values()]
        plan: Event = next((event for event in events if event["event"] == "plan"), {})
        result: Event = next((event for event in events if event["event"] == "result"), {})
        self.records[trace_id] = {
            "trace_id": trace_id, "at": time.time(), "key": "", "model": "smollm2", "policy": "careful",
            "strategy": plan.get("strategy", "single"), "status": 200, "stop_reason": result.get("stop_reason"),
            "confidence": result.get("confidence"),
            "prompt_tokens": sum(one["prompt_tokens"] for one in bills.values()),
            "output_tokens": sum(one["output_tokens"] for one in bills.values()),
            "calls": sum(one["calls"] for one in bills.values()),
            "samples": sum(event["event"] == "candidate" for event in events),
            "cost_usd": None if None in costs else sum(costs),
            "seconds": events[-1]["t"] if events else 0.2, "queue_s": 0.0, "feedback": None,
            "budget": plan.get("budget", {}), "usage_by_purpose": bills, "events": list(events) or None, **fields,
        }  # fmt: skip

    # -- routes ----------------------------------------------------------------------------------------------------

    @property
    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/console/", self._page)
        app.router.add_static("/console/", BUILT)
        app.router.add_get("/admin/api/requests", self._requests)
        app.router.add_get("/admin/api/requests/{trace_id}", self._request)
        app.router.add_get("/admin/api/spend", self._spend)
        app.router.add_get("/admin/api/setup", self._setup)
        app.router.add_get("/admin/api/keys", self._keys)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/feedback", self._feedback)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith("/console/"):
            response = await handler(request)
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            return response
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is not None and given == "client-key" and request.path.startswith("/admin/"):
            return _error(403, "the key client may not use the admin routes")
        if self.key is not None and given not in (self.key, "client-key"):
            return _error(401, "no such key" if given else "a key is needed: Authorization: Bearer KEY")
        return await handler(request)

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(BUILT / "index.html")

    async def _requests(self, request: web.Request) -> web.Response:
        before = float(request.query.get("before", "inf"))
        newest = sorted(self.records.values(), key=lambda record: -record["at"])
        rows = [record for record in newest if record["at"] < before][: int(request.query["limit"])]
        left_out = ("events", "budget", "usage_by_purpose")
        return _json({"requests": [{name: row[name] for name in row if name not in left_out} for row in rows]})

    async def _request(self, request: web.Request) -> web.Response:
        record = self.records.get(request.match_info["trace_id"])
        return _error(404, "no such request") if record is None else _json(record)

    async def _spend(self, request: web.Request) -> web.Response:
        days = int(request.query["days"])
        today = datetime.now(UTC).date()
        by_day = []
        for ago in range(days):
            if ago % 7 == 5:
                continue
            tokens = 40_000 + 9_000 * ((ago * 37) % 11) - 300 * ago
            cost = None if ago == 3 else tokens * 3.1e-7
            day = (today - timedelta(days=ago)).isoformat()
            by_day.append({"day": day, "tokens": tokens, "cost_usd": cost, "requests": tokens // 900})
        return _json(
            {
                "by_day": by_day,
                "by_key": [
                    {"name": "checkout", "tokens": 1_402_113, "cost_usd": 0.4391, "requests": 1511},
                    {"name": "tutor", "tokens": 612_408, "cost_usd": 0.1911, "requests": 702},
                    {"name": "", "tokens": 18_020, "cost_usd": None, "requests": 44},
                ],
                "by_model": [
                    {"name": "qwen3-4b", "tokens": 1_990_200, "cost_usd": 0.6302, "requests": 2101},
                    {"name": "smollm2", "tokens": 42_341, "cost_usd": None, "requests": 156},
                ],
                "by_purpose": [
                    {"name": "generate", "tokens": 1_744_902, "cost_usd": 0.5521, "calls": 19_220},
                    {"name": "verify", "tokens": 287_639, "cost_usd": 0.0781, "calls": 15_101},
                ],
            }
        )

    async def _setup(self, _: web.Request) -> web.Response:
        return _json(
            {
                "models": [
                    {"name": "smollm2", "policy": "careful", "policies": ["quick", "careful", "deep"], "price": None},
                    {"name": "qwen3-4b", "policy": "quick", "policies": ["quick", "deep"], "price": "0.15/0.6"},
                ],
                "policies": [
                    {"name": "quick", "strategy": "single", "budget": "tokens=2000", "verifier": None, "kind": "auto"},
                    {
                        "name": "careful", "strategy": "self-consistency:n=12", "budget": "tokens=4000,seconds=20",
                        "verifier": None, "kind": "auto",
                    },
                    {
                        "name": "deep", "strategy": "rebase:width=16", "budget": "tokens=40000,usd=0.05",
                        "verifier": "arithmetic+step-judge", "kind": "number",
                    },
                ],
                "strategies": [
                    {"name": "single", "options": ""},
                    {"name": "self-consistency", "options": "n=16, weighted=false"},
                    {"name": "best-of-n", "options": "n=16, batches=16"},
                    {"name": "rebase", "options": "step=auto, depth=40, width=16, temperature=0.1"},
                ],
                "efforts": {"low": "calls=4", "medium": "calls=12,seconds=30", "high": "calls=48,seconds=120"},
                "log_content": True,
                "version": "0.1.0",
            }
        )  # fmt: skip

    async def _keys(self, _: web.Request) -> web.Response:
        none = dict.fromkeys(
            ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "tokens_per_month", "usd_per_day",
             "usd_per_month")
        )  # fmt: skip
        now = time.time()
        some = {**none, "requests_per_minute": 60, "usd_per_day": 2.5}
        return _json(
            {
                "keys": [
                    {"name": "ops", "admin": True, "models": None, "policies": None, "limits": none,
                     "created_at": now - 9e5, "revoked_at": None},
                    {"name": "tutor", "admin": False, "models": ["smollm2"], "policies": ["quick", "careful"],
                     "limits": some, "created_at": now - 4e5, "revoked_at": None},
                    {"name": "trial", "admin": False, "models": None, "policies": None, "limits": some,
                     "created_at": now - 8e5, "revoked_at": now - 1e5},
                ]
            }
        )  # fmt: skip

    async def _models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [{"id": "smollm2", "object": "model"}]})

    async def _feedback(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.told.append(body)
        if body["trace_id"] in self.records:
            self.records[body["trace_id"]]["feedback"] = {"correct": body.get("correct"), "score": body.get("score")}
        return _json({"trace_id": body["trace_id"]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        refusal = self.refusals.popleft() if self.refusals else None
        if refusal and not (refusal.in_stream or refusal.cut):
            return _error(refusal.status, refusal.message, refusal.headers)
        question = body["messages"][-1]["content"]
        strategy = body["inference"].get("strategy", "")
        events = self.next_events or (
            rebase() if strategy.startswith("rebase") else vote(question, budget=_limits(body))
        )
        self.next_events = None
        trace_id = f"{len(self.asked):032x}"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-thinkscale-trace-id": trace_id})
        await response.prepare(request)
        try:
            if refusal:
                await self._break_off(response, events[:12], refusal)
                return response
            await self._stream(response, events, trace_id)
        except (asyncio.CancelledError, ConnectionResetError):
            self.abandoned += 1
            raise
        self.keep(trace_id, events)
        return response

    async def _break_off(self, response: web.StreamResponse, events: Sequence[Event], refusal: Refusal) -> None:
        for event in events:
            await _send(response, _chunk(event=event))
        if refusal.in_stream:
            error = {"message": refusal.message, "type": "server_error", "param": None, "code": "upstream_error"}
            await _send(response, {"error": error})

    async def _stream(self, response: web.StreamResponse, events: Sequence[Event], trace_id: str) -> None:
        await response.write(b": keep-alive\n\n")
        for event in events:
            await _send(response, _chunk(event=event))
            if event["event"] == "offer":
                await _send(response, _chunk(delta={"reasoning_content": f"leading: {event['answer']}\n"}))
            if self.pace:
                await asyncio.sleep(self.pace)
        result = events[-1]
        chosen = next(e for e in reversed(events) if e["event"] == "candidate" and e["path"] == result["path"])
        await _send(response, _chunk(delta={"content": chosen["text"]}))
        self.keep(trace_id, events)
        record = self.records[trace_id]
        known = ("strategy", "policy", "stop_reason", "confidence", "samples", "calls", "cost_usd", "seconds")
        summary = {name: record[name] for name in (*known, "usage_by_purpose", "trace_id")}
        await _send(response, _chunk(finish_reason="stop", thinkscale=summary))
        usage = {"prompt_tokens": record["prompt_tokens"], "completion_tokens": record["output_tokens"]}
        await _send(response, {"object": "chat.completion.chunk", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[FakeGateway]:
        runner = web.AppRunner(self.app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def _limits(body: dict[str, Any]) -> dict[str, float]:
    names = {"tokens": "max_total_tokens", "usd": "max_cost_usd", "seconds": "deadline_s", "calls": "max_calls"}
    return {names[name]: limit for name, limit in body["inference"].get("budget", {}).items()}


def _chunk(
    delta: dict[str, Any] | None = None,
    finish_reason: str | None = None,
    event: Event | None = None,
    thinkscale: dict[str, Any] | None = None,
) -> dict[str, Any]:
    chunk: dict[str, Any] = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}],
    }
    if event is not None or thinkscale is not None:
        chunk["thinkscale"] = thinkscale if event is None else {"event": event}
    return chunk


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _json({"error": error}, status, headers)


def fill(gateway: FakeGateway) -> None:
    """A day of requests, of all kinds."""
    now = time.time()
    for place in range(40):
        events = (vote(seed_question(place), priced=place % 3 > 0), rebase(seed=place), [])[(0, 0, 1, 2)[place % 4]]
        changes: dict[str, Any] = {"at": now - 61 * place - 7, "key": ("checkout", "tutor", "")[place % 3]}
        if not events:
            changes |= {"status": (429, 402, 502)[place % 3], "policy": "", "stop_reason": None}
        elif place % 5 == 0:
            changes |= {"stop_reason": "budget", "feedback": {"correct": place % 2 == 0, "score": None}}
        gateway.keep(f"{place:04x}{'ab12' * 7}", events, **changes)
    gateway.keep("c" * 32, bare(rebase(seed=2)), at=now - 9, key="tutor")
    gateway.keep("d" * 32, many(900), at=now - 8, key="checkout")


def seed_question(place: int) -> str:
    return f"{QUESTION} (asked {place + 1} times)"


async def _serve() -> None:
    gateway = FakeGateway()
    gateway.pace = 0.12
    fill(gateway)
    async with gateway.running(8377):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
