"""Words for budgets and kinds of answers, as people type them, put into files and send in requests."""

from __future__ import annotations

import re

from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind, Budget

_LIMITS = {
    "tokens": "max_total_tokens",
    "output-tokens": "max_output_tokens",
    "usd": "max_cost_usd",
    "seconds": "deadline_s",
    "calls": "max_calls",
}
_WHOLE = {"tokens", "output-tokens", "calls"}


def parse_budget(text: str | None) -> Budget:
    """Read `tokens=4000,usd=0.01,seconds=20`. `tokens` counts prompt and output of every call, verifiers included."""
    limits: dict[str, float | int] = {}
    if text is not None and not text.strip(" ,"):
        raise UsageError("the budget is empty: leave --budget out for none, or name a limit such as tokens=4000")
    for part in filter(None, (text or "").split(",")):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or name not in _LIMITS:
            raise UsageError(
                f"budget {part.strip()!r} is not one of {', '.join(f'{limit}=NUMBER' for limit in _LIMITS)}"
            )
        if _LIMITS[name] in limits:
            raise UsageError(f"budget: {name} is given twice")
        try:
            limits[_LIMITS[name]] = int(value) if name in _WHOLE else float(value)
        except ValueError:
            kind = "a whole number" if name in _WHOLE else "a number"
            raise UsageError(f"budget {name}={value!r}: expected {kind}") from None
    try:
        return Budget(**limits)  # type: ignore[arg-type]  # whole limits are ints by construction
    except ValueError as error:
        raise UsageError(f"budget {text!r}: {error}") from None


def budget_words(budget: Budget) -> str:
    """The words that `parse_budget` reads a budget from; empty for one without limits."""
    limits = ((word, getattr(budget, field)) for word, field in _LIMITS.items())
    return ",".join(f"{word}={limit:.15g}" for word, limit in limits if limit is not None)


_ASKS_FOR_A_NUMBER = re.compile(
    r"\bhow (?:many|much|old|long|far|tall|often)\b|\b(?:calculate|compute|evaluate|solve for)\b|"
    r"\d\s*[-+*/×÷^]\s*\d|\b(?:sum|product|total|difference|percentage|probability) of\b",
    re.IGNORECASE,
)


def parse_kind(text: str, question: str) -> AnswerKind:
    """A named kind, or `auto`: a number where the question asks for one in so many words, else a text."""
    if text == "auto":
        return AnswerKind.NUMBER if _ASKS_FOR_A_NUMBER.search(question) else AnswerKind.TEXT
    try:
        return AnswerKind(text)
    except ValueError:
        raise UsageError(f"unknown kind {text!r} (known: auto, {', '.join(AnswerKind)})") from None
