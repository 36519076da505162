"""Exact numbers: found in a text, or as the value of plain arithmetic. Values are `Fraction`, so 18.00 equals 18."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fractions import Fraction

_MOST_DIGITS = 400
"""Longer numbers are no answers, and 1e999999999 would not fit the memory."""

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<!\.)\.\d+)"

_NUMBER = re.compile(
    rf"""
    (?<!\w)(?<!\d\.)
    (?P<sign>(?<![\w)\]}}])[-−–])?[$€£]?(?P<sign2>[-−–])?
    (?:
        (?:(?P<whole>\d+)\s*)? \\[dt]?frac\s*\{{\s*(?P<top>-?{_PLAIN})\s*\}}\s*\{{\s*(?P<under>-?{_PLAIN})\s*\}}
      | (?P<mixed>\d+)\s+(?P<part>\d+)/(?P<of>\d+)(?![\d./])
      | (?P<plain>{_PLAIN}) (?!\d)
        (?: [eE](?P<exponent>[-+]?\d+)\b
          | \s*(?:\\times|\\cdot|[×x*])\s*10\s*\^\s*\{{?(?P<power>[-−]?\d+)\}}?
          | \^\{{?(?P<raised>-?\d+)\}}?
          | \s*/\s*(?P<denominator>{_PLAIN})(?![\d/])
          | (?!(?:st|nd|rd|th)\b)
        )
    )
    """,
    re.VERBOSE,
)

_LATEX_SPACING = re.compile(r"\\[!,;]|\{,\}|\\(?=[$%])")


def numbers(text: str) -> Iterator[Fraction]:
    """Every number in the text, in order.

    Knows thousands separators, signs, currency, decimals, `3/4`, `2 1/2`, `\\frac{3}{4}`, `1.5e3`, `1.5 \\times 10^3`.
    A percent sign and units are left out: 25% is 25. An ordinal (`2nd`) is no number, nor is a division by zero.
    """
    for match in _NUMBER.finditer(_LATEX_SPACING.sub(_plain_spacing, text)):
        value = _value(match)
        if value is not None:
            yield value


def _plain_spacing(match: re.Match[str]) -> str:
    return "," if match[0] == "{,}" else ""


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > _MOST_DIGITS:
        return None
    found = {name: text.replace(",", "").replace("−", "-") for name, text in match.groupdict().items() if text}
    try:
        value = _unsigned(found)
    except (ZeroDivisionError, OverflowError):
        return None
    return -value if "sign" in found or "sign2" in found else value


def _unsigned(found: dict[str, str]) -> Fraction:
    if "top" in found:
        return int(found.get("whole", "0")) + Fraction(found["top"]) / Fraction(found["under"])
    if "mixed" in found:
        return int(found["mixed"]) + Fraction(int(found["part"]), int(found["of"]))
    value = Fraction(found["plain"])
    if "denominator" in found:
        return value / Fraction(found["denominator"])
    if "raised" in found:
        return power(value, Fraction(found["raised"]))
    exponent = found.get("exponent") or found.get("power")
    return value * power(Fraction(10), Fraction(exponent)) if exponent else value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """`base` to a whole exponent; `OverflowError` where the result has too many digits or is irrational."""
    size = max(len(str(base.numerator)), len(str(base.denominator)))
    if exponent.denominator != 1 or abs(exponent) * size > _MOST_DIGITS:
        raise OverflowError("the power is irrational or too long")
    return base ** int(exponent)


def canonical(value: Fraction) -> str:
    """`18` or `3/4`."""
    return str(value)


_SYMBOLS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_LATEX_SYMBOLS = re.compile(r"\\(times|cdot|div|left|right)(?![a-zA-Z])")
_ARITHMETIC = re.compile(r"[-+*/^().\d\s]{1,200}")


def arithmetic(text: str) -> Fraction | None:
    """The exact value of plain arithmetic such as `(9 - 1) * (2 + 2/4)`; `None` for anything else."""
    plain = _LATEX_SYMBOLS.sub(lambda match: {"div": "/", "left": "", "right": ""}.get(match[1], "*"), text)
    plain = plain.translate(_SYMBOLS).strip()
    if not _ARITHMETIC.fullmatch(plain):
        return None
    try:
        return _evaluate(ast.parse(plain.replace("^", "**"), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Fraction(repr(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _evaluate(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _evaluate(left) + _evaluate(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _evaluate(left) - _evaluate(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _evaluate(left) * _evaluate(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _evaluate(left) / _evaluate(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return power(_evaluate(left), _evaluate(right))
        case _:
            raise SyntaxError("not plain arithmetic")
