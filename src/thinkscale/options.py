"""Dataclasses from what people type: `countdown:numbers=4,shots=3`, `self-consistency:n=16,weighted=true`.

`what` names the thing in messages: `task countdown`, `strategy esc`. Option types: bool, int, float, str, enumerations,
literals, any class with a `parse` of its own, and JSON for the rest.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from difflib import get_close_matches
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from thinkscale.errors import UsageError

_T = TypeVar("_T")


def arguments(what: str, text: str, separator: str) -> dict[str, str]:
    """`key=value` pairs. Percent escapes are decoded, so that a value may hold the separator."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(separator)):
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"{what}: {pair!r} is not key=value")
        if key in found:
            raise UsageError(f"{what}: {key} is given twice")
        found[key] = unquote(value.strip())
    return found


def build(kind: type[_T], what: str, given: Mapping[str, str], **fixed: Any) -> _T:
    """Make a dataclass from `fixed` fields and options as text. `UsageError` names a wrong one and lists the right."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(cast(Any, kind)) if field.name not in fixed}
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            has = _described(known.values()) or "none"
            raise UsageError(f"{what} has no option {key!r}{near(key, known)}; it has {has}")
        values[key] = read_option(f"{what}: {key}", hints[key], text)
    try:
        return kind(**fixed, **values)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


def read_option(key: str, hint: Any, text: str) -> Any:
    """The value that an option's text stands for, by its type. Raises `UsageError`."""
    try:
        return _read(hint, text)
    except ValueError as error:
        raise UsageError(f"{key}={text} is not valid: {error}") from None


def near(word: str, known: typing.Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _read(hint: Any, text: str) -> Any:
    if typing.get_origin(hint) in (UnionType, typing.Union):  # X | None, in both spellings
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if hasattr(hint, "parse"):
        return hint.parse(text)
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = tuple(member.value for member in hint)
    if choices:
        chosen = next((choice for choice in choices if str(choice) == text), None)
        if chosen is None:
            raise ValueError(f"expected one of {', '.join(map(str, choices))}")
        return hint(chosen) if isinstance(hint, type) else chosen
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"expected {'a whole number' if hint is int else 'a number'}") from None
    if hint is str:
        return text
    return _read_json(text)


def _read_json(text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError('expected JSON, such as ["a", "b"]') from None


def describe(kind: type[Any]) -> str:
    """A dataclass's options with their defaults, as one would write them."""
    return _described(dataclasses.fields(kind))


def _described(fields: typing.Iterable[dataclasses.Field[Any]]) -> str:
    return ",".join(f"{field.name}={_written(field.default)}" for field in fields)


def _written(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
