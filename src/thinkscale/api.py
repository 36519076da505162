"""The front door of the library: an engine from a model's name, and one call for those without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

from thinkscale.accounting import Ledger, Price, price_of
from thinkscale.engine import Engine
from thinkscale.errors import ModelError, NoAnswer, UsageError
from thinkscale.models.base import Model
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.opening import Local, open_model
from thinkscale.policies import Policy
from thinkscale.policies.allocation import BatchAllocator
from thinkscale.policies.gain import Gain
from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request, Result, Usage
from thinkscale.verifiers.base import Verifier, together


@asynccontextmanager
async def open_engine(
    model: str = "smollm2",
    *,
    verifier: Verifier | None = None,
    policy: Policy | None = None,
    price: Price | None = None,
    local: Local | None = None,
    prompts: Sequence[Prompt] = (),
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> AsyncIterator[Engine]:
    """An engine over the model that `model` names (a known name, a .gguf file, `hf:…`, a URL, `bank:FILE`).

    `price` is taken from the public price list where the model is hosted and listed, else unknown. `local` sets the
    embedded engine, `prompts` are what a bank's samples belong to, `progress` hears (bytes done, bytes in all) while
    a model is being fetched.
    """
    async with open_model(model, local=local, prompts=prompts, progress=progress) as opened:
        engine = Engine(
            opened, verifier=verifier, policy=policy, price=price or list_price(opened), price_of=list_price
        )
        try:
            yield engine
        finally:
            await engine.aclose()


def list_price(model: Model) -> Price | None:
    """What the public price list says of a hosted model; `None` for every other."""
    if not isinstance(model, OpenAIModel) or "//127.0.0.1" in model.base_url or "//localhost" in model.base_url:
        return None  # a loopback server has no list price, and reading the price list takes 0.2 s
    return price_of(model.name, model.base_url)


def solve(
    question: str | Request,
    *,
    model: str = "smollm2",
    strategy: str = "self-consistency:n=16",
    budget: Budget | None = None,
    kind: AnswerKind | str = AnswerKind.TEXT,
    params: Params | None = None,
    verifier: Verifier | None = None,
    price: Price | None = None,
) -> Result:
    """Answer one question from synchronous code; opens the model and closes it again.

    Raises what `Engine.solve` raises, and `UsageError` when called inside a running event loop: use `open_engine`
    there, and for many questions.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise UsageError("solve() blocks: inside an event loop use `async with open_engine(...)` and await its solve()")
    if isinstance(question, str):
        if kind not in list(AnswerKind):
            raise UsageError(f"unknown kind {kind!r} (known: {', '.join(AnswerKind)})")
        question = Request(Prompt.of(question), AnswerKind(kind), params or Params())
    request = question

    async def once() -> Result:
        async with open_engine(model, verifier=verifier, price=price) as engine:
            return await engine.solve(request, strategy=strategy, budget=budget)

    return asyncio.run(once())


@dataclass(frozen=True)
class BatchResult:
    """What became of each request, in order: its result, or why it has none. `usage` is the bill of all of them."""

    results: tuple[Result | NoAnswer | ModelError, ...]
    usage: Usage


async def solve_batch(
    requests: Sequence[Request],
    *,
    total: Budget,
    gain: Gain,
    model: str = "smollm2",
    engine: Engine | None = None,
    verifier: Verifier | None = None,
    concurrency: int = 64,
    width: int | None = None,
) -> BatchResult:
    """Answer many requests under one total, with samples where `gain` expects most of them (see `BatchAllocator`).

    `total` is never exceeded, by all requests together; it needs `max_total_tokens`, and its deadline is that of the
    whole batch. `engine` is used where given, else one is opened over `model`. Up to `concurrency` requests run at a
    time: all of them at once share best. `width` is how many may be drawing beyond their first samples, by default an
    eighth of those. A request that fails leaves the others alone.

    Raises `UsageError` for a total that cannot be shared, and where the gain needs a verifier and none is set.
    """
    if concurrency < 1 or (width is not None and width < 1):
        raise UsageError("concurrency and width must be at least 1")
    ledger = Ledger(replace(total, deadline_s=None), name="the batch")
    running = min(concurrency, len(requests))
    allocator = BatchAllocator(gain, ledger, len(requests), width=width or max(1, running // 8))
    slots = asyncio.Semaphore(concurrency)
    loop = asyncio.get_running_loop()
    ends = None if total.deadline_s is None else loop.time() + total.deadline_s

    async def one(engine: Engine, request: Request) -> Result | NoAnswer | ModelError:
        async with slots:
            left = None if ends is None else ends - loop.time()
            if left is not None and left <= 0:
                return NoAnswer("deadline", "no answer, the batch's time was up before its turn came")
            with allocator.request() as controller:
                await asyncio.sleep(0)  # all that have a slot come before the first one draws
                try:
                    return await engine.solve(
                        request,
                        strategy="auto",
                        budget=Budget(deadline_s=left),
                        verifier=verifier,
                        account=ledger,
                        controller=controller,
                    )
                except (NoAnswer, ModelError) as failure:
                    return failure

    async with nullcontext(engine) if engine else open_engine(model) as opened:
        results = await together([one(opened, request) for request in requests])
    return BatchResult(tuple(results), ledger.spent)
