"""A page in a real Chromium, driven by the DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest


class Tab:
    """One open page. `errors` are what its scripts and its policy complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._ids = itertools.count(1)

    async def do(self, method: str, **params: Any) -> Any:
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded":
                self.errors.append(str(message["params"]["entry"]))

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page; a promise is awaited."""
        done = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def open(self, address: str) -> None:
        await self.do("Page.navigate", url="about:blank")
        await self.do("Page.navigate", url=address)
        async with asyncio.timeout(10):
            while await self.value("location.protocol + document.readyState") != "file:complete":
                await asyncio.sleep(0.02)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text)


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """A headless Chromium with one tab; `profile` is an empty folder of its own."""
    command = shutil.which("chromium") or shutil.which("chromium-browser")
    if command is None:
        pytest.fail("this test needs Chromium: install the package `chromium`")
    process = await asyncio.create_subprocess_exec(
        command, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,800",
        f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as client:
            async with client.get(f"http://127.0.0.1:{port}/json") as tabs:
                address = next(tab["webSocketDebuggerUrl"] for tab in await tabs.json() if tab["type"] == "page")
            async with client.ws_connect(address, max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await tab.do(f"{domain}.enable")
                yield tab
    finally:
        process.kill()
        await process.wait()


async def _port(file: Path) -> str:
    async with asyncio.timeout(20):
        while not (lines := _lines(file)):
            await asyncio.sleep(0.02)
    return lines[0]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
