"""What a strategy may do, in five verbs; everything else about a request happens behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from thinkscale.accounting import Ledger, Price
from thinkscale.errors import AuthenticationFailed, BudgetExhausted, MissingSample, ModelError, UsageError
from thinkscale.models.base import Model, prompt_key
from thinkscale.session.fanout import FanOut, Finish, Job, Watch
from thinkscale.session.growth import Growth, beginning
from thinkscale.session.jobs import Jobs, Through
from thinkscale.session.meter import Meter
from thinkscale.steps import Boundary
from thinkscale.trace import Trace
from thinkscale.types import Action, Candidate, Controller, Params, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.base import Verifier, together

Canonical = Callable[[Candidate], Awaitable[str | None]]


_BLANK_LINES = 2  # separators more than one that may stand between two steps
_SHORTEST = 16  # output tokens: once there is an answer, a sample with less room is not worth its prompt
_EMPTY_BATCHES = 3  # times in a row that no sample came of a batch: the next would not either


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
        controller: Controller | None = None,
        larger: Model | None = None,
    ) -> None:
        self.request = request
        self.controller = controller
        self.ran: str | None = None
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
        self._larger = larger
        self._halt: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._running = 0
        self._empty_in_a_row = 0
        self._jobs = Jobs(request, model, price_for=price_for, through=through)
        self._meter = Meter(self._generate_for_verifier, ledger, trace, self._out_of_budget)

    # -- the verbs ---------------------------------------------------------------------------------------------

    @property
    def root(self) -> Candidate:
        """The reply that nothing has been written of yet: where a tree begins."""
        return Candidate((), self.request.prompt, text=self.request.prompt.prefix)

    async def sample(
        self,
        n: int,
        *,
        prompt: Prompt | None = None,
        params: Params | None = None,
        watch: Watch | None = None,
        parent: Candidate | None = None,
    ) -> list[Candidate]:
        """Up to `n` finished samples of the request's prompt (or of `prompt`), in index order."""
        async with self.sampling(n, prompt=prompt, params=params, watch=watch, parent=parent) as finished:
            return sorted([candidate async for candidate in finished], key=lambda candidate: candidate.path)

    @asynccontextmanager
    async def sampling(
        self,
        n: int,
        *,
        prompt: Prompt | None = None,
        params: Params | None = None,
        watch: Watch | None = None,
        parent: Candidate | None = None,
    ) -> AsyncIterator[AsyncIterator[Candidate]]:
        """Up to `n` samples, one by one as they finish. Leaving the block cancels the rest, upstream too.

        `watch` sees each sample grow and cuts it where it returns true; such samples come with `finish_reason` "cut".
        A sample made from another one (a revision) names it as `parent`: that is its place in the trace.
        """
        paths = self._jobs.paths(parent or self.root, n)
        async with self._run(self._jobs.job(prompt or self.request.prompt, params, paths, watch=watch)) as finished:
            yield finished

    async def escalate(self, n: int, *, parent: Candidate) -> list[Candidate]:
        """Up to `n` samples of the larger model, in index order; their place in the trace is below `parent`.

        Raises `UsageError` where no larger model is set.
        """
        larger = self.need_larger()
        paths = self._jobs.paths(parent, n)
        job = self._jobs.job(self.request.prompt, None, paths, model=larger, purpose="escalate")
        async with self._run(job) as finished:
            return sorted([candidate async for candidate in finished], key=lambda candidate: candidate.path)

    async def extend(
        self,
        parents: Sequence[Candidate],
        n: int | Sequence[int] = 1,
        *,
        step: Boundary | None = None,
        suffix: str = "",
        params: Params | None = None,
    ) -> list[Candidate]:
        """Continue each parent's reply `n` ways (one number for all, or one for each), in order.

        A child's `text` is the whole reply from its start. With `step` each child is one step longer, and may go on
        where its `finish_reason` is "step"; without, it goes on to its end. `suffix` is written behind the parent's
        reply first. `root` as a parent begins a reply. The request's `max_tokens` bounds the whole reply, that of
        `params`, if given, the piece.
        Children of one beginning travel together, so that a server with a prefix cache computes it once.

        Raises `UsageError` where the model's server cannot continue a given beginning.
        """
        self.need_continuation()
        widths = [n] * len(parents) if isinstance(n, int) else n
        beginnings: dict[str, list[tuple[Candidate, int]]] = {}
        for parent, width in zip(parents, widths, strict=True):
            key = prompt_key(replace(parent.prompt, prefix=beginning(parent, suffix)))
            beginnings.setdefault(key, []).append((parent, width))

        async def grow(group: list[tuple[Candidate, int]]) -> list[Candidate]:
            parent = group[0][0]
            prompt = replace(parent.prompt, prefix=beginning(parent, suffix))
            growth = Growth(parent, prompt, step, self.request.params, params)
            if growth.room < 1:
                return []
            paths = [path for one, width in group for path in self._jobs.paths(one, width)]
            children = await self._draw(growth, paths)
            for more in range(1, _BLANK_LINES + 1):
                blank = [path for path, child in sorted(children.items()) if child is None]
                if not blank or self.ended:
                    break
                growth = growth.again()
                children |= await self._draw(growth, blank, last=more == _BLANK_LINES)
            return [child for child in children.values() if child is not None]

        grown = await together([grow(group) for group in beginnings.values()])
        children: dict[tuple[int, ...], list[Candidate]] = {}
        for child in sorted((child for part in grown for child in part), key=lambda child: child.path):
            children.setdefault(child.path[:-1], []).append(child)
        return [child for parent in parents for child in children.pop(parent.path, ())]

    async def _draw(
        self, growth: Growth, paths: list[tuple[int, ...]], *, last: bool = False
    ) -> dict[tuple[int, ...], Candidate | None]:
        """What grew, by path; `None` for a step that came back blank. The `last` time that is the reply's end."""
        known = None
        if growth.parent.path and not self._ledger.counts_tokens:
            question = replace(growth.prompt, prefix=self.request.prompt.prefix)
            known = growth.prompt_tokens(await self._model.count_prompt_tokens(question))
        children: dict[tuple[int, ...], Candidate | None] = {}

        async def finish(piece: Candidate) -> Candidate:
            child = growth.child(piece, tells_stop=self._model.capabilities.tells_stop)
            if child is None and last:
                child = growth.ended(piece)
            children[piece.path] = grown = child and await self._grown(growth, child)
            return grown or piece

        async with self._run(
            self._jobs.job(growth.prompt, growth.params, paths, prompt_tokens=known), finish
        ) as finished:
            async for _child in finished:
                pass
        return children

    async def ask(self, prompt: Prompt, params: Params, n: int = 1) -> list[Candidate]:
        """Ask the model something about the candidates (which of two is better, say): charged as `verify`, never a
        candidate itself. Fewer replies than `n`, or none, where the budget ended or the call failed.
        """
        try:
            return await self._generate_for_verifier(prompt, params, n=n)
        except (ModelError, MissingSample) as error:
            self.error = error
            return []

    def prune(self, candidates: Sequence[Candidate], reason: str) -> None:
        """Note that these branches grow no further."""
        if candidates:
            self._trace.emit("prune", paths=[candidate.path for candidate in candidates], reason=reason)

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
                steps=verdict.steps,
            )
        return verdicts

    def offer(self, candidate: Candidate, value: float | None = None) -> None:
        """Name the best answer so far: it is what returns if the run ends now. `value` is its confidence in [0, 1]."""
        self.offers.append((candidate, value))
        self._trace.emit("offer", path=candidate.path, answer=candidate.answer, value=value)

    async def prompt_tokens(self) -> int:
        """The length of the request's prompt."""
        return await self._model.count_prompt_tokens(self.request.prompt)

    async def affordable(self) -> int | None:
        """How many more samples of the prompt the budget surely holds; `None` where nothing limits them."""
        prompt = self.request.prompt
        tokens = await self._model.count_prompt_tokens(prompt) if self._ledger.counts_tokens else 0
        return self._ledger.room(self._jobs.claim(tokens))

    def decided(self, action: Action) -> None:
        """Note what a controller decided; a strategy that it hands over to is the one that ran."""
        self.ran = action.strategy or self.ran
        self._trace.emit(
            "decision",
            action=action.kind,
            k=action.k,
            strategy=action.strategy,
            confidence=action.confidence,
            probability=action.probability,
        )

    # -- what a strategy may insist on ---------------------------------------------------------------------------

    def need_continuation(self) -> None:
        """Raise `UsageError` where the model's server cannot continue a given beginning: before anything is spent."""
        if not self._model.capabilities.continuation and self.request.prompt.text is None:
            raise UsageError(
                f"{self._model.name} cannot continue a reply from a given beginning, as this strategy must"
            )

    def need_verifier(self) -> Verifier:
        """The verifier; `UsageError` where none is set: before anything is spent."""
        if self._verifier is None:
            raise UsageError(
                "this strategy needs a verifier and none is set: name one "
                "(--verifier, or `inference.verifier` in a request)"
            )
        return self._verifier

    def need_larger(self) -> Model:
        """The larger model; `UsageError` where none is set: before anything is spent."""
        if self._larger is None:
            raise UsageError(
                "this policy may ask a larger model and none is set: name one (--larger, or `larger` of the model in "
                "the gateway's configuration)"
            )
        return self._larger

    @property
    def gives_logprobs(self) -> bool:
        return self._model.capabilities.logprobs

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

    @asynccontextmanager
    async def _run(self, job: Job, finish: Finish | None = None) -> AsyncIterator[AsyncIterator[Candidate]]:
        """Run a job and keep the session's memory of what came, what was cut off, and why it ended."""
        if self.ended:
            yield _nothing()
            return
        fan = FanOut(job, self._ledger, self._trace, halt=self._halt, finish=finish or self._finish)
        self._running += 1
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
            self.partial += [replace(cut, text=cut.prompt.prefix + cut.text) for cut in fan.partial]
            self.error = fan.error or self.error
            self.exhausted = fan.exhausted or self.exhausted
            self._running -= 1
            if came or not fan.error:
                self._empty_in_a_row = 0
            elif not self._running:  # batches that run together count once: a refusal is faster than a reply
                self._empty_in_a_row += 1
            hopeless = isinstance(fan.error, AuthenticationFailed) or self._empty_in_a_row >= _EMPTY_BATCHES
            if not self.ended:
                self.ended = "budget" if fan.exhausted else "failed" if hopeless else None

    async def _finish(self, sample: Candidate) -> Candidate:
        prefix = sample.prompt.prefix
        return await self._answered(replace(sample, text=prefix + sample.text) if prefix else sample)

    async def _grown(self, growth: Growth, child: Candidate) -> Candidate:
        if growth.step:
            self._trace.emit(
                "step",
                path=child.path,
                text=child.steps[-1] if len(child.steps) > len(growth.parent.steps) else "",
                finish_reason=child.finish_reason,
                output_tokens=child.output_tokens,
            )
        if child.finish_reason == "step":
            self.partial.append(child)
            return child
        return await self._answered(child)

    async def _answered(self, candidate: Candidate) -> Candidate:
        """A whole reply, with its answer: from now on one of the candidates."""
        try:
            answer = await self._canonical(candidate)
            candidate = candidate if answer is None else replace(candidate, answer=answer)
        finally:
            self._jobs.min_tokens = _SHORTEST
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
        return await verifier.verify(self.request, candidates, self._meter)

    async def _generate_for_verifier(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]:
        asked = model or self._model
        if prompt.prefix and prompt.messages and not asked.capabilities.continuation:
            raise UsageError(f"{asked.name} cannot continue a reply from a given beginning, as this verifier must")
        if not asked.capabilities.logprobs:
            params = replace(params, top_logprobs=None)
        job = self._jobs.job(prompt, params, n=n, model=model, purpose="verify")
        fan = FanOut(job, self._ledger, self._trace, halt=self._halt, finish=_as_it_is)
        try:
            judged = sorted([candidate async for candidate in fan.finished()], key=lambda candidate: candidate.path)
        finally:
            await fan.aclose()
            if fan.exhausted:
                self._out_of_budget(fan.exhausted)
        if fan.error and not judged:
            raise fan.error
        return judged

    def _out_of_budget(self, why: BudgetExhausted) -> None:
        if not self.ended:
            self.ended, self.exhausted = "budget", why


async def _nothing() -> AsyncIterator[Candidate]:
    return
    yield


async def _as_it_is(candidate: Candidate) -> Candidate:
    return candidate
