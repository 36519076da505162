"""How fast many samples come: thinkscale beside its_hub and optillm, against one stub server with a known latency.

    python bench/fanout.py [--no-peers] [--out fanout.json]

The stub is a process of its own and says how many upstream calls each system really made; every comparison is at equal
calls. thinkscale and its_hub are measured as libraries, each in its own process; its_hub as it comes, with at most 32
calls in flight, and without that limit. optillm is measured as a library and, in (b), also as it is served; its
gateway always draws 5 samples, so everybody draws 5 there. "Bare aiohttp calls" are as many calls with nothing around
them. Read ratios: absolute figures belong to the machine.
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
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from counted import Row, Stub, stub
from peers import VERSIONS, drive, environment, optillm_gateway
from rich.console import Console
from rich.table import Table
from targets import target, targets_table

from thinkscale.engine import Engine
from thinkscale.models.openai import OpenAIModel
from thinkscale.types import AnswerKind, Params, Prompt, Request

LATENCY_S = 0.2
STALL_S = 60.0
SERVED_N = 5
CLIENTS = 128
ITS_HUB = (("its_hub", None), ("its_hub, no limit", -1))
ASK = Request(Prompt.of("What is 3 plus 4?"), AnswerKind.NUMBER, Params(max_tokens=64))
BODY = {"model": "stub", "messages": [dict(message) for message in ASK.prompt.messages], "max_tokens": 64}
TITLES = {
    "a": "(a) one request for n samples",
    "b": f"(b) {CLIENTS} requests at once, self-consistency of {SERVED_N} each",
    "c": "(c) 128 samples, cold, by address and by name",
}


async def ours(base_url: str, n: int, *, requests: int = 1, repetitions: int = 7, warm: bool = True) -> list[float]:
    """Wall seconds of `requests` self-consistency requests at once; warm: after one small request."""
    walls = []
    async with Engine(OpenAIModel(base_url)) as engine:
        if warm:
            await engine.solve(ASK, strategy="self-consistency:n=2")
        for _ in range(repetitions):
            began = time.perf_counter()
            solving = (engine.solve(ASK, strategy=f"self-consistency:n={n}") for _ in range(requests))
            results = await asyncio.gather(*solving)
            walls.append(time.perf_counter() - began)
            assert all((result.samples, result.answer) == (n, "7") for result in results)
    return walls


async def bare(base_url: str, n: int, *, requests: int = 1, repetitions: int = 7) -> list[float]:
    """Wall seconds of as many calls with nothing but the HTTP client: the floor on this machine for n = 1 calls."""
    walls = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        for turn in range(-1, repetitions):  # the first opens the connections
            began = time.perf_counter()
            await asyncio.gather(*(bare_call(http, base_url) for _ in range(n * requests)))
            if turn >= 0:
                walls.append(time.perf_counter() - began)
    return walls


async def optillm_served(gateway: str, *, requests: int, repetitions: int) -> list[float]:
    """Wall seconds of `requests` requests at once to optillm's gateway, after one to warm up."""
    body = {**BODY, "model": "self_consistency-stub"}
    walls = []
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=2 * STALL_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def once() -> None:
            async with http.post(f"{gateway}/chat/completions", json=body) as response:
                assert response.status == 200, await response.text()
                await response.read()

        await once()
        for _ in range(repetitions):
            began = time.perf_counter()
            await asyncio.gather(*(once() for _ in range(requests)))
            walls.append(time.perf_counter() - began)
    return walls


async def bare_call(http: aiohttp.ClientSession, base_url: str, *, stream: bool = False) -> float:
    """Seconds of one call with nothing but the HTTP client: a whole response, parsed, or a stream, only read."""
    body = orjson.dumps({**BODY, "stream": True, "stream_options": {"include_usage": True}} if stream else BODY)
    url, headers = f"{base_url}/chat/completions", {"Content-Type": "application/json"}
    began = time.perf_counter()
    async with http.post(url, data=body, headers=headers) as response:
        content = await response.read()
        if not stream:
            orjson.loads(content)
    return time.perf_counter() - began


async def one_call(base_url: str, calls: int = 21) -> float:
    """Median seconds of one bare call: what many samples at once are held against."""
    async with aiohttp.ClientSession() as http:
        return statistics.median([await bare_call(http, base_url) for _ in range(calls)])


