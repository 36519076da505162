"""Samples as three published projects keep them.

tree-of-thought   JSON, a list: `idx`, `ys` (texts), `infos` (`r` is 1 for right), `usage_so_far` (sums since the
                  start); the game of 24 of princeton-nlp/tree-of-thought-llm (Yao et al. 2023)
esc               JSON lines: `question`, `answer` (the right one), `generated_answer` (a list of texts);
                  early-stopping self-consistency, Yiwei98/ESC (Li et al. 2024)
cruxeval          JSON: `raw_generations` and `raw_scored_generations`, by problem a list of answers and one of grades;
                  facebookresearch/cruxeval (Gu et al. 2024)
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson

from thinkscale.banks.bank import BankModel, BankSample
from thinkscale.banks.draft import Draft, Reading, counted
from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind, Prompt
from thinkscale.verifiers.answers import extract


def form_of(head: bytes) -> str:
    """Which form a file has, by its first 64 KiB; `jsonl` where it is none of these."""
    line = head.lstrip().split(b"\n", 1)[0]
    if line.startswith(b"[") and b'"usage_so_far"' in head:
        return "tree-of-thought"
    if b'"raw_generations"' in head or b'"raw_scored_generations"' in head:
        return "cruxeval"
    return "esc" if b'"generated_answer"' in line else "jsonl"


_MOST_AT_A_TIME = 20
_NOTHING = {"prompt_tokens": 0, "completion_tokens": 0}


def read_tree_of_thought(path: Path, reading: Reading) -> Draft:
    """The game of 24. What a problem's samples took together is known, and shared out by their lengths.

    The project asks for at most 20 samples in one request, so a prompt's length is the sum over a problem's requests
    divided by their number. The task's own checker made the grades, so they are its scores, too.
    """
    draft = Draft(reading, task="game24")
    model = path.stem
    draft.models[model] = BankModel(model, max_n=_MOST_AT_A_TIME, estimated=True)
    before = _NOTHING
    for index, row in enumerate(_list(_whole(path), path)):
        place = f"{path}, entry {index}"
        with _told(place, "tree-of-thought"):
            # An idx counts from 0, the rank in the list of puzzles from 1.
            problem = draft.problem(f"game24/{row['idx'] + 1}", place)
            texts, usage = row["ys"], row["usage_so_far"]
            if usage["prompt_tokens"] < before["prompt_tokens"]:
                before = _NOTHING  # the run was started anew here
            requests = -(-len(texts) // _MOST_AT_A_TIME)
            prompt_tokens = (usage["prompt_tokens"] - before["prompt_tokens"]) // requests
            tokens = _shared_out(usage["completion_tokens"] - before["completion_tokens"], list(map(len, texts)))
            before = usage
            for number, (text, grade, output_tokens) in enumerate(zip(texts, row["infos"], tokens, strict=True)):
                right = grade["r"] == 1
                sample = BankSample(
                    problem.id,
                    model,
                    number,
                    extract(text, problem.kind),
                    right,
                    text,
                    prompt_tokens=prompt_tokens,
                    output_tokens=output_tokens,
                    scores={"checker": float(right)},
                )
                draft.add(f"{place}, sample {number}", sample)
    return draft


def read_esc(path: Path, reading: Reading) -> Draft:
    """Texts without token counts, which are estimated, and without grades, which the right answer gives."""
    draft = Draft(reading)
    model = path.stem
    draft.models[model] = BankModel(model, estimated=True)
    lines = [line for line in _bytes(path).splitlines() if line.strip()]
    for index, line in enumerate(lines):
        place = f"{path}, line {index + 1}"
        with _told(place, "esc"):
            row = orjson.loads(line)
            question, reference = str(row["question"]), str(row["answer"])
            problem = draft.problem(str(index), place, prompt=Prompt.of(question), reference=reference)
            for number, text in enumerate(_list(row["generated_answer"], place)):
                sample = BankSample(problem.id, model, number, extract(text, problem.kind), text=text)
                draft.add(f"{place}, sample {number}", counted(sample, problem.prompt)[0])
    return draft


def read_cruxeval(path: Path, reading: Reading) -> Draft:
    """Answers that are Python values, with their grades; no texts, so token counts are those of the answers.

    The file groups a problem's samples by value: a fixed shuffle takes the meaning out of their order. Answers that are
    literals are the same where their values are.
    """
    draft = Draft(reading, task="cruxeval")
    model = path.stem
    draft.models[model] = BankModel(model, estimated=True)
    content = _whole(path)
    with _told(str(path), "cruxeval"):
        answers, grades = dict(content["raw_generations"]), dict(content["raw_scored_generations"])
    for name in sorted(answers, key=_by_number):
        place = f"{path}, {name}"
        with _told(place, "cruxeval"):
            problem = draft.problem(name, place, kind=AnswerKind.CODE)  # code compares letter for letter
            pairs = list(zip(map(_value, answers[name]), grades[name], strict=True))
        Random(f"cruxeval/{name}").shuffle(pairs)
        for number, (answer, right) in enumerate(pairs):
            sample = BankSample(problem.id, model, number, answer, bool(right))
            draft.add(f"{place}, sample {number}", counted(sample, problem.prompt)[0])
    return draft


def _by_number(name: str) -> tuple[int, str]:
    digits = name.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else -1, name)


def _value(answer: str) -> str:
    """One way of writing for each value; what is no literal stays as it is."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python would rather not see in a string
            return _written(ast.literal_eval(answer.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return answer.strip()


def _written(value: object) -> str:
    match value:
        case dict():
            pairs = sorted((_written(key), _written(one)) for key, one in value.items())
            return "{" + ", ".join(f"{key}: {one}" for key, one in pairs) + "}"
        case set() if value:
            return "{" + ", ".join(sorted(map(_written, value))) + "}"
        case list():
            return "[" + ", ".join(map(_written, value)) + "]"
        case tuple():
            return "(" + ", ".join(map(_written, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _shared_out(total: int, lengths: Sequence[int]) -> list[int]:
    """A sum of tokens in whole parts, by the lengths of the texts."""
    weight = sum(lengths) + len(lengths)
    ends = accumulate((length + 1 for length in lengths), initial=0)
    return [total * end // weight - total * start // weight for start, end in pairwise(ends)]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None


def _whole(path: Path) -> Any:
    try:
        return orjson.loads(_bytes(path))
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON, or was cut short: {error}") from None


def _list(content: Any, place: str | Path) -> Sequence[Any]:
    if not isinstance(content, list):
        raise UsageError(f"{place}: there is no list of samples")
    return content


@contextmanager
def _told(place: str, form: str) -> Iterator[None]:
    """Where content that has not the form is told of."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{place}: not of the form {form}: {why}") from None


READERS = {"tree-of-thought": read_tree_of_thought, "esc": read_esc, "cruxeval": read_cruxeval}
