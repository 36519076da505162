"""What a strategy may do, in five verbs; everything else about a request happens behind them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from thinkscale.accounting import Ledger, Price
from thinkscale.errors import AuthenticationFailed, BudgetExhausted, MissingSample, ModelError, UsageError
from thinkscale.models.base import Model, prompt_key
from thinkscale.session.fanout import FanOut, Job, Watch
from thinkscale.trace import Trace
from thinkscale.types import Candidate, Params, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.base import Verifier

Canonical = Callable[[Candidate], Awaitable[str | None]]
Through = Callable[[Model], Model]


_SHORTEST = 16  # output tokens: once there is an answer, a sample with less room is not worth its prompt
_EMPTY_BATCHES = 3  # batches in a row of which no sample came: the next would not either


def as_it_is(model: Model) -> Model:
    return model


class Session:
    """One request being solved.

    The verbs never raise because a budget, deadline or server ran out: they return what there is, and `ended` says why
    there is no more (`budget`, `deadline`, `interrupted`, `failed`). A strategy stops asking then and decides.
    """

    def __init__(
        self,
        request: Request,
        *,
        model: Model,
        ledger: Ledger,
        trace: Trace,
        canonical: Canonical,
        verifier: Verifier | None = None,
        price_for: Callable[[Model], Price | None] = lambda _model: None,
        through: Through = as_it_is,
    ) -> None:
        self.request = request
        self.ended: str | None = None
        self.error: ModelError | MissingSample | None = None
        self.exhausted: BudgetExhausted | None = None
        self.candidates: list[Candidate] = []
        self.partial: list[Candidate] = []
        self.offers: list[tuple[Candidate, float | None]] = []
        self._model = model
        self._ledger = ledger
        self._trace = trace
        self._canonical = canonical
        self._verifier = verifier
        self._price_for = price_for
        self._through = through
        self._halt: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._roots = 0
        self._empty_in_a_row = 0
        self._children: Counter[tuple[int, ...]] = Counter()
        self._drawn: Counter[str] = Counter()

    # -- the verbs ---------------------------------------------------------------------------------------------

    async def sample(
        self, n: int, *, prompt: Prompt | None = None, params: Params | None = None, watch: Watch | None = None
    ) -> list[Candidate]:
        """Up to `n` finished samples of the request's prompt (or of `prompt`), in index order."""
        async with self.sampling(n, prompt=prompt, params=params, watch=watch) as finished:
            return sorted([candidate async for candidate in finished], key=lambda candidate: candidate.path)

    @asynccontextmanager
    async def sampling(
        self, n: int, *, prompt: Prompt | None = None, params: Params | None = None, watch: Watch | None = None
    ) -> AsyncIterator[AsyncIterator[Candidate]]:
        """Up to `n` samples, one by one as they finish. Leaving the block cancels the rest, upstream too.

        `watch` sees each sample grow and cuts it where it returns true; such samples come with `finish_reason` "cut".
        """
        first = self._roots
        self._roots += n
        paths: list[tuple[int, ...]] = [(first + index,) for index in range(n)]
        async with self._run(self._job(prompt or self.request.prompt, params, paths, watch=watch)) as finished:
            yield finished

    async def extend(
        self, parents: Sequence[Candidate], n: int = 1, *, suffix: str = "", params: Params | None = None
    ) -> list[Candidate]:
        """Continue each parent's reply after `suffix`, `n` ways. A child's `text` is the whole reply from its start.

        Raises `UsageError` where the model's server cannot continue a given beginning.
        """
        self.need_continuation()

        async def grow(parent: Candidate) -> list[Candidate]:
            prefix = reply_so_far(parent) + suffix
            first = self._children[parent.path]
            self._children[parent.path] += n
            paths = [(*parent.path, first + index) for index in range(n)]
            async with self._run(self._job(replace(parent.prompt, prefix=prefix), params, paths)) as finished:
                return sorted([child async for child in finished], key=lambda child: child.path)

        return [child for children in await asyncio.gather(*map(grow, parents)) for child in children]

    async def verify(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """The verifier's word on each, in order; a `None` score where it could not judge or time ran out."""
        verifier = self.need_verifier()
        if not candidates:
            return []
        judging = asyncio.create_task(self._judge(verifier, candidates))
        try:
            await asyncio.sleep(0)  # a verifier that needs no waiting is done by now, past a deadline too
            waiting: set[asyncio.Future[Any]] = {judging, self._halt}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if judging.done():
                verdicts = list(judging.result())
            else:
                verdicts = [Verdict(None, reason="time ran out")] * len(candidates)
        except (ModelError, MissingSample) as error:
            self.error = error
            verdicts = [Verdict(None, reason=str(error))] * len(candidates)
        finally:
            judging.cancel()
            await asyncio.gather(judging, return_exceptions=True)
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            self._trace.emit(
                "verdict",
                path=candidate.path,
                verifier=verifier.name,
                score=verdict.score,
                passed=verdict.passed,
                reason=verdict.reason,
            )
        return verdicts

    def offer(self, candidate: Candidate, value: float | None = None) -> None:
        """Name the best answer so far: it is what returns if the run ends now. `value` is its confidence in [0, 1]."""
        self.offers.append((candidate, value))
        self._trace.emit("offer", path=candidate.path, answer=candidate.answer, value=value)

    # -- what a strategy may insist on ---------------------------------------------------------------------------

    def need_continuation(self) -> None:
        """Raise `UsageError` where the model's server cannot continue a given beginning: before anything is spent."""
        if not self._model.capabilities.continuation:
            raise UsageError(
                f"{self._model.name} cannot continue a reply from a given beginning, as this strategy must"
            )

    def need_verifier(self) -> Verifier:
        """The verifier; `UsageError` where none is set: before anything is spent."""
        if self._verifier is None:
            raise UsageError("this strategy needs a verifier and none is set: name one (--verifier)")
        return self._verifier

    def need_logprobs(self) -> None:
        """Raise `UsageError` where the model's server gives no log-probabilities."""
        if not self._model.capabilities.logprobs:
            raise UsageError(f"{self._model.name} gives no log-probabilities, which this strategy needs")

    # -- what the engine needs -----------------------------------------------------------------------------------

    @property
    def spent(self) -> Usage:
        return self._ledger.spent

    def halt(self, reason: str) -> None:
        """End the run: every verb returns what it has, and calls in flight are cancelled."""
        if not self._halt.done():
            self.ended = reason
            self._halt.set_result(reason)

    # -- plumbing ------------------------------------------------------------------------------------------------

    def _job(
        self,
        prompt: Prompt,
        params: Params | None,
        paths: list[tuple[int, ...]] | None = None,
        *,
        n: int = 1,
        model: Model | None = None,
        purpose: str = "generate",
        watch: Watch | None = None,
    ) -> Job:
        """A job for `paths`, or for `n` paths that count the samples drawn from this prompt."""
        model = model or self._model
        key = prompt_key(prompt)
        first = self._drawn[key]
        paths = paths or [(first + index,) for index in range(n)]
        self._drawn[key] += len(paths)
        return Job(
            model=self._through(model),
            prompt=prompt,
            params=params or self.request.params,
            paths=paths,
            first=first,
            seed=self.request.seed,
            min_tokens=_SHORTEST if self.candidates else 1,
            purpose=purpose,
            price=self._price_for(model),
            watch=watch,
        )

    @asynccontextmanager
    async def _run(self, job: Job) -> AsyncIterator[AsyncIterator[Candidate]]:
        """Run a job and keep the session's memory of what came, what was cut off, and why it ended."""
        if self.ended:
            yield _nothing()
            return
        fan = FanOut(job, self._ledger, self._trace, halt=self._halt, finish=self._finish)
        came = 0

        async def finished() -> AsyncIterator[Candidate]:
            nonlocal came
            async for candidate in fan.finished():
                came += 1
                yield candidate

        try:
            yield finished()
        finally:
            await fan.aclose()
            self.partial += fan.partial
            self.error = fan.error or self.error
            self.exhausted = fan.exhausted or self.exhausted
            self._empty_in_a_row = 0 if came or not fan.error else self._empty_in_a_row + 1
            hopeless = isinstance(fan.error, AuthenticationFailed) or self._empty_in_a_row >= _EMPTY_BATCHES
            if not self.ended:
                self.ended = "budget" if fan.exhausted else "failed" if hopeless else None

    async def _finish(self, candidate: Candidate) -> Candidate:
        candidate = replace(candidate, text=candidate.prompt.prefix + candidate.text)
        try:
            candidate = replace(candidate, answer=await self._canonical(candidate))
        finally:
            self.candidates.append(candidate)  # paid for, and kept: without its answer if there was no time to read it
        self._trace.emit(
            "candidate",
            path=candidate.path,
            answer=candidate.answer,
            text=candidate.text,
            finish_reason=candidate.finish_reason,
            output_tokens=candidate.output_tokens,
        )
        return candidate

    async def _judge(self, verifier: Verifier, candidates: Sequence[Candidate]) -> Sequence[Verdict]:
        return await verifier.verify(self.request, candidates, self._generate_for_verifier)

    async def _generate_for_verifier(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]:
        if not (model or self._model).capabilities.logprobs:
            params = replace(params, top_logprobs=None)
        job = self._job(prompt, params, n=n, model=model, purpose="verify")
        fan = FanOut(job, self._ledger, self._trace, halt=self._halt, finish=_as_it_is)
        try:
            judged = sorted([candidate async for candidate in fan.finished()], key=lambda candidate: candidate.path)
        finally:
            await fan.aclose()
            if fan.exhausted and not self.ended:
                self.ended, self.exhausted = "budget", fan.exhausted
        if fan.error and not judged:
            raise fan.error
        return judged


def reply_so_far(candidate: Candidate) -> str:
    """The reply as the model wrote it, thinking included, ready to be continued."""
    return f"<think>\n{candidate.reasoning}\n</think>\n{candidate.text}" if candidate.reasoning else candidate.text


async def _nothing() -> AsyncIterator[Candidate]:
    return
    yield


async def _as_it_is(candidate: Candidate) -> Candidate:
    return candidate
