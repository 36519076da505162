"""Reading a frontier: the best trade-offs, the setting for a target, a small model beside a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10

import numpy as np

from thinkscale.optimize.bootstrap import Estimate
from thinkscale.optimize.frontier import Frontier, Row, pareto


@dataclass(frozen=True)
class Choice:
    """What to run, and how sure that is. `row` is `None` where nothing reaches the target; `words` say all of it.

    `sure` for a target accuracy is the cheapest row whose whole interval reaches it; for a target cost, the cheapest
    row that the data cannot tell from the best. `None` where there is none.
    """

    row: Row | None
    words: str
    sure: Row | None = None


def cheapest_for(frontier: Frontier, accuracy: float, by: str = "tokens") -> Choice:
    """The cheapest setting whose measured accuracy is at least the target."""
    front = pareto(frontier.rows, by)
    if not front:
        return Choice(None, f"Cannot tell: the cost in {frontier.unit(by)} is not known of any setting.")
    row = next((row for row in front if row.accuracy >= accuracy), None)
    if row is None:
        best = front[-1]
        reached = frontier.bootstrap.share(best.correct)
        words = f"No setting reaches {accuracy:.1%}: the highest is {told(frontier, best, by)}."
        if reached.high is None:
            words += " One problem cannot tell how it does on others."
        elif reached.high >= accuracy:
            words += " Its interval holds the target, so the data cannot rule it out."
        return Choice(None, words)
    words = f"{accuracy:.1%} costs least with {told(frontier, row, by)}."
    intervals = {id(one): frontier.bootstrap.share(one.correct) for one in front}
    low = intervals[id(row)].low
    if low is None:
        return Choice(row, f"{words} Cannot tell how it does on other problems: there is only one.")
    if low >= accuracy:
        return Choice(row, f"{words} Its whole interval reaches the target.", row)
    # Rows off the front count here too: their costs are higher, but their intervals may be narrower.
    sure = [one for one in frontier.rows if one.cost(by) is not None and _surely(frontier, one, accuracy)]
    if not sure:
        return Choice(
            row, f"{words} The data cannot tell that it does on other problems: no interval lies above the target."
        )
    safe = min(sure, key=lambda one: one.cost(by) or 0.0)
    return Choice(row, f"{words} To have the whole interval above it takes {told(frontier, safe, by)}.", safe)


def _surely(frontier: Frontier, row: Row, accuracy: float) -> bool:
    low = frontier.bootstrap.share(row.correct).low
    return low is not None and low >= accuracy


def best_for(frontier: Frontier, limit: float, by: str = "tokens") -> Choice:
    """The most accurate setting whose mean cost is within the limit, and the cheapest that cannot be told from it."""
    front = pareto(frontier.rows, by)
    unit = frontier.unit(by)
    if not front:
        return Choice(None, f"Cannot tell: the cost in {unit} is not known of any setting.")
    within = [row for row in front if (row.cost(by) or 0.0) <= limit]
    if not within:
        return Choice(
            None,
            f"No setting costs {amount(limit, by)} {unit} or less: the cheapest is {told(frontier, front[0], by)}.",
        )
    row = within[-1]
    words = f"Within {amount(limit, by)} {unit} a request, the most accurate is {told(frontier, row, by)}."
    if frontier.problems < 2:
        return Choice(row, f"{words} Cannot tell how it does on other problems: there is only one.")
    for cheaper in within[:-1]:
        gain = frontier.bootstrap.estimate(row.correct - cheaper.correct)
        if gain.low is not None and gain.low <= 0:
            return Choice(row, f"{words} The data cannot tell it from {told(frontier, cheaper, by)}.", cheaper)
    return Choice(row, f"{words} The data tell it from every cheaper one on the front." if within[:-1] else words, row)


@dataclass(frozen=True)
class Beside:
    """A smaller model with more compute beside a larger one sampled once, at no more cost.

    `gain` is the smaller one's accuracy less the larger one's. `sure` tells whether the data can tell the two apart,
    however many settings of the smaller one were tried (95%).
    """

    smaller: str
    larger: Row
    row: Row
    gain: Estimate
    sure: bool


def beside(frontier: Frontier, by: str) -> list[Beside]:
    """Every pair of models of which one costs less when sampled once."""
    once = {row.model: row for row in frontier.rows if row.setting.strategy == "single" and row.cost(by) is not None}
    found = []
    for larger in once.values():
        limit = larger.cost(by) or 0.0
        for smaller, single in once.items():
            if (single.cost(by) or 0.0) >= limit:
                continue
            rivals = [
                row
                for row in frontier.rows
                if row.model == smaller and (cost := row.cost(by)) is not None and cost <= limit
            ]
            row = max(rivals, key=lambda one: one.accuracy)
            _, surely = frontier.bootstrap.surely_above(
                np.stack([one.correct for one in rivals], axis=1), larger.correct
            )
            gain = frontier.bootstrap.estimate(row.correct - larger.correct)
            behind = gain.high is not None and gain.high < 0
            found.append(Beside(smaller, larger, row, gain, bool(surely[rivals.index(row)] > 0) or behind))
    return found


def compared(frontier: Frontier, one: Beside, by: str) -> str:
    """The comparison in a sentence."""
    gain = one.gain
    between = "" if gain.low is None or gain.high is None else f" [{gain.low:+.1%}, {gain.high:+.1%}]"
    words = (
        f"{one.larger.model} once: {one.larger.accuracy:.1%} at {amount(one.larger.cost(by), by)} {frontier.unit(by)}."
    )
    words += f" At no more, {told(frontier, one.row, by)}: {gain.mean:+.1%}{between}"
    return words + (", which the data can tell." if one.sure else "; the data cannot tell the two apart.")


def told(frontier: Frontier, row: Row, by: str) -> str:
    """A row in a sentence."""
    reached = frontier.bootstrap.share(row.correct)
    between = "" if reached.low is None or reached.high is None else f" [{reached.low:.1%}, {reached.high:.1%}]"
    return f"{frontier.name(row)}: {reached.mean:.1%}{between} at {amount(row.cost(by), by)} {frontier.unit(by)}"


def amount(value: float | None, by: str) -> str:
    """A cost as people read it; unknown is a dash."""
    if value is None:
        return "–"
    if by == "tokens" or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - floor(log10(value))}f}" if value > 0 else "0"
