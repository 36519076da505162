"""A light source of requests, in a process of its own: `python load.py JSON` prints one line of JSON.

HTTP/1.1 by hand over kept connections, so that the clients cost a small part of what any server here does. A target is
`{"name", "url", "body"}`: `body` is text in which NUMBER stands for a number that no two requests share. Clients send a
key that nobody gave out, as OpenAI clients do where none is needed. Every reply is checked to be a 200 with the stub's
answer in it; the first that is not ends the measurement.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

ANSWER = b"boxed{7}"
CONTENT = b"think"
"""The stub's first word: where it is seen first, the first token has arrived."""

_ENDED = b"0\r\n\r\n"
_DRAIN_S = 120.0


@dataclass(frozen=True)
class Reply:
    """`seconds` to its end, and to the first token."""

    seconds: float
    first_s: float


class Connection(asyncio.Protocol):
    """One connection, which carries one request after another and is opened again where the server closes it."""

    def __init__(self, target: Mapping[str, str], numbers: itertools.count[int]) -> None:
        address = urlsplit(target["url"])
        assert address.hostname is not None
        assert address.port is not None
        self._host, self._port = address.hostname, address.port
        before, _, after = target["body"].partition("NUMBER")
        self._before, self._after = before.encode(), after.encode()
        self._head = (
            f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer bench\r\nContent-Length: "
        ).encode()
        self._numbers = numbers
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._headers_end = -1
        self._length: int | None = None
        self._chunked = self._closes = False
        self._first: float | None = None
        self._over: asyncio.Future[None] | None = None

    async def ask(self) -> Reply:
        """Raises `RuntimeError` where the reply is not as it should be."""
        loop = asyncio.get_running_loop()
        body = b"%s%d%s" % (self._before, next(self._numbers), self._after)
        began = time.perf_counter()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        self._received.clear()
        self._headers_end, self._length, self._first = -1, None, None
        self._chunked = self._closes = False
        self._over = loop.create_future()
        self._transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        await self._over
        ended = time.perf_counter()
        if self._closes:
            self.close()
        received = self._received
        if b" 200 " not in received[:16] or ANSWER not in received or self._first is None:
            raise RuntimeError(f"not the answer: {bytes(received[:1000])!r}")
        return Reply(ended - began, self._first - began)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not one by inheritance

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if self._headers_end < 0 and not self._read_headers():
            return
        if self._first is None and received.find(CONTENT, self._headers_end) >= 0:
            self._first = time.perf_counter()
        if self._chunked:
            self._end(received.endswith(_ENDED))
        elif self._length is not None:
            self._end(len(received) - self._headers_end >= self._length)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(True)  # a reply without a length ends here; another one is seen to be incomplete by its reader

    def _read_headers(self) -> bool:
        at = self._received.find(b"\r\n\r\n")
        if at < 0:
            return False
        self._headers_end = at + 4
        for line in bytes(self._received[:at]).lower().split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                self._chunked = b"chunked" in value
            elif name == b"connection":
                self._closes = b"close" in value
        return True

    def _end(self, over: bool) -> None:
        if over and self._over is not None and not self._over.done():
            self._over.set_result(None)


async def turns(targets: Sequence[Mapping[str, str]], rounds: int) -> dict[str, Any]:
    """One client that asks every target once per round, each round beginning with another one.

    Gives, per target, the seconds of each request and those to its first token; ten rounds before do not count.
    """
    numbers = _numbers()
    connections = {target["name"]: Connection(target, numbers) for target in targets}
    names = list(connections)
    replies: dict[str, list[Reply]] = {name: [] for name in names}
    for turn in range(-10, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            reply = await connections[name].ask()
            if turn >= 0:
                replies[name].append(reply)
    for connection in connections.values():
        connection.close()
    return {
        name: {"seconds": [one.seconds for one in ones], "first": [one.first_s for one in ones]}
        for name, ones in replies.items()
    }


async def rate(target: Mapping[str, str], clients: int, seconds: float, most_s: float) -> dict[str, float]:
    """`clients` that each ask again as soon as they are answered.

    It lasts `seconds`, longer where three replies per client take longer, but at most `most_s`; then what is under way
    is waited for. The rate is that between the first reply per client and the last one in time, so that neither the
    start nor the end counts. `requests` are all that were made.
    """
    numbers, ends, asking = _numbers(), list[float](), True
    connections = [Connection(target, numbers) for _ in range(clients)]

    async def client(connection: Connection) -> None:
        while asking:
            await connection.ask()
            ends.append(time.perf_counter())

    began = time.perf_counter()
    working = [asyncio.create_task(client(connection)) for connection in connections]
    while True:
        spent = time.perf_counter() - began
        if spent >= most_s or (spent >= seconds and len(ends) >= 3 * clients):
            break
        done, _ = await asyncio.wait(working, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    asking, in_time = False, list(ends)
    await asyncio.wait_for(asyncio.gather(*working), _DRAIN_S)
    for connection in connections:
        connection.close()
    if len(in_time) > clients:
        per_s = (len(in_time) - clients) / (in_time[-1] - in_time[clients - 1])
    else:
        per_s = len(in_time) / most_s
    return {"requests": len(ends), "requests_per_s": per_s}


async def count(target: Mapping[str, str], clients: int, requests: int, within_s: float) -> dict[str, float]:
    """So many requests by so many clients; fewer where `within_s` is over before."""
    numbers, done, left = _numbers(), 0, iter(range(requests))
    began = time.perf_counter()

    async def client(connection: Connection) -> None:
        nonlocal done
        while time.perf_counter() - began < within_s and next(left, None) is not None:
            await connection.ask()
            done += 1
        connection.close()

    await asyncio.gather(*(client(Connection(target, numbers)) for _ in range(clients)))
    return {"requests": done, "seconds": time.perf_counter() - began}


def _numbers() -> itertools.count[int]:
    """From another start in each process: no server meets a question twice."""
    return itertools.count(int.from_bytes(os.urandom(5)))


async def measured(measurement: str, **ask: Any) -> dict[str, Any]:
    """What one of the measurements above gives, run in a process of its own. Raises `RuntimeError` with its words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__)), json.dumps({"measurement": measurement, **ask})),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{measurement} failed:\n{complaints.decode()[-3000:]}")
    found: dict[str, Any] = json.loads(printed)
    return found


def main() -> None:
    import uvloop

    ask = json.loads(sys.argv[1])
    measurements: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {"turns": turns, "rate": rate, "count": count}
    measurement = measurements[ask.pop("measurement")]
    print(json.dumps(uvloop.run(measurement(**ask))))


if __name__ == "__main__":
    main()
