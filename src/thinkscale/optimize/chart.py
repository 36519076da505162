"""Accuracy against compute, drawn: as SVG for pages and files, and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import ceil, floor, log10

# Colour-blind safe (Okabe and Ito), readable on white and on black.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8A6D3B",
    "#7F7F7F",
    "#332288",
    "#882255",
)
_LONG_LABEL = 12  # characters; longer ones, and those of lone points, are told on hover only
_MARKERS = "●▲■◆+x*o"
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
    scale = _scale([point.high for point in points])
    top = scale[-1]

    def px(x: float) -> float:
        return _LEFT + (log10(x) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    height = _HEIGHT + 22 * ceil(len(series) / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="#444">',
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600" fill="#111">{escape(title)}</text>',
    ]
    for y in scale:
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


def _drawn(series: Series, colour: str, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    parts = []
    places = []
    for point in sorted(series.points, key=lambda point: point.x):
        x, y = px(point.x), py(point.y)
        told = f"{series.name} {point.label}: {point.y:.1%} [{point.low:.1%}, {point.high:.1%}], {point.x:,.0f}"
        places.append(f"{x:.1f} {y:.1f}")
        written = point.label if len(series.points) > 1 and len(point.label) < _LONG_LABEL else ""
        parts.append(
            f'<path d="M{x:.1f} {py(point.low):.1f}V{py(point.high):.1f}" stroke="{colour}" stroke-opacity=".35"'
            f' stroke-width="2"/><text x="{x - 7:.1f}" y="{y - 7:.1f}" font-size="11" text-anchor="end"'
            f' fill="{colour}">{escape(written)}</text>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"><title>{escape(told)}</title></circle>'
        )
    line = f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}" stroke-width="2.5"{_dash(series)}/>'
    return "".join([line, *parts])


def _dash(series: Series) -> str:
    return ' stroke-dasharray="6 4"' if series.dashed else ""


def terminal(title: str, series: Sequence[Series], *, x_label: str, width: int = 64, height: int = 14) -> str:
    """The same chart in characters, `width` by `height` of them inside the axes."""
    low, high = _decades([point.x for one in series for point in one.points])
    levels = _scale([point.y for one in series for point in one.points])
    top = levels[-1]
    grid = [[" "] * width for _ in range(height)]

    def cell(x: float, y: float) -> tuple[int, int]:
        column = round((log10(x) - low) / (high - low) * (width - 1))
        return height - 1 - round(y / top * (height - 1)), column

    for marker, one in reversed(list(zip(_MARKERS, series, strict=False))):
        places = [cell(point.x, point.y) for point in sorted(one.points, key=lambda point: point.x)]
        for (row, column), (next_row, next_column) in pairwise(places):
            for step in range(1, next_column - column):
                on_line = round(row + (next_row - row) * step / (next_column - column))
                grid[on_line][column + step] = "·"
        for row, column in places:
            grid[row][column] = marker
    labels = {height - 1 - round(y / top * (height - 1)): f"{y:.0%}" for y in levels}
    lines = [f"{labels.get(row, ''):>5} │{''.join(cells)}".rstrip() for row, cells in enumerate(grid)]
    scale = [" "] * (width + 8)
    for tick in _ticks(low, high):
        column = round((log10(tick) - low) / (high - low) * (width - 1))
        scale[column : column + len(_short(tick))] = _short(tick)
    legend = "   ".join(f"{marker} {one.name}" for marker, one in zip(_MARKERS, series, strict=False))
    return "\n".join(
        [
            f"      {title}",
            *lines,
            f"      └{'─' * width}",
            f"       {''.join(scale).rstrip()}",
            f"       {x_label}",
            f"       {legend}",
        ]
    )


def _decades(xs: Sequence[float]) -> tuple[float, float]:
    low, high = log10(min(xs)), log10(max(xs))
    pad = max(0.05, (high - low) * 0.04)
    return low - pad, high + pad


def _scale(ys: Sequence[float]) -> list[float]:
    """Round accuracies from 0 to just above the highest, at most six of them."""
    highest = min(1.0, max(*ys, 0.05))
    step = next(step for step in (0.02, 0.05, 0.1, 0.2) if ceil(highest / step - 1e-9) <= 5)
    return [step * place for place in range(ceil(highest / step - 1e-9) + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two powers of ten: the sparsest set of them that has at least four, at most about ten."""
    ticks: list[float] = []
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        powers = range(floor(low), ceil(high) + 1)
        ticks = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
        ticks = [tick for tick in ticks if low <= log10(tick) <= high]
        if len(ticks) >= 4:
            break
    return ticks


def _short(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"
