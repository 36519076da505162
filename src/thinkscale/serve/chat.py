"""`POST /v1/chat/completions`: from a body to a request, and from a result to the completion or its chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thinkscale.serve.asking import check_n, plain, sampling, seed_of, sent_on, take_passed
from thinkscale.serve.bodies import BadRequest, ChatBody, check_messages, parse
from thinkscale.serve.deployment import Deployment, Route
from thinkscale.serve.gateway import Ask
from thinkscale.serve.replies import ChunkWire, finish_reason, head, index_of, report, shown, usage
from thinkscale.store.keys import Key
from thinkscale.tasks.base import INSTRUCTIONS
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Chunk, Message, Prompt, Request, Result, Token
from thinkscale.words import parse_kind

# -- from a body to a request ----------------------------------------------------------------------------------


async def read(raw: Any, deployment: Deployment, key: Key | None, *, id: str) -> tuple[Ask, ChatBody]:
    """What a chat body asks for. Raises `BadRequest` and what `Deployment.route` raises."""
    passed, raw = take_passed(raw, deployment, key)
    body = parse(ChatBody, raw)
    check_messages(raw["messages"])
    route = await deployment.route(body.model, body.inference, body.reasoning_effort, key, policy=plain(body))
    kind = _kind(body, route, raw["messages"])
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs: it needs logprobs: true", param="top_logprobs")
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise BadRequest("max_tokens: max_completion_tokens says otherwise; leave this one out", param="max_tokens")
    most = body.max_completion_tokens or body.max_tokens
    params = sampling(body, route, most, {**sent_on(raw), **passed}, top_logprobs)
    if body.tool_choice is not None and not body.tools:
        raise BadRequest("tool_choice: there are no tools to choose from", param="tool_choice")
    prompt = Prompt(
        messages=_messages(raw["messages"], route, kind),
        tools=tuple(raw.get("tools") or ()),
        tool_choice=body.tool_choice,
    )
    request = Request(prompt, kind, params, seed_of(body.seed), id)
    ask = Ask(id, route, request, body.model, key, body.n or 1, body.seed is not None, body.metadata or {})
    check_n(ask)
    return ask, body


def _kind(body: ChatBody, route: Route, messages: Sequence[Message]) -> AnswerKind:
    """How answers are read and compared: as the client or the policy says, else by the form that was asked for."""
    if route.kind is not None:
        return route.kind
    if body.response_format is not None and body.response_format.type != "text":
        return AnswerKind.JSON
    asked = next((message for message in reversed(messages) if message["role"] == "user"), None)
    return parse_kind("auto", _text(asked["content"]) if asked else "")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")


def _messages(messages: Sequence[Message], route: Route, kind: AnswerKind) -> tuple[Message, ...]:
    """The conversation, with what the policy adds to it."""
    added = list(messages)
    if route.system and not any(message["role"] in ("system", "developer") for message in messages):
        added.insert(0, {"role": "system", "content": route.system})
    if route.instruct and added[-1]["role"] == "user":
        content = added[-1]["content"]
        if isinstance(content, str):
            content = f"{content}\n{INSTRUCTIONS[kind]}"
        else:
            content = [*content, {"type": "text", "text": INSTRUCTIONS[kind]}]
        added[-1] = {**added[-1], "content": content}
    return tuple(added)


# -- from a result to a completion -----------------------------------------------------------------------------


def completion(ask: Ask, body: ChatBody, result: Result) -> dict[str, Any]:
    candidates = shown(ask, result)
    choices = [
        {
            "index": index_of(ask, one),
            "message": {
                "role": "assistant",
                "content": one.text or (None if one.tool_calls else ""),
                "refusal": None,
                **({"reasoning_content": one.reasoning} if one.reasoning else {}),
                **({"tool_calls": [dict(call) for call in one.tool_calls]} if one.tool_calls else {}),
            },
            "logprobs": _logprobs(one.tokens) if body.logprobs else None,
            "finish_reason": finish_reason(one),
        }
        for one in candidates
    ]
    return {
        **head(ask, "chatcmpl", "chat.completion"),
        "choices": choices,
        "usage": usage(result, candidates),
        **_extras(ask),
        "thinkscale": report(ask, result),
    }


def _extras(ask: Ask) -> dict[str, Any]:
    return {"system_fingerprint": None, "service_tier": "default"} | (
        {"metadata": dict(ask.metadata)} if ask.metadata else {}
    )


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {"content": [_token(token) for token in tokens], "refusal": None}


def _token(token: Token) -> dict[str, Any]:
    return {
        **_piece(token.text, token.logprob),
        "top_logprobs": [_piece(text, logprob) for text, logprob in token.top],
    }


def _piece(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


# -- from a run to chunks --------------------------------------------------------------------------------------


class ChatWire(ChunkWire):
    """Chunks as the OpenAI API streams them. Progress travels as `reasoning_content`, events beside the choices."""

    def __init__(self, ask: Ask, body: ChatBody) -> None:
        super().__init__(ask, {**head(ask, "chatcmpl", "chat.completion.chunk"), **_extras(ask)}, body.stream_options)
        self._logprobs = bool(body.logprobs)

    def begin(self) -> Iterator[bytes]:
        for index in range(self._ask.n):
            yield self._chunk([self._choice({"role": "assistant", "content": ""}, index)])

    def progress(self, text: str) -> Iterator[bytes]:
        if text:
            yield self._chunk([self._choice({"reasoning_content": text})])

    def event(self, event: Event) -> Iterator[bytes]:
        yield self._chunk([self._choice({})], thinkscale={"event": event})

    def piece(self, sample: int, chunk: Chunk) -> Iterator[bytes]:
        delta: dict[str, Any] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [dict(call) for call in chunk.tool_calls]
        if delta:
            choice = self._choice(delta, sample)
            if self._logprobs:
                choice["logprobs"] = _logprobs(chunk.tokens)
            yield self._chunk([choice])

    def answer(self, result: Result) -> Iterator[bytes]:
        chosen = result.candidate
        if chosen.reasoning:
            yield self._chunk([self._choice({"reasoning_content": chosen.reasoning})])
        delta: dict[str, Any] = {}
        if chosen.text:
            delta["content"] = chosen.text
        if chosen.tool_calls:
            delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(chosen.tool_calls)]
        choice = self._choice(delta)
        if self._logprobs:
            choice["logprobs"] = _logprobs(chosen.tokens)
        yield self._chunk([choice])

    def _ending(self, index: int, reason: str) -> dict[str, Any]:
        return {**self._choice({}, index), "finish_reason": reason}

    def _choice(self, delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
