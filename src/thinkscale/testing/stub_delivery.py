"""One reply of the stub server on its way out, up to where its fault strikes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, NoReturn

from aiohttp import web

from thinkscale.testing import stub_wire as wire
from thinkscale.testing.stub_faults import Drop, ErrorEvent, Fault, Malformed, Silence, Slow

_BREAK_OFF = b'{"choices": [{"index": 0, "del'


@dataclass(slots=True)
class Counters:
    """What the server did: the truth in a test of anybody's bill.

    `requests` reached a completions route; `calls` are the choices it began; of the `prompt_tokens`, `cached_tokens`
    needed no computing; output tokens count as they are produced, whether or not anybody reads them; `cancelled`
    requests were left by their client before the end; `faults` were injected.
    """

    requests: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    connections: int = 0
    cancelled: int = 0
    faults: int = 0


@dataclass(slots=True)
class Served:
    """What became of one request to a completions route, and what it cost.

    `about` is how its prompt begins. `max_tokens` is its cap per choice, `None` where it set none. "complete": all was
    handed over to the connection; "refused": answered with another status than 200, at no cost; "broken": cut off here,
    by a fault or because the server closed; "left": by the client. Tokens count as they are produced.
    """

    number: int
    about: str = ""
    n: int = 0
    max_tokens: int | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    outcome: Literal["complete", "refused", "broken", "left"] = "broken"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Decodes a completion in time, counts its tokens as they are produced, and sends it."""

    request: web.BaseRequest
    completion: wire.Completion
    fault: Fault | None
    counters: Counters
    served: Served
    latency_s: float
    token_s: float

    async def stream(self) -> web.StreamResponse:
        """As server-sent events; the headers go out with the first token."""
        fault = self.fault
        if isinstance(fault, Drop | Silence) and fault.after_tokens is None:
            await self._vanish(fault)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with aclosing(self._steps()) as steps:
            async for first, last in steps:
                if first == 0:
                    await response.prepare(self.request)
                await response.write(self.completion.events(first, last))
        if not response.prepared:
            await response.prepare(self.request)
        match fault:
            case Drop() | Silence():
                await self._vanish(fault)
            case Malformed():
                ending = wire.event(_BREAK_OFF)
            case ErrorEvent():
                ending = wire.event(wire.error_body(fault.message, "server_error"))
            case _:
                ending = self.completion.closing()
        await response.write(ending)
        return response

    async def whole(self) -> web.StreamResponse:
        """As one JSON body; a fault after tokens cuts the body in the middle."""
        fault = self.fault
        if isinstance(fault, Drop | Silence) and fault.after_tokens is None:
            await self._vanish(fault)
        async with aclosing(self._steps()) as steps:
            async for _step in steps:
                pass
        if isinstance(fault, Malformed):
            return json_response(_BREAK_OFF)
        if isinstance(fault, ErrorEvent):
            return json_response(wire.error_body(fault.message, "server_error"))
        body = self.completion.whole()
        if isinstance(fault, Drop | Silence):
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
            )
            await response.prepare(self.request)
            await response.write(body[: len(body) // 2])
            await self._vanish(fault)
        return json_response(body)

    async def _steps(self) -> AsyncGenerator[tuple[int, int], None]:
        """Token positions [first, last) as they are produced and counted: those that are due go together."""
        clock = asyncio.get_running_loop().time
        due = clock() + self._wait_s()
        done, end = 0, self._end()
        sizes = [len(choice.pieces) for choice in self.completion.choices]
        while done < end:
            if due > clock():
                await asyncio.sleep(due - clock())
            late = int((clock() - due) / self.token_s) if self.token_s else end
            following = min(end, done + 1 + max(0, late))
            produced = sum(min(size, following) - min(size, done) for size in sizes)
            self.counters.output_tokens += produced
            self.served.output_tokens += produced
            yield done, following
            due += (following - done) * self.token_s
            done = following

    def _wait_s(self) -> float:
        if isinstance(self.fault, Slow):
            return self.fault.latency_s
        waits = [choice.reply.latency_s for choice in self.completion.choices]
        return max(self.latency_s if wait_s is None else wait_s for wait_s in waits)

    def _end(self) -> int:
        """The token position where it ends, by itself or by its fault."""
        longest = self.completion.longest
        if isinstance(self.fault, Drop | Silence | Malformed | ErrorEvent):
            return min(longest, self.fault.after_tokens or 0)
        return longest

    async def _vanish(self, fault: Drop | Silence) -> NoReturn:
        """Close the connection, or hold it and say nothing; either way wait to be cancelled by its end."""
        if isinstance(fault, Drop) and self.request.transport is not None:
            self.request.transport.abort()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nothing sets this future")


def json_response(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
