"""A real gateway on loopback over a stub server, for tests that speak HTTP to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
import pytest

from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.serve.config import BUILT_IN, EFFORTS, Config, ModelConfig, PolicyConfig, ServerConfig
from thinkscale.serve.run import Running, open_gateway
from thinkscale.store.keys import Key
from thinkscale.testing.reply import Reply
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import Budget

QUESTION = [{"role": "user", "content": "What is 3+4?"}]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. `json` is its body, `events` those of a stream without the end mark."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.content)

    @property
    def error(self) -> Any:
        """The error, once it is sure that it has the one shape that clients rely on."""
        body = self.json
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"message", "type", "param", "code"}, body
        assert body["error"]["message"], body
        return body["error"]

    @property
    def events(self) -> list[Any]:
        parts = [part for part in self.content.decode().split("\n\n") if part and not part.startswith(":")]
        datas = ["".join(line[5:].strip() for line in p.split("\n") if line.startswith("data:")) for p in parts]
        return [orjson.loads(content) for content in datas if content != "[DONE]"]

    @property
    def text(self) -> str:
        """What a chat's stream says in all."""
        return "".join(choice["delta"].get("content") or "" for event in self.events for choice in event["choices"])

    @property
    def thinking(self) -> str:
        return "".join(
            choice["delta"].get("reasoning_content") or "" for event in self.events for choice in event["choices"]
        )


class House:
    """The stub, the gateway over it, and a client. `bodies` are what the backend was asked, oldest first."""

    def __init__(self, stub: StubServer, running: Running, client: aiohttp.ClientSession, bodies: list[Any]) -> None:
        self.stub = stub
        self.running = running
        self.client = client
        self.bodies = bodies

    @property
    def url(self) -> str:
        return self.running.url

    async def ask(self, method: str, path: str, *, key: str | None = None, **request: Any) -> Answer:
        headers = {**request.pop("headers", {})} | ({"Authorization": f"Bearer {key}"} if key else {})
        async with self.client.request(method, self.url + path, headers=headers, **request) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **request: Any) -> Answer:
        return await self.ask("GET", path, **request)

    async def post(self, path: str, body: Any, **request: Any) -> Answer:
        return await self.ask("POST", path, json=body, **request)

    async def chat(self, *, key: str | None = None, **body: Any) -> Answer:
        return await self.post("/v1/chat/completions", {"model": "stub", "messages": QUESTION, **body}, key=key)

    async def key(self, name: str = "ci", **scopes: Any) -> tuple[Key, str]:
        return await self.running.keys.add(name, **scopes)

    async def records(self) -> list[Any]:
        """The requests on record, newest first."""
        return list((await self.get("/admin/api/requests?limit=1000")).json["requests"])

    async def record(self, trace_id: str) -> Any:
        return (await self.get(f"/admin/api/requests/{trace_id}")).json


def config_for(
    *backends: str,
    folder: Path,
    policies: Mapping[str, PolicyConfig] | None = None,
    verifiers: Mapping[str, str] | None = None,
    limits: Budget | None = None,
    model: Mapping[str, Any] | None = None,
    **server: Any,
) -> Config:
    """One model named `stub` behind these base URLs; its database lies in `folder`."""
    one = ModelConfig("stub", tuple(f"{url}#stub" for url in backends))
    default = Config((replace(one, **(model or {})),))
    where = {"port": 0, "database": f"sqlite:///{folder}/gateway.db"}
    return replace(
        default,
        server=ServerConfig(**{**where, **server}),
        limits=limits or default.limits,
        policies={**BUILT_IN, "default": PolicyConfig("adaptive-consistency:n=16"), **(policies or {})},
        efforts=EFFORTS,
        verifiers=verifiers or {},
    )


@asynccontextmanager
async def house(folder: Path, answers: Any = None, *, stub: Any = None, **setup: Any) -> AsyncIterator[House]:
    """A gateway over a stub that gives these `answers`; `stub` are its further settings, `setup` of `config_for`."""
    bodies: list[Any] = []
    settings = dict(stub or {})
    inner = settings.pop("faults", ())

    def note(number: int, body: Mapping[str, Any]) -> Any:
        bodies.append(body)
        if callable(inner):
            return inner(number, body)
        return inner[number] if number < len(inner) else None

    async with (
        StubServer(answers, faults=note, **settings) as server,
        open_gateway(config_for(server.base_url, folder=folder, **setup)) as running,
        aiohttp.ClientSession() as client,
    ):
        yield House(server, running, client, bodies)


def in_turn(*replies: Reply) -> Callable[[Mapping[str, Any], int, Random], Reply]:
    """A script that gives these replies to the choices of one request, and begins again after the last."""
    return lambda _body, index, _rng: replies[index % len(replies)]


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a backend that fails again without a pause, and never stop asking it."""
    monkeypatch.setattr("thinkscale.serve.deployment.RetryPolicy", partial(RetryPolicy, base_s=0.001, burst=1e6))
    monkeypatch.setattr("thinkscale.models.http.CircuitBreaker", partial(CircuitBreaker, threshold=10**6))


async def until(happens: Callable[[], Any], *, within_s: float = 10.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within_s):
        while not happens():
            await asyncio.sleep(0.005)


class Process:
    """`thinkscale serve` as a program of its own."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.url = ""

    async def __aenter__(self) -> Self:
        import sys

        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "thinkscale.cli", "serve", *self._arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(30):
                line = await self.process.stdout.readline()
            assert line, "the gateway ended before it listened"
        except BaseException:
            await self.kill()
            raise
        self.url = line.decode().strip().removesuffix("/v1")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
