"""What a strategy is, and how one is named: `self-consistency:n=16,weighted=true`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from thinkscale.errors import UsageError
from thinkscale.session import Session
from thinkscale.types import Selection


class Strategy(Protocol):
    """Spends compute through the session's verbs and decides. Concrete ones are frozen dataclasses: their fields are
    the parameters, so they print, compare and serialize by value.
    """

    async def __call__(self, session: Session) -> Selection: ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """Batch sizes of an adaptive rule, `4` or `1/3/12/48`; the last one repeats.

    Small batches waste fewer samples, large ones less time and energy: a server decodes a batch together.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError("batch sizes are positive whole numbers such as 4 or 1/3/12/48")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        return cls(tuple(int(part) for part in text.split("/")))

    def batches(self, total: int) -> Iterator[int]:
        """Batch sizes that add up to `total`."""
        step = 0
        while total > 0:
            size = min(self.sizes[min(step, len(self.sizes) - 1)], total)
            yield size
            total -= size
            step += 1

    def __str__(self) -> str:
        return "/".join(map(str, self.sizes))


def at_least(field: str, value: float, least: float) -> None:
    """Refuse a parameter below its smallest sensible value."""
    if value < least:
        raise ValueError(f"{field} must be at least {least}, not {value}")


def build(kind: type[Any], name: str, arguments: dict[str, str]) -> Any:
    """Make a strategy from its textual parameters; `UsageError` names the wrong one and lists the right ones."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, text in arguments.items():
        if key not in known:
            raise UsageError(f"strategy {name} has no parameter {key!r}; it has {describe(kind) or 'none'}")
        try:
            values[key] = _read(hints[key], text)
        except ValueError as error:
            raise UsageError(f"strategy {name}: {key}={text!r} is not valid ({error})") from None
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"strategy {name}: {error}") from None


def describe(kind: type[Any]) -> str:
    """The parameters with their defaults, as one would write them."""
    return ",".join(f"{field.name}={_write(field.default)}" for field in dataclasses.fields(kind))


def _read(hint: Any, text: str) -> Any:
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError("expected true or false")
        return text == "true"
    if hint is Schedule:
        return Schedule.parse(text)
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return text
    return hint(text)


def _write(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
