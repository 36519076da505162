"""Reading an expression with its units, exactly, by a small whitelist grammar: nothing in it can run or grow large.

    sum     = term (("+" | "-") term)*
    term    = factor (("*" | "/" | "//" | "of") factor | "(" sum ")")*
    factor  = ["-"] operand ["%"] ["^" factor] [symbol] units
    operand = number | symbol | "(" sum ")" | frac "(" sum ")" "(" sum ")" | sqrt operand

Units are words, `/word`, and remarks in parentheses; they are noted and read over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from thinkscale.verifiers.linear import Linear, Unreadable
from thinkscale.verifiers.notation import Token, words

DEEPEST = 12

_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_MORE_THAN_UNITS = words(
    "of times than less percent squared cubed factorial choose mod modulo remainder to am pm noon point by x"
)
_GLUED_UNITS = words("kg mg cm mm km ft lb lbs oz min mins hr hrs sec mph ml kb mb gb cents yd sq")
_CLAUSES = words(
    "because and so is are was were be that which but or if then thus since when while where has have had leads gives "
    "means makes leaves let we they he she it"
)
_PERIODS = words(
    "second minute hour hr day week month year person people each mile foot meter pound item unit student kg"
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One of the ways in which people write: what `%` stands for, and whether `dozen` is a number or a unit.

    `percent`: `hundredth` reads 20% as 0.2, `number` as 20, and `change` reads 50 + 20% as 60. `scaled`: 5 dozen is 60.
    `exact`: what numbers stand for that were rounded before.
    """

    percent: Literal["hundredth", "number", "change"] = "hundredth"
    scaled: bool = True
    exact: Mapping[Fraction, Fraction] = field(default_factory=dict)


PLAIN = Reading()


@dataclass(slots=True)
class Quantity:
    """An expression that was read, up to token `end`, under one reading.

    `signs`: the operations in it, by one character each (`o` for `of`, `√`). `places`: the decimals of its last number,
    two more where a percent sign divides it. `numbers`: those written in it, in order. `units`: the words and signs at
    its numbers; `terms`: those of each term of the sum. `loose`: it could be meant otherwise. `percent`, `scaled`,
    `decimal`: it holds a percentage, a scale such as `dozen`, a decimal fraction.
    """

    value: Linear
    end: int
    signs: str = ""
    places: int = 0
    numbers: list[Fraction] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    terms: list[set[str]] = field(default_factory=list)
    loose: bool = False
    percent: bool = False
    scaled: bool = False
    decimal: bool = False

    @property
    def compound(self) -> bool:
        """Whether it computes something."""
        return bool(self.signs)

    @property
    def share(self) -> bool:
        """Whether it says `of`."""
        return "o" in self.signs


def read(tokens: Sequence[Token], start: int = 0, reading: Reading = PLAIN) -> Quantity:
    """The longest expression that begins at token `start`; `Unreadable` where there is none."""
    return _Reader(tokens, start, reading).read()


def begins(tokens: Sequence[Token], at: int) -> bool:
    """Whether an expression can begin at token `at`."""
    if at >= len(tokens):
        return False
    token = tokens[at]
    if token.kind == "operator" and token.text == "-":
        following = tokens[at + 1] if at + 1 < len(tokens) else token
        return following.kind != "operator" and not following.spaced and begins(tokens, at + 1)
    if token.kind == "word":
        return _is_symbol(token) and (at + 1 >= len(tokens) or tokens[at + 1].kind in ("operator", "close"))
    return token.kind in ("number", "open", "fraction", "root")


