"""The equations that a text states: what stands on both sides of each equals sign, and how sure their limits are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from thinkscale.verifiers.linear import Unreadable
from thinkscale.verifiers.notation import Token, simplified, tokens, words
from thinkscale.verifiers.quantities import DEEPEST, PLAIN, Quantity, Reading, begins, read

_LONGEST_TEXT = 10_000
_MOST_TOKENS = 400
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")  # of GSM8K's calculator

_HEDGES = words("approximately about around roughly nearly almost only just exactly")
_SAYS = words("is are makes gives leaves yields")
_LEADS = words("so then thus therefore hence now we have get and the that this means is or finally")
_CONJUNCTIONS = words("and so then thus because where which but while")
# A computation begins after these, whatever number stood before.
_OPENINGS = words(
    "is are was were has have had so then thus therefore get gets got gives left us means that's buys spends calculate "
    "makes made earns costs need needs needed do where since because compute total"
)
# What stands before an expression and takes part in it, or numbers it.
_CLAIMS = words(
    "of for times twice half double triple than step day week month year part problem question item number chapter "
    "hour group over per plus minus less more"
)
_COMPARES = words("many much than")
_JOINS = words("and by from to with")  # with a number before: add 5 to 3 + 4
# After the number that a sentence gives as a result, these make it another number.
_CHANGES = words(
    "more less fewer greater higher lower times percent of out or to larger smaller bigger longer above below over"
)


@dataclass(frozen=True, slots=True)
class Side:
    """The tokens of one side of an equation, and the place where its expression begins."""

    tokens: Sequence[Token]
    start: int

    def read(self, reading: Reading = PLAIN) -> Quantity | None:
        """Its quantity; `None` where it cannot be read so."""
        try:
            return read(self.tokens, self.start, reading) if begins(self.tokens, self.start) else None
        except Unreadable:
            return None


@dataclass(frozen=True, slots=True)
class Statement:
    """`left` equals `right`. `about`: it is said to be rounded.

    `loose`: the text may mean something else, so that only agreement counts. `name` is what the left side calls the
    quantity, in lower case, where that is no computation; `left` is `None` then, unless the name is a symbol. What goes
    on in a chain `a = b = c` has no name.
    """

    left: Side | None
    right: Side
    about: bool
    loose: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Tokens without a break between them.

    `follows`: they may be the rest of a list or of a broken line. `loose`: what they state is asked, or may go on.
    """

    tokens: list[Token]
    follows: bool = False
    loose: bool = False


@lru_cache(maxsize=256)  # a search asks about the steps of a branch again and again
def statements(text: str) -> tuple[str, tuple[Statement, ...]]:
    """The simplified text, to which the tokens refer, and what it states, in order. Too long a text states nothing."""
    if len(text) > _LONGEST_TEXT:
        return "", ()
    plain = "\n".join(map(simplified, (_ANNOTATION.sub("", text), *_ANNOTATION.findall(text))))
    return plain, tuple(statement for segment in _segments(plain) for statement in _stated(segment))


def _segments(text: str) -> list[_Segment]:
    """The text's segments in order. Parentheses that state something are segments of their own, and leave no trace."""
    found: list[_Segment] = []
    stack: list[list[Token]] = [[]]
    for token in tokens(text):
        if token.kind == "open" and len(stack) <= DEEPEST:
            stack.append([token])
        elif token.kind == "close" and len(stack) > 1:
            group = stack.pop()
            if any(inner.kind in ("relation", "break") for inner in group):
                found.extend(_split(group[1:]))
            else:
                stack[-1].extend([*group, token])
        elif token.kind in ("open", "close"):
            stack[-1].append(token._replace(kind="break"))
        else:
            stack[-1].append(token)
    for level in stack:
        found.extend(_split(level))
    return sorted(found, key=lambda segment: segment.tokens[0].start)


def _split(run: Sequence[Token]) -> Iterator[_Segment]:
    segment: list[Token] = []
    follows = False
    for token in run:
        if token.kind != "break":
            segment.append(token)
            continue
        if segment:
            yield _Segment(segment, follows, loose=token.text == "?")
        last = segment[-1].kind if segment else ""
        stated = any(one.kind == "relation" for one in segment)
        follows = last == "operator" or (token.text == "," and last == "number" and not stated)
        segment = []
    if segment:
        yield _Segment(segment, follows)


def _stated(segment: _Segment) -> Iterator[Statement]:
    run = segment.tokens
    if len(run) > _MOST_TOKENS:
        return
    signs = [place for place, token in enumerate(run) if token.kind == "relation"]
    if anew := _named_anew(run, signs):
        yield from _stated(_Segment(run[:anew], segment.follows))
        yield from _stated(_Segment(run[anew:], loose=segment.loose))
        return
    if joint := _joint(run, signs):
        yield from _stated(_Segment(run[:joint], segment.follows, loose=True))
        yield from _stated(_Segment(run[joint + 1 :], True, segment.loose))
        return
    ends = [-1, *signs, len(run)]
    for number, place in enumerate(signs, start=1):
        left, right = run[ends[number - 1] + 1 : place], run[place + 1 : ends[number + 1]]
        found = _left(left, chained=number > 1, follows=segment.follows)
        answer = _right(right, chained=number < len(signs))
        name = _name(left) if number == 1 else ""
        if answer and (found or name):
            about = run[place].text == "≈" or answer.start > 0
            loose = segment.loose or (found is not None and found[1]) or _goes_on(answer)
            yield Statement(found[0] if found else None, answer, about, loose, name)
    for start, end in pairwise(ends):
        yield from _said(run[start + 1 : end], segment, chained=end < len(run))


