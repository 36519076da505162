"""Step search beside its_hub: wall time, calls, requests, connections and prompt tokens, on a stub server.

    python bench/search.py [--no-peers] [--out search.json]

Every reply has 8 steps of 20 tokens; the stub takes 30 ms to a step's first token and 1 ms to each later one, so that
no search can be faster than the floor: 8 levels one after the other. It is a process of its own and counts by itself,
and like a real server it need not compute again the beginning of a prompt that it has read or written before. Both
systems are guided by the same score, a function of the text alone, and every search is checked to have reached its 8
steps.

Equal work: `width` branches at every level, of which beam search keeps a quarter and grows each four ways. One
inequality remains: its_hub's beam search begins with 4 branches and takes some levels to be as wide as it was asked to
be, so that it samples fewer steps (the column `calls`). its_hub asks for one step per request whatever the server can
do, and does not stream, and so is measured against one kind of server only. Times are medians over warm searches: the
first one of a process opens connections, and there thinkscale finds out whether the server honours `n`. `requests` are
for completions: thinkscale sends one more per question, to count its tokens. its_hub searches without a limit on its
calls in flight; what holds it back is its HTTP library's 100 connections. The client's CPU time tells more than the
wall where other things run on the machine. Read ratios: absolute figures belong to the machine.
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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from counted import Stub, stub
from peer_driver import score
from peers import VERSIONS, environment, report
from rich.console import Console
from rich.table import Table

from thinkscale.engine import Engine
from thinkscale.models.openai import OpenAIModel
from thinkscale.testing.step_tree import BLANK_LINE, branches
from thinkscale.types import AnswerKind, Candidate, Params, Prompt, Request, Verdict
from thinkscale.verifiers.base import Generate

WIDTHS = (4, 8, 16, 32)
EXPAND = 4
STEPS = 8
TOKENS = 20
LATENCY_S, TOKEN_S = 0.03, 0.001
FLOOR_S = STEPS * (LATENCY_S + (TOKENS - 1) * TOKEN_S)
ROUNDS = (1, 4, 4)  # searches in one process; the systems take turns, so that all see the machine as it is
STALL_S = 60.0
STUB = ("--token-time", str(TOKEN_S), "--steps", str(STEPS), "--tokens", str(TOKENS), "--owned-by", "vllm")
STRATEGIES = {
    "beam": "beam:width={width},expand={expand},step=blank-line",
    "particle-filter": "particle-filter:n={width},step=blank-line",
    "rebase": "rebase:width={width},step=blank-line",
}
TITLES = {
    "beam": f"beam search, a quarter kept and grown {EXPAND} ways",
    "particle-filter": "particle filter",
    "rebase": "REBASE (its_hub has none)",
}

Searches = Callable[[Sequence[str]], Awaitable[dict[str, list[float]]]]
"""Answers these questions one after the other, each with one search, from a cold start. Gives per search the wall
seconds (`walls`) and those that the client's process computed (`cpus`)."""


@dataclass(frozen=True)
class System:
    """Who searches, what becomes of the `n` that it sends, and whether it streams."""

    name: str
    n: Literal["honoured", "ignored", "not sent"]
    stream: bool

    def __str__(self) -> str:
        return f"{self.name}, n {self.n}, {'streamed' if self.stream else 'whole'}"


ITS_HUB = System("its_hub", "not sent", False)
OURS = (
    System("thinkscale", "honoured", True),
    System("thinkscale", "honoured", False),
    System("thinkscale", "ignored", True),
    System("thinkscale", "ignored", False),
)


@dataclass(frozen=True)
class Row:
    """One system's searches with one method at one width.

    `walls` and `cpus` are of the warm searches, `first_walls` of the first search of each process. The counts are the
    server's, per search of all; `first_connections` are those of one process with a single search. `evaluated_tokens`
    are the prompt tokens that no earlier text began with.
    """

    method: str
    width: int
    system: System
    walls: list[float]
    cpus: list[float]
    first_walls: list[float]
    calls: float
    requests: float
    first_connections: int
    connections: float
    prompt_tokens: float
    evaluated_tokens: float

    @property
    def seconds(self) -> float:
        return statistics.median(self.walls)

    @property
    def cpu_s(self) -> float:
        return statistics.median(self.cpus)


