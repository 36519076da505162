"""What every strategy and setting reaches and costs, replayed over one bank: the cost-accuracy frontier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.optimize.bootstrap import Bootstrap, Estimate
from thinkscale.optimize.replaying import replayed
from thinkscale.optimize.settings import Setting, settings, sizes
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Bools, Floats, Ints, Outcomes, Table, model_of

AXES = {"tokens": "tokens", "usd": "dollars", "seconds": "seconds"}
"""What a request costs, by the name that options use; seconds are those of its batches, one after another."""


@dataclass(frozen=True, eq=False)
class Row:
    """One setting on one model, measured on P problems: arrays [P] of means over the orders.

    `correct` is the chance of a right answer, `covered` (an oracle figure) that of a right sample among those drawn,
    `None` where samples of another model came in. `costs` are by axis (see `AXES`), `None` where unknown; its tokens
    are times the model's relative price, `tokens` are as they were counted. `missing` is the share of requests that
    wanted more samples than are recorded, and went on with what there was.
    """

    model: str
    setting: Setting
    correct: Floats
    covered: Floats | None
    costs: Mapping[str, Floats | None]
    tokens: Floats
    samples: Floats
    rounds: Floats
    missing: float = 0.0

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    def cost(self, by: str) -> float | None:
        """The mean of a request."""
        values = self.costs[by]
        return None if values is None else float(values.mean())


@dataclass(frozen=True)
class Coverage:
    """Of n samples of a model, some one is right: an oracle figure, by the unbiased estimator (Chen et al. 2021)."""

    n: int
    share: Estimate
    costs: Mapping[str, float | None]


@dataclass(frozen=True)
class Frontier:
    """All rows of some models on the same problems, and what intervals over these problems need.

    `weights` are relative prices of a token by model; empty where tokens count alike. `notes` say what the figures do
    not tell by themselves.
    """

    task: str | None
    tables: Mapping[str, Table]
    rows: Sequence[Row]
    bootstrap: Bootstrap
    coverage: Mapping[str, Sequence[Coverage]]
    weights: Mapping[str, float]
    notes: Sequence[str]

    @property
    def problems(self) -> int:
        return self.bootstrap.problems

    @property
    def axes(self) -> list[str]:
        """The kinds of cost that are known of some row, the one to compare by first: dollars where tokens of several
        models differ in price, and all prices are known.
        """
        known = [by for by in AXES if any(row.costs[by] is not None for row in self.rows)]
        priced = len(self.tables) > 1 and not self.weights and all(table.price for table in self.tables.values())
        return sorted(known, key=lambda by: by != "usd") if priced else known

    def unit(self, by: str) -> str:
        """What an axis counts, in words."""
        return "tokens × relative price" if by == "tokens" and self.weights else AXES[by]

    def name(self, row: Row) -> str:
        """A row's setting, with its model where there are several."""
        return f"{row.model}: {row.setting.name}" if len(self.tables) > 1 else row.setting.name


Measure = Callable[[Table, Ints, Setting], Outcomes]
"""Replays a setting over a table's samples in given orders."""


def by_simulation(table: Table, given: Ints, setting: Setting) -> Outcomes:
    return simulate(setting.strategy, table, given, verifier=setting.verifier)


def by_engine(bank: Bank) -> Measure:
    """Runs the strategy itself, for those that cannot be simulated: slower, and not from within an event loop."""

    def measure(table: Table, given: Ints, setting: Setting) -> Outcomes:
        return asyncio.run(replayed(setting.strategy, bank, table, given, verifier=setting.verifier))

    return measure


@dataclass(frozen=True)
class Extra:
    """A setting beside the usual ones, and how it is replayed; `model` is `None` for one that all models can try.

    `note` is what has to be said of its figures.
    """

    setting: Setting
    measure: Measure = by_simulation
    model: str | None = None
    note: str = ""


def tables_of(bank: Bank, models: Sequence[str] = (), n: int | None = None) -> dict[str, Table]:
    """The samples of some models, by default of all, on the problems that all of them have.

    `n` is how many samples a problem must have to take part (a model that has fewer of every problem takes part with
    as many as it has); by default as many as each of its problems has. Raises `UsageError` for an empty bank, one that
    is not graded or counted, and for models without a common problem.
    """
    names = [model_of(bank, model) for model in models] or [
        name for name in bank.models if any(bank.samples(name, problem) for problem in bank.problems)
    ]
    if not names:
        raise UsageError("the bank holds no samples: draw some with `thinkscale collect`")
    tables = {}
    for name in names:
        most = max((len(bank.samples(name, problem)) for problem in bank.problems), default=0)
        tables[name] = Table.of(bank, name, None if n is None else min(n, most))
    common = set.intersection(*(set(table.problems) for table in tables.values()))
    if not common:
        raise UsageError(f"{' and '.join(names)} have no problem in common: name one of them with --model")
    return {
        name: table.take(np.flatnonzero([problem in common for problem in table.problems]))
        for name, table in tables.items()
    }


