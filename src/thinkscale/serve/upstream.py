"""One request's model calls as the gateway sees them: what streams by, and how long the backends were at work."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from thinkscale.errors import ModelUnavailable
from thinkscale.models.base import Model, ModelWrapper
from thinkscale.types import Chunk, Params, Prompt

Hear = Callable[[int, Chunk], None]
"""Hears every piece of output, with the index of its sample among all drawn from the prompt."""


class Upstream:
    """`busy_s` is how long at least one call was under way, `first_token_s` when the first piece of text came, counted
    from the start of the request; `None` before that.

    What `hear` has heard of a sample has gone to the client: such a sample cannot be drawn anew.
    """

    def __init__(self, hear: Hear | None = None) -> None:
        self.busy_s = 0.0
        self.first_token_s: float | None = None
        self.hear = hear
        self._began = time.monotonic()
        self._calls = 0
        self._since = 0.0
        self._heard: set[int] = set()

    def through(self, model: Model) -> Model:
        return _Watched(model, self)

    def _enter(self) -> None:
        if not self._calls:
            self._since = time.monotonic()
        self._calls += 1

    def _leave(self) -> None:
        self._calls -= 1
        if not self._calls:
            self.busy_s += time.monotonic() - self._since

    def _pass(self, sample: int, chunk: Chunk) -> None:
        if not (chunk.text or chunk.reasoning or chunk.tool_calls):
            return
        if self.first_token_s is None:
            self.first_token_s = time.monotonic() - self._began
        if self.hear is not None:
            self._heard.add(sample)
            self.hear(sample, chunk)

    def _refuse_again(self, first: int, n: int) -> None:
        if not self._heard.isdisjoint(range(first, first + n)):
            raise ModelUnavailable("the backend broke off in the middle of the answer", status=502, sent=False)


class _Watched(ModelWrapper):
    def __init__(self, model: Model, upstream: Upstream) -> None:
        super().__init__(model)
        self._upstream = upstream

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        upstream = self._upstream
        upstream._refuse_again(first, n)
        upstream._enter()
        try:
            async with aclosing(self._model.generate(prompt, params, n=n, first=first)) as chunks:
                async for chunk in chunks:
                    upstream._pass(first + chunk.index, chunk)
                    yield chunk
        finally:
            upstream._leave()
