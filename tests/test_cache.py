"""The response cache: everything that matters is in the key, only whole results are kept, nothing is computed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.serve.cache import Computed, ResponseCache, cache_key
from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request

REQUEST = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER)
PLAN: dict[str, Any] = {"model": "small", "strategy": "self-consistency:n=8", "budget": Budget(max_calls=8)}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Counts how often it is done; each time takes until `go` is set, then ends as `ends` says (the last for ever)."""

    def __init__(self, *ends: str | Exception, size: int = 10) -> None:
        self.done = 0
        self.begun = 0
        self.go = asyncio.Event()
        self._ends = ends or ("complete",)
        self._size = size

    async def __call__(self) -> Computed[str]:
        end = self._ends[min(self.begun, len(self._ends) - 1)]
        self.begun += 1
        number = self.begun
        await self.go.wait()
        if isinstance(end, Exception):
            raise end
        self.done += 1
        return Computed(f"result {number}", self._size, end)


def giving(value: str, size: int = 10, stop_reason: str = "complete") -> Callable[[], Awaitable[Computed[str]]]:
    async def compute() -> Computed[str]:
        return Computed(value, size, stop_reason)

    return compute


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# -- the key -----------------------------------------------------------------------------------------------------

chat = REQUEST.prompt
variants: list[tuple[Request, dict[str, Any]]] = [
    (REQUEST, {}),
    (replace(REQUEST, kind=AnswerKind.TEXT), {}),
    (replace(REQUEST, seed=1), {}),
    *[
        (replace(REQUEST, params=params), {})
        for params in (
            Params(temperature=0.0),
            Params(temperature=None),
            Params(top_p=0.9),
            Params(max_tokens=7),
            Params(stop=("END",)),
            Params(seed=3),
            Params(top_logprobs=0),
            Params(extra={"response_format": {"type": "json_object"}}),
            Params(extra={"response_format": {"type": "text"}}),
        )
    ],
    *[
        (replace(REQUEST, prompt=prompt), {})
        for prompt in (
            Prompt.of("What is 3 + 5?"),
            Prompt.of("What is 3 + 4?", system="Be brief."),
            Prompt(text="What is 3 + 4?"),
            replace(chat, prefix="It is"),
            replace(chat, tools=({"type": "function", "function": {"name": "add"}},)),
            replace(chat, tools=({"type": "function", "function": {"name": "sum"}},)),
            replace(chat, tools=({"type": "function", "function": {"name": "add"}},), tool_choice="required"),
            Prompt(messages=({"role": "user", "content": [{"type": "text", "text": "What is 3 + 4?"}]},)),
            Prompt(messages=({"role": "user", "content": "What is 3 + 4?", "name": "ann"},)),
        )
    ],
    (REQUEST, {"model": "large"}),
    (REQUEST, {"strategy": "self-consistency:n=9"}),
    (REQUEST, {"budget": Budget(max_calls=9)}),
    (REQUEST, {"budget": Budget(max_calls=8, deadline_s=8)}),
    (REQUEST, {"verifier": "arithmetic"}),
    (REQUEST, {"n": 2}),
    (REQUEST, {"key_id": "ann"}),
    (REQUEST, {"key_id": "bob"}),
]


def test_whatever_matters_gives_another_key() -> None:
    assert len({cache_key(request, **(PLAN | plan)) for request, plan in variants}) == len(variants)


def test_what_does_not_matter_gives_the_same_key() -> None:
    key = cache_key(REQUEST, **PLAN)
    assert len(key) == 64
    assert cache_key(replace(REQUEST, id="another"), **PLAN) == key
    reordered = Prompt(messages=({"content": "What is 3 + 4?", "role": "user"},))
    assert cache_key(replace(REQUEST, prompt=reordered), **PLAN) == key
    frozen = Prompt(messages=(MappingProxyType({"role": "user", "content": "What is 3 + 4?"}),))
    assert cache_key(replace(REQUEST, prompt=frozen), **PLAN) == key


# -- keeping -----------------------------------------------------------------------------------------------------


async def test_a_result_is_computed_once_and_found_again() -> None:
    cache = ResponseCache[str](10, 60)
    assert await cache.get("a", giving("first")) == ("first", False)
    assert await cache.get("a", giving("second")) == ("first", True)
    assert await cache.get("b", giving("other")) == ("other", False)


@pytest.mark.parametrize("stop_reason", ["budget", "deadline", "interrupted", "failed"])
async def test_what_was_cut_short_is_not_kept(stop_reason: str) -> None:
    cache = ResponseCache[str](10, 60)
    assert await cache.get("a", giving("poor", stop_reason=stop_reason)) == ("poor", False)
    assert len(cache) == 0
    assert await cache.get("a", giving("good", stop_reason="consensus")) == ("good", False)
    assert await cache.get("a", giving("later")) == ("good", True)


async def test_a_result_grows_old_from_when_it_was_made_not_from_when_it_was_used() -> None:
    clock = Clock()
    cache = ResponseCache[str](10, 60, clock=clock)
    await cache.get("a", giving("old"))
    for _ in range(2):
        clock.now += 29.9
        assert await cache.get("a", giving("new")) == ("old", True)
    clock.now += 0.2
    assert await cache.get("a", giving("new")) == ("new", False)
    assert cache.bytes == 10


