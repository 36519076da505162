"""Samples of many problems, drawn once and kept: the live part of collecting a bank."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from thinkscale.accounting import Ledger
from thinkscale.engine import Engine, unread
from thinkscale.errors import MissingSample, ModelRefused, ModelUnavailable, NoAnswer
from thinkscale.models.base import Model, ModelWrapper
from thinkscale.optimize.bench import first_failure, request_for
from thinkscale.store import Recorder, RunStore
from thinkscale.tasks.base import Problem
from thinkscale.trace import Event
from thinkscale.types import Chunk, Params, Prompt


@dataclass(frozen=True)
class Drawing:
    """What to draw: of each problem the samples `held[problem id]` (default 0) to `n` - 1.

    `concurrency` problems are sampled at a time; more than one fills a server better, and makes a sample's seconds
    include its wait for the others. `model` is the name under which the samples are kept, by default the model's own.
    """

    problems: Sequence[Problem]
    n: int
    params: Params
    seed: int = 0
    concurrency: int = 1
    held: Mapping[str, int] | None = None
    model: str | None = None

    def missing(self, problem: Problem) -> int:
        """How many samples of a problem are to be drawn."""
        return max(0, self.n - (self.held or {}).get(problem.id, 0))


def unit_of(model: str, problem: Problem) -> str:
    """Where a problem's samples are kept in the journal."""
    return f"{model}|{problem.id}"


_FULL = "the budget has no room for another sample"


class _NotWhole(ModelUnavailable):
    """The budget holds less than a whole sample."""


class _After(ModelWrapper):
    """The samples of a model from the `held`-th on, for whoever holds those before it; each with room for `longest`
    output tokens. One that a budget shortens is not drawn: a record of it would say that the reply was too long.
    """

    def __init__(self, model: Model, held: int, longest: int) -> None:
        super().__init__(model)
        self._held = held
        self._longest = longest

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        if params.max_tokens < self._longest and await self._fits(prompt):
            raise _NotWhole(_FULL, sent=False)
        # Seeds are consecutive among siblings (`sample_seed`), so the held-th's is found by counting on.
        seed = None if params.seed is None else (params.seed + self._held) & 0x7FFFFFFF
        chunks = self._model.generate(prompt, replace(params, seed=seed), n=n, first=first + self._held)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _fits(self, prompt: Prompt) -> bool:
        """Whether the model's context has room for the prompt and the longest reply."""
        context = self.capabilities.context
        return context is None or await self.count_prompt_tokens(prompt) + self._longest <= context


def _why(stop_reason: str) -> str:
    return _FULL if stop_reason == "budget" else stop_reason


async def draw(
    drawing: Drawing,
    engine: Engine,
    journal: RunStore,
    *,
    account: Ledger | None = None,
    interrupt: asyncio.Event | None = None,
    done: Callable[[Problem, str | None], None] = lambda _problem, _error: None,
    heard: Callable[[Event], None] = lambda _event: None,
) -> None:
    """Draw what neither the bank nor the journal holds; each sample is in the journal as soon as it ends.

    `account` bounds what all of it may spend, and setting `interrupt` ends it. `done` hears of each problem, and why it
    has too few samples where it does; `heard` hears the events of the runs. An unreachable server or a refused key ends
    the run with its error; what was drawn stays, and the same call goes on from there.
    """
    slots = asyncio.Semaphore(drawing.concurrency)

    async def one(problem: Problem) -> None:
        n = drawing.missing(problem)
        async with slots:
            if interrupt is not None and interrupt.is_set():
                done(problem, "interrupted" if n else None)
                return
            done(problem, await _draw_one(problem, n) if n else None)

    async def _draw_one(problem: Problem, n: int) -> str | None:
        """Why there are too few samples, `None` where there are not."""
        request = request_for(problem, drawing.params, drawing.seed)
        unit = unit_of(drawing.model or engine.model.name, problem)
        failures: list[str] = []

        def listen(event: Event) -> None:
            if event["event"] == "failed":
                failures.append(event["error"])
            heard(event)

        try:
            result = await engine.solve(
                request,
                strategy=f"self-consistency:n={n}",
                account=account,
                interrupt=interrupt,
                through=lambda model: _After(Recorder(model, journal, unit), drawing.n - n, request.params.max_tokens),
                listeners=(listen,),
                canonical=unread,
            )
        except NoAnswer as failure:
            return str(failure) if failure.stop_reason == "failed" else _why(failure.stop_reason)
        except (MissingSample, _NotWhole) as failure:
            return str(failure)
        except ModelRefused as failure:
            if not failure.about_the_request:
                raise
            return str(failure)
        if result.samples >= n:
            return None
        told = failures and result.stop_reason in ("complete", "failed")
        return failures[-1] if told else _why(result.stop_reason)

    try:
        async with asyncio.TaskGroup() as group:
            for problem in drawing.problems:
                group.create_task(one(problem))
    except BaseExceptionGroup as failures:
        raise first_failure(failures) from None  # the first failure explains the rest
