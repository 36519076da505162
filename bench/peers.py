"""The peers that the benches compare with: their throwaway environment, and their processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from served import Server

VERSIONS = {"its_hub": "1.2.0", "optillm": "0.4.0"}
_INSTALLS = (
    (
        f"its_hub[lm,iaas]=={VERSIONS['its_hub']}",
        *("openai", "aiohttp", "flask", "azure.identity", "litellm", "requests", "cerebras_cloud_sdk"),
        *("numpy", "networkx", "z3-solver", "sympy", "math_verify", "PyYAML"),
    ),
    # Without its dependencies, which are a GPU stack that the gateway does not need.
    ("--no-deps", f"optillm=={VERSIONS['optillm']}"),
)
_DRIVER = Path(__file__).with_name("peer_driver.py")


class StallError(Exception):
    """A peer did not finish in time."""


def environment(folder: Path) -> Path:
    """The Python of an environment with the peers in it, made on first use (some minutes). Returns its interpreter."""
    python = folder / "bin" / "python"
    complete = folder / "complete.json"
    wanted = json.dumps(_INSTALLS)
    if not complete.is_file() or complete.read_text() != wanted:
        print(f"installing the peers into {folder} ...", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        for packages in _INSTALLS:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        complete.write_text(wanted)
    return python


async def drive(python: Path, peer: str, *, timeout_s: float, **ask: Any) -> list[float]:
    """Wall seconds of each repetition of one measurement, in a process of its own. Raises `StallError`."""
    return (await report(python, peer, timeout_s=timeout_s, **ask))["walls"]


async def report(python: Path, peer: str, *, timeout_s: float, **ask: Any) -> dict[str, list[float]]:
    """All that the driver reports of one measurement, in a process of its own. Raises `StallError`."""
    driver = await asyncio.create_subprocess_exec(
        *(str(python), str(_DRIVER), peer, json.dumps(ask)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_bare_environment(),
    )
    try:
        printed, complaints = await asyncio.wait_for(driver.communicate(), timeout_s)
    except TimeoutError:
        raise StallError(f"{peer} was not done after {timeout_s:g} s") from None
    finally:
        await _end(driver)
    if driver.returncode:
        raise RuntimeError(f"{peer} failed:\n{complaints.decode()[-2000:]}")
    found: dict[str, list[float]] = json.loads(printed.splitlines()[-1])
    return found


@asynccontextmanager
async def optillm_gateway(python: Path, upstream: str) -> AsyncIterator[Server]:
    """optillm as it is served, in front of `upstream`. The approach is part of the model's name: `none-stub` hands a
    request on, `self_consistency-stub` samples five times.
    """
    port = _free_port()
    command = (python.with_name("optillm"), "--base-url", upstream, "--port", port, "--model", "stub", "--log", "error")
    async with _gateway(command, port, OPENAI_API_KEY="none") as server:
        yield server


@asynccontextmanager
async def its_hub_gateway(python: Path, upstream: str) -> AsyncIterator[Server]:
    """its_hub's server, in front of `upstream`, with self-consistency, the one algorithm that it serves; a request's
    `budget` is its number of samples.
    """
    port = _free_port()
    command = (python.with_name("its-iaas"), "--port", port, "--log-level", "WARNING")
    async with _gateway(command, port) as server:
        settings = {
            **{"provider": "openai", "endpoint": upstream, "api_key": "bench", "model": "stub"},
            **{"alg": "self-consistency", "regex_patterns": [r"\\boxed\{([^}]*)\}"], "budget": 1},
        }
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{server.base_url.removesuffix('/v1')}/configure", json=settings) as response,
        ):
            if response.status != 200:
                raise RuntimeError(f"its_hub refused its settings: {await response.text()}")
        yield server


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _gateway(command: Iterable[object], port: int, **env: str) -> AsyncIterator[Server]:
    """A peer's server, once it answers on its port."""
    with tempfile.TemporaryDirectory() as folder:  # optillm looks for plugins and writes logs where it stands
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=folder,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**_bare_environment(), **env},
        )
        try:
            server = Server(f"http://127.0.0.1:{port}/v1", process)
            await _answers(server)
            yield server
        finally:
            await _end(process)


async def _answers(server: Server) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
        for _ in range(240):
            if server.process.returncode is not None:
                raise RuntimeError(f"a peer ended with status {server.process.returncode} before it served anything")
            with suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{server.base_url}/models") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise StallError("a peer did not begin to serve within two minutes")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _bare_environment() -> dict[str, str]:
    """Without our own module path: the peers run in their environment alone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
