"""Runs one measurement of a peer inside the peers' own environment: `python peer_driver.py PEER JSON`.

Prints one line of JSON: `{"walls": [seconds, ...]}`, one wall time per repetition. For fanout.py a repetition is
`requests` requests at once, after one small request to warm up. For search.py it is one search, the first one cold, and
`cpus` are the seconds that this process computed in each. Started by them, once per measurement.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any
from zlib import crc32

QUESTION = "What is 3 plus 4?"
BLANK_LINE = "\n\n"
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


async def its_hub_search(ask: dict[str, Any]) -> dict[str, list[float]]:
    """its_hub's BeamSearch, which keeps `width / expand` of `width` branches, or its ParticleFiltering of `width`.

    Their client has no limit of its own; what holds it back is its HTTP library's 100 connections. Raises where a reply
    does not have all `steps` steps.
    """
    lms = import_module("its_hub.core.lms.openai_lm")
    generation = import_module("its_hub.core.lms.step_generation")
    steps = generation.StepGeneration(ask["steps"], step_token=BLANK_LINE, stop_token="\\boxed")
    if ask["method"] == "beam":
        beam = import_module("its_hub.core.algorithms.beam_search")
        search = beam.BeamSearch(steps, TextScore(), beam_width=ask["width"] // ask["expand"])
    else:
        search = import_module("its_hub.core.algorithms.particle_gibbs").ParticleFiltering(steps, TextScore())
    walls, cpus = [], []
    async with lms.OpenAICompatibleLanguageModel(ask["base_url"], KEY, "stub") as lm:
        for question in ask["questions"]:
            began, computed = time.perf_counter(), time.process_time()
            result = await search.ainfer(lm, question, budget=ask["width"], return_response_only=False)
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - computed)
            used = result.steps_used if ask["method"] == "beam" else result.steps_used_lst
            seen = {*used, len(result.the_one["content"].split(BLANK_LINE))}
            if seen != {ask["steps"]}:
                raise RuntimeError(f"replies of {sorted(seen)} steps, not of {ask['steps']}")
    return {"walls": walls, "cpus": cpus}


class TextScore:
    """As much of its_hub's process reward model as its searches call."""

    async def ascore(self, prompt: str, replies: list[str]) -> list[float]:
        return [score(reply) for reply in replies]


def score(reply: str) -> float:
    """What both searches are guided by: a number in [0, 1) that depends on nothing but the text."""
    return crc32(reply.encode()) / 2**32


def main() -> None:
    peer, ask = sys.argv[1], json.loads(sys.argv[2])
    if peer == "its_hub_search":
        found = asyncio.run(its_hub_search(ask))
    else:
        found = {"walls": asyncio.run(its_hub(ask)) if peer == "its_hub" else optillm(ask)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
