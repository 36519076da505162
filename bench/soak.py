"""The gateway at saturation while its backends fail and its clients leave: is every request answered or refused as it
should be, does the bill hold to the token, and is nothing left behind?

    python bench/soak.py [--seconds 600] [--clients 48] [--out soak.json]

Gateway and both backends (stub servers) are processes of their own; the gateway runs from a file, with two keys that
have limits and one model with two backends. The backends answer some requests with 429 (and Retry-After) or 500, cut
others off or are slow; after a third of the time the preferred one is stopped for a while. The clients mix strategies
(one sample, votes, a verifier, step searches), streams and whole replies, budgets and none; some leave while they wait
or in the middle of a stream. soak_clients.py says what they insist on, soak_bill.py how the tokens are compared.
Memory is judged in runs of two minutes or more: its median in the last quarter against that in the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from processes import cpu_s, open_files, open_sockets, resident_bytes
from served import Server, announced, gateway
from soak_bill import Books, Outage, charges, compare, journals
from soak_clients import Clients
from soak_report import MINUTE_TOKENS, Found, Level, checks, no_more_than, show

FAULTS = "429=0.02,500=0.02,drop=0.02,slow=0.02"
SHARES = {"large": 0.8, "small": 0.2}
SETTLE_S = 45.0  # longer than either side keeps an idle connection
_COMPLAINTS = ("Traceback", "never retrieved", "was destroyed", "Unclosed", "never awaited")
_CONFIG = """
[server]
database = "sqlite:///{folder}/gateway.db"
require_key = true
log_json = true

[[models]]
name = "stub"
backends = ["{first}#stub", "{second}#stub"]
price = "1/2"
policy = "single"

[[keys]]
name = "large"
env = "SOAK_LARGE"
requests_per_minute = 1000000
tokens_per_minute = 1000000000
tokens_per_day = 100000000000
usd_per_day = 1000000

[[keys]]
name = "small"
env = "SOAK_SMALL"
requests_per_minute = 1200
tokens_per_minute = {minute_tokens}
tokens_per_day = 100000000000

[[keys]]
name = "operator"
env = "SOAK_OPERATOR"
admin = true
"""


@dataclass
class Backend:
    """A stub server that can be stopped and started again at the same address, with one journal."""

    journal: Path
    faults: str
    seed: int
    server: Server | None = None
    port: int = 0

    async def start(self) -> str:
        self.server = await announced(
            *(sys.executable, "-m", "thinkscale.testing.stub_server", "--owned-by", "vllm"),
            *("--latency", "0.02", "--token-time", "0.002", "--steps", "3", "--tokens", "6"),
            *("--faults", self.faults, "--seed", str(self.seed), "--journal", str(self.journal)),
            *("--port", str(self.port)),
        )
        self.port = int(self.server.base_url.removesuffix("/v1").rpartition(":")[2])
        self.seed += 1000  # after a restart not the same faults again
        return self.server.base_url

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()

    async def in_flight(self, http: aiohttp.ClientSession) -> int:
        assert self.server is not None
        async with http.get(f"{self.server.base_url.removesuffix('/v1')}/counters") as response:
            counted: int = (await response.json())["in_flight"]
            return counted


class House:
    """The gateway under test, its backends, and the operator's eyes on it."""

    def __init__(self, server: Server, backends: Sequence[Backend], operator: str) -> None:
        self.server = server
        self.backends = backends
        self._operator = {"Authorization": f"Bearer {operator}"}

    async def level(self) -> Level:
        """Asked over a connection of its own, which is closed again: it does not count."""
        async with aiohttp.ClientSession(headers={**self._operator, "Connection": "close"}) as http:
            root = self.server.base_url.removesuffix("/v1")
            async with http.get(f"{root}/metrics") as response:
                text = await response.text()
        gauges = {
            name: int(float(value)) for name, value in re.findall(r"^thinkscale_(\w+) (\S+)$", text, re.MULTILINE)
        }
        await asyncio.sleep(0.05)  # for the gateway to see that the connection is closed
        sockets = open_sockets(self.server.pid)
        files = open_files(self.server.pid) - sockets
        return Level(gauges["in_flight"], gauges["queued"], sockets, files, resident_bytes(self.server.pid) / 1e6)

    async def spend(self) -> dict[str, int]:
        """Tokens by key, as the gateway tells them."""
        url = f"{self.server.base_url.removesuffix('/v1')}/admin/api/spend"
        async with aiohttp.ClientSession(headers=self._operator) as http, http.get(url) as response:
            rows = (await response.json())["by_key"]
        return {row["name"]: row["tokens"] for row in rows if row["tokens"]}

    async def in_flight_upstream(self) -> int:
        async with aiohttp.ClientSession() as http:
            return sum([await backend.in_flight(http) for backend in self.backends])