def _named_anew(run: list[Token], signs: Sequence[int]) -> int:
    """Where the name that begins the run comes again before a sign: `Total = 3 + 4 Total = 7`. 0: nowhere."""
    name = [token.text for token in run[: signs[0]]] if len(signs) > 1 else []
    if len("".join(name)) < 2 or not _name(run[: signs[0]]):
        return 0
    for sign in signs[1:]:
        if sign > 2 * len(name) and [token.text for token in run[sign - len(name) : sign]] == name:
            return sign - len(name)
    return 0


def _joint(run: list[Token], signs: Sequence[int]) -> int:
    """Where a conjunction joins one equation to the next: `3 * 4 = 12 and 12 + 1 = 13`. 0: nowhere."""
    within = range(signs[0], signs[-1]) if signs else range(0)
    return next((place for place in within if run[place].text.lower() in _CONJUNCTIONS), 0)


def _name(side: Sequence[Token]) -> str:
    """What the left side calls the quantity; empty where it computes or counts something."""
    if any(token.kind != "word" for token in side):
        return ""
    name = [token.text.lower() for token in side]
    while len(name) > 1 and name[0] in _LEADS:
        del name[0]
    return " ".join(name)


def _said(run: list[Token], segment: _Segment, *, chained: bool) -> Iterator[Statement]:
    """`3 times 4 is 12`: a computation, a verb, a number, and nothing that could change either."""
    verbs = [place for place, token in enumerate(run) if token.kind == "word" and token.text.lower() in _SAYS]
    ends = [-1, *verbs, len(run)]
    for number, place in enumerate(verbs, start=1):
        found = _left(run[ends[number - 1] + 1 : place], chained=False, follows=segment.follows)
        answer = _right(run[place + 1 : ends[number + 1]], chained=chained or number < len(verbs))
        if not found or not answer or found[1] or _goes_on(answer):
            continue
        left, right = found[0].read(), answer.read()
        if (
            left
            and right
            and (left.compound or left.scaled)
            and not (right.compound or right.value.symbol or right.units & _CHANGES)
        ):
            yield Statement(found[0], answer, answer.start > 0, segment.loose)


def _left(side: list[Token], *, chained: bool, follows: bool) -> tuple[Side, bool] | None:
    """The last expression of a left side, and whether its limits are uncertain. In a chain it is the whole side."""
    if chained:
        found = Side(side, 0).read()
        return (Side(side, 0), False) if found and found.end == len(side) else None
    at, numbered = 0, False
    while at < len(side):
        end = at + 1
        applied = side[at].kind == "open" and not side[at].spaced  # f(x)
        if begins(side, at) and (at == 0 or (side[at - 1].kind == "word" and not applied)):
            found = Side(side, at).read()
            if found and found.end == len(side):
                return Side(side, at), _uncertain(side, at, found, numbered, follows)
            end = max(end, found.end if found else 0)
        numbered |= any(token.kind == "number" for token in side[at:end])
        at = end
    return None


def _uncertain(side: list[Token], at: int, found: Quantity, numbered: bool, follows: bool) -> bool:
    """Whether what stands before the expression may belong to it. `numbered`: there is a number."""
    said = {token.text.lower() for token in side[:at] if token.kind == "word"}
    if follows and _OPENINGS.isdisjoint(said):
        return True
    if at == 0:
        return False
    if not found.compound:
        return not found.value.symbol or not said <= _LEADS
    before = side[at - 1].text.lower()
    total = before == "of" and at > 1 and side[at - 2].text.lower() == "total"
    if (before in _CLAIMS and not total) or said & _COMPARES:
        return True
    if not numbered or total:
        return False
    first = next(place for place, token in enumerate(side) if token.kind == "number")
    return before in _JOINS or _OPENINGS.isdisjoint(token.text.lower() for token in side[first:at])


def _right(side: list[Token], *, chained: bool) -> Side | None:
    """The first expression of a right side, after words such as `about`. In a chain it is the whole side."""
    start = 0
    while start < len(side) and side[start].text.lower() in _HEDGES:
        start += 1
    found = Side(side, start).read()
    if found is None or (chained and found.end < len(side)):
        return None
    return Side(side, start)


def _goes_on(side: Side) -> bool:
    """Whether something follows that could change what was read: another number, an operator."""
    found = side.read()
    return found is not None and found.end < len(side.tokens)