class _Reader:
    def __init__(self, tokens: Sequence[Token], start: int, reading: Reading) -> None:
        self._tokens = tokens
        self._at = start
        self._reading = reading
        self._depth = 0
        self._found = Quantity(Linear(Fraction(0)), start)

    def read(self) -> Quantity:
        self._found.value = self._sum()
        self._found.end = self._at
        return self._found

    # -- the grammar -----------------------------------------------------------------------------------------------

    def _sum(self) -> Linear:
        total = self._term()
        while (sign := self._operator("+", "-")) and begins(self._tokens, self._at + 1):
            self._at += 1
            self._found.loose |= self._found.share  # 10% of 400 + 80
            self._found.signs += sign
            change = self._reading.percent == "change" and "percent" in (self._kind(), self._kind(1))
            term = self._term()
            if change:
                term = total * term
            total = total + term if sign == "+" else total - term
        return total

    def _term(self) -> Linear:
        found, before = self._found, self._found.units
        found.units = set()
        value = self._factor()
        divided = False
        while True:
            operator = self._operator("*", "/", "//", "of")
            if operator == "of" and self._kind(-1) != "percent" and value.constant.denominator == 1:
                break
            if operator and begins(self._tokens, self._at + 1):
                self._at += 1
                found.loose |= divided and operator == "/"  # 25 / 1/3 is often meant as 25 / (1/3)
                divided |= operator == "/"
                found.signs += operator[0]
                value = _combined(operator, value, self._factor())
            elif self._multiplies():
                found.signs += "*"
                value = value * self._factor()
            else:
                break
        if not self._depth:
            found.terms.append(set(found.units))
        found.units |= before
        return value

    def _factor(self) -> Linear:
        if self._operator("-"):
            self._at += 1
            return -self._unsigned()
        return self._unsigned()

    def _unsigned(self) -> Linear:
        value = self._operand()
        if self._kind() == "percent":
            self._at += 1
            self._found.percent = True
            if self._reading.percent != "number":
                self._found.places += 2
                value = value / Linear(Fraction(100))
        if self._operator("^") and begins(self._tokens, self._at + 1):
            self._at += 1
            self._found.signs += "^"
            value = value ** self._nested(self._factor)
        following = self._peek()
        if following and _is_symbol(following) and not (following.spaced and following.text == "a"):
            self._at += 1
            value = value * Linear(Fraction(0), Fraction(1), following.text)
        self._units()
        return value

    def _operand(self) -> Linear:
        token = self._peek()
        if token is None:
            raise Unreadable
        if token.kind == "open":
            return self._group()
        self._at += 1
        if token.kind == "number":
            return self._number(token)
        if token.kind == "fraction":
            self._found.signs += "/"
            return self._group() / self._group()
        if token.kind == "root":
            self._found.signs += "√"
            return self._nested(self._operand).root()
        if token.kind == "word" and begins(self._tokens, self._at - 1):
            return Linear(Fraction(0), Fraction(1), token.text)
        raise Unreadable

    def _number(self, token: Token) -> Linear:
        found = self._found
        found.numbers.append(token.value)
        found.places = token.places
        found.decimal |= token.places > 0
        if token.money:
            found.units.add("$")
        value = Linear(self._reading.exact.get(token.value, token.value))
        following = self._peek()
        if following and following.kind == "fraction" and token.value.denominator == 1:
            found.loose = True  # 2\frac{1}{2}: a mixed number, though some mean a product
            return value + self._operand()
        scale = _SCALES.get(_singular(following.text)) if following else None
        if scale:
            self._at += 1
            found.scaled = True
            if self._reading.scaled:
                return value * Linear(Fraction(scale))
        return value

    def _group(self) -> Linear:
        if self._kind() != "open":
            raise Unreadable
        self._at += 1
        value = self._nested(self._sum)
        if self._kind() != "close":
            raise Unreadable
        self._at += 1
        return value

    def _nested(self, rule: Callable[[], Linear]) -> Linear:
        if self._depth == DEEPEST:
            raise Unreadable
        self._depth += 1
        value = rule()
        self._depth -= 1
        return value

    def _multiplies(self) -> bool:
        """Whether an open parenthesis multiplies what stands before it."""
        if self._kind() != "open":
            return False
        before = self._tokens[self._at - 1]
        self._found.loose |= self._tokens[self._at].spaced
        return before.kind in ("number", "close") or _is_symbol(before)

    # -- units and remarks -----------------------------------------------------------------------------------------

    def _units(self) -> None:
        first = True
        while (token := self._peek()) is not None:
            if token.kind == "word" and token.text.lower() not in _CLAUSES:
                self._unit(token, first)
                self._at += 1
            elif self._operator("/") and self._is_rate(first):
                self._found.units.add("/" + _singular(self._tokens[self._at + 1].text))
                self._at += 2
            elif self._operator("^") and not first and self._kind(1) == "number":
                self._at += 2  # cm^2
            elif token.kind == "open" and (end := self._end_of_remark(first)):
                self._at = end
            else:
                break
            first = False

    def _unit(self, token: Token, first: bool) -> None:
        word = token.text.lower()
        glued = first and not token.spaced and self._kind(-1) in ("number", "close") and word not in _GLUED_UNITS
        if glued or word[-1].isdigit() or word == "x" or (first and word in _MORE_THAN_UNITS):
            raise Unreadable
        self._found.units.add(_singular(word))

    def _is_rate(self, first: bool) -> bool:
        """Whether a slash begins a unit such as /egg, rather than a division by something unknown."""
        slash, following = self._tokens[self._at], self._peek(1)
        if following is None or following.kind != "word":
            return False
        if len(following.text) == 1:
            return not first and not slash.spaced
        return not first or _singular(following.text) in _PERIODS or not (slash.spaced or following.spaced)

    def _end_of_remark(self, after_number: bool) -> int:
        """Where a remark in parentheses ends, such as (from step 2); 0 where they hold a factor."""
        end, depth, said, numbers = self._at + 1, 1, 0, 0
        while end < len(self._tokens) and depth:
            token = self._tokens[end]
            depth += (token.kind == "open") - (token.kind == "close")
            said += token.kind == "word" and not _is_symbol(token)
            numbers += token.kind in ("number", "fraction")
            end += 1
        spaced = self._tokens[self._at].spaced
        if depth or (after_number and not said) or (after_number and not spaced and numbers):
            return 0
        self._found.loose |= not said or (after_number and not spaced)
        return end

    # -- looking ---------------------------------------------------------------------------------------------------

    def _peek(self, ahead: int = 0) -> Token | None:
        at = self._at + ahead
        return self._tokens[at] if 0 <= at < len(self._tokens) else None

    def _kind(self, ahead: int = 0) -> str:
        token = self._peek(ahead)
        return token.kind if token else ""

    def _operator(self, *signs: str) -> str:
        token = self._peek()
        return token.text if token is not None and token.kind == "operator" and token.text in signs else ""


def _is_symbol(token: Token) -> bool:
    """Whether a word is an unknown: `x` or `O_c`."""
    return token.kind == "word" and (len(token.text) == 1 or token.text[1] == "_") and token.text != "I"


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _combined(operator: str, left: Linear, right: Linear) -> Linear:
    if operator == "/":
        return left / right
    return left // right if operator == "//" else left * right
