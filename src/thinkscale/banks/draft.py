"""Samples as a file states them, before answers are compared and graded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from thinkscale.banks.bank import Bank, BankModel, BankProblem, BankSample
from thinkscale.errors import UsageError
from thinkscale.models.base import prompt_key
from thinkscale.tasks.base import Problem
from thinkscale.types import AnswerKind, Prompt


class TaskProblems:
    """The problems of a task, as records name them: by id, by the prompt's key, or by place counted from 0."""

    def __init__(self, problems: Sequence[Problem] = ()) -> None:
        self._problems = problems
        self.by_id: Mapping[str, Problem] = {problem.id: problem for problem in problems}
        self._by_key = {prompt_key(problem.prompt): problem for problem in problems}

    def find(self, name: str, place: str) -> Problem | None:
        """The problem that is meant; `None` only where no problems are known. Raises `UsageError` for another one."""
        if not self._problems:
            return None
        found = self.by_id.get(name) or self._by_key.get(name)
        if found is None and name.isdecimal() and int(name) < len(self._problems):
            found = self._problems[int(name)]
        if found is None:
            raise UsageError(
                f"{place}: the task has no problem {name}, by id or by place: it has {len(self._problems)}, the first "
                f"is {self._problems[0].id}"
            )
        return found


@dataclass(frozen=True)
class Reading:
    """What the caller says about a file's samples.

    `kind` is for problems of which nothing else tells it. `known` are the problems of the bank that they go into.
    `fields` maps our field names to the file's, which may be nested: `{"answer": "output.final"}`; `scores.NAME` and
    `steps.NAME` stand for one verifier's scores.
    """

    problems: TaskProblems = field(default_factory=TaskProblems)
    kind: AnswerKind | None = None
    known: Mapping[str, BankProblem] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Draft:
    """What a file holds. Every sample has its place, for messages.

    `settled` says that it was a bank already: answers are canonical, and what is not graded stays so.
    """

    reading: Reading = field(default_factory=Reading)
    task: str | None = None
    history: tuple[str, ...] = ()
    settled: bool = False
    models: dict[str, BankModel] = field(default_factory=dict)
    problems: dict[str, BankProblem] = field(default_factory=dict)
    samples: dict[tuple[str, str, int], tuple[str, BankSample]] = field(default_factory=dict)

    @classmethod
    def of(cls, bank: Bank, source: str) -> Draft:
        draft = cls(Reading(), bank.task, bank.history, True, dict(bank.models), dict(bank.problems))
        for sample in bank:
            draft.add(f"{source}, sample {sample.sample} of {sample.model} on problem {sample.problem}", sample)
        return draft

    def problem(
        self,
        name: str,
        place: str,
        *,
        prompt: Prompt | None = None,
        kind: AnswerKind | None = None,
        reference: str | None = None,
    ) -> BankProblem:
        """A problem as the file, the task and the bank together tell it, in this order; it is kept.

        Raises `UsageError` for one that the task does not have, and where the file contradicts itself.
        """
        of_task = self.reading.problems.find(name, place)
        name = name if of_task is None else of_task.id
        before = self.problems.get(name)
        if of_task is not None:
            prompt, kind = prompt or of_task.prompt, kind or of_task.kind
            reference = of_task.reference if reference is None else reference
        if kind is None:
            known = before or self.reading.known.get(name)
            kind = known.kind if known else self.reading.kind or AnswerKind.TEXT
        told = BankProblem(name, prompt, kind, reference)
        self.problems[name] = told if before is None else joined(before, told, place)
        return self.problems[name]

    def add(self, place: str, sample: BankSample) -> None:
        key = (sample.model, sample.problem, sample.sample)
        if key in self.samples:
            raise UsageError(
                f"{place}: sample {sample.sample} of {sample.model} on problem {sample.problem} is there twice, first "
                f"in {self.samples[key][0]}"
            )
        self.samples[key] = (place, sample)

    def bank(self) -> Bank:
        """The samples as they are stated."""
        samples = [sample for _, sample in self.samples.values()]
        return Bank(self.problems.values(), self.models.values(), samples, task=self.task, history=self.history)

    def renamed(self, model: str) -> Draft:
        """The same samples under another model's name. Raises `UsageError` where they are of several models."""
        if len(self.models) != 1:
            raise UsageError(f"the file has samples of several models ({', '.join(self.models)}), not of {model} alone")
        ((old, settings),) = self.models.items()
        draft = replace(self, models={model: replace(settings, name=model)}, samples={})
        for place, sample in self.samples.values():
            draft.add(place, replace(sample, model=model))
        return draft if old != model else self


def joined(known: BankProblem, other: BankProblem, place: str) -> BankProblem:
    """All that two records say of one problem. Raises `UsageError` where they contradict each other."""
    if known == other:
        return known
    for name in ("prompt", "reference", "kind"):
        one, two = getattr(known, name), getattr(other, name)
        if one is not None and two is not None and one != two:
            raise UsageError(
                f"{place}: problem {known.id} has another {name} than before; are these samples of other problems?"
            )
    reference = other.reference if known.reference is None else known.reference
    return replace(known, prompt=known.prompt or other.prompt, reference=reference)


def counted(sample: BankSample, prompt: Prompt | None) -> tuple[BankSample, bool]:
    """The sample with token counts, and whether any is a guess: four characters a token, as in English.

    What there are no words for stays unknown.
    """
    output = sample.output_tokens or len(sample.logprobs) or None
    given, said = sample.prompt_tokens, sample.answer if sample.text is None else sample.text
    if output is None and said is not None:
        output = _guessed(sample.reasoning + said)
    if given is None and prompt is not None:
        words = [str(message.get("content") or "") for message in prompt.messages]
        given = _guessed("".join([*words, prompt.text or "", prompt.prefix]))
    guessed = (output, given) != (sample.output_tokens or len(sample.logprobs) or None, sample.prompt_tokens)
    return replace(sample, output_tokens=output, prompt_tokens=given), guessed


def _guessed(words: str) -> int:
    return max(1, round(len(words) / 4))
