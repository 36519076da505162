"""What a run cost and why it stopped, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from thinkscale.types import Usage

_REASONS = {
    "complete": "all samples drawn",
    "consensus": "the vote was decided",
    "verified": "the verifier passed it",
    "converged": "a revision changed nothing",
    "budget": "the budget is spent",
    "deadline": "the deadline passed",
    "interrupted": "interrupted",
    "failed": "further samples failed",
}


def why(stop_reason: str) -> str:
    """A stop reason in plain words; one that is not known stands for itself."""
    return _REASONS.get(stop_reason, stop_reason)


def summary(confidence: float | None, stop_reason: str, samples: int, seconds: float) -> str:
    """The line above the bill."""
    sure = "unknown" if confidence is None else f"{confidence:.0%}"
    return f"confidence {sure} · {why(stop_reason)} · {samples} samples · {seconds:.1f} s"


COLUMNS = ("spent on", "calls", "prompt", "output", "cached", "tokens", "dollars")


def lines(by_purpose: Mapping[str, Usage], total: Usage) -> list[tuple[str, ...]]:
    """The bill's lines under `COLUMNS`, the total last; unknown is a dash."""
    return [
        (
            purpose, f"{usage.calls:,}", f"{usage.prompt_tokens:,}", f"{usage.output_tokens:,}",
            "–" if usage.cached_tokens is None else f"{usage.cached_tokens:,}", f"{usage.total_tokens:,}",
            "–" if usage.cost_usd is None else f"{usage.cost_usd:.6f}",
        )
        for purpose, usage in [*by_purpose.items(), ("in all", total)]
    ]  # fmt: skip


def table(by_purpose: Mapping[str, Usage], total: Usage) -> Table:
    bill = Table(box=None, pad_edge=False, header_style="dim")
    for heading in COLUMNS:
        bill.add_column(heading, justify="left" if heading == COLUMNS[0] else "right")
    for line in lines(by_purpose, total):
        bill.add_row(*line)
    return bill
