"""Which verifier a word on the command line means."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from thinkscale.errors import UsageError
from thinkscale.models.opening import Local, open_model
from thinkscale.models.references import parse_reference
from thinkscale.tasks.base import Problem
from thinkscale.verifiers.base import Verifier

_KNOWN = "checker, judge, judge=MODEL, confidence, code"


def check_word(word: str | None, *, own_checks: bool) -> None:
    """Refuse a wrong word before anything is loaded. `own_checks`: whether the problems may bring checks."""
    name, equals, model = (word or "").partition("=")
    if name in ("checker", "code") and not equals:
        if not own_checks:
            raise UsageError(f"the verifier {name} needs a task that brings its own checks (thinkscale bench)")
    elif name == "judge" and (model or not equals):
        if model:
            parse_reference(model)
    elif word is not None and word != "confidence":
        raise UsageError(f"unknown verifier {word!r} (known: {_KNOWN})")


@asynccontextmanager
async def shared_verifier(
    word: str | None, local: Local, progress: Callable[[int, int | None], None] = lambda _done, _total: None
) -> AsyncIterator[Verifier | None]:
    """A verifier that serves every question; `None` for no word. Opens a judge's own model and closes it."""
    name, _, reference = (word or "").partition("=")
    if name == "confidence":
        from thinkscale.verifiers.confidence import ConfidenceVerifier

        yield ConfidenceVerifier()
    elif name == "judge":
        from thinkscale.verifiers.judge import Judge

        if not reference:
            yield Judge()
            return
        async with open_model(reference, local=local, progress=progress) as model:
            yield Judge(model)
    else:
        yield None


def problem_verifier(word: str | None, task: str, problems: list[Problem]) -> Callable[[Problem], Verifier] | None:
    """The verifier that each problem brings itself, for `checker` and `code`; `None` for any other word."""
    if word == "checker":
        return _own(problems, _checker, f"the answers of {task} cannot be checked without knowing them")
    if word == "code":
        return _own(problems, _code, f"the problems of {task} bring no tests to run")
    return None


def _own(
    problems: list[Problem], make: Callable[[Problem], Verifier | None], lacking: str
) -> Callable[[Problem], Verifier]:
    verifiers = {problem.id: made for problem in problems if (made := make(problem)) is not None}
    if len(verifiers) < len(problems):
        raise UsageError(f"{lacking}: choose another verifier")
    return lambda problem: verifiers[problem.id]


def _checker(problem: Problem) -> Verifier | None:
    from thinkscale.verifiers.checker import CheckerVerifier

    return None if problem.check is None else CheckerVerifier(problem.check)


def _code(problem: Problem) -> Verifier | None:
    from thinkscale.verifiers.code import CodeVerifier

    return None if problem.tests is None else CodeVerifier(problem.tests)