async def test_the_least_recently_used_goes_first() -> None:
    cache = ResponseCache[str](2, 60)
    await cache.get("a", giving("a"))
    await cache.get("b", giving("b"))
    await cache.get("a", giving("unused"))
    await cache.get("c", giving("c"))
    assert (await cache.get("a", giving("again")), len(cache)) == (("a", True), 2)
    assert await cache.get("b", giving("again")) == ("again", False)


async def test_the_bytes_are_bounded_too() -> None:
    cache = ResponseCache[str](100, 60, max_bytes=100)
    await cache.get("a", giving("a", size=60))
    await cache.get("b", giving("b", size=41))
    assert (len(cache), cache.bytes) == (1, 41)
    await cache.get("huge", giving("huge", size=101))
    assert (len(cache), cache.bytes) == (1, 41), "one that never fits throws nothing out"
    assert await cache.get("huge", giving("again", size=100)) == ("again", False)
    assert (len(cache), cache.bytes) == (1, 100)


async def test_a_result_of_none_is_a_result() -> None:
    cache = ResponseCache[None](10, 60)

    async def compute() -> Computed[None]:
        return Computed(None, 0, "complete")

    assert await cache.get("a", compute) == (None, False)
    assert await cache.get("a", compute) == (None, True)


# -- at the same time --------------------------------------------------------------------------------------------


async def test_equal_requests_at_the_same_time_compute_once() -> None:
    cache, work = ResponseCache[str](10, 60), Work()
    asking = [asyncio.create_task(cache.get("a", work)) for _ in range(5)]
    await settled()
    assert work.begun == 1
    work.go.set()
    assert list(await asyncio.gather(*asking)) == [("result 1", False)] + [("result 1", True)] * 4


async def test_different_requests_do_not_wait_for_each_other() -> None:
    cache, work = ResponseCache[str](10, 60), Work()
    slow = asyncio.create_task(cache.get("a", work))
    await settled()
    assert await cache.get("b", giving("quick")) == ("quick", False)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_result_too_large_to_keep_is_shared_with_those_who_wait_for_it() -> None:
    cache, work = ResponseCache[str](10, 60, max_bytes=5), Work(size=6)
    asking = [asyncio.create_task(cache.get("a", work)) for _ in range(3)]
    await settled()
    work.go.set()
    assert [value for value, _hit in await asyncio.gather(*asking)] == ["result 1"] * 3
    assert len(cache) == 0


async def test_a_cancelled_leader_hands_over_to_the_next() -> None:
    cache, work = ResponseCache[str](10, 60), Work()
    asking = [asyncio.create_task(cache.get("a", work)) for _ in range(4)]
    await settled()
    asking[0].cancel()
    await settled()
    assert work.begun == 2, "one took over, and only one"
    asking[2].cancel()  # one that waits may leave: the others never notice
    await settled()
    work.go.set()
    ends = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert isinstance(ends[2], asyncio.CancelledError)
    assert (ends[1], ends[3]) == (("result 2", False), ("result 2", True))
    assert (work.begun, work.done) == (2, 1)


@pytest.mark.parametrize("end", [RuntimeError("my own budget is spent"), "deadline"])
async def test_a_leader_that_fails_does_not_fail_the_others(end: str | Exception) -> None:
    cache, work = ResponseCache[str](10, 60), Work(end, "complete")
    asking = [asyncio.create_task(cache.get("a", work)) for _ in range(3)]
    await settled()
    work.go.set()
    first, *others = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(first, RuntimeError) or first == ("result 1", False)
    assert others == [("result 2", False), ("result 3", False)], "side by side, not one after the other"
    assert (await cache.get("a", work))[1], "and what they made is kept"
    assert (len(cache), cache.bytes) == (1, 10), "once"


@settings(max_examples=100, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["complete", "budget", "error"]), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    seed=st.integers(),
)
def test_under_random_failure_and_cancellation_all_are_answered_and_nothing_stays_behind(
    asked: list[tuple[str, str, bool]], seed: int
) -> None:
    rng = Random(seed)

    async def scenario() -> None:
        cache = ResponseCache[str](2, 60, max_bytes=50)

        async def ask(key: str, end: str) -> tuple[str, bool]:
            async def compute() -> Computed[str]:
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                if end == "error":
                    raise RuntimeError("down")
                return Computed(key, rng.randrange(60), end)

            return await cache.get(key, compute)

        tasks = [(asyncio.create_task(ask(key, end)), key, end, doomed) for key, end, doomed in asked]
        leaving = [task for task, _, _, doomed in tasks if doomed]
        rng.shuffle(leaving)
        for task in leaving:
            await asyncio.sleep(0)
            task.cancel()
            assert len(cache) <= 2
            assert 0 <= cache.bytes <= 50
        for task, key, end, doomed in tasks:
            try:
                value, _hit = await asyncio.wait_for(asyncio.shield(task), 5)
                assert value == key
            except RuntimeError:
                assert end == "error"
            except asyncio.CancelledError:
                assert doomed
        assert not cache._flights

    asyncio.run(scenario())
