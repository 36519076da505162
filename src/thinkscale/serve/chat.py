"""`POST /v1/chat/completions`: from a body to a request, and from a result to the completion or its chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thinkscale.serve.bodies import BadRequest, ChatBody, check_messages, parse
from thinkscale.serve.deployment import Deployment, Route
from thinkscale.serve.faults import Fault
from thinkscale.serve.gateway import Ask
from thinkscale.serve.stream import sse
from thinkscale.store.keys import Key
from thinkscale.tasks.base import INSTRUCTIONS
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Candidate, Chunk, Message, Params, Prompt, Request, Result, Token
from thinkscale.words import parse_kind

_SENT_ON = (
    "frequency_penalty", "presence_penalty", "logit_bias", "user", "response_format", "parallel_tool_calls",
    "prompt_cache_key", "safety_identifier",
)  # fmt: skip
"""Fields that the backend is to honour, in its own words."""

DONE = b"data: [DONE]\n\n"


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


def take_passed(raw: Any, deployment: Deployment, key: Key | None) -> tuple[dict[str, Any], Any]:
    """The fields that the model's configuration sends on as they are, and the rest."""
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), str):
        return {}, raw
    names = deployment.find(raw["model"], key)[0].config.passed
    if not names:
        return {}, raw
    return {name: raw[name] for name in names if name in raw}, {k: v for k, v in raw.items() if k not in names}


def plain(body: Any) -> str | None:
    """Several samples were asked for as they are: that is what `single` does, unless the client says otherwise."""
    return "single" if (body.n or 1) > 1 else None


def check_n(ask: Ask) -> None:
    """Refuse `n` beside a strategy that draws samples of its own."""
    if ask.n > 1 and not ask.passes_through:
        raise BadRequest(
            f"n: {ask.n} choices are {ask.n} samples as they are, and the policy {ask.route.policy} draws its own "
            f"({ask.route.strategy}): ask for {ask.route.served.name}:single, or leave n out",
            param="n",
        )


def sampling(
    body: Any, route: Route, max_tokens: int | None, extra: Mapping[str, Any], top_logprobs: int | None
) -> Params:
    """The sampling parameters that chats and completions share. A verifier may need log-probabilities unasked."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Params(
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=max_tokens or route.served.max_tokens,
        stop=stop,
        top_logprobs=0 if top_logprobs is None and route.verifier_word == "confidence" else top_logprobs,
        extra=extra,
    )


def sent_on(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: raw[name] for name in _SENT_ON if raw.get(name) is not None}


def seed_of(seed: int | None) -> int:
    """The client's seed, or a fresh one: the same question asked twice is answered anew."""
    return secrets.randbits(31) if seed is None else seed


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


def shown(ask: Ask, result: Result) -> list[Candidate]:
    """The samples that the client gets, one per choice."""
    return list(result.candidates) if ask.n > 1 and result.candidates else [result.candidate]


def index_of(ask: Ask, candidate: Candidate) -> int:
    """A sample's place among the choices."""
    return candidate.path[0] if ask.n > 1 else 0


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
            "logprobs": logprobs(one.tokens) if body.logprobs else None,
            "finish_reason": finish_reason(one),
        }
        for one in candidates
    ]
    return {
        **head(ask, "chatcmpl", "chat.completion"),
        "choices": choices,
        "usage": usage(result, candidates),
        **extras(ask),
        "thinkscale": report(ask, result),
    }


def head(ask: Ask, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{ask.id}", "object": kind, "created": int(time.time()), "model": ask.model}


def extras(ask: Ask) -> dict[str, Any]:
    return {"system_fingerprint": None, "service_tier": "default"} | (
        {"metadata": dict(ask.metadata)} if ask.metadata else {}
    )


def finish_reason(candidate: Candidate) -> str:
    """In the API's words: what a budget, a deadline or a strategy cut ends like one that grew too long."""
    reason = candidate.finish_reason
    return reason if reason in ("stop", "length", "tool_calls", "content_filter") else "length"


def endings(ask: Ask, result: Result) -> list[tuple[int, str]]:
    """How each choice of a stream ends, by its index; one that the budget left no room for is a cut one."""
    ended = {index_of(ask, one): finish_reason(one) for one in shown(ask, result)}
    return [(index, ended.get(index, "length")) for index in range(ask.n)]


def usage(result: Result, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Everything that was charged. What the client does not see (other samples, judges, thinking) is reasoning."""
    spent = result.usage
    seen = sum(one.prefix_tokens + one.output_tokens - one.reasoning_tokens for one in candidates)
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": max(0, spent.output_tokens - seen)},
    }


def report(ask: Ask, result: Result) -> dict[str, Any]:
    """The `thinkscale` object: how the answer was found, and its bill."""
    return {
        "trace_id": result.trace_id,
        "policy": ask.route.policy,
        "strategy": result.strategy,
        "stop_reason": result.stop_reason,
        "confidence": result.confidence,
        "answer": result.answer,
        "samples": result.samples,
        "calls": result.usage.calls,
        "cached": result.usage.calls == 0,
        "cost_usd": result.usage.cost_usd,
        "seconds": round(result.seconds, 4),
        "counted": result.usage.counted,
        "cached_tokens": result.usage.cached_tokens,
        "usage_by_purpose": {
            purpose: {
                "prompt_tokens": part.prompt_tokens,
                "output_tokens": part.output_tokens,
                "calls": part.calls,
                "cost_usd": part.cost_usd,
            }
            for purpose, part in result.usage_by_purpose.items()
        },
    }


def logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {"content": [_token(token) for token in tokens], "refusal": None}


def _token(token: Token) -> dict[str, Any]:
    return {
        **_piece(token.text, token.logprob),
        "top_logprobs": [_piece(text, logprob) for text, logprob in token.top],
    }


def _piece(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


# -- from a run to chunks --------------------------------------------------------------------------------------


class ChatWire:
    """Chunks as the OpenAI API streams them. Progress travels as `reasoning_content`, events beside the choices."""

    def __init__(self, ask: Ask, body: ChatBody) -> None:
        self._ask = ask
        self._logprobs = bool(body.logprobs)
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {**head(ask, "chatcmpl", "chat.completion.chunk"), **extras(ask)}

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
                choice["logprobs"] = logprobs(chunk.tokens)
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
            choice["logprobs"] = logprobs(chosen.tokens)
        yield self._chunk([choice])

    def end(self, result: Result) -> Iterator[bytes]:
        for index, reason in endings(self._ask, result):
            more = {"thinkscale": report(self._ask, result)} if index == self._ask.n - 1 else {}
            yield self._chunk([{**self._choice({}, index), "finish_reason": reason}], **more)
        if self._usage:
            yield self._chunk([], usage=usage(result, shown(self._ask, result)))
        yield DONE

    def fail(self, fault: Fault) -> Iterator[bytes]:
        yield sse(fault.body)
        yield DONE

    def _choice(self, delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if self._usage and "usage" not in more:
            more["usage"] = None
        return sse({**self._head, "choices": choices, **more})
