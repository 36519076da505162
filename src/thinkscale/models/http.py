"""One server over HTTP: what its failures mean, how much to ask at once, when to ask again and when to stop asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson

from thinkscale.errors import AuthenticationFailed, ModelError, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models import wire
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy

if TYPE_CHECKING:
    import aiohttp

JSON = {"Content-Type": "application/json"}


class Connection:
    """A server behind `url`, asked at most `max_in_flight` times at once. Every failure is raised as a `ModelError`.

    `connect_timeout_s` bounds reaching it, `idle_timeout_s` the silence between two pieces of a response. `name` is
    what messages call it.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        max_in_flight: int = 512,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 300.0,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = self.url
        self._api_key = api_key
        self._slots = asyncio.Semaphore(max_in_flight)
        self._connect_timeout_s = connect_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._retry = retry or RetryPolicy()
        self._breaker = breaker or CircuitBreaker()
        self._client: aiohttp.ClientSession | None = None

    @property
    def is_open(self) -> bool:
        return self._client is not None

    @property
    def client(self) -> aiohttp.ClientSession:
        if self._client is None:
            raise RuntimeError("the model is not open: use `async with model` or await model.open()")
        return self._client

    def open(self) -> None:
        import aiohttp

        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._connect_timeout_s, sock_read=self._idle_timeout_s
        )
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300), headers=headers, timeout=timeout
        )

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def get(self, url: str) -> Mapping[str, Any]:
        """One question about the server itself: past the limit and the breaker, and never asked again."""
        import aiohttp

        try:
            async with self.client.get(url) as response:
                content = await response.read()
                if response.status != 200:
                    raise self._refusal(response.status, content, response.headers)
                return wire.parse_json(content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def post(
        self, url: str, payload: Mapping[str, Any], headers: Mapping[str, str] = JSON
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One trip to the server, through the limit and the breaker; the block reads the response, whose status is 200.

        What goes wrong while it reads counts as the server's failure too.
        """
        import aiohttp

        async with self._slots:
            self._breaker.admit(self.name)
            try:
                async with self.client.post(url, data=orjson.dumps(payload), headers=headers) as response:
                    if response.status != 200:
                        raise self._refusal(response.status, await response.read(), response.headers)
                    self._breaker.succeeded()
                    yield response
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

    async def ask(self, url: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """A whole JSON response, asked for again where that is worth while."""
        attempt = 0
        while True:
            try:
                async with self.post(url, payload) as response:
                    return wire.parse_json(await response.read())
            except ModelUnavailable as error:
                wait_s = self.wait_s(attempt, error)
                if wait_s is None:
                    raise
                attempt += 1
                await asyncio.sleep(wait_s)

    def wait_s(self, attempt: int, error: ModelUnavailable, *, produced: bool = False) -> float | None:
        """How long to wait before asking again, `None` to give up. `produced`: part of the response was used already.

        Lost on the way without a status, the request may have been worked on: asking again is spending again, which is
        for those who hold the budget to decide.
        """
        lost = produced or (error.sent and error.status is None)
        return None if lost else self._retry.wait_s(attempt, error)

    def _unreachable(self, error: BaseException) -> ModelUnavailable:
        from aiohttp import ClientConnectorError, ConnectionTimeoutError

        words = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            words = f"no sign of life for {self._idle_timeout_s:g} s" if "read" in words.lower() else "timed out"
        return ModelUnavailable(
            f"{self.url} does not answer ({words}); is the server running there?",
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


def listed(listing: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models of a `/models` response."""
    return [one for one in listing.get("data") or () if isinstance(one, Mapping) and "id" in one]


def only_one(models: list[Mapping[str, Any]], url: str) -> str:
    """The name of the only model a server has; `UsageError` where it must be picked."""
    if len(models) != 1:
        names = ", ".join(str(one["id"]) for one in models[:8])
        raise UsageError(
            f"{url} serves {len(models)} models ({names}{', ...' if len(models) > 8 else ''}): pick one with {url}#NAME"
        )
    return str(models[0]["id"])


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