class TextScore:
    """The verifier: the score of the reply so far."""

    name = "text-score"

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        return [Verdict(score(candidate.text)) for candidate in candidates]


def ours(base_url: str, method: str, width: int, *, stream: bool) -> Searches:
    strategy = STRATEGIES[method].format(width=width, expand=EXPAND)

    async def search(questions: Sequence[str]) -> dict[str, list[float]]:
        walls, cpus = [], []
        async with Engine(OpenAIModel(base_url, stream=stream), verifier=TextScore()) as engine:
            for seed, question in enumerate(questions):
                request = Request(Prompt.of(question), AnswerKind.NUMBER, Params(max_tokens=1024), seed=seed)
                began, computed = time.perf_counter(), time.process_time()
                result = await engine.solve(request, strategy=strategy)
                walls.append(time.perf_counter() - began)
                cpus.append(time.process_time() - computed)
                steps = len(result.text.split(BLANK_LINE))
                assert (steps, result.stop_reason) == (STEPS, "complete"), f"{steps} steps, {result.stop_reason}"
                assert result.answer == str(sum(branches(result.text))), f"{result.answer!r} of {result.text!r}"
        return {"walls": walls, "cpus": cpus}

    return search


def its_hub(python: Path, base_url: str, method: str, width: int) -> Searches:
    ask = {"base_url": base_url, "method": method, "width": width, "expand": EXPAND, "steps": STEPS}

    async def search(questions: Sequence[str]) -> dict[str, list[float]]:
        return await report(python, "its_hub_search", timeout_s=STALL_S, questions=questions, **ask)

    return search


async def compare(method: str, width: int, systems: Mapping[System, tuple[Stub, Searches]]) -> list[Row]:
    """Every system's searches, in rounds, each round in a new process (ours: a new engine)."""
    took: dict[System, list[dict[str, list[float]]]] = {system: [] for system in systems}
    counts: dict[System, list[dict[str, int]]] = {system: [] for system in systems}
    for turn, n in enumerate(ROUNDS):
        for system, (server, search) in systems.items():
            name = f"{method}-{width}-{system}-{turn}".replace(" ", "-")
            times, seen = await server.watch(search(questions(name, n)))
            took[system].append(times)
            counts[system].append(seen)
    rows = [_row(method, width, system, took[system], counts[system]) for system in systems]
    for one in rows:
        print(f"  {method}, width {width}: {one.system}: {one.seconds:.3f} s", file=sys.stderr)
    return rows


def _row(
    method: str,
    width: int,
    system: System,
    took: Sequence[Mapping[str, list[float]]],
    counts: Sequence[Mapping[str, int]],
) -> Row:
    per_search = {name: sum(seen[name] for seen in counts) / sum(ROUNDS) for name in counts[0]}
    return Row(
        method=method,
        width=width,
        system=system,
        walls=[wall for times in took for wall in times["walls"][1:]],
        cpus=[cpu for times in took for cpu in times["cpus"][1:]],
        first_walls=[times["walls"][0] for times in took],
        calls=per_search["calls"],
        requests=per_search["requests"],
        first_connections=counts[0]["connections"],
        connections=per_search["connections"],
        prompt_tokens=per_search["prompt_tokens"],
        evaluated_tokens=per_search["prompt_tokens"] - per_search["cached_tokens"],
    )


def questions(name: str, n: int) -> list[str]:
    """Questions of 64 tokens that no cache knows the beginning of."""
    return [f"{name}-{turn} " + " ".join(["Which path through the tree is best?"] * 9) for turn in range(n)]


