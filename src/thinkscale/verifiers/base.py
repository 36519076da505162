"""The seam to anything that judges candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from thinkscale.models.base import Model
from thinkscale.types import Candidate, Params, Prompt, Request, Verdict


class Generate(Protocol):
    """A metered way to ask a model: reserved, charged to the request as `verify`, traced.

    `model` is the session's own unless given. Returns fewer than `n` candidates, or none, where the budget ends.
    """

    async def __call__(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]: ...


class Verifier(Protocol):
    """Judges candidates in batches. `score=None` means "could not judge", never 0."""

    name: str

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        """One verdict per candidate, in order."""
        ...
