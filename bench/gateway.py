"""The gateway beside optillm, its_hub's server and a bare aiohttp proxy: delay, throughput, first token, memory.

    python bench/gateway.py [--no-peers] [--out gateway.json]

Every system is a process of its own in front of the same stub server, itself a process that counts its calls; the
clients are a third one (load.py), written to be light. No two questions are alike. Everybody draws one sample per
request (thinkscale by its policy "single", optillm by "none", its_hub with a budget of 1), but in (c), where
everybody votes over 5. "Direct" is the stub without anything before it. The bare proxy (bare_proxy.py) only hands
bodies on; ratios are to it under plain asyncio, as it comes. optillm and its_hub do not stream: they send the whole
reply at once, when it is complete.

(a) One client asks every system in turn. "Added" is a percentile of the system less that of the direct call.
(b), (c) Clients that ask again as soon as they are answered, in short rounds: in every repetition each system has one,
one system at a time. "CPU" is what the system's own process computed per request, which tells more than the wall
where processes share cores.
(d) The time to the first token of a reply that is streamed, at one client, in turns as in (a).
(e) Resident memory of the process tree. Read ratios: absolute figures belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from counted import Stub, stub
from gateway_report import show
from load import measured
from peers import VERSIONS, environment, its_hub_gateway, optillm_gateway
from processes import cpu_s, resident_bytes
from served import Server, bare_proxy, thinkscale_gateway
from targets import target

LATENCY_S = 0.2
CLIENTS = (16, 64)
VOTES = 5
MOST_S = 20.0  # of a round
WARM_UP = 1000
LEVEL = 2000  # requests from which on memory must be flat
STREAM = ("--token-time", "0.01", "--tokens", "20")
STREAM_LATENCY_S = 0.1
SLOW_S = 150.0  # after so long a system need not do all the requests of (e)

BARE, OURS, ITS_HUB, OPTILLM = "bare proxy", "thinkscale", "its_hub", "optillm"
SINGLE: dict[str, dict[str, Any]] = {
    "direct": {"model": "stub"},
    BARE: {"model": "stub"},
    f"{BARE}, uvloop": {"model": "stub"},
    OURS: {"model": "stub:single"},
    ITS_HUB: {"model": "stub", "budget": 1},
    OPTILLM: {"model": "none-stub"},
}
VOTING: dict[str, dict[str, Any]] = {
    OURS: {"model": "stub", "inference": {"strategy": f"self-consistency:n={VOTES}"}},
    ITS_HUB: {"model": "stub", "budget": VOTES},
    OPTILLM: {"model": "self_consistency-stub"},
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured: requests per system at one client, seconds of a round, repetitions, requests for memory."""

    rounds: int
    seconds: float
    repetitions: int
    requests: int


@dataclass(frozen=True)
class System:
    name: str
    server: Server | None
    base_url: str

    def target(self, fields: dict[str, Any], *, streams: bool = False) -> dict[str, str]:
        question = {"role": "user", "content": "What is NUMBER plus 4?"}
        body: dict[str, Any] = {**fields, "messages": [question], "max_tokens": 64}
        if streams:
            body["stream"] = True
        return {"name": self.name, "url": f"{self.base_url}/chat/completions", "body": json.dumps(body)}


@asynccontextmanager
async def systems(upstream: str, python: Path | None) -> AsyncIterator[dict[str, System]]:
    """Everything that is compared, running in front of `upstream`."""
    async with AsyncExitStack() as stack:
        servers: dict[str, Server] = {
            BARE: await stack.enter_async_context(bare_proxy(upstream)),
            f"{BARE}, uvloop": await stack.enter_async_context(bare_proxy(upstream, "--uvloop")),
            OURS: await stack.enter_async_context(thinkscale_gateway(upstream)),
        }
        if python is not None:
            servers[ITS_HUB] = await stack.enter_async_context(its_hub_gateway(python, upstream))
            servers[OPTILLM] = await stack.enter_async_context(optillm_gateway(python, upstream))
        running = {name: System(name, server, server.base_url) for name, server in servers.items()}
        yield {"direct": System("direct", None, upstream), **running}