async def samples(n: int, honouring: Stub, ignoring: Stub, python: Path | None) -> list[Row]:
    """(a) The wall time of one request for n samples."""
    rows = [
        await honouring.row("a", "thinkscale, server honours n", n, 1, ours(honouring.base_url, n), warm_up=2),
        await ignoring.row("a", "thinkscale, server ignores n", n, 1, ours(ignoring.base_url, n), warm_up=2),
        await ignoring.row("a", "bare aiohttp calls", n, 1, bare(ignoring.base_url, n), warm_up=n),
    ]
    if python is None:
        return rows
    ask: dict[str, Any] = {"base_url": honouring.base_url, "n": n, "requests": 1, "timeout_s": STALL_S}
    for system, limit in ITS_HUB:
        walls = drive(python, "its_hub", limit=limit, warm=True, repetitions=7, **ask)
        rows.append(await honouring.row("a", system, n, 1, walls, warm_up=1))
    walls = drive(python, "optillm", repetitions=1, **ask)
    return [*rows, await honouring.row("a", "optillm, library", n, 1, walls, warm_up=1)]


async def throughput(honouring: Stub, ignoring: Stub, python: Path | None) -> list[Row]:
    """(b) Many requests at once, from clients that all start together."""
    n, requests = SERVED_N, CLIENTS
    rows = []
    for server, verb in ((honouring, "honours"), (ignoring, "ignores")):
        walls = ours(server.base_url, n, requests=requests, repetitions=5)
        rows.append(await server.row("b", f"thinkscale, server {verb} n", n, requests, walls, warm_up=2))
    walls = bare(ignoring.base_url, n, requests=requests, repetitions=5)
    rows.append(await ignoring.row("b", "bare aiohttp calls", n, requests, walls, warm_up=n * requests))
    if python is None:
        return rows
    ask: dict[str, Any] = {"base_url": honouring.base_url, "n": n, "requests": requests, "repetitions": 3}
    for system, limit in ITS_HUB:
        walls = drive(python, "its_hub", limit=limit, warm=True, timeout_s=2 * STALL_S, **ask)
        rows.append(await honouring.row("b", system, n, requests, walls, warm_up=1))
    walls = drive(python, "optillm", timeout_s=2 * STALL_S, **ask)
    rows.append(await honouring.row("b", "optillm, library in threads", n, requests, walls, warm_up=1))
    async with optillm_gateway(python, honouring.base_url) as gateway:
        walls = optillm_served(gateway.base_url, requests=requests, repetitions=3)
        rows.append(await honouring.row("b", "optillm, as served", n, requests, walls, warm_up=n))
    return rows


async def hostname(ignoring: Stub, python: Path | None) -> list[Row]:
    """(c) Whether looking up a name holds things up, from a cold start."""
    n = 128
    rows = []
    for host in ("127.0.0.1", "localhost"):
        base_url = ignoring.base_url.replace("127.0.0.1", host)
        walls = ours(base_url, n, repetitions=1, warm=False)
        # Cold, one more request is spent on finding out that this server ignores n.
        rows.append(await ignoring.row("c", f"thinkscale, {host}", n, 1, walls, warm_up=0))
        if python is None:
            continue
        for system, limit in ITS_HUB:
            ask = {"base_url": base_url, "n": n, "requests": 1, "warm": False, "repetitions": 1, "limit": limit}
            walls = drive(python, "its_hub", timeout_s=STALL_S, **ask)
            rows.append(await ignoring.row("c", f"{system}, {host}", n, 1, walls, warm_up=0))
    return rows


