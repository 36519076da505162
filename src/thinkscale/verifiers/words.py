"""Which verifier a word means."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from thinkscale.errors import UsageError
from thinkscale.models.base import Model
from thinkscale.models.opening import Local, Progress, open_model
from thinkscale.models.references import Server, api_key_for, parse_reference
from thinkscale.options import arguments, build, near
from thinkscale.tasks.base import Problem
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.compose import Rule
from thinkscale.verifiers.steps import Aggregation, StepVerifier

_OWN = ("checker", "code")  # each problem brings its own
_WHOLE = ("checker", "code", "judge", "confidence", "orm")
_STEP = ("arithmetic", "step-judge", "rollouts", "prm")
_TAKES = {
    "judge": "[=MODEL]",
    "orm": "=URL[#model]",
    "step-judge": "[=MODEL]",
    "rollouts": "[=N]",
    "prm": "=URL[#model]",
}
_KNOWN = ", ".join(word + _TAKES.get(word, "") for word in _WHOLE + _STEP)

_SUFFIX = re.compile(r":((?:[A-Za-z_-]+=[^,:=/#]*)(?:,[A-Za-z_-]+=[^,:=/#]*)*)$")
_PLUS = re.compile(r"\+(?=[a-z][a-z-]*(?:=|\+|$))")  # not one inside a model's name


@dataclass(frozen=True, slots=True)
class _Steps:
    """How step verifiers judge together: what several verdicts on one step become, what a reply's steps become, and
    how the models behind `prm` want to read them.
    """

    combine: Rule = "first"
    aggregate: Aggregation = "min"
    style: Literal["qwen", "math-shepherd", "rlhflow"] = "qwen"


@dataclass(frozen=True, slots=True)
class _Word:
    """A word taken apart: names with what follows their `=` (`None` without one), and the options of step verifiers."""

    parts: tuple[tuple[str, str | None], ...]
    steps: _Steps

    @property
    def name(self) -> str:
        return self.parts[0][0]

    @property
    def value(self) -> str | None:
        return self.parts[0][1]

    @property
    def by_steps(self) -> bool:
        return self.name in _STEP


def check_word(word: str | None, *, own_checks: bool) -> None:
    """Refuse a wrong word before anything is loaded. `own_checks`: whether the problems may bring checks."""
    if word is None:
        return
    name = _parse(word).name
    if name in _OWN and not own_checks:
        raise UsageError(f"the verifier {name} needs a task that brings its own checks (thinkscale bench)")


def names_a_model(word: str) -> bool:
    """Whether a word that has been checked names a model, a file or an address to ask."""
    return any(value is not None and name != "rollouts" for name, value in _parse(word).parts)


def _parse(word: str) -> _Word:
    suffix = _SUFFIX.search(word)
    given = arguments(f"verifier {word}", suffix[1], ",") if suffix else {}
    parts = tuple(_part(part, word) for part in _PLUS.split(word[: suffix.start()] if suffix else word))
    names = [name for name, _ in parts]
    whole = next((name for name in names if name in _WHOLE), None)
    if whole and len(parts) > 1:
        raise UsageError(f"verifier {word}: {whole} judges whole replies: only {', '.join(_STEP)} can be joined by +")
    if whole and given:
        raise UsageError(f"verifier {word}: {whole} judges whole replies: it takes no {', '.join(given)}")
    steps = build(_Steps, f"verifier {word}", given)
    if "combine" in given and len(parts) == 1:
        raise UsageError(
            f"verifier {word}: combine needs several step verifiers joined by +, such as arithmetic+prm=URL"
        )
    if "style" in given and "prm" not in names:
        raise UsageError(f"verifier {word}: style is how a prm=URL reads its steps, and there is none")
    return _Word(parts, steps)


def _part(part: str, word: str) -> tuple[str, str | None]:
    name, equals, text = part.partition("=")
    value = text if equals else None
    if name not in _WHOLE + _STEP:
        raise UsageError(f"unknown verifier {part or word!r}{near(name, _WHOLE + _STEP)} (known: {_KNOWN})")
    if name in ("judge", "step-judge") and value:
        parse_reference(value)
    elif name in ("prm", "orm"):
        _server(name, value)
    elif name == "rollouts" and value is not None:
        if not value.isdecimal() or int(value) < 2:
            raise UsageError(f"verifier {part}: rollouts takes a number of at least 2, such as rollouts=4")
    elif value is not None:
        takes = _TAKES.get(name)
        raise UsageError(f"verifier {part}: " + (f"write {name}{takes}" if takes else f"{name} takes nothing behind ="))
    return name, value


def _server(name: str, value: str | None) -> Server:
    parsed = parse_reference(value) if value and value.startswith(("http://", "https://")) else None
    if not isinstance(parsed, Server):
        raise UsageError(
            f"{name} needs the address of a vLLM server with a reward model: {name}=http://host:8000/v1[#model]"
        )
    return parsed


@asynccontextmanager
async def shared_verifier(
    word: str | None, local: Local, progress: Progress = lambda _done, _total: None
) -> AsyncIterator[Verifier | None]:
    """A verifier that serves every question; `None` for no word, and for what each problem brings itself. Opens the
    models and servers that it asks, and closes them.
    """
    parsed = _parse(word) if word is not None else None
    if parsed is None or parsed.name in _OWN:
        yield None
        return
    async with AsyncExitStack() as stack:
        opening = _Opening(stack, local, progress)
        yield await (opening.stepwise(parsed) if parsed.by_steps else opening.whole(parsed.name, parsed.value))


def check_step_word(word: str) -> bool:
    """Refuse a word that does not judge single steps. Whether it asks the model that the solutions are judged with."""
    parsed = _parse(word)
    if not parsed.by_steps:
        raise UsageError(f"verifier {word} judges whole replies: name one that judges steps ({', '.join(_STEP)})")
    if parsed.steps.aggregate != _Steps().aggregate:
        raise UsageError(f"verifier {word}: aggregate makes one score of a reply's steps, which are judged singly here")
    return any(name == "rollouts" or (name == "step-judge" and not value) for name, value in parsed.parts)


@asynccontextmanager
async def step_verifier(
    word: str, local: Local, progress: Progress = lambda _done, _total: None
) -> AsyncIterator[StepVerifier]:
    """The verifier of single steps that a word means. Opens the models and servers that it asks, and closes them."""
    async with AsyncExitStack() as stack:
        yield await _Opening(stack, local, progress).steps(_parse(word))


@dataclass(frozen=True, slots=True)
class _Opening:
    """Makes verifiers; what they ask stays open until `stack` closes."""

    stack: AsyncExitStack
    local: Local
    progress: Progress

    async def whole(self, name: str, value: str | None) -> Verifier:
        if name == "judge":
            from thinkscale.verifiers.judge import Judge

            if not value:
                return Judge()
            return Judge(await self.stack.enter_async_context(self._model(value)))
        if name == "orm":
            from thinkscale.models.pooling import PoolingServer
            from thinkscale.verifiers.reward import OutcomeReward

            at = _server(name, value)
            server = PoolingServer(at.url, at.model, api_key=api_key_for(at.url))
            return OutcomeReward(await self.stack.enter_async_context(server))
        from thinkscale.verifiers.confidence import ConfidenceVerifier

        return ConfidenceVerifier()

    async def stepwise(self, word: _Word) -> Verifier:
        from thinkscale.verifiers.steps import Stepwise

        return Stepwise(await self.steps(word), aggregate=word.steps.aggregate)

    async def steps(self, word: _Word) -> StepVerifier:
        from thinkscale.verifiers.compose import Combined

        made = [await self._step(name, value, word.steps) for name, value in word.parts]
        return made[0] if len(made) == 1 else Combined(made, word.steps.combine)

    async def _step(self, name: str, value: str | None, options: _Steps) -> StepVerifier:
        if name == "arithmetic":
            from thinkscale.verifiers.arithmetic import Arithmetic

            return Arithmetic()
        if name == "step-judge":
            from thinkscale.verifiers.step_judge import StepJudge

            return StepJudge(await self.stack.enter_async_context(self._model(value)) if value else None)
        if name == "rollouts":
            from thinkscale.verifiers.math_worker import MathWorker
            from thinkscale.verifiers.rollouts import Rollouts

            math = await self.stack.enter_async_context(MathWorker())
            return Rollouts(int(value), math=math) if value else Rollouts(math=math)
        from thinkscale.verifiers.reward import PlusMinusReward, ProcessReward

        if options.style == "rlhflow":
            return PlusMinusReward(await self.stack.enter_async_context(self._model(value or "")))
        from thinkscale.models.pooling import PoolingServer

        at = _server(name, value)
        server = PoolingServer(at.url, at.model, api_key=api_key_for(at.url))
        return ProcessReward(await self.stack.enter_async_context(server), style=options.style)

    def _model(self, reference: str) -> AbstractAsyncContextManager[Model]:
        return open_model(reference, local=self.local, progress=self.progress)


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
