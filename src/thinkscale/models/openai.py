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

from thinkscale.errors import AuthenticationFailed, ModelError, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models import wire
from thinkscale.models.base import BaseModel, Capabilities, most_prompt_tokens, prompt_key
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.types import Chunk, Params, Prompt

if TYPE_CHECKING:
    import aiohttp

_KNOWN_PROMPTS = 4096
_MOST_N = 128  # what the OpenAI API allows; servers that allow less say so and are believed


@dataclass(frozen=True, slots=True)
class _Flavour:
    """What a kind of server is known to do. `counts`: the route that counts a chat prompt's tokens."""

    max_n: int = _MOST_N
    continuation: bool = False
    logprobs: bool = True
    must_stream: bool = False
    counts: str | None = None


_FLAVOURS = {
    "vllm": _Flavour(continuation=True, counts="/tokenize"),
    "sglang": _Flavour(continuation=True),
    # Unstreamed, llama-server bills n samples as one and repeats the given prefix.
    "llamacpp": _Flavour(continuation=True, must_stream=True, counts="/v1/chat/completions/input_tokens"),
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
        self._api_key = api_key
        self._stream = stream
        self._slots = asyncio.Semaphore(max_in_flight)
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._retry = retry or RetryPolicy()
        self._breaker = breaker or CircuitBreaker()
        self._http: aiohttp.ClientSession | None = None
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
            streams=self._streams,
            context=self._context,
        )

    @property
    def _streams(self) -> bool:
        return self._stream or self._flavour.must_stream

    # -- connecting --------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._http is not None:
            return
        import aiohttp

        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._connect_timeout_s, sock_read=self._idle_timeout_s
        )
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300), headers=headers, timeout=timeout
        )
        try:
            await self._learn()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if self._http is not None:
            http, self._http = self._http, None
            await http.close()

    async def _learn(self) -> None:
        """Find the model's name and the kind of server from its list of models."""
        try:
            listing = await self._get(f"{self.base_url}/models")
        except ModelRefused as error:
            if isinstance(error, AuthenticationFailed) or self._model is None:
                raise
            return  # a server without the listing is fine when the model was named
        models = [one for one in listing.get("data") or () if isinstance(one, Mapping) and "id" in one]
        if self._model is None:
            if len(models) != 1:
                names = ", ".join(str(one["id"]) for one in models[:8])
                raise UsageError(
                    f"{self.base_url} serves {len(models)} models ({names}{', ...' if len(models) > 8 else ''}): "
                    f"pick one with {self.base_url}#NAME"
                )
            self._model = self.name = str(models[0]["id"])
        entry = next((one for one in models if one["id"] == self._model), models[0] if models else {})
        self._flavour = _FLAVOURS.get(str(entry.get("owned_by")), _Flavour())
        self._context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx_train")
        if self._flavour is _FLAVOURS["llamacpp"]:
            props = await self._get(f"{self.base_url.removesuffix('/v1')}/props")
            self._max_n = int(props.get("total_slots") or 1)
            self._context = (props.get("default_generation_settings") or {}).get("n_ctx") or self._context

    async def _get(self, url: str) -> Mapping[str, Any]:
        import aiohttp

        try:
            async with self._client.get(url) as response:
                content = await response.read()
                if response.status != 200:
                    raise self._refusal(response.status, content, response.headers)
                return wire.parse_json(content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

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
            async with self._client.post(url, data=orjson.dumps(question), headers=_JSON) as response:
                if response.status != 200:
                    self._unsupported.add("count")
                    return most_prompt_tokens(prompt)
                answer = wire.parse_json(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError):
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
                # Lost on the way without a status, the request may have been worked on: asking again is spending again,
                # which is for those who hold the budget to decide.
                lost = produced or (error.sent and error.status is None)
                wait_s = None if lost else self._retry.wait_s(attempt, error)
                if wait_s is None:
                    raise
                attempt += 1
                await asyncio.sleep(wait_s)

    # -- one request -------------------------------------------------------------------------------------------

    async def _attempt(self, prompt: Prompt, params: Params, n: int) -> AsyncGenerator[Chunk, None]:
        """One trip to the server, through the limit and the breaker."""
        import aiohttp

        route = "/completions" if prompt.text is not None else "/chat/completions"
        payload = wire.body(
            prompt, params, model=self._model or "", n=n, stream=self._streams, max_tokens_field=self._max_tokens_field
        )
        for name in self._unsupported:
            payload.pop(name, None)
        async with self._slots:
            self._breaker.admit(self.name)
            try:
                async with self._client.post(
                    self.base_url + route, data=orjson.dumps(payload), headers=_JSON
                ) as response:
                    if response.status != 200:
                        raise self._refusal(response.status, await response.read(), response.headers)
                    self._breaker.succeeded()
                    if response.content_type == "text/event-stream":
                        chunks = self._read_stream(response, prompt, n, params)
                    else:
                        chunks = self._read_whole(response, prompt, n, params.max_tokens)
                    async with aclosing(chunks):
                        async for chunk in chunks:
                            yield chunk
            except ModelRefused:
                self._breaker.succeeded()  # it answered: the server is up
                raise
            except ModelUnavailable as error:
                if error.status == 429:
                    self._breaker.succeeded()
                else:
                    self._breaker.failed()
                raise
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                self._breaker.failed()
                raise self._unreachable(error) from error
            finally:
                self._breaker.release()
            self._retry.succeeded()

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

    # -- errors ------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("the model is not open: use `async with model` or await model.open()")
        return self._http

    def _unreachable(self, error: BaseException) -> ModelUnavailable:
        from aiohttp import ClientConnectorError, ConnectionTimeoutError

        words = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            words = f"no sign of life for {self._idle_timeout_s:g} s" if "read" in words.lower() else "timed out"
        return ModelUnavailable(
            f"{self.base_url} does not answer ({words}); is the server running there?",
            sent=not isinstance(error, ClientConnectorError | ConnectionTimeoutError),
        )

    def _refusal(self, status: int, content: bytes, headers: Mapping[str, str]) -> ModelError:
        try:
            words = wire.error_message(wire.parse_json(content))
        except ModelUnavailable:
            words = content[:200].decode(errors="replace").strip()
        said = f"{self.name} answered {status}: {words or 'no explanation'}"
        if status in (401, 403):
            hint = "the key was refused" if self._api_key else "no key was sent; set THINKSCALE_API_KEY"
            return AuthenticationFailed(f"{said} ({hint})", status=status)
        if status == 404:
            return ModelRefused(f"{said} (does the address end in /v1, and is the model's name right?)", status=status)
        if status in (408, 409, 425, 429) or status >= 500:
            return ModelUnavailable(said, status=status, retry_after_s=_retry_after_s(headers))
        return ModelRefused(said, status=status)


_JSON = {"Content-Type": "application/json"}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds (`retry-after-ms`, a number, or an HTTP date), `None` if absent or unreadable."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime

    milliseconds, plain = headers.get("retry-after-ms"), headers.get("Retry-After")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if plain is None else max(0.0, float(plain))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(plain or "") - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
