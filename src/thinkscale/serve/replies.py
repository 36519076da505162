"""From a result to a reply: what the APIs have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thinkscale.serve.bodies import StreamOptions
from thinkscale.serve.faults import Fault
from thinkscale.serve.gateway import Ask
from thinkscale.serve.stream import sse
from thinkscale.types import Candidate, Result

_DONE = b"data: [DONE]\n\n"


def shown(ask: Ask, result: Result) -> list[Candidate]:
    """The samples that the client gets, one per choice."""
    return list(result.candidates) if ask.n > 1 and result.candidates else [result.candidate]


def index_of(ask: Ask, candidate: Candidate) -> int:
    """A sample's place among the choices."""
    return candidate.path[0] if ask.n > 1 else 0


def head(ask: Ask, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{ask.id}", "object": kind, "created": int(time.time()), "model": ask.model}


def finish_reason(candidate: Candidate) -> str:
    """In the API's words: what a budget, a deadline or a strategy cut ends like one that grew too long."""
    reason = candidate.finish_reason
    return reason if reason in ("stop", "length", "tool_calls", "content_filter") else "length"


def endings(ask: Ask, result: Result) -> list[tuple[int, str]]:
    """How each choice of a stream ends, by its index; one that the budget left no room for is a cut one."""
    ended = {index_of(ask, one): finish_reason(one) for one in shown(ask, result)}
    return [(index, ended.get(index, "length")) for index in range(ask.n)]


def usage(result: Result, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Everything that was charged. What the client does not see (other samples, judges, thinking) is reasoning."""
    spent = result.usage
    seen = sum(one.prefix_tokens + one.output_tokens - one.reasoning_tokens for one in candidates)
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": max(0, spent.output_tokens - seen)},
    }


def report(ask: Ask, result: Result) -> dict[str, Any]:
    """The `thinkscale` object: how the answer was found, and its bill."""
    return {
        "trace_id": result.trace_id,
        "policy": ask.route.policy,
        "strategy": ask.route.strategy,
        "stop_reason": result.stop_reason,
        "confidence": result.confidence,
        "answer": result.answer,
        "samples": result.samples,
        "calls": result.usage.calls,
        "cached": result.usage.calls == 0,
        "cost_usd": result.usage.cost_usd,
        "seconds": round(result.seconds, 4),
        "counted": result.usage.counted,
        "cached_tokens": result.usage.cached_tokens,
        "usage_by_purpose": {
            purpose: {
                "prompt_tokens": part.prompt_tokens,
                "output_tokens": part.output_tokens,
                "calls": part.calls,
                "cost_usd": part.cost_usd,
            }
            for purpose, part in result.usage_by_purpose.items()
        },
    }


class ChunkWire(ABC):
    """What a stream of chunks has whatever is in them: a head for each, the bill at the end, `[DONE]`."""

    def __init__(self, ask: Ask, head: Mapping[str, Any], options: StreamOptions | None) -> None:
        self._ask = ask
        self._head = head
        self._usage = bool(options and options.include_usage)

    def end(self, result: Result) -> Iterator[bytes]:
        for index, reason in endings(self._ask, result):
            more = {"thinkscale": report(self._ask, result)} if index == self._ask.n - 1 else {}
            yield self._chunk([self._ending(index, reason)], **more)
        if self._usage:
            yield self._chunk([], usage=usage(result, shown(self._ask, result)))
        yield _DONE

    def fail(self, fault: Fault) -> Iterator[bytes]:
        yield sse(fault.body)
        yield _DONE

    @abstractmethod
    def _ending(self, index: int, reason: str) -> dict[str, Any]:
        """The choice that says how one ended."""

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        if self._usage and "usage" not in more:
            more["usage"] = None
        return sse({**self._head, "choices": choices, **more})
