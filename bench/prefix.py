"""Is a tree's shared prefix computed once? Prompt tokens that the embedded engine evaluates in a REBASE run.

    python bench/prefix.py [--model NAME] [--width 16] [--problems 4] [--max-tokens 200] [--step line] [--out FILE]

For each chain sum, asked with its steps written out, a REBASE search of the given width runs on the embedded engine.
The prompt tokens that the engine evaluated (those it was sent, less those it says it had cached) are held against the
tokens of the tree's distinct nodes, the question counted once. Target: at most 1.3 times. A server without a prefix
cache would evaluate what was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from thinkscale.engine import Engine
from thinkscale.models.opening import Local, open_model
from thinkscale.tasks import parse_task
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Params, Prompt, Request
from thinkscale.verifiers.arithmetic import Arithmetic
from thinkscale.verifiers.steps import Stepwise

TARGET = 1.3
ASK = "Work out the sum from left to right, one addition or subtraction a line, then the answer.\n"


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    problems = parse_task("chain_sum").problems(options.problems)
    async with open_model(options.model, local=Local(parallel=options.width)) as model, Engine(model) as engine:
        for problem in problems:
            question = str(problem.prompt.messages[-1]["content"])
            request = Request(Prompt.of(ASK + question), AnswerKind.NUMBER, Params(max_tokens=options.max_tokens))
            events: list[Event] = []
            strategy = f"rebase:width={options.width},step={options.step}"
            result = await engine.solve(
                request, strategy=strategy, verifier=Stepwise(Arithmetic()), listeners=(events.append,)
            )
            steps = [event for event in events if event["event"] == "step"]
            nodes = {prefix(event, steps): event["output_tokens"] for event in steps}
            tokens = sum(nodes.values()) + await model.count_prompt_tokens(request.prompt)
            usage = result.usage
            assert usage.cached_tokens is not None, "the engine tells what it had cached"
            rows.append(
                {
                    "problem": problem.id,
                    "nodes": len(nodes),
                    "depth": max(len(event["path"]) for event in steps),
                    "sent": usage.prompt_tokens,
                    "evaluated": usage.prompt_tokens - usage.cached_tokens,
                    "distinct": tokens,
                    "ratio": (usage.prompt_tokens - usage.cached_tokens) / tokens,
                    "seconds": result.seconds,
                }
            )
            print("{problem}: {nodes} nodes, {depth} deep; sent {sent}, evaluated {evaluated}, distinct {distinct} "
                  "tokens: {ratio:.2f}".format(**rows[-1]), flush=True)  # fmt: skip
    return rows


def prefix(event: Event, steps: list[Event]) -> tuple[str, ...]:
    """The words of a node and of all above it: nodes with the same words are one."""
    words = {tuple(one["path"]): one["text"] for one in steps}
    path = tuple(event["path"])
    return tuple(words[path[:length]] for length in range(1, len(path) + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--step", default="line")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    worst = max(row["ratio"] for row in rows)
    total = sum(row["evaluated"] for row in rows) / sum(row["distinct"] for row in rows)
    sent = sum(row["sent"] for row in rows) / sum(row["distinct"] for row in rows)
    print(f"evaluated / distinct: {total:.2f} in all, {worst:.2f} at worst; sent / distinct: {sent:.2f}")
    print(f"target (at most {TARGET}): {'met' if worst <= TARGET else 'missed'}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
