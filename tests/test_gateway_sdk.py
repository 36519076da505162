"""The gateway as users of the `openai` package meet it: nothing changes for them but the base URL."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from running_gateway import House, house, hurry, in_turn, until

from thinkscale.serve.config import PolicyConfig
from thinkscale.store.keys import KeyLimits
from thinkscale.testing.reply import Reply
from thinkscale.testing.stub_faults import Drop, Status

MESSAGES: Any = [{"role": "user", "content": "What is 3+4?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@asynccontextmanager
async def served(folder: Path, answers: Any = None, **setup: Any) -> AsyncIterator[tuple[House, AsyncOpenAI]]:
    """A gateway and a client of it that never asks twice."""
    async with house(folder, answers, **setup) as gateway, client_of(gateway) as client:
        yield gateway, client


def client_of(gateway: House, key: str = "anything", **settings: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, **{"max_retries": 0, **settings})


def told(done: Any) -> Any:
    """The `thinkscale` object of what the SDK made of a response."""
    return done.model_extra["thinkscale"]


def call(name: str, arguments: str, number: int = 0) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


# -- chats ----------------------------------------------------------------------------------------------------------


async def test_a_chat(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}) as (gateway, client):
        done = await client.chat.completions.create(model="stub", messages=MESSAGES)
    assert done.object == "chat.completion"
    assert done.model == "stub"
    assert [choice.index for choice in done.choices] == [0]
    assert done.choices[0].message.role == "assistant"
    assert (done.choices[0].message.content or "").endswith("\\boxed{7}")
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.completion_tokens == gateway.stub.counters.output_tokens
    assert done.usage.prompt_tokens == gateway.stub.counters.prompt_tokens
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    report = told(done)
    assert report["answer"] == "7"
    assert report["strategy"] == "adaptive-consistency:n=16"
    assert report["stop_reason"] == "consensus"
    assert report["confidence"] == 1.0
    assert report["calls"] == gateway.stub.counters.calls < 16
    assert done.id == f"chatcmpl-{report['trace_id']}"


async def test_the_sync_client(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:

        def work() -> tuple[str, str, list[str]]:
            with OpenAI(base_url=f"{gateway.url}/v1", api_key="anything", max_retries=0) as client:
                done = client.chat.completions.create(model="stub:single", messages=MESSAGES)
                stream = client.chat.completions.create(model="stub:single", messages=MESSAGES, stream=True)
                pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
                names = [model.id for model in client.models.list()]
                return done.choices[0].message.content or "", "".join(pieces), names

        whole, streamed, names = await asyncio.to_thread(work)
    assert whole == streamed
    assert whole.endswith("\\boxed{7}")
    assert names == ["stub", "stub:single", "stub:auto", "stub:default"]


async def test_streams_end_with_the_bill(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}, stub={"token_s": 0.01}) as (gateway, client):
        stream = await client.chat.completions.create(
            model="stub:single", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    said = [chunk.choices[0].delta.content for chunk in chunks[:-1] if chunk.choices[0].delta.content]
    assert len(said) > 1
    assert "".join(said) == "think " * 9 + "\\boxed{7}"
    ends = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert ends == [None] * (len(ends) - 1) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 10)
    assert gateway.stub.counters.output_tokens == 10


async def test_the_sdk_gathers_a_stream_into_a_completion(tmp_path: Path) -> None:
    async with (
        served(tmp_path, {"7": 1.0}) as (_, client),
        client.chat.completions.stream(model="stub", messages=MESSAGES, stream_options={"include_usage": True}) as one,
    ):
        kinds = {event.type async for event in one}
        done = await one.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert (done.choices[0].message.content or "").endswith("\\boxed{7}")
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert done.usage.completion_tokens > 10


@pytest.mark.parametrize("streamed", [False, True])
async def test_n_choices_are_n_samples_as_they_are(tmp_path: Path, streamed: bool) -> None:
    script = in_turn(Reply("One \\boxed{1}"), Reply("Two and more \\boxed{2}"), Reply("Three \\boxed{3}"))
    async with served(tmp_path, script) as (gateway, client):
        said = ["", "", ""]
        if streamed:
            stream = await client.chat.completions.create(model="stub", messages=MESSAGES, n=3, stream=True)
            ends: list[Any] = [None, None, None]
            async for chunk in stream:
                for one in chunk.choices:
                    said[one.index] += one.delta.content or ""
                    ends[one.index] = one.finish_reason or ends[one.index]
        else:
            done = await client.chat.completions.create(model="stub", messages=MESSAGES, n=3)
            ends = [one.finish_reason for one in done.choices]
            for choice in done.choices:
                said[choice.index] = choice.message.content or ""
            assert done.usage is not None
            assert done.usage.completion_tokens == gateway.stub.counters.output_tokens == 8
            assert done.usage.completion_tokens_details is not None
            assert done.usage.completion_tokens_details.reasoning_tokens == 0
        (record,) = await gateway.records()
        assert (record["strategy"], record["samples"]) == ("single", 3)
    assert said == ["One \\boxed{1}", "Two and more \\boxed{2}", "Three \\boxed{3}"]
    assert ends == ["stop"] * 3
    assert [body["n"] for body in gateway.bodies] == [3]


async def test_logprobs(tmp_path: Path) -> None:
    async with served(tmp_path, Reply("It is \\boxed{7}", logprob=-0.25, confidence=2.0)) as (gateway, client):
        ask: Any = {"model": "stub:single", "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
        done = await client.chat.completions.create(**ask)
        bare = await client.chat.completions.create(model="stub:single", messages=MESSAGES)
        streamed = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
        voted = await client.chat.completions.create(**{**ask, "model": "stub"})
    assert [body.get("top_logprobs") for body in gateway.bodies[:3]] == [2, None, 2]
    assert bare.choices[0].logprobs is None
    for choice in (done.choices[0], voted.choices[0]):
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert [token.token for token in tokens] == ["It", " is", " \\boxed{7}"]
        assert [token.logprob for token in tokens] == [-0.25] * 3
        assert [[top.logprob for top in token.top_logprobs] for token in tokens] == [[-2.0, -2.0]] * 3
        assert bytes(tokens[1].bytes or []) == b" is"
    pieces = [c.choices[0].logprobs.content or [] for c in streamed if c.choices and c.choices[0].logprobs]
    assert [token.token for piece in pieces for token in piece] == ["It", " is", " \\boxed{7}"]


async def test_thinking_is_told_apart_from_the_answer(tmp_path: Path) -> None:
    async with served(tmp_path, Reply("\\boxed{7}", reasoning="three and four make seven")) as (_, client):
        done = await client.chat.completions.create(model="stub:single", messages=MESSAGES)
        stream = await client.chat.completions.create(model="stub:single", messages=MESSAGES, stream=True)
        thought = "".join([getattr(c.choices[0].delta, "reasoning_content", None) or "" async for c in stream])
    assert done.choices[0].message.content == "\\boxed{7}"
    assert done.choices[0].message.to_dict()["reasoning_content"] == thought == "three and four make seven"
    assert done.usage is not None
    assert done.usage.completion_tokens_details is not None
    assert done.usage.completion_tokens_details.reasoning_tokens == 5


# -- tools ----------------------------------------------------------------------------------------------------------


async def test_tool_calls_come_back_and_go_on(tmp_path: Path) -> None:
    def script(body: Any, _index: int, _rng: Any) -> Reply:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return Reply(f"It is {last['content']}.")
        return Reply(tool_calls=(call("weather", '{"city": "Bern", "days": 2}'),))

    async with served(tmp_path, script) as (gateway, client):
        first = await client.chat.completions.create(
            model="stub:single", messages=MESSAGES, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=False
        )
        message = first.choices[0].message
        assert message.tool_calls is not None
        asked: Any = message.tool_calls[0]
        history = [*MESSAGES, message.to_dict(), {"role": "tool", "tool_call_id": asked.id, "content": "sunny"}]
        second = await client.chat.completions.create(model="stub:single", messages=history, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert (asked.function.name, json.loads(asked.function.arguments)) == ("weather", {"city": "Bern", "days": 2})
    assert second.choices[0].message.content == "It is sunny."
    sent = gateway.bodies[0]
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == ([WEATHER], "auto", False)
    assert gateway.bodies[1]["messages"] == history


async def test_tool_calls_are_voted_on_by_meaning(tmp_path: Path) -> None:
    """Written in three ways, Bern has three votes of five; by text, Rome would win with two."""
    script = in_turn(
        Reply(tool_calls=(call("weather", '{"city": "Rome"}', 1),)),
        Reply(tool_calls=(call("weather", '{"city": "Bern", "days": 2}', 2),)),
        Reply(tool_calls=(call("weather", '{"city": "Rome"}', 3),)),
        Reply(tool_calls=(call("weather", '{"days":2,"city":"Bern"}', 4),)),
        Reply(tool_calls=(call("weather", '{ "days" : 2.0, "city" : "Bern" }', 5),)),
    )
    async with served(tmp_path, script) as (_, client):
        ask: Any = {
            "model": "stub", "messages": MESSAGES, "tools": [WEATHER],
            "extra_body": {"inference": {"strategy": "self-consistency:n=5"}},
        }  # fmt: skip
        done = await client.chat.completions.create(**ask)
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
    chosen: Any = (done.choices[0].message.tool_calls or [None])[0]
    assert json.loads(chosen.function.arguments) == {"city": "Bern", "days": 2}
    assert told(done)["confidence"] == pytest.approx(0.6)
    deltas = [c.choices[0].delta.tool_calls for c in chunks if c.choices and c.choices[0].delta.tool_calls]
    assert len(deltas) == 1
    only: Any = (deltas[0] or [None])[0]
    assert (only.index, only.function.name) == (0, "weather")
    assert json.loads(only.function.arguments) == {"city": "Bern", "days": 2}
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["tool_calls"]


async def test_tool_calls_stream_as_deltas(tmp_path: Path) -> None:
    reply = Reply(
        "Let me look.", tool_calls=(call("weather", '{"city": "Bern"}', 1), call("weather", '{"city": "Rome"}', 2))
    )
    async with (
        served(tmp_path, reply, stub={"token_s": 0.002}) as (_, client),
        client.chat.completions.stream(model="stub:single", messages=MESSAGES, tools=[WEATHER]) as one,
    ):
        kinds = [event.type async for event in one]
        done = await one.get_final_completion()
    calls: Any = done.choices[0].message.tool_calls
    assert [json.loads(made.function.arguments) for made in calls] == [{"city": "Bern"}, {"city": "Rome"}]
    assert [made.id for made in calls] == ["call_1", "call_2"]
    assert done.choices[0].message.content == "Let me look."
    assert done.choices[0].finish_reason == "tool_calls"
    assert kinds.count("tool_calls.function.arguments.delta") > 2
    assert kinds.count("tool_calls.function.arguments.done") == 2


# -- structured outputs ---------------------------------------------------------------------------------------------


class Point(BaseModel):
    x: int
    y: int


async def test_structured_outputs_are_voted_on_by_meaning(tmp_path: Path) -> None:
    script = in_turn(
        Reply('{"x": 9, "y": 9}'), Reply('{"x": 1, "y": 2}'), Reply('{"x": 9, "y": 9}'), Reply('{"y":2,"x":1}'),
        Reply('{\n  "y": 2,\n  "x": 1\n}'),
    )  # fmt: skip
    async with served(tmp_path, script) as (gateway, client):
        ask: Any = {"model": "stub", "messages": MESSAGES, "response_format": Point}
        strategy = {"inference": {"strategy": "self-consistency:n=5"}}
        done = await client.chat.completions.parse(**ask, extra_body=strategy)
        async with client.chat.completions.stream(**ask, extra_body=strategy) as one:
            streamed = await one.get_final_completion()
    assert done.choices[0].message.parsed == Point(x=1, y=2)
    assert told(done)["confidence"] == pytest.approx(0.6)
    assert streamed.choices[0].message.parsed == Point(x=1, y=2)
    schema = gateway.bodies[0]["response_format"]["json_schema"]
    assert schema["name"] == "Point"
    assert set(schema["schema"]["properties"]) == {"x", "y"}


async def test_json_mode(tmp_path: Path) -> None:
    async with served(tmp_path, Reply('{"x": 1}')) as (gateway, client):
        done = await client.chat.completions.create(
            model="stub", messages=MESSAGES, response_format={"type": "json_object"}
        )
    assert json.loads(done.choices[0].message.content or "") == {"x": 1}
    assert gateway.bodies[0]["response_format"] == {"type": "json_object"}
    assert told(done)["answer"] == '{"x": 1}'


# -- completions ----------------------------------------------------------------------------------------------------


async def test_completions(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}) as (gateway, client):
        ask: Any = {"model": "stub:single", "prompt": "3+4=", "max_tokens": 50}
        done = await client.completions.create(**ask, logprobs=1, echo=False, best_of=1)
        pieces = [
            one.choices[0].text async for one in await client.completions.create(**ask, stream=True) if one.choices
        ]
        two = await client.completions.create(**ask, n=2)
        short = await client.completions.create(model="stub:single", prompt="3+4=", max_tokens=4)
    assert done.object == "text_completion"
    assert done.choices[0].text.endswith("\\boxed{7}")
    assert "".join(pieces) == done.choices[0].text
    assert done.choices[0].logprobs is not None
    assert "".join(done.choices[0].logprobs.tokens or []) == done.choices[0].text
    assert done.choices[0].logprobs.text_offset == [0, *range(5, 55, 6)]
    assert [one.index for one in two.choices] == [0, 1]
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 4
    assert {body["prompt"] for body in gateway.bodies} == {"3+4="}


# -- responses ------------------------------------------------------------------------------------------------------


async def test_responses(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}) as (gateway, client):
        done = await client.responses.create(
            model="stub", instructions="Be brief.", input="What is 3+4?", reasoning={"effort": "low"},
            max_output_tokens=64, metadata={"who": "ci"}, store=False,
        )  # fmt: skip
        turns: Any = [
            {"role": "user", "content": "Hi"},
            *[item.to_dict() for item in done.output if item.type == "message"],
            {"role": "user", "content": [{"type": "input_text", "text": "And 4+3?"}]},
        ]
        again = await client.responses.create(model="stub:single", input=turns)
    assert done.status == "completed"
    assert done.output_text.endswith("\\boxed{7}")
    assert done.metadata == {"who": "ci"}
    assert done.usage is not None
    assert done.usage.output_tokens >= 10
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    assert told(done)["calls"] <= 4
    first, last = gateway.bodies[0], gateway.bodies[-1]
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert first["max_tokens"] == 64
    assert [one["role"] for one in last["messages"]] == ["user", "assistant", "user"]
    assert last["messages"][1]["content"] == done.output_text
    assert again.output_text.endswith("\\boxed{7}")


async def test_responses_cut_short_say_so(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}) as (_, client):
        done = await client.responses.create(model="stub:single", input="Hi", max_output_tokens=4)
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize(("model", "thinks"), [("stub", True), ("stub:single", False)])
async def test_responses_stream(tmp_path: Path, model: str, thinks: bool) -> None:
    async with (
        served(tmp_path, {"7": 0.5, "8": 0.5}, stub={"token_s": 0.01}) as (_, client),
        client.responses.stream(model=model, input="What is 3+4?") as one,
    ):
        events = [event async for event in one]
        done = await one.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert ("response.reasoning_summary_text.delta" in kinds) == thinks
    assert [item.type for item in done.output] == (["reasoning", "message"] if thinks else ["message"])
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == done.output_text
    assert "\\boxed{" in said
    assert done.usage is not None
    assert done.usage.output_tokens >= 10


async def test_responses_parse_structured_output(tmp_path: Path) -> None:
    async with served(tmp_path, Reply('{"x": 1, "y": 2}')) as (gateway, client):
        done = await client.responses.parse(model="stub:single", input="Where?", text_format=Point)
    assert done.output_parsed == Point(x=1, y=2)
    assert gateway.bodies[0]["response_format"]["json_schema"]["name"] == "Point"


# -- choosing -------------------------------------------------------------------------------------------------------


async def test_models(tmp_path: Path) -> None:
    async with served(tmp_path, policies={"careful": PolicyConfig("self-consistency:n=8")}) as (_, client):
        names = [one.id async for one in client.models.list()]
        assert names == ["stub", "stub:single", "stub:auto", "stub:default", "stub:careful"]
        assert (await client.models.retrieve("stub:careful")).id == "stub:careful"
        assert (await client.models.retrieve("stub")).object == "model"
        for unknown in ("stub:none", "other"):
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve(unknown)


async def test_ways_to_choose(tmp_path: Path) -> None:
    policies = {"careful": PolicyConfig("self-consistency:n=6")}
    async with served(tmp_path, {"7": 0.5, "8": 0.5}, policies=policies) as (_, client):

        async def report(model: str = "stub", inference: Any = None, **more: Any) -> Any:
            extra = {"inference": inference} if inference else None
            done = await client.chat.completions.create(model=model, messages=MESSAGES, extra_body=extra, **more)
            return told(done)

        by_name = await report("stub:careful")
        by_policy = await report(inference={"policy": "careful"})
        by_strategy = await report(inference={"strategy": "best-of-n:n=3", "verifier": "confidence"})
        by_budget = await report(inference={"strategy": "self-consistency:n=9", "budget": {"calls": 2}})
        by_effort = await report("stub:careful", reasoning_effort="low")
        minimal = await report("stub:careful", reasoning_effort="minimal")
    assert (by_name["policy"], by_name["strategy"], by_name["calls"]) == ("careful", "self-consistency:n=6", 6)
    assert (by_policy["policy"], by_policy["calls"]) == ("careful", 6)
    assert (by_strategy["policy"], by_strategy["strategy"]) == ("inference", "best-of-n:n=3")
    assert (by_strategy["calls"], by_strategy["stop_reason"]) == (3, "complete")
    assert (by_budget["calls"], by_budget["stop_reason"]) == (2, "budget")
    assert (by_effort["calls"], minimal["calls"]) == (4, 1)


async def test_headers_tell_what_is_known(tmp_path: Path) -> None:
    async with served(tmp_path, {"7": 1.0}, model={"price": "1/10"}) as (gateway, client):
        raw = await client.chat.completions.with_raw_response.create(
            model="stub", messages=MESSAGES, extra_headers={"x-request-id": "from-the-client"}
        )
        done = raw.parse()
        counters = gateway.stub.counters
        bill = (counters.prompt_tokens + 10 * counters.output_tokens) / 1e6
        async with client.chat.completions.with_streaming_response.create(
            model="stub", messages=MESSAGES, stream=True
        ) as streamed:
            await streamed.read()
    assert raw.headers["x-request-id"] == "from-the-client"
    report = told(done)
    assert raw.headers["x-thinkscale-trace-id"] == report["trace_id"]
    assert raw.headers["x-thinkscale-strategy"] == "adaptive-consistency:n=16"
    assert raw.headers["x-thinkscale-policy"] == "default"
    assert raw.headers["x-thinkscale-stop-reason"] == "consensus"
    assert raw.headers["x-thinkscale-confidence"] == "1.0000"
    assert float(raw.headers["x-thinkscale-cost-usd"]) == pytest.approx(bill) == report["cost_usd"]
    assert streamed.headers["x-thinkscale-strategy"] == "adaptive-consistency:n=16"
    assert len(streamed.headers["x-thinkscale-trace-id"]) == 32


# -- errors ---------------------------------------------------------------------------------------------------------


async def test_errors_are_the_sdks_own(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gateway, client = await stack.enter_async_context(served(tmp_path, require_key=False))

        async def refused(kind: type[openai.APIStatusError], by: AsyncOpenAI = client, **body: Any) -> Any:
            with pytest.raises(kind) as error:
                await by.chat.completions.create(**{"model": "stub", "messages": MESSAGES, **body})
            return error.value

        wrong = await refused(openai.BadRequestError, temperature=3)
        assert (wrong.param, wrong.code, wrong.type) == ("temperature", "invalid_value", "invalid_request_error")
        missing = await refused(openai.NotFoundError, model="stb")
        assert (missing.param, missing.code) == ("model", "model_not_found")
        assert "did you mean stub" in str(missing)

        _, narrow = await gateway.key("narrow", policies=["single"], limits=KeyLimits(requests_per_minute=2))
        mine = await stack.enter_async_context(client_of(gateway, narrow))
        await refused(openai.PermissionDeniedError, mine, model="stub:default")
        nobody = await stack.enter_async_context(client_of(gateway, "ts-00000000-nobody"))
        assert (await refused(openai.AuthenticationError, nobody)).code == "invalid_api_key"

        for _ in range(2):
            await mine.chat.completions.create(model="stub:single", messages=MESSAGES)
        limited = await refused(openai.RateLimitError, mine, model="stub:single")
        assert limited.code == "rate_limit_exceeded"
        assert 1 <= int(limited.response.headers["retry-after"]) <= 60


async def test_a_spent_budget_is_not_asked_again(tmp_path: Path) -> None:
    """402 is no status that the SDK retries, and the header says so to clients that would."""
    async with served(tmp_path) as (gateway, _):
        _, secret = await gateway.key("poor", limits=KeyLimits(tokens_per_day=150))
        asked: list[httpx2.Request] = []

        async def note(request: httpx2.Request) -> None:
            asked.append(request)

        http = httpx2.AsyncClient(event_hooks={"request": [note]})
        async with client_of(gateway, secret, max_retries=2, http_client=http) as client:

            async def spend() -> None:
                for _ in range(20):
                    asked.clear()
                    await client.chat.completions.create(model="stub:single", messages=MESSAGES, max_tokens=10)

            with pytest.raises(openai.APIStatusError) as error:
                await spend()
        assert error.value.status_code == 402
        assert error.value.code == "budget_exhausted"
        assert error.value.response.headers["x-should-retry"] == "false"
        assert len(asked) == 1
        counters = gateway.stub.counters
        assert 0 < counters.prompt_tokens + counters.output_tokens <= 150


async def test_the_sdk_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    """One place in all: the second request is refused with Retry-After: 1, and the SDK's next try finds it free."""
    async with (
        house(tmp_path, {"7": 1.0}, stub={"latency_s": 0.5}, max_requests=1) as gateway,
        client_of(gateway) as first,
        client_of(gateway, max_retries=1) as second,
    ):
        holding = asyncio.create_task(first.chat.completions.create(model="stub:single", messages=MESSAGES))
        await until(lambda: gateway.stub.counters.in_flight == 1)
        began = time.monotonic()
        done = await second.chat.completions.create(model="stub:single", messages=MESSAGES)
        waited = time.monotonic() - began
        await holding
    assert (done.choices[0].message.content or "").endswith("\\boxed{7}")
    assert waited > 1.4


@pytest.mark.parametrize(("fault", "status"), [(Status(500), 502), (Status(401), 502), (Drop(), 503)])
async def test_upstream_failures_are_server_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, status: int
) -> None:
    hurry(monkeypatch)
    async with served(tmp_path, stub={"faults": lambda _number, _body: fault}) as (_, client):
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as error:
                await client.chat.completions.create(model="stub:single", messages=MESSAGES, stream=stream)
            assert error.value.status_code == status


async def test_a_stream_that_breaks_off_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    async with served(tmp_path, stub={"faults": lambda _number, _body: Drop(3), "token_s": 0.005}) as (_, client):
        heard = ""

        async def listen() -> None:
            nonlocal heard
            stream = await client.chat.completions.create(model="stub:single", messages=MESSAGES, stream=True)
            async for chunk in stream:
                heard += chunk.choices[0].delta.content or ""

        with pytest.raises(openai.APIError) as error:
            await listen()
    assert heard == "think think think"
    assert not isinstance(error.value, openai.APIStatusError)
    assert error.value.type == "server_error"
