"""Calculations with given whole numbers: reading one safely, and finding one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

_LONGEST = 200
_SYMBOLS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-"})
_LATEX = re.compile(r"\\(times|cdot|div)(?![a-zA-Z])")
_CALCULATION = re.compile(r"[-+*/()\d\s]+")


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of a calculation, and the numbers it uses in their order.

    Whole numbers with + - * / (or × ÷ −) and parentheses, at most 200 characters; a value that is stated behind it
    (`6 * 3 + 7 = 25`) is left out. `None` for anything else, signs and powers included, and for a division by zero.
    """
    calculation = text[: _LONGEST + 1].partition("=")[0]
    if len(calculation) > _LONGEST:
        return None
    plain = _LATEX.sub(lambda match: "/" if match[1] == "div" else "*", calculation).translate(_SYMBOLS).strip()
    if not _CALCULATION.fullmatch(plain):
        return None
    numbers: list[int] = []
    try:
        # Only the syntax tree: nothing is ever compiled or run.
        value = _value(ast.parse(plain, mode="eval").body, numbers)
    except (SyntaxError, ZeroDivisionError):
        return None
    return value, numbers


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            numbers.append(number)
            return Fraction(number)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as operator, right=right):
            a, b = _value(left, numbers), _value(right, numbers)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
            return a / b
    raise SyntaxError("not a calculation")


def reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether a text is a calculation that uses each of the numbers exactly once and comes to the target."""
    found = evaluate(text)
    return found is not None and found[0] == target and sorted(found[1]) == sorted(numbers)


def solve(numbers: Sequence[int], target: int) -> str | None:
    """A calculation with + - * / that uses each number once and comes to the target; `None` if there is none."""
    found = _combine([(Fraction(number), str(number)) for number in numbers], Fraction(target))
    return found[1:-1] if found is not None and len(numbers) > 1 else found


def _combine(terms: list[tuple[Fraction, str]], target: Fraction) -> str | None:
    if len(terms) == 1:
        value, text = terms[0]
        return text if value == target else None
    for i, j in combinations(range(len(terms)), 2):
        rest = [term for place, term in enumerate(terms) if place not in (i, j)]
        for joined in _joined(terms[i], terms[j]):
            found = _combine([*rest, joined], target)
            if found is not None:
                return found
    return None


def _joined(one: tuple[Fraction, str], other: tuple[Fraction, str]) -> Iterator[tuple[Fraction, str]]:
    (a, left), (b, right) = one, other
    yield a + b, f"({left} + {right})"
    yield a * b, f"({left} * {right})"
    yield a - b, f"({left} - {right})"
    yield b - a, f"({right} - {left})"
    if b:
        yield a / b, f"({left} / {right})"
    if a:
        yield b / a, f"({right} / {left})"
