"""Wall times taken against a stub server, with what the server saw meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import orjson
from peers import StallError

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One measurement of one system; `walls` are seconds per repetition of `requests` at once, none where it stalled.

    The counts are the server's, over all repetitions and the warm-up.
    """

    section: str
    system: str
    n: int
    requests: int
    walls: list[float]
    calls_per_request: float | None
    upstream_requests: int
    connections: int

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.walls) if self.walls else None

    @property
    def requests_per_s(self) -> float | None:
        return None if self.seconds is None else self.requests / self.seconds


class Stub:
    """A stub server in a process of its own."""

    def __init__(self, base_url: str, http: aiohttp.ClientSession) -> None:
        self.base_url = base_url
        self._http = http

    async def row(
        self, section: str, system: str, n: int, requests: int, measured: Awaitable[list[float]], *, warm_up: int
    ) -> Row:
        """Await the wall times, and count what arrives here meanwhile, less the calls of the warm-up."""
        walls, seen = await self.watch(_unless_stalled(measured))
        per_request = (seen["calls"] - warm_up) / (requests * len(walls)) if walls else None
        row = Row(section, system, n, requests, walls, per_request, seen["requests"], seen["connections"])
        shown = "stalled" if row.seconds is None else f"{row.seconds:.3f} s"
        print(f"  ({section}) {system}, n={n}, {requests} at once: {shown}", file=sys.stderr)
        return row

    async def watch(self, measured: Awaitable[T]) -> tuple[T, dict[str, int]]:
        """What was measured, and what the server counted meanwhile."""
        before = await self._counters()
        found = await measured
        after = await self._counters()
        return found, {name: after[name] - before[name] for name in after}

    async def _counters(self) -> dict[str, int]:
        async with self._http.get(f"{self.base_url.removesuffix('/v1')}/counters") as response:
            counters: dict[str, int] = orjson.loads(await response.read())
            return counters


async def _unless_stalled(measured: Awaitable[list[float]]) -> list[float]:
    try:
        return await measured
    except StallError as stalled:
        print(f"  {stalled}", file=sys.stderr)
        return []


@asynccontextmanager
async def stub(latency_s: float, n: str, *options: str) -> AsyncIterator[Stub]:
    """A stub server that honours, ignores or refuses `n`, for as long as the block lasts.

    `options` are further ones of its program.
    """
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "thinkscale.testing.stub_server", "--latency", str(latency_s), "--n", n, *options),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        base_url = (await program.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession() as http:
            yield Stub(base_url, http)
    finally:
        program.terminate()
        await program.wait()
