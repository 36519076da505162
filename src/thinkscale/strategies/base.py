"""What a strategy is, and how one is named: `self-consistency:n=16,weighted=true`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

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
