"""`thinkscale doctor`: what is here to work with. Names of keys, never their values."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from thinkscale import __version__
from thinkscale.cli.output import print_json
from thinkscale.models import catalog
from thinkscale.models.references import KEY_VARIABLES

_EXTRAS = {"local": "xllamacpp", "hub": "huggingface-hub", "datasets": "datasets", "tasks": "reasoning-gym"}
_USUAL_SERVERS = {
    "vLLM": "http://127.0.0.1:8000/v1",
    "SGLang": "http://127.0.0.1:30000/v1",
    "llama-server": "http://127.0.0.1:8080/v1",
    "Ollama": "http://127.0.0.1:11434/v1",
}


def run(*, as_json: bool) -> None:
    found = examine()
    if as_json:
        print_json(found)
        return
    console = Console(highlight=False)
    for heading, facts in found.items():
        console.print(f"[bold]{heading}[/bold]")
        for name, fact in facts.items():
            console.print(f"  {name:<22} {_words(fact)}", markup=False)


def examine() -> dict[str, dict[str, Any]]:
    return {
        "thinkscale": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": _memory_gb(), "gpus": _gpus()},
        "extras": {extra: _version(package) for extra, package in _EXTRAS.items()},
        "servers": asyncio.run(_servers()),
        "models": {entry.name: catalog.is_pulled(entry.name) for entry in catalog.entries()},
        "cache": {"folder": str(catalog.cache_folder())},
        "keys": {name: bool(os.environ.get(name)) for name in KEY_VARIABLES},
    }


def _words(fact: Any) -> str:
    if fact is None or fact == []:
        return "none found"
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def _processor() -> str | None:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    except OSError:
        return platform.processor() or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def _servers() -> dict[str, list[str] | None]:
    """What answers at the ports such servers usually take, with the models it serves."""
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as http:

        async def models(url: str) -> list[str] | None:
            try:
                async with http.get(f"{url}/models") as response:
                    listing = orjson.loads(await response.read())
                    return [str(model["id"]) for model in listing["data"]]
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
                return None

        found = await asyncio.gather(*(models(url) for url in _USUAL_SERVERS.values()))
    return {f"{name} {url}": there for (name, url), there in zip(_USUAL_SERVERS.items(), found, strict=True)}
