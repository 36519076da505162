"""What clients send, checked: every documented parameter is honoured or refused, none is dropped.

The models also make the OpenAPI document. Messages and tools are checked, then passed on as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from thinkscale.errors import UsageError
from thinkscale.types import Budget

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Name = Annotated[str, Field(min_length=1, max_length=256)]


def _only_false(value: Any) -> Any:
    if value is not False:
        raise ValueError("only false is possible here")
    return value


Off = Annotated[Literal[False], BeforeValidator(_only_false)]
"""A switch that cannot be on. `Literal` alone would take 0 for it."""

Words = Annotated[str, Field(max_length=512, pattern=r"^[!-~]([ -~]*[!-~])?$")]
"""A strategy or a verifier in the words of the command line: printable, as it goes into headers and logs."""

_MOST_MESSAGES = 4096

_B = TypeVar("_B", bound=BaseModel)


class BadRequest(UsageError):
    """A body that is wrong. `param` is where, `code` what kind of wrong, both as OpenAI names them."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Strict(BaseModel):
    """A body that says all it may hold."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Open(BaseModel):
    """A part that servers extend freely: what it must have is checked, the rest passes."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class BudgetBody(Strict):
    """Hard limits on one request; those left out are the policy's. `tokens` counts prompt and output of every call."""

    tokens: int | None = Field(None, gt=0, lt=2**53)
    output_tokens: int | None = Field(None, gt=0, lt=2**53)
    usd: float | None = Field(None, gt=0, lt=1e9)
    seconds: float | None = Field(None, gt=0, lt=1e6)
    calls: int | None = Field(None, gt=0, lt=2**53)

    @property
    def budget(self) -> Budget:
        return Budget(self.output_tokens, self.tokens, self.usd, self.seconds, self.calls)


class Inference(Strict):
    """How to spend inference compute on this request. `trace` asks for the run's events in the stream."""

    policy: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    strategy: Words | None = None
    budget: BudgetBody | None = None
    verifier: Words | None = None
    kind: Literal["auto", "number", "choice", "text", "expression", "json", "code"] | None = None
    instruct: bool | None = None
    trace: bool = False


class Function(Open):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Tool(Open):
    type: Literal["function"]
    function: Function


class Part(Open):
    type: Annotated[str, Field(min_length=1)]


class ChatMessage(Open):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class ResponseFormat(Open):
    type: Literal["text", "json_object", "json_schema"]


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Off = False


class _Sampling(Strict):
    """What chats and completions have in common."""

    model: Name
    inference: Inference | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


class ChatBody(_Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MOST_MESSAGES)]
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Off | None = None


