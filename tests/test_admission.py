"""The house and the slots: nobody is starved, nothing leaks, and whoever is refused is told when to come back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.engine import Engine
from thinkscale.errors import ModelUnavailable, NoAnswer, TooManyRequests
from thinkscale.models.base import BaseModel, Capabilities, Model
from thinkscale.serve.admission import Admission, FairSlots, Ticket
from thinkscale.testing import ScriptedModel
from thinkscale.testing.model_conformance import check_model
from thinkscale.types import AnswerKind, Budget, Chunk, Params, Prompt, Request, Usage


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settled() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the house ---------------------------------------------------------------------------------------------------


async def test_a_full_house_refuses_at_once_and_has_room_again_when_one_leaves() -> None:
    house = Admission(2, per_key=2)
    async with house.enter("a"):
        async with house.enter("b"):
            with pytest.raises(TooManyRequests, match="the server has 2 requests"):
                async with house.enter("c"):
                    pass
            assert house.inside == 2
        async with house.enter("c"):
            assert house.inside == 2
    assert house.inside == 0


@pytest.mark.parametrize(("places", "per_key", "own"), [(10, None, 5), (1, None, 1), (3, None, 1), (10, 2, 2)])
async def test_one_key_leaves_room_for_others(places: int, per_key: int | None, own: int) -> None:
    house = Admission(places, per_key)

    async def fill(left: int) -> None:
        if left:
            async with house.enter("greedy"):
                await fill(left - 1)
            return
        with pytest.raises(TooManyRequests):
            async with house.enter("greedy"):
                pass
        if places > own:
            async with house.enter("modest"):
                assert house.inside == own + 1

    await fill(own)
    assert house.inside == 0


@pytest.mark.parametrize(("stay_s", "retry_after_s"), [(0.01, 1.0), (20.0, 5.0), (4000.0, 60.0)])
async def test_retry_after_is_when_the_next_should_leave(stay_s: float, retry_after_s: float) -> None:
    clock = Clock()
    house = Admission(4, per_key=4, clock=clock)
    for _ in range(3):
        async with house.enter("a"):
            clock.now += stay_s
    clock.now += 5000  # an idle hour says nothing about how long requests stay
    async with house.enter("a"), house.enter("a"), house.enter("a"), house.enter("a"):
        with pytest.raises(TooManyRequests) as refused:
            await house.enter("b").__aenter__()
    assert refused.value.retry_after_s == pytest.approx(retry_after_s)


async def test_how_long_requests_stay_is_learnt_from_the_last_ones() -> None:
    clock = Clock()
    house = Admission(1, clock=clock)
    for stay_s in (50.0, *[2.0] * 60):
        async with house.enter("a"):
            clock.now += stay_s
    async with house.enter("a"):
        with pytest.raises(TooManyRequests) as refused:
            await house.enter("b").__aenter__()
    assert refused.value.retry_after_s == pytest.approx(2.0, abs=0.2)


async def test_no_key_is_remembered_once_it_left() -> None:
    house = Admission(4)
    for visitor in range(100):
        async with house.enter(f"key {visitor}"):
            assert len(house._of_key) == 1
    assert not house._of_key


async def test_a_house_nobody_has_left_yet_asks_for_the_shortest_wait() -> None:
    house = Admission(1)
    async with house.enter("a"):
        with pytest.raises(TooManyRequests) as refused:
            await house.enter("b").__aenter__()
    assert refused.value.retry_after_s == 1.0


@pytest.mark.parametrize("ending", ["error", "cancelled"])
async def test_a_request_that_fails_or_is_cancelled_leaves(ending: str) -> None:
    house = Admission(1)

    async def visit() -> None:
        async with house.enter("a"):
            if ending == "error":
                raise RuntimeError("a fault")
            await asyncio.sleep(10)

    visitor = asyncio.create_task(visit())
    await settled()
    visitor.cancel()
    await asyncio.gather(visitor, return_exceptions=True)
    assert house.inside == 0
    async with house.enter("a"):
        pass


async def test_closing_refuses_newcomers_and_waits_for_those_inside() -> None:
    house = Admission(4)
    await asyncio.wait_for(house.drained(), 1)  # nobody is inside yet
    async with house.enter("a"):
        house.close()
        draining = asyncio.create_task(house.drained())
        await settled()
        assert not draining.done()
        with pytest.raises(TooManyRequests) as refused:
            await house.enter("b").__aenter__()
        assert refused.value.retry_after_s == 1.0
    await asyncio.wait_for(draining, 1)


@pytest.mark.parametrize(("places", "per_key"), [(0, None), (4, 0)])
def test_a_house_without_places_is_a_mistake(places: int, per_key: int | None) -> None:
    with pytest.raises(ValueError, match="nobody could enter"):
        Admission(places, per_key)


# -- the slots ---------------------------------------------------------------------------------------------------


class Backend(BaseModel):
    """Works on samples until they are told to end; `started` lists (prompt, n) in the order in which calls begin."""

    def __init__(self, max_n: int = 128) -> None:
        self.started: list[tuple[str, int]] = []
        self.running = 0
        self.most_running = 0
        self._max_n = max_n
        self._ends: dict[tuple[str, int], asyncio.Event] = {}
        self._calls = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(max_n=self._max_n)

    def end(self, name: str, index: int = 0) -> None:
        self._ends.setdefault((name, index), asyncio.Event()).set()

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        name = prompt.text or ""
        self.started.append((name, n))
        running = n
        self.running += n
        self.most_running = max(self.most_running, self.running)
        try:
            for index in range(n):
                await self._ends.setdefault((name, index), asyncio.Event()).wait()
                running -= 1
                self.running -= 1
                yield Chunk(index=index, text="x", counted_tokens=1, finish_reason="stop")
            yield Chunk(index=n - 1, usage=Usage(1, n, n, 1))
        finally:
            self.running -= running


def calling(model: Model, name: str, n: int = 1) -> asyncio.Task[int]:
    async def call() -> int:
        async with aclosing(model.generate(Prompt(text=name), Params(), n=n)) as chunks:
            return len({chunk.index async for chunk in chunks})

    return asyncio.create_task(call())


@asynccontextmanager
async def busy(slots: FairSlots, backend: Backend) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """All slots are taken by one call in the block, until the function given is awaited."""
    holder = calling(slots.gate(backend, Ticket("holder")), "holder", slots.capacity)
    await settled()
    assert slots.running == slots.capacity

    async def free() -> None:
        for index in range(slots.capacity):
            backend.end("holder", index)
        await settled()

    yield free
    await free()
    await holder


async def ending_one_by_one(backend: Backend, calls: list[asyncio.Task[int]]) -> list[str]:
    """End each call as soon as it started; the order in which they started after the holder."""
    ended = 0
    while not all(call.done() for call in calls):
        assert ended < len(backend.started), "nothing starts any more"
        name, n = backend.started[ended]
        for index in range(n):
            backend.end(name, index)
        ended += 1
        await settled()
    return [name for name, _n in backend.started[1:]]


def test_slots_without_capacity_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="capacity"):
        FairSlots(0)


async def test_a_gated_model_conforms() -> None:
    slots = FairSlots(4)

    @asynccontextmanager
    async def make() -> AsyncIterator[Model]:
        inner = ScriptedModel({"5": 1.0}, capabilities=Capabilities(max_n=8, continuation=True, logprobs=True))
        async with slots.gate(inner, Ticket("a")) as model:
            yield model

    await check_model(make)
    assert (slots.running, slots.waiting) == (0, 0)


async def test_free_slots_are_had_without_waiting() -> None:
    slots = FairSlots(8)
    taking = slots.take(Ticket("a"), 8)
    with pytest.raises(StopIteration) as done:
        taking.send(None)  # the coroutine ends in its first step: it never gave way
    assert (done.value.value.n, slots.running) == (8, 8)


async def test_samples_in_flight_never_pass_the_capacity() -> None:
    slots, backend = FairSlots(5), Backend()
    calls = [calling(slots.gate(backend, Ticket(f"key {i % 3}")), f"{i}", 1 + i % 4) for i in range(12)]
    await settled()
    assert slots.waiting > 0
    ended = 0
    while not all(call.done() for call in calls):
        name, n = backend.started[ended]
        for index in range(n):
            backend.end(name, index)
        ended += 1
        await settled()
        assert slots.running >= backend.running
    assert backend.most_running == 5
    assert (slots.running, slots.waiting) == (0, 0)


async def test_slots_come_back_as_samples_end_not_when_the_whole_batch_does() -> None:
    slots, backend = FairSlots(4), Backend()
    async with busy(slots, backend):
        light = calling(slots.gate(backend, Ticket("light")), "light")
        backend.end("holder", 0)
        await settled()
        assert backend.started == [("holder", 4), ("light", 1)]
        backend.end("light")
        await light


async def test_keys_take_turns_however_many_calls_one_has() -> None:
    slots, backend = FairSlots(1), Backend()
    async with busy(slots, backend) as free:
        greedy, modest = Ticket("greedy"), Ticket("modest")
        calls = [calling(slots.gate(backend, greedy), f"g{i}") for i in range(6)]
        await settled()
        calls += [calling(slots.gate(backend, modest), f"m{i}") for i in range(2)]
        await settled()
        await free()
        assert await ending_one_by_one(backend, calls) == ["g0", "m0", "g1", "m1", "g2", "g3", "g4", "g5"]


async def test_requests_of_a_key_take_turns_and_a_request_is_served_first_come_first() -> None:
    slots, backend = FairSlots(1), Backend()
    async with busy(slots, backend) as free:
        tickets = {name: Ticket("one key") for name in "ab"}
        calls = [calling(slots.gate(backend, tickets[name[0]]), name) for name in ("a0", "a1", "a2", "b0", "b1")]
        await settled()
        await free()
        assert await ending_one_by_one(backend, calls) == ["a0", "b0", "a1", "b1", "a2"]


async def test_turns_go_by_slots_held_not_by_calls() -> None:
    """A key of single samples gets as many slots as one of batches."""
    slots, backend = FairSlots(8), Backend()
    async with busy(slots, backend) as free:
        batches, singles = Ticket("batches"), Ticket("singles")
        calls = [calling(slots.gate(backend, batches), f"b{i}", 4) for i in range(4)]
        calls += [calling(slots.gate(backend, singles), f"s{i}") for i in range(8)]
        await settled()
        await free()
        started = backend.started[1:]
        assert sum(n for name, n in started if name[0] == "b") == 4
        assert sum(n for name, n in started if name[0] == "s") == 4
        await ending_one_by_one(backend, calls)


async def test_a_large_batch_is_not_passed_by_small_ones_for_ever() -> None:
    slots, backend = FairSlots(4), Backend()
    small = [slots.gate(backend, Ticket(f"small {i}")) for i in range(8)]
    calls = [calling(small[i], f"s{i}") for i in range(4)]
    await settled()
    big = calling(slots.gate(backend, Ticket("big")), "big", 4)
    await settled()
    # Another small one comes each time that one ends: alone with it, the batch's fair share is 4 // 6 -> 1 sample.
    for i in range(4):
        calls.append(calling(small[4 + i], f"s{4 + i}"))
        backend.end(f"s{i}")
        await settled()
    assert ("big", 1) in backend.started[:6], "it was next in turn"
    backend.end("big")
    assert await big == 1
    for i in range(4, 8):
        backend.end(f"s{i}")
    await asyncio.gather(*calls)


async def test_what_is_next_in_turn_waits_for_room() -> None:
    slots, backend = FairSlots(4), Backend()
    first = calling(slots.gate(backend, Ticket("first")), "first", 3)
    await settled()
    mine = Ticket("big")
    big = calling(slots.gate(backend, mine), "big", 4)
    await settled()
    assert backend.started == [("first", 3)], "alone in waiting, it keeps its whole batch and waits for room"
    late = calling(slots.gate(backend, Ticket("late")), "late")
    await settled()
    assert backend.started == [("first", 3), ("big", 1)], "with others behind it, it takes its share"
    for name, indices in (("first", 3), ("big", 1), ("late", 1)):
        for index in range(indices):
            backend.end(name, index)
    assert list(await asyncio.gather(first, big, late)) == [3, 1, 1]


async def test_alone_a_model_keeps_its_max_n_and_while_others_wait_it_is_a_fair_share() -> None:
    slots, backend = FairSlots(12), Backend(max_n=128)
    heavy = slots.gate(backend, Ticket("heavy"))
    assert heavy.capabilities.max_n == 128
    own = [calling(heavy, "own", 128), calling(heavy, "more", 128)]
    await settled()
    assert slots.waiting == 1
    assert heavy.capabilities.max_n == 128, "its own calls are not others"
    light = [calling(slots.gate(backend, Ticket("light")), f"l{i}") for i in range(2)]
    await settled()
    assert heavy.capabilities.max_n == 12 // 2, "half for each key"
    assert slots.gate(backend, Ticket("light")).capabilities.max_n == 12 // (2 * 3), "a third of its key's half"
    assert slots.gate(backend, Ticket("new")).capabilities.max_n == 12 // 3
    for call in (*own, *light):
        call.cancel()
    await asyncio.gather(*own, *light, return_exceptions=True)
    assert heavy.capabilities.max_n == 128


async def test_the_share_is_never_less_than_one() -> None:
    slots, backend = FairSlots(2), Backend()
    gates = [slots.gate(backend, Ticket(f"{i}")) for i in range(9)]
    calls = [calling(gate, f"c{i}", 2) for i, gate in enumerate(gates)]
    await settled()
    assert {gate.capabilities.max_n for gate in gates} == {1}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_waiter_that_is_cancelled_leaves_the_queue_and_lets_the_next_by() -> None:
    slots, backend = FairSlots(4), Backend()
    first = calling(slots.gate(backend, Ticket("first")), "first", 3)
    await settled()
    big = calling(slots.gate(backend, Ticket("big")), "big", 4)
    await settled()
    assert slots.waiting == 1
    big.cancel()
    await asyncio.gather(big, return_exceptions=True)
    assert big.cancelled()
    assert (slots.running, slots.waiting) == (3, 0)
    backend.end("light")
    assert await calling(slots.gate(backend, Ticket("light")), "light") == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (slots.running, slots.waiting) == (0, 0)


async def test_what_waited_behind_one_that_is_cancelled_is_served_at_once() -> None:
    slots, backend = FairSlots(6), Backend()
    first = calling(slots.gate(backend, Ticket("first")), "first", 5)
    await settled()
    big, light = (calling(slots.gate(backend, Ticket(name)), name, n) for name, n in (("big", 6), ("light", 1)))
    await settled()
    assert backend.started == [("first", 5)], "the next in turn has a fair share of 6 // 3, and 1 is free"
    big.cancel()
    await settled()
    assert backend.started == [("first", 5), ("light", 1)]
    for call in (first, light):
        call.cancel()
    await asyncio.gather(first, big, light, return_exceptions=True)


@pytest.mark.parametrize("kind", ["keys", "requests"])
async def test_newcomers_do_not_pass_those_who_wait_for_another_turn(kind: str) -> None:
    slots, served = FairSlots(1), Counter[str]()

    async def call(name: str, ticket: Ticket) -> None:
        taken = await slots.take(ticket, 1)
        served[name] += 1
        await asyncio.sleep(0)
        slots.give_back(taken)

    old = Ticket("old")
    calls = [asyncio.create_task(call("old", old)) for _ in range(10)]
    for number in range(60):  # two in each round, and one is served: they never run out
        ticket = Ticket(f"new {number}" if kind == "keys" else "old")
        calls.append(asyncio.create_task(call("new", ticket)))
        if number % 2:
            await asyncio.sleep(0)
    assert served["new"] >= 10
    assert served["old"] >= served["new"] // 4
    await asyncio.gather(*calls)


async def test_keys_and_requests_that_left_take_no_share() -> None:
    slots = FairSlots(12)
    for number in range(50):
        slots.give_back(await slots.take(Ticket(f"key {number % 10}"), 1))
    held = await slots.take(Ticket("a"), 12)
    for number in range(5):
        gone = asyncio.create_task(slots.take(Ticket(f"key {number}"), 1))
        await settled()
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    waiter = asyncio.create_task(slots.take(Ticket("b"), 1))
    await settled()
    assert slots.fair(held.ticket, 12) == 6
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_a_waiter_cancelled_in_the_moment_it_is_served_gives_its_slots_back() -> None:
    slots, ticket = FairSlots(1), Ticket("a")
    held = await slots.take(ticket, 1)
    waiter = asyncio.create_task(slots.take(ticket, 1))
    await settled()
    slots.give_back(held)
    assert slots.running == 1, "it was served, and has not run since"
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert waiter.cancelled()
    assert (slots.running, slots.waiting) == (0, 0)


async def test_a_waiter_served_in_the_moment_it_is_cancelled_gives_its_slots_back() -> None:
    slots, ticket = FairSlots(1), Ticket("a")
    held = await slots.take(ticket, 1)
    waiters = [asyncio.create_task(slots.take(ticket, 1)) for _ in range(2)]
    await settled()
    waiters[0].cancel()
    slots.give_back(held)
    await asyncio.gather(*waiters, return_exceptions=True)
    assert waiters[0].cancelled()
    assert (slots.running, slots.waiting) == (1, 0), "the next in line has them"
    slots.give_back(waiters[1].result())
    assert slots.running == 0


async def test_a_failing_call_gives_its_slots_back() -> None:
    slots = FairSlots(3)
    model = ScriptedModel({"7": 1.0}, failures={0: ModelUnavailable("down")}, capabilities=Capabilities(max_n=3))
    with pytest.raises(ModelUnavailable):
        await calling(slots.gate(model, Ticket("a")), "x", 3)
    assert (slots.running, slots.waiting) == (0, 0)


async def test_queue_seconds_are_those_in_which_a_request_stands_still() -> None:
    clock = Clock()
    slots, backend = FairSlots(1), Backend()
    ticket = Ticket("a", clock=clock)
    async with busy(slots, backend) as free:
        calls = [calling(slots.gate(backend, ticket), f"c{i}") for i in range(2)]
        await settled()
        clock.now += 3.0
        await free()
        clock.now += 5.0  # one runs while the other waits: it gets on
        for i in range(2):
            backend.end(f"c{i}")
        await asyncio.gather(*calls)
    assert ticket.queue_s == 3.0


async def test_a_wait_that_was_cancelled_is_counted_to_its_end() -> None:
    clock = Clock()
    slots, ticket = FairSlots(1), Ticket("a", clock=clock)
    held = await slots.take(Ticket("b"), 1)
    waiter = asyncio.create_task(slots.take(ticket, 1))
    await settled()
    clock.now += 2.0
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    clock.now += 100.0
    slots.give_back(held)
    slots.give_back(await slots.take(ticket, 1))
    assert ticket.queue_s == 2.0


async def test_a_request_that_never_waits_has_no_queue_seconds() -> None:
    slots, ticket = FairSlots(64), Ticket("a")
    async with Engine(ScriptedModel({"7": 1.0}, token_s=0.001)) as engine:
        await engine.solve(
            Request(Prompt.of("3 + 4?"), AnswerKind.NUMBER),
            strategy="self-consistency:n=8",
            through=lambda model: slots.gate(model, ticket),
        )
    assert ticket.queue_s == 0.0


# -- nothing leaks -----------------------------------------------------------------------------------------------

calls = st.tuples(
    st.sampled_from(["a", "b", "c"]),  # key
    st.integers(0, 2),  # request of that key
    st.integers(1, 9),  # samples
    st.sampled_from(["finish", "fail", "close", "cancel"]),
)


class Restless(BaseModel):
    """Yields to the loop at random and fails where told; counts the samples that it works on."""

    def __init__(self, rng: Random) -> None:
        self.running = 0
        self._rng = rng

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        left = n
        self.running += n
        try:
            for index in self._rng.sample(range(n), n):
                for _ in range(self._rng.randrange(4)):
                    await asyncio.sleep(0)
                if prompt.text == "fail" and self._rng.random() < 0.5:
                    raise ModelUnavailable("down")
                left -= 1
                self.running -= 1
                yield Chunk(index=index, finish_reason="stop")
        finally:
            self.running -= left


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 10), wanted=st.lists(calls, min_size=1, max_size=25), seed=st.integers())
def test_no_slot_leaks_and_the_capacity_holds(
    capacity: int, wanted: list[tuple[str, int, int, str]], seed: int
) -> None:
    """Calls finish, fail, are closed early and are cancelled at random moments; the rest are all served."""
    rng = Random(seed)

    async def scenario() -> None:
        slots, model = FairSlots(capacity), Restless(rng)
        tickets: dict[tuple[str, int], Ticket] = {}

        async def call(key: str, place: int, n: int, fate: str) -> None:
            gate = slots.gate(model, tickets.setdefault((key, place), Ticket(key)))
            async with aclosing(gate.generate(Prompt(text=fate), Params(), n=n)) as chunks:
                async for _chunk in chunks:
                    assert model.running <= slots.running or n > capacity
                    if fate == "close" and rng.random() < 0.5:
                        break

        running = [(asyncio.create_task(call(*one)), one[-1]) for one in wanted]
        doomed = [task for task, fate in running if fate == "cancel"]
        for _ in range(500):
            await asyncio.sleep(0)
            assert 0 <= slots.running <= capacity
            if doomed and rng.random() < 0.3:
                doomed.pop(rng.randrange(len(doomed))).cancel()
        for task in doomed:
            task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*(task for task, _ in running), return_exceptions=True), 5)
        for (_task, fate), end in zip(running, ends, strict=True):
            assert end is None or isinstance(end, ModelUnavailable | asyncio.CancelledError)
            assert end is None or fate in ("fail", "cancel")
        assert (slots.running, slots.waiting, model.running) == (0, 0, 0)
        probe = Ticket("probe")
        assert slots.fair(probe, 999) == 999, "nobody is remembered as active"
        whole = await asyncio.wait_for(slots.take(probe, capacity), 1)
        assert (whole.n, slots.running) == (capacity, capacity)

    asyncio.run(scenario())


# -- with the engine ---------------------------------------------------------------------------------------------


async def test_a_heavy_request_does_not_starve_light_ones_and_is_finished_too() -> None:
    slots = FairSlots(16)
    model = ScriptedModel({"7": 1.0}, tokens=4, token_s=0.001, capabilities=Capabilities(max_n=128, continuation=True))
    finished: list[str] = []
    async with Engine(model) as engine:

        async def solve(name: str, key: str, strategy: str) -> int:
            ticket = Ticket(key)
            result = await engine.solve(
                Request(Prompt.of(f"{name}: 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=16)),
                strategy=strategy,
                through=lambda model: slots.gate(model, ticket),
            )
            finished.append(name)
            return result.samples

        heavy = asyncio.create_task(solve("heavy", "a", "self-consistency:n=512"))
        await asyncio.sleep(0.01)
        lights = await asyncio.gather(*(solve(f"light {i}", "ab"[i % 2], "single") for i in range(20)))
        assert not heavy.done(), "the light ones did not wait for the heavy one's end"
        assert await heavy == 512
    assert lights == [1] * 20
    assert finished[-1] == "heavy"
    assert (slots.running, slots.waiting) == (0, 0)


async def test_a_deadline_that_passes_in_the_queue_leaves_it() -> None:
    slots = FairSlots(1)
    async with Engine(ScriptedModel({"7": 1.0})) as engine:
        held = await slots.take(Ticket("other"), 1)
        late = Ticket("late")
        with pytest.raises(NoAnswer) as ended:
            await engine.solve(
                Request(Prompt.of("3 + 4?"), AnswerKind.NUMBER),
                strategy="self-consistency:n=4",
                budget=Budget(deadline_s=0.05),
                through=lambda model: slots.gate(model, late),
            )
    assert ended.value.stop_reason == "deadline"
    assert (slots.waiting, slots.running) == (0, 1)
    assert 0.04 < late.queue_s < 1.0
    slots.give_back(held)
    assert slots.running == 0
