"""What wins on easy problems and what on hard ones, at matched cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkscale.optimize.bootstrap import Bootstrap, Estimate
from thinkscale.optimize.frontier import Extra, Frontier, Row, measured, rotations, triple
from thinkscale.optimize.settings import settings
from thinkscale.optimize.table import Floats, Ints, Table, orders

_ENOUGH = 8  # samples of a problem; with fewer, a half tells too little
_LEVELS = (4, 8, 16, 32)  # numbers of samples whose cost is matched


@dataclass(frozen=True)
class Matched:
    """The most accurate setting of a bin that costs no more than a vote over `n` samples does there.

    `gain` is its accuracy less the vote's. `sure` tells whether that gain is above 0 whichever setting would have been
    picked (at 95%, over all of them together), `None` where the bin holds one problem.
    """

    n: int
    limit: float
    vote: Row
    winner: Row
    gain: Estimate
    sure: bool | None


@dataclass(frozen=True)
class Bin:
    """Problems of like difficulty: `low` and `high` are their extreme pass@1."""

    low: float
    high: float
    problems: tuple[str, ...]
    matched: Sequence[Matched]


@dataclass(frozen=True)
class Difficulty:
    """One model's problems by difficulty, easiest first.

    With at least 8 samples of a problem, difficulty is pass@1 on one half of them and the strategies are replayed on
    the other, so that luck in the first does not come back as accuracy. With fewer, both use all samples:
    `in_sample` is then true, and hard problems look harder, easy ones easier, than they are.
    """

    model: str
    in_sample: bool
    bins: Sequence[Bin]


def by_difficulty(
    frontier: Frontier,
    model: str,
    *,
    extras: Sequence[Extra] = (),
    bins: int = 4,
    repeats: int = 20,
    seed: int = 0,
) -> Difficulty:
    """Replay the usual settings and the extra ones on up to `bins` equal shares of the problems; costs are in tokens.

    Problems of equal pass@1 stay together, so the shares may be unequal, and fewer where many are alike.
    """
    table = frontier.tables[model]
    in_sample = table.n < _ENOUGH
    places = orders(table, 2, seed)[1]  # drawn by chance, for recorded orders may be sorted
    half = 0 if in_sample else table.n // 2
    judged, played = places[:, : half or table.n], places[:, half:]
    rates = np.take_along_axis(table.correct, judged, axis=1).mean(axis=1)
    given = rotations(played, repeats, seed)
    usable = [
        *(Extra(setting) for setting in settings(table, played.shape[1])),
        *(extra for extra in extras if extra.model in (None, model)),
    ]
    return Difficulty(
        model,
        in_sample,
        [
            Bin(
                float(rates[share].min()),
                float(rates[share].max()),
                tuple(table.problems[place] for place in share),
                _matched(table.take(share), given[:, share], usable, seed, frontier.weights.get(model, 1.0)),
            )
            for share in _shares(rates, bins)
        ],
    )


def _shares(rates: Floats, bins: int) -> list[Ints]:
    """Places of problems in order of falling pass@1, cut into shares; equals are never parted."""
    places = np.argsort(-rates, kind="stable")
    edges = [round(len(places) * cut / bins) for cut in range(1, bins)]
    ends = []
    for edge in edges:
        # An edge within a run of equals moves to the nearer end of the run.
        if 0 < edge < len(places):
            run = np.flatnonzero(rates[places] == rates[places[edge]])
            start, end = int(run[0]), int(run[-1]) + 1
            ends.append(start if edge - start <= end - edge else end)
    return [share for share in np.split(places, sorted(set(ends))) if len(share)]


def _matched(table: Table, given: Ints, tried: Sequence[Extra], seed: int, weight: float) -> list[Matched]:
    rows = [row for row in (measured(table, given, extra, weight) for extra in tried) if not row.missing]
    most = given.shape[2]
    votes = {row.setting.strategy: row for row in rows}
    bootstrap = Bootstrap(len(table), seed=seed)
    found = []
    for n in [level for level in _LEVELS if level < most] + [most]:
        vote = votes["single" if n == 1 else f"self-consistency:n={n}"]
        limit = vote.cost("tokens")
        assert limit is not None
        rivals = [row for row in rows if (cost := row.cost("tokens")) is not None and cost <= limit]
        winner = max(rivals, key=lambda row: (row.accuracy, -(row.cost("tokens") or 0.0)))
        _, surely = bootstrap.surely_above(np.stack([row.correct for row in rivals], axis=1), vote.correct)
        found.append(
            Matched(
                n,
                limit,
                vote,
                winner,
                bootstrap.estimate(winner.correct - vote.correct),
                bool(surely[rivals.index(winner)] > 0) if len(table) > 1 else None,
            )
        )
    return found


def as_json(difficulty: Difficulty) -> dict[str, Any]:
    return {
        "model": difficulty.model,
        "in_sample": difficulty.in_sample,
        "bins": [
            {
                "pass_at_1": [one.low, one.high],
                "problems": len(one.problems),
                "matched": [
                    {
                        "n": match.n,
                        "tokens": match.limit,
                        "vote_accuracy": match.vote.accuracy,
                        "winner": match.winner.setting.name,
                        "winner_accuracy": match.winner.accuracy,
                        "winner_tokens": match.winner.cost("tokens"),
                        "gain": triple(match.gain),
                        "sure": match.sure,
                    }
                    for match in one.matched
                ],
            }
            for one in difficulty.bins
        ],
    }
