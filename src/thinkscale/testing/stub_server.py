"""A server on loopback that speaks the OpenAI API without a model: known replies, known delays, faults on demand.

In a test:        `async with StubServer(latency_s=0.2) as server: ... server.base_url ... server.counters`
As a program:     `python -m thinkscale.testing.stub_server --port 0 --latency 0.2`; `GET /counters` gives its counts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

import orjson
from aiohttp import web

from thinkscale.testing import stub_wire as wire
from thinkscale.testing.prefix_cache import PrefixCache
from thinkscale.testing.reply import Answers, Reply, answering, cut_to
from thinkscale.testing.step_tree import StepTree
from thinkscale.testing.stub_delivery import Counters, Delivery, Served, json_response
from thinkscale.testing.stub_faults import (
    Drop,
    ErrorEvent,
    Fault,
    Malformed,
    Misreport,
    Status,
    UsageReport,
    drawn_faults,
)
from thinkscale.types import derive_seed

ServerScript = Callable[[Mapping[str, Any], int, Random], Reply]
"""Makes choice `index` of a request from its body."""

FaultScript = Callable[[int, Mapping[str, Any]], Fault | None]
"""Says what goes wrong with the request of this number (from 0) and body."""

Journal = Callable[[Served], None]
"""Hears what became of each request to a completions route, when it is over."""

_BACKLOG = 4096
_ABOUT = 64  # characters of a prompt


class StubServer:
    """Answers as told: always with one reply (`None`: one that says 7), with replies drawn from probabilities as in
    `ScriptedModel`, or from a script. `tokens` (10 unless told) is the length of a reply that is not given whole.

    The random generator of a choice follows from `seed`, the body's seed (else the request's number) and its index.
    `latency_s` is the wait for the first token and `token_s` for each later one; all choices of a request decode side
    by side. `n`: "honour" it (a request for more than `max_n` is a 400), "ignore" it (one choice comes), or "refuse"
    it with a 400. `key`: any other bearer token is a 401. `owned_by` "vllm" and "llamacpp" also bring their routes for
    counting prompt tokens and, for llama.cpp, `/props` with `max_n` slots; these and "sglang" tell in their own ways
    which stop string ended a choice. `prefix_cache`: report prompt tokens as cached where they begin a text that was
    read or written before. `faults`: a queue, one entry taken per request (`None`: nothing goes wrong), which a test
    may fill at any time; or a script. `journal` hears of every request when it is over.
    """

    def __init__(
        self,
        answers: Mapping[str | None, float] | Reply | ServerScript | None = None,
        *,
        tokens: int | None = None,
        latency_s: float = 0.0,
        token_s: float = 0.0,
        n: Literal["honour", "ignore", "refuse"] = "honour",
        max_n: int | None = None,
        usage: UsageReport = "right",
        owned_by: str = "stub",
        model: str = "stub",
        key: str | None = None,
        prefix_cache: bool = False,
        faults: Iterable[Fault | None] | FaultScript = (),
        journal: Journal | None = None,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        if tokens is not None and (callable(answers) or isinstance(answers, Reply)):
            raise ValueError("a reply's length is that of its text, not `tokens`")
        self.counters = Counters()
        self.faults: deque[Fault | None] = deque() if callable(faults) else deque(faults)
        self.host = host
        self.port = port
        self._fault_script = faults if callable(faults) else None
        self._tokens = 10 if tokens is None else tokens
        self._answers = Answers(answers) if isinstance(answers, Mapping) else answers or answering("7", self._tokens)
        self._latency_s = latency_s
        self._token_s = token_s
        self._n = n
        self._max_n = max_n
        self._usage: UsageReport = usage
        self._owned_by = owned_by
        self._model = model
        self._authorization = None if key is None else f"Bearer {key}"
        self._cache = PrefixCache() if prefix_cache else None
        self._journal = journal
        self._seed = seed
        self._numbers = count()
        self._closing = False
        self._runner: web.ServerRunner | None = None
        self._routes = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("GET", "/v1/models"): self._models,
            ("GET", "/counters"): self._counters,
        }
        if owned_by == "vllm":
            self._routes["POST", "/tokenize"] = self._tokenize
        if owned_by == "llamacpp":
            self._routes["POST", "/v1/chat/completions/input_tokens"] = self._tokenize
            self._routes["GET", "/props"] = self._props

    @property
    def base_url(self) -> str:
        """Where a client should point: it ends in /v1."""
        return f"http://{self.host}:{self.port}/v1"

    async def open(self) -> None:
        """Listen; with port 0 on a free one, which `port` then holds."""
        server = _CountingServer(self._handle, self.counters)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, backlog=_BACKLOG).start()
        self.port = self._runner.addresses[0][1]

    async def aclose(self) -> None:
        """Stop listening and break off what is in flight."""
        self._closing = True
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- routes ------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._routes.get((request.method, request.path))
        if route is None:
            return _refusal(404, f"there is no {request.method} {request.path} here", "not_found_error")
        if self._authorization is not None and request.headers.get("Authorization") != self._authorization:
            return _refusal(401, "Incorrect API key provided", "authentication_error")
        return await route(request)

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        entry = {"id": self._model, "object": "model", "created": 0, "owned_by": self._owned_by}
        return json_response(orjson.dumps({"object": "list", "data": [entry]}))

    async def _counters(self, request: web.BaseRequest) -> web.StreamResponse:
        return json_response(orjson.dumps(asdict(self.counters)))

    async def _props(self, request: web.BaseRequest) -> web.StreamResponse:
        return json_response(orjson.dumps({"total_slots": self._max_n or 1}))

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        tokens = len(wire.prompt_words(orjson.loads(await request.read())))
        return json_response(
            orjson.dumps({"input_tokens": tokens} if self._owned_by == "llamacpp" else {"count": tokens})
        )

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._serve(request, chat=True)

    async def _completions(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._serve(request, chat=False)

    # -- one completion ----------------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest, *, chat: bool) -> web.StreamResponse:
        counters = self.counters
        counters.requests += 1
        counters.in_flight += 1
        counters.most_in_flight = max(counters.most_in_flight, counters.in_flight)
        fault: Fault | None = None
        number = next(self._numbers)
        served = Served(number)
        try:
            body = orjson.loads(await request.read())
            ask = wire.Ask.of(body, chat=chat)
            served.about, served.max_tokens = " ".join(ask.prompt)[:_ABOUT], ask.max_tokens
            fault = self._next_fault(number, body)
            refusal = _status(fault) if isinstance(fault, Status) else self._refuse_n(ask)
            if refusal is not None:
                served.outcome = "refused"
                return refusal
            choices = self._choices(ask, body, number)
            cached = self._charge_prompt(ask, choices)
            served.n, served.prompt_tokens = len(choices), len(ask.prompt)
            broken = next((choice for choice in choices if choice.reply.error is not None), None)
            if broken and fault is None:
                fault = Drop(after_tokens=len(broken.pieces))
            head = {"id": f"stub-{number}", "created": int(time.time()), "model": self._model}
            report = fault.usage if isinstance(fault, Misreport) else self._usage
            completion = wire.Completion(head, ask, choices, report, self._owned_by, cached)
            delivery = Delivery(request, completion, fault, counters, served, self._latency_s, self._token_s)
            response = await (delivery.stream() if ask.stream else delivery.whole())
            served.outcome = "broken" if isinstance(fault, Malformed | ErrorEvent) else "complete"
        except ValueError as error:
            served.outcome = "refused"
            return _refusal(400, str(error), "invalid_request_error")
        except ConnectionError:  # the client left between two writes: there is nobody to answer
            counters.cancelled += 1
            served.outcome = "left"
            return web.Response()
        except asyncio.CancelledError:
            if not (self._closing or isinstance(fault, Drop)):
                counters.cancelled += 1
                served.outcome = "left"
            raise
        else:
            return response
        finally:
            counters.in_flight -= 1
            if self._journal is not None:
                self._journal(served)

    def _next_fault(self, number: int, body: Mapping[str, Any]) -> Fault | None:
        if self._fault_script is not None:
            fault = self._fault_script(number, body)
        else:
            fault = self.faults.popleft() if self.faults else None
        self.counters.faults += fault is not None
        return fault

    def _refuse_n(self, ask: wire.Ask) -> web.StreamResponse | None:
        if self._n == "refuse" and ask.n > 1:
            return _refusal(400, "n > 1 is not supported", "invalid_request_error")
        if self._n == "honour" and self._max_n is not None and ask.n > self._max_n:
            return _refusal(400, f"n is at most {self._max_n} here", "invalid_request_error")
        return None

    def _choices(self, ask: wire.Ask, body: Mapping[str, Any], number: int) -> list[wire.Choice]:
        n = 1 if self._n == "ignore" else ask.n
        self.counters.calls += n
        if isinstance(self._answers, Reply):  # always the same: cut it once, however many are asked for
            return [wire.Choice(self._answers, cut_to(self._answers, ask.max_tokens, ask.stop))] * n
        path = ("request", number) if ask.seed is None else ("seed", ask.seed)
        choices = []
        for index in range(n):
            rng = Random(derive_seed(self._seed, (*path, index)))
            if isinstance(self._answers, Answers):
                reply = answering(self._answers.draw(rng), self._tokens)
                reply = replace(reply, text=" " + reply.text) if ask.continues else reply
            else:
                reply = self._answers(body, index, rng)
            choices.append(wire.Choice(reply, cut_to(reply, ask.max_tokens, ask.stop)))
        return choices

    def _charge_prompt(self, ask: wire.Ask, choices: Sequence[wire.Choice]) -> int:
        """Count the prompt's tokens, once for all choices; those found in the cache, which learns the replies too."""
        replies = ([piece.text.strip() for piece in choice.pieces] for choice in choices)
        cached = 0 if self._cache is None else self._cache.enter(ask.prompt, replies)
        self.counters.prompt_tokens += len(ask.prompt)
        self.counters.cached_tokens += cached
        return cached


