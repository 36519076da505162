"""One adapter for all that speak the OpenAI API: vLLM, SGLang, llama-server, Ollama, OpenAI and their like."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from thinkscale.errors import AuthenticationFailed, ModelRefused, ModelUnavailable
from thinkscale.models import wire
from thinkscale.models.base import BaseModel, Capabilities, most_prompt_tokens, prompt_key
from thinkscale.models.http import JSON, Connection, listed, only_one
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.types import Chunk, Params, Prompt

if TYPE_CHECKING:
    import aiohttp

_KNOWN_PROMPTS = 4096
_MOST_N = 128  # what the OpenAI API allows; servers that allow less say so and are believed


@dataclass(frozen=True, slots=True)
class _Flavour:
    """What a kind of server is known to do.

    `counts`: the route that counts a chat prompt's tokens. `tells_stop`: it says which stop string ended a sample;
    `stop_field` is what must be sent for that. `hangs_up`: it closes the connection behind a stream without saying so.
    """

    max_n: int = _MOST_N
    continuation: bool = False
    logprobs: bool = True
    must_stream: bool = False
    counts: str | None = None
    tells_stop: bool = False
    stop_field: str | None = None
    hangs_up: bool = False


_FLAVOURS = {
    "vllm": _Flavour(continuation=True, counts="/tokenize", tells_stop=True),
    "sglang": _Flavour(continuation=True, tells_stop=True),
    # Unstreamed, llama-server bills n samples as one and repeats the given prefix.
    "llamacpp": _Flavour(
        continuation=True,
        must_stream=True,
        counts="/v1/chat/completions/input_tokens",
        tells_stop=True,
        stop_field="verbose",
        hangs_up=True,
    ),
    "library": _Flavour(max_n=1),  # Ollama ignores n
}


class OpenAIModel(BaseModel):
    """A model behind `base_url` (it ends in /v1). `model=None` takes the only one that the server lists.

    `max_in_flight` bounds concurrent requests to this server. `connect_timeout_s` bounds reaching it, `idle_timeout_s`
    the silence between two pieces of output. `stream=False` asks for whole responses: a cancelled call is then
    charged at its full reservation, since nobody saw what it used.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        stream: bool = True,
        max_in_flight: int = 512,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 300.0,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = model or self.base_url
        self._model = model
        self._stream = stream
        self._http = Connection(
            base_url,
            api_key=api_key,
            max_in_flight=max_in_flight,
            connect_timeout_s=connect_timeout_s,
            idle_timeout_s=idle_timeout_s,
            retry=retry,
            breaker=breaker,
        )
        self._http.name = self.name
        self._flavour = _Flavour()
        self._max_n: int | None = None
        self._context: int | None = None
        self._max_tokens_field = "max_completion_tokens" if "//api.openai.com/" in self.base_url else "max_tokens"
        self._unsupported: set[str] = set()
        self._prompt_tokens: OrderedDict[str, int] = OrderedDict()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_n=self._max_n or self._flavour.max_n,
            continuation=self._flavour.continuation,
            logprobs=self._flavour.logprobs,
            tells_stop=self._flavour.tells_stop,
            streams=self._streams,
            context=self._context,
        )

    @property
    def _streams(self) -> bool:
        return self._stream or self._flavour.must_stream

    # -- connecting --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._http.is_open:
            return
        self._http.open()
        try:
            await self._learn()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _learn(self) -> None:
        """Find the model's name and the kind of server from its list of models."""
        try:
            listing = await self._get(f"{self.base_url}/models")
        except ModelRefused as error:
            if isinstance(error, AuthenticationFailed) or self._model is None:
                raise
            return  # a server without the listing is fine when the model was named
        models = listed(listing)
        if self._model is None:
            self._model = self.name = self._http.name = only_one(models, self.base_url)
        entry = next((one for one in models if one["id"] == self._model), models[0] if models else {})
        self._flavour = _FLAVOURS.get(str(entry.get("owned_by")), _Flavour())
        self._context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx_train")
        if self._flavour is _FLAVOURS["llamacpp"]:
            props = await self._get(f"{self.base_url.removesuffix('/v1')}/props")
            self._max_n = int(props.get("total_slots") or 1)
            self._context = (props.get("default_generation_settings") or {}).get("n_ctx") or self._context

    async def _get(self, url: str) -> Mapping[str, Any]:
        return await self._http.get(url)

    # -- the Model protocol ------------------------------------------------------------------------------------

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Exact once the server has seen the prompt or where it offers counting; an upper bound until then."""
        key = prompt_key(prompt)
        known = self._prompt_tokens.get(key)
        if known is None:
            known = await self._ask_for_count(prompt)
            self._remember(key, known)
        return known

    def _remember(self, key: str, tokens: int) -> None:
        self._prompt_tokens[key] = tokens
        self._prompt_tokens.move_to_end(key)
        while len(self._prompt_tokens) > _KNOWN_PROMPTS:
            self._prompt_tokens.popitem(last=False)

    async def _ask_for_count(self, prompt: Prompt) -> int:
        route = self._flavour.counts
        if route is None or prompt.text is not None or "count" in self._unsupported:
            return most_prompt_tokens(prompt)
        question = wire.body(
            prompt, Params(), model=self._model or "", n=1, stream=False, max_tokens_field="max_tokens"
        )
        url = self.base_url.removesuffix("/v1") + route
        import aiohttp

        try:
            async with self._http.client.post(url, data=orjson.dumps(question), headers=JSON) as response:
                if response.status != 200:
                    self._unsupported.add("count")
                    return most_prompt_tokens(prompt)
                answer = wire.parse_json(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError, ModelUnavailable):
            return most_prompt_tokens(prompt)
        count = answer.get("input_tokens") or answer.get("count")
        return int(count) if count else most_prompt_tokens(prompt)

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        attempt = 0
        while True:
            produced = False
            asked = min(n, self.capabilities.max_n)
            left_out, limit_field = frozenset(self._unsupported), self._max_tokens_field
            try:
                async with aclosing(self._attempt(prompt, params, asked)) as chunks:
                    async for chunk in chunks:
                        produced = True
                        yield chunk
                return
            except ModelRefused as error:
                if produced or not self._adapt(error, asked, left_out, limit_field):
                    raise
            except ModelUnavailable as error:
                wait_s = self._http.wait_s(attempt, error, produced=produced)
                if wait_s is None:
                    raise
                attempt += 1
                await asyncio.sleep(wait_s)

    # -- one request -------------------------------------------------------------------------------------------

    async def _attempt(self, prompt: Prompt, params: Params, n: int) -> AsyncGenerator[Chunk, None]:
        """One trip to the server, through the limit and the breaker."""
        route = "/completions" if prompt.text is not None else "/chat/completions"
        payload = wire.body(
            prompt, params, model=self._model or "", n=n, stream=self._streams, max_tokens_field=self._max_tokens_field
        )
        if params.stop and self._flavour.stop_field:
            payload[self._flavour.stop_field] = True
        for name in self._unsupported:
            payload.pop(name, None)
        headers = {**JSON, "Connection": "close"} if self._flavour.hangs_up else JSON
        async with self._http.post(self.base_url + route, payload, headers) as response:
            if response.content_type == "text/event-stream":
                chunks = self._read_stream(response, prompt, n, params)
            else:
                chunks = self._read_whole(response, prompt, n, params.max_tokens)
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk

    async def _read_stream(
        self, response: aiohttp.ClientResponse, prompt: Prompt, n: int, params: Params
    ) -> AsyncGenerator[Chunk, None]:
        reader = wire.StreamReader()
        seen: set[int] = set()
        async for block in response.content.iter_any():
            for chunk in reader.feed(block):
                seen.add(chunk.index)
                yield chunk
        if not reader.done and not (seen and seen <= reader.finished):
            raise ModelUnavailable(f"{self.name} closed the stream before it was complete")
        if reader.usage is None:
            for index, tokens in reader.uncounted(params.max_tokens).items():
                yield Chunk(index=index, counted_tokens=tokens)
        self._learn_from(prompt, n, seen, reader.usage.prompt_tokens if reader.usage else 0)
        if reader.usage is not None and seen:
            yield Chunk(index=max(seen), usage=reader.usage)

    async def _read_whole(
        self, response: aiohttp.ClientResponse, prompt: Prompt, n: int, max_tokens: int
    ) -> AsyncGenerator[Chunk, None]:
        reply = wire.parse_json(await response.read())
        if "error" in reply:
            raise ModelUnavailable(f"{self.name} answered with an error: {wire.error_message(reply)}")
        chunks = list(wire.read_response(reply, max_tokens=max_tokens))
        usage = next((chunk.usage for chunk in chunks if chunk.usage), None)
        self._learn_from(prompt, n, {chunk.index for chunk in chunks}, usage.prompt_tokens if usage else 0)
        for chunk in chunks:
            yield chunk

    def _learn_from(self, prompt: Prompt, n: int, seen: set[int], prompt_tokens: int) -> None:
        """Remember what a complete response shows: the prompt's true length, and whether n is honoured."""
        if n > 1 and len(seen) == 1:
            self._max_n = 1
        if prompt_tokens:
            self._remember(prompt_key(prompt), prompt_tokens)

    def _adapt(self, error: ModelRefused, asked: int, left_out: frozenset[str], limit_field: str) -> bool:
        """Whether a refused request can be asked in another way; found out once, remembered.

        `asked` samples, without the fields `left_out`, capped by `limit_field` is how it was asked: others may have
        learned more since.
        """
        if error.status not in (400, 422):
            return False
        words = str(error)
        if "max_completion_tokens" in words and limit_field == "max_tokens":
            self._max_tokens_field = "max_completion_tokens"
            return True
        for name in ("stream_options", "seed"):
            if name in words and name not in left_out:
                self._unsupported.add(name)
                return True
        if asked > 1 and re.search(r"\bn\b|choices", words):
            most = [number for number in map(int, re.findall(r"\b\d{1,3}\b", words)) if 1 < number < asked]
            self._max_n = min(self.capabilities.max_n, max(most, default=1))
            return True
        return False
