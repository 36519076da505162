"""The HTTP adapter against a real server on loopback that counts for itself and fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

import pytest

from thinkscale.engine import Engine
from thinkscale.errors import AuthenticationFailed, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models.gather import Gathering
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.resilience import CircuitBreaker, RetryPolicy
from thinkscale.testing import Reply
from thinkscale.testing.model_conformance import check_model
from thinkscale.testing.stub_faults import Drop, ErrorEvent, Malformed, Misreport, Silence, Slow, Status, UsageReport
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import AnswerKind, Budget, Chunk, Params, Prompt, Request, Result

QUESTION = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))
FAST_S = 0.001
DEAD = "http://127.0.0.1:9/v1"


def model_of(server: StubServer, **options: Any) -> OpenAIModel:
    return OpenAIModel(server.base_url, **({"retry": RetryPolicy(base_s=FAST_S)} | options))


async def solve(server: StubServer, strategy: str, budget: Budget | None = None, **options: Any) -> Result:
    async with Engine(model_of(server, **options)) as engine:
        return await engine.solve(QUESTION, strategy=strategy, budget=budget)


async def generate(model: OpenAIModel, params: Params | None = None, n: int = 1) -> list[Chunk]:
    async with aclosing(model.generate(QUESTION.prompt, params or Params(), n=n)) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("owned_by", ["stub", "vllm", "llamacpp"])
async def test_conforms(stream: bool, owned_by: str) -> None:
    async with StubServer(owned_by=owned_by, max_n=16, token_s=0.001) as server:

        @asynccontextmanager
        async def make() -> AsyncIterator[OpenAIModel]:
            async with model_of(server, stream=stream) as model:
                yield model

        await check_model(make)


# -- the budget is hard ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", ["honour", "ignore", "refuse"])
@pytest.mark.parametrize("n", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("usage", ["right", "missing", "zero", "last", "per-choice"])
async def test_server_counted_tokens_never_pass_the_budget(
    n: int, behaviour: Literal["honour", "ignore", "refuse"], stream: bool, usage: UsageReport
) -> None:
    async with StubServer(tokens=20, n=behaviour, usage=usage) as server:
        result = await solve(
            server, f"self-consistency:n={n}", Budget(max_total_tokens=900, max_output_tokens=500), stream=stream
        )
        counters = server.counters
        assert counters.prompt_tokens + counters.output_tokens <= 900
        assert counters.output_tokens <= 500
        assert result.usage.output_tokens >= counters.output_tokens, "never charged less than the server produced"
        assert result.answer == "7"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 8])
async def test_usage_is_exact_where_it_can_be(n: int, stream: bool) -> None:
    async with StubServer(tokens=20) as server:
        result = await solve(server, f"self-consistency:n={n}", stream=stream)
        assert result.usage.output_tokens == server.counters.output_tokens == 20 * n
        assert result.usage.prompt_tokens == server.counters.prompt_tokens
        assert result.usage.calls == n
        assert not result.usage.counted


@pytest.mark.parametrize("usage", ["missing", "zero", "last", "per-choice"])
async def test_a_wrong_usage_is_recounted_from_the_stream_and_said_so(usage: UsageReport) -> None:
    async with StubServer(tokens=20, usage=usage) as server:
        result = await solve(server, "self-consistency:n=8")
        assert result.usage.output_tokens == server.counters.output_tokens == 160
        assert result.usage.counted is (usage != "per-choice")


# -- n samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("behaviour", "requests"), [("honour", 2), ("ignore", 17), ("refuse", 18)])
async def test_n_is_found_out_once_and_remembered(
    behaviour: Literal["honour", "ignore", "refuse"], requests: int
) -> None:
    async with StubServer(n=behaviour) as server, Engine(model_of(server)) as engine:
        for _ in range(2):
            result = await engine.solve(QUESTION, strategy="self-consistency:n=9")
            assert result.samples == 9
        # ignore: 1 + 8 singles, then 9 singles; refuse: one refusal besides.
        assert server.counters.requests in (requests, requests + 1)
        assert server.counters.calls == 18


async def test_a_limit_that_the_refusal_names_is_used() -> None:
    async with StubServer(max_n=4) as server, Engine(model_of(server)) as engine:
        result = await engine.solve(QUESTION, strategy="self-consistency:n=12")
        assert (result.samples, server.counters.calls) == (12, 12)
        assert server.counters.requests <= 5


async def test_a_llama_server_is_asked_for_as_many_as_it_has_slots() -> None:
    async with StubServer(owned_by="llamacpp", max_n=4, usage="per-choice") as server:
        result = await solve(server, "self-consistency:n=10")
        assert (result.samples, server.counters.requests) == (10, 3)


# -- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Status(500), Status(503), Status(429, 0.01)])
async def test_transient_failures_are_retried(fault: Any) -> None:
    async with StubServer(faults=[fault, fault]) as server:
        result = await solve(server, "single")
        assert (result.answer, server.counters.faults) == ("7", 2)


async def test_retry_after_is_waited_for() -> None:
    async with StubServer(faults=[Status(429, 0.3)]) as server:
        result = await solve(server, "single")
        assert result.seconds >= 0.3


async def test_a_retry_after_beyond_patience_fails_at_once_and_passes_it_on() -> None:
    async with StubServer(faults=[Status(429, 3600)]) as server:
        with pytest.raises(ModelUnavailable) as refused:
            await solve(server, "single")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 3600)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", [Malformed(0), Malformed(3), ErrorEvent(2)])
async def test_garbage_never_becomes_an_answer(fault: Any, stream: bool) -> None:
    async with StubServer(faults=lambda _number, _body: fault) as server:
        with pytest.raises(ModelUnavailable):
            await solve(server, "single", stream=stream)


async def test_a_stream_that_breaks_is_charged_and_asked_again() -> None:
    async with StubServer(tokens=20, faults=[Drop(5)]) as server:
        result = await solve(server, "single")
        assert result.answer == "7"
        assert result.usage.output_tokens == server.counters.output_tokens == 25


async def test_a_stream_that_always_breaks_is_an_error_not_half_an_answer() -> None:
    async with StubServer(tokens=20, faults=lambda _number, _body: Drop(5)) as server:
        with pytest.raises(ModelUnavailable):
            await solve(server, "single")


async def test_one_sample_that_breaks_does_not_lose_the_others() -> None:
    def third(number: int, _body: Mapping[str, Any]) -> Drop | None:
        return Drop(5) if number % 5 == 2 else None

    async with StubServer(tokens=20, n="refuse", faults=third) as server:
        result = await solve(server, "self-consistency:n=8")
        assert result.answer == "7"
        assert result.samples >= 6


async def test_a_silent_server_times_out_and_its_hold_is_charged() -> None:
    async with StubServer(faults=lambda _number, _body: Silence(None)) as server:
        with pytest.raises(ModelUnavailable, match="does not answer"):
            await solve(server, "single", idle_timeout_s=0.1, retry=RetryPolicy(attempts=1))


async def test_a_slow_server_is_waited_for() -> None:
    async with StubServer(faults=[Slow(0.3)]) as server:
        assert (await solve(server, "single", idle_timeout_s=5)).answer == "7"


async def test_a_usage_told_wrong_once_does_not_matter() -> None:
    async with StubServer(tokens=20, faults=[Misreport("zero")]) as server:
        assert (await solve(server, "single")).usage.output_tokens == 20


async def test_retries_stay_within_their_budget() -> None:
    """A server that is down sees about its normal load, not four times it."""
    async with StubServer(faults=lambda _number, _body: Status(503), n="refuse") as server:
        retry = RetryPolicy(attempts=4, burst=5, base_s=FAST_S)
        with pytest.raises(ModelUnavailable):
            await solve(server, "self-consistency:n=40", retry=retry, breaker=CircuitBreaker(threshold=1000))
        assert server.counters.requests <= 46


async def test_the_circuit_opens_and_closes_again() -> None:
    async with StubServer(faults=[Status(503)] * 3) as server:
        breaker = CircuitBreaker(threshold=3, open_s=0.1)
        async with model_of(server, retry=RetryPolicy(attempts=1), breaker=breaker) as model:
            for _ in range(3):
                with pytest.raises(ModelUnavailable, match="503"):
                    await generate(model)
            with pytest.raises(ModelUnavailable, match="not asking again"):
                await generate(model)
            assert server.counters.requests == 3, "an open circuit sends nothing"
            await asyncio.sleep(0.12)
            assert await generate(model)
            assert await generate(model)


async def test_a_circuit_closes_with_the_first_sign_of_life_and_is_not_held_open_by_a_long_reply() -> None:
    breaker = CircuitBreaker(threshold=1, open_s=0.05)
    async with (
        StubServer(faults=[Status(503)], tokens=40, token_s=0.01) as server,
        model_of(server, retry=RetryPolicy(attempts=1), breaker=breaker) as model,
    ):
        with pytest.raises(ModelUnavailable):
            await generate(model)
        await asyncio.sleep(0.06)
        probe = asyncio.create_task(generate(model))
        await asyncio.sleep(0.1)
        assert not probe.done()
        assert await generate(model), "others are let through while the probe still talks"
        await probe


async def test_a_refusal_that_is_not_about_n_leaves_n_alone() -> None:
    faults = [Status(400, message="this model's maximum context length is 4096 tokens")]
    async with StubServer(faults=faults) as server, Engine(model_of(server)) as engine:
        with pytest.raises(ModelRefused):
            await engine.solve(QUESTION, strategy="self-consistency:n=8")
        await engine.solve(QUESTION, strategy="self-consistency:n=8")
        assert server.counters.requests == 2


async def test_a_wrong_key_is_told_and_not_retried() -> None:
    async with StubServer(key="right") as server:
        with pytest.raises(AuthenticationFailed, match="no key was sent; set THINKSCALE_API_KEY"):
            await solve(server, "single")
        with pytest.raises(AuthenticationFailed, match="the key was refused") as refused:
            await solve(server, "single", api_key="wrong-secret")
        assert "wrong-secret" not in str(refused.value)
        assert (await solve(server, "single", api_key="right")).answer == "7"


async def test_a_dead_address_is_told_in_one_line() -> None:
    with pytest.raises(ModelUnavailable, match="is the server running there") as dead:
        async with OpenAIModel(DEAD):
            pass
    assert "\n" not in str(dead.value)


async def test_a_refused_request_is_not_retried() -> None:
    async with StubServer(faults=[Status(400, message="the prompt is too long")]) as server:
        with pytest.raises(ModelRefused, match="too long") as refused:
            await solve(server, "single")
        assert refused.value.status == 400
        assert server.counters.requests == 1


async def test_parameters_a_server_does_not_know_are_left_out_and_remembered() -> None:
    faults = [
        Status(400, message="unknown field: stream_options"),
        Status(400, message="unsupported parameter: 'seed'"),
    ]
    async with StubServer(faults=faults) as server, Engine(model_of(server)) as engine:
        assert (await engine.solve(QUESTION, strategy="single")).answer == "7"
        assert (await engine.solve(QUESTION, strategy="single")).answer == "7"
        assert server.counters.requests == 4


# -- cancellation and concurrency --------------------------------------------------------------------------------


async def settled(server: StubServer) -> None:
    """Wait for the server to notice that its clients left."""
    async with asyncio.timeout(5):
        while server.counters.in_flight:
            await asyncio.sleep(0.005)


async def test_cancelling_reaches_upstream_and_frees_every_permit() -> None:
    async with StubServer(n="refuse", latency_s=30) as server, Engine(model_of(server, max_in_flight=4)) as engine:
        task = asyncio.create_task(engine.solve(QUESTION, strategy="self-consistency:n=12"))
        while server.counters.in_flight < 4:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(server)
        assert server.counters.most_in_flight == 4
        quick = Request(QUESTION.prompt, AnswerKind.NUMBER, Params(max_tokens=8))
        with pytest.raises(Exception, match="no answer"):
            await engine.solve(quick, strategy="self-consistency:n=4", budget=Budget(deadline_s=0.2))
        assert server.counters.requests >= 8, "permits came back: four more requests got through"
        await settled(server)


async def test_closing_a_stream_early_cancels_upstream() -> None:
    async with StubServer(tokens=5000, token_s=0.001) as server, model_of(server) as model:
        async with aclosing(model.generate(QUESTION.prompt, Params(max_tokens=5000))) as chunks:
            async for _ in chunks:
                break
        await settled(server)
        assert server.counters.cancelled == 1
        assert server.counters.output_tokens < 500


async def test_one_connection_pool_serves_all_requests() -> None:
    async with StubServer(n="refuse") as server, Engine(model_of(server, max_in_flight=8)) as engine:
        for _ in range(5):
            await engine.solve(QUESTION, strategy="self-consistency:n=8")
        assert server.counters.calls == 40
        assert server.counters.connections <= 10


async def test_many_requests_at_once_share_the_limit() -> None:
    async with StubServer(n="refuse", latency_s=0.01) as server, Engine(model_of(server, max_in_flight=32)) as engine:
        results = await asyncio.gather(*(engine.solve(QUESTION, strategy="self-consistency:n=4") for _ in range(100)))
        assert {result.answer for result in results} == {"7"}
        assert server.counters.most_in_flight <= 32


async def test_many_samples_through_a_host_name_do_not_stall() -> None:
    """Name look-ups share the loop's default executor: permits must not wait in it."""
    async with StubServer(n="refuse", latency_s=0.05) as server:
        model = OpenAIModel(f"http://localhost:{server.port}/v1", max_in_flight=16)
        async with Engine(model) as engine, asyncio.timeout(10):
            result = await engine.solve(QUESTION, strategy="self-consistency:n=128")
    assert result.samples == 128


