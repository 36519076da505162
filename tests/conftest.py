"""No test reaches beyond this machine; the embedded model, for those marked `model`, is fetched once beforehand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from thinkscale.models import catalog
from thinkscale.models.embedded import EmbeddedEngine

# A busy machine is no fault of an example's.
settings.register_profile("thinkscale", deadline=None)
settings.load_profile("thinkscale")


@pytest.fixture(autouse=True, scope="session")
def only_this_machine() -> Iterator[None]:
    """Refuse connections and name look-ups that leave the loopback."""
    patch = pytest.MonkeyPatch()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    def guarded_look_up(host: Any, *rest: Any, **options: Any) -> Any:
        if host is not None and not _is_local(host):
            raise AssertionError(f"a test tried to look up {host}")
        return look_up(host, *rest, **options)

    patch.setattr(socket.socket, "connect", guarded_connect)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host)
    return name in ("localhost", "::1", "0.0.0.0", "") or name.startswith("127.")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M in the user's cache; the only thing in the tests that may use the network."""
    return asyncio.run(catalog.pull("smollm2", lambda _done, _total: None))


@pytest.fixture(scope="session")
def embedded_url(smollm2_path: Path) -> Iterator[str]:
    """The base URL of a running engine that serves `smollm2` with 16 slots."""
    # Each test has its own event loop: the engine's runs beside them for the whole session.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded engine")
    thread.start()
    engine = EmbeddedEngine(smollm2_path, name="smollm2", parallel=16)
    try:
        yield asyncio.run_coroutine_threadsafe(engine.start(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(engine.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
