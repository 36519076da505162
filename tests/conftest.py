"""The embedded model, for the tests marked `model`: fetched once into the user's cache, one engine for all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkscale.models import catalog
from thinkscale.models.embedded import EmbeddedEngine


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
