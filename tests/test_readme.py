"""What the README tells people to type, typed: its curl and Python examples against the gateway on the real model."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from thinkscale.serve.config import Config, ModelConfig, ServerConfig
from thinkscale.serve.run import Running, open_gateway

README = (Path(__file__).parent.parent / "README.md").read_text()
CURLS = re.findall(r"```bash\n(curl .*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(from openai .*?)```", README, re.DOTALL)
ADDRESS = "http://127.0.0.1:8000"

pytestmark = pytest.mark.model


@pytest.fixture
async def running(embedded_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    config = Config(
        (ModelConfig("smollm2", (embedded_url,), max_in_flight=16),),
        ServerConfig(port=0, database=f"sqlite:///{tmp_path}/gateway.db"),
    )
    async with open_gateway(config) as gateway:
        yield gateway


async def run(*command: str) -> str:
    done = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(120):
        out, errors = await done.communicate()
    assert done.returncode == 0, errors.decode()
    return out.decode()


async def test_the_curl_examples(running: Running) -> None:
    assert len(CURLS) == 3
    trace_id = ""
    for example in CURLS:
        typed = example.replace(ADDRESS, running.url).replace("TRACE_ID", trace_id)
        reply = orjson.loads(await run("bash", "-c", typed.replace("curl ", "curl -sS --fail-with-body ", 1)))
        if "feedback" in typed:
            assert reply == {"trace_id": trace_id, "recorded": True}
        else:
            assert reply["choices"][0]["message"]["content"]
            assert 1 < reply["thinkscale"]["samples"] <= 16
            assert reply["usage"]["completion_tokens"] > reply["thinkscale"]["samples"]
            trace_id = reply["thinkscale"]["trace_id"]


async def test_the_python_example(running: Running) -> None:
    (example,) = PYTHON
    assert await run(sys.executable, "-c", example.replace(ADDRESS, running.url))
