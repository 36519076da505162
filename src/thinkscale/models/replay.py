"""Recorded samples as a model: the same strategy code runs over them for free, and twice alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson

from thinkscale.errors import MissingSample, UsageError
from thinkscale.models.base import BaseModel, Capabilities, prompt_key
from thinkscale.types import Chunk, Params, Prompt, Token, Usage


@dataclass(frozen=True, slots=True)
class Recorded:
    """One sample as it was recorded. `prompt_tokens` is its prompt's length; `tokens` may lack their texts."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    stop_string: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    tokens: tuple[Token, ...] = ()


Bank = Mapping[str, Sequence[Recorded]]
"""Samples by prompt key, in the order in which they were drawn."""


class ReplayModel(BaseModel):
    """Answers prompt p's sample i with what the bank holds at (p, i); `MissingSample` where it holds nothing.

    Up to `max_n` samples travel in one request and share the charge for its prompt, as on the server they came from; by
    default each is charged as if sent alone. `shuffle` reorders each prompt's samples by that seed:
    for banks whose order carries meaning, and to resample the order in which a stopping rule sees them.
    A recorded sample longer than `max_tokens` comes back cut, without its text: what it said by then is not on record.
    """

    def __init__(self, bank: Bank, *, name: str = "replay", shuffle: int | None = None, max_n: int = 1) -> None:
        self.name = name
        self._max_n = max_n
        self._bank = {key: list(samples) for key, samples in bank.items()}
        if shuffle is not None:
            for key, samples in sorted(self._bank.items()):
                Random(f"{shuffle}/{key}").shuffle(samples)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_n=self._max_n,
            # Continuations are looked up like any prompt; a bank without them reports them missing.
            continuation=True,
            tells_stop=any(sample.stop_string for samples in self._bank.values() for sample in samples),
            logprobs=any(sample.tokens for samples in self._bank.values() for sample in samples[:1]),
        )

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        samples = self._bank.get(prompt_key(prompt))
        return samples[0].prompt_tokens if samples else 0

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        samples = self._bank.get(prompt_key(prompt), [])
        drawn = samples[first : first + n]
        if not drawn:
            raise MissingSample(
                f"{self.name} holds {len(samples)} samples of this prompt; sample {first} is not recorded"
            )
        for index, sample in enumerate(drawn):
            for chunk in _chunks(sample, params):
                yield Chunk(index=index, **chunk)
        output = sum(min(sample.output_tokens, params.max_tokens) for sample in drawn)
        yield Chunk(
            index=len(drawn) - 1,
            usage=Usage(drawn[0].prompt_tokens, output, requests=1, cached_tokens=None, cost_usd=None),
        )


def _chunks(sample: Recorded, params: Params) -> list[dict[str, Any]]:
    """A sample's chunks: token by token where log-probabilities were asked for, else all at once."""
    cut = sample.output_tokens > params.max_tokens
    length = min(sample.output_tokens, params.max_tokens)
    tokens = sample.tokens[:length] if params.top_logprobs is not None else ()
    growing: list[dict[str, Any]] = [{"tokens": (token,), "counted_tokens": 1} for token in tokens]
    closing: dict[str, Any] = {
        "counted_tokens": length - len(tokens),
        "finish_reason": "length" if cut else sample.finish_reason,
    }
    if not cut:
        closing |= {"text": sample.text, "reasoning": sample.reasoning, "stop_string": sample.stop_string}
    return [*growing, closing]


def load_bank(path: Path, prompts: Sequence[Prompt]) -> dict[str, list[Recorded]]:
    """Read a bank of one JSON sample per line.

    Fields: `text`; `prompt` (the prompt key) or `problem` (its index in `prompts`); optional `finish_reason`,
    `stop_string`, `prompt_tokens`, `completion_tokens`, and per token `logprob` and `top5_mean_logprob` (or
    `top_mean_logprob`), lists of nats. Raises `UsageError` with the file and line that is wrong.
    """
    keys = [prompt_key(prompt) for prompt in prompts]
    bank: dict[str, list[Recorded]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the bank {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            row = orjson.loads(line)
            key = row["prompt"] if "prompt" in row else row["problem"]
            if isinstance(key, int):
                if key >= len(keys):
                    continue
                key = keys[key]
            bank.setdefault(key, []).append(_recorded(row))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"{path}, line {number}: not a recorded sample: {why}. A bank has one JSON object a line: `problem` "
                "(its index in the task), `text` and more"
            ) from None
    if not bank:
        raise UsageError(f"{path} holds no samples of these problems")
    return bank


def _recorded(row: Mapping[str, Any]) -> Recorded:
    logprobs = row.get("logprob") or ()
    tops = row.get("top5_mean_logprob") or row.get("top_mean_logprob") or [None] * len(logprobs)
    tokens = tuple(
        Token("", float(own), None if top is None else -float(top)) for own, top in zip(logprobs, tops, strict=True)
    )
    return Recorded(
        text=str(row["text"]),
        reasoning=str(row.get("reasoning") or ""),
        finish_reason=str(row.get("finish_reason") or "stop"),
        stop_string=row.get("stop_string"),
        prompt_tokens=int(row.get("prompt_tokens") or 0),
        output_tokens=int(row.get("completion_tokens") or len(tokens)),
        tokens=tokens,
    )
