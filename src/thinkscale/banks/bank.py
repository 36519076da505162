"""What a bank is: samples of problems, recorded once, with what each said, cost and was worth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkscale.accounting import Price
from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind, Prompt

VERSION = 1


@dataclass(frozen=True, slots=True)
class BankProblem:
    """One problem. `prompt` is `None` where the bank came without the words, `reference` where no answer is known."""

    id: str
    prompt: Prompt | None = None
    kind: AnswerKind = AnswerKind.TEXT
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class BankModel:
    """One model whose samples a bank holds.

    `price` is in dollars per million tokens, `None` where unknown. Up to `max_n` samples travelled in one request and
    shared its prompt. `params` are the sampling parameters, as far as known. `estimated` says that token counts are
    estimates from the length of the texts, for the record came without them.
    """

    name: str
    price: Price | None = None
    max_n: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class BankSample:
    """One recorded sample; `None` is what the record does not say.

    `answer` is canonical within its problem: equal strings exactly for equivalent answers, over all models. `logprobs`
    are the tokens' own, `confidences` DeepConf's C_t over the recorded alternatives, both in nats, one per token.
    `scores` are verifier scores in [0, 1] by the verifier's word, `steps` its scores of the single steps. `seconds` is
    how long after its request was sent the sample had ended.
    """

    problem: str
    model: str
    sample: int
    answer: str | None = None
    correct: bool | None = None
    text: str | None = None
    reasoning: str = ""
    finish_reason: str = "stop"
    stop_string: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    logprobs: Sequence[float] = ()
    confidences: Sequence[float] = ()
    scores: Mapping[str, float | None] = field(default_factory=dict)
    steps: Mapping[str, Sequence[float | None]] = field(default_factory=dict)


class Bank:
    """Problems, models, and each model's samples of each problem, gapless and in the order in which they were drawn.

    `task` names where the problems come from, `None` where unknown; `history` says, a line each, how the bank came to
    be. Raises `UsageError` for a sample that is there twice, one that is missing before a later one, and one of an
    unknown problem or model.
    """

    def __init__(
        self,
        problems: Iterable[BankProblem],
        models: Iterable[BankModel],
        samples: Iterable[BankSample],
        *,
        task: str | None = None,
        history: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.history = tuple(history)
        self.problems = {problem.id: problem for problem in problems}
        self.models = {model.name: model for model in models}
        found: dict[str, dict[str, dict[int, BankSample]]] = {name: {} for name in self.models}
        for one in samples:
            if one.model not in found:
                raise UsageError(f"sample {one.sample} of problem {one.problem} is of an unknown model, {one.model}")
            if one.problem not in self.problems:
                raise UsageError(f"sample {one.sample} of {one.model} is of an unknown problem, {one.problem}")
            of_problem = found[one.model].setdefault(one.problem, {})
            if one.sample in of_problem:
                raise UsageError(f"sample {one.sample} of {one.model} on problem {one.problem} is there twice")
            of_problem[one.sample] = one
        self._samples: dict[str, dict[str, tuple[BankSample, ...]]] = {}
        for model, of_model in found.items():
            self._samples[model] = {}
            for problem, numbered in of_model.items():
                missing = next((place for place in range(len(numbered)) if place not in numbered), None)
                if missing is not None:
                    raise UsageError(
                        f"sample {missing} of {model} on problem {problem} is missing, but later ones are there"
                    )
                self._samples[model][problem] = tuple(numbered[place] for place in range(len(numbered)))

    def samples(self, model: str, problem: str) -> Sequence[BankSample]:
        """A model's samples of a problem, in order; empty where there are none."""
        return self._samples[model].get(problem, ())

    def model_name(self, model: str | None = None) -> str:
        """The model that is meant; `None` is enough where there is one. Raises `UsageError` where that is not clear."""
        if model is None and len(self.models) == 1:
            return next(iter(self.models))
        if model not in self.models:
            known = ", ".join(self.models)
            raise UsageError(
                f"the bank has no model {model}: {known}" if model else f"say which model is meant: {known}"
            )
        return model

    def __iter__(self) -> Iterator[BankSample]:
        """Every sample, by model, then by problem, then in order."""
        for model in self.models:
            for problem in self.problems:
                yield from self.samples(model, problem)

    def __len__(self) -> int:
        return sum(len(samples) for of_model in self._samples.values() for samples in of_model.values())
