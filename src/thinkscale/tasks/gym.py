"""Any dataset of reasoning-gym (Stojanovski et al. 2025), with its options: `gym:chain_sum?min_terms=2&max_terms=3`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinkscale.errors import UsageError
from thinkscale.tasks.base import INSTRUCTIONS, Problem
from thinkscale.tasks.gym_scorer import Scorer
from thinkscale.tasks.options import near, read_option
from thinkscale.types import AnswerKind, Prompt, derive_seed


@dataclass(frozen=True)
class Gym:
    """One dataset; `options` are the fields of its own configuration, as text. Needs the extra `tasks`.

    Its own scorer grades. Most scorers look at the known answer, so none serves as a check. An answer of several lines
    (a grid) is asked for in a fenced block, hence of the kind CODE; every other is TEXT.
    """

    dataset: str
    options: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"gym:{self.dataset}"

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems; `None` asks for as many as the dataset's option `size` says.

        Raises `UsageError` where the package, the dataset or an option does not exist, or an option does not fit.
        """
        kind, config_kind = self._registered()
        # The gym seeds problem i with seed + i: seeds next to each other would share most problems.
        config = self._config(config_kind, derive_seed(seed, (self.name,)))
        try:
            if limit is not None and limit > config.size:
                config.size = limit
            items = kind(config)
            count = len(items) if limit is None else min(limit, len(items))
            rows = [items[index] for index in range(count)]
        except (AssertionError, ValueError, TypeError) as error:
            raise UsageError(f"task {self.name}: {error}") from None
        scorer = Scorer(kind, config)
        return [self._problem(row, f"{self.dataset}/{seed}/{index}", scorer) for index, row in enumerate(rows)]

    def _problem(self, row: dict[str, Any], name: str, scorer: Scorer) -> Problem:
        answer = row["answer"]
        reference = None if answer is None else str(answer)
        kind = AnswerKind.CODE if reference and "\n" in reference.strip() else AnswerKind.TEXT

        async def score(answer: str) -> float:
            return await scorer.score(answer, row)

        return Problem(name, Prompt.of(f"{row['question']}\n{INSTRUCTIONS[kind]}"), kind, reference, score=score)

    def _registered(self) -> tuple[type[Any], type[Any]]:
        try:
            import reasoning_gym
        except ImportError:
            raise UsageError(f"{self.name} needs the package reasoning-gym: pip install 'thinkscale[tasks]'") from None
        known = reasoning_gym.factory.DATASETS
        if self.dataset not in known:
            hint = near(self.dataset, known)
            raise UsageError(f"reasoning-gym has no dataset {self.dataset!r}{hint}; it has {', '.join(sorted(known))}")
        kinds: tuple[type[Any], type[Any]] = known[self.dataset]
        return kinds

    def _config(self, kind: type[Any], seed: int) -> Any:
        """The dataset's configuration; its own rules are checked when the dataset is made."""
        hints = typing.get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind) if field.name != "seed"]
        values: dict[str, Any] = {}
        for key, text in self.options.items():
            if key not in known:
                hint = near(key, known)
                raise UsageError(f"{self.name} has no option {key!r}{hint}; it has {', '.join(known)}")
            values[key] = read_option(self.name, key, hints[key], text)
        return kind(**values, seed=seed)
