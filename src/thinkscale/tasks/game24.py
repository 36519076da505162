"""The game of 24: make 24 of four numbers with + - * / (Yao et al. 2023 made it a test of search)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from thinkscale.errors import UsageError
from thinkscale.tasks.base import Problem
from thinkscale.tasks.expressions import solve
from thinkscale.tasks.generators import Generator, Puzzle, reaching, within
from thinkscale.tasks.span import Span
from thinkscale.types import AnswerKind

_TARGET = 24


@dataclass(frozen=True, kw_only=True)
class Game24(Generator):
    """Four numbers from 1 to `largest` that can make 24, checked by evaluation.

    `path` names a CSV file with the columns `Rank` and `Puzzles` (four numbers with spaces between); its puzzles then
    come in the file's order, and the seed has no say.
    """

    label = "game24"
    kind = AnswerKind.TEXT  # not EXPRESSION: of two calculations with one value, one may use the wrong numbers
    rule = "Use each number exactly once with + - * / to reach 24."
    form = "Reply with the expression only."

    largest: int = 13
    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("largest", self.largest, Span(6, 100))

    @property
    def reply_tokens(self) -> int:
        return 32

    def draw(self, random: Random) -> Puzzle:
        while True:
            given = [random.randint(1, self.largest) for _ in range(4)]
            solution = solve(given, _TARGET)
            if solution is not None:
                return reaching(given, _TARGET, solution)

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        if not self.path:
            return super().problems(limit, seed)
        examples = self.examples()
        return [
            self.problem(puzzle, f"{self.label}/{rank}", examples) for rank, puzzle in _read(Path(self.path), limit)
        ]


def _read(path: Path, limit: int | None) -> list[tuple[str, Puzzle]]:
    try:
        with path.expanduser().open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not {"Rank", "Puzzles"} <= set(columns):
                raise UsageError(
                    f"{path}: a game24 file needs the columns Rank and Puzzles; it has {', '.join(columns) or 'none'}"
                )
            puzzles = [_puzzle(row, f"{path}, line {rows.line_num}") for row in islice(rows, limit)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    if not puzzles:
        raise UsageError(f"{path} holds no puzzles")
    return puzzles


def _puzzle(row: dict[str, str], place: str) -> tuple[str, Puzzle]:
    try:
        given = [int(number) for number in (row["Puzzles"] or "").split()]
    except ValueError:
        given = []
    if len(given) != 4:
        raise UsageError(f"{place}: {row['Puzzles']!r} is not four whole numbers with spaces between")
    solution = solve(given, _TARGET)
    if solution is None:
        raise UsageError(f"{place}: {row['Puzzles']} cannot make {_TARGET}")
    return row["Rank"], reaching(given, _TARGET, solution)
