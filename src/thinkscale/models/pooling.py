"""A vLLM server of a model that reads tokens and gives numbers: `/pooling`, `/classify` and `/tokenize`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from thinkscale.errors import AuthenticationFailed, ModelRefused, ModelUnavailable
from thinkscale.models.http import Connection, listed, only_one
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.types import Message


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server made of some inputs. `prompt_tokens` is what it says it read, `None` where it does not say.

    `rows` has, for each input in order, one vector per token or per marked token.
    """

    rows: tuple[tuple[tuple[float, ...], ...], ...]
    prompt_tokens: int | None


class PoolingServer:
    """The model behind `base_url` (it ends in /v1, as for generating models). `model=None` takes the only one served.

    Probabilities are asked for (`use_activation`), not raw logits. A response that is not what the route promises is a
    `ModelUnavailable` that says so; other failures are those of `OpenAIModel`, retries included.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        max_in_flight: int = 64,
        connect_timeout_s: float = 10.0,
        idle_timeout_s: float = 300.0,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = model or self.base_url
        self._model = model
        self._root = self.base_url.removesuffix("/v1")
        self._http = Connection(
            base_url,
            api_key=api_key,
            max_in_flight=max_in_flight,
            connect_timeout_s=connect_timeout_s,
            idle_timeout_s=idle_timeout_s,
            retry=retry,
            breaker=breaker,
        )
        self._http.name = self.name

    async def open(self) -> None:
        """Connect and learn the model's name; safe to call again. Raises `ModelError` where nothing answers."""
        if self._http.is_open:
            return
        self._http.open()
        try:
            models = listed(await self._http.get(f"{self.base_url}/models"))
            if self._model is None:
                self._model = self.name = self._http.name = only_one(models, self.base_url)
        except ModelRefused as error:
            if isinstance(error, AuthenticationFailed) or self._model is None:
                await self.aclose()
                raise
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text's tokens as the model reads it; `special`: with what is put around every text."""
        payload = {"model": self._model, "prompt": text, "add_special_tokens": special}
        return self._ids(await self._http.ask(f"{self._root}/tokenize", payload))

    async def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation's tokens under the model's own template."""
        payload = {"model": self._model, "messages": [dict(one) for one in messages], "add_generation_prompt": False}
        return self._ids(await self._http.ask(f"{self._root}/tokenize", payload))

    async def pooling(self, texts: Sequence[str]) -> Reading:
        """Each text's token classes: one row per token, or per step where the server pools steps."""
        payload = {
            "model": self._model,
            "input": list(texts),
            "task": "token_classify",
            "encoding_format": "float",
            "use_activation": True,
        }
        answer = await self._http.ask(f"{self._root}/pooling", payload)
        return self._reading(answer, len(texts), lambda item: [_row(row) for row in item["data"]])

    async def classify(self, messages: Sequence[Message]) -> Reading:
        """A conversation's class probabilities: one row."""
        payload = {"model": self._model, "messages": [dict(one) for one in messages], "use_activation": True}
        answer = await self._http.ask(f"{self._root}/classify", payload)
        return self._reading(answer, 1, lambda item: [_row(item["probs"])])

    def _ids(self, answer: Mapping[str, Any]) -> list[int]:
        ids = answer.get("tokens")
        if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
            raise self._nonsense("the tokens of a text", answer)
        return ids

    def _reading(
        self, answer: Mapping[str, Any], inputs: int, rows_of: Callable[[Mapping[str, Any]], list[tuple[float, ...]]]
    ) -> Reading:
        try:
            items = sorted(answer["data"], key=lambda item: int(item["index"]))
            if [int(item["index"]) for item in items] != list(range(inputs)):
                raise self._nonsense(f"one item for each of {inputs} inputs", answer)
            rows = tuple(tuple(rows_of(item)) for item in items)
        except (KeyError, TypeError, ValueError):
            raise self._nonsense("numbers for each input", answer) from None
        usage = answer.get("usage")
        read = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        return Reading(rows, read if isinstance(read, int) and read > 0 else None)

    def _nonsense(self, due: str, answer: Mapping[str, Any]) -> ModelUnavailable:
        return ModelUnavailable(f"{self.name} sent {str(dict(answer))[:80]} where {due} were due")


def _row(row: Any) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in row)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not a finite number")
    return numbers
