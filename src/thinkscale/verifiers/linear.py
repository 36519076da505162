"""Exact values: numbers, and multiples of one unknown."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

from thinkscale.verifiers.numbers import power

_LARGEST_BITS = 2000


class Unreadable(Exception):
    """No arithmetic that can be read and computed exactly, or too large to be."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + slope * symbol`; a plain number where `symbol` is empty.

    What leaves that form, divides by nothing or grows too large raises `Unreadable`.
    """

    constant: Fraction
    slope: Fraction = Fraction(0)
    symbol: str = ""

    def __add__(self, other: Linear) -> Linear:
        if self.symbol and other.symbol and self.symbol != other.symbol:
            raise Unreadable
        return _bounded(self.constant + other.constant, self.slope + other.slope, self.symbol or other.symbol)

    def __neg__(self) -> Linear:
        return Linear(-self.constant, -self.slope, self.symbol)

    def __sub__(self, other: Linear) -> Linear:
        return self + -other

    def __mul__(self, other: Linear) -> Linear:
        if self.symbol and other.symbol:
            raise Unreadable
        factor, linear = (other.constant, self) if self.symbol else (self.constant, other)
        return _bounded(linear.constant * factor, linear.slope * factor, linear.symbol)

    def __truediv__(self, other: Linear) -> Linear:
        if other.symbol or not other.constant:
            raise Unreadable
        return self * Linear(1 / other.constant)

    def __floordiv__(self, other: Linear) -> Linear:
        if self.symbol or other.symbol or not other.constant:
            raise Unreadable
        return Linear(Fraction(self.constant // other.constant))

    def __pow__(self, exponent: Linear) -> Linear:
        if self.symbol or exponent.symbol:
            raise Unreadable
        try:
            return Linear(power(self.constant, exponent.constant))
        except (OverflowError, ZeroDivisionError):
            raise Unreadable from None

    def root(self) -> Linear:
        """The square root, where it is rational."""
        if self.symbol or self.constant < 0:
            raise Unreadable
        root = Fraction(isqrt(self.constant.numerator), isqrt(self.constant.denominator))
        if root * root != self.constant:
            raise Unreadable
        return Linear(root)


def _bounded(constant: Fraction, slope: Fraction, symbol: str) -> Linear:
    if max(part.bit_length() for part in (*constant.as_integer_ratio(), *slope.as_integer_ratio())) > _LARGEST_BITS:
        raise Unreadable
    return Linear(constant, slope, symbol if slope else "")
