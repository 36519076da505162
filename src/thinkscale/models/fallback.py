"""Several backends as one model: where the preferred one is down, the next is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Container, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from thinkscale.errors import AuthenticationFailed, ModelError, ModelUnavailable, UsageError
from thinkscale.models.base import BaseModel, Capabilities, Model, most_prompt_tokens
from thinkscale.types import Chunk, Params, Prompt

_LONGEST_REST_S = 60.0
_COUNTING_S = 5.0  # a backend that takes longer hangs

OnFailure = Callable[[str, int | None], None]
"""Hears of each failure: the backend's name and its status, `None` where no response came."""


@dataclass(eq=False)
class _Backend:
    """`error` is why it is not open, `opening` the attempt under way. At rest it is asked only if no other answers."""

    model: Model
    is_open: bool = False
    rests_until: float = float("-inf")
    error: ModelError | UsageError | None = None
    opening: asyncio.Task[None] | None = None


class Fallback(BaseModel):
    """Backends in order of preference. A call goes to the first and, where that is unavailable, on to the next.

    It moves on only while nothing can have been spent: an error after the first chunk, or a request lost on the way
    (no response, though it was sent), is raised as it is, and the backend rests for `rest_s`, so that whoever holds the
    budget and asks again is served by another. A request that is refused would be refused elsewhere too; a refused key
    is the backend's own fault, and counts as unavailable. A server's Retry-After is honoured by resting as long.
    A backend that could not be opened is tried again in the background, every `rest_s` at most.

    Capabilities are those that all open backends share, and a prompt has as many tokens as the one that counts most
    says. A resting backend is not asked to count: in the rare case that it must answer all the same, its own
    count may be higher.
    """

    def __init__(
        self,
        models: Sequence[Model],
        name: str,
        *,
        rest_s: float = 5.0,
        on_failure: OnFailure = lambda _backend, _status: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not models:
            raise ValueError(f"{name} needs at least one backend")
        self.name = name
        self._backends = [_Backend(model) for model in models]
        self._rest_s = rest_s
        self._on_failure = on_failure
        self._clock = clock

    @property
    def capabilities(self) -> Capabilities:
        able = [one.model.capabilities for one in self._open or self._backends]
        if len(able) == 1:
            return able[0]
        return Capabilities(
            max_n=min(one.max_n for one in able),
            continuation=all(one.continuation for one in able),
            logprobs=all(one.logprobs for one in able),
            streams=all(one.streams for one in able),
            tells_stop=all(one.tells_stop for one in able),
            context=min((one.context for one in able if one.context is not None), default=None),
        )

    # -- connecting --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open all that can be reached. Raises the first one's error where none can, `UsageError` for any that is
        set up wrongly.
        """
        try:
            await asyncio.gather(*(self._opening(one) for one in self._backends if not one.is_open))
            errors = [one.error for one in self._backends if one.error]
            for error in errors:
                if not self._open or isinstance(error, UsageError):
                    raise error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        opening = [one.opening for one in self._backends if one.opening]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        async with AsyncExitStack() as closing:
            for one in self._backends:
                one.is_open = False
                closing.push_async_callback(one.model.aclose)

    def _opening(self, one: _Backend) -> asyncio.Task[None]:
        one.opening = one.opening or asyncio.create_task(self._connect(one))
        return one.opening

    async def _connect(self, one: _Backend) -> None:
        try:
            await one.model.open()
        except (ModelError, UsageError) as error:
            one.error = error
            self._on_failure(one.model.name, error.status if isinstance(error, ModelError) else None)
            self._rest(one, self._rest_s)
        else:
            one.is_open, one.error = True, None
        finally:
            one.opening = None

    @property
    def _open(self) -> list[_Backend]:
        return [one for one in self._backends if one.is_open]

    def _rests(self, one: _Backend) -> bool:
        return one.rests_until > self._clock()

    def _rest(self, one: _Backend, seconds: float) -> None:
        one.rests_until = self._clock() + min(seconds, _LONGEST_REST_S)

    def _failed(self, one: _Backend, error: ModelError) -> None:
        self._on_failure(one.model.name, error.status)
        if isinstance(error, ModelUnavailable) and error.retry_after_s is not None:
            self._rest(one, error.retry_after_s)
        elif error.status is None or isinstance(error, AuthenticationFailed):
            self._rest(one, self._rest_s)

    # -- the Model protocol ------------------------------------------------------------------------------------------

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        counts: list[int] = []
        for one in [one for one in self._open if not self._rests(one)] or self._open or self._backends:
            try:
                async with asyncio.timeout(_COUNTING_S):
                    counts.append(await one.model.count_prompt_tokens(prompt))
            except TimeoutError:
                self._failed(one, ModelUnavailable(f"{one.model.name} did not count within {_COUNTING_S:g} s"))
        return max(counts, default=most_prompt_tokens(prompt))

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        for closed in self._backends:
            if not closed.is_open and not self._rests(closed):
                self._opening(closed)
        failure: ModelError | None = None
        asked: set[_Backend] = set()
        while (one := await self._next(asked)) is not None:
            asked.add(one)
            produced = False
            try:
                async with aclosing(one.model.generate(prompt, params, n=n, first=first)) as chunks:
                    async for chunk in chunks:
                        produced = True
                        yield chunk
                return
            except (ModelUnavailable, AuthenticationFailed) as error:
                self._failed(one, error)
                if produced or _lost(error):
                    raise
                if failure is None or isinstance(error, ModelUnavailable):
                    failure = error  # a wrong key is told only where nothing else is wrong, since it ends the run
        raise failure or self._unreachable()

    async def _next(self, asked: Container[_Backend]) -> _Backend | None:
        """The best one not asked yet; waits for one that is being opened only where there is no other."""
        while True:
            left = [one for one in self._open if one not in asked]
            if left:
                return min(left, key=self._rests)
            opening = [one.opening for one in self._backends if one.opening]
            if not opening:
                return None
            await asyncio.wait(opening, return_when=asyncio.FIRST_COMPLETED)

    def _unreachable(self) -> ModelUnavailable:
        why = "; ".join(str(one.error) for one in self._backends if one.error)
        return ModelUnavailable(f"no backend of {self.name} can be reached: {why}", sent=False)


def _lost(error: ModelError) -> bool:
    """Whether the request was sent and no response came: the server may have worked on it."""
    return isinstance(error, ModelUnavailable) and error.sent and error.status is None
