"""A range of whole numbers as a task's option."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from `low` to `high`, both included; written `2..4`, or `3` for 3 alone."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"{self.low}..{self.high} is empty: write the smaller number first")

    @classmethod
    def parse(cls, text: str) -> Span:
        low, dots, high = text.partition("..")
        try:
            return cls(int(low), int(high if dots else low))
        except ValueError as error:
            raise ValueError(str(error) if "empty" in str(error) else "expected 3 or 2..4") from None

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"
