"""Any dataset of reasoning-gym (Stojanovski et al. 2025), with its options: `gym:chain_sum?min_terms=2&max_terms=3`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from thinkscale.errors import UsageError
from thinkscale.tasks.base import INSTRUCTIONS, Problem
from thinkscale.tasks.gym_worker import GymWorker
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
        options = "&".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return f"gym:{self.dataset}?{options}" if options else f"gym:{self.dataset}"

    def problems(self, limit: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """`limit` problems; `None` asks for as many as the dataset's option `size` says.

        Raises `UsageError` where the package, the dataset or an option does not exist, or an option does not fit.
        """
        if find_spec("reasoning_gym") is None:
            raise UsageError(f"{self.name} needs the package reasoning-gym: pip install 'thinkscale[tasks]'")
        # The gym seeds problem i with seed + i: two seeds next to each other would share most problems.
        worker = GymWorker(self.dataset, self.options, derive_seed(seed, (self.dataset,)), limit)
        return [
            _problem(worker, index, question, answer, f"{self.name}/{seed}/{index}")
            for index, (question, answer) in enumerate(worker.rows())
        ]


def _problem(worker: GymWorker, index: int, question: str, reference: str | None, name: str) -> Problem:
    kind = AnswerKind.CODE if reference and "\n" in reference.strip() else AnswerKind.TEXT

    async def score(answer: str) -> float:
        return await worker.score(index, answer)

    return Problem(name, Prompt.of(f"{question}\n{INSTRUCTIONS[kind]}"), kind, reference, score=score)
