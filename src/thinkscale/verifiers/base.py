"""The seam to anything that judges candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

from thinkscale.accounting import Price
from thinkscale.models.base import Model
from thinkscale.types import Candidate, Params, Prompt, Request, Verdict

_T = TypeVar("_T")


class Generate(Protocol):
    """A metered way to ask a model: reserved, charged to the request as `verify`, traced.

    `model` is the session's own unless given. Returns fewer than `n` candidates, or none, where the budget ends.
    """

    async def __call__(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]: ...


class Charge(Protocol):
    """Budget held for one trip to a server that only reads tokens. Left unsettled, it is charged whole."""

    def settle(self, prompt_tokens: int) -> None:
        """What the trip really used; 0 where the server surely read nothing."""
        ...


@runtime_checkable
class Metered(Generate, Protocol):
    """`generate` with a way to pay for what no model generates: a reward model reads a text and gives numbers."""

    def charge(self, prompt_tokens: int, *, price: Price | None = None) -> AbstractAsyncContextManager[Charge]:
        """Hold `prompt_tokens`, an upper bound, as one call charged to the request as `verify`; waits for room.

        `price` is `None` where unknown. Raises `BudgetExhausted` where the budget has no room for it any more.
        """
        ...


class Verifier(Protocol):
    """Judges candidates in batches. `score=None` means "could not judge", never 0."""

    name: str

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        """One verdict per candidate, in order."""
        ...


async def together(jobs: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all, in order. Where one raises, the others are cancelled and waited for before it is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
