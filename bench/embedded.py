"""Does the Session keep up with the engine? 16 parallel samples through it against plain HTTP calls to the same server.

    python bench/embedded.py [--rounds 6] [--tokens 96] [--out FILE]

Each round draws 16 samples of a fresh prompt in three ways, in turn: through Engine and Session, as one plain request
with n=16, and as 16 plain requests. Every sample runs to its token cap (`ignore_eos`), so all three produce the same
number of tokens and the ratio of seconds is the ratio of throughputs. Target: the Session reaches at least 0.95 of the
better plain way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from statistics import median

import aiohttp

from thinkscale.engine import Engine
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.opening import Local, open_model
from thinkscale.types import AnswerKind, Params, Prompt, Request

SAMPLES = 16


async def through_session(engine: Engine, question: str, tokens: int) -> float:
    request = Request(
        Prompt.of(question), AnswerKind.TEXT, Params(max_tokens=tokens, extra={"ignore_eos": True}), seed=1
    )
    began = time.perf_counter()
    result = await engine.solve(request, strategy=f"self-consistency:n={SAMPLES}")
    seconds = time.perf_counter() - began
    assert result.usage.output_tokens == SAMPLES * tokens, result.usage
    return seconds


async def plainly(
    http: aiohttp.ClientSession, model: OpenAIModel, question: str, tokens: int, *, together: bool
) -> float:
    body = {
        "model": model.name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0.8,
        "ignore_eos": True,
    }

    async def call(extra: dict[str, int]) -> None:
        async with http.post(f"{model.base_url}/chat/completions", json=body | extra) as response:
            reply = await response.json()
            assert len(reply["choices"]) == extra.get("n", 1), reply

    began = time.perf_counter()
    if together:
        await call({"n": SAMPLES})
    else:
        await asyncio.gather(*(call({"seed": seed}) for seed in range(SAMPLES)))
    return time.perf_counter() - began


async def measure(rounds: int, tokens: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"session": [], "plain, n=16": [], "plain, 16 requests": []}
    async with open_model("smollm2", local=Local(parallel=SAMPLES)) as model, Engine(model) as engine:
        assert isinstance(model, OpenAIModel)
        async with aiohttp.ClientSession() as http:
            await through_session(engine, "Warm up.", 8)
            for number in range(rounds):
                question = f"Tell story number {number} about a fox, a river and a lighthouse."
                seconds["session"].append(await through_session(engine, f"{question} A.", tokens))
                seconds["plain, n=16"].append(await plainly(http, model, f"{question} B.", tokens, together=True))
                seconds["plain, 16 requests"].append(
                    await plainly(http, model, f"{question} C.", tokens, together=False)
                )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds = asyncio.run(measure(options.rounds, options.tokens))
    produced = SAMPLES * options.tokens
    for way, times in seconds.items():
        print(f"{way:<20} {produced / median(times):7.1f} tokens/s  (seconds: median {median(times):.2f}, all {times})")
    ratios = {
        way: median(plain / ours for plain, ours in zip(seconds[way], seconds["session"], strict=True))
        for way in list(seconds)[1:]
    }
    for way, ratio in ratios.items():
        print(f"session / {way}: {ratio:.3f} of its throughput (median of paired rounds)")
    verdict = "met" if min(ratios.values()) >= 0.95 else "missed"
    print(f"target (at least 0.95 of the better plain way): {verdict}")
    if options.out:
        options.out.write_text(json.dumps({"seconds": seconds, "ratios": ratios, "tokens": produced}, indent=1))


if __name__ == "__main__":
    main()
