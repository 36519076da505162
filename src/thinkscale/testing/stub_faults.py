"""Ways in which a stub server fails, one request at a time.

`after_tokens` counts the tokens of each choice that are produced, and where the reply streams also sent, before the
fault strikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UsageReport = Literal["right", "missing", "zero", "last", "per-choice"]
"""How usage is told: truly; not at all; as zeros; as the last choice's alone; or, streaming, once per choice (and else
as the last choice's alone), which is what llama.cpp does."""


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status at once, `retry_after_s` in a Retry-After header; `body` replaces the usual error."""

    status: int
    retry_after_s: float | None = None
    message: str = "a fault was injected"
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection: before the headers (`None`), or after them and so many tokens."""

    after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """Say nothing more and keep the connection open: before the headers (`None`), or after so many tokens."""

    after_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Malformed:
    """Send JSON that breaks off: as the body, or as an event after so many tokens. Then close properly."""

    after_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """Send an error object where the next event was due (unstreamed: as the body, with status 200)."""

    after_tokens: int = 0
    message: str = "the engine died"


@dataclass(frozen=True, slots=True)
class Slow:
    """Take this long to the first token."""

    latency_s: float


@dataclass(frozen=True, slots=True)
class Misreport:
    """Tell the usage in this way."""

    usage: UsageReport


Fault = Status | Drop | Silence | Malformed | ErrorEvent | Slow | Misreport
