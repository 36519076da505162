"""Servers as processes of their own, up to where they answer."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_START_S = 30.0
_STOP_S = 30.0


@dataclass(frozen=True)
class Server:
    """A running server. `base_url` ends in /v1."""

    base_url: str
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def stop(self) -> int:
        """End it by SIGTERM, and in the end by force. Returns its exit status, negative for a signal's number."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            return await asyncio.wait_for(self.process.wait(), _STOP_S)
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


async def announced(*command: str, log: Path | None = None, env: Mapping[str, str] | None = None) -> Server:
    """Start a server that prints its base URL as its first line. What it complains of goes to `log`, if any."""
    with (log or Path(os.devnull)).open("ab") as complaints:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=complaints, env={**os.environ, **(env or {})}
        )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), _START_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    base_url = line.decode().strip()
    if not base_url.startswith("http"):
        process.kill()
        await process.wait()
        raise RuntimeError(f"{' '.join(command)} did not begin to serve: {base_url} {_tail(log)}")
    return Server(base_url, process)


def _tail(log: Path | None) -> str:
    return log.read_text()[-2000:] if log else ""


async def gateway(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Server:
    """thinkscale's gateway with its database and its log in `folder`."""
    return await announced(
        *(sys.executable, "-m", "thinkscale.cli", "serve", "--port", "0", *options),
        log=folder / "gateway.log",
        env={"THINKSCALE_DATABASE": f"sqlite:///{folder / 'gateway.db'}", **(env or {})},
    )


@asynccontextmanager
async def thinkscale_gateway(upstream: str) -> AsyncIterator[Server]:
    """thinkscale's gateway as it comes, in front of `upstream`, whose model is called "stub"."""
    with tempfile.TemporaryDirectory() as folder:
        server = await gateway(Path(folder), "--model", f"{upstream}#stub")
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def bare_proxy(upstream: str, *options: str) -> AsyncIterator[Server]:
    server = await announced(sys.executable, str(Path(__file__).with_name("bare_proxy.py")), upstream, *options)
    try:
        yield server
    finally:
        await server.stop()
