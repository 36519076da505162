"""Recorded samples as a model: the same strategy code runs over them for free, and twice alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from thinkscale.banks import Bank, BankProblem, BankSample
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


class ReplayModel(BaseModel):
    """Answers prompt p's sample i with what is recorded at (p, i); `MissingSample` where nothing is.

    `samples` are those of each prompt, by its key, in the order in which they were drawn.
    Up to `max_n` samples travel in one request and share the charge for its prompt, as on the server they came from; by
    default each is charged as if sent alone. `shuffle` reorders each prompt's samples by that seed:
    for banks whose order carries meaning, and to resample the order in which a stopping rule sees them.
    A recorded sample longer than `max_tokens` comes back cut, without its text: what it said by then is not on record.
    """

    def __init__(
        self,
        samples: Mapping[str, Sequence[Recorded]],
        *,
        name: str = "replay",
        shuffle: int | None = None,
        max_n: int = 1,
    ) -> None:
        self.name = name
        self._max_n = max_n
        self._samples = {key: list(of_prompt) for key, of_prompt in samples.items()}
        if shuffle is not None:
            for key, of_prompt in sorted(self._samples.items()):
                Random(f"{shuffle}/{key}").shuffle(of_prompt)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_n=self._max_n,
            # Continuations are looked up like any prompt; a bank without them reports them missing.
            continuation=True,
            tells_stop=any(sample.stop_string for samples in self._samples.values() for sample in samples),
            logprobs=any(sample.tokens for samples in self._samples.values() for sample in samples[:1]),
        )

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        samples = self._samples.get(prompt_key(prompt))
        return samples[0].prompt_tokens if samples else 0

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        samples = self._samples.get(prompt_key(prompt), [])
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


def replay_file(path: Path, prompts: Sequence[Prompt] = (), model: str | None = None) -> ReplayModel:
    """A bank's model: of a Parquet file, or of samples in JSON lines (`banks.jsonl` has their fields).

    `prompts` are those to be asked; a problem whose prompt the file does not hold is one of them by its place there.
    `model` may be left out where the bank has one. Raises `UsageError` for a file that cannot be read, and where it has
    no samples of these prompts.
    """
    from thinkscale.banks.importing import load

    bank = load(path)
    name = bank.model_name(model)
    return ReplayModel(
        by_prompt(bank, name, prompts),
        name=f"bank:{path.name}" + (f"#{name}" if len(bank.models) > 1 else ""),
        max_n=bank.models[name].max_n,
    )


def by_prompt(bank: Bank, model: str, prompts: Sequence[Prompt] = ()) -> dict[str, list[Recorded]]:
    """A model's samples by the keys of their prompts. Raises `UsageError` where none belong to `prompts`, if given."""
    asked = [prompt_key(prompt) for prompt in prompts]
    found: dict[str, list[Recorded]] = {}
    for problem in bank.problems.values():
        samples = bank.samples(model, problem.id)
        key = _key(problem, asked)
        if samples and key is not None:
            found[key] = [recorded(sample) for sample in samples]
    if asked and not found.keys() & set(asked):
        named = (
            ""
            if any(problem.prompt for problem in bank.problems.values())
            else ("; it does not hold their prompts: import it with --task, which adds them")
        )
        raise UsageError(f"the bank holds no samples of these problems{named}")
    return found


def _key(problem: BankProblem, asked: Sequence[str]) -> str | None:
    if problem.prompt is not None:
        return prompt_key(problem.prompt)
    if problem.id.isdecimal():
        return asked[int(problem.id)] if int(problem.id) < len(asked) else None
    return problem.id


def recorded(sample: BankSample) -> Recorded:
    """A bank's sample for replay. One without its text says its answer; unknown token counts are 0."""
    confidences: Sequence[float | None] = sample.confidences or [None] * len(sample.logprobs)
    return Recorded(
        text=(sample.answer or "") if sample.text is None else sample.text,
        reasoning=sample.reasoning,
        finish_reason=sample.finish_reason,
        stop_string=sample.stop_string,
        prompt_tokens=sample.prompt_tokens or 0,
        output_tokens=sample.output_tokens or 0,
        tokens=tuple(Token("", own, top) for own, top in zip(sample.logprobs, confidences, strict=True)),
    )
