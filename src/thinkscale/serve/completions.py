"""`POST /v1/completions`: raw text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thinkscale.serve.asking import check_n, plain, sampling, seed_of, sent_on, take_passed
from thinkscale.serve.bodies import CompletionBody, parse
from thinkscale.serve.deployment import Deployment
from thinkscale.serve.gateway import Ask
from thinkscale.serve.replies import ChunkWire, finish_reason, head, index_of, report, shown, usage
from thinkscale.store.keys import Key
from thinkscale.trace import Event
from thinkscale.types import Chunk, Prompt, Request, Result, Token
from thinkscale.words import parse_kind

_MAX_TOKENS = 16  # what this API has always given where nothing was said


async def read(raw: Any, deployment: Deployment, key: Key | None, *, id: str) -> tuple[Ask, CompletionBody]:
    """What a completion body asks for. Raises `BadRequest` and what `Deployment.route` raises."""
    passed, raw = take_passed(raw, deployment, key)
    body = parse(CompletionBody, raw)
    route = await deployment.route(body.model, body.inference, None, key, policy=plain(body))
    text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    params = sampling(body, route, body.max_tokens or _MAX_TOKENS, {**sent_on(raw), **passed}, body.logprobs)
    kind = route.kind or parse_kind("auto", text)
    request = Request(Prompt(text=text), kind, params, seed_of(body.seed), id)
    ask = Ask(id, route, request, body.model, key, body.n or 1, body.seed is not None)
    check_n(ask)
    return ask, body


def completion(ask: Ask, body: CompletionBody, result: Result) -> dict[str, Any]:
    candidates = shown(ask, result)
    return {
        **head(ask, "cmpl", "text_completion"),
        "choices": [
            {
                "index": index_of(ask, one),
                "text": one.text,
                "logprobs": _logprobs(one.tokens) if body.logprobs is not None else None,
                "finish_reason": _worded(finish_reason(one)),
            }
            for one in candidates
        ],
        "usage": usage(result, candidates),
        "thinkscale": report(ask, result),
    }


def _worded(reason: str) -> str:
    return reason if reason != "tool_calls" else "stop"


def _logprobs(tokens: Sequence[Token], offset: int = 0) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": offsets,
    }


class CompletionWire(ChunkWire):
    """Chunks of a completion. Text has no place for progress: it is told in comments, which clients pass over."""

    def __init__(self, ask: Ask, body: CompletionBody) -> None:
        super().__init__(ask, head(ask, "cmpl", "text_completion"), body.stream_options)
        self._logprobs = body.logprobs is not None
        self._offsets: dict[int, int] = {}

    def begin(self) -> Iterator[bytes]:
        return iter(())

    def progress(self, text: str) -> Iterator[bytes]:
        yield from (b": " + line.encode() + b"\n\n" for line in text.splitlines())

    def event(self, event: Event) -> Iterator[bytes]:
        yield self._chunk([self._choice("")], thinkscale={"event": event})

    def piece(self, sample: int, chunk: Chunk) -> Iterator[bytes]:
        if chunk.text:
            yield self._chunk([self._choice(chunk.text, sample, chunk.tokens)])

    def answer(self, result: Result) -> Iterator[bytes]:
        yield self._chunk([self._choice(result.text, 0, result.candidate.tokens)])

    def _ending(self, index: int, reason: str) -> dict[str, Any]:
        return {**self._choice("", index), "finish_reason": _worded(reason)}

    def _choice(self, text: str, index: int = 0, tokens: Sequence[Token] = ()) -> dict[str, Any]:
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(text)
        told = _logprobs(tokens, offset) if self._logprobs and text else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": None}