@dataclass(frozen=True)
class Rate:
    """One system under so many clients; a value per repetition. `cpu_ms` is per request, `None` for no process."""

    section: str
    system: str
    latency_s: float
    clients: int
    requests_per_s: list[float]
    calls_per_request: list[float]
    cpu_ms: list[float] | None

    @property
    def median(self) -> float:
        return statistics.median(self.requests_per_s)


async def throughput(
    section: str, upstream: Stub, latency_s: float, running: Sequence[tuple[System, dict[str, Any]]], sizes: Sizes
) -> list[Rate]:
    rates = []
    for clients in CLIENTS:
        found = [
            Rate(section, one.name, latency_s, clients, [], [], [] if one.server else None) for one, _fields in running
        ]
        for _ in range(sizes.repetitions):
            for (system, fields), row in zip(running, found, strict=True):
                await _round(upstream, system, fields, row, sizes.seconds)
        for row in found:
            print(f"  ({section}) {row.system}, {clients} clients: {row.median:.0f} requests/s", file=sys.stderr)
        rates += found
    return rates


async def _round(upstream: Stub, system: System, fields: dict[str, Any], row: Rate, seconds: float) -> None:
    ask = {"target": system.target(fields), "clients": row.clients, "seconds": seconds, "most_s": MOST_S}
    before = cpu_s(system.server.pid) if system.server else 0.0
    found, seen = await upstream.watch(measured("rate", **ask))
    row.requests_per_s.append(found["requests_per_s"])
    calls = seen["calls"] / found["requests"]
    if abs(calls / (VOTES if row.section == "c" else 1) - 1) > 0.01:
        raise RuntimeError(f"{system.name} made {calls:g} calls per request: this compares unequal work")
    row.calls_per_request.append(calls)
    if system.server and row.cpu_ms is not None:
        row.cpu_ms.append(1000 * (cpu_s(system.server.pid) - before) / found["requests"])


async def one_client(running: dict[str, System], rounds: int, *, streams: bool = False) -> dict[str, dict[str, float]]:
    """Milliseconds of a reply, or to a stream's first token: `p50`, `p95`, and what each is above the direct call's."""
    targets = [system.target(SINGLE[name], streams=streams) for name, system in running.items()]
    found = await measured("turns", targets=targets, rounds=rounds)
    times = {
        name: sorted(1000 * second for second in one["first" if streams else "seconds"]) for name, one in found.items()
    }
    figures = {
        name: {"p50": statistics.median(ones), "p95": ones[int(0.95 * (len(ones) - 1))]} for name, ones in times.items()
    }
    direct = figures["direct"]
    for one in figures.values():
        one |= {f"added_{name}": one[name] - direct[name] for name in ("p50", "p95")}
    if streams:
        for name, one in figures.items():
            one["whole_p50"] = statistics.median(1000 * second for second in found[name]["seconds"])
    return figures


async def memory(upstream: str, python: Path | None, requests: int) -> dict[str, dict[str, float]]:
    """Per system, from its start: MB resident before, and after so many requests by 16 clients."""
    found = {}
    async with systems(upstream, python) as running:
        for name, system in running.items():
            if system.server is None:
                continue
            points, done, began = {"0": _megabytes(system.server)}, 0, time.perf_counter()
            for until in sorted({WARM_UP, LEVEL, requests}):
                left_s = SLOW_S - (time.perf_counter() - began)
                ask = {"target": system.target(SINGLE[name]), "clients": 16, "within_s": left_s}
                done += (await measured("count", requests=until - done, **ask))["requests"]
                points[str(until if done >= until else done)] = _megabytes(system.server)
            found[name] = points
            print(f"  (e) {name}: {points}", file=sys.stderr)
    return found


