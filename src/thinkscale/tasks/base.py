"""What a task is: a named, seeded source of problems."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from thinkscale.types import AnswerKind, Prompt

INSTRUCTIONS = {
    AnswerKind.NUMBER: "Think step by step, then finish with one line 'Answer: <number>'.",
    AnswerKind.CHOICE: "Think step by step, then finish with one line 'Answer: <letter>'.",
    AnswerKind.EXPRESSION: "Think step by step, then finish with one line 'Answer: <expression>'.",
    AnswerKind.TEXT: "Think step by step, then finish with one line 'Answer: <answer>'.",
    AnswerKind.JSON: "Reply with the JSON alone, without any other words.",
    AnswerKind.CODE: "Finish with one fenced code block that holds the whole answer.",
}
"""How a model is told to give its answer, so that it can be found in the reply."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, and the ways to judge an answer to it; those that a problem does not have are `None`.

    `id` is the same in every run with the same task and seed. `check` says whether an extracted answer is right without
    knowing the right one, so strategies may use it; it gives `None` where it cannot tell. All else serves grading only
    and never reaches a strategy: `reference` is the known answer, `score` gives 1 for a right answer and less for any
    other, `tests` are Python asserts on the code that answers. `stop` and `max_tokens` go before the general sampling
    parameters.
    """

    id: str
    prompt: Prompt
    kind: AnswerKind
    reference: str | None = None
    check: Callable[[str], bool | None] | None = None
    score: Callable[[str], Awaitable[float]] | None = None
    tests: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


class Task(Protocol):
    """Gives the same problems for the same seed; fewer are always the first of more."""

    @property
    def name(self) -> str: ...

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """The first `limit` problems, at least one; `None` asks for all, which for an endless task is a hundred.

        Raises `UsageError` where the task's source is missing or malformed, or cannot give any.
        """
        ...
