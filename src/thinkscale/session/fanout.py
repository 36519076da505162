"""Many samples of one prompt at once: admission, batching, counting and cancellation, written once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from thinkscale.accounting import Claim, Ledger, Price, Reservation
from thinkscale.errors import BudgetExhausted, MissingSample, ModelError, ModelRefused, ModelUnavailable
from thinkscale.models.base import Model
from thinkscale.models.gather import Choice, Gathering
from thinkscale.trace import Trace
from thinkscale.types import Candidate, Params, Prompt, Usage, derive_seed

Watch = Callable[[Choice], bool]
"""Looks at one growing sample; true means "cut it now"."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample, and on whose account. `first` is the index of the first sample drawn from this prompt."""

    model: Model
    prompt: Prompt
    params: Params
    paths: list[tuple[int, ...]]
    first: int
    seed: int
    purpose: str = "generate"
    price: Price | None = None
    watch: Watch | None = None


class FanOut:
    """Runs a job's samples in parallel and hands over each as it finishes. `aclose` leaves nothing in flight.

    It ends early when `halt` is set (deadline, interruption) or the budget is full; `exhausted` and `error` then say
    why. Samples cut off by `aclose` while they had some text are kept in `partial`.
    """

    def __init__(
        self,
        job: Job,
        ledger: Ledger,
        trace: Trace,
        *,
        halt: asyncio.Future[str],
        finish: Callable[[Candidate], Awaitable[Candidate]],
    ) -> None:
        self.exhausted: BudgetExhausted | None = None
        self.error: ModelError | MissingSample | None = None
        self.partial: list[Candidate] = []
        self._job = job
        self._ledger = ledger
        self._trace = trace
        self._halt = halt
        self._finish = finish
        self._todo = deque(range(len(job.paths)))
        self._lost: set[int] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._arrived: asyncio.Queue[Candidate | None] = asyncio.Queue()
        halt.add_done_callback(self._end)
        self._feeder = asyncio.create_task(self._feed())
        self._feeder.add_done_callback(self._end)

    async def finished(self) -> AsyncIterator[Candidate]:
        """Candidates in the order in which they finish (short ones first)."""
        while (candidate := await self._arrived.get()) is not None:
            yield candidate
        if self._feeder.done():
            self._feeder.result()  # a fault of ours is raised here, not lost in a task

    async def aclose(self) -> None:
        self._halt.remove_done_callback(self._end)
        tasks = [self._feeder, *self._calls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, _ended: asyncio.Future[Any]) -> None:
        self._arrived.put_nowait(None)

    async def _feed(self) -> None:
        """Admit calls while the budget has room; samples that a server left out are asked for again."""
        while self._todo or self._calls:
            if self._todo and self.exhausted is None:
                await self._admit()
            else:
                await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
            for call in [call for call in self._calls if call.done()]:
                self._calls.discard(call)
                call.result()
            if self.exhausted is not None and not self._calls:
                break

    async def _admit(self) -> None:
        job = self._job
        together = 1 if job.watch else max(1, job.model.capabilities.max_n)
        prompt_tokens = await job.model.count_prompt_tokens(job.prompt)
        claim = Claim(
            prompt_tokens, job.params.max_tokens, min(together, len(self._todo)), price=job.price, purpose=job.purpose
        )
        try:
            hold = await self._ledger.reserve(claim)
        except BudgetExhausted as full:
            self.exhausted = full
            return
        batch = [self._todo.popleft()]
        while len(batch) < hold.n and self._todo and self._todo[0] == batch[-1] + 1:
            batch.append(self._todo.popleft())
        self._calls.add(asyncio.create_task(self._call(batch, hold)))

    async def _call(self, batch: list[int], hold: Reservation) -> None:
        job, gathering = self._job, Gathering()
        paths = [job.paths[index] for index in batch]
        self._trace.emit("call", purpose=job.purpose, path=paths[0], n=len(batch), max_tokens=hold.max_tokens)
        seed = derive_seed(job.seed, (job.purpose, *paths[0]))
        params = replace(job.params, max_tokens=hold.max_tokens, seed=seed)
        stream = job.model.generate(job.prompt, params, n=len(batch), first=job.first + batch[0])
        with hold:
            try:
                async with aclosing(stream):
                    async for chunk in stream:
                        choice = gathering.add(chunk)
                        if job.watch and choice.finish_reason is None and job.watch(choice):
                            choice.finish_reason = "cut"
                            break
            except asyncio.CancelledError:
                if job.model.capabilities.streams:
                    self._settle(hold, gathering.usage(hold.claim.prompt_tokens))
                self.partial += [replace(one, finish_reason="cut") for one in gathering.candidates(job.prompt, paths)]
                raise
            except (ModelError, MissingSample) as error:
                self._fail(error, batch, hold, gathering)
                return
            self._settle(hold, gathering.usage(hold.claim.prompt_tokens))
        candidates = gathering.candidates(job.prompt, paths)
        came = {candidate.path for candidate in candidates}
        if came:
            self._todo.extend(index for index, path in zip(batch, paths, strict=True) if path not in came)
        else:
            self.error = ModelUnavailable(f"{job.model.name} sent an empty reply")
            self._trace.emit("failed", path=paths[0], n=len(batch), error=str(self.error), status=None)
        for candidate in candidates:
            self._arrived.put_nowait(await self._finish(candidate))

    def _fail(
        self, error: ModelError | MissingSample, batch: list[int], hold: Reservation, gathering: Gathering
    ) -> None:
        """One failed request does not fail the others. What it is known to have used is charged."""
        self.error = error
        status = error.status if isinstance(error, ModelError) else None
        path = self._job.paths[batch[0]]
        self._trace.emit("failed", path=path, n=len(batch), error=str(error), status=status)
        if gathering.choices:
            self._settle(hold, gathering.usage(hold.claim.prompt_tokens))
            # Broken off half-way, which no adapter retries, for what came is spent: ask once more.
            again = [index for index in batch if index not in self._lost]
            self._lost.update(again)
            self._todo.extend(again)
        elif status is not None or isinstance(error, MissingSample | ModelRefused):
            self._settle(hold, Usage(requests=1))
        # else: silence or a broken connection before anything came. The server may have worked: the hold is charged.

    def _settle(self, hold: Reservation, usage: Usage) -> None:
        priced = hold.settle(usage)
        self._trace.emit(
            "settle",
            purpose=self._job.purpose,
            reserved_tokens=hold.held.total_tokens,
            prompt_tokens=priced.prompt_tokens,
            output_tokens=priced.output_tokens,
            cached_tokens=priced.cached_tokens,
            cost_usd=priced.cost_usd,
            counted=priced.counted,
        )
