"""A frontier as one self-contained page: charts to point at, targets to move, and all figures as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from thinkscale.optimize import chart, report
from thinkscale.optimize.bootstrap import Estimate
from thinkscale.optimize.choosing import amount, beside
from thinkscale.optimize.difficulty import Difficulty
from thinkscale.optimize.frontier import Frontier, Row, pareto, summary, triple

_NO_BREAK = "\u00a0"

_CHART = """
<div class="panel">
<div class="controls scripted" hidden><span class="choice" id="axes" role="group" aria-label="Cost"></span>
<label><input type="checkbox" id="only"> only the Pareto front</label>
<span class="dim">Broad line: the Pareto front. Point at a setting, click a name to hide it.</span></div>
<div class="plot still" id="chart">{still}</div>
<div class="legend scripted" id="legend" hidden></div>
<div class="targets scripted" hidden>
<div><label for="target"><span>target accuracy <b id="target-said"></b></span><input type="range" id="target"></label>
<output id="target-found" for="target"></output></div>
<div><label for="limit"><span>at most <b id="limit-said"></b></span><input type="range" id="limit"></label>
<output id="limit-found" for="limit"></output></div>
</div></div>
"""


def page(
    frontier: Frontier,
    difficulties: Sequence[Difficulty],
    *,
    said: Sequence[str] = (),
    asked: Mapping[str, float] | None = None,
    made_by: str,
) -> str:
    """The HTML. It asks for nothing from anywhere; without a script it shows the chart and the tables.

    `said` are sentences to begin with, `asked` where the sliders stand at first: an `accuracy`, and costs by axis.
    """
    found = summary(frontier)
    by = frontier.axes[0]
    still = chart.svg(
        "accuracy against compute", curves(frontier, by), x_label=f"{frontier.unit(by)} per request (log scale)"
    )
    several = len(frontier.tables) > 1
    every = report.table(_columns(frontier), [_flat(row) for row in found["rows"]])
    sections = [
        ("Accuracy against compute", _CHART.replace("{still}", still) + _list(said)),
        ("The Pareto front", _front(frontier)),
        *([("A smaller model with more compute, a larger one once", _beside(frontier))] if several else []),
        ("Coverage and the selection gap", _coverage(frontier)),
        ("By difficulty", "".join(map(_difficulty, difficulties))),
        ("All settings", f'<div class="sortable" id="rows">{every}</div>'),
        (
            "What these figures do not tell",
            _list([*frontier.notes, *_CAVEATS]) + _scripted({**found, "asked": dict(asked or {})}),
        ),
    ]
    samples = " and ".join(f"{table.n} samples of {name} each" for name, table in frontier.tables.items())
    lead = (
        f"{frontier.problems} problems, {samples}. Every strategy was replayed over the same recorded samples. "
        "Intervals are 95%, by bootstrap over problems."
    )
    return report.page(f"thinkscale frontier: {frontier.task or 'a bank'}", lead, sections, made_by=made_by)


def _scripted(content: Mapping[str, Any]) -> str:
    """The style, the figures and the script that draws them, which comes after all that it draws into."""
    resources = files("thinkscale.optimize")
    style, script = (resources.joinpath(f"frontier_page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        f"<style>{style}</style>"
        f'<script type="application/json" id="found">{report.embedded(content)}</script><script>{script}</script>'
    )


_CAVEATS = (
    "Targets are met and winners picked on the problems that measured them, which flatters the choice a little: fit on "
    "one half and test on the other before relying on it.",
    "Coverage is an oracle figure: some sample was right, whether or not anything could tell which one.",
)


def curves(frontier: Frontier, by: str) -> list[chart.Series]:
    """Each strategy's own front, for a chart to show at a glance; strategies on the front of all come first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in frontier.rows:
        if (row.cost(by) or 0.0) > 0:
            groups.setdefault((row.model, row.setting.family), []).append(row)
    several = len(frontier.tables) > 1
    ahead = {(row.model, row.setting.family) for row in pareto(frontier.rows, by)}
    return [
        chart.Series(
            f"{model}: {family}" if several else family, [_point(frontier, row, by) for row in pareto(rows, by)]
        )
        for (model, family), rows in sorted(groups.items(), key=lambda pair: pair[0] not in ahead)
    ]


def _point(frontier: Frontier, row: Row, by: str) -> chart.Point:
    share = frontier.bootstrap.share(row.correct)
    low, high = (share.mean if end is None else end for end in (share.low, share.high))
    return chart.Point(row.cost(by) or 0.0, share.mean, low, high, row.setting.strategy.partition(":")[2])