async def test_500_requests_at_once_are_all_answered() -> None:
    async with StubServer(latency_s=0.05) as server, Engine(model_of(server)) as engine:
        results = await asyncio.gather(*(engine.solve(QUESTION, strategy="self-consistency:n=2") for _ in range(500)))
        assert {result.answer for result in results} == {"7"}
        assert sum(result.usage.output_tokens for result in results) == server.counters.output_tokens
        assert server.counters.in_flight == 0


# -- what goes over the wire -------------------------------------------------------------------------------------


def recording(seen: list[Mapping[str, Any]], reply: Reply | None = None) -> Any:
    def script(body: Mapping[str, Any], _index: int, _rng: Any) -> Reply:
        seen.append(body)
        return reply or Reply("\\boxed{7}")

    return script


async def test_chats_tools_and_extras_pass_through_intact() -> None:
    seen: list[Mapping[str, Any]] = []
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}
    chat = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "add"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    prompt = Prompt(messages=chat, tools=(tool,), tool_choice="auto")
    params = Params(temperature=0.3, top_p=0.9, stop=("END",), extra={"min_p": 0.1, "metadata": {"k": "v"}})
    async with StubServer(recording(seen, Reply(tool_calls=(call,)))) as server, Engine(model_of(server)) as engine:
        result = await engine.solve(Request(prompt, params=params), strategy="single")
    assert seen[0]["messages"] == list(chat)
    assert seen[0]["tools"] == [tool]
    expected = {"temperature": 0.3, "top_p": 0.9, "stop": ["END"], "min_p": 0.1, "metadata": {"k": "v"}}
    assert {name: seen[0][name] for name in expected} == expected
    assert [dict(one) for one in result.candidate.tool_calls] == [call]
    assert result.candidate.message["tool_calls"] == [call]


