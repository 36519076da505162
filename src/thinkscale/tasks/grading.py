"""Whether an answer is right: for measuring, never for solving."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from thinkscale.errors import UsageError
from thinkscale.tasks.base import Problem
from thinkscale.types import AnswerKind

Equivalent = Callable[[str, str, AnswerKind], Awaitable[bool]]
"""Whether two answers of a kind are the same."""

PassesTests = Callable[[str, str], Awaitable[bool]]
"""Whether code does what the tests, Python asserts, say."""


async def grade(
    problem: Problem, answer: str | None, equivalent: Equivalent, passes_tests: PassesTests | None = None
) -> bool:
    """Whether an extracted answer is right. No answer is wrong.

    The problem's own check decides, else its score, else its tests, else equivalence with the reference. Raises
    `UsageError` for a problem with none of them, and for one with tests where `passes_tests` is missing.
    """
    if answer is None:
        return False
    if problem.check is not None and (right := problem.check(answer)) is not None:
        return right
    if problem.score is not None:
        return await problem.score(answer) >= 1.0
    if problem.tests is not None:
        if passes_tests is None:
            raise UsageError(f"problem {problem.id} is graded by tests: give grade() a way to run them (passes_tests)")
        return await passes_tests(answer, problem.tests)
    if problem.reference is not None:
        return await equivalent(answer, problem.reference, problem.kind)
    raise UsageError(f"problem {problem.id} cannot be graded: it has no check, score, tests or reference")
