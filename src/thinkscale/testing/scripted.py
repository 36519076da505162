"""A model whose answers follow a known distribution, to test strategies without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from random import Random

import orjson

from thinkscale.errors import ModelRefused
from thinkscale.models.base import BaseModel, Capabilities, prompt_key
from thinkscale.testing.reply import Answers, Cut, Reply, answering, cut_to
from thinkscale.types import Chunk, Params, Prompt, Token, Usage, derive_seed

Script = Callable[[Prompt, int, Random], Reply | Exception]
"""Says what sample `index` of a prompt is; an exception is raised in its place."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """One reply cut into tokens, with the wait in seconds for the first."""

    reply: Reply
    cut: Cut
    wait_s: float

    @property
    def tokens(self) -> int:
        return len(self.cut.pieces)

    def chunk(self, index: int, first: int, last: int, params: Params, able: Capabilities) -> Chunk:
        """Its tokens [first, last) as one chunk, the finish reason with the last."""
        part = self.cut.pieces[first:last]
        tokens: tuple[Token, ...] = ()
        if able.logprobs and params.top_logprobs is not None:
            shown = [piece.text or piece.reasoning for piece in part]
            tokens = tuple(self.reply.token(at, text, params.top_logprobs) for at, text in enumerate(shown, first))
        ends = last >= self.tokens and self.reply.error is None
        return Chunk(
            index=index,
            text="".join(piece.text for piece in part),
            reasoning="".join(piece.reasoning for piece in part),
            tool_calls=tuple(piece.tool_call for piece in part if piece.tool_call),
            tokens=tokens,
            counted_tokens=len(part),
            finish_reason=self.cut.finish_reason if ends else None,
            stop_string=self.cut.stop_string if ends and able.tells_stop else None,
        )


_ABLE = Capabilities(continuation=True, logprobs=True, tells_stop=True)


class ScriptedModel(BaseModel):
    """Answers as told, the same for the same (seed, prompt, sample index) however samples are batched.

    `answers` maps each final answer to its probability (`None`: a reply that names none), or is a script that makes
    each reply. A drawn reply has `tokens` tokens and ends in `\\boxed{answer}`; with a `Prompt.prefix` it is what
    follows the prefix. `latency_s` is the wait for a sample's first token, `token_s` for each later one, in seconds;
    callables get the sample's index and its random generator. `failures` maps a sample index to the error that its
    request raises before anything is served. Temperature and `Params.seed` change nothing.

    What it served, to hold a bill against: `requests`, `calls` (samples begun), `prompt_tokens_served` (once per
    request), `tokens_served` (as produced; all of them at once where `capabilities.streams` is false), `in_flight`
    and `most_in_flight` (requests).
    """

    def __init__(
        self,
        answers: Mapping[str | None, float] | Script,
        *,
        tokens: int | Callable[[int, Random], int] | None = None,
        latency_s: float | Callable[[int, Random], float] = 0.0,
        token_s: float = 0.0,
        failures: Mapping[int, Exception] | None = None,
        capabilities: Capabilities = _ABLE,
        seed: int = 0,
        name: str = "scripted",
    ) -> None:
        if tokens is not None and callable(answers):
            raise ValueError("a script makes its own replies: their length is that of their text, not `tokens`")
        self.name = name
        self.requests = 0
        self.calls = 0
        self.prompt_tokens_served = 0
        self.tokens_served = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._answers = answers if callable(answers) else Answers(answers)
        self._tokens = 10 if tokens is None else tokens
        self._latency_s = latency_s
        self._token_s = token_s
        self._failures = dict(failures or {})
        self._capabilities = capabilities
        self._seed = seed

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Exact: the words of all contents, of the tools as JSON, and of the prefix."""
        return count_words(prompt)

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            prompt_tokens = count_words(prompt)
            samples = await self._samples(prompt, params, prompt_tokens, range(first, first + n))
            self.calls += len(samples)
            self.prompt_tokens_served += prompt_tokens
            streams = self._capabilities.streams
            bill = Usage(prompt_tokens, sum(one.tokens for one in samples), len(samples), 1, cost_usd=None)
            left = len(samples)
            async with aclosing(
                self._tokens_of(samples, params) if streams else self._whole(samples, params)
            ) as chunks:
                async for chunk in chunks:
                    left -= chunk.finish_reason is not None
                    yield chunk if left else replace(chunk, usage=bill)
        finally:
            self.in_flight -= 1

    async def _samples(self, prompt: Prompt, params: Params, prompt_tokens: int, indices: range) -> list[_Sample]:
        """The samples of one request, as many as it may have; raises where one fails or the request is refused."""
        able = self._capabilities
        if prompt.prefix and prompt.messages and not able.continuation:
            raise ModelRefused(f"{self.name} cannot continue a prefix", status=400)
        room = params.max_tokens if able.context is None else min(params.max_tokens, able.context - prompt_tokens)
        if room < 1:
            raise ModelRefused(f"the prompt fills {self.name}'s context of {able.context} tokens", status=400)
        samples = []
        key = prompt_key(prompt)
        for index in indices[: able.max_n]:
            rng = Random(derive_seed(self._seed, (key, index)))
            reply = self._reply(prompt, index, rng)
            wait_s = self._latency_s(index, rng) if callable(self._latency_s) else self._latency_s
            if isinstance(reply, Exception):
                await asyncio.sleep(wait_s)
                raise reply
            cut = cut_to(reply, room, params.stop)
            samples.append(_Sample(reply, cut, wait_s if reply.latency_s is None else reply.latency_s))
        return samples

    def _reply(self, prompt: Prompt, index: int, rng: Random) -> Reply | Exception:
        if index in self._failures:
            return self._failures[index]
        if not isinstance(self._answers, Answers):
            return self._answers(prompt, index, rng)
        answer = self._answers.draw(rng)
        reply = answering(answer, self._tokens(index, rng) if callable(self._tokens) else self._tokens)
        return replace(reply, text=" " + reply.text) if prompt.prefix else reply

    async def _tokens_of(self, samples: list[_Sample], params: Params) -> AsyncGenerator[Chunk, None]:
        """Token by token, each when it is due, the samples side by side as a batch decodes."""
        clock = asyncio.get_running_loop().time
        began = clock()
        due = [(began + sample.wait_s, 0, index) for index, sample in enumerate(samples)]
        heapify(due)
        while due:
            when, position, index = heappop(due)
            await asyncio.sleep(max(0.0, when - clock()))
            sample = samples[index]
            following = position + 1
            if position < sample.tokens:
                self.tokens_served += 1
            yield sample.chunk(index, position, following, params, self._capabilities)
            if following < sample.tokens:
                heappush(due, (when + self._token_s, following, index))
            elif sample.reply.error:
                raise sample.reply.error

    async def _whole(self, samples: list[_Sample], params: Params) -> AsyncGenerator[Chunk, None]:
        """Everything at the end, as a server that does not stream: what is cut off before was produced unseen."""
        self.tokens_served += sum(sample.tokens for sample in samples)
        await asyncio.sleep(max(one.wait_s + self._token_s * max(0, one.tokens - 1) for one in samples))
        for index, sample in enumerate(samples):
            if sample.reply.error:
                raise sample.reply.error
            yield sample.chunk(index, 0, sample.tokens, params, self._capabilities)


def count_words(prompt: Prompt) -> int:
    """The words of a prompt: of its contents, of its tools as JSON, and of its prefix."""
    parts = [message.get("content") or "" for message in prompt.messages] + [dict(tool) for tool in prompt.tools]
    texts = [part if isinstance(part, str) else orjson.dumps(part).decode() for part in (*parts, prompt.text or "")]
    return sum(len(text.split()) for text in (*texts, prompt.prefix))
