"""Problems from rows: a JSONL file, or a Hugging Face dataset.

jsonl:PATH?question=question&answer=answer&kind=number
gsm8k:PATH        math500:PATH        hf:NAME?split=test&question=question&answer=answer
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import orjson

from thinkscale.errors import UsageError
from thinkscale.tasks.base import INSTRUCTIONS, Problem
from thinkscale.types import AnswerKind, Prompt, derive_seed
from thinkscale.verifiers.numbers import numbers

Row = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and its fields."""

_HASHES = "####"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How a row becomes a problem.

    `question`, `answer`, `tests` and `id` name fields; without `tests` there are none, without `id` a problem is named
    by its place. `answer_after`: the reference is what follows the last such mark in the answer; `None` takes what
    follows `####` where that occurs, and an empty one the whole answer. `instruction` goes below the question; `None`
    takes the one for the kind, and an empty one leaves it out. `shuffle` orders the rows by the seed.
    """

    question: str = "question"
    answer: str = "answer"
    kind: AnswerKind = AnswerKind.TEXT
    answer_after: str | None = None
    instruction: str | None = None
    tests: str | None = None
    id: str | None = None
    shuffle: bool = False

    def _problems(self, source: str, rows: Iterator[Row], limit: int | None, seed: int) -> Sequence[Problem]:
        """The first `limit` rows, or as many of all in shuffled order."""
        placed = enumerate(rows)
        if self.shuffle:
            order = list(placed)
            Random(derive_seed(seed, ("shuffle",))).shuffle(order)
            placed = iter(order)  # type: ignore[assignment]  # only ever iterated
        problems: dict[str, Problem] = {}
        for index, (place, row) in islice(placed, limit):
            problem = self._problem(row, place, f"{source}/{index}")
            if problem.id in problems:
                raise UsageError(f"{place}: the id {problem.id!r} is there twice; choose another field with id=")
            problems[problem.id] = problem
        if not problems:
            raise UsageError(f"{source} holds no problems")
        return list(problems.values())

    def _problem(self, row: dict[str, Any], place: str, name: str) -> Problem:
        question = _text(row, self.question, place)
        instruction = INSTRUCTIONS[self.kind] if self.instruction is None else self.instruction
        return Problem(
            _text(row, self.id, place) if self.id else name,
            Prompt.of(f"{question}\n{instruction}" if instruction else question),
            self.kind,
            reference=self._reference(_text(row, self.answer, place), place),
            tests=_text(row, self.tests, place) if self.tests else None,
        )

    def _reference(self, answer: str, place: str) -> str:
        mark = self.answer_after
        if mark is None:
            mark = _HASHES if _HASHES in answer else ""
        elif mark not in answer:
            raise UsageError(f"{place}: the answer has no {mark!r} in it, as answer_after= says")
        reference = (answer.rpartition(mark)[2] if mark else answer).strip()
        if self.kind is AnswerKind.NUMBER and next(numbers(reference), None) is None:
            raise UsageError(
                f"{place}: the answer {reference[:80]!r} is no number; set kind= to another kind, or answer_after= to "
                "the mark that stands before the number"
            )
        return reference


def _text(row: dict[str, Any], key: str, place: str) -> str:
    if key not in row:
        raise UsageError(f"{place}: there is no field {key!r}; the fields are {', '.join(map(repr, row)) or 'none'}")
    value = row[key]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise UsageError(f"{place}: the field {key!r} is neither text nor a number: {str(value)[:80]}")


@dataclass(frozen=True, kw_only=True)
class JsonLines(Rows):
    """One JSON object a line, blank lines aside; a problem without an id of its own is named by file and row."""

    path: Path

    @property
    def name(self) -> str:
        return f"jsonl:{self.path}"

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        return self._problems(self.path.stem, self._rows(), limit, seed)

    def _rows(self) -> Iterator[Row]:
        try:
            with self.path.expanduser().open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        place = f"{self.path}, line {number}"
                        yield place, _object(line, place)
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror or error}") from None


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{place}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UsageError(f"{place}: expected a JSON object, not {line.decode()[:80].strip()}")
    return row


@dataclass(frozen=True, kw_only=True)
class Gsm8k(JsonLines):
    """Grade-school word problems (Cobbe et al. 2021), as OpenAI publishes them."""

    kind: AnswerKind = AnswerKind.NUMBER

    @property
    def name(self) -> str:
        return f"gsm8k:{self.path}"


@dataclass(frozen=True, kw_only=True)
class Math500(JsonLines):
    """Competition problems (Hendrycks et al. 2021, the 500 of Lightman et al. 2023)."""

    question: str = "problem"
    kind: AnswerKind = AnswerKind.EXPRESSION
    id: str | None = "unique_id"

    @property
    def name(self) -> str:
        return f"math500:{self.path}"


@dataclass(frozen=True, kw_only=True)
class Hub(Rows):
    """A dataset of the Hugging Face hub, or a local folder that `datasets` can read. Needs the extra `datasets`."""

    dataset: str
    split: str = "test"
    config: str | None = None

    @property
    def name(self) -> str:
        return f"hf:{self.dataset}"

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        return self._problems(self.dataset, self._rows(), limit, seed)

    def _rows(self) -> Iterator[Row]:
        try:
            from datasets import load_dataset
        except ImportError:
            raise UsageError(f"{self.name} needs the package datasets: pip install 'thinkscale[datasets]'") from None
        try:
            rows = load_dataset(self.dataset, self.config, split=self.split)
        except (OSError, ValueError) as error:  # not found, no network, no such split or config
            raise UsageError(f"{self.name} cannot be loaded: {error}") from None
        for index, row in enumerate(rows):
            yield f"{self.name}, row {index}", dict(row)
