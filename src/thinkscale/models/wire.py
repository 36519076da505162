"""The OpenAI wire format: requests out, chunks in. No input or output happens here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from thinkscale.errors import ModelUnavailable
from thinkscale.types import Chunk, Params, Prompt, Token, Usage

_LEAST_LOGPROB = -100.0  # servers send -inf or -9999 for "impossible"; a mean must survive it
_SUSPICIOUS_BYTES_PER_TOKEN = 8


def body(prompt: Prompt, params: Params, *, model: str, n: int, stream: bool, max_tokens_field: str) -> dict[str, Any]:
    """The JSON body for the route that fits the prompt. Fields left to the server are left out."""
    payload: dict[str, Any] = {"model": model, max_tokens_field: params.max_tokens}
    if prompt.text is not None:
        payload["prompt"] = prompt.text + prompt.prefix
    else:
        payload["messages"] = [dict(message) for message in prompt.messages]
        if prompt.prefix:
            payload["messages"].append({"role": "assistant", "content": prompt.prefix})
            payload |= {"continue_final_message": True, "add_generation_prompt": False}
    if prompt.tools:
        payload["tools"] = [dict(tool) for tool in prompt.tools]
    if prompt.tool_choice is not None:
        payload["tool_choice"] = prompt.tool_choice
    sampling = {"temperature": params.temperature, "top_p": params.top_p, "seed": params.seed}
    payload |= {name: value for name, value in sampling.items() if value is not None}
    if params.stop:
        payload["stop"] = list(params.stop)
    if n > 1:
        payload["n"] = n
    if params.top_logprobs is not None:
        if prompt.text is not None:
            payload["logprobs"] = params.top_logprobs
        else:
            payload |= {"logprobs": True, "top_logprobs": params.top_logprobs}
    if stream:
        payload |= {"stream": True, "stream_options": {"include_usage": True}}
    return {**payload, **params.extra}


class StreamReader:
    """Reads the server-sent events of one response. Feed it bytes as they come; `usage` is final after `[DONE]`."""

    def __init__(self) -> None:
        self.done = False
        self.finished: set[int] = set()
        self._buffer = b""
        self._running: Usage | None = None
        self._closing: list[Usage] = []
        self._pieces: dict[int, tuple[int, int]] = {}

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The block's chunks; plain pieces of one choice that came together leave together."""
        *lines, self._buffer = (self._buffer + block).split(b"\n")
        together: dict[int, list[Chunk]] = {}
        broken: ModelUnavailable | None = None
        try:
            for line in lines:
                if line.startswith(b"data:"):
                    for chunk in self._event(line[5:].strip()):
                        if chunk.tokens:  # a watcher decides token by token
                            if waiting := together.pop(chunk.index, None):
                                yield _joined(waiting)
                            yield chunk
                        else:
                            together.setdefault(chunk.index, []).append(chunk)
        except ModelUnavailable as error:
            broken = error
        for chunks in together.values():
            yield _joined(chunks)
        if broken is not None:
            raise broken  # after what came before it, which is charged

    def _event(self, content: bytes) -> Iterator[Chunk]:
        if content == b"[DONE]":
            self.done = True
            return
        event = parse_json(content)
        if "error" in event:
            raise ModelUnavailable(f"the server broke off: {error_message(event)}")
        usage = read_usage(event) if event.get("usage") else None
        choices = event.get("choices") or []
        if usage is not None:
            # With no choices it is the bill: one per response, or one per sample (llama.cpp). Beside choices it is a
            # running total.
            if choices:
                self._running = usage
            else:
                self._closing.append(usage)
        for choice in choices:
            try:
                chunk = _delta(choice, event)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ModelUnavailable(f"the server sent a choice that cannot be read: {error!r}") from None
            if chunk.finish_reason:
                self.finished.add(chunk.index)
            pieces, size = self._pieces.get(chunk.index, (0, 0))
            self._pieces[chunk.index] = (pieces + chunk.counted_tokens, size + _size(chunk))
            yield chunk

    def uncounted(self, max_tokens: int) -> dict[int, int]:
        """Tokens to add per choice where no bill came and the pieces are too long to be one token each.

        Such a choice counts as its bytes, at most `max_tokens`: never less than the truth.
        """
        return {
            index: min(max_tokens, size) - pieces
            for index, (pieces, size) in self._pieces.items()
            if size > pieces * _SUSPICIOUS_BYTES_PER_TOKEN and min(max_tokens, size) > pieces
        }

    @property
    def usage(self) -> Usage | None:
        if not self._closing:
            return self._running
        last = self._closing[-1]
        if len(self._closing) == 1 or len(self._closing) != len(self.finished):
            return last
        return replace(last, output_tokens=sum(usage.output_tokens for usage in self._closing))


