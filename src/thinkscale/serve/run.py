"""The gateway as a process: opened from a configuration, served until a signal, drained."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from thinkscale.errors import UsageError
from thinkscale.models.opening import Progress
from thinkscale.serve.access import Access, is_loopback
from thinkscale.serve.admission import Admission
from thinkscale.serve.app import Routes
from thinkscale.serve.cache import ResponseCache
from thinkscale.serve.config import Config
from thinkscale.serve.deployment import open_deployment
from thinkscale.serve.gateway import Gateway
from thinkscale.serve.learning import Learning
from thinkscale.serve.metrics import Metrics
from thinkscale.store.accounts import Accounts
from thinkscale.store.database import Database, default_database
from thinkscale.store.keys import KeyStore
from thinkscale.store.policies import PolicyStore
from thinkscale.store.records import Records
from thinkscale.types import Result

_LOG = logging.getLogger("thinkscale.serve")
_BACKLOG = 4096
_LAST_WORDS_S = 5.0  # for answers that a shutdown cut short to be sent


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that listens on `host`:`port`. Setting `hurry` ends its draining: all inside get their best answer."""

    gateway: Gateway
    keys: KeyStore
    host: str
    port: int
    hurry: asyncio.Event

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def open_gateway(config: Config, progress: Progress = lambda _done, _total: None) -> AsyncIterator[Running]:
    """A gateway that listens; leaving the block drains it: nobody new comes in, those inside finish, or get their best
    answer so far when `drain_s` have passed. Nothing that was spent is lost.

    Raises `UsageError` where it would listen to other machines without a key, or cannot use its address or database.
    """
    server = config.server
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(server.database or default_database()))
        keys = KeyStore(database)
        if config.keys:  # a gateway without keys of its own leaves those of another one alone
            await keys.keep_declared([key.name for key in config.keys])
        for key in config.keys:
            await keys.declare(
                key.name, key.secret, admin=key.admin, models=key.models, policies=key.policies, limits=key.limits
            )
        if not is_loopback(server.host) and not await keys.count():
            raise UsageError(
                f"will not listen on {server.host} without a key, for anybody could spend, and {database.name} holds "
                f"none: make one with `thinkscale keys add NAME --database {database.name}`, or listen on 127.0.0.1"
            )
        records = Records(database, log_content=server.log_content, keep=server.keep_traces)
        await stack.enter_async_context(records)
        accounts = await stack.enter_async_context(Accounts(database))
        metrics = Metrics()
        deployment = await stack.enter_async_context(open_deployment(config, progress, metrics.upstream_failed))
        learning = await stack.enter_async_context(Learning(PolicyStore(database), records, tuple(deployment.served)))
        admission = Admission(server.max_requests, server.per_key)
        cache: ResponseCache[Result] | None = (
            ResponseCache(server.cache_entries, server.cache_s) if server.cache_entries else None
        )
        gateway = Gateway(
            deployment,
            accounts=accounts,
            admission=admission,
            records=records,
            metrics=metrics,
            learning=learning,
            cache=cache,
            spans=await _spans(stack) if server.otel else None,
        )
        metrics.queued.set_function(deployment.waiting)
        access = Access(keys, host=server.host, require_key=server.require_key)
        app = Routes(gateway, keys, access, server).application()
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_LAST_WORDS_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, server.host, server.port, backlog=_BACKLOG).start()
        except OSError as error:
            raise UsageError(f"cannot listen on {server.host}:{server.port}: {error.strerror or error}") from None
        hurry = asyncio.Event()
        try:
            yield Running(gateway, keys, server.host, runner.addresses[0][1], hurry)
        finally:
            await _drain(gateway, server.drain_s, hurry)


async def _drain(gateway: Gateway, drain_s: float, hurry: asyncio.Event) -> None:
    admission = gateway.admission
    admission.close()
    if admission.inside:
        _LOG.info("shutting down: %d requests have %g s to finish", admission.inside, drain_s)
    waits = [asyncio.create_task(admission.drained()), asyncio.create_task(hurry.wait())]
    await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if admission.inside:
        _LOG.warning("%d requests did not finish: they get their best answer so far", admission.inside)
        for served in gateway.deployment.served.values():
            served.engine.interrupt()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await admission.drained()


async def _spans(stack: AsyncExitStack) -> Any:
    try:
        from thinkscale.serve.telemetry import Spans
    except ModuleNotFoundError as error:
        raise UsageError(f"otel needs the extra: pip install 'thinkscale[otel]' ({error})") from None
    spans = Spans()
    stack.push_async_callback(spans.aclose)
    return spans


async def serve(config: Config, started: Callable[[Running], None], progress: Progress) -> None:
    """Serve until SIGINT or SIGTERM, then drain; a second signal gives all inside their best answer at once. `started`
    hears where.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    serving: Running | None = None

    def stop() -> None:
        if serving is None and this is not None:
            this.cancel()  # still starting: nobody is inside
        elif serving is not None and stopped.is_set():
            serving.hurry.set()
        stopped.set()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    try:
        with suppress(asyncio.CancelledError):
            async with open_gateway(config, progress) as running:
                # What was made while starting stays: the collector need not look through it again and again.
                gc.collect()
                gc.freeze()
                serving = running
                started(running)
                await stopped.wait()
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)
