"""What the values of the configuration may be, as types that pydantic checks and reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, Strict

from thinkscale import strategies
from thinkscale.accounting.prices import Price
from thinkscale.errors import UsageError
from thinkscale.models.references import Bank, Reference, parse_reference
from thinkscale.serve.bodies import ChatBody, CompletionBody, ResponsesBody
from thinkscale.types import Budget
from thinkscale.words import parse_budget, parse_kind

_A = TypeVar("_A")
_B = TypeVar("_B")

STANDARD_FIELDS = {
    *ChatBody.model_fields,
    *CompletionBody.model_fields,
    *ResponsesBody.model_fields,
    "audio",
    "function_call",
    "functions",
    "suffix",
}
"""Request fields with a fixed meaning, or one that the gateway cannot keep: none can be passed on as it is."""


def budget(value: object) -> Budget:
    """`"calls=16,seconds=60"`, or a table of the same. Raises `ValueError`."""
    text = ",".join(f"{name}={limit}" for name, limit in value.items()) if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip(" ,"):
        raise ValueError(f'expected limits such as "calls=16,seconds=60", not {value!r}')
    return _told(parse_budget, text)


def _price(text: str) -> str:
    _told(Price.parse, text)
    return text


def _auto(value: object) -> bool | None:
    if value != "auto" and not isinstance(value, bool):
        raise ValueError(f'expected true, false or "auto", not {value!r}')
    return value if isinstance(value, bool) else None


def servable(text: str) -> Reference:
    """What a model reference means. Raises `UsageError` for one that cannot answer new questions."""
    reference = parse_reference(text)
    if isinstance(reference, Bank):
        raise UsageError(f"{text} holds samples of recorded questions only: it cannot answer others")
    return reference


def _reference(text: str) -> str:
    _told(servable, text)
    return text.strip()


def _strategy(text: str) -> str:
    _told(strategies.parse, text)
    return text.strip()


def _kind(text: str) -> str:
    _told(lambda kind: parse_kind(kind, ""), text)
    return text


def _database(url: str) -> str:
    from thinkscale.store.database import Database

    _told(Database, url)
    return url


def _name(text: str) -> str:
    if not text or any(letter.isspace() for letter in text):
        raise ValueError(f"a name must not be empty or hold spaces: {text!r}")
    return text


def _own_field(name: str) -> str:
    if name in STANDARD_FIELDS:
        raise ValueError(f"{name} is a standard request field: only others can be passed on as they are")
    return name


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("expected at least one")
    return values


def _variable(name: str) -> str:
    if not os.environ.get(name, "").strip():
        raise ValueError(f"the environment variable {name!r} is not set")
    return name


def _told(read: Callable[[_A], _B], value: _A) -> _B:
    """A wrong word's explanation in the form that pydantic collects."""
    try:
        return read(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


Limits = Annotated[Budget, PlainValidator(budget)]
Cost = Annotated[str, AfterValidator(_price)]
Auto = Annotated[bool | None, PlainValidator(_auto)]
Strategy = Annotated[str, AfterValidator(_strategy)]
Kind = Annotated[str, AfterValidator(_kind)]
DatabaseUrl = Annotated[str, AfterValidator(_database)]
Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
Names = tuple[Name, ...]
SomeNames = Annotated[Names, AfterValidator(_some)]
References = Annotated[tuple[Annotated[str, AfterValidator(_reference)], ...], AfterValidator(_some)]
OwnFields = tuple[Annotated[Name, AfterValidator(_own_field)], ...]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Whole = Annotated[int, Strict(), Field(ge=0)]
Port = Annotated[int, Strict(), Field(ge=0, le=65535)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