async def soak(folder: Path, seconds: float, clients: int, faults: str, seed: int) -> Found:
    backends = [Backend(folder / f"journal{index}.jsonl", faults, seed + index) for index in range(2)]
    keys = {name: secrets.token_urlsafe(24) for name in (*SHARES, "operator")}
    async with _house(folder, backends, keys) as house:
        before = await house.level()
        load = Clients(house.server.base_url, keys, SHARES, seed)
        (outage, megabytes), _ = await asyncio.gather(_meanwhile(house, seconds), load.run(clients, seconds))
        busy = cpu_s(house.server.pid) / seconds
        ended = time.monotonic()
        after = await _settled(house, before)
        settled_s = time.monotonic() - ended
        upstream, told = await house.in_flight_upstream(), await house.spend()
        status = await house.server.stop()
    log = folder / "gateway.log"
    return Found(
        load.outcomes,
        outage,
        megabytes,
        busy,
        before,
        after,
        settled_s,
        upstream,
        told,
        status,
        [line[:300] for line in log.read_text().splitlines() if any(word in line for word in _COMPLAINTS)],
        Books.read(folder / "gateway.db"),
        compare(load.outcomes, journals(backend.journal for backend in backends), charges(log), outage),
    )


@asynccontextmanager
async def _house(folder: Path, backends: Sequence[Backend], keys: dict[str, str]) -> AsyncIterator[House]:
    try:
        first, second = [await backend.start() for backend in backends]
        config = folder / "gateway.toml"
        config.write_text(_CONFIG.format(folder=folder, first=first, second=second, minute_tokens=MINUTE_TOKENS))
        secret = {f"SOAK_{name.upper()}": value for name, value in keys.items()}
        server = await gateway(folder, "--config", str(config), env=secret)
        try:
            yield House(server, backends, keys["operator"])
        finally:
            await server.stop()
    finally:
        for backend in backends:
            await backend.stop()


async def _meanwhile(house: House, seconds: float) -> tuple[Outage, list[float]]:
    """While the clients are at work: the outage of the preferred backend, and the gateway's memory once a second."""

    async def outage() -> Outage:
        await asyncio.sleep(seconds / 3)
        began = time.monotonic()
        await house.backends[0].stop()
        gone = time.monotonic()
        await asyncio.sleep(min(10.0, seconds / 10))
        await house.backends[0].start()
        return Outage(began, gone, time.monotonic())

    async def memory() -> list[float]:
        found = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found.append(resident_bytes(house.server.pid) / 1e6)
            await asyncio.sleep(1.0)
        return found

    return await asyncio.gather(outage(), memory())


async def _settled(house: House, before: Level) -> Level:
    """Wait until nothing moves and no more is held than before, or until that has taken too long."""
    until = time.monotonic() + SETTLE_S
    told: dict[str, int] = {}
    while True:
        level, last = await house.level(), told
        told = await house.spend()
        idle = not level.in_flight and not level.queued and told == last
        if (idle and no_more_than(before, level)) or time.monotonic() > until:
            return level
        await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=64, help="at once")
    parser.add_argument("--faults", default=FAULTS, help="of each backend, as its program takes them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(soak(Path(folder), arguments.seconds, arguments.clients, arguments.faults, arguments.seed))
    judged = checks(found, arguments.seconds)
    show(found, judged, arguments.seconds)
    if arguments.out:
        about = {
            "command": f"python bench/soak.py --seconds {arguments.seconds:g} --clients {arguments.clients}",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "faults": arguments.faults,
            "requests": len(found.outcomes),
            "gateway_cores": found.busy,
            "ended": Counter(outcome.ended for outcome in found.outcomes),
            "megabytes": found.megabytes,
            "checks": [asdict(one) for one in judged],
        }
        arguments.out.write_text(json.dumps(about, indent=1))
    if any(one.met is False for one in judged):
        sys.exit("a check failed")


if __name__ == "__main__":
    main()