def frontier(
    bank: Bank,
    models: Sequence[str] = (),
    *,
    n: int | None = None,
    extras: Sequence[Extra] = (),
    repeats: int = 20,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Frontier:
    """Replay every usual setting, and the extra ones, over `repeats` orders of the samples.

    `weights` are relative prices of a token by model (1 where not given); `progress` hears how many of how many
    settings are done. Raises `UsageError` as `tables_of` does, and for a weight of an unknown model.
    """
    tables = tables_of(bank, models, n)
    given = dict(weights or {})
    if unknown := [name for name in given if name not in tables]:
        raise UsageError(f"there is no model {unknown[0]} to weigh; there are {', '.join(tables)}")
    plan = [
        (table, extra)
        for name, table in tables.items()
        for extra in [
            *(Extra(setting) for setting in settings(table, table.n)),
            *(extra for extra in extras if extra.model in (None, name)),
        ]
    ]
    drawn = {
        name: rotations(np.tile(np.arange(table.n), (len(table), 1)), repeats, seed) for name, table in tables.items()
    }
    rows = []
    progress(0, len(plan))
    for done, (table, extra) in enumerate(plan, 1):
        rows.append(measured(table, drawn[table.model], extra, given.get(table.model, 1.0)))
        if rows[-1].missing == 1:
            raise UsageError(f"{extra.setting.name} cannot be replayed: it always wants samples that are not recorded")
        progress(done, len(plan))
    bootstrap = Bootstrap(len(next(iter(tables.values()))), seed=seed)
    return Frontier(
        bank.task,
        tables,
        rows,
        bootstrap,
        {name: _coverage(table, bootstrap, rows, given.get(name, 1.0)) for name, table in tables.items()},
        given,
        [*_notes(bank, tables, rows, given), *(extra.note for extra in extras if extra.note)],
    )


def rotations(places: Ints, repeats: int, seed: int) -> Ints:
    """Orders of each problem's places [P, K]: [repeats, P, K], every one uniform by itself.

    They are rotations of a few shuffles, evenly apart, so that every sample comes early about equally often: less noise
    from the draw of the orders than independent ones have.
    """
    rng = np.random.default_rng(seed)
    width = places.shape[1]
    found = []
    for first in range(0, repeats, width):
        shuffled = rng.permuted(places, axis=1)
        count = min(width, repeats - first)
        found += [np.roll(shuffled, -(turn * width // count), axis=1) for turn in range(count)]
    return np.stack(found)


def measured(table: Table, given: Ints, extra: Extra, weight: float = 1.0) -> Row:
    """One setting, replayed."""
    outcomes = extra.measure(table, given, extra.setting)
    tokens = outcomes.tokens.mean(axis=0)
    mixed = bool((outcomes.chosen == -2).any())
    return Row(
        table.model,
        extra.setting,
        outcomes.correct.mean(axis=0),
        None if mixed else _covered(table, given, outcomes.samples).mean(axis=0),
        {
            "tokens": None if mixed and weight != 1 else tokens * weight,
            "usd": None if outcomes.cost_usd is None else outcomes.cost_usd.mean(axis=0),
            "seconds": None if outcomes.seconds is None else outcomes.seconds.mean(axis=0),
        },
        tokens,
        outcomes.samples.mean(axis=0),
        outcomes.rounds.mean(axis=0),
        0.0 if outcomes.missing is None else float(outcomes.missing.mean()),
    )


def _covered(table: Table, given: Ints, samples: Ints) -> Bools:
    """Whether some sample was right among those that each request drew: [R, P]."""
    seen = table.correct[np.arange(len(table))[:, None], given]
    first = np.where(seen.any(axis=2), seen.argmax(axis=2), seen.shape[2])
    covered: Bools = first < samples
    return covered


def coverage(table: Table, k: int) -> Floats:
    """Unbiased pass@k of each problem, [P]: 1 - C(N-c, k) / C(N, k)."""
    wrong = table.n - table.correct.sum(axis=1)
    draws = np.arange(k)
    chances: Floats = np.clip((wrong[:, None] - draws) / (table.n - draws), 0, None).prod(axis=1)
    return 1 - chances


def _coverage(table: Table, bootstrap: Bootstrap, rows: Sequence[Row], weight: float) -> list[Coverage]:
    """At the cost of drawing as many samples together, without anything that could tell which one is right."""
    together = {row.setting.strategy: row for row in rows if row.model == table.model}
    curve = []
    for n in (1, *sizes(table.n)):
        row = together["single" if n == 1 else f"self-consistency:n={n}"]
        curve.append(Coverage(n, bootstrap.share(coverage(table, n)), {by: row.cost(by) for by in AXES}))
    return curve


def _notes(bank: Bank, tables: Mapping[str, Table], rows: Sequence[Row], weights: Mapping[str, float]) -> list[str]:
    notes = []
    problems = next(iter(tables.values())).problems
    if len(problems) == 1:
        notes.append("One problem cannot tell how any of this does on another: there are no intervals.")
    for name, table in tables.items():
        if left := sum(bool(bank.samples(name, problem)) for problem in bank.problems) - len(problems):
            notes.append(f"{left} problems of {name} are left out: they lack samples that the others have.")
        share = table.correct.mean()
        if share in (0, 1):
            which = "right" if share else "wrong"
            notes.append(f"No variance: every sample of {name} is {which}, so no strategy differs but in cost.")
        elif np.all(table.correct.all(axis=1) | ~table.correct.any(axis=1)):
            notes.append(f"The samples of {name} agree on every problem: more of them cannot help.")
        if bank.models[name].estimated:
            notes.append(f"Token counts of {name} are estimates from the length of the texts.")
        if any(bank.samples(name, problem)[0].prompt_tokens is None for problem in problems):
            notes.append(f"Prompt tokens of {name} are not recorded: output tokens alone are counted.")
    if any(row.setting.verifier not in (None, "checker", "confidence") for row in rows):
        notes.append("The bank does not hold what its verifiers cost: settings by a verifier cost more than shown.")
    if any(row.setting.verifier == "checker" for row in rows):
        notes.append(
            "`checker` is the task's own check: it can be used where an answer can be checked without its key."
        )
    for row in rows:
        if row.missing:
            notes.append(f"{row.setting.name} wanted more samples than are recorded in {row.missing:.1%} of requests.")
    if len(tables) > 1 and not weights and any(table.price is None for table in tables.values()):
        notes.append("Tokens of different models do not cost the same: give --weight MODEL=8, or prices in the bank.")
    return notes


def pareto(rows: Sequence[Row], by: str = "tokens") -> list[Row]:
    """The rows that none beats in accuracy at no more cost, cheapest first; those of unknown cost are left out."""
    known = [(cost, row) for row in rows if (cost := row.cost(by)) is not None]
    front: list[Row] = []
    for _, row in sorted(known, key=lambda pair: (pair[0], -pair[1].accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


def summary(frontier: Frontier) -> dict[str, Any]:
    """All of it as JSON holds it: figures with intervals [mean, low, high]."""
    fronts = {by: set(map(id, pareto(frontier.rows, by))) for by in frontier.axes}
    return {
        "task": frontier.task,
        "problems": frontier.problems,
        "models": {
            name: {
                "samples": table.n,
                "pass_at_1": float(table.correct.mean()),
                "coverage_oracle": float(coverage(table, table.n).mean()),
                "weight": frontier.weights.get(name, 1.0),
                "price_usd_per_mtok": None
                if table.price is None
                else [table.price.input_mtok, table.price.output_mtok],
            }
            for name, table in frontier.tables.items()
        },
        "axes": {by: frontier.unit(by) for by in frontier.axes},
        "rows": [_row(frontier, row, fronts) for row in frontier.rows],
        "coverage_oracle": {
            name: [{"n": one.n, "coverage": triple(one.share), "costs": one.costs} for one in curve]
            for name, curve in frontier.coverage.items()
        },
        "notes": list(frontier.notes),
    }


def _row(frontier: Frontier, row: Row, fronts: Mapping[str, set[int]]) -> dict[str, Any]:
    bootstrap = frontier.bootstrap
    return {
        "model": row.model,
        "strategy": row.setting.strategy,
        "verifier": row.setting.verifier,
        "family": row.setting.family,
        "name": frontier.name(row),
        "accuracy": triple(bootstrap.share(row.correct)),
        "costs": {
            by: None if (values := row.costs[by]) is None else triple(bootstrap.estimate(values))
            for by in frontier.axes
        },
        "tokens": float(row.tokens.mean()),
        "samples": float(row.samples.mean()),
        "rounds": float(row.rounds.mean()),
        "coverage_oracle": None if row.covered is None else float(row.covered.mean()),
        "selection_gap": None if row.covered is None else float(row.covered.mean()) - row.accuracy,
        "missing": row.missing,
        "pareto": [by for by in fronts if id(row) in fronts[by]],
    }


def triple(estimate: Estimate) -> list[float | None]:
    return [estimate.mean, estimate.low, estimate.high]
