"""Being a good client: how often to retry, when to stop asking, how much to ask at once."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from thinkscale.errors import ModelUnavailable

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass
class RetryPolicy:
    """Jittered exponential backoff under a retry budget.

    Retries are paid from a budget that successes refill (`earned_per_success` each, up to `burst`), so that a failing
    server sees little more than its normal load instead of `attempts` times it. A server's Retry-After is honoured up
    to `longest_wait_s`; asked to wait longer, the call fails and says so.
    """

    attempts: int = 4
    base_s: float = 0.25
    longest_wait_s: float = 30.0
    burst: float = 32.0
    earned_per_success: float = 0.2
    _budget: float = field(init=False)
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def __post_init__(self) -> None:
        self._budget = self.burst

    def succeeded(self) -> None:
        self._budget = min(self.burst, self._budget + self.earned_per_success)

    def wait_s(self, attempt: int, error: ModelUnavailable) -> float | None:
        """How long to wait before trying again, `None` to give up. `attempt` counts from 0."""
        if attempt + 1 >= self.attempts or self._budget < 1:
            return None
        if error.status is not None and error.status not in RETRIED_STATUSES:
            return None
        asked = error.retry_after_s or 0.0
        if asked > self.longest_wait_s:
            return None
        self._budget -= 1
        ceiling = min(self.longest_wait_s, self.base_s * 2.0**attempt)
        return max(asked, 0.0) + self._random.uniform(0.5, 1.0) * ceiling


@dataclass
class CircuitBreaker:
    """Fail at once while a server is known to be down.

    `threshold` failures in a row open it for `open_s`; then one call may probe, and its outcome closes or reopens it.
    """

    threshold: int = 8
    open_s: float = 5.0
    _failures: int = 0
    _opened_at: float | None = None
    _probing: bool = False

    def admit(self, name: str) -> None:
        """Raise `ModelUnavailable` while open."""
        if self._opened_at is None:
            return
        left = self._opened_at + self.open_s - time.monotonic()
        if left > 0 or self._probing:
            raise ModelUnavailable(
                f"{name} failed {self._failures} times in a row; not asking again for {max(left, 0):.1f} s",
                retry_after_s=max(left, 0.0),
                sent=False,
            )
        self._probing = True

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._probing = 0, None, False

    def failed(self) -> None:
        self._failures += 1
        self._probing = False
        if self._failures >= self.threshold:
            self._opened_at = time.monotonic()

    def release(self) -> None:
        """The call is over, whatever its outcome: another may probe."""
        self._probing = False
