"""Accuracy against compute, drawn: as SVG for pages and files, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

# Colour-blind safe (Okabe and Ito), readable on white and on black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D3B", "#7F7F7F")
_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 44, 56


@dataclass(frozen=True)
class Point:
    """`x` is compute (tokens, above 0), `y` an accuracy in [0, 1] with its interval; `label` names it on hover."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    dashed: bool = False


def svg(title: str, series: Sequence[Series], *, x_label: str, y_label: str = "accuracy") -> str:
    """A line chart with intervals over a logarithmic x axis, as a standalone SVG element."""
    points = [point for one in series for point in one.points]
    low, high = _decades([point.x for point in points])
    top = _ceiling([point.high for point in points])

    def px(x: float) -> float:
        return _LEFT + (log10(x) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 22 * ceil(len(series) / 2)}" role="img"'
        f' font-family="system-ui, sans-serif" font-size="13" fill="#444"><title>{escape(title)}</title>',
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600" fill="#111">{escape(title)}</text>',
    ]
    steps = 5
    for step in range(steps + 1):
        y = top * step / steps
        parts.append(
            f'<path d="M{_LEFT} {py(y):.1f}H{_WIDTH - _RIGHT}" stroke="#e4e4e4"/>'
            f'<text x="{_LEFT - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.0%}</text>'
        )
    for tick in _ticks(low, high):
        parts.append(
            f'<path d="M{px(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#f0f0f0"/>'
            f'<text x="{px(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_short(tick)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    for place, one in enumerate(series):
        parts.append(_drawn(one, _COLOURS[place % len(_COLOURS)], px, py))
        x, y_key = _LEFT + (place % 2) * 340, _HEIGHT + 6 + (place // 2) * 22
        parts.append(
            f'<path d="M{x} {y_key}h22" stroke="{_COLOURS[place % len(_COLOURS)]}" stroke-width="3"{_dash(one)}/>'
            f'<text x="{x + 30}" y="{y_key + 4}">{escape(one.name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _drawn(series: Series, colour: str, px: object, py: object) -> str:
    assert callable(px) and callable(py)
    ordered = sorted(series.points, key=lambda point: point.x)
    line = "L".join(f"{px(point.x):.1f} {py(point.y):.1f}" for point in ordered)
    marks = "".join(
        f'<path d="M{px(p.x):.1f} {py(p.low):.1f}V{py(p.high):.1f}" stroke="{colour}" stroke-opacity=".35" stroke-width="2"/>'
        f'<circle cx="{px(p.x):.1f}" cy="{py(p.y):.1f}" r="4.5" fill="{colour}">'
        f"<title>{escape(f'{series.name} {p.label}: {p.y:.1%} [{p.low:.1%}, {p.high:.1%}], {p.x:,.0f}')}</title></circle>"
        for p in ordered
    )
    return f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2.5"{_dash(series)}/>{marks}'


def _dash(series: Series) -> str:
    return ' stroke-dasharray="6 4"' if series.dashed else ""


def terminal(title: str, series: Sequence[Series], *, x_label: str, width: int = 78, height: int = 18) -> str:
    """The same chart in characters."""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    plotext.title(title)
    plotext.xlabel(x_label)
    plotext.ylim(0, _ceiling([point.y for one in series for point in one.points]))
    low, high = _decades([point.x for one in series for point in one.points])
    ticks = _ticks(low, high)
    plotext.xticks([log10(tick) for tick in ticks], [_short(tick) for tick in ticks])
    for marker, one in zip("●▲■◆+x*o", series, strict=False):
        ordered = sorted(one.points, key=lambda point: point.x)
        xs, ys = [log10(point.x) for point in ordered], [point.y for point in ordered]
        plotext.plot(xs, ys, marker="·")
        plotext.scatter(xs, ys, marker=marker)
    legend = "   ".join(f"{marker} {one.name}" for marker, one in zip("●▲■◆+x*o", series, strict=False))
    return f"{plotext.build()}\n  {legend}"


def _decades(xs: Sequence[float]) -> tuple[float, float]:
    low, high = log10(min(xs)), log10(max(xs))
    pad = max(0.05, (high - low) * 0.04)
    return low - pad, high + pad


def _ceiling(ys: Sequence[float]) -> float:
    return min(1.0, max(0.1, ceil(max(ys) * 10 + 0.2) / 10))


def _ticks(low: float, high: float) -> list[float]:
    """1-2-5 values between two powers of ten, at most about eight."""
    candidates = [mantissa * 10**power for power in range(floor(low), ceil(high) + 1) for mantissa in (1, 2, 5)]
    ticks = [tick for tick in candidates if low <= log10(tick) <= high]
    return ticks if len(ticks) <= 8 else [tick for tick in ticks if str(f"{tick:e}").startswith("1")] or ticks[::3]


def _short(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"
