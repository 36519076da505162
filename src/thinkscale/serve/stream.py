"""Server-sent events of one run: tokens or progress as they come, the answer, the bill, and signs of life between."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import orjson
from aiohttp import web

from thinkscale.errors import ThinkscaleError
from thinkscale.serve.faults import INTERNAL, Fault, fault_of, told
from thinkscale.serve.gateway import Ask, Gateway
from thinkscale.serve.narrate import Narrator
from thinkscale.serve.upstream import Upstream
from thinkscale.trace import Event
from thinkscale.types import Chunk, Result

_LOG = logging.getLogger("thinkscale.serve")
_PROGRESS_EVERY_S = 0.2
_PATIENT_S = 1.0  # that a trace waits for something from upstream: until then a failure has its proper status
_KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Wire(Protocol):
    """How one API writes a run into its stream; each method gives whole server-sent events."""

    def begin(self) -> Iterator[bytes]:
        """What opens the stream."""
        ...

    def progress(self, text: str) -> Iterator[bytes]:
        """Words on how it goes."""
        ...

    def event(self, event: Event) -> Iterator[bytes]:
        """One event of the run's trace."""
        ...

    def piece(self, sample: int, chunk: Chunk) -> Iterator[bytes]:
        """A piece of a sample that passes through as it comes."""
        ...

    def answer(self, result: Result) -> Iterator[bytes]:
        """The answer, where it did not pass through."""
        ...

    def end(self, result: Result) -> Iterator[bytes]:
        """The bill, and the end of the stream."""
        ...

    def fail(self, fault: Fault) -> Iterator[bytes]:
        """An error after the stream had begun, and its end."""
        ...


def sse(content: Mapping[str, Any], event: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + orjson.dumps(content) + b"\n\n"


async def stream(
    http: web.Request,
    gateway: Gateway,
    ask: Ask,
    wire: Wire,
    *,
    headers: Mapping[str, str],
    trace: bool,
    keep_alive_s: float,
) -> web.StreamResponse:
    """Run a request and stream it. The response begins with the first thing to say, so that what fails before is a
    plain error with its status; raises it. A client that goes away cancels the run, and every call upstream.
    """
    inbox: asyncio.Queue[Event | tuple[int, Chunk] | None] = asyncio.Queue()
    passing = ask.passes_through
    upstream = Upstream((lambda sample, chunk: inbox.put_nowait((sample, chunk))) if passing else None)
    listeners = () if passing and not trace else (inbox.put_nowait,)
    run = asyncio.create_task(gateway.answer(ask, listeners=listeners, upstream=upstream))
    run.add_done_callback(lambda _run: inbox.put_nowait(None))
    out = _Out(http, wire, headers)
    telling = _Telling(asyncio.get_running_loop().time)
    traced: list[Event] = []
    began = telling.clock()
    try:
        over = False
        while not over:
            wait_s = out.written_at + keep_alive_s - telling.clock()
            tell_s = math.inf if passing else telling.wait_s(out.begun)
            trace_s = began + _PATIENT_S - telling.clock() if traced else math.inf
            news = await _next(inbox, min(wait_s, tell_s, trace_s))
            for item in news:
                if item is None:
                    over = True
                elif isinstance(item, tuple):
                    out.say(wire.piece(*item))
                else:
                    if trace:
                        traced.append(_for_clients(item))
                    telling.hear(item)
            if traced and (out.begun or telling.came or telling.clock() - began >= _PATIENT_S):
                for event in traced:
                    out.say(wire.event(event))
                traced.clear()
            if not over and not passing and telling.wait_s(out.begun) <= 0:
                out.say(wire.progress(telling.tell()))
            if not over and not out.unsent and telling.clock() - out.written_at >= keep_alive_s:
                out.say([_KEEP_ALIVE])
            await out.send()
        result = run.result()
        if not passing:
            out.say(wire.answer(result))
        out.say(wire.end(result))
        await out.send()
    except ThinkscaleError as error:
        if not out.sent:
            raise
        _LOG.warning("request %s failed in mid-stream: %s", ask.id, told(error), extra={"error": str(error)})
        await out.end(wire.fail(fault_of(error)))
    except ConnectionError:
        pass  # the client is gone
    except Exception:
        if not out.sent:
            raise
        _LOG.exception("request %s failed in the middle of its stream", ask.id)
        await out.end(wire.fail(INTERNAL))
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
    return await out.end(())


def _for_clients(event: Event) -> Event:
    """An event without what may name a backend's address: the words of what failed."""
    if event["event"] == "failed":
        return {**event, "error": "the backend failed"}
    if event["event"] == "verdict" and event["score"] is None:
        return {**event, "reason": "could not judge"}
    return event


class _Telling:
    """Progress, told now and then. Nothing is told before something came from upstream: until then the run may fail
    with a proper status.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._narrator = Narrator()
        self._untold: list[Event] = []
        self.came = False
        self._told_at = -_PROGRESS_EVERY_S

    def hear(self, event: Event) -> None:
        self._untold.append(event)
        self.came = self.came or event["event"] in ("candidate", "step")

    def wait_s(self, begun: bool) -> float:
        """How long until there is something to tell; forever where nothing is."""
        if not self._untold or not (begun or self.came):
            return math.inf
        return max(0.0, self._told_at + _PROGRESS_EVERY_S - self.clock())

    def tell(self) -> str:
        untold, self._untold, self._told_at = self._untold, [], self.clock()
        return self._narrator.tell(untold)


async def _next(inbox: asyncio.Queue[Any], wait_s: float) -> list[Any]:
    """All that is there, waiting for the first of it; nothing where the time runs out."""
    if inbox.empty():
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                items = [await inbox.get()]
        except TimeoutError:
            return []
    else:
        items = []
    while not inbox.empty():
        items.append(inbox.get_nowait())
    return items


class _Out:
    """The response. It begins, with what opens the stream, once there is something to say."""

    def __init__(self, http: web.Request, wire: Wire, headers: Mapping[str, str]) -> None:
        self._http = http
        self._wire = wire
        self._response = web.StreamResponse(headers={**_HEADERS, **headers})
        self._clock = asyncio.get_running_loop().time
        self.begun = False
        self.unsent: list[bytes] = []
        self.written_at = self._clock()

    @property
    def sent(self) -> bool:
        """Whether the client has the status already."""
        return self._response.prepared

    def say(self, parts: Iterable[bytes]) -> None:
        if not self.begun:
            self.begun = True
            self.unsent.extend(self._wire.begin())
        self.unsent.extend(parts)

    async def send(self) -> None:
        if self.unsent:
            content, self.unsent = b"".join(self.unsent), []
            if not self._response.prepared:
                await self._response.prepare(self._http)
            await self._response.write(content)
            self.written_at = self._clock()

    async def end(self, parts: Iterable[bytes]) -> web.StreamResponse:
        """Say the last words and close, where the client is still there to hear it."""
        if self.sent:
            self.unsent.extend(parts)
            with suppress(ConnectionError):
                await self.send()
                await self._response.write_eof()
        return self._response
