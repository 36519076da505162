"""Errors as OpenAI clients expect them: the right status, one shape, and whether asking again is worth while."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from thinkscale.errors import (
    AuthenticationFailed,
    BudgetExhausted,
    MissingSample,
    ModelError,
    ModelRefused,
    ModelUnavailable,
    NoAnswer,
    NotAllowed,
    ShuttingDown,
    ThinkscaleError,
    TooManyRequests,
    UsageError,
)
from thinkscale.serve.bodies import BadRequest

_NO_RETRY = {"x-should-retry": "false"}
_CLIENTS_FAULT = (400, 413, 422)


class UnknownModel(UsageError):
    """No model of that name is served here, or none that this key may use."""


def _wait(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as it goes to the client."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    @property
    def content(self) -> bytes:
        return orjson.dumps(self.body)


INTERNAL = Fault(500, "something went wrong here; the log of the gateway says what", "server_error", "internal_error")
"""What is told of an error that nobody foresaw."""

STORE_AWAY = Fault(
    503, "the gateway's database does not answer", "server_error", "store_unavailable", headers=_wait(1.0)
)
"""What is told where keys, limits or records cannot be read."""


def told(error: ThinkscaleError) -> str:
    """What the log may say of an error: a server's own words may quote what people wrote."""
    if isinstance(error, ModelError) and error.status is not None:
        return f"{type(error).__name__}, status {error.status}"
    return str(error)


def fault_of(error: ThinkscaleError) -> Fault:
    """What a client is told of an error. Nothing the client did not cause is a 4xx but 429, and none is a 200."""
    words = str(error)
    match error:
        case BadRequest(param=param, code=code):
            return Fault(400, words, "invalid_request_error", code, param)
        case UnknownModel():
            return Fault(404, words, "invalid_request_error", "model_not_found", "model")
        case UsageError():
            return Fault(400, words, "invalid_request_error", "invalid_value")
        case NotAllowed(known=True):
            return Fault(403, words, "permission_error", "not_allowed")
        case NotAllowed():
            return Fault(401, words, "authentication_error", "invalid_api_key")
        case ShuttingDown(retry_after_s=wait_s):
            return Fault(503, words, "server_error", "shutting_down", headers=_wait(wait_s))
        case TooManyRequests(retry_after_s=wait_s):
            return Fault(429, words, "rate_limit_error", "rate_limit_exceeded", headers=_wait(wait_s))
        case BudgetExhausted():
            return _spent(words, error)
        case NoAnswer(stop_reason="budget"):
            full = error.__cause__
            return _spent(words, full if isinstance(full, BudgetExhausted) else None)
        case NoAnswer(stop_reason="deadline"):
            return Fault(504, words, "timeout_error", "deadline_exceeded", headers=_NO_RETRY)
        case NoAnswer():
            return Fault(503, words, "server_error", "interrupted", headers=_wait(1.0))
        case ModelError():
            return _upstream(words, error)
        case MissingSample():
            return Fault(422, words, "invalid_request_error", "not_recorded", headers=_NO_RETRY)
    return INTERNAL


def _spent(words: str, full: BudgetExhausted | None) -> Fault:
    """A minute's allowance comes back soon; the rest needs somebody to decide."""
    wait_s = full.retry_after_s if full else None
    if wait_s is not None and wait_s <= 60:
        return Fault(429, words, "rate_limit_error", "rate_limit_exceeded", headers=_wait(wait_s))
    return Fault(402, words, "budget_error", "budget_exhausted", headers=_NO_RETRY)


def _upstream(words: str, error: ModelError) -> Fault:
    match error:
        case AuthenticationFailed():  # the gateway's own key was refused: no fault of the client's
            return Fault(502, "the backend refused the gateway's key", "server_error", "upstream_error")
        case ModelRefused(status=status) if status in _CLIENTS_FAULT:
            return Fault(status, words, "invalid_request_error", "refused_by_model")
        case ModelUnavailable(status=429, retry_after_s=wait_s):
            return Fault(429, words, "rate_limit_error", "upstream_overloaded", headers=_wait(wait_s or 1.0))
        case ModelUnavailable(status=None, retry_after_s=wait_s):  # its words name the backend's address
            said = "no backend answers, or it broke off; the log of the gateway says more"
            return Fault(503, said, "server_error", "upstream_unavailable", headers=_wait(wait_s or 1.0))
    return Fault(502, words, "server_error", "upstream_error")