async def measure(python: Path | None) -> dict[str, Any]:
    rows: list[Row] = []
    async with (
        stub(LATENCY_S, "honour", *STUB, "--prefix-cache") as honouring,
        stub(LATENCY_S, "ignore", *STUB, "--prefix-cache") as ignoring,
    ):
        servers = {"honoured": honouring, "ignored": ignoring}
        for method in STRATEGIES:
            for width in WIDTHS:
                systems = {}
                for system in OURS:
                    server = servers[system.n]
                    systems[system] = (server, ours(server.base_url, method, width, stream=system.stream))
                if python is not None and method != "rebase":
                    systems[ITS_HUB] = (honouring, its_hub(python, honouring.base_url, method, width))
                rows += await compare(method, width, systems)
    return {"floor_s": FLOOR_S, "rows": rows, "targets": targets(rows)}


def targets(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What was aimed at, as ratios to its_hub at the greatest width, and what came of it, streamed as is usual."""
    aims = (("requests", 1.0), ("first_connections", 0.1), ("connections", 0.1), ("seconds", 0.5))
    found = {(one.method, one.system): one for one in rows if one.width == max(WIDTHS)}
    verdicts = []
    for (method, system), mine in found.items():
        theirs = found.get((method, ITS_HUB))
        if theirs is None or not system.stream:
            continue
        for figure, limit in aims:
            value = getattr(mine, figure) / getattr(theirs, figure)
            met = value < limit if figure == "requests" else value <= limit
            verdicts.append({"name": f"{method}, n {system.n}: {figure}", "limit": limit, "value": value, "met": met})
    return verdicts


def show(found: dict[str, Any]) -> None:
    console = Console(width=max(160, Console().width))
    console.print(f"no search of {STEPS} steps is faster than {1000 * FLOOR_S:.0f} ms here")
    theirs = {(one.method, one.width): one for one in found["rows"] if one.system == ITS_HUB}
    columns = ("width", "system", "n", "streams", "wall s", "/ its_hub", "over floor ms", "client CPU ms", "calls")
    for method, title in TITLES.items():
        table = Table(*columns, "requests", "conns, 1st", "conns", "prompt tokens", "evaluated", title=title)
        rows = [one for one in found["rows"] if one.method == method]
        for place, one in enumerate(rows, 1):
            peer = theirs.get((method, one.width))
            table.add_row(
                *(str(one.width), one.system.name, one.system.n, "yes" if one.system.stream else "no"),
                *(f"{one.seconds:.3f}", "" if peer is None else f"{one.seconds / peer.seconds:.2f}"),
                *(f"{1000 * (one.seconds - FLOOR_S):.0f}", f"{1000 * one.cpu_s:.0f}", f"{one.calls:.0f}"),
                *(f"{one.requests:.0f}", f"{one.first_connections}", f"{one.connections:.1f}"),
                *(f"{one.prompt_tokens:,.0f}", f"{one.evaluated_tokens:,.0f}"),
                end_section=place == len(rows) or rows[place].width != one.width,
            )
        console.print(table)
    table = Table("target", "at most, of its_hub's", "measured", "met", title=f"targets, at width {max(WIDTHS)}")
    for one in found["targets"]:
        table.add_row(one["name"], f"{one['limit']:g}", f"{one['value']:.3f}", "yes" if one["met"] else "no")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="measure its_hub too")
    parser.add_argument("--out", type=Path, help="write every figure here as JSON")
    cache = Path(tempfile.gettempdir()) / "thinkscale-bench-peers"
    parser.add_argument("--peers-env", type=Path, default=cache, help="where the peers' environment is kept")
    arguments = parser.parse_args()
    python = environment(arguments.peers_env) if arguments.peers else None
    found = asyncio.run(measure(python))
    show(found)
    if arguments.out:
        about = {
            "command": "python bench/search.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "python": platform.python_version(),
            "versions": {"aiohttp": version("aiohttp"), **({"its_hub": VERSIONS["its_hub"]} if python else {})},
        }
        rows = [asdict(one) | {"seconds": one.seconds, "cpu_s": one.cpu_s} for one in found["rows"]]
        arguments.out.write_text(json.dumps({**about, **found, "rows": rows}, indent=1))
    if any(not one["met"] for one in found["targets"]):
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
