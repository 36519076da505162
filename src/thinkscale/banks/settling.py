"""Answers compared and graded, and new samples put together with those that a bank holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from thinkscale.banks.bank import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.draft import Draft, joined
from thinkscale.errors import UsageError
from thinkscale.tasks import Problem, grade
from thinkscale.types import AnswerKind
from thinkscale.verifiers.code import passes_tests
from thinkscale.verifiers.equivalence import Answers, equivalent
from thinkscale.verifiers.math_worker import MathWorker

Progress = Callable[[int, int], None]
"""Hears how many samples are done, and of how many."""


async def settled(
    draft: Draft,
    of_task: Mapping[str, Problem],
    into: Bank | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Bank:
    """The samples as a bank, together with those of `into`.

    Answers become canonical within their problem, in the form in which they came first. Samples without a grade are
    graded by the task's problem of that id, else by the reference, unless the draft is settled. Raises `UsageError` as
    `import_file` does.
    """
    bank = into or Bank((), (), ())
    if draft.settled and into is None:
        return draft.bank()
    problems, models = _problems(draft, bank), _models(draft, bank)
    drafted: dict[str, list[tuple[str, BankSample]]] = {}
    for place, sample in draft.samples.values():
        if sample.model in bank.models and sample.sample < len(bank.samples(sample.model, sample.problem)):
            raise UsageError(
                f"{place}: the bank holds sample {sample.sample} of {sample.model} on problem {sample.problem} already;"
                " are these samples of another model? Then give it another name"
            )
        drafted.setdefault(sample.problem, []).append((place, sample))
    samples = list(bank)
    async with MathWorker() as math:
        for name, of_problem in drafted.items():
            settling = _Settling(problems[name], of_task.get(name), math, grading=not draft.settled)
            for model in bank.models:
                for sample in bank.samples(model, name):
                    await settling.settle("the bank", sample)
            samples += [await settling.settle(place, sample) for place, sample in of_problem]
            progress(len(samples) - len(bank), len(draft.samples))
    history = (*bank.history, *(line for line in draft.history if line not in bank.history))
    return Bank(problems.values(), models.values(), samples, task=bank.task or draft.task, history=history)


class _Settling:
    """One problem's samples, one after the other."""

    def __init__(self, problem: BankProblem, of_task: Problem | None, math: MathWorker, *, grading: bool) -> None:
        self._problem = problem
        self._of_task = of_task
        self._math = math
        self._grading = grading
        self._answers = Answers(problem.kind, math=math)
        self._grades: dict[str, tuple[bool, str]] = {}

    async def settle(self, place: str, sample: BankSample) -> BankSample:
        if sample.answer is None:
            if sample.correct and self._grading:
                raise UsageError(f"{place}: a sample without an answer is marked right")
            return replace(sample, correct=False) if self._grading else sample
        answer = await self._answers.representative(sample.answer)
        correct = sample.correct
        if correct is None and self._grading:
            correct = self._grades[answer][0] if answer in self._grades else await self._grade(place, answer)
        if correct is not None:
            before, first = self._grades.setdefault(answer, (correct, place))
            if before != correct:
                raise UsageError(
                    f"{place}: the answer {answer!r} is marked {_MARKS[correct]}, but the same answer {_MARKS[before]} "
                    f"in {first}. If the two are not the same, say which kind of answer this is: the kind code "
                    "compares letter for letter"
                )
        return replace(sample, answer=answer, correct=correct)

    async def _grade(self, place: str, answer: str) -> bool:
        if self._of_task is not None:
            return await grade(self._of_task, answer, self._equivalent, passes_tests)
        if self._problem.reference is None:
            raise UsageError(
                f"{place}: nothing tells whether the answer is right: there is no `correct` and no `reference`; name "
                "the task that the problems come from (--task)"
            )
        return await self._equivalent(answer, self._problem.reference, self._problem.kind)

    async def _equivalent(self, a: str, b: str, kind: AnswerKind) -> bool:
        return await equivalent(a, b, kind, math=self._math)


_MARKS = {True: "right", False: "wrong"}


def _problems(draft: Draft, bank: Bank) -> dict[str, BankProblem]:
    problems = dict(bank.problems)
    for name, problem in draft.problems.items():
        problems[name] = joined(problems[name], problem, "together with the bank") if name in problems else problem
    return problems


def _models(draft: Draft, bank: Bank) -> dict[str, BankModel]:
    """The models of both; of one that both have, what is said must agree where both say something."""
    models = dict(bank.models)
    for name, new in draft.models.items():
        old = models.setdefault(name, new)
        said = {
            what: _agreed(f"{what} of {name}", getattr(old, what), getattr(new, what), unknown)
            for what, unknown in (("price", None), ("max_n", 1), ("params", {}))
        }
        models[name] = BankModel(name, **said, estimated=old.estimated or new.estimated)
    return models


def _agreed(what: str, old: Any, new: Any, unknown: Any) -> Any:
    if old != new and unknown not in (old, new):
        raise UsageError(
            f"the {what} in the bank is {old}, of the new samples {new}: if they are not of the same model, give the "
            "new one another name"
        )
    return new if old == unknown else old
