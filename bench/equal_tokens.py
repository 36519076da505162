"""Searches against the vote and best-of-n at equal tokens, from one run of `thinkscale bench`.

    python bench/equal_tokens.py RUN --task gsm8k:FILE --limit 24 --pool self-consistency:n=8 [--chart FILE.svg]

The samples that the run drew for the strategy `--pool` are the baseline's: for each n the expected accuracy of a plain
vote, and of best-of-n by the arithmetic verifier, over random subsets of them. Every other strategy of the run is held
against both at the n whose cost is nearest to its own, over the same problems (paired bootstrap). Cost is what the
model computed, verifier included: output tokens, and prompt tokens that it had not cached. A question that an earlier
strategy of the run has left in the cache counts for nothing then: where answers are shorter than questions, compare at
equal output tokens (`--cost output`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from thinkscale.models.base import Model
from thinkscale.optimize import chart
from thinkscale.optimize.stats import paired_difference, wilson
from thinkscale.tasks import parse_task
from thinkscale.types import AnswerKind, Candidate, Params, Prompt, Request
from thinkscale.verifiers.answers import extract
from thinkscale.verifiers.arithmetic import Arithmetic
from thinkscale.verifiers.equivalence import equivalent
from thinkscale.verifiers.math_worker import MathWorker
from thinkscale.verifiers.steps import Stepwise

SUBSETS = 400
RULES = ("self-consistency", "best-of-n, arithmetic")


@dataclass(frozen=True)
class Sample:
    answer: str | None
    right: bool
    score: float | None
    tokens: int


@dataclass(frozen=True)
class Baseline:
    """Per problem: the expected accuracy of a rule over n samples, and its tokens."""

    n: int
    accuracy: dict[str, float]
    tokens: dict[str, float]


async def _asks_nobody(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
    raise AssertionError("the arithmetic verifier asks no model")


async def pool_of(run: sqlite3.Connection, unit: str, reference: str, math: MathWorker) -> tuple[int, list[Sample]]:
    """The prompt's tokens, and the samples of one unit of the run."""
    recorded = [
        json.loads(row)
        for (row,) in run.execute("select recorded from samples where unit = ? order by sample", (unit,))
    ]
    candidates = [
        Candidate((place,), Prompt.of("?"), one["text"], finish_reason=one["finish_reason"])
        for place, one in enumerate(recorded)
    ]
    verdicts = await Stepwise(Arithmetic()).verify(Request(Prompt.of("?"), params=Params()), candidates, _asks_nobody)
    samples = []
    for one, candidate, verdict in zip(recorded, candidates, verdicts, strict=True):
        answer = extract(candidate.text, AnswerKind.NUMBER, explicit_only=not candidate.finished)
        right = answer is not None and await equivalent(answer, reference, AnswerKind.NUMBER, math=math)
        samples.append(Sample(answer, right, verdict.score, one["usage"]["output_tokens"]))
    return max(one["usage"]["prompt_tokens"] for one in recorded), samples


def vote(samples: Sequence[Sample]) -> bool:
    votes = Counter(one.answer for one in samples if one.answer is not None)
    if not votes:
        return False
    winner, _ = votes.most_common(1)[0]  # ties go to the first seen
    return next(one.right for one in samples if one.answer == winner)


def best(samples: Sequence[Sample]) -> bool:
    judged = [(one.score, one.right) for one in samples if one.score is not None]
    return max(judged, key=lambda pair: pair[0])[1] if judged else vote(samples)


def baselines(
    pools: dict[str, tuple[int, list[Sample]]],
    rule: Callable[[Sequence[Sample]], bool],
    *,
    prompts: bool,
    seed: int = 0,
) -> list[Baseline]:
    """For each n up to the size of the smallest pool; `prompts`: whether the question's tokens count."""
    rng = random.Random(seed)
    most = min(len(samples) for _, samples in pools.values())
    found = []
    for n in range(1, most + 1):
        accuracy = {
            problem: fmean(rule(rng.sample(samples, n)) for _ in range(SUBSETS)) if n < most else float(rule(samples))
            for problem, (_, samples) in pools.items()
        }
        tokens = {
            problem: prompt * prompts + n * fmean(one.tokens for one in samples)
            for problem, (prompt, samples) in pools.items()
        }
        found.append(Baseline(n, accuracy, tokens))
    return found


