"""Samples as JSON, one object a line: what other programs write, and what a bank can be given away as.

A line has `problem` (any name, or the place in the task), `answer` or `text`, and where known

    sample              counted from 0; without it, samples count in the order of the lines
    correct             else answers are graded, by the task or by `reference`
    model               else the file's name
    prompt, question    text, a list of messages, an object with messages or text, or a prompt's key
    kind, reference     what kind of answer it is, and the right one
    reasoning, finish_reason, stop_string, seconds
    prompt_tokens, completion_tokens
    logprobs, logprob   one per token, in nats
    confidences         one per token, in nats; or top5_mean_logprob, whose negative that is
    score               in [0, 1], null where it could not be given; or scores, an object with one by verifier
    steps               an object with lists of scores by verifier
    temperature, top_p, max_tokens

An exported bank begins with a line that holds the bank's header, as in the Parquet file's metadata, under `thinkscale`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from thinkscale.banks.bank import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.coding import by_problem, coded_header, coded_prompt, read_header, read_prompt
from thinkscale.banks.draft import Draft, Reading, counted
from thinkscale.banks.rows import Mapped, malformed
from thinkscale.banks.writing import whole_file
from thinkscale.errors import UsageError
from thinkscale.models.base import prompt_key
from thinkscale.verifiers.answers import extract

_HEADER = "thinkscale"


def export_jsonl(bank: Bank, target: Path | BinaryIO) -> None:
    """Write the bank so that importing it gives an equal one. Raises `UsageError` where it cannot be written."""
    with whole_file(target) if isinstance(target, Path) else nullcontext(target) as file:
        file.write(orjson.dumps({_HEADER: coded_header(bank)}) + b"\n")
        for sample in by_problem(bank):
            file.write(orjson.dumps(_coded(bank.problems[sample.problem], sample)) + b"\n")


def read_jsonl(path: Path, reading: Reading) -> Draft:
    """Read the samples. Raises `UsageError` with the line that is wrong."""
    reader = _Reader(path, reading)
    for place, row in _objects(path):
        reader.read(row, place)
    return reader.whole()


def _coded(problem: BankProblem, sample: BankSample) -> dict[str, Any]:
    """A line. What is unknown or empty is left out, but for an answer and a grade: those are known to be none."""
    row: dict[str, Any] = {
        "prompt": coded_prompt(problem.prompt),
        "kind": problem.kind,
        "reference": problem.reference,
        "text": sample.text,
        "reasoning": sample.reasoning or None,
        "finish_reason": sample.finish_reason,
        "stop_string": sample.stop_string,
        "prompt_tokens": sample.prompt_tokens,
        "completion_tokens": sample.output_tokens,
        "seconds": sample.seconds,
        "logprobs": list(sample.logprobs) or None,
        "confidences": list(sample.confidences) or None,
        "scores": dict(sample.scores) or None,
        "steps": {word: list(scores) for word, scores in sample.steps.items()} or None,
    }
    name = {"problem": problem.id, "model": sample.model, "sample": sample.sample}
    known = {key: value for key, value in row.items() if value is not None}
    return name | known | {"answer": sample.answer, "correct": sample.correct}


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                place = f"{path}, line {number}"
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise malformed(place, f"it is not JSON ({error})") from None
                if not isinstance(row, dict):
                    raise malformed(place, "it is not a JSON object")
                yield place, row
    except OSError as error:
        raise UsageError(f"cannot read the bank {path}: {error.strerror or error}") from None


_PARAMS = ("temperature", "top_p", "max_tokens")


class _Reader:
    """Takes the lines, one after the other."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._path = path
        self._draft = Draft(reading)
        self._unsampled: tuple[BankProblem, ...] = ()
        self._first: Mapping[str, Any] | None = None
        self._mapped = Mapped(reading.fields)
        self._counts: dict[tuple[str, str], int] = {}

    def read(self, content: Mapping[str, Any], place: str) -> None:
        if self._first is None:
            self._first = content
            if _HEADER in content:
                self._read_header(content[_HEADER], place)
                return
        row, stated = self._mapped.read(content, place)
        draft, model = self._draft, row.model or self._path.stem
        try:
            key = row.prompt if isinstance(row.prompt, str) and re.fullmatch(r"[0-9a-f]{64}", row.prompt) else None
            prompt = None if key else read_prompt(row.prompt)
        except (TypeError, ValueError) as error:
            raise malformed(place, f"its prompt: {error}") from None
        name = row.problem or key or (prompt and prompt_key(prompt))
        if not name:
            raise malformed(place, "it lacks 'problem'")
        problem = draft.problem(name, place, prompt=prompt, kind=row.kind, reference=row.reference)
        number = self._counts.get((model, problem.id), 0)
        self._counts[model, problem.id] = number + 1
        answer = row.answer if draft.settled or (row.answer or "").strip() else None
        if not stated and row.text is not None:
            answer = extract(row.text, problem.kind, explicit_only=row.finish_reason in ("length", "cut", "step"))
        sample = BankSample(
            problem=problem.id,
            model=model,
            sample=number if row.sample is None else row.sample,
            answer=answer,
            scores=row.scores if "score" not in row.model_fields_set else {"score": row.score, **row.scores},
            **{name: getattr(row, name) for name in _AS_THEY_ARE},
        )
        if not draft.settled:
            sample, guessed = counted(sample, problem.prompt)
            said = {name: value for name in _PARAMS if (value := getattr(row, name)) is not None}
            before = draft.models.get(model, BankModel(model, params=said))
            shared = {name: value for name, value in before.params.items() if said.get(name) == value}
            draft.models[model] = replace(before, params=shared, estimated=before.estimated or guessed)
        draft.add(place, sample)

    def whole(self) -> Draft:
        draft = self._draft
        missing = self._mapped.missing
        if missing and self._first is not None:
            raise UsageError(
                f"{self._path}: no line has the field {', '.join(missing)}; the first line has {', '.join(self._first)}"
            )
        for problem in self._unsampled:
            draft.problems.setdefault(problem.id, problem)
        return draft

    def _read_header(self, content: Any, place: str) -> None:
        header = read_header(content, place)
        self._unsampled = header.unsampled
        models = {model.name: model for model in header.models}
        self._draft = Draft(self._draft.reading, header.task, header.history, True, models)


_AS_THEY_ARE = (
    "correct", "text", "reasoning", "finish_reason", "stop_string", "prompt_tokens", "output_tokens", "seconds",
    "logprobs", "confidences", "steps",
)  # fmt: skip
