"""Runs one measurement of a peer inside the peers' own environment: `python peer_driver.py PEER JSON`.

Prints one line of JSON: `{"walls": [seconds, ...]}`, one wall time per repetition of `requests` requests at once, after
one small request to warm up. Started by fanout.py, once per measurement.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

QUESTION = "What is 3 plus 4?"
KEY = "bench"  # not one that looks like a hosted key: its_hub and optillm treat those differently


async def its_hub(ask: dict[str, Any]) -> list[float]:
    """its_hub's SelfConsistency over its OpenAI client; `limit` is the orchestrator's, `None` its default of 32."""
    lms = import_module("its_hub.core.lms.openai_lm")
    algorithms = import_module("its_hub.core.algorithms.self_consistency")
    orchestrators = import_module("its_hub.core.orchestrator")
    limit = {} if ask["limit"] is None else {"max_concurrency": ask["limit"]}
    algorithm = algorithms.SelfConsistency(orchestrator=orchestrators.LMOrchestrator(**limit))
    walls = []
    async with lms.OpenAICompatibleLanguageModel(ask["base_url"], KEY, "stub", max_tokens=64, temperature=0.8) as lm:
        if ask["warm"]:
            await algorithm.ainfer(lm, QUESTION, budget=1)
        for _ in range(ask["repetitions"]):
            began = time.perf_counter()
            await asyncio.gather(*(algorithm.ainfer(lm, QUESTION, budget=ask["n"]) for _ in range(ask["requests"])))
            walls.append(time.perf_counter() - began)
    return walls


def optillm(ask: dict[str, Any]) -> list[float]:
    """optillm's self-consistency class as a library, all requests sharing one OpenAI client, each in its thread.

    Its gateway always draws 5 samples; only the class takes another number.
    """
    kind = import_module("optillm.self_consistency").AdvancedSelfConsistency
    client = import_module("openai").OpenAI(base_url=ask["base_url"], api_key=KEY)

    def solve(n: int) -> None:
        kind(client, "stub", num_samples=n, request_config={"max_tokens": 64}).evaluate("", QUESTION)

    walls = []
    solve(1)
    with ThreadPoolExecutor(ask["requests"]) as threads:
        for _ in range(ask["repetitions"]):
            began = time.perf_counter()
            list(threads.map(solve, [ask["n"]] * ask["requests"]))
            walls.append(time.perf_counter() - began)
    return walls


def main() -> None:
    peer, ask = sys.argv[1], json.loads(sys.argv[2])
    walls = asyncio.run(its_hub(ask)) if peer == "its_hub" else optillm(ask)
    print(json.dumps({"walls": walls}))


if __name__ == "__main__":
    main()