class CompletionBody(_Sampling):
    """`POST /v1/completions`: raw text in, text out."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Off | None = None
    best_of: int | None = Field(None, ge=1, le=1)


class TextPart(Strict):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputMessage(Strict):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    id: str | None = None
    status: str | None = None


class ThoughtItem(Open):
    """A reasoning item of an earlier response, sent back with the conversation: models are not shown it again."""

    type: Literal["reasoning"]


class Reasoning(Strict):
    effort: Effort | None = None
    summary: Literal["auto"] | None = None


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    format: TextFormat | None = None


class ResponsesBody(Strict):
    """`POST /v1/responses`. Nothing is stored: conversations are sent whole, in `input`."""

    model: Name
    input: str | Annotated[list[InputMessage | ThoughtItem], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    inference: Inference | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    store: Off | None = None
    background: Off | None = None
    truncation: Literal["disabled"] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    service_tier: Literal["auto", "default"] | None = None


class FeedbackBody(Strict):
    """`POST /v1/feedback`: whether an answer was right, or how good it was."""

    trace_id: Annotated[str, Field(min_length=1, max_length=128)]
    correct: bool | None = None
    score: float | None = Field(None, ge=0, le=1)


_NOT_HERE = {
    "audio": "answers are text here",
    "functions": "write tools instead",
    "function_call": "write tool_choice instead",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "this gateway does not search the web",
    "verbosity": "it is sent on only where the model's configuration lists it under `pass`",
    "suffix": "text cannot be inserted, only continued",
    "store": "completions are not stored here; leave it out or send false",
    "service_tier": "there is one tier: auto, or default",
    "echo": "the prompt is not repeated; leave it out",
    "best_of": 'write "inference": {"strategy": "best-of-n:n=8"} instead',
    "modalities": "answers are text here",
    "previous_response_id": "nothing is stored here: send the whole conversation as input",
    "conversation": "nothing is stored here: send the whole conversation as input",
    "background": "nothing is stored here: stream instead",
    "truncation": "what does not fit the model's context is refused",
    "include": "there is nothing more to include",
}


def parse(kind: type[_B], raw: Any) -> _B:
    """A body from its JSON value. Raises `BadRequest` that says which parameter is wrong, and why."""
    if not isinstance(raw, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _explained(error, kind) from None


def load_json(content: bytes) -> Any:
    """The JSON value of a body. Raises `BadRequest`."""
    try:
        return orjson.loads(content)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _explained(error: ValidationError, kind: type[BaseModel]) -> BadRequest:
    """The first fault, told for people."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    unknown = next((fault for fault in faults if fault["type"] == "extra_forbidden"), None)
    fault = unknown or _nearest([fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]])
    place = [part for part in fault["loc"] if not _is_branch(part)]
    param = _path(place)
    top = str(place[0]) if place else ""
    if top in _NOT_HERE:
        return BadRequest(f"{top} is not supported: {_NOT_HERE[top]}", param=param, code="unsupported_parameter")
    if unknown is not None:
        known = ", ".join(sorted(kind.model_fields))
        tail = f"; known: {known}" if len(place) == 1 else ""
        return BadRequest(f"unknown parameter: {param}{tail}", param=param, code="unknown_parameter")
    if fault["type"] == "missing":
        return BadRequest(f"missing required parameter: {param}", param=param, code="missing_required_parameter")
    return BadRequest(f"{param}: {fault['msg'][:1].lower()}{fault['msg'][1:]}", param=param)


def _nearest(faults: list[ErrorDetails]) -> ErrorDetails:
    """Of what every branch of a union says, the word of the branch that was meant: it got furthest."""
    return max(faults, key=lambda fault: (len(fault["loc"]), not fault["type"].endswith("_type")))


def _is_branch(part: int | str) -> bool:
    """Whether a piece of the place names a branch of a union rather than a field."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool", "dict", "none"))


def _path(place: list[int | str]) -> str:
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def check_messages(messages: list[Mapping[str, Any]]) -> None:
    """What the types cannot say. Raises `BadRequest`."""
    for place, message in enumerate(messages):
        at = f"messages[{place}]"
        content = message.get("content")
        if content is None and not (message["role"] == "assistant" and message.get("tool_calls")):
            raise BadRequest(f"{at}.content: a {message['role']} message needs content", param=f"{at}.content")
        if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise BadRequest(f"{at}.tool_call_id: a tool message names the call it answers", param=f"{at}.tool_call_id")
        if isinstance(content, list):
            for index, part in enumerate(content):
                _check_part(part, f"{at}.content[{index}]")


_PARTS = ("text", "refusal", "image_url", "input_audio")
"""Parts of a message that are passed on: they carry what they are, or name a picture. Others make a backend fetch."""


def _check_part(part: Mapping[str, Any], at: str) -> None:
    if part["type"] not in _PARTS:
        known = ", ".join(_PARTS)
        raise BadRequest(f"{at}.type: {part['type'][:40]!r} is not one of {known}", param=f"{at}.type")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise BadRequest(f"{at}.text: a text part needs text", param=f"{at}.text")
    if part["type"] == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else None
        # The backend fetches what is named here: nothing on its own disk or network by plain names.
        if not isinstance(url, str) or not url.startswith(("https://", "data:image/")):
            raise BadRequest(f"{at}.image_url.url: an https: or data:image/ address is needed", param=f"{at}.image_url")
