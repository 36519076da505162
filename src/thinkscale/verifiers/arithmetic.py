"""Checking the arithmetic that a step states, exactly and without a model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from fractions import Fraction

from thinkscale.types import Request, Verdict
from thinkscale.verifiers.base import Generate
from thinkscale.verifiers.notation import words
from thinkscale.verifiers.quantities import PLAIN, Quantity, Reading
from thinkscale.verifiers.statements import Side, Statement, statements
from thinkscale.verifiers.steps import Solution

_SMALL = Fraction(1, 100)
_CONVERSIONS = {Fraction(factor) for factor in (7, 12, 24, 30, 52, 60, 100, 365, 1000, 3600)}
_MEASURES = words(
    "second minute hour day week month year cent dollar $ dime quarter inch inche foot feet yard mile meter centimeter "
    "kilometer cm km gram kg kilogram ounce pound liter ml dozen"
)
# A step that says such things may state what is wrong on purpose.
_DOUBTS = re.compile(
    r"\b(?:not|incorrect|wrong|false|mistake|contradict\w*|impossible|invalid|suppose|guess|try)\b|n['’]t\b",
    re.IGNORECASE,
)
# A step that says such things may speak of one unknown in several ways.
_CASES = re.compile(r"\b(?:if|cases?|either|or|both(?! sides))\b", re.IGNORECASE)

Rounded = dict[Fraction, Fraction]
"""Numbers that were rounded, with what they stand for."""


class Arithmetic:
    """Checks the equations and plain quantities of each step: `12 * 4 = 48`, `20% of 50 is 10`, `x = 3` after `2x = 6`.

    A step scores 1 where all that it states holds, 0 where something does not, and `None` where it states nothing that
    can be checked. Results may be rounded, or cut off, at the digits that they show. What could be meant in several
    ways fails only if it holds in none; what is unclear never fails. Needs no model and costs no tokens. Whether the
    right thing is computed it does not judge.
    """

    name = "arithmetic"

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        verdicts = []
        for solution in solutions:
            verdicts.append(list(_verdicts(solution)))
            await asyncio.sleep(0)  # a step takes about a millisecond: let others run
        return verdicts


def _verdicts(solution: Solution) -> Iterator[Verdict]:
    rounded: Rounded = {}
    for place, step in enumerate(solution.steps):
        verdict = check(step, rounded)
        if place >= solution.judged:
            yield verdict


def check(step: str, rounded: Rounded | None = None) -> Verdict:
    """The verdict on one step. `rounded` is what earlier steps rounded, and grows."""
    rounded = {} if rounded is None else rounded
    text, found = statements(step)
    certain = not _DOUBTS.search(step)
    one_case = not _CASES.search(step)
    held = 0
    unknown: tuple[str, Fraction] | None = None
    for statement in _with_implied(found):
        outcome = _outcome(statement, rounded)
        if outcome is _Outcome.WRONG and certain and not statement.loose:
            return Verdict(0.0, passed=False, reason=_why_wrong(text, statement))
        held += outcome is _Outcome.RIGHT
        solved = None if statement.loose else _solution(statement)
        if solved is None:
            continue
        if unknown and solved[0] == unknown[0] and one_case:
            if certain and not _near(solved[1], unknown[1]):
                told = f"{_written(text, statement)} does not follow: {unknown[0]} was {_shown(unknown[1])}"
                return Verdict(0.0, passed=False, reason=told)
            held += 1
        unknown = None if _is_value(statement) else solved  # once its value is told, a letter may be used anew
    if not held:
        return Verdict(None, reason="it states nothing that can be checked")
    return Verdict(1.0, passed=True, reason=f"{held} statements hold" if held > 1 else "1 statement holds")


# -- what statements imply together --------------------------------------------------------------------------------


def _with_implied(found: Sequence[Statement]) -> Iterator[Statement]:
    """The statements, and what they imply: a quantity named twice in a row is the same while its computation goes on.

    `Total = 52 + 24. Total = 86.` says that 52 + 24 = 86. After `Total = 76` another `Total = 76 - 2` begins anew.
    """
    name, before = "", None
    for statement in found:
        if statement.name:
            if statement.name == name and before is not None and _is_compound(before.right):
                loose = statement.loose or before.loose
                yield Statement(before.right, statement.right, statement.about, loose, name)
            name = statement.name
        before = statement
        if statement.left is not None:
            yield statement


def _is_compound(side: Side) -> bool:
    found = side.read()
    return found is not None and found.compound


def _solution(statement: Statement) -> tuple[str, Fraction] | None:
    """The unknown of a linear equation and its value; `None` for any other statement."""
    left, right = _both(statement, PLAIN)
    if left is None or right is None or left.percent or right.percent:
        return None
    a, b = left.value, right.value
    if (a.symbol and b.symbol and a.symbol != b.symbol) or a.slope == b.slope:
        return None
    return a.symbol or b.symbol, (b.constant - a.constant) / (a.slope - b.slope)


def _is_value(statement: Statement) -> bool:
    return bool(statement.name) and not _is_compound(statement.right)


# -- one statement -------------------------------------------------------------------------------------------------


class _Outcome(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    OPEN = "open"


def _outcome(statement: Statement, rounded: Rounded) -> _Outcome:
    left, right = _both(statement, PLAIN)
    if left is None or right is None:
        return _Outcome.OPEN
    for reading in _readings(left, right, rounded):
        ours, theirs = _both(statement, reading)
        for stated in (right, theirs):
            if ours and stated and _agree(ours, stated, statement.about):
                _remember(ours, stated, rounded)
                return _Outcome.RIGHT
    if left.value.symbol or right.value.symbol:
        return _Outcome.WRONG if _never_equal(statement, left, right) else _Outcome.OPEN
    if _carries_rounding(left, right, rounded):
        _remember(left, right, rounded)
        return _Outcome.OPEN
    return _Outcome.OPEN if _excused(left, right) else _Outcome.WRONG


def _both(statement: Statement, reading: Reading) -> tuple[Quantity | None, Quantity | None]:
    left = None if statement.left is None else statement.left.read(reading)
    return left, statement.right.read(reading)


def _readings(left: Quantity, right: Quantity, rounded: Rounded) -> Iterator[Reading]:
    yield PLAIN
    if left.percent or right.percent:
        yield Reading(percent="number")
        yield Reading(percent="change")
    if left.scaled or right.scaled:
        yield Reading(scaled=False)
    if not rounded.keys().isdisjoint(left.numbers):
        yield Reading(exact=rounded)


def _agree(left: Quantity, right: Quantity, about: bool) -> bool:
    a, b = left.value, right.value
    if a == b:
        return True
    if a.symbol or b.symbol:
        return False
    if right.compound and right.numbers[0] == a.constant:
        return True  # 5 + 3 = 8 * 2 = 16 goes on from its result
    return (
        (not right.compound and _rounds(a.constant, right, about))
        or (not left.compound and _rounds(b.constant, left, about))
        or (about and _near(a.constant, b.constant))
    )


def _rounds(exact: Fraction, stated: Quantity, about: bool) -> bool:
    """Whether `stated` is `exact` rounded, or cut off, at the digits it shows."""
    value = stated.value.constant
    unit = Fraction(1, 10**stated.places)
    while about and value and unit >= 1 and value % (unit * 10) == 0:
        unit *= 10
    return (exact / unit).denominator > 1 and abs(exact - value) < unit


def _remember(exact: Quantity, stated: Quantity, rounded: Rounded) -> None:
    a, b = exact.value, stated.value
    if a != b and not stated.compound and not a.symbol and not b.symbol:
        rounded[b.constant] = a.constant


def _never_equal(statement: Statement, left: Quantity, right: Quantity) -> bool:
    """Whether two different expressions of one unknown are wrong, rather than an equation to be solved.

    They are where both compute the same named quantity, and where only 0 would solve them.
    """
    a, b = left.value, right.value
    return a.symbol == b.symbol and ((bool(statement.name) and left.compound) or not (a.constant or b.constant))


def _carries_rounding(left: Quantity, right: Quantity, rounded: Rounded) -> bool:
    """Whether rounding, in numbers that were rounded before, can explain the difference."""
    a, b = left.value.constant, right.value.constant
    error = sum(abs(1 - rounded[number] / number) for number in left.numbers if number and number in rounded)
    return error > 0 and abs(a - b) <= 2 * error * abs(a) + Fraction(1, 10**right.places)


def _excused(left: Quantity, right: Quantity) -> bool:
    """Whether two sides that differ may still be meant to be the same, or be no claim at all."""
    a, b = left.value.constant, right.value.constant
    if left.loose or right.loose or right.share or right.scaled:
        return True
    dozens = left.scaled and not left.compound and right.units <= left.units
    if not (left.compound or right.compound or dozens):
        return True
    if not left.compound and not dozens and (left.units - {"$"} or right.percent):
        return True  # 2 weeks = 7 * 2, or 48 = 100% + 20%
    if left.signs == "/" and abs(a) < 1 <= abs(b):
        return True  # 4/7 equals $24: of something
    measured = right.units & _MEASURES
    if measured and measured != left.units & _MEASURES and a and b and {abs(a / b), abs(b / a)} & _CONVERSIONS:
        return True  # 2 * 60 minutes = 2 hours
    if any(len({frozenset(term) for term in side.terms if term}) > 1 for side in (left, right)):
        return True  # 1 hour + 30 minutes
    return left.compound and right.compound and left.decimal and _near(a, b)


def _near(a: Fraction, b: Fraction) -> bool:
    return abs(a - b) <= max(abs(a), abs(b)) * _SMALL


# -- what people are told ------------------------------------------------------------------------------------------


def _why_wrong(text: str, statement: Statement) -> str:
    left, _right = _both(statement, PLAIN)
    told = f"{_written(text, statement)} is wrong"
    return told if left is None or left.value.symbol else f"{told}: it is {_shown(left.value.constant)}"


def _written(text: str, statement: Statement) -> str:
    sides = []
    for side, found in zip((statement.left, statement.right), _both(statement, PLAIN), strict=True):
        if side is not None and found is not None:
            first, last = side.tokens[side.start], side.tokens[found.end - 1]
            sides.append(" ".join(text[first.start : last.end].split()))
    return " = ".join(sides)


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.6g}"
