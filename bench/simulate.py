"""How many requests a minute can be simulated on one core? Vote and stop rules over a bank, each timed alone.

    python bench/simulate.py [--records FILE] [--problems 350] [--samples 40] [--answers 12] [--seconds 3] [--out FILE]

FILE is anything that `thinkscale bank import` reads, GPT-3.5 on last letters for example; without one, so many samples
are made up, with answers as unequally frequent as in a real bank. Orders are drawn beforehand. Processor time is
counted, so that a busy machine does not show. Target: at least a million a minute for every rule.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from thinkscale.banks.importing import import_file
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Ints, Outcomes, Table, orders
from thinkscale.strategies.vote import leads
from thinkscale.types import Action, Seen

TARGET = 1e6


class Leading:
    """Adaptive consistency as a controller, so that both ways to the same decisions can be compared."""

    features = frozenset({"drawn", "first", "second"})

    def __init__(self, samples: int) -> None:
        self._samples = samples

    async def act(self, seen: Seen) -> Action:
        if seen.drawn == self._samples or leads({"first": seen.first, "second": seen.second}) >= 0.95:
            return Action("stop")
        return Action("draw", min(4, self._samples - seen.drawn))


def made_up(problems: int, samples: int, answers: int, seed: int = 0) -> Table:
    """Problems from easy to hopeless: the chance of answer i falls as a power of i, another one for each."""
    random = np.random.default_rng(seed)
    chances = (1 + np.arange(answers)) ** -random.uniform(0, 4, (problems, 1))
    chances /= chances.sum(axis=1, keepdims=True)
    drawn = np.array([random.choice(answers, samples, p=row) for row in chances])
    right = random.integers(0, 3, (problems, 1))
    return Table(
        model="made up",
        problems=tuple(map(str, range(problems))),
        answers=drawn,
        codes=tuple(tuple(map(str, range(answers))) for _ in range(problems)),
        correct=drawn == right,
        capped=random.random((problems, samples)) < 0.05,
        prompt_tokens=random.integers(50, 200, problems),
        output_tokens=random.integers(20, 300, (problems, samples)),
        max_n=8,
        scores={"judge": random.random((problems, samples))},
    )


def rules(table: Table) -> list[str]:
    """With a verifier only where there are scores."""
    judged = [f"{words}n={table.n}" for words in ("self-consistency:weighted=true,", "best-of-n:", "first-verified:")]
    return [
        "single",
        *(f"{words}n={table.n}" for words in ("self-consistency:", "adaptive-consistency:", "esc:")),
        f"adaptive-consistency:n={table.n},batches=1",
        *(judged if table.scores else ()),
        "a controller",
    ]


def run(rule: str, table: Table, given: Ints) -> Outcomes:
    if rule == "a controller":
        return simulate_controller(Leading(table.n), table, given)
    return simulate(rule, table, given)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.records:
        table = Table.of(import_file(options.records))
    else:
        table = made_up(options.problems, options.samples, options.answers)
    given = orders(table, max(1, 32_000 // len(table)), 1)
    rows = []
    for rule in rules(table):
        start, runs = time.process_time(), 0
        while not runs or time.process_time() - start < options.seconds:
            came = run(rule, table, given)
            runs += 1
        spent = time.process_time() - start
        rate = came.correct.size * runs / spent * 60
        rows.append({"rule": rule, "requests_per_minute": rate, "mean_samples": float(came.samples.mean())})
        print(f"{rule:<42} {rate / 1e6:7.2f} million a minute, {rows[-1]['mean_samples']:.1f} samples each")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--problems", type=int, default=350)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--answers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="processor time for each rule")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options)
    least = min(row["requests_per_minute"] for row in rows)
    print(f"target, a million a minute for every rule: {'met' if least >= TARGET else 'missed'}")
    if options.out:
        options.out.write_text(json.dumps({"target": TARGET, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
