"""The server's side of the OpenAI wire format: bodies in, responses and events out. No input or output happens here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from thinkscale.testing.reply import Cut, Piece, Reply
from thinkscale.testing.stub_faults import UsageReport
from thinkscale.types import Token

DONE = b"data: [DONE]\n\n"
_END_OF_TEXT = 2  # a token's id


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request body asks for. `top_logprobs` is `None` where no log-probabilities are wanted.

    `prompt` is the prompt in tokens. `continues`: the reply goes on from a trailing assistant message. `verbose` is
    llama.cpp's wish for more about how the reply came to be.
    """

    chat: bool
    stream: bool
    include_usage: bool
    n: int
    max_tokens: int | None
    stop: tuple[str, ...]
    top_logprobs: int | None
    seed: int | None
    prompt: tuple[str, ...]
    continues: bool
    verbose: bool

    @classmethod
    def of(cls, body: Mapping[str, Any], *, chat: bool) -> Ask:
        """Raises `ValueError`, with words for the client, where the body makes no sense."""
        if not isinstance(body, dict):
            raise ValueError("the body must be an object")
        prompt = body.get("messages" if chat else "prompt")
        if not prompt:
            raise ValueError(f"{'messages' if chat else 'prompt'} is required")
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"max_tokens must be a positive integer, not {limit!r}")
        n = 1 if body.get("n") is None else body["n"]
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"n must be a positive integer, not {n!r}")
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise ValueError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
        stop = body.get("stop") or ()
        logprobs = body.get("logprobs")
        top = (body.get("top_logprobs") or 0 if logprobs else None) if chat else logprobs
        return cls(
            chat=chat,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            n=n,
            max_tokens=limit,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            top_logprobs=top,
            seed=body.get("seed"),
            prompt=tuple(prompt_words(body)),
            continues=chat and bool(prefix(body)),
            verbose=bool(body.get("verbose")),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One reply cut into tokens."""

    reply: Reply
    cut: Cut

    @property
    def pieces(self) -> Sequence[Piece]:
        return self.cut.pieces


def prompt_words(body: Mapping[str, Any]) -> list[str]:
    """A prompt's tokens as the stub counts them: words of the tools as JSON and of the contents, or of a raw prompt."""
    if "messages" not in body:
        return str(body.get("prompt") or "").split()
    texts = [*(body.get("tools") or ()), *(message.get("content") or "" for message in body["messages"])]
    return [word for text in texts for word in (text if isinstance(text, str) else orjson.dumps(text).decode()).split()]


def prefix(body: Mapping[str, Any]) -> str:
    """What the reply must go on from: a trailing assistant message, where the body says so, or a raw prompt; or ""."""
    if "messages" not in body:
        return str(body.get("prompt") or "")
    last = body["messages"][-1]
    continues = body.get("continue_final_message") and last.get("role") == "assistant"
    return str(last.get("content") or "") if continues else ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request. `head` holds its id, its creation time and the model's name.

    `owned_by` is the kind of server, which decides how it tells the stop string that ended a choice.
    """

    head: Mapping[str, Any]
    ask: Ask
    choices: Sequence[Choice]
    report: UsageReport = "right"
    owned_by: str = "stub"
    cached_tokens: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest choice; an empty one takes the time of a token too."""
        return max(1, *(len(choice.pieces) for choice in self.choices))

    def whole(self) -> bytes:
        """The response at once."""
        kind = "chat.completion" if self.ask.chat else "text_completion"
        shown = [_whole(index, self.ask, choice) | self._stopped(choice) for index, choice in enumerate(self.choices)]
        body = {**self.head, "object": kind, "choices": shown, **self._verbose(self.choices[0])}
        told = self._usage(self.choices)
        return orjson.dumps(body if told is None else {**body, "usage": told})

    def events(self, first: int, last: int) -> bytes:
        """The server-sent events of tokens [first, last) of every choice, side by side as a batch decodes them."""
        ask, written = self.ask, []
        if first == 0 and ask.chat:
            opening = {"role": "assistant", "content": ""}
            written += [self._event([_delta(index, ask, opening)]) for index in range(len(self.choices))]
        for position in range(first, last):
            for index, choice in enumerate(self.choices):
                if position < len(choice.pieces):
                    written.append(self._event([_token_delta(index, ask, choice, position)]))
                if position == max(len(choice.pieces), 1) - 1:
                    ending = _delta(index, ask, {}, finish_reason=choice.cut.finish_reason) | self._stopped(choice)
                    written.append(self._event([ending], self._verbose(choice)))
                    if self.report == "per-choice" and ask.include_usage:
                        written.append(self._event([], {"usage": self._usage([choice])}))
        return b"".join(written)

    def closing(self) -> bytes:
        """What ends a stream: the usage, where it was asked for, and the end mark."""
        wanted = self.ask.include_usage and self.report != "per-choice"
        told = self._usage(self.choices) if wanted else None
        return DONE if told is None else self._event([], {"usage": told}) + DONE

    def _event(self, choices: list[dict[str, Any]], more: Mapping[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.ask.chat else "text_completion"
        return event(orjson.dumps({**self.head, "object": kind, "choices": choices, **(more or {})}))

    def _stopped(self, choice: Choice) -> dict[str, Any]:
        """What a choice itself says of the stop string that ended it."""
        if self.owned_by == "vllm":
            return {"stop_reason": choice.cut.stop_string}
        if self.owned_by == "sglang" and choice.cut.finish_reason == "stop":
            return {"matched_stop": choice.cut.stop_string or _END_OF_TEXT}
        return {}

    def _verbose(self, choice: Choice) -> dict[str, Any]:
        """What llama.cpp says beside the choice, where it is asked to."""
        if self.owned_by != "llamacpp" or not self.ask.verbose:
            return {}
        word = choice.cut.stop_string
        kind = "word" if word else "limit" if choice.cut.finish_reason == "length" else "eos"
        return {"__verbose": {"stop_type": kind, "stopping_word": word or ""}}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """The usage object as this kind of report tells it."""
        if self.report == "missing":
            return None
        told = choices[-1:] if self.report in ("last", "per-choice") else choices
        output = sum(len(choice.pieces) for choice in told)
        reasoning = sum(bool(piece.reasoning) for choice in told for piece in choice.pieces)
        prompt, cached = len(self.ask.prompt), self.cached_tokens
        if self.report == "zero":
            prompt = cached = output = reasoning = 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }


def event(content: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + content + b"\n\n"


def error_body(message: str, kind: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


def _whole(index: int, ask: Ask, choice: Choice) -> dict[str, Any]:
    text = "".join(piece.text for piece in choice.pieces)
    tokens = _tokens(ask, choice, 0, len(choice.pieces))
    shown: dict[str, Any] = {
        "index": index,
        "logprobs": _logprobs(ask, tokens),
        "finish_reason": choice.cut.finish_reason,
    }
    if not ask.chat:
        return {**shown, "text": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    reasoning = "".join(piece.reasoning for piece in choice.pieces)
    if reasoning:
        message["reasoning_content"] = reasoning
    if choice.cut.finish_reason == "tool_calls":
        message |= {"content": text or None, "tool_calls": [dict(call) for call in choice.reply.tool_calls]}
    return {**shown, "message": message}


def _token_delta(index: int, ask: Ask, choice: Choice, position: int) -> dict[str, Any]:
    piece = choice.pieces[position]
    if piece.tool_call is not None:
        delta: dict[str, Any] = {"tool_calls": [piece.tool_call]}
    else:
        delta = {"reasoning_content": piece.reasoning} if piece.reasoning else {"content": piece.text}
    return _delta(index, ask, delta, tokens=_tokens(ask, choice, position, position + 1))


def _delta(
    index: int, ask: Ask, delta: dict[str, Any], *, tokens: Sequence[Token] = (), finish_reason: str | None = None
) -> dict[str, Any]:
    shown = {"index": index, "logprobs": _logprobs(ask, tokens), "finish_reason": finish_reason}
    return {**shown, "delta": delta} if ask.chat else {**shown, "text": delta.get("content", "")}


def _tokens(ask: Ask, choice: Choice, first: int, last: int) -> list[Token]:
    if ask.top_logprobs is None:
        return []
    return [
        choice.reply.token(position, piece.text or piece.reasoning, ask.top_logprobs)
        for position, piece in enumerate(choice.pieces[first:last], first)
    ]


def _logprobs(ask: Ask, tokens: Sequence[Token]) -> dict[str, Any] | None:
    """Each token's own log-probability and its alternatives, in the form of the route."""
    if ask.top_logprobs is None or not tokens:
        return None
    if not ask.chat:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens] if ask.top_logprobs else None,
        }
    return {"content": [_shown(token.text, token.logprob) | {"top_logprobs": _top(token)} for token in tokens]}


def _top(token: Token) -> list[dict[str, Any]]:
    return [_shown(text, logprob) for text, logprob in token.top]


def _shown(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
