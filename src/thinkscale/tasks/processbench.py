"""Solutions in steps whose first wrong step is known: ProcessBench (Zheng et al. 2024).

processbench:PATH        processbench:PATH?kind=expression
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from thinkscale.errors import UsageError
from thinkscale.options import arguments, build
from thinkscale.types import AnswerKind, derive_seed

_NAME = "processbench"
_SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A reply in steps, which joined are its text. `label` is the first wrong step, from 0; -1 where all are right."""

    id: str
    problem: str
    steps: tuple[str, ...]
    label: int


@dataclass(frozen=True, kw_only=True)
class ProcessBench:
    """A JSON file as the authors publish it: a list of {id, problem, steps, label, ...}.

    `kind` is what the answers are, for verifiers that compare them.
    """

    path: Path
    kind: AnswerKind = AnswerKind.NUMBER

    @classmethod
    def parse(cls, spec: str) -> ProcessBench:
        """Read `processbench:PATH?kind=...`; `UsageError` where that is not how it is written."""
        head, _, query = spec.strip().partition("?")
        name, _, path = head.partition(":")
        if name != _NAME or not path:
            raise UsageError(f"task {spec!r} has no labelled steps: write {_NAME}:FILE")
        return build(cls, f"task {_NAME}", arguments(f"task {_NAME}", query, "&"), path=Path(path))

    def solutions(self, limit: int | None = None, seed: int = 0) -> Sequence[LabelledSolution]:
        """All solutions, or `limit` of them that the seed chooses: fewer are always among more.

        The authors' files hold the erroneous ones first. Raises `UsageError` where the file is missing or malformed.
        """
        try:
            rows = orjson.loads(self.path.expanduser().read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror or error}") from None
        except orjson.JSONDecodeError as error:
            raise UsageError(f"{self.path} is not JSON ({error})") from None
        if not isinstance(rows, list) or not rows:
            raise UsageError(f"{self.path}: expected a list of solutions, with at least one in it")
        found = [_solution(row, f"{self.path}, solution {place}") for place, row in enumerate(rows)]
        if limit is not None:
            Random(derive_seed(seed, ("solutions",))).shuffle(found)
        return found[:limit]


def _solution(row: Any, place: str) -> LabelledSolution:
    if not isinstance(row, Mapping):
        raise UsageError(f"{place}: expected a JSON object, not {str(row)[:80]}")
    for key in ("id", "problem", "steps", "label"):
        if key not in row:
            raise UsageError(f"{place}: there is no field {key!r}; the fields are {', '.join(row) or 'none'}")
    name, problem, steps, label = row["id"], row["problem"], row["steps"], row["label"]
    if not isinstance(name, str) or not isinstance(problem, str):
        raise UsageError(f"{place}: id and problem must be texts")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise UsageError(f"{place}: steps must be a list of texts, with at least one in it")
    if type(label) is not int or not -1 <= label < len(steps):
        raise UsageError(f"{place}: label {label!r} is no step: expected -1 (none is wrong) to {len(steps) - 1}")
    return LabelledSolution(name, problem, (steps[0], *(_SEPARATOR + step for step in steps[1:])), label)
