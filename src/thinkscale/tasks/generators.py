"""Problems made on the spot, without end, by seed: small enough for a model of 135M parameters to get some right.

Each prompt shows `shots` worked examples, so that the reply is one short line. With `shots=0` the model is told how to
answer instead, and may think at any length.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import ClassVar

from thinkscale.errors import UsageError
from thinkscale.tasks.base import INSTRUCTIONS, Problem
from thinkscale.tasks.expressions import evaluate, reaches
from thinkscale.tasks.span import Span
from thinkscale.types import AnswerKind, Prompt, derive_seed
from thinkscale.verifiers.numbers import numbers

ENDLESS = 100
"""How many problems a task without end gives where no limit is set."""

_MOST_SHOTS = 8
_EXAMPLES = _MOST_SHOTS + 1  # one to spare, where the problem itself is an example
_EXAMPLES_SEED = 99
_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A question, the line that answers it, and how to judge an answer. Equal questions are the same puzzle."""

    question: str
    reply: str
    reference: str
    check: Callable[[str], bool | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Generator(ABC):
    """Draws puzzles by seed, no two the same, and none that the examples show. Its fields are its options.

    `rule` says what is asked for in every puzzle, `form` how to reply as the examples do.
    """

    label: ClassVar[str]
    kind: ClassVar[AnswerKind]
    rule: ClassVar[str]
    form: ClassVar[str]

    shots: int = 6

    def __post_init__(self) -> None:
        within("shots", self.shots, Span(0, _MOST_SHOTS))

    @abstractmethod
    def draw(self, random: Random) -> Puzzle: ...

    @property
    @abstractmethod
    def reply_tokens(self) -> int:
        """Enough for a right reply in the form of the examples, a digit to a token."""

    @property
    def name(self) -> str:
        """The label, and the options that are not at their defaults."""
        fields = [(field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self)]
        options = ",".join(f"{name}={value}" for name, value, default in fields if value != default)
        return f"{self.label}:{options}" if options else self.label

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        examples = self.examples()
        taken = {example.question for example in examples}
        puzzles = [self._fresh(seed, index, taken) for index in range(ENDLESS if limit is None else limit)]
        return [self.problem(puzzle, f"{self.name}/{seed}/{index}", examples) for index, puzzle in enumerate(puzzles)]

    def examples(self) -> list[Puzzle]:
        """The same whatever the seed of the problems."""
        taken: set[str] = set()
        return [self._fresh(_EXAMPLES_SEED, f"example {index}", taken) for index in range(_EXAMPLES)]

    def problem(self, puzzle: Puzzle, name: str, examples: Sequence[Puzzle]) -> Problem:
        """The puzzle behind `shots` of the examples, or with an instruction where there are to be none."""
        if not self.shots:
            prompt = Prompt.of(f"{self.rule}\n{puzzle.question}\n{INSTRUCTIONS[self.kind]}")
            return Problem(name, prompt, self.kind, puzzle.reference, puzzle.check)
        messages = [{"role": "system", "content": f"{self.rule} {self.form}".strip()}]
        for example in [example for example in examples if example.question != puzzle.question][: self.shots]:
            messages.append({"role": "user", "content": example.question})
            messages.append({"role": "assistant", "content": example.reply})
        messages.append({"role": "user", "content": puzzle.question})
        return Problem(
            name,
            Prompt(messages=tuple(messages)),
            self.kind,
            puzzle.reference,
            puzzle.check,
            stop=("\n",),
            max_tokens=self.reply_tokens,
        )

    def _fresh(self, seed: int, place: int | str, taken: set[str]) -> Puzzle:
        """A puzzle not yet taken. It depends on those before it alone, so fewer problems are the first of more."""
        for attempt in range(_ATTEMPTS):
            puzzle = self.draw(Random(derive_seed(seed, (self.label, place, attempt))))
            if puzzle.question not in taken:
                taken.add(puzzle.question)
                return puzzle
        raise UsageError(
            f"task {self.name} has hardly more than {len(taken)} different problems: ask for fewer or widen its options"
        )


@dataclass(frozen=True, kw_only=True)
class Linear(Generator):
    """Solve `a*x + b = c` for x; a and x from their spans, b not 0 and at most `b` in size. Checked by substitution."""

    label = "linear"
    kind = AnswerKind.NUMBER
    rule = "Solve the equation."
    form = "Reply with the value of x only."

    a: Span = Span(2, 9)
    x: Span = Span(-9, 12)
    b: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        within("a", self.a, Span(1, 10**6))
        within("x", self.x, Span(-(10**6), 10**6))
        within("b", self.b, Span(1, 10**6))

    @property
    def reply_tokens(self) -> int:
        return 16

    def draw(self, random: Random) -> Puzzle:
        a, x = _one_of(self.a, random), _one_of(self.x, random)
        b = random.choice((-1, 1)) * random.randint(1, self.b)
        c = a * x + b

        def check(answer: str) -> bool:
            value = _only_number(answer)
            return value is not None and a * value + b == c

        return Puzzle(f"Solve for x: {a}*x {'+' if b > 0 else '-'} {abs(b)} = {c}", f"x = {x}", str(x), check)


@dataclass(frozen=True, kw_only=True)
class Countdown(Generator):
    """Reach a target with each number exactly once and + - *. Checked by evaluation; many calculations may be right.

    The numbers differ and go up to `largest`, targets go from 1 to 100; at least one solution needs no parentheses.
    """

    label = "countdown"
    kind = AnswerKind.TEXT  # not EXPRESSION: of two calculations with one value, one may use the wrong numbers
    rule = "Use each number exactly once with + - * to reach the target."
    form = "Reply with the expression only."

    numbers: int = 3
    largest: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        within("numbers", self.numbers, Span(2, 6))
        within("largest", self.largest, Span(6, 100))

    @property
    def reply_tokens(self) -> int:
        return 6 * self.numbers

    def draw(self, random: Random) -> Puzzle:
        while True:
            given = random.sample(range(1, self.largest + 1), self.numbers)
            solution = _joined_by(random, given, "+-*")
            value = evaluate(solution)
            assert value is not None  # it was just written
            if 1 <= value[0] <= 100:
                return reaching(given, int(value[0]), solution)


def reaching(given: Sequence[int], target: int, solution: str) -> Puzzle:
    """The puzzle of reaching the target. The numbers are shown in order, so that they do not give the solution away."""
    shown = ", ".join(map(str, sorted(given)))
    return Puzzle(f"Use {shown} to make {target}", solution, solution, lambda answer: reaches(answer, given, target))


@dataclass(frozen=True, kw_only=True)
class ChainSum(Generator):
    """Add and subtract numbers of `digits` digits. There is nothing to check without solving it.

    The reply repeats the sum, which makes a small model several times as often right as the bare result does.
    """

    label = "chain_sum"
    kind = AnswerKind.NUMBER
    rule = "Compute."
    form = ""

    terms: Span = Span(2, 4)
    digits: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        within("terms", self.terms, Span(2, 20))
        within("digits", self.digits, Span(1, 12))

    @property
    def reply_tokens(self) -> int:
        return (self.terms.high + 1) * (self.digits + 3)

    def draw(self, random: Random) -> Puzzle:
        low, high = 10 ** (self.digits - 1), 10**self.digits - 1
        given = [random.randint(low, high) for _ in range(_one_of(self.terms, random))]
        chain = _joined_by(random, given, "+-")
        value = evaluate(chain)
        assert value is not None  # it was just written
        return Puzzle(f"{chain} = ?", f"{chain} = {value[0]}", str(value[0]))


def within(option: str, value: int | Span, allowed: Span) -> None:
    """Refuse an option outside of what makes sense."""
    low, high = (value.low, value.high) if isinstance(value, Span) else (value, value)
    if low < allowed.low or high > allowed.high:
        raise ValueError(f"{option} must lie within {allowed}, not {value}")


def _one_of(span: Span, random: Random) -> int:
    return random.randint(span.low, span.high)


def _joined_by(random: Random, given: Sequence[int], operators: str) -> str:
    return str(given[0]) + "".join(f" {random.choice(operators)} {number}" for number in given[1:])


def _only_number(answer: str) -> Fraction | None:
    """The one number an answer such as `x = 7` holds."""
    found = list(numbers(answer)) if len(answer) <= 100 else []
    return found[0] if len(found) == 1 else None
