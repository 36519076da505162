"""Intervals against known values, and drawings that hold what they claim."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from thinkscale.optimize.chart import Point, Series, svg, terminal
from thinkscale.optimize.report import page, shown, table
from thinkscale.optimize.stats import paired_difference, pass_at_k, wilson


def test_wilson_intervals_match_published_values() -> None:
    """Newcombe (1998), table of 81 of 263 and 15 of 148: the score method without continuity correction."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_paired_difference_uses_the_pairing() -> None:
    """The same gain on every problem is certain, however much the problems differ."""
    theirs = [0.0, 1.0, 0.0, 1.0, 0.0]
    mean, low, high = paired_difference([value + 0.5 for value in theirs], theirs)
    assert mean == low == high == pytest.approx(0.5)


def test_a_paired_difference_covers_zero_for_noise() -> None:
    ours, theirs = [1.0, 0.0] * 30, [0.0, 1.0] * 30
    mean, low, high = paired_difference(ours, theirs)
    assert mean == 0
    assert low < 0 < high


@pytest.mark.parametrize(("n", "correct", "k", "expected"), [(10, 0, 5, 0.0), (10, 10, 1, 1.0), (10, 3, 1, 0.3)])
def test_pass_at_k(n: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(n, correct, k) == pytest.approx(expected)


def test_pass_at_k_counts_combinations() -> None:
    """1 - C(7, 2) / C(10, 2)."""
    assert pass_at_k(10, 3, 2) == pytest.approx(1 - 21 / 45)


SERIES = [
    Series("vote & <co>", [Point(100, 0.1, 0.05, 0.2, "n=1"), Point(6400, 0.4, 0.3, 0.5, "n=64")]),
    Series("checked", [Point(100, 0.1, 0.05, 0.2, "n=1"), Point(6400, 0.9, 0.8, 1.0, "n=64")], dashed=True),
]


def test_the_chart_is_well_formed_and_places_points_in_order() -> None:
    root = ElementTree.fromstring(svg("A < B", SERIES, x_label="tokens"))
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 4
    xs = [float(circle.attrib["cx"]) for circle in circles]
    ys = [float(circle.attrib["cy"]) for circle in circles]
    assert xs[0] == xs[2] < xs[1] == xs[3]
    assert ys[3] < ys[1] < ys[0], "higher accuracy is drawn higher"
    assert "vote & <co>" in "".join(root.itertext())


def test_a_single_point_can_be_drawn() -> None:
    ElementTree.fromstring(svg("one", [Series("single", [Point(1, 0.0, 0.0, 0.1)])], x_label="tokens"))
    assert "single" in terminal("one", [Series("single", [Point(1, 0.0, 0.0, 0.1)])], x_label="tokens")


def test_the_terminal_chart_names_its_series() -> None:
    drawn = terminal("title", SERIES, x_label="tokens")
    assert "checked" in drawn
    assert "tokens" in drawn
    assert max(map(len, drawn.splitlines())) <= 90


def test_the_page_is_self_contained_and_escapes_what_it_shows() -> None:
    content = page("<title>", "a & b", [("figures", table({"a": "A"}, [{"a": "<b>"}]))], made_by="cmd <x>")
    assert "<b>" not in content
    assert "&lt;b&gt;" in content
    for outside in ("http://", "https://", "src="):
        assert outside not in content


def test_unknown_is_a_dash_never_a_zero() -> None:
    assert shown(None) == "–"
    assert shown(0.0) == "0.000"
    assert shown(1234567) == "1,234,567"