@pytest.mark.parametrize("stream", [True, False])
async def test_reasoning_and_logprobs_are_read(stream: bool) -> None:
    reply = Reply("\\boxed{7}", reasoning="three and four", logprob=-0.5)
    async with StubServer(reply) as server, model_of(server, stream=stream) as model:
        chunks = await generate(model, Params(top_logprobs=2))
    assert "".join(chunk.reasoning for chunk in chunks) == "three and four"
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert tokens
    assert all(token.logprob == pytest.approx(-0.5) for token in tokens)
    assert all(token.confidence is not None for token in tokens)


async def test_seeds_differ_by_sample_and_repeat_by_request() -> None:
    seen: list[Mapping[str, Any]] = []
    async with StubServer(recording(seen), n="refuse") as server, Engine(model_of(server)) as engine:
        for _ in range(2):
            await engine.solve(QUESTION, strategy="self-consistency:n=4")
    first, second = [body["seed"] for body in seen[:4]], [body["seed"] for body in seen[4:]]
    assert len(set(first)) == 4
    assert sorted(first) == sorted(second)


async def test_a_prefix_is_continued_where_the_server_can() -> None:
    seen: list[Mapping[str, Any]] = []
    async with StubServer(recording(seen), owned_by="vllm") as server, model_of(server) as model:
        prompt = Prompt(messages=QUESTION.prompt.messages, prefix="Let me")
        async with aclosing(model.generate(prompt, Params())) as chunks:
            assert [chunk async for chunk in chunks]
    assert seen[0]["messages"][-1] == {"role": "assistant", "content": "Let me"}
    assert (seen[0]["continue_final_message"], seen[0]["add_generation_prompt"]) == (True, False)


