"""When two answers are the same, and one name for each class of equal answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable

from thinkscale.types import AnswerKind, Candidate
from thinkscale.verifiers.answers import answer_of, tidy
from thinkscale.verifiers.json_form import canonical_json, read_json
from thinkscale.verifiers.math_worker import MathWorker
from thinkscale.verifiers.numbers import arithmetic, numbers


class Answers:
    """The answers of one request, each under the form in which it was first seen.

    `math` decides where two formulas differ in writing; give one that many requests share, as starting one costs a
    second. Without one, it starts its own when needed, and `aclose` ends that.
    """

    def __init__(self, kind: AnswerKind, *, math: MathWorker | None = None) -> None:
        self._kind = kind
        self._math = math or MathWorker()
        self._owns_math = math is None
        self._representatives: dict[Hashable, str] = {}
        self._seen: dict[str, str] = {}
        # Two equal formulas that arrive together must not both become representatives.
        self._turn = asyncio.Lock()
        self._undecided = 0

    async def canonical(self, candidate: Candidate) -> str | None:
        """Equal strings exactly for equivalent answers; `None` for a candidate without an answer.

        A candidate that calls tools answers with its calls, as JSON: names and arguments, whatever their order.
        """
        if candidate.tool_calls:
            return _calls(candidate)
        answer = answer_of(candidate, self._kind)
        return None if answer is None else await self.representative(answer)

    async def representative(self, answer: str) -> str:
        """The first-seen form of an answer that was found in a text already."""
        if answer in self._seen:
            return self._seen[answer]
        form = written(answer, self._kind)
        async with self._turn:
            if form not in self._representatives:
                self._representatives[form] = await self._equal_one(answer) or answer
            self._seen[answer] = self._representatives[form]
            return self._seen[answer]

    async def aclose(self) -> None:
        if self._owns_math:
            await self._math.aclose()

    async def _equal_one(self, answer: str) -> str | None:
        """The representative that means the same; `None` if there is none yet."""
        if self._kind is not AnswerKind.EXPRESSION:
            return None
        for known in dict.fromkeys(self._representatives.values()):
            same = await _same_formula(answer, known, self._math) if self._undecided < _MOST_UNDECIDED else False
            self._undecided += same is None
            if same:
                return known
        return None


_MOST_UNDECIDED = 3
"""Comparisons that may run into the time limit before formulas are told apart by their writing alone."""


async def equivalent(a: str, b: str, kind: AnswerKind, *, math: MathWorker | None = None) -> bool:
    """Whether two answers, as `extract` gives them or as a task's reference states them, are the same.

    Without `math`, formulas that differ in writing cost the start of a worker. What cannot be decided in time is not
    the same.
    """
    if written(a, kind) == written(b, kind):
        return True
    if kind is not AnswerKind.EXPRESSION:
        return False
    if math is not None:
        return bool(await _same_formula(a, b, math))
    async with MathWorker() as own:
        return bool(await _same_formula(a, b, own))


def written(answer: str, kind: AnswerKind) -> Hashable:
    """The answer without what does not matter in its writing: equal forms mean equal answers."""
    match kind:
        case AnswerKind.NUMBER:
            value = next(numbers(answer), None)
            return _folded(answer) if value is None else value
        case AnswerKind.CHOICE:
            return tidy(answer).strip("() ").upper()
        case AnswerKind.CODE:
            return "\n".join(line.rstrip() for line in answer.strip().splitlines())
        case AnswerKind.JSON:
            return _json_form(answer)
        case AnswerKind.TEXT:
            return _folded(answer)
        case AnswerKind.EXPRESSION:
            return _folded(answer) if _is_prose(answer) else _unspaced(answer)


def _json_form(answer: str) -> str:
    try:
        return canonical_json(read_json(answer))
    except ValueError:
        return answer.strip()


def _folded(answer: str) -> str:
    return " ".join(tidy(answer).casefold().split())


_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|[,;!: ])(?![a-zA-Z])|\s+")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")


def _unspaced(formula: str) -> str:
    return _FRACTION.sub(r"\\frac", _LAYOUT.sub("", tidy(formula)))


_COMMAND = re.compile(r"\\(?:text|textbf|mbox|mathrm)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORDS = re.compile(r"(?!(?:sqrt|sinh|cosh|tanh|asin|acos|atan)\b)\b[a-zA-Z]{4,}|[a-zA-Z]{2,}\s+[a-zA-Z]{2,}")


def _is_prose(answer: str) -> bool:
    """Whether it is words, in which a formula reader would see products of letters, and so equal anagrams.

    Words in `\\text{}` beside a formula are its units.
    """
    bare = _COMMAND.sub(" ", tidy(answer))
    return _WORDS.search(bare) is not None or ("\\text" in answer and not re.search(r"\w", bare))


_LONGEST_FORMULA = 1000


async def _same_formula(a: str, b: str, math: MathWorker) -> bool | None:
    value_a, value_b = arithmetic(a), arithmetic(b)
    if value_a is not None and value_b is not None:
        return value_a == value_b
    if _is_prose(a) or _is_prose(b) or max(len(a), len(b)) > _LONGEST_FORMULA:
        return False
    return await math.equal(a, b)


def _calls(candidate: Candidate) -> str | None:
    """The calls, in one order whichever they came in; `None` where a cut left arguments that cannot be read."""
    calls = []
    for call in candidate.tool_calls:
        function = call.get("function") or call
        arguments = function.get("arguments") or "{}"
        try:
            given = read_json(arguments.strip() or "{}") if isinstance(arguments, str) else arguments
            calls.append(canonical_json([function.get("name"), given]))
        except ValueError:
            return None
    return f"[{','.join(sorted(calls))}]"