class _CountingServer(web.Server):
    """The bare aiohttp server, without an application's routing; a handler is cancelled when its client goes away."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], counters: Counters) -> None:
        super().__init__(handler, handler_cancellation=True, access_log=None)
        self._counters = counters

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        self._counters.connections += 1
        super().connection_made(handler, transport)


def _refusal(status: int, message: str, kind: str) -> web.Response:
    return json_response(wire.error_body(message, kind), status=status)


def _status(fault: Status) -> web.Response:
    headers = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
    body = wire.error_body(fault.message, "injected") if fault.body is None else fault.body
    return json_response(body, status=fault.status, headers=headers)


async def _main() -> None:
    """Serve until interrupted or terminated."""
    arguments = _arguments()
    stopped = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    tree = StepTree(arguments.steps, arguments.tokens).choice if arguments.steps else None
    with _journal(arguments.journal) as journal:
        server = StubServer(
            tree,
            tokens=None if tree else arguments.tokens,
            latency_s=arguments.latency,
            token_s=arguments.token_time,
            n=arguments.n,
            max_n=arguments.max_n,
            owned_by=arguments.owned_by,
            key=arguments.key,
            prefix_cache=arguments.prefix_cache,
            faults=drawn_faults(arguments.faults, arguments.seed),
            journal=journal,
            seed=arguments.seed,
            host=arguments.host,
            port=arguments.port,
        )
        async with server:
            sys.stdout.write(server.base_url + "\n")
            sys.stdout.flush()
            await stopped.wait()


@contextmanager
def _journal(path: Path | None) -> Iterator[Journal | None]:
    """A journal in a file, one line of JSON per request; what is there already is kept."""
    if path is None:
        yield None
        return
    with path.open("ab") as lines:

        def write(served: Served) -> None:
            lines.write(orjson.dumps(served) + b"\n")

        yield write


def _chances(words: str) -> dict[str, float]:
    """`429=0.02,drop=0.01` as chances. Raises `argparse.ArgumentTypeError`."""
    try:
        chances = {name: float(chance) for name, _, chance in (part.partition("=") for part in words.split(","))}
        drawn_faults(chances)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return chances


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m thinkscale.testing.stub_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="to the first token")
    parser.add_argument("--token-time", type=float, default=0.0, metavar="SECONDS", help="for each later token")
    parser.add_argument("--tokens", type=int, default=10, help="per reply, or per step")
    parser.add_argument("--steps", type=int, default=0, help="replies of so many steps that branch at each, not of one")
    parser.add_argument("--n", choices=("honour", "ignore", "refuse"), default="honour")
    parser.add_argument("--max-n", type=int, default=None)
    parser.add_argument("--owned-by", default="stub", help="vllm, llamacpp, ...")
    parser.add_argument("--prefix-cache", action="store_true", help="read no text's beginning twice")
    parser.add_argument("--key", default=None, help="the only bearer token that is accepted")
    parser.add_argument(
        "--faults", type=_chances, default={}, metavar="KIND=CHANCE,...", help="429=0.02,drop=0.01,slow=0.05, ..."
    )
    parser.add_argument("--journal", type=Path, default=None, metavar="FILE", help="what became of each request")
    parser.add_argument("--seed", type=int, default=0, help="of replies and of faults")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(_main())