async def added_latency(base_url: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of a bare call (whole, and streamed) and of one engine request, taken in turns."""
    spent: dict[str, list[float]] = {"bare": [], "bare_streamed": [], "engine": []}
    async with Engine(OpenAIModel(base_url)) as engine, aiohttp.ClientSession() as http:
        for turn in range(-10, rounds):  # the first ten open connections and load modules
            bare, streamed = await bare_call(http, base_url), await bare_call(http, base_url, stream=True)
            began = time.perf_counter()
            await engine.solve(ASK, strategy="single")
            took = time.perf_counter() - began
            if turn >= 0:
                for name, seconds in zip(spent, (bare, streamed, took), strict=True):
                    spent[name].append(seconds)
    medians = {f"{name}_ms": 1000 * statistics.median(times) for name, times in spent.items()}
    return {**medians, "added_ms": medians["engine_ms"] - medians["bare_ms"], "rounds": rounds}


async def measure(python: Path | None) -> dict[str, Any]:
    rows: list[Row] = []
    async with (
        stub(LATENCY_S, "honour") as honouring,
        stub(LATENCY_S, "ignore") as ignoring,
        stub(0, "honour") as instant,
    ):
        call_s = await one_call(honouring.base_url)
        added = {
            "0 ms": await added_latency(instant.base_url, 500),
            "200 ms": await added_latency(honouring.base_url, 60),
        }
        for n in (16, 64, 128):
            rows += await samples(n, honouring, ignoring, python)
        rows += await throughput(honouring, ignoring, python)
        rows += await hostname(ignoring, python)
    return {"one_call_s": call_s, "rows": rows, "added_latency": added, "targets": targets(call_s, rows, added)}


def targets(call_s: float, rows: list[Row], added: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What was aimed at, and what came of it; `met` is `None` where a peer was not measured."""

    def seconds(section: str, system: str, n: int) -> float | None:
        found = [row.seconds for row in rows if (row.section, row.system, row.n) == (section, system, n)]
        return found[0] if found else None

    def ratio(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one / other

    verdicts = []
    for verb in ("honours", "ignores"):
        system = f"thinkscale, server {verb} n"
        verdicts.append(
            target(f"64 samples / one call, server {verb} n", 1.15, ratio(seconds("a", system, 64), call_s))
        )
        mine = seconds("b", system, SERVED_N)
        for peer, times in (("its_hub", 3), ("optillm, as served", 10)):
            faster = ratio(seconds("b", peer, SERVED_N), mine)
            verdicts.append(target(f"throughput / {peer}, server {verb} n", times, faster, at_least=True))
    by_name, by_address = (seconds("c", f"thinkscale, {host}", 128) for host in ("localhost", "127.0.0.1"))
    verdicts.append(target("128 samples by name / by address", 1.5, ratio(by_name, by_address)))
    verdicts += [target(f"added p50 in ms, server at {at}", 2.0, figures["added_ms"]) for at, figures in added.items()]
    return verdicts


def show(report: dict[str, Any]) -> None:
    console = Console(width=max(120, Console().width))
    call_s: float = report["one_call_s"]
    console.print(f"one bare call: {1000 * call_s:.1f} ms")
    for section, title in TITLES.items():
        table = Table(title=title)
        for column in ("system", "n", "wall s", "/ one call", "requests/s", "calls/request", "conns"):
            table.add_column(column, no_wrap=True)
        for row in report["rows"]:
            if row.section == section:
                figures = (
                    ("stalled", "", "")
                    if row.seconds is None
                    else (f"{row.seconds:.3f}", f"{row.seconds / call_s:.2f}", f"{row.requests_per_s:.1f}")
                )
                calls = "" if row.calls_per_request is None else f"{row.calls_per_request:g}"
                table.add_row(row.system, str(row.n), *figures, calls, str(row.connections))
        console.print(table)
    table = Table("server", "bare", "bare, streamed", "engine", "added", title="(d) one request, p50 in ms")
    for at, figures in report["added_latency"].items():
        table.add_row(at, *(f"{figures[f'{name}_ms']:.2f}" for name in ("bare", "bare_streamed", "engine", "added")))
    console.print(table)
    console.print(targets_table(report["targets"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure the peers too")
    parser.add_argument("--out", type=Path, help="write every figure here as JSON")
    cache = Path(tempfile.gettempdir()) / "thinkscale-bench-peers"
    parser.add_argument("--peers-env", type=Path, default=cache, help="where the peers' environment is kept")
    arguments = parser.parse_args()
    python = environment(arguments.peers_env) if arguments.peers else None
    report = asyncio.run(measure(python))
    show(report)
    if arguments.out:
        about = {
            "command": "python bench/fanout.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "python": platform.python_version(),
            "versions": {"aiohttp": version("aiohttp"), **(VERSIONS if python else {})},
            "latency_s": LATENCY_S,
        }
        rows = [asdict(row) | {"seconds": row.seconds, "requests_per_s": row.requests_per_s} for row in report["rows"]]
        arguments.out.write_text(json.dumps({**about, **report, "rows": rows}, indent=1))
    if any(one["met"] is False for one in report["targets"]):
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