def _megabytes(server: Server) -> float:
    return resident_bytes(server.pid) / 1e6


async def measure(python: Path | None, sizes: Sizes) -> dict[str, Any]:
    rates: list[Rate] = []
    delays = {}
    for latency_s in (0.0, LATENCY_S):
        async with stub(latency_s, "honour") as upstream, systems(upstream.base_url, python) as running:
            if not latency_s:
                delays["single"] = await one_client(running, sizes.rounds)
            single = [(system, SINGLE[name]) for name, system in running.items()]
            rates += await throughput("b", upstream, latency_s, single, sizes)
            voting = [(running[name], fields) for name, fields in VOTING.items() if name in running]
            rates += await throughput("c", upstream, latency_s, voting, sizes)
    async with (
        stub(STREAM_LATENCY_S, "honour", *STREAM) as upstream,
        systems(upstream.base_url, python) as running,
    ):
        delays["streamed"] = await one_client(running, max(1, sizes.rounds // 10), streams=True)
    async with stub(0, "honour") as upstream:
        resident = await memory(upstream.base_url, python, sizes.requests)
    rows = [asdict(row) | {"median": row.median} for row in rates]
    return {"delays": delays, "rates": rows, "memory_mb": resident, "targets": targets(delays, rates, resident)}


def targets(
    delays: dict[str, dict[str, dict[str, float]]], rates: Sequence[Rate], resident: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """What was aimed at, and what came of it; `met` is `None` where a peer was not measured."""

    def per_s(system: str, clients: int) -> float | None:
        keys = ((row, (row.section, row.system, row.latency_s, row.clients)) for row in rates)
        return next((row.median for row, key in keys if key == ("b", system, 0.0, clients)), None)

    verdicts = [target("added p50, ms", 2.0, delays["single"][OURS]["added_p50"])]
    for clients in CLIENTS:
        mine = per_s(OURS, clients)
        for other, times in ((BARE, 0.7), (OPTILLM, 20.0)):
            theirs = per_s(other, clients)
            ratio = None if mine is None or theirs is None else mine / theirs
            verdicts.append(
                target(f"throughput / {other}, {clients} clients, stub at 0 ms", times, ratio, at_least=True)
            )
    points = resident[OURS]
    last = max(map(int, points))
    grown = points[str(last)] - points[str(min(LEVEL, last))]
    verdicts.append(target(f"memory grown from {LEVEL} to {last} requests, MB", 5.0, grown))
    verdicts.append(target("the same in %", 5.0, 100 * grown / points[str(min(LEVEL, last))]))
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure the peers too")
    parser.add_argument("--out", type=Path, help="write every figure here as JSON")
    cache = Path(tempfile.gettempdir()) / "thinkscale-bench-peers"
    parser.add_argument("--peers-env", type=Path, default=cache, help="where the peers' environment is kept")
    parser.add_argument("--rounds", type=int, default=500, help="requests per system at one client")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round under many clients")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds per system")
    parser.add_argument("--requests", type=int, default=10_000, help="after which memory is read")
    arguments = parser.parse_args()
    python = environment(arguments.peers_env) if arguments.peers else None
    load_before = os.getloadavg()[0]
    sizes = Sizes(arguments.rounds, arguments.seconds, arguments.repetitions, arguments.requests)
    report = asyncio.run(measure(python, sizes))
    show(report)
    if arguments.out:
        about = {
            "command": "python bench/gateway.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "load_before": load_before,
            "python": platform.python_version(),
            "versions": {"aiohttp": version("aiohttp"), "uvloop": version("uvloop"), **(VERSIONS if python else {})},
            "sizes": asdict(sizes),
        }
        arguments.out.write_text(json.dumps({**about, **report}, indent=1))
    if any(one["met"] is False for one in report["targets"]):
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
