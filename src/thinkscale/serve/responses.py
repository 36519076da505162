"""`POST /v1/responses`, without state: text in, text out, in the words of the Responses API over those of chats."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from thinkscale.serve import chat
from thinkscale.serve.asking import take_passed
from thinkscale.serve.bodies import BadRequest, ResponsesBody, TextFormat, ThoughtItem, parse
from thinkscale.serve.deployment import Deployment
from thinkscale.serve.faults import Fault
from thinkscale.serve.gateway import Ask
from thinkscale.serve.replies import finish_reason, report, usage
from thinkscale.serve.stream import sse
from thinkscale.store.keys import Key
from thinkscale.trace import Event
from thinkscale.types import Chunk, Result

_SAME = ("model", "inference", "temperature", "top_p", "metadata", "user", "prompt_cache_key", "safety_identifier")


async def read(raw: Any, deployment: Deployment, key: Key | None, *, id: str) -> tuple[Ask, ResponsesBody]:
    """What a body asks for, by way of the chat that says the same. Raises as `chat.read` does."""
    passed, rest = take_passed(raw, deployment, key)
    body = parse(ResponsesBody, rest)
    asked = {**passed, **{name: rest[name] for name in _SAME if rest.get(name) is not None}}
    asked["messages"] = _messages(body)
    if body.max_output_tokens is not None:
        asked["max_completion_tokens"] = body.max_output_tokens
    if body.reasoning and body.reasoning.effort:
        asked["reasoning_effort"] = body.reasoning.effort
    if body.text and body.text.format and body.text.format.type != "text":
        asked["response_format"] = _format(body.text.format)
    ask, _ = await chat.read(asked, deployment, key, id=id)
    return ask, body


def _messages(body: ResponsesBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for one in body.input:
        if isinstance(one, ThoughtItem):
            continue
        content: Any = one.content
        if not isinstance(content, str):
            texts = [{"type": "text", "text": part.text} for part in content]
            content = texts[0]["text"] if len(texts) == 1 else texts
        messages.append({"role": one.role, "content": content})
    return messages


def _format(given: TextFormat) -> dict[str, Any]:
    if given.type == "json_object":
        return {"type": "json_object"}
    if given.name is None or given.json_schema is None:
        raise BadRequest("text.format: a json_schema needs a name and a schema", param="text.format")
    schema = {"name": given.name, "description": given.description, "schema": given.json_schema, "strict": given.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def response(ask: Ask, body: ResponsesBody, result: Result) -> dict[str, Any]:
    cut = finish_reason(result.candidate) == "length"
    output = [_message(ask, result.text)]
    if result.candidate.reasoning:
        output.insert(0, _thinking(ask, result.candidate.reasoning))
    return {
        **_head(ask, body, "incomplete" if cut else "completed"),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": _usage(result),
        "thinkscale": report(ask, result),
    }


def _head(ask: Ask, body: ResponsesBody, status: str) -> dict[str, Any]:
    asked_format = body.text.format if body.text else None
    return {
        "id": f"resp_{ask.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": dict(ask.metadata),
        "model": ask.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": body.temperature,
        "text": {
            "format": asked_format.model_dump(by_alias=True, exclude_none=True) if asked_format else {"type": "text"}
        },
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _usage(result: Result) -> dict[str, Any]:
    told = usage(result, [result.candidate])
    return {
        "input_tokens": told["prompt_tokens"],
        "input_tokens_details": told["prompt_tokens_details"],
        "output_tokens": told["completion_tokens"],
        "output_tokens_details": told["completion_tokens_details"],
        "total_tokens": told["total_tokens"],
    }


def _message(ask: Ask, text: str, status: str = "completed") -> dict[str, Any]:
    content = [_part(text)] if status == "completed" else []
    return {"type": "message", "id": f"msg_{ask.id}", "status": status, "role": "assistant", "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _thinking(ask: Ask, text: str) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": f"rs_{ask.id}",
        "summary": [{"type": "summary_text", "text": text}] if text else [],
    }


class ResponsesWire:
    """The event stream. Progress and thinking are a reasoning item's summary; the answer is the message after it."""

    def __init__(self, ask: Ask, body: ResponsesBody) -> None:
        self._ask = ask
        self._body = body
        self._number = 0
        self._thought: list[str] | None = None
        self._thinking = False
        self._said: list[str] | None = None

    def begin(self) -> Iterator[bytes]:
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=_head(self._ask, self._body, "in_progress"))

    def progress(self, text: str) -> Iterator[bytes]:
        if not text:
            return
        if self._thought is None:
            self._thought, self._thinking = [], True
            yield self._event("response.output_item.added", output_index=0, item=_thinking(self._ask, ""))
            yield self._summary("part.added", part={"type": "summary_text", "text": ""})
        self._thought.append(text)
        yield self._summary("text.delta", delta=text)

    def event(self, event: Event) -> Iterator[bytes]:
        yield self._event("thinkscale.event", thinkscale={"event": event})

    def piece(self, sample: int, chunk: Chunk) -> Iterator[bytes]:
        if chunk.reasoning and self._said is None:
            yield from self.progress(chunk.reasoning)
        if chunk.text:
            yield from self._say(chunk.text)

    def answer(self, result: Result) -> Iterator[bytes]:
        yield from self.progress(result.candidate.reasoning)
        yield from self._say(result.text)

    def end(self, result: Result) -> Iterator[bytes]:
        if self._said is None:
            yield from self._say("")
        text = "".join(self._said or ())
        yield self._content("output_text.done", text=text, logprobs=[])
        yield self._content("content_part.done", part=_part(text))
        yield self._event("response.output_item.done", output_index=self._place, item=_message(self._ask, text))
        whole = response(self._ask, self._body, result)
        # What was streamed is what there is: the progress too.
        whole["output"] = [_thinking(self._ask, "".join(self._thought))] if self._thought else []
        whole["output"].append(_message(self._ask, text))
        yield self._event(f"response.{whole['status']}", response=whole)

    def fail(self, fault: Fault) -> Iterator[bytes]:
        failed = _head(self._ask, self._body, "failed")
        failed["error"] = {"code": fault.code or "server_error", "message": fault.message}
        yield self._event("response.failed", response=failed)

    @property
    def _place(self) -> int:
        return 0 if self._thought is None else 1

    def _say(self, text: str) -> Iterator[bytes]:
        if self._said is None:
            self._said = []
            if self._thinking:
                self._thinking = False
                thought = "".join(self._thought or ())
                yield self._summary("text.done", text=thought)
                yield self._summary("part.done", part={"type": "summary_text", "text": thought})
                yield self._event("response.output_item.done", output_index=0, item=_thinking(self._ask, thought))
            begun = _message(self._ask, "", "in_progress")
            yield self._event("response.output_item.added", output_index=self._place, item=begun)
            yield self._content("content_part.added", part=_part(""))
        if text:
            self._said.append(text)
            yield self._content("output_text.delta", delta=text, logprobs=[])

    def _summary(self, kind: str, **fields: Any) -> bytes:
        at = {"item_id": f"rs_{self._ask.id}", "output_index": 0, "summary_index": 0}
        return self._event(f"response.reasoning_summary_{kind}", **at, **fields)

    def _content(self, kind: str, **fields: Any) -> bytes:
        at = {"item_id": f"msg_{self._ask.id}", "output_index": self._place, "content_index": 0}
        return self._event(f"response.{kind}", **at, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        content: Mapping[str, Any] = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return sse(content, kind)
