"""One line of samples in JSON, by our field names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import orjson
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from thinkscale.errors import UsageError
from thinkscale.options import near
from thinkscale.types import AnswerKind


def malformed(place: str, why: str) -> UsageError:
    return UsageError(
        f"{place}: not a recorded sample: {why}. A bank in JSON has one object a line, with `problem`, and `answer` or "
        "`text`; fields of other names can be mapped"
    )


def _words(value: Any) -> Any:
    """Numbers are names and answers, too."""
    return orjson.dumps(value).decode() if isinstance(value, int | float) and not isinstance(value, bool) else value


_Words = Annotated[str, BeforeValidator(_words)]
_Count = Annotated[int, Field(ge=0)]
_Score = Annotated[float, Field(ge=0, le=1)]


class Row(BaseModel):
    """A line as it may be written."""

    model_config = ConfigDict(allow_inf_nan=False)

    problem: _Words | None = None
    prompt: Any = Field(None, validation_alias=AliasChoices("prompt", "question"))
    kind: AnswerKind | None = None
    reference: _Words | None = None
    model: str | None = None
    sample: _Count | None = None
    answer: _Words | None = None
    correct: bool | None = None
    text: str | None = None
    reasoning: str = ""
    finish_reason: str = "stop"
    stop_string: str | None = None
    prompt_tokens: _Count | None = None
    output_tokens: _Count | None = Field(None, validation_alias=AliasChoices("completion_tokens", "output_tokens"))
    seconds: Annotated[float, Field(ge=0)] | None = None
    logprobs: tuple[float, ...] = Field((), validation_alias=AliasChoices("logprobs", "logprob"))
    confidences: tuple[float, ...] = ()
    top_means: tuple[float, ...] = Field((), validation_alias=AliasChoices("top5_mean_logprob", "top_mean_logprob"))
    score: _Score | None = None
    scores: dict[str, _Score | None] = Field(default_factory=dict)
    steps: dict[str, tuple[_Score | None, ...]] = Field(default_factory=dict)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None

    @model_validator(mode="after")
    def _per_token(self) -> Row:
        if not self.confidences:
            self.confidences = tuple(-mean for mean in self.top_means)
        if self.logprobs and self.confidences and len(self.logprobs) != len(self.confidences):
            raise ValueError(
                f"there are {len(self.logprobs)} tokens by their logprobs, but {len(self.confidences)} by their "
                "confidences"
            )
        return self


def _field_names() -> Iterator[str]:
    for name, described in Row.model_fields.items():
        alias = described.validation_alias
        yield from map(str, alias.choices) if isinstance(alias, AliasChoices) else [name]


_FIELDS = frozenset(_field_names())
_ABSENT = object()


class Mapped:
    """Reads lines whose fields may go by other names: `names` maps ours to theirs, which may be nested (`a.b`).

    Raises `UsageError` for a field that samples do not have.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        for ours in names:
            head, dot, rest = ours.partition(".")
            if ours not in _FIELDS and not (dot and rest and head in ("scores", "steps")):
                known = sorted(_FIELDS)
                raise UsageError(f"a sample has no field {ours!r}{near(ours, known)}; it has {', '.join(known)}")
        self._names = names
        self._found: set[str] = set()

    @property
    def missing(self) -> list[str]:
        """Their names that no line has had so far."""
        return [theirs for ours, theirs in self._names.items() if ours not in self._found]

    def read(self, content: Mapping[str, Any], place: str) -> tuple[Row, bool]:
        """The line, and whether it states an answer, be it that there is none. Raises `UsageError`."""
        given = dict(content)
        for ours, theirs in self._names.items():
            value = _at(content, theirs)
            head, _, word = ours.partition(".")
            if value is not _ABSENT:
                self._found.add(ours)
            if word:
                given[head] = {**(given.get(head) or {}), **({} if value is _ABSENT else {word: value})}
            elif value is _ABSENT:
                given.pop(ours, None)
            else:
                given[ours] = value
        if "answer" not in given and given.get("text") is None:
            raise malformed(place, "it lacks both 'answer' and 'text'")
        known = {key: value for key, value in given.items() if value is not None or key == "score"}
        try:
            return Row.model_validate(known), "answer" in given
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise malformed(place, f"{where}: {first['msg']}" if where else first["msg"]) from None


def _at(row: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by the names on the way to it, joined by dots."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value
