"""Many samples of one prompt at once: admission, batching, counting and cancellation, written once."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from thinkscale.accounting import Claim, Ledger, Price, Reservation
from thinkscale.errors import BudgetExhausted, MissingSample, ModelError, ModelUnavailable
from thinkscale.models.base import Model, NeverSent, most_prompt_tokens, prompt_key
from thinkscale.models.gather import Choice, Gathering
from thinkscale.trace import Trace
from thinkscale.types import Candidate, Params, Prompt, Usage, sample_seed

Watch = Callable[[Choice], bool]
"""Looks at one growing sample; true means "cut it now"."""

Finish = Callable[[Candidate], Awaitable[Candidate]]
"""Makes of a sample, as it came, what the strategy gets."""

_ASKED_AGAIN = 2  # times that a sample lost on the way is drawn anew


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample, and on whose account. `first` is the index of the first sample drawn from this prompt.

    A sample shortened by the budget still has `min_tokens` output tokens, or it is not drawn. `prompt_tokens` bounds
    the tokens of the prompt where that is known without asking.
    """

    model: Model
    prompt: Prompt
    params: Params
    paths: list[tuple[int, ...]]
    first: int
    seed: int
    min_tokens: int = 1
    purpose: str = "generate"
    price: Price | None = None
    watch: Watch | None = None
    prompt_tokens: int | None = None


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
        finish: Finish,
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
        self._broken_off: Counter[int] = Counter()
        self._calls: dict[asyncio.Task[None], Reservation] = {}
        self._arrived: asyncio.Queue[Candidate | None] = asyncio.Queue()
        self._feeder: asyncio.Task[None] | None = None
        if len(job.paths) > 1:
            halt.add_done_callback(self._end)
            self._feeder = asyncio.create_task(self._feed())
            self._feeder.add_done_callback(self._end)

    async def finished(self) -> AsyncIterator[Candidate]:
        """Candidates in the order in which they finish (short ones first)."""
        if self._feeder is None:
            await self._feed_until_halt()
            while not self._arrived.empty():
                candidate = self._arrived.get_nowait()
                assert candidate is not None
                yield candidate
            return
        while (candidate := await self._arrived.get()) is not None:
            yield candidate
        if self._feeder.done():
            self._feeder.result()  # a fault of ours is raised here, not lost in a task

    async def aclose(self) -> None:
        self._halt.remove_done_callback(self._end)
        tasks = [*self._calls, *([self._feeder] if self._feeder else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for hold in self._calls.values():
            if not hold.settled:
                hold.settle(Usage())  # cancelled before its first step: nothing was asked

    def _end(self, _ended: asyncio.Future[Any]) -> None:
        self._arrived.put_nowait(None)

    async def _feed_until_halt(self) -> None:
        """One sample alone needs no task beside its caller's; the halt ends it as a time limit would."""
        loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)

        def stop(_halted: asyncio.Future[str]) -> None:
            scope.reschedule(loop.time())

        try:
            async with scope:
                self._halt.add_done_callback(stop)
                await self._feed()
        except (TimeoutError, NeverSent):  # the scope knows only the plain cancellation
            if not scope.expired():
                raise
        finally:
            self._halt.remove_done_callback(stop)

    async def _feed(self) -> None:
        """Admit calls while the budget has room; samples that a server left out are asked for again."""
        while self._todo or self._calls:
            if self._todo and self.exhausted is None:
                await self._admit()
            else:
                await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
            for call in [call for call in self._calls if call.done()]:
                del self._calls[call]
                call.result()
            if self.exhausted is not None and not self._calls:
                break

    async def _admit(self) -> None:
        job, able = self._job, self._job.model.capabilities
        prompt_tokens = job.prompt_tokens
        if prompt_tokens is None:
            prompt_tokens = await job.model.count_prompt_tokens(job.prompt)
        longest = job.params.max_tokens
        if able.context is not None:
            longest = max(1, min(longest, _room(able.context, prompt_tokens, job.prompt)))
        claim = Claim(
            prompt_tokens,
            longest,
            1 if job.watch else min(max(1, able.max_n), len(self._todo)),
            min_tokens=job.min_tokens,
            price=job.price,
            purpose=job.purpose,
        )
        try:
            hold = await self._ledger.reserve(claim)
        except BudgetExhausted as full:
            self.exhausted = full
            return
        batch = [self._todo.popleft()]
        while len(batch) < hold.n and self._todo and self._todo[0] == batch[-1] + 1:
            batch.append(self._todo.popleft())
        if not self._todo and not self._calls:
            await self._call(batch, hold)  # nothing runs beside it: it needs no task of its own
        else:
            self._calls[asyncio.create_task(self._call(batch, hold))] = hold

    async def _call(self, batch: list[int], hold: Reservation) -> None:
        """One request for a batch of samples. Each is handed over when it ends, whatever becomes of the others."""
        job, gathering = self._job, Gathering()
        paths = [job.paths[index] for index in batch]
        self._trace.emit("call", purpose=job.purpose, path=paths[0], n=len(batch), max_tokens=hold.max_tokens)
        # By prompt and place among its samples: the same whoever travels together, and never twice.
        seed = sample_seed(job.seed, (job.purpose, prompt_key(job.prompt)), job.first + batch[0])
        params = job.params.drawn(hold.max_tokens, seed)
        stream = job.model.generate(job.prompt, params, n=len(batch), first=job.first + batch[0])
        given: set[int] = set()
        prompt_tokens = hold.claim.prompt_tokens
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    choice = gathering.add(chunk)
                    if choice.finish_reason is not None:
                        # A sample that travels alone waits for its bill, which knows its tokens best.
                        if len(batch) > 1 and chunk.index not in given:
                            given.add(chunk.index)
                            await self._give(gathering.candidate(chunk.index, job.prompt, paths[chunk.index]))
                    elif job.watch and job.watch(choice):
                        choice.finish_reason = "cut"
                        break
            self._settle(hold, gathering.usage(prompt_tokens), paths)
        except (ModelError, MissingSample) as error:
            self._fail(error, batch, given, hold, gathering)
            return
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled, NeverSent):
                self._settle(hold, Usage(), paths)
            elif job.model.capabilities.streams:
                self._settle(hold, gathering.usage(prompt_tokens, calls=len(batch)), paths)
            left = [index for index in sorted(gathering.choices) if index not in given]
            self.partial += [gathering.candidate(index, job.prompt, paths[index]) for index in left]
            raise
        finally:
            if not hold.settled:
                self._settle(hold, hold.held, paths)  # nobody saw what it used: it is charged whole
        for index in sorted(gathering.choices):
            if index not in given:
                given.add(index)
                await self._give(gathering.candidate(index, job.prompt, paths[index]))
        if given:
            self._todo.extend(index for place, index in enumerate(batch) if place not in given)
        else:
            self._report(ModelUnavailable(f"{job.model.name} sent an empty reply"), batch)

    async def _give(self, candidate: Candidate) -> None:
        self._arrived.put_nowait(await self._finish(candidate))

    def _fail(
        self,
        error: ModelError | MissingSample,
        batch: list[int],
        given: set[int],
        hold: Reservation,
        gathering: Gathering,
    ) -> None:
        """One failed request does not fail the others. What it is known to have used is charged, the unknown whole."""
        left = [index for place, index in enumerate(batch) if place not in given]
        self._report(error, left)
        paths = [self._job.paths[index] for index in batch]
        if gathering.choices:
            self._settle(hold, gathering.usage(hold.claim.prompt_tokens, calls=len(batch)), paths)
        elif isinstance(error, ModelUnavailable) and not error.sent:
            self._settle(hold, Usage(), paths)
        elif not isinstance(error, ModelUnavailable) or error.status is not None:
            self._settle(hold, Usage(requests=1), paths)
        if isinstance(error, ModelUnavailable) and error.status is None and error.sent:
            # Lost on the way, which no adapter retries, since the server may have worked: ask again, under the budget.
            again = [index for index in left if self._broken_off[index] < _ASKED_AGAIN]
            self._broken_off.update(again)
            self._todo.extend(again)

    def _report(self, error: ModelError | MissingSample, batch: list[int]) -> None:
        self.error = error
        status = error.status if isinstance(error, ModelError) else None
        paths = [self._job.paths[index] for index in batch]
        self._trace.emit("failed", purpose=self._job.purpose, paths=paths, error=str(error), status=status)

    def _settle(self, hold: Reservation, usage: Usage, paths: list[tuple[int, ...]]) -> None:
        emit_settled(self._trace, hold, usage, paths)


def _room(context: int, prompt_tokens: int, prompt: Prompt) -> int:
    """The output tokens that a context has room for. A prompt's length that is only a bound, several times the truth
    as a rule, leaves a quarter at least: where that is too much after all, the server says so.
    """
    left = context - prompt_tokens
    if left < context // 4 and prompt_tokens >= most_prompt_tokens(prompt):
        return context // 4
    return left


def emit_settled(trace: Trace, hold: Reservation, usage: Usage, paths: list[tuple[int, ...]]) -> None:
    """Settle a reservation, and put into the trace what its samples used."""
    priced = hold.settle(usage)
    trace.emit(
        "settle",
        purpose=hold.claim.purpose,
        paths=paths,
        calls=priced.calls,
        requests=priced.requests,
        reserved_tokens=hold.held.total_tokens,
        prompt_tokens=priced.prompt_tokens,
        output_tokens=priced.output_tokens,
        cached_tokens=priced.cached_tokens,
        cost_usd=priced.cost_usd,
        counted=priced.counted,
    )
