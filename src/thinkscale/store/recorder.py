"""A model that remembers: samples already on disk are served from there, new ones are kept as they finish."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import orjson

from thinkscale.models.base import Model, ModelWrapper, prompt_key
from thinkscale.models.gather import Choice, Gathering
from thinkscale.store.runs import RunStore
from thinkscale.types import Chunk, Params, Prompt, Token, Usage


class Recorder(ModelWrapper):
    """One unit's view of a model. A resumed unit asks the same questions and gets the samples it already paid for.

    A sample is kept under (unit, prompt and parameters, sample index); the first sample of a request carries the
    request's prompt tokens and what no single sample can be billed for, so that each is charged once, whenever served.
    `seconds` in what is kept is how long after its request was sent a sample had ended.
    """

    def __init__(self, model: Model, store: RunStore, unit: str) -> None:
        super().__init__(model)
        self._store = store
        self._unit = unit

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        key = _key(self.name, prompt, params)
        kept = await self._store.samples(self._unit, key, first, n)
        bill: Usage | None = None
        last = 0
        for sample, recorded in sorted(kept.items()):
            chunk, usage = _restore(recorded)
            bill = usage if bill is None else bill + usage
            last = sample - first
            yield replace(chunk, index=last)
        for start, length in _gaps(first, n, set(kept)):
            # The seed given is the first sample's; the others' follow it (`sample_seed`).
            seed = None if params.seed is None else (params.seed + start - first) & 0x7FFFFFFF
            async with aclosing(self._live(key, prompt, replace(params, seed=seed), length, start)) as chunks:
                async for chunk in chunks:
                    if chunk.usage is not None:
                        bill = chunk.usage if bill is None else bill + chunk.usage
                    last = chunk.index + start - first
                    yield replace(chunk, index=last, usage=None)
        if bill is not None:
            yield Chunk(index=last, usage=bill)

    async def _live(self, key: str, prompt: Prompt, params: Params, n: int, first: int) -> AsyncGenerator[Chunk, None]:
        """Ask the model, and keep each sample as it ends."""
        gathering = Gathering()
        page = _Page(self._store, self._unit, key, first, await self._model.count_prompt_tokens(prompt))
        try:
            async with aclosing(self._model.generate(prompt, params, n=n, first=first)) as chunks:
                async for chunk in chunks:
                    choice = gathering.add(chunk)
                    if chunk.finish_reason is not None and n > 1:
                        await page.keep(chunk.index, choice)
                    yield chunk
        except GeneratorExit:
            for choice in gathering.choices.values():
                choice.finish_reason = choice.finish_reason or "cut"
            await page.close(gathering)
            raise
        await page.close(gathering)


class _Page:
    """The samples of one request, as they go to the store."""

    def __init__(self, store: RunStore, unit: str, key: str, first: int, prompt_tokens: int) -> None:
        self._store = store
        self._unit = unit
        self._key = key
        self._first = first
        self._prompt_tokens = prompt_tokens
        self._kept: dict[int, Usage] = {}
        self._began = time.monotonic()
        self._ended_s: dict[int, float] = {}

    async def keep(self, index: int, choice: Choice, more: Usage | None = None) -> None:
        """Keep a sample, or replace it with `more` on its bill; the request's first carries the prompt and the trip."""
        share = self._kept.get(index)
        if share is None:
            share = Usage(output_tokens=choice.counted_tokens, cost_usd=None)
            if not self._kept:
                share = replace(share, prompt_tokens=self._prompt_tokens, requests=1)
        self._kept[index] = share if more is None else share + more
        seconds = self._ended_s.setdefault(index, time.monotonic() - self._began)
        recorded = _record(choice, self._kept[index], seconds)
        await self._store.add_samples(self._unit, self._key, [(self._first + index, recorded)])

    async def close(self, gathering: Gathering) -> None:
        """Keep what is left; what the final bill adds to the sum of the shares goes to the last sample."""
        if not gathering.choices:
            return
        for index, choice in sorted(gathering.choices.items()):
            if index not in self._kept:
                await self.keep(index, choice)
        bill, shares = gathering.usage(self._prompt_tokens), sum(self._kept.values(), Usage())
        last = list(self._kept)[-1]
        more = Usage(
            prompt_tokens=bill.prompt_tokens - shares.prompt_tokens,
            output_tokens=bill.output_tokens - shares.output_tokens,
            cached_tokens=bill.cached_tokens,
            cost_usd=None,
            counted=bill.counted,
        )
        await self.keep(last, gathering.choices[last], more)


def _key(name: str, prompt: Prompt, params: Params) -> str:
    # Seeds derive from the sample's index, which the store keys on already.
    shape = orjson.dumps(asdict(replace(params, seed=None)), option=orjson.OPT_SORT_KEYS, default=dict).decode()
    return f"{name}|{prompt_key(prompt)}|{shape}"


def answers_prompt(key: str, prompt: Prompt) -> bool:
    """Whether the sample that is kept under this key answers this prompt, whatever its parameters."""
    return f"|{prompt_key(prompt)}|" in key


def _record(choice: Choice, usage: Usage, seconds: float) -> dict[str, Any]:
    return {
        "text": "".join(choice.text),
        "reasoning": "".join(choice.reasoning),
        "tool_calls": [dict(call) for call in choice.tool_calls],
        "tokens": [[token.text, token.logprob, token.confidence, token.top] for token in choice.tokens],
        "counted_tokens": choice.counted_tokens,
        "finish_reason": choice.finish_reason,
        "stop_string": choice.stop_string,
        "usage": asdict(usage),
        "seconds": seconds,
    }


def _restore(recorded: dict[str, Any]) -> tuple[Chunk, Usage]:
    tokens = tuple(
        Token(text, logprob, confidence, tuple((name, value) for name, value in top))
        for text, logprob, confidence, top in recorded["tokens"]
    )
    chunk = Chunk(
        text=recorded["text"],
        reasoning=recorded["reasoning"],
        tool_calls=tuple({**call, "index": place} for place, call in enumerate(recorded["tool_calls"])),
        tokens=tokens,
        counted_tokens=recorded["counted_tokens"],
        finish_reason=recorded["finish_reason"],
        stop_string=recorded.get("stop_string"),
    )
    return chunk, Usage(**recorded["usage"])


def _gaps(first: int, n: int, kept: set[int]) -> list[tuple[int, int]]:
    """The runs of indices in [first, first + n) that are not kept, as (start, length)."""
    gaps: list[tuple[int, int]] = []
    for sample in range(first, first + n):
        if sample in kept:
            continue
        if gaps and sum(gaps[-1]) == sample:
            gaps[-1] = (gaps[-1][0], gaps[-1][1] + 1)
        else:
            gaps.append((sample, 1))
    return gaps