def against(rows: dict[str, dict[str, Any]], curve: Sequence[Baseline], computed: float) -> str:
    """The rule at the nearest cost, and the paired difference from it."""
    near = min(curve, key=lambda one: abs(fmean(one.tokens[problem] for problem in rows) - computed))
    mine = [float(row["correct"]) for row in rows.values()]
    theirs = [near.accuracy[problem] for problem in rows]
    difference, low, high = paired_difference(mine, theirs)
    return f"{fmean(theirs):.3f} (n={near.n}) | {difference:+.3f} [{low:+.2f}, {high:+.2f}]"


async def report(options: argparse.Namespace) -> None:
    problems = parse_task(options.task).problems(options.limit)
    math = MathWorker()
    with closing(sqlite3.connect(f"file:{options.run / 'run.db'}?mode=ro", uri=True)) as run:
        pools = {
            problem.id: await pool_of(run, f"{problem.id}|{options.pool}", problem.reference or "", math)
            for problem in problems
        }
        rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for (row,) in run.execute("select row from units"):
            one = json.loads(row)
            rows[one["strategy"]][one["problem"]] = one
    await math.aclose()
    computes = options.cost == "computed"
    curves = {name: baselines(pools, rule, prompts=computes) for name, rule in zip(RULES, (vote, best), strict=True)}
    print(f"| strategy | problems | accuracy [95%] | coverage (oracle) | output | computed | sent | "
          f"{' | '.join(f'{name} at equal tokens | difference [95%]' for name in RULES)} |")  # fmt: skip
    print("|" + "---|" * 11)
    points = []
    for strategy, found in rows.items():
        if strategy.partition(":")[0] == options.pool.partition(":")[0]:
            continue  # the baseline itself
        accuracy = fmean(row["correct"] for row in found.values())
        low, high = wilson(round(accuracy * len(found)), len(found))
        sent = fmean(row["total_tokens"] for row in found.values())
        computed = sent - fmean(row["cached_tokens"] or 0 for row in found.values())
        output = fmean(row["output_tokens"] for row in found.values())
        cost = computed if computes else output
        print(
            f"| `{strategy}` | {len(found)} | {accuracy:.3f} [{low:.2f}, {high:.2f}] | "
            f"{fmean(row['covered'] for row in found.values()):.3f} | "
            f"{output:,.0f} | {computed:,.0f} | {sent:,.0f} | "
            + " | ".join(against(found, curve, cost) for curve in curves.values())
            + " |"
        )
        if len(found) == len(problems):
            points.append(chart.Series(strategy.partition(":")[0], [chart.Point(cost, accuracy, low, high, "")]))
    listed = {name: [one for one in curve if one.n <= 8 or one.n % 8 == 0] for name, curve in curves.items()}
    print("\n| baseline | " + " | ".join(f"n={one.n}" for one in listed[RULES[0]]) + " |")
    print("|" + "---|" * (len(listed[RULES[0]]) + 1))
    lines = []
    for name, curve in curves.items():
        print(f"| {name} | " + " | ".join(f"{fmean(one.accuracy.values()):.3f}" for one in listed[name]) + " |")
        shown = []
        for one in curve:
            if one.n in (1, 2, 4, 8, 16, len(curve)):
                accuracy = fmean(one.accuracy.values())
                low, high = wilson(round(accuracy * len(pools)), len(pools))
                shown.append(chart.Point(fmean(one.tokens.values()), accuracy, low, high, f"n={one.n}"))
        lines.append(chart.Series(name, shown))
    print("| tokens | " + " | ".join(f"{fmean(one.tokens.values()):,.0f}" for one in listed[RULES[0]]) + " |")
    if options.chart:
        what = "tokens computed" if computes else "output tokens"
        svg = chart.svg(options.title, [*lines, *points], x_label=f"{what} per problem (log scale)")
        options.chart.write_text(svg)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder that thinkscale bench wrote")
    parser.add_argument("--task", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--cost", choices=("computed", "output"), default="computed")
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--title", default="Search against voting at equal tokens")
    asyncio.run(report(parser.parse_args()))


if __name__ == "__main__":
    main()
