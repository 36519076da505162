"""The seam to anything that generates text."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import orjson

from thinkscale.types import Chunk, Message, Params, Prompt


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do. An adapter may learn better while running: read it anew for each request.

    `max_n`: the most samples one request may ask for. `continuation`: whether `Prompt.prefix` is honoured.
    `logprobs`: whether token log-probabilities come back. `streams`: whether output is seen as it is produced, so that
    a cancelled call's tokens are known. `tells_stop`: whether it says which stop string ended a sample, so that a
    step's end and the reply's are told apart. `context`: tokens of prompt and output together, `None` when unknown.
    """

    max_n: int = 1
    continuation: bool = False
    logprobs: bool = False
    streams: bool = True
    tells_stop: bool = False
    context: int | None = None


class NeverSent(asyncio.CancelledError):
    """A call cancelled before anything was sent: it cost nothing. Raised by wrappers that make a call wait."""


class Model(Protocol):
    """One adapter per wire protocol, not per vendor. Passes `thinkscale.testing.model_conformance`."""

    name: str

    @property
    def capabilities(self) -> Capabilities: ...

    async def open(self) -> None:
        """Connect and learn the capabilities; safe to call again. Raises `ModelError` where nothing answers."""
        ...

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """The prompt's tokens: exact where the server can tell, else an upper bound. Never an underestimate."""
        ...

    def generate(self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0) -> AsyncGenerator[Chunk, None]:
        """Stream up to `n` samples as chunks with `index` in [0, n). Closing the generator cancels upstream.

        Fewer than `n` indices mean that the server gave fewer. `first` is the index of the first sample among all
        drawn from this prompt; servers ignore it, replay and caches key on it. The last chunk carries the usage.
        Raises `ModelError` when the request failed, `MissingSample` when a bank does not hold it.
        """
        ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BaseModel:
    """The parts of `Model` that most adapters share: nothing to open or close, no wire to count on."""

    name = "model"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to give back."""

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return most_prompt_tokens(prompt)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class ModelWrapper(BaseModel):
    """Does something about another model's calls; whoever owns that one opens and closes it."""

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self._model = model

    @property
    def capabilities(self) -> Capabilities:
        return self._model.capabilities

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return await self._model.count_prompt_tokens(prompt)


def prompt_key(prompt: Prompt) -> str:
    """A stable name for a prompt's content: the same words give the same key on every machine."""
    if prompt.key is not None:
        return prompt.key
    content = {
        "messages": [dict(message) for message in prompt.messages],
        "text": prompt.text,
        "prefix": prompt.prefix,
        "tools": [dict(tool) for tool in prompt.tools],
        "tool_choice": prompt.tool_choice,
    }
    key = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    object.__setattr__(prompt, "key", key)  # asked for often, and the content cannot change
    return key


_TEMPLATE_TOKENS = 64  # a chat template's own words: a default system line, role markers
_MESSAGE_TOKENS = 8
_PICTURE_TOKENS = 4096  # more than common models make of one


def most_prompt_tokens(prompt: Prompt) -> int:
    """An upper bound without a tokenizer: a byte-level token stands for at least one byte."""
    text = prompt.text if prompt.text is not None else ""
    spoken = sum(_MESSAGE_TOKENS + _most_spoken_tokens(message) for message in prompt.messages)
    tools = sum(len(orjson.dumps(dict(tool))) for tool in prompt.tools)
    overhead = _TEMPLATE_TOKENS if prompt.messages else 1
    return overhead + len(text.encode()) + spoken + tools + len(prompt.prefix.encode())


def _most_spoken_tokens(message: Message) -> int:
    """A picture costs by its size on the screen, whatever its bytes or its address."""
    content = message.get("content")
    if not isinstance(content, list):
        return len(orjson.dumps(dict(message)))
    words = [part for part in content if part.get("type") != "image_url"]
    return len(orjson.dumps({**message, "content": words})) + _PICTURE_TOKENS * (len(content) - len(words))