def _list(lines: Sequence[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def interval(figure: Sequence[float | None]) -> str:
    """A share with its interval [mean, low, high], in one piece."""
    mean, low, high = figure
    between = "cannot tell" if low is None or high is None else f"{low:.3f}, {high:.3f}"
    return f"{mean:.3f} [{between}]".replace(" ", _NO_BREAK)


def _columns(frontier: Frontier) -> dict[str, str]:
    several = {"model": "model"} if len(frontier.tables) > 1 else {}
    costs = {by: frontier.unit(by) for by in frontier.axes}
    return several | {
        "setting": "setting", "figure": "accuracy [95%]", **costs, "samples": "samples", "rounds": "rounds",
        "coverage_oracle": "coverage (oracle)", "selection_gap": "gap", "front": "front",
    }  # fmt: skip


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    by = f" by {row['verifier']}" if row["verifier"] else ""
    return {
        **{key: row[key] for key in ("model", "samples", "rounds", "coverage_oracle", "selection_gap")},
        **{axis: None if figure is None else _cost(figure[0], axis) for axis, figure in row["costs"].items()},
        "setting": f"{row['strategy']}{by}",
        "figure": interval(row["accuracy"]),
        "front": ", ".join(row["pareto"]),
    }


def _cost(value: float, by: str) -> int | float | str:
    """A cost for a table, which sets numbers to the right."""
    return round(value) if by == "tokens" else amount(value, by) if by == "usd" else value


def _front(frontier: Frontier) -> str:
    by = frontier.axes[0]
    rows = []
    for row in pareto(frontier.rows, by):
        share = frontier.bootstrap.share(row.correct)
        rows.append(
            {
                "setting": frontier.name(row),
                "figure": interval(triple(share)),
                "cost": _cost(row.cost(by) or 0.0, by),
                "samples": float(row.samples.mean()),
                "rounds": float(row.rounds.mean()),
            }
        )
    lead = f'<p class="dim">No setting is more accurate at no more {escape(frontier.unit(by))}. Neighbours whose '
    lead += "intervals overlap widely may change places on other problems.</p>"
    return lead + report.table(
        {
            "setting": "setting",
            "figure": "accuracy [95%]",
            "cost": frontier.unit(by),
            "samples": "samples",
            "rounds": "rounds",
        },
        rows,
    )


def _beside(frontier: Frontier) -> str:
    by = frontier.axes[0]
    unit = frontier.unit(by)
    rows = []
    for one in beside(frontier, by):
        rows.append(
            {
                "larger": one.larger.model,
                "once": f"{one.larger.accuracy:.3f} at {amount(one.larger.cost(by), by)}",
                "smaller": one.smaller,
                "best": f"{one.row.setting.name}: {one.row.accuracy:.3f} at {amount(one.row.cost(by), by)}",
                "gain": _signed(one.gain),
                "told": ("better" if one.gain.mean > 0 else "worse") if one.sure else "cannot tell",
            }
        )
    lead = f'<p class="dim">At no more {escape(unit)} than the larger model takes for one sample.</p>'
    columns = {
        "smaller": "smaller model", "best": "its best setting", "larger": "larger model", "once": "sampled once",
        "gain": "gain [95%]", "told": "the data say",
    }  # fmt: skip
    return lead + (report.table(columns, rows) if rows else "<p>No model costs less than another.</p>")


def _signed(gain: Estimate) -> str:
    between = "" if gain.low is None or gain.high is None else f" [{gain.low:+.3f}, {gain.high:+.3f}]"
    return f"{gain.mean:+.3f}{between}".replace(" ", _NO_BREAK)


def _coverage(frontier: Frontier) -> str:
    votes = {
        (row.model, 1 if row.setting.strategy == "single" else int(row.setting.strategy.rpartition("=")[2])): row
        for row in frontier.rows
        if row.setting.family in ("single", "self-consistency")
    }
    rows = [
        {
            "model": name,
            "n": one.n,
            "coverage": interval(triple(one.share)),
            "vote": votes[name, one.n].accuracy,
            "gap": one.share.mean - votes[name, one.n].accuracy,
        }
        for name, curve in frontier.coverage.items()
        for one in curve
    ]
    columns = {"n": "samples", "coverage": "coverage (oracle)", "vote": "vote", "gap": "selection gap"}
    if len(frontier.tables) > 1:
        columns = {"model": "model", **columns}
    lead = (
        '<p class="dim">Coverage (oracle): the chance that some one of n samples is right, by the unbiased estimator. '
        "The gap to the vote is what a perfect verifier could still win.</p>"
    )
    return f'{lead}<div class="plot still" id="gap"></div>{report.table(columns, rows)}'


def _difficulty(difficulty: Difficulty) -> str:
    how = (
        "Difficulty is pass@1 on the very samples that are replayed (too few to split): hard problems look harder and "
        "easy ones easier than they are."
        if difficulty.in_sample
        else "Difficulty is pass@1 on one half of each problem's samples; strategies are replayed on the other half."
    )
    rows = [
        {
            "bin": f"{one.low:.2f} to {one.high:.2f}" if one.low < one.high else f"{one.low:.2f}",
            "problems": len(one.problems),
            "n": match.n,
            "limit": round(match.limit),
            "vote": match.vote.accuracy,
            "winner": match.winner.setting.name,
            "accuracy": match.winner.accuracy,
            "tokens": round(match.winner.cost("tokens") or 0.0),
            "gain": _signed(match.gain),
            "told": "cannot tell" if not match.sure else "better",
        }
        for one in difficulty.bins
        for match in one.matched
    ]
    columns = {
        "bin": "pass@1", "problems": "problems", "n": "votes", "limit": "their tokens", "vote": "their accuracy",
        "winner": "most accurate at no more tokens", "accuracy": "accuracy", "tokens": "tokens", "gain": "gain [95%]",
        "told": "the data say",
    }  # fmt: skip
    lead = f"<h3>{escape(difficulty.model)}</h3>" if difficulty.model else ""
    return (
        f'{lead}<p class="dim">{how} The most accurate setting that costs no more than a vote over so many samples; '
        "“better” holds whichever of the settings had come out first (95%).</p>" + report.table(columns, rows)
    )