def read_response(response: Mapping[str, Any], *, max_tokens: int) -> Iterator[Chunk]:
    """The chunks of a response that was not streamed, the usage on a last one.

    Without a believable usage, a choice counts as its bytes, at most `max_tokens`: never less than the truth.
    """
    usage = read_usage(response)
    choices = response.get("choices") or []
    chunks = [_whole(choice, response) for choice in choices]
    size = sum(len((chunk.text + chunk.reasoning).encode()) for chunk in chunks)
    reported = usage.output_tokens if usage else 0
    if reported == 0 or (len(chunks) > 1 and size > reported * _SUSPICIOUS_BYTES_PER_TOKEN):
        chunks = [
            replace(chunk, counted_tokens=chunk.counted_tokens or min(max_tokens, _size(chunk))) for chunk in chunks
        ]
    elif len(chunks) == 1:
        chunks = [replace(chunks[0], counted_tokens=chunks[0].counted_tokens or reported)]
    else:
        # Shared out by length: which sample used how many is not on the wire.
        chunks = [
            replace(chunk, counted_tokens=chunk.counted_tokens or reported * _size(chunk) // max(size, 1))
            for chunk in chunks
        ]
    yield from chunks
    if usage is not None and chunks:
        yield Chunk(index=chunks[-1].index, usage=usage)


def _size(chunk: Chunk) -> int:
    size = len((chunk.text + chunk.reasoning).encode())
    return size + sum(len(orjson.dumps(dict(call))) for call in chunk.tool_calls) if chunk.tool_calls else size


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        index=chunks[0].index,
        text="".join(chunk.text for chunk in chunks),
        reasoning="".join(chunk.reasoning for chunk in chunks),
        tool_calls=tuple(call for chunk in chunks for call in chunk.tool_calls),
        counted_tokens=sum(chunk.counted_tokens for chunk in chunks),
        finish_reason=next((chunk.finish_reason for chunk in chunks if chunk.finish_reason), None),
        stop_string=next((chunk.stop_string for chunk in chunks if chunk.stop_string), None),
    )


def _stop_string(choice: Mapping[str, Any], event: Mapping[str, Any]) -> str | None:
    """The stop string that ended a choice: vLLM's `stop_reason`, SGLang's `matched_stop`, llama.cpp's verbose word."""
    verbose = event.get("__verbose") or {}
    for said in (choice.get("stop_reason"), choice.get("matched_stop"), verbose.get("stopping_word")):
        if isinstance(said, str) and said:  # a number is the id of an end-of-text token
            return said
    return None


def _delta(choice: Mapping[str, Any], event: Mapping[str, Any]) -> Chunk:
    delta = choice.get("delta") or {}
    text = delta.get("content") or choice.get("text") or ""
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    calls = tuple(delta.get("tool_calls") or ())
    tokens = read_tokens(choice.get("logprobs"))
    return Chunk(
        index=int(choice.get("index", 0)),
        text=text,
        reasoning=reasoning,
        tool_calls=calls,
        tokens=tokens,
        counted_tokens=len(tokens) or (1 if text or reasoning or calls else 0),
        finish_reason=choice.get("finish_reason"),
        stop_string=_stop_string(choice, event) if choice.get("finish_reason") else None,
    )


def _whole(choice: Mapping[str, Any], response: Mapping[str, Any]) -> Chunk:
    message = choice.get("message") or {}
    tokens = read_tokens(choice.get("logprobs"))
    calls = message.get("tool_calls") or ()
    return Chunk(
        index=int(choice.get("index", 0)),
        text=message.get("content") or choice.get("text") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        tool_calls=tuple({**call, "index": place} for place, call in enumerate(calls)),
        tokens=tokens,
        counted_tokens=len(tokens),
        finish_reason=choice.get("finish_reason") or "stop",
        stop_string=_stop_string(choice, response),
    )


def read_usage(event: Mapping[str, Any]) -> Usage | None:
    usage = event.get("usage")
    if not isinstance(usage, Mapping):
        return None
    details = usage.get("prompt_tokens_details") or {}
    thought = usage.get("completion_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        requests=1,
        cached_tokens=details.get("cached_tokens"),
        cost_usd=None,
        reasoning_tokens=int(thought.get("reasoning_tokens") or 0),
    )


def read_tokens(logprobs: Mapping[str, Any] | None) -> tuple[Token, ...]:
    """Tokens of a chat choice (`content`), or of a legacy completion (`tokens`, `token_logprobs`, `top_logprobs`)."""
    if not logprobs:
        return ()
    if logprobs.get("content"):
        return tuple(
            _token(
                one["token"], one["logprob"], [(top["token"], top["logprob"]) for top in one.get("top_logprobs") or ()]
            )
            for one in logprobs["content"]
        )
    texts, own = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops: Iterable[Mapping[str, float] | None] = logprobs.get("top_logprobs") or [None] * len(texts)
    return tuple(
        _token(text, logprob, list((top or {}).items())) for text, logprob, top in zip(texts, own, tops, strict=False)
    )


def _token(text: str, logprob: float | None, top: list[tuple[str, float]]) -> Token:
    alternatives = tuple((name, _finite(value)) for name, value in top)
    confidence = -sum(value for _, value in alternatives) / len(alternatives) if alternatives else None
    return Token(text, _finite(logprob), confidence, alternatives)


def _finite(logprob: float | None) -> float:
    return max(logprob, _LEAST_LOGPROB) if logprob is not None and math.isfinite(logprob) else _LEAST_LOGPROB


def parse_json(content: bytes) -> Mapping[str, Any]:
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ModelUnavailable(f"the server sent malformed JSON: {content[:80]!r}") from None
    if not isinstance(parsed, dict):
        raise ModelUnavailable(f"the server sent {content[:80]!r} where an object was due")
    return parsed


def error_message(response: Mapping[str, Any]) -> str:
    """The words of an error body, in any of the common shapes."""
    error = response.get("error", response)
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("detail") or dict(error))
    return str(error)
