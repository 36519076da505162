"""Ways in which a stub server fails, one request at a time.

`after_tokens` counts the tokens of each choice that are produced, and where the reply streams also sent, before the
fault strikes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from thinkscale.types import derive_seed

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

_SLOW_S = 1.0
_RETRY_AFTER_S = 0.1
_LATEST = 6  # tokens


def drawn_faults(chances: Mapping[str, float], seed: int = 0) -> Callable[[int, Mapping[str, Any]], Fault | None]:
    """A script that strikes each request with these chances: {"429": 0.02, "drop": 0.01}; the same for the same seed.

    A name is a status of at least 400 (429 and 503 ask to come again after 0.1 s), `drop` (half of them before the
    headers), `malformed` or `error` (after up to 6 tokens), or `slow` (1 s to the first token). Raises `ValueError`.
    """
    for name, chance in chances.items():
        if not (name in _DRAWN or (name.isdecimal() and 400 <= int(name) <= 599)):
            raise ValueError(f"{name!r} is neither a status of at least 400 nor one of {', '.join(_DRAWN)}")
        if not 0 <= chance <= 1:
            raise ValueError(f"the chance of {name} is {chance}, which is not between 0 and 1")
    if sum(chances.values()) > 1:
        raise ValueError("the chances of all faults add up to more than 1")

    def script(number: int, body: Mapping[str, Any]) -> Fault | None:
        rng = Random(derive_seed(seed, ("fault", number)))
        left = rng.random()
        for name, chance in chances.items():
            left -= chance
            if left < 0:
                return _DRAWN[name](rng) if name in _DRAWN else _status(int(name))
        return None

    return script


def _status(status: int) -> Status:
    return Status(status, retry_after_s=_RETRY_AFTER_S if status in (429, 503) else None)


_DRAWN: dict[str, Callable[[Random], Fault]] = {
    "drop": lambda rng: Drop(after_tokens=rng.choice((None, rng.randint(0, _LATEST)))),
    "malformed": lambda rng: Malformed(after_tokens=rng.randint(0, _LATEST)),
    "error": lambda rng: ErrorEvent(after_tokens=rng.randint(0, _LATEST)),
    "slow": lambda rng: Slow(_SLOW_S),
}
