"""The embedded engine with the real SmolLM2-135M: it serves, it dies with its parent, it says why it cannot."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.models.embedded import EmbeddedEngine, physical_cores

pytestmark = pytest.mark.model


@asynccontextmanager
async def running(path: Path, **options: Any) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(path, name="smollm2", **options)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.aclose()


async def post(url: str, **body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        return response.status, await response.json()


def alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # an orphan may stay a zombie until init gets to it
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


# -- serving -----------------------------------------------------------------------------------------------------


async def test_serves_the_model_under_its_name(embedded_url: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{embedded_url}/models") as response:
        [model] = (await response.json())["data"]
    assert model["id"] == "smollm2"
    assert model["meta"]["n_ctx"] == model["meta"]["n_ctx_train"] == 8192, "a sample may use all the model can"


async def test_sixteen_samples_of_one_prompt(embedded_url: str) -> None:
    status, reply = await post(
        f"{embedded_url}/chat/completions",
        model="smollm2",
        messages=[{"role": "user", "content": "Name a colour."}],
        n=16,
        max_tokens=8,
        temperature=1.0,
    )
    assert status == 200
    texts = [choice["message"]["content"] for choice in reply["choices"]]
    assert len(texts) == 16
    assert len(set(texts)) > 1


async def test_the_likely_word_comes_first(embedded_url: str) -> None:
    status, reply = await post(
        f"{embedded_url}/completions", prompt="The capital of France is", max_tokens=3, temperature=0
    )
    assert status == 200
    assert "Paris" in reply["choices"][0]["text"]


async def test_no_pages_and_no_access_for_web_sites(embedded_url: str) -> None:
    root = embedded_url.removesuffix("/v1")
    async with aiohttp.ClientSession(headers={"Origin": "http://site.example"}) as http:
        async with http.get(f"{root}/") as response:
            assert response.status == 404
        async with http.get(f"{root}/v1/models") as response:
            assert response.headers.get("Access-Control-Allow-Origin", "") == ""
        async with http.get(f"{root}/slots") as response:
            assert len(await response.json()) == 16
        async with http.get(f"{root}/props") as response:
            assert (await response.json())["total_slots"] == 16


async def test_a_full_pool_is_an_error_and_not_the_end(smollm2_path: Path) -> None:
    async with running(smollm2_path, context=256, parallel=2) as engine:
        url = f"{await engine.start()}/completions"
        status, reply = await post(url, prompt="one " * 200, n=2, max_tokens=100, ignore_eos=True)
        assert status == 500
        assert "Context size has been exceeded" in reply["error"]["message"]
        # Idle prompts give way: far more than 256 tokens of them pass through.
        for word in ("red", "green", "blue", "black"):
            status, _ = await post(url, prompt=f"{word} " * 100, max_tokens=2)
            assert status == 200


# -- starting and ending -----------------------------------------------------------------------------------------


async def test_close_leaves_no_process_and_start_makes_another(smollm2_path: Path) -> None:
    engine = EmbeddedEngine(smollm2_path, name="smollm2", parallel=1)
    await engine.aclose()
    assert engine.pid is None
    url = await engine.start()
    first = engine.pid
    assert await engine.start() == url
    assert engine.pid == first, "a running engine stays"
    await engine.aclose()
    await engine.aclose()
    assert engine.pid is None
    assert not alive(first)
    try:
        await engine.start()
        assert engine.pid not in (None, first)
    finally:
        await engine.aclose()


async def test_an_engine_that_died_is_started_again(smollm2_path: Path) -> None:
    async with running(smollm2_path, parallel=1) as engine:
        assert engine.pid is not None
        os.kill(engine.pid, 9)
        await until(lambda: engine.pid is None)
        status, _ = await post(f"{await engine.start()}/completions", prompt="Hello", max_tokens=1)
        assert status == 200


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.6])
async def test_cancelled_start_leaves_no_process(smollm2_path: Path, delay_s: float) -> None:
    engine = EmbeddedEngine(smollm2_path, name="smollm2")
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.pid is not None)
    pid = engine.pid
    await asyncio.sleep(delay_s)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.pid is None
    assert not alive(pid)


# A parent that starts an engine, says the engine's process id, and never closes it.
PARENT = """
import asyncio, multiprocessing, os, pathlib, sys, time
from thinkscale.models.embedded import EmbeddedEngine

async def main():
    engine = EmbeddedEngine(pathlib.Path(sys.argv[2]), name="smollm2", parallel=1)
    starting = asyncio.create_task(engine.start())
    if sys.argv[1] == "loading":
        while engine.pid is None:
            await asyncio.sleep(0.001)
    else:
        await starting
    forked = 0
    if sys.argv[1] == "forked":
        forked = os.fork()
        if forked == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
    print(engine.pid, forked, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["loading", "serving", "forked"])
async def test_engine_dies_with_a_killed_parent(smollm2_path: Path, moment: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, moment, str(smollm2_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    engine, forked = map(int, (await parent.stdout.readline()).split())
    assert alive(engine)
    parent.kill()
    await parent.wait()
    try:
        await until(lambda: not alive(engine))
        assert not forked or alive(forked), "the fork that holds the engine's pipe must outlive it to prove anything"
    finally:
        if forked:
            os.kill(forked, 9)


# -- refusing ----------------------------------------------------------------------------------------------------


async def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the model file .*no\.gguf: No such file"):
        await EmbeddedEngine(tmp_path / "no.gguf", name="x").start()


async def test_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_bytes(b"<html>")
    with pytest.raises(UsageError, match=r"page\.gguf is not a GGUF model: it begins with b'<htm'"):
        await EmbeddedEngine(tmp_path / "page.gguf", name="x").start()


async def test_broken_model_says_what_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 1000)
    engine = EmbeddedEngine(path, name="x")
    with pytest.raises(ModelUnavailable, match=r"could not load .*broken\.gguf: it ended with status 1\n") as caught:
        await engine.start()
    assert "only supports up to version" in str(caught.value)
    assert engine.pid is None


# 4 GiB of address space, and a pool of 9 GB.
STARVED = """
import asyncio, pathlib, resource, sys
from thinkscale.errors import ModelUnavailable
from thinkscale.models.embedded import EmbeddedEngine
resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
try:
    asyncio.run(EmbeddedEngine(pathlib.Path(sys.argv[1]), name="x", context=400_000).start())
except ModelUnavailable as error:
    print(error)
"""


async def test_more_memory_than_there_is(smollm2_path: Path) -> None:
    starved = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARVED, str(smollm2_path)), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await starved.communicate()
    assert b"the engine could not load" in said
    assert b"failed to allocate" in said


async def test_without_the_engine_installed(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'thinkscale\[local\]'"):
        await EmbeddedEngine(smollm2_path, name="x").start()


@pytest.mark.parametrize("wrong", ["threads", "context", "parallel"])
def test_sizes_are_positive(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match=f"{wrong} must be at least 1, not 0"):
        EmbeddedEngine(tmp_path / "x.gguf", name="x", **{wrong: 0})


def test_defaults_fit_the_machine_and_the_samples(tmp_path: Path) -> None:
    engine = EmbeddedEngine(tmp_path / "x.gguf", name="x", parallel=16)
    assert engine.threads == physical_cores()
    assert 1 <= engine.threads <= (os.cpu_count() or 1)
    assert engine.context >= 16 * 1024 + 1024
