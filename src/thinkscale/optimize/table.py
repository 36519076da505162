"""A bank's samples as arrays, so that a million requests can be simulated in a minute."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkscale.accounting import Price
from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """One model's samples of P problems, N of each: arrays of shape [P, N], those of one value a problem [P].

    `answers` numbers each problem's answers in order of first appearance, -1 for none; `codes` holds what they stand
    for. `correct` is false for no answer. `nll` is a sample's mean negative log-likelihood per token, in nats.
    `seconds`, `nll` and a verifier's `scores` are `None`, or absent, where any sample lacks them; a score that could
    not be given is nan. `confidences[p][i]` holds DeepConf's C_t of a sample's tokens, `None` where any sample lacks
    them or its log-probabilities. `texts` says whose answers are texts, `None` where nobody's are.
    """

    model: str
    problems: tuple[str, ...]
    answers: Ints
    codes: tuple[tuple[str, ...], ...]
    correct: Bools
    capped: Bools
    prompt_tokens: Ints
    output_tokens: Ints
    max_n: int
    price: Price | None = None
    seconds: Floats | None = None
    nll: Floats | None = None
    scores: dict[str, Floats] | None = None
    confidences: tuple[tuple[Floats, ...], ...] | None = None
    texts: Bools | None = None

    @property
    def n(self) -> int:
        """Samples of each problem."""
        return int(self.answers.shape[1])

    @property
    def likelihoods(self) -> Floats:
        """Weights of votes with which ties go to the likelier answer, as `selection.likelihood_weight`: [P, N]."""
        if self.nll is None:
            raise UsageError(f"samples of {self.model} are on record without log-probabilities")
        return 1.0 - np.minimum(np.rint(self.nll * 2**16), 2**20) * 2.0**-36

    def __len__(self) -> int:
        return len(self.problems)

    @classmethod
    def of(cls, bank: Bank, model: str | None = None, n: int | None = None) -> Table:
        """The first `n` samples of every problem that has as many; by default of the `n` that leaves fewest samples
        unused, so that one problem with few does not make many poor. `model` may be left out where the bank has one.
        Raises `UsageError` where nothing is left, where samples are not graded, or where token counts are missing.
        """
        name = model_of(bank, model)
        counts = {problem: len(bank.samples(name, problem)) for problem in bank.problems}
        n = n or _most_used(counts.values())
        chosen = tuple(problem for problem, count in counts.items() if count >= max(n, 1))
        if not chosen:
            raise UsageError(f"no problem has {n} samples of {name}; the most is {max(counts.values(), default=0)}")
        rows = [bank.samples(name, problem)[:n] for problem in chosen]
        flat = [sample for row in rows for sample in row]
        for sample in flat:
            if sample.correct is None or sample.output_tokens is None:
                what = "graded" if sample.correct is None else "counted in tokens"
                raise UsageError(f"sample {sample.sample} of {name} on problem {sample.problem} is not {what}")
        numbering: list[dict[str, int]] = []
        for row in rows:
            numbers: dict[str, int] = {}
            for sample in row:
                if sample.answer is not None:
                    numbers.setdefault(sample.answer, len(numbers))
            numbering.append(numbers)
        shape = (len(chosen), n)

        def array(values: list[Any], kind: Any) -> Any:
            return np.array(values, dtype=kind).reshape(shape)

        words = set.intersection(*(set(sample.scores) for sample in flat))
        nan = float("nan")
        return cls(
            model=name,
            problems=chosen,
            answers=array(
                [
                    -1 if sample.answer is None else numbers[sample.answer]
                    for row, numbers in zip(rows, numbering, strict=True)
                    for sample in row
                ],
                np.int64,
            ),
            codes=tuple(tuple(numbers) for numbers in numbering),
            correct=array([sample.correct and sample.answer is not None for sample in flat], np.bool_),
            capped=array([sample.finish_reason == "length" for sample in flat], np.bool_),
            prompt_tokens=np.array([row[0].prompt_tokens or 0 for row in rows], dtype=np.int64),
            output_tokens=array([sample.output_tokens for sample in flat], np.int64),
            max_n=bank.models[name].max_n,
            price=bank.models[name].price,
            seconds=None
            if any(sample.seconds is None for sample in flat)
            else array([sample.seconds for sample in flat], np.float64),
            nll=None
            if any(not len(sample.logprobs) for sample in flat)
            else array([-float(np.mean(sample.logprobs)) for sample in flat], np.float64),
            scores={
                word: array(
                    [nan if sample.scores[word] is None else sample.scores[word] for sample in flat], np.float64
                )
                for word in sorted(words)
            },
            confidences=None
            if any(not len(sample.confidences) or not len(sample.logprobs) for sample in flat)
            else tuple(tuple(np.array(sample.confidences, np.float64) for sample in row) for row in rows),
            texts=np.array([bank.problems[problem].kind is AnswerKind.TEXT for problem in chosen], np.bool_),
        )

    def take(self, places: Ints) -> Table:
        """The problems at these places; one may be taken more than once (a bootstrap draw)."""
        return replace(
            self,
            problems=tuple(self.problems[place] for place in places),
            codes=tuple(self.codes[place] for place in places),
            **{
                name: getattr(self, name)[places]
                for name in ("answers", "correct", "capped", "prompt_tokens", "output_tokens")
            },
            seconds=None if self.seconds is None else self.seconds[places],
            nll=None if self.nll is None else self.nll[places],
            scores={word: values[places] for word, values in (self.scores or {}).items()},
            confidences=self.confidences and tuple(self.confidences[place] for place in places),
            texts=None if self.texts is None else self.texts[places],
        )


def _most_used(counts: Collection[int]) -> int:
    """The number of samples, of problems that have these, at which problems x samples is largest; the largest such."""
    return max(counts, key=lambda n: (n * sum(count >= n for count in counts), n), default=0)


def model_of(bank: Bank, model: str | None) -> str:
    """The name of the one model that is meant. Raises `UsageError` where that is not clear."""
    return bank.model_name(model)


def orders(table: Table, repeats: int, seed: int) -> Ints:
    """Orders in which requests may see the samples: [repeats, P, N], each a permutation of the places 0..N-1.

    The first is the order of the record. Samples are exchangeable, so every order is as good a draw as it; a bank of
    few samples gives many that are alike.
    """
    rng = np.random.default_rng(Random(seed).getrandbits(64))
    shape = (repeats, len(table), table.n)
    drawn = rng.permuted(np.broadcast_to(np.arange(table.n), shape), axis=2)
    drawn[0] = np.arange(table.n)
    return drawn


@dataclass(frozen=True)
class Outcomes:
    """What became of R simulated requests on each of P problems: arrays of shape [R, P].

    `seconds` and `cost_usd` are `None` where unknown. `rounds` counts the waits for a batch: one after another.
    `chosen` is the answer's number in the table's coding, -1 for none, -2 for one of another model. `missing` is true
    where a request asked for samples that are not on record, and went on without them; `None` where none did.
    """

    correct: Bools
    chosen: Ints
    samples: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    rounds: Ints
    seconds: Floats | None = None
    cost_usd: Floats | None = None
    missing: Bools | None = None

    @property
    def tokens(self) -> Ints:
        """Prompt and output tokens, all that was charged."""
        return self.prompt_tokens + self.output_tokens