async def test_the_only_served_model_is_taken_and_several_must_be_chosen_from() -> None:
    async with StubServer(model="tiny") as server, model_of(server) as model:
        assert model.name == "tiny"

    class Two(OpenAIModel):
        async def _get(self, url: str) -> Mapping[str, Any]:
            return {"data": [{"id": "a"}, {"id": "b"}]}

    with pytest.raises(UsageError, match=r"serves 2 models \(a, b\): pick one with .*#NAME"):
        async with Two(DEAD):
            pass


async def test_prompt_tokens_are_never_underestimated_and_then_known() -> None:
    async with StubServer() as server, model_of(server) as model:
        guess = await model.count_prompt_tokens(QUESTION.prompt)
        chunks = await generate(model)
        usage = next(chunk.usage for chunk in chunks if chunk.usage)
        assert guess >= usage.prompt_tokens
        assert await model.count_prompt_tokens(QUESTION.prompt) == usage.prompt_tokens


async def test_tool_calls_survive_nulls_in_their_deltas() -> None:
    gathering = Gathering()
    deltas: list[dict[str, Any]] = [
        {"index": 0, "id": "c1", "function": {"name": "look", "arguments": None}},
        {"index": 0, "function": {"name": None, "arguments": '{"at"'}},
        {"index": 0, "function": {"name": None, "arguments": ": 1}"}},
    ]
    for delta in deltas:
        gathering.add(Chunk(tool_calls=(delta,)))
    (call,) = gathering.choices[0].tool_calls
    assert call["function"] == {"name": "look", "arguments": '{"at": 1}'}
