"""Saying which answers are sure, and being wrong among those no more often than was promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Self

from thinkscale.types import Action, Request, Seen

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Promise:
    """Of the answers given as confident at most a share `alpha` is wrong: true with probability 1 - `delta` over the
    draw of the calibration problems, for requests that are drawn like them, under budgets that hold `cap` samples.

    `horizon` is over how many requests that share is counted, `None` for the long run. Of `problems` calibration
    problems `confident` got a confident answer, of which `wrong` were wrong. `needs` is `None` where the promise is
    given; else `problems` were too few, and at the rates found so many would do: 0 where no number would.
    """

    alpha: float
    delta: float
    horizon: int | None
    problems: int
    confident: int
    wrong: int
    needs: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 < self.delta < 1:
            raise ValueError(f"alpha and delta must lie between 0 and 1, not {self.alpha} and {self.delta}")
        if not 0 <= self.wrong <= self.confident <= self.problems:
            raise ValueError(f"{self.wrong} wrong of {self.confident} of {self.problems} cannot be")

    @property
    def given(self) -> bool:
        return self.needs is None

    def __str__(self) -> str:
        found = f"{self.wrong} of {self.confident} confident answers were wrong on {self.problems} problems"
        if self.given:
            over = "in the long run" if self.horizon is None else f"over the next {self.horizon} requests"
            return f"at most {self.alpha:.1%} of confident answers wrong {over}, at {1 - self.delta:.1%}: {found}"
        if self.needs:
            return f"cannot tell: needs at least {self.needs} problems at the rates found ({found})"
        return f"cannot tell: at the rates found no number of problems would do ({found})"


@dataclass(frozen=True)
class RiskPolicy:
    """Stop as confident once the leader's share of the samples, with one more imagined against it, reaches `threshold`;
    as unsure once it cannot within `cap` samples.

    first / (drawn + 1) >= k / (k + 1) holds after k samples that all agree, or after more that nearly do. Each batch is
    the smallest that could reach the threshold, so that batches decide exactly as single samples would, in fewer
    rounds. Without a threshold nothing can be promised: `cap` samples are drawn and their vote is unsure.
    `confident` and `unsure` are the shares of right answers found among either, `None` where there were none.
    """

    cap: int
    threshold: float | None
    promise: Promise
    confident: float | None = None
    unsure: float | None = None

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ValueError(f"cap must be at least 1, not {self.cap}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, not {self.threshold}")
        if (self.threshold is not None) != self.promise.given:
            raise ValueError("there is a threshold exactly where the promise is given")

    def controller(self, request: Request) -> RiskPolicy:
        return self

    @property
    def features(self) -> frozenset[str]:
        return frozenset({"drawn", "first", "affordable"})

    async def act(self, seen: Seen) -> Action:
        needed = self.needed(seen)
        if needed == 0:
            return Action("stop", reason="confident", confidence=self.confident)
        left = self.cap - seen.drawn
        if seen.affordable is not None:
            left = min(left, seen.affordable)
        if needed is not None and needed <= left:
            return Action("draw", needed)
        if not seen.drawn:
            return Action("draw", max(1, left))
        return Action("stop", reason="unsure", confidence=self.unsure)

    def needed(self, seen: Seen) -> int | None:
        """How many more votes for the leader would make it sure, 0 where it is; `None` where nothing would."""
        if self.threshold is None:
            return None
        short = self.threshold * (seen.drawn + 1) - seen.first
        return max(0, ceil(short / (1 - self.threshold) - _ROUNDING))

    def body(self) -> dict[str, Any]:
        return asdict(self) | {"says": str(self.promise)}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        fields = dict(body)
        fields.pop("says")
        return cls(**fields | {"promise": Promise(**fields["promise"])})
