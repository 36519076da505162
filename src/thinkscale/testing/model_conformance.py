"""What every `Model` must do, as checks that an adapter's own tests run: `await check_model(make)`.

Plain assertions: any test runner shows which one failed. Each check opens a model of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from thinkscale.models.base import Model
from thinkscale.types import Chunk, Params, Prompt, Usage

Make = Callable[[], AbstractAsyncContextManager[Model]]
Served = Callable[[], int]

_QUESTION = Prompt.of("Say a few words about the sea, then give the sum of 2 and 3.")
_GRACE_S = 5.0


async def check_model(
    make: Make, *, prompt: Prompt = _QUESTION, max_tokens: int = 32, in_flight: Served | None = None
) -> None:
    """Run every check; raises `AssertionError` saying what the model got wrong.

    `make` gives a context manager around a new, opened model. `prompt` must draw a reply of more than one token, and
    `max_tokens` (at least 8) bounds it. `in_flight` tells how many requests the server behind it is working on: with
    it, a closed generator must have cancelled its request there too.
    """
    await check_opening_and_closing_twice(make)
    await check_samples(make, prompt, max_tokens)
    await check_usage(make, prompt, max_tokens)
    await check_max_tokens(make, prompt)
    await check_early_close(make, prompt, max_tokens, in_flight)
    await check_logprobs(make, prompt, max_tokens)


async def check_opening_and_closing_twice(make: Make) -> None:
    async with make() as model:
        await model.open()
        assert isinstance(model.name, str), "a model needs a name"
        assert model.name, "a model needs a name"
        await model.aclose()
        await model.aclose()


async def check_samples(make: Make, prompt: Prompt, max_tokens: int) -> None:
    """Up to n samples come, each with its index in [0, n), and each ends with a reason."""
    async with make() as model:
        n = min(3, model.capabilities.max_n)
        chunks = await _generate(model, prompt, max_tokens, n=n)
        indices = {chunk.index for chunk in chunks}
        assert indices, "no chunk came at all"
        assert indices <= set(range(n)), f"{n} samples were asked for, but the indices are {sorted(indices)}"
        for index in indices:
            own = [chunk for chunk in chunks if chunk.index == index]
            reasons = [chunk.finish_reason for chunk in own if chunk.finish_reason]
            assert len(reasons) == 1, f"sample {index} ended {len(reasons)} times: {reasons}"
            assert any(chunk.text or chunk.reasoning or chunk.tool_calls for chunk in own), f"sample {index} is empty"
            assert any(chunk.counted_tokens for chunk in own), f"no tokens were counted for sample {index}"


async def check_usage(make: Make, prompt: Prompt, max_tokens: int) -> None:
    """The usage comes once, on the last chunk, covers what arrived, and the prompt was not underestimated."""
    async with make() as model:
        before = await model.count_prompt_tokens(prompt)
        chunks = await _generate(model, prompt, max_tokens)
        reports = [chunk for chunk in chunks if chunk.usage is not None]
        assert len(reports) == 1, f"the usage came {len(reports)} times instead of once"
        assert reports[0] is chunks[-1], "the usage came before the last chunk"
        usage = reports[0].usage or Usage()
        counted = sum(chunk.counted_tokens for chunk in chunks)
        assert usage.prompt_tokens > 0, "the usage reports no prompt tokens"
        assert usage.output_tokens > 0, "the usage reports no output tokens"
        assert counted <= usage.output_tokens, f"{counted} tokens arrived but {usage.output_tokens} were reported"
        told = usage.prompt_tokens
        assert before >= told, f"count_prompt_tokens said {before}, but the prompt took {told}: an underestimate"
        after = await model.count_prompt_tokens(prompt)
        assert after >= told, f"count_prompt_tokens fell to {after} below the {told} reported"


async def check_max_tokens(make: Make, prompt: Prompt) -> None:
    """A cap of 2 tokens cuts the reply there and says `length`."""
    async with make() as model:
        chunks = await _generate(model, prompt, 2)
        usage = next((chunk.usage for chunk in chunks if chunk.usage), Usage())
        assert usage.output_tokens <= 2, f"max_tokens=2 gave {usage.output_tokens} tokens"
        reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
        assert reasons == ["length"], f"a reply cut by max_tokens ends with {reasons}, not with 'length'"


async def check_early_close(make: Make, prompt: Prompt, max_tokens: int, in_flight: Served | None = None) -> None:
    """Closing after the first chunk, or cancelling, leaves no task and no request behind, and the model still works."""
    async with make() as model:
        await _generate(model, prompt, max_tokens)
        with _watching_tasks() as tasks:
            async with aclosing(model.generate(prompt, Params(max_tokens=max_tokens))) as stream:
                await anext(stream)
            await _nothing_left(tasks, in_flight, "closing the generator early")
            for moment in ("before", "after"):
                begun = asyncio.Event()
                reading = asyncio.create_task(_read(model, prompt, max_tokens, begun))
                await (begun.wait() if moment == "after" else asyncio.sleep(0))
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await _nothing_left(tasks, in_flight, f"cancelling the reader {moment} the first chunk")
        assert await _generate(model, prompt, max_tokens), "the model gives nothing after an early close"


async def check_logprobs(make: Make, prompt: Prompt, max_tokens: int) -> None:
    """Where log-probabilities are promised, every token has one, and a confidence once alternatives are asked for."""
    async with make() as model:
        if not model.capabilities.logprobs:
            return
        chunks = await _generate(model, prompt, max_tokens, top_logprobs=2)
        tokens = [token for chunk in chunks for token in chunk.tokens]
        counted = sum(chunk.counted_tokens for chunk in chunks)
        assert len(tokens) == counted, f"{counted} tokens came with {len(tokens)} log-probabilities"
        assert all(token.logprob <= 0 for token in tokens), "a log-probability is positive"
        assert all(token.confidence is not None for token in tokens), "alternatives were asked for and none came"


async def _generate(
    model: Model, prompt: Prompt, max_tokens: int, *, n: int = 1, top_logprobs: int | None = None
) -> list[Chunk]:
    params = Params(max_tokens=max_tokens, top_logprobs=top_logprobs)
    async with aclosing(model.generate(prompt, params, n=n)) as stream:
        return [chunk async for chunk in stream]


async def _read(model: Model, prompt: Prompt, max_tokens: int, begun: asyncio.Event) -> None:
    async with aclosing(model.generate(prompt, Params(max_tokens=max_tokens))) as stream:
        async for _chunk in stream:
            begun.set()


_watched: ContextVar[bool] = ContextVar("watched", default=False)


@contextmanager
def _watching_tasks() -> Iterator[WeakSet[asyncio.Future[Any]]]:
    """The tasks started from within the block, directly or not; those of a server in the same event loop are not."""
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()
    started: WeakSet[asyncio.Future[Any]] = WeakSet()

    def start(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        task = usual(loop, coroutine, **options) if usual else asyncio.Task(coroutine, loop=loop, **options)
        if _watched.get():
            started.add(task)
        return task

    loop.set_task_factory(start)
    mark = _watched.set(True)
    try:
        yield started
    finally:
        _watched.reset(mark)
        loop.set_task_factory(usual)


async def _nothing_left(tasks: WeakSet[asyncio.Future[Any]], in_flight: Served | None, after: str) -> None:
    """Wait a little for tasks and requests to end, then insist."""
    clock = asyncio.get_running_loop().time
    until = clock() + _GRACE_S
    while True:
        left = [task for task in tasks if not task.done()]
        running = in_flight() if in_flight else 0
        if not left and not running:
            return
        assert not left or clock() < until, f"{after} left tasks behind: {left}"
        assert clock() < until, f"{after} left {running} requests running on the server"
        await asyncio.sleep(0.01)
