"""Several backends as one: the next is asked where the preferred one is down, and nothing is spent twice unseen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import Any

import pytest

from thinkscale.engine import Engine
from thinkscale.errors import AuthenticationFailed, ModelError, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities, Model
from thinkscale.models.fallback import Fallback
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.model_conformance import check_model
from thinkscale.testing.stub_faults import Drop, Status
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request, Result

QUESTION = Prompt.of("What is 3 + 4?")
DEAD = "http://127.0.0.1:9/v1"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Backend(ScriptedModel):
    """Says its name. It raises `trouble` in place of a reply, and `closed` when it is opened."""

    def __init__(
        self, name: str, trouble: Exception | None = None, closed: Exception | None = None, **able: Any
    ) -> None:
        self.trouble = trouble
        self.closed = closed
        self.opened = 0
        self.is_closed = False
        super().__init__(self._say, name=name, capabilities=Capabilities(**able))

    def _say(self, _prompt: Prompt, _index: int, _rng: Random) -> Reply | Exception:
        return self.trouble or Reply(self.name)

    async def open(self) -> None:
        self.opened += 1
        await asyncio.sleep(0)
        if self.closed:
            raise self.closed

    async def aclose(self) -> None:
        self.is_closed = True


async def say(model: Model) -> str:
    async with aclosing(model.generate(QUESTION, Params())) as chunks:
        return "".join([chunk.text async for chunk in chunks])


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def refused_connection() -> ModelUnavailable:
    return ModelUnavailable("nobody listens", sent=False)


# -- who is asked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_conforms_where_the_first_backend_serves(stream: bool) -> None:
    async with StubServer(token_s=0.001, max_n=8) as server, StubServer(max_n=4) as other:

        @asynccontextmanager
        async def make() -> AsyncIterator[Model]:
            urls = (server.base_url, other.base_url)
            async with Fallback([OpenAIModel(url, stream=stream) for url in urls], "both") as model:
                yield model

        await check_model(make, in_flight=lambda: server.counters.in_flight)
        assert other.counters.requests == 0


async def test_conforms_where_the_first_backend_is_down() -> None:
    async with StubServer(token_s=0.001, max_n=8, owned_by="vllm") as server:

        @asynccontextmanager
        async def make() -> AsyncIterator[Model]:
            async with Fallback([OpenAIModel(DEAD, "stub"), OpenAIModel(server.base_url)], "both") as model:
                yield model

        await check_model(make, in_flight=lambda: server.counters.in_flight)


@pytest.mark.parametrize(
    "trouble",
    [
        refused_connection(),
        ModelUnavailable("overloaded", status=503),
        ModelUnavailable("too many", status=429, retry_after_s=2.0),
        AuthenticationFailed("wrong key", status=401),
    ],
)
async def test_the_next_is_asked_where_the_first_is_unavailable(trouble: ModelError) -> None:
    failures: list[tuple[str, int | None]] = []
    first, second, third = Backend("first", trouble), Backend("second"), Backend("third")
    async with Fallback(
        [first, second, third], "all", on_failure=lambda name, status: failures.append((name, status))
    ) as model:
        assert await say(model) == "second"
    assert failures == [("first", trouble.status)]
    assert third.requests == 0


async def test_what_is_refused_is_not_asked_elsewhere() -> None:
    first, second = Backend("first", ModelRefused("bad request", status=400)), Backend("second")
    async with Fallback([first, second], "both") as model:
        with pytest.raises(ModelRefused, match="bad request"):
            await say(model)
    assert second.requests == 0


@pytest.mark.parametrize(
    "broken",
    [
        ModelUnavailable("cut off"),
        ModelUnavailable("cut off", status=502, retry_after_s=1.0),
        AuthenticationFailed("cut off", status=401),
    ],
)
async def test_an_error_after_the_first_chunk_is_raised_as_it_is(broken: ModelError) -> None:
    first, second = ScriptedModel(lambda *_: Reply("some words", error=broken), name="first"), Backend("second")
    async with Fallback([first, second], "both") as model:
        with pytest.raises(ModelError, match="cut off"):
            await say(model)
        assert second.requests == 0
        assert await say(model) == "second", "it is asked anew, of another"


async def test_a_request_lost_on_the_way_may_have_cost_something_so_its_sender_decides() -> None:
    clock = Clock()
    first, second = Backend("first", ModelUnavailable("no answer came")), Backend("second")
    async with Fallback([first, second], "both", rest_s=5.0, clock=clock) as model:
        with pytest.raises(ModelUnavailable, match="no answer came"):
            await say(model)
        assert second.requests == 0
        first.trouble = None
        assert await say(model) == "second", "the first one rests"
        clock.now += 5.0
        assert await say(model) == "first"


@pytest.mark.parametrize(
    ("trouble", "rest_s"),
    [
        (ModelUnavailable("busy", status=429, retry_after_s=7.0), 7.0),
        (ModelUnavailable("gone for the day", status=503, retry_after_s=80000.0), 60.0),
        (AuthenticationFailed("wrong key", status=401), 5.0),
        (refused_connection(), 5.0),
    ],
)
async def test_a_backend_rests_as_long_as_it_asked_for_or_a_few_seconds(trouble: ModelError, rest_s: float) -> None:
    clock = Clock()
    first, second = Backend("first", trouble), Backend("second")
    async with Fallback([first, second], "both", rest_s=5.0, clock=clock) as model:
        assert [await say(model) for _ in range(3)] == ["second"] * 3
        assert first.requests == 1
        first.trouble = None
        clock.now += rest_s - 0.1
        assert await say(model) == "second"
        clock.now += 0.1
        assert await say(model) == "first"


async def test_one_overloaded_answer_does_not_send_everything_elsewhere() -> None:
    first, second = Backend("first", ModelUnavailable("busy", status=503)), Backend("second")
    async with Fallback([first, second], "both") as model:
        assert await say(model) == "second"
        first.trouble = None
        assert await say(model) == "first"


async def test_a_resting_backend_is_better_than_none() -> None:
    first, second = Backend("first", refused_connection()), Backend("second")
    async with Fallback([first, second], "both") as model:
        assert await say(model) == "second"
        first.trouble, second.trouble = None, refused_connection()
        assert await say(model) == "first"


@pytest.mark.parametrize(
    ("troubles", "told"),
    [
        ([ModelUnavailable("first", status=503), ModelUnavailable("second", status=500)], "second"),
        ([AuthenticationFailed("first", status=401), AuthenticationFailed("second", status=401)], "first"),
        # A wrong key would end the run at once, though the other backend is only busy.
        ([ModelUnavailable("first", status=503), AuthenticationFailed("second", status=401)], "first"),
        ([AuthenticationFailed("first", status=401), ModelUnavailable("second", status=503)], "second"),
    ],
)
async def test_where_all_fail_the_last_error_that_may_pass_is_told(troubles: Sequence[ModelError], told: str) -> None:
    async with Fallback([Backend(str(at), error) for at, error in enumerate(troubles)], "both") as model:
        with pytest.raises(ModelError, match=told):
            await say(model)


# -- opening -------------------------------------------------------------------------------------------------------


async def test_a_start_needs_one_backend_that_answers() -> None:
    first, second = Backend("first", closed=refused_connection()), Backend("second")
    async with Fallback([first, second], "both") as model:
        assert await say(model) == "second"
        assert first.requests == 0
    assert first.is_closed
    assert second.is_closed


async def test_a_start_fails_where_none_answers() -> None:
    models = [Backend(name, closed=ModelUnavailable(f"{name} is down")) for name in ("first", "second")]
    with pytest.raises(ModelUnavailable, match="first is down"):
        await Fallback(models, "both").open()
    assert all(model.is_closed for model in models)


async def test_a_start_fails_where_a_backend_is_set_up_wrongly() -> None:
    models = [Backend("first"), Backend("second", closed=UsageError("it serves two models: pick one"))]
    with pytest.raises(UsageError, match="pick one"):
        await Fallback(models, "both").open()
    assert all(model.is_closed for model in models)


async def test_nobody_waits_for_a_backend_that_comes_back_while_another_answers() -> None:
    clock = Clock()
    first, second = Backend("first", closed=refused_connection()), Backend("second")
    async with Fallback([first, second], "both", rest_s=5.0, clock=clock) as model:
        for _ in range(10):
            assert await say(model) == "second"
        assert first.opened == 1, "it was tried at the start, and rests"
        first.closed = None
        clock.now += 5.0
        assert await say(model) == "second", "the call that tries again does not wait"
        await settled()
        assert first.opened == 2
        assert await say(model) == "first"


async def test_it_is_tried_again_once_in_a_while_however_many_ask() -> None:
    clock = Clock()
    first, second = Backend("first", closed=refused_connection()), Backend("second")
    async with Fallback([first, second], "both", rest_s=5.0, clock=clock) as model:
        for _ in range(10):
            clock.now += 1.0
            assert await asyncio.gather(*(say(model) for _ in range(5))) == ["second"] * 5
            await settled()
        assert first.opened == 1 + 2


async def test_calls_wait_for_a_backend_that_is_being_opened_where_there_is_no_other() -> None:
    clock = Clock()
    first, second = Backend("first"), Backend("second", closed=refused_connection())
    async with Fallback([first, second], "both", rest_s=5.0, clock=clock) as model:
        first.trouble = refused_connection()
        with pytest.raises(ModelUnavailable, match="nobody listens"):
            await say(model)
        second.closed = None
        clock.now += 5.0
        assert await asyncio.gather(*(say(model) for _ in range(4))) == ["second"] * 4
        assert second.opened == 2


async def test_closing_leaves_no_attempt_to_open_behind() -> None:
    class Hanging(Backend):
        async def open(self) -> None:
            await super().open()
            await asyncio.sleep(60)

    clock = Clock()
    first = Hanging("first", closed=refused_connection())
    before = asyncio.all_tasks()
    async with Fallback([first, Backend("second")], "both", clock=clock) as model:
        first.closed = None
        clock.now += 60
        assert await say(model) == "second"
        assert asyncio.all_tasks() - before
    assert asyncio.all_tasks() == before


async def test_it_can_be_closed_and_opened_again() -> None:
    first, second = Backend("first"), Backend("second")
    model = Fallback([first, second], "both")
    for times in (1, 2):
        await model.open()
        await model.open()
        assert (first.opened, second.opened) == (times, times)
        assert await say(model) == "first"
        await model.aclose()
        await model.aclose()


async def test_where_none_can_be_opened_a_call_says_so_and_costs_nothing() -> None:
    first = Backend("first", closed=ModelUnavailable("first is down"))
    model = Fallback([first], "alone")
    with pytest.raises(ModelUnavailable, match=r"no backend of alone can be reached: first is down") as failed:
        await say(model)
    assert not failed.value.sent
    await model.aclose()


async def test_a_backend_found_to_be_set_up_wrongly_later_is_unavailable() -> None:
    clock = Clock()
    first = Backend("first", closed=refused_connection())
    async with Fallback([first, Backend("second")], "both", clock=clock) as model:
        first.closed = UsageError("it serves two models: pick one")
        clock.now += 60
        for _ in range(3):
            assert await say(model) == "second"
            await settled()
        assert first.opened == 2


def test_no_backends_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Fallback([], "none")


# -- what it can do ------------------------------------------------------------------------------------------------


async def test_capabilities_are_those_that_all_open_backends_share() -> None:
    first = Backend("first", max_n=8, continuation=True, logprobs=True, context=None, tells_stop=True)
    second = Backend("second", max_n=4, continuation=True, logprobs=False, streams=False, context=4096)
    third = Backend("third", max_n=16, continuation=False, context=2048, closed=refused_connection())
    async with Fallback([first, second, third], "all") as model:
        assert model.capabilities == Capabilities(4, continuation=True, streams=False, context=4096)
    async with Fallback([first, third], "two") as model:
        assert model.capabilities == first.capabilities


async def test_a_prompt_is_counted_by_the_backend_that_counts_most() -> None:
    class Counting(Backend):
        def __init__(self, name: str, tokens: int, **more: Any) -> None:
            super().__init__(name, **more)
            self.tokens = tokens

        async def count_prompt_tokens(self, prompt: Prompt) -> int:
            return self.tokens

    clock = Clock()
    few, many = Counting("few", 10), Counting("many", 14)
    down = Counting("down", 99, closed=refused_connection())
    async with Fallback([few, many, down], "all", clock=clock) as model:
        assert await model.count_prompt_tokens(QUESTION) == 14
        many.trouble = refused_connection()
        few.trouble = ModelUnavailable("busy", status=503)
        with pytest.raises(ModelUnavailable):
            await say(model)
        assert await model.count_prompt_tokens(QUESTION) == 10, "one that cannot be reached is not asked to count"
        few.trouble = refused_connection()
        with pytest.raises(ModelUnavailable):
            await say(model)
        assert await model.count_prompt_tokens(QUESTION) == 14, "both rest: both count again"


async def test_a_backend_that_hangs_while_it_counts_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Backend):
        async def count_prompt_tokens(self, prompt: Prompt) -> int:
            await asyncio.sleep(60)
            return 1

    monkeypatch.setattr("thinkscale.models.fallback._COUNTING_S", 0.01)
    second = Backend("second")
    async with Fallback([Hanging("first"), second], "both") as model:
        assert await model.count_prompt_tokens(QUESTION) == await second.count_prompt_tokens(QUESTION)
        assert await say(model) == "second"


# -- with real servers ---------------------------------------------------------------------------------------------


async def solve(model: Model, n: int, budget: Budget | None = None) -> Result:
    async with Engine(model) as engine:
        return await engine.solve(
            Request(QUESTION, AnswerKind.NUMBER, Params(max_tokens=32)),
            strategy=f"self-consistency:n={n}",
            budget=budget,
        )


def of(server: StubServer) -> OpenAIModel:
    return OpenAIModel(server.base_url, retry=RetryPolicy(attempts=1), breaker=CircuitBreaker(threshold=2, open_s=60))


async def test_a_server_that_fails_is_left_alone_once_its_circuit_is_open() -> None:
    async with StubServer(n="ignore", faults=lambda *_: Status(500)) as bad, StubServer(n="ignore") as good:
        async with Fallback([of(bad), of(good)], "both") as model:
            for _ in range(5):
                assert await say(model)
        assert bad.counters.requests == 2
        assert good.counters.requests == 5


async def test_a_run_goes_on_elsewhere_when_its_server_drops_connections_and_the_bill_is_whole() -> None:
    async with StubServer(faults=lambda *_: Drop(), max_n=4) as bad, StubServer(max_n=4) as good:
        result = await solve(Fallback([of(bad), of(good)], "both"), 8, Budget(max_total_tokens=2000))
        assert (result.samples, result.answer) == (8, "7")
        served = [bad.counters, good.counters]
        assert bad.counters.requests > 0
        assert result.usage.output_tokens >= sum(one.output_tokens for one in served)
        assert result.usage.prompt_tokens >= sum(one.prompt_tokens for one in served)
        assert result.usage.total_tokens <= 2000


async def test_a_server_that_goes_away_in_the_middle_costs_no_sample() -> None:
    async with StubServer(token_s=0.01, max_n=4) as first, StubServer(max_n=4) as second:
        solving = asyncio.create_task(solve(Fallback([of(first), of(second)], "both"), 8))
        while not first.counters.output_tokens:
            await asyncio.sleep(0.005)
        await first.aclose()
        result = await solving
        assert (result.samples, result.answer) == (8, "7")
        assert second.counters.calls > 0


async def test_a_wrong_key_at_one_backend_is_its_own_affair() -> None:
    async with StubServer(key="right") as strict, StubServer() as open_to_all:
        result = await solve(Fallback([of(strict), of(open_to_all)], "both"), 3)
        assert result.samples == 3
        with pytest.raises(AuthenticationFailed):
            await solve(Fallback([of(strict)], "one"), 3)
