"""The errors thinkscale raises, as one small tree.

    ThinkscaleError
    ├── UsageError            the caller's words are wrong: a strategy, budget, model reference, file, parameter
    ├── NotAllowed            the caller's key is missing, unknown, revoked, or may not do this
    ├── TooManyRequests       a rate limit or a full queue: asking again after `retry_after_s` may work
    │   └── ShuttingDown      the server takes no more requests
    ├── BudgetExhausted       a limit would be passed and nothing outstanding could free it
    ├── NoAnswer              the run ended (budget, deadline, interruption) before any candidate existed
    ├── MissingSample         a replayed branch was never recorded
    └── ModelError            a model call failed; `status` is the upstream's HTTP status when there was one
        ├── ModelUnavailable  unreachable, timed out, overloaded, or its circuit breaker is open
        └── ModelRefused      the server rejected the request itself (4xx): retrying would not help
            └── AuthenticationFailed

Every message says what was wrong, where, and what to do about it.
"""

from __future__ import annotations

from thinkscale.types import Usage


class ThinkscaleError(Exception):
    """Base of every error raised on purpose."""


class UsageError(ThinkscaleError):
    """The caller asked for something that does not exist or is malformed."""


class NotAllowed(ThinkscaleError):
    """The caller may not do this. `known` is whether the caller's key is good: it lacks the right then (403 in HTTP),
    else it was not recognised (401).
    """

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known


class TooManyRequests(ThinkscaleError):
    """A rate limit is reached or a queue is full. `retry_after_s` is when asking again may work."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ShuttingDown(TooManyRequests):
    """Nobody is let in any more: another replica, or this one started anew, may answer soon."""


class BudgetExhausted(ThinkscaleError):
    """A reservation does not fit the budget and no outstanding one could make room.

    `limit` is the name of the binding budget field, for example `max_total_tokens`. `retry_after_s` is when the budget
    is renewed, `None` for one that is not.
    """

    def __init__(self, limit: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_s = retry_after_s


class NoAnswer(ThinkscaleError):
    """The run ended before any candidate existed; `stop_reason` says what ended it, `usage` what it cost."""

    def __init__(self, stop_reason: str, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.stop_reason = stop_reason
        self.usage = usage or Usage()


class MissingSample(ThinkscaleError):
    """The bank holds no such sample, and replay never invents one."""


class ModelError(ThinkscaleError):
    """A model call failed. `status` is the upstream's HTTP status, `None` if no response came."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ModelUnavailable(ModelError):
    """The server could not be reached, broke off, timed out or is overloaded. A later try may work.

    `retry_after_s` is what the server asked for, `None` if it did not say. `sent` is false where the request
    surely never reached the server, so that it cannot have cost anything.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None, sent: bool = True
    ) -> None:
        super().__init__(message, status=status)
        self.retry_after_s = retry_after_s
        self.sent = sent


class ModelRefused(ModelError):
    """The server understood and said no; the same request would fail again."""

    @property
    def about_the_request(self) -> bool:
        """Whether this request alone is at fault (too long, say), and not the key, the address or the account."""
        return self.status in (400, 413, 422)


class AuthenticationFailed(ModelRefused):
    """The key is missing, wrong, or not allowed to do this (401, 403)."""
