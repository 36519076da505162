"""Who may come in, and whose turn it is.

Two levels. `Admission` bounds how many client requests are inside and refuses the next one at once. `FairSlots` shares
what one backend works on at a time among those inside: no key and no heavy request starves the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter

from thinkscale.errors import ShuttingDown, TooManyRequests
from thinkscale.models.base import Capabilities, Model, ModelWrapper, NeverSent
from thinkscale.types import Chunk, Params, Prompt

_SOONEST_S, _LATEST_S = 1.0, 60.0  # bounds on `retry_after_s`
_RECENT = 0.1  # weight of the last request in the mean stay


class Ticket:
    """One client request that is inside. `queue_s` is how long it stood still: calls waited for slots and none ran."""

    def __init__(self, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self.queue_s = 0.0
        self._clock = clock
        self._waiting = self._running = 0
        self._since = 0.0

    def _count(self, *, waiting: int = 0, running: int = 0) -> None:
        now = self._clock()
        if self._waiting and not self._running:
            self.queue_s += now - self._since
        self._since = now
        self._waiting += waiting
        self._running += running


class Admission:
    """At most `max_requests` client requests inside, at most `per_key` of one key (`None`: half of all, at least 1).

    A request is inside from `enter` to the end of its block, whether it runs or waits for slots.
    """

    def __init__(
        self, max_requests: int, per_key: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_requests = max_requests
        self.per_key = max(1, max_requests // 2) if per_key is None else per_key
        if min(self.max_requests, self.per_key) < 1:
            raise ValueError(f"nobody could enter: max_requests is {max_requests} and per_key {per_key}")
        self.inside = 0
        self.closed = False
        self._of_key: dict[str, int] = {}
        self._stay_s: float | None = None
        self._clock = clock
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def enter(self, key: str) -> AsyncIterator[Ticket]:
        """Be inside for the length of the block. Raises `TooManyRequests` at once where there is no place."""
        if self.closed:
            raise ShuttingDown("the server is shutting down: ask again in a moment", retry_after_s=_SOONEST_S)
        of_key = self._of_key.get(key, 0)
        self._refuse_if_full("the server", self.inside, self.max_requests)
        self._refuse_if_full("this key", of_key, self.per_key)
        self.inside += 1
        self._of_key[key] = of_key + 1
        self._empty.clear()
        came = self._clock()
        try:
            yield Ticket(key, clock=self._clock)
        finally:
            stay_s = self._clock() - came
            self._stay_s = stay_s if self._stay_s is None else self._stay_s + _RECENT * (stay_s - self._stay_s)
            self.inside -= 1
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]
            if not self.inside:
                self._empty.set()

    def _refuse_if_full(self, who: str, inside: int, most: int) -> None:
        if inside < most:
            return
        # Little's law: of `inside` requests that stay so long, one leaves every stay / inside.
        wait_s = min(_LATEST_S, max(_SOONEST_S, (self._stay_s or 0.0) / inside))
        raise TooManyRequests(
            f"{who} has {inside} requests under way, the most it may have: ask again in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )

    def close(self) -> None:
        """Let nobody in from now on; those inside go on."""
        self.closed = True

    async def drained(self) -> None:
        """Wait until nobody is inside."""
        await self._empty.wait()


class _Call:
    """One model call for `n` samples: it waits, then holds slots, and gives them back as its samples end."""

    def __init__(self, ticket: Ticket, n: int) -> None:
        self.ticket = ticket
        self.n = n
        self.held = 0
        self.served: asyncio.Future[None] | None = None  # only a call that has to wait needs one


@dataclass(slots=True, eq=False)
class _Line:
    """The calls of one request: the slots they hold, the turn at which one was last served, and those that wait."""

    held: int
    turn: int
    waiting: deque[_Call] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Key:
    """The lines of one key, and what they hold together. `waiting` is how many calls wait in them."""

    held: int
    turn: int
    waiting: int = 0
    lines: dict[Ticket, _Line] = field(default_factory=dict)


_least_served = attrgetter("held", "turn")


class FairSlots:
    """The `capacity` of one backend, in samples at a time, shared by turns.

    The next turn is of the key that holds the fewest slots, the longest unserved one first (plain round-robin where all
    calls are alike), then by the same rule of one of its requests, and first come first served within a request.
    What is next waits until it fits, and nothing passes it meanwhile, so that a large batch is not starved by small
    ones. While others wait too, a call gets no more than its request's fair share: fewer samples than it asked for,
    which `FanOut` then asks for anew.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.running = 0
        self.waiting = 0
        self._turn = 0
        self._keys: dict[str, _Key] = {}

    def gate(self, model: Model, ticket: Ticket) -> Model:
        """The model, as this request may use it: each call waits for its turn."""
        return _Gate(model, self, ticket)

    def fair(self, ticket: Ticket, n: int) -> int:
        """As many of `n` samples as one call of the request may ask for now."""
        key = self._keys.get(ticket.key)
        line = key.lines.get(ticket) if key else None
        if self.waiting == (len(line.waiting) if line else 0):
            return n  # nobody else waits
        keys = len(self._keys) + (key is None)
        requests = (len(key.lines) if key else 0) + (line is None)
        return min(n, max(1, self.capacity // (keys * requests)))

    async def take(self, ticket: Ticket, n: int) -> _Call:
        """Slots for a call of up to `n` samples; the call's `n` is how many it may have. Waits only if it must."""
        call = _Call(ticket, n)
        key = self._keys.setdefault(ticket.key, _Key(0, self._turn))
        line = key.lines.setdefault(ticket, _Line(0, self._turn))
        line.waiting.append(call)
        key.waiting += 1
        self.waiting += 1
        self._serve()
        if call.held:
            return call
        ticket._count(waiting=1)
        call.served = asyncio.get_running_loop().create_future()
        try:
            await call.served
        except asyncio.CancelledError as cancelled:
            if call.held:
                self.give_back(call)
            else:
                line.waiting.remove(call)
                self._no_longer_waits(key)
                ticket._count(waiting=-1)
                self._forget(key, call)
                self._serve()
            raise NeverSent from cancelled
        return call

    def give_back(self, call: _Call, left: int = 0) -> None:
        """Free the slots of a call of which `left` samples still run."""
        freed = call.held - min(call.held, left)
        if not freed:
            return
        key = self._keys[call.ticket.key]
        call.held -= freed
        key.lines[call.ticket].held -= freed
        key.held -= freed
        self.running -= freed
        if not call.held:
            call.ticket._count(running=-1)
            self._forget(key, call)
        self._serve()

    def _serve(self) -> None:
        """Give out what is free, turn by turn."""
        while self.waiting and self.running < self.capacity:
            key = min((key for key in self._keys.values() if key.waiting), key=_least_served)
            line = min((line for line in key.lines.values() if line.waiting), key=_least_served)
            call = line.waiting[0]
            n = self.fair(call.ticket, call.n)
            slots = min(n, self.capacity)
            if slots > self.capacity - self.running:
                return
            line.waiting.popleft()
            self._no_longer_waits(key)
            call.ticket._count(waiting=-1 if call.served else 0, running=1)
            call.n, call.held = n, slots
            line.held += slots
            key.held += slots
            self.running += slots
            self._turn += 1
            key.turn = line.turn = self._turn
            if call.served and not call.served.done():  # one that was cancelled just now gives it back
                call.served.set_result(None)

    def _no_longer_waits(self, key: _Key) -> None:
        key.waiting -= 1
        self.waiting -= 1

    def _forget(self, key: _Key, call: _Call) -> None:
        """Drop a line and a key that neither hold nor wait for anything."""
        line = key.lines[call.ticket]
        if not line.held and not line.waiting:
            del key.lines[call.ticket]
            if not key.lines:
                del self._keys[call.ticket.key]


class _Gate(ModelWrapper):
    """A model behind slots."""

    def __init__(self, model: Model, slots: FairSlots, ticket: Ticket) -> None:
        super().__init__(model)
        self._slots = slots
        self._ticket = ticket

    @property
    def capabilities(self) -> Capabilities:
        """The model's own, with `max_n` lowered to a fair share while others wait."""
        able = self._model.capabilities
        most = self._slots.fair(self._ticket, able.max_n)
        return able if most == able.max_n else replace(able, max_n=most)

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        call = await self._slots.take(self._ticket, n)
        left = set(range(call.n))
        try:
            async with aclosing(self._model.generate(prompt, params, n=call.n, first=first)) as chunks:
                async for chunk in chunks:
                    if chunk.finish_reason is not None:
                        left.discard(chunk.index)
                        self._slots.give_back(call, len(left))
                    yield chunk
        finally:
            self._slots.give_back(call)
