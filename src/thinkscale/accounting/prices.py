"""What a token costs. Unknown is `None`, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from thinkscale.errors import UsageError


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens of prompt (`input_mtok`) and of output (`output_mtok`)."""

    input_mtok: float
    output_mtok: float

    def cost_usd(self, prompt_tokens: int, output_tokens: int) -> float:
        return (prompt_tokens * self.input_mtok + output_tokens * self.output_mtok) / 1e6

    @classmethod
    def parse(cls, text: str) -> Price:
        """Read `IN/OUT`, dollars per million tokens, for example `0.15/0.60`."""
        try:
            given, produced = (float(part) for part in text.split("/"))
        except ValueError:
            raise UsageError(
                f"price {text!r} is not IN/OUT in dollars per million tokens, for example 0.15/0.60"
            ) from None
        if not (isfinite(given) and isfinite(produced) and min(given, produced) >= 0):
            raise UsageError(f"price {text!r} is not two amounts of at least 0")
        return cls(given, produced)


def price_of(model: str, api_url: str) -> Price | None:
    """The list price of a model where `api_url` serves it, from the offline genai-prices table; `None` if unlisted.

    Tiered prices are taken at their base tier, that of short prompts. Cached prompt tokens are charged at the full
    rate: an upper bound.
    """
    from genai_prices import Usage, calc_price

    few = 1000
    try:
        given = calc_price(Usage(input_tokens=few, output_tokens=0), model, provider_api_url=api_url)
        produced = calc_price(Usage(input_tokens=0, output_tokens=few), model, provider_api_url=api_url)
    except LookupError:
        return None
    per_million = 1_000_000 // few
    return Price(float(given.input_price * per_million), float(produced.output_price * per_million))
