"""From a reference to a model that answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from thinkscale.errors import UsageError
from thinkscale.models import catalog
from thinkscale.models.base import Model
from thinkscale.models.references import Bank, HubModel, ModelFile, NamedModel, Server, api_key_for, parse_reference
from thinkscale.types import Prompt

Progress = Callable[[int, int | None], None]
"""Hears (bytes done, bytes in all or `None`) while a model is being fetched."""


@dataclass(frozen=True, slots=True)
class Local:
    """How the embedded engine runs; see `EmbeddedEngine` for what `None` means."""

    threads: int | None = None
    context: int | None = None
    parallel: int = 16


@asynccontextmanager
async def open_model(
    reference: str,
    *,
    local: Local | None = None,
    prompts: Sequence[Prompt] = (),
    progress: Progress = lambda _done, _total: None,
) -> AsyncIterator[Model]:
    """The model a reference names, open; fetched first where need be, closed at the end.

    `prompts` are the problems that are to be asked: a bank that does not hold its own names them by their place. Raises
    `UsageError` for a reference that means nothing, `ModelUnavailable` where its server or source cannot be reached.
    """
    parsed = parse_reference(reference)
    match parsed:
        case Server(url, name):
            from thinkscale.models.openai import OpenAIModel

            async with OpenAIModel(url, name, api_key=api_key_for(url)) as model:
                yield model
        case Bank(path, model_name):
            from thinkscale.models.replay import replay_file

            yield replay_file(path, prompts, model_name)
        case _:
            name = parsed.name if isinstance(parsed, NamedModel) else reference
            async with _embedded(await _file_of(parsed, progress), name, local or Local()) as model:
                yield model


async def fetch(reference: str, progress: Progress) -> Path:
    """The GGUF file of a reference, fetched into the cache unless it is there. Raises as `open_model` does."""
    return await _file_of(parse_reference(reference), progress)


async def _file_of(parsed: NamedModel | ModelFile | HubModel | Server | Bank, progress: Progress) -> Path:
    match parsed:
        case NamedModel(name):
            return await catalog.pull(name, progress)
        case HubModel(repo, file):
            return await catalog.pull_from_hub(repo, file, progress)
        case ModelFile(path):
            return path
    raise UsageError("only a known name or hf:owner/repo/file.gguf can be fetched")


@asynccontextmanager
async def _embedded(path: Path, name: str, local: Local) -> AsyncIterator[Model]:
    from thinkscale.models.embedded import EmbeddedEngine
    from thinkscale.models.openai import OpenAIModel

    engine = EmbeddedEngine(path, name=name, threads=local.threads, context=local.context, parallel=local.parallel)
    try:
        async with OpenAIModel(await engine.start()) as model:
            yield model
    finally:
        await engine.aclose()
