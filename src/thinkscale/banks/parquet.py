"""A bank as one Parquet file: a row per sample, which pandas, DuckDB and the like read as they are.

Format version 1. The rows of a problem stand together, its models one after the other, samples in the order in which
they were drawn. Columns, with null for what the record does not say:

    problem         text, never null
    prompt          JSON: the question, or an object with messages (or text), prefix, tools
    kind            number, choice, text, expression, json, code
    reference       text: the known answer
    model           text, never null
    sample          int, never null: counts from 0 for each model and problem
    answer          text: equal exactly for equivalent answers of a problem, over all models
    correct         bool
    text            text: the reply; reasoning is kept apart
    reasoning       text
    finish_reason   stop, length, ...
    stop_string     text: the stop string that ended the sample
    prompt_tokens   int: the whole prompt's, though samples of one request share the charge for it
    output_tokens   int
    seconds         float: from sending the request to the sample's end
    logprobs        list of float, in nats, to 0.001: one per token
    confidences     list of float, in nats, to 0.001: DeepConf's C_t, one per token
    scores          map from a verifier's word to its score in [0, 1], null where it could not judge
    steps           map from a verifier's word to the scores of the single steps

The file's metadata holds under the key `thinkscale` a JSON object: `version`, `task`, `models` (name, price in dollars
per million tokens, max_n, params, estimated), `history`, and `unsampled`, the problems that have no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from thinkscale.banks.bank import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.coding import Header, by_problem, coded_header, coded_prompt, read_header, read_prompt
from thinkscale.banks.writing import whole_file
from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind

MAGIC = b"PAR1"
"""How every Parquet file begins."""

_KEY = b"thinkscale"
_DIGITS = 3
_AS_THEY_ARE = (
    "model", "sample", "answer", "correct", "text", "reasoning", "finish_reason", "stop_string", "prompt_tokens",
    "output_tokens", "seconds",
)  # fmt: skip


def write_bank(bank: Bank, path: Path) -> None:
    """Write the file anew, whole or not at all: an old one stays until the new one is on the disk.

    Log-probabilities and confidences are rounded to 0.001 nats. Raises `UsageError` where the file cannot be written.
    """
    pa, parquet = need_pyarrow()
    rows = [(bank.problems[sample.problem], sample) for sample in by_problem(bank)]
    prompts = {
        problem.id: None if problem.prompt is None else orjson.dumps(coded_prompt(problem.prompt)).decode()
        for problem in bank.problems.values()
    }
    columns: dict[str, list[Any]] = {
        "problem": [problem.id for problem, _ in rows],
        "prompt": [prompts[problem.id] for problem, _ in rows],
        "kind": [str(problem.kind) for problem, _ in rows],
        "reference": [problem.reference for problem, _ in rows],
        **{name: [getattr(sample, name) for _, sample in rows] for name in _AS_THEY_ARE},
        "logprobs": [_rounded(sample.logprobs) for _, sample in rows],
        "confidences": [_rounded(sample.confidences) for _, sample in rows],
        "scores": [list(sample.scores.items()) for _, sample in rows],
        "steps": [[(word, list(scores)) for word, scores in sample.steps.items()] for _, sample in rows],
    }
    schema = pa.schema(_schema(pa), metadata={_KEY: orjson.dumps(coded_header(bank))})
    table = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)
    with whole_file(path) as file:
        parquet.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_bank(path: Path) -> Bank:
    """Read a bank. Raises `UsageError`, with what to do, for a file that is none, is damaged, or is newer than this."""
    pa, parquet = need_pyarrow()
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise UsageError(
                    f"{path} is not a bank, which is a Parquet file: import it with thinkscale bank import {path} "
                    "--out BANK"
                )
            found = parquet.ParquetFile(file, page_checksum_verification=True)
            metadata = (found.schema_arrow.metadata or {}).get(_KEY)
            if metadata is None:
                raise UsageError(f"{path} is a Parquet file but not a bank: it has no metadata {_KEY.decode()!r}")
            header = read_header(_json(metadata, path), str(path))
            table = found.read()
    except (pa.ArrowException, ValueError) as error:  # ValueError: names that are no text
        raise UsageError(f"{path} is damaged or was cut short, and cannot be read as Parquet: {error}") from None
    except OSError as error:
        raise UsageError(f"cannot read the bank {path}: {error.strerror or error}") from None
    try:
        rows = _rows(pa, table)
        return Bank(*_parts(header, rows), task=header.task, history=header.history)
    except (ValueError, TypeError, UsageError) as error:
        raise UsageError(f"{path} is a damaged bank: {error}") from None


def _parts(
    header: Header, rows: Iterable[dict[str, Any]]
) -> tuple[Iterable[BankProblem], Iterable[BankModel], Sequence[BankSample]]:
    problems: dict[str, BankProblem] = {}
    samples = []
    for row in rows:
        id, prompt, kind, reference = (row.pop(name) for name in ("problem", "prompt", "kind", "reference"))
        if id not in problems:
            problems[id] = BankProblem(
                id, read_prompt(None if prompt is None else orjson.loads(prompt)), AnswerKind(kind), reference
            )
        for name in ("logprobs", "confidences"):
            row[name] = _rounded(row[name] or ())
        if row["confidences"] and row["logprobs"] and len(row["confidences"]) != len(row["logprobs"]):
            raise ValueError(f"sample {row['sample']} of problem {id} has other numbers of logprobs and confidences")
        row["scores"] = dict(row["scores"] or ())
        row["steps"] = {word: tuple(scores) for word, scores in row["steps"] or ()}
        samples.append(BankSample(problem=id, **row))
    return [*problems.values(), *header.unsampled], header.models, samples


def _rows(pa: Any, table: Any) -> Iterator[dict[str, Any]]:
    """The rows as Python values. Raises `ValueError` for a column that is missing, holds something else, or nulls."""
    columns = []
    for field in _schema(pa):
        if field.name not in table.column_names:
            raise ValueError(f"the column {field.name!r} is missing")
        column = table.column(field.name)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not column.type.equals(field.type):
            try:
                column = column.cast(plain)
            except pa.ArrowException as error:
                raise ValueError(f"the column {field.name!r} does not hold {plain}: {error}") from None
        if not field.nullable and column.null_count:
            raise ValueError(f"the column {field.name!r} lacks values")
        columns.append(column.to_pylist())
    names = [field.name for field in _schema(pa)]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _schema(pa: Any) -> list[Any]:
    """The columns, as the module describes them. What repeats is kept once, by dictionary."""
    repeated = pa.dictionary(pa.int32(), pa.string())
    score = pa.float64()
    return [
        pa.field("problem", repeated, nullable=False),
        pa.field("prompt", repeated),
        pa.field("kind", repeated, nullable=False),
        pa.field("reference", repeated),
        pa.field("model", repeated, nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("text", pa.string()),
        pa.field("reasoning", pa.string(), nullable=False),
        pa.field("finish_reason", repeated, nullable=False),
        pa.field("stop_string", repeated),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("seconds", pa.float64()),
        pa.field("logprobs", pa.list_(pa.float32())),
        pa.field("confidences", pa.list_(pa.float32())),
        pa.field("scores", pa.map_(pa.string(), score)),
        pa.field("steps", pa.map_(pa.string(), pa.list_(score))),
    ]


def _rounded(nats: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in nats)


def _json(content: bytes, path: Path) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path} is a damaged bank: its header is not JSON ({error})") from None


def need_pyarrow() -> tuple[Any, Any]:
    """The package and its reader of Parquet. Raises `UsageError` where it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("a bank needs the extra optimize: pip install 'thinkscale[optimize]'") from None
    return pyarrow, parquet
