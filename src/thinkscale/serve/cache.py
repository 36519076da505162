"""The same question, answered once: an opt-in cache of finished results, in this process."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson

from thinkscale.models.base import prompt_key
from thinkscale.types import Budget, Request

T = TypeVar("T")

_CUT_SHORT = frozenset({"budget", "deadline", "interrupted", "failed"})


def cache_key(
    request: Request,
    *,
    model: str,
    strategy: str,
    budget: Budget,
    verifier: str | None = None,
    n: int = 1,
    key_id: str | None = None,
) -> str:
    """A name for all that an answer depends on; the request's `id` is not part of it.

    `n` is how many answers the client wants. `key_id` keeps the answers of one key from the others; `None` shares them.
    """
    everything = {
        "prompt": prompt_key(request.prompt),
        "kind": request.kind,
        "params": request.params,
        "seed": request.seed,
        "model": model,
        "strategy": strategy,
        "budget": budget,
        "verifier": verifier,
        "n": n,
        "key": key_id,
    }
    return hashlib.sha256(orjson.dumps(everything, option=orjson.OPT_SORT_KEYS, default=dict)).hexdigest()


@dataclass(frozen=True, slots=True)
class Computed(Generic[T]):
    """A result as it was worked out: `size` is in bytes, `stop_reason` as in `Result`."""

    value: T
    size: int
    stop_reason: str

    @property
    def complete(self) -> bool:
        return self.stop_reason not in _CUT_SHORT


class _Flight(Generic[T]):
    """One computation under way. When it has `landed` without a result, others lead on if it was `abandoned`."""

    def __init__(self) -> None:
        self.landed = asyncio.Event()
        self.result: Computed[T] | None = None
        self.abandoned = False


class ResponseCache(Generic[T]):
    """Keeps the `entries` results used last, for `max_age_s` each and `max_bytes` in all.

    Only complete results are kept: what a budget, a deadline or an interruption cut short may be better next time.
    """

    def __init__(
        self,
        entries: int,
        max_age_s: float,
        *,
        max_bytes: int = 64 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bytes = 0
        self._entries = entries
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Computed[T], float]] = OrderedDict()
        self._flights: dict[str, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str, compute: Callable[[], Awaitable[Computed[T]]]) -> tuple[T, bool]:
        """The result under this key and whether it was there, or on its way, already; else what `compute` gives.

        Equal requests at the same time compute once. If the one that computes is cancelled, the next takes over; if it
        fails or is cut short, that is its own affair and each of the others computes for itself.
        """
        while True:
            known = self._find(key)
            if known is not None:
                return known.value, True
            flight = self._flights.get(key)
            if flight is None:
                return (await self._lead(key, compute)).value, False
            await flight.landed.wait()
            if flight.result is not None:
                return flight.result.value, True
            if not flight.abandoned:
                return self._keep(key, await compute()).value, False

    async def _lead(self, key: str, compute: Callable[[], Awaitable[Computed[T]]]) -> Computed[T]:
        flight = self._flights[key] = _Flight()
        try:
            computed = self._keep(key, await compute())
            flight.result = computed if computed.complete else None
        except asyncio.CancelledError:
            flight.abandoned = True
            raise
        finally:
            del self._flights[key]
            flight.landed.set()
        return computed

    def _find(self, key: str) -> Computed[T] | None:
        computed, best_before = self._kept.get(key, (None, 0.0))
        if computed is None or self._clock() >= best_before:
            return None
        self._kept.move_to_end(key)
        return computed

    def _keep(self, key: str, computed: Computed[T]) -> Computed[T]:
        if computed.complete and computed.size <= self._max_bytes:
            if key in self._kept:
                self._drop(key)
            self._kept[key] = (computed, self._clock() + self._max_age_s)
            self.bytes += computed.size
            while len(self._kept) > self._entries or self.bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))
        return computed

    def _drop(self, key: str) -> None:
        computed, _ = self._kept.pop(key)
        self.bytes -= computed.size
