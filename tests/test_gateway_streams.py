"""Streams as they happen: tokens when they come, progress, signs of life, failures midway, clients that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from running_gateway import QUESTION, House, house, hurry, until

from thinkscale.testing.reply import Reply
from thinkscale.testing.stub_faults import Drop, ErrorEvent, Malformed, Silence, Status

SLOW = "self-consistency:n=16"


@asynccontextmanager
async def asked(gateway: House, path: str = "/v1/chat/completions", **body: Any) -> AsyncIterator[Any]:
    """A streamed response, its body yet to be read."""
    whole = {"model": "stub", "messages": QUESTION, "stream": True, **body}
    async with gateway.client.post(gateway.url + path, json=whole) as response:
        yield response


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[float, Any]]:
    """Each event and when it came; comments come as text, the end mark as it is."""
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith("data: "):
            content = text.removeprefix("data: ")
            yield time.monotonic(), content if content == "[DONE]" else orjson.loads(content)
        elif text.startswith(":"):
            yield time.monotonic(), text


def delta(event: Any) -> Any:
    return event["choices"][0]["delta"] if isinstance(event, dict) and event.get("choices") else {}


async def test_tokens_pass_through_as_they_come(tmp_path: Path) -> None:
    """The first token is there long before the last is decoded, and the rest come one after another."""
    async with house(tmp_path, stub={"token_s": 0.05}) as gateway, asked(gateway, model="stub:single") as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        came: list[float] = []
        decoded_at_first = 0
        async for at, event in events_of(response):
            if delta(event).get("content"):
                came.append(at)
                decoded_at_first = decoded_at_first or gateway.stub.counters.output_tokens
    assert decoded_at_first < 8
    assert came[-1] - came[0] > 0.2
    assert len(came) > 3


async def test_others_stream_progress_and_then_the_answer(tmp_path: Path) -> None:
    async with (
        house(tmp_path, {"7": 1.0}, stub={"token_s": 0.02, "n": "ignore"}, model={"max_in_flight": 4}) as gateway,
        asked(gateway, inference={"strategy": SLOW}, stream_options={"include_usage": True}) as response,
    ):
        got = [event async for _, event in events_of(response)]
        calls = gateway.stub.counters.calls
    thought = [delta(event)["reasoning_content"] for event in got if "reasoning_content" in delta(event)]
    said = [place for place, event in enumerate(got) if delta(event).get("content")]
    assert "".join(thought).startswith("Strategy: self-consistency:n=16.")
    assert len(thought) > 1
    assert "samples; " in "".join(thought)
    assert "say 7" in "".join(thought)
    assert len(said) == 1
    last_thought = max(place for place, event in enumerate(got) if "reasoning_content" in delta(event))
    assert last_thought < said[0]
    *_, ending, bill, mark = got
    assert ending["choices"][0]["finish_reason"] == "stop"
    assert (ending["thinkscale"]["samples"], ending["thinkscale"]["answer"]) == (16, "7")
    assert bill["choices"] == []
    assert bill["usage"]["completion_tokens"] == 160
    assert bill["usage"]["completion_tokens_details"]["reasoning_tokens"] == 150
    assert mark == "[DONE]"
    assert calls == 16
    assert all("thinkscale" not in event for event in got[:-3])
    assert all(event["usage"] is None for event in got[:-2])


async def test_usage_comes_only_if_asked_for(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        for model in ("stub", "stub:single"):
            async with asked(gateway, model=model) as response:
                got = [event async for _, event in events_of(response)]
            assert all("usage" not in event for event in got[:-1])
            assert got[-2]["choices"][0]["finish_reason"] == "stop"
            assert got[-2]["thinkscale"]["calls"] >= 1


@pytest.mark.parametrize("model", ["stub", "stub:single"])
async def test_a_trace_only_where_asked_for(tmp_path: Path, model: str) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with asked(gateway, model=model, inference={"trace": True}) as response:
            got = [event async for _, event in events_of(response)]
        async with asked(gateway, model=model) as response:
            quiet = [event async for _, event in events_of(response)]
    told = [
        event["thinkscale"]["event"]
        for event in got
        if isinstance(event, dict) and "event" in event.get("thinkscale", {})
    ]
    kinds = [event["event"] for event in told]
    assert kinds[:2] == ["request", "plan"]
    assert kinds[-1] == "result"
    assert {"call", "settle", "candidate"} <= set(kinds)
    assert next(event for event in told if event["event"] == "candidate")["text"].endswith("\\boxed{7}")
    assert {event["trace"] for event in told} == {response_id(got)}
    assert [event["t"] for event in told] == sorted(event["t"] for event in told)
    assert traced(quiet) == []


def traced(events: list[Any]) -> list[Any]:
    """The run's own events among those of a stream."""
    extras = [event.get("thinkscale", {}) for event in events if isinstance(event, dict)]
    return [extra["event"] for extra in extras if "event" in extra]


def response_id(events: list[Any]) -> str:
    return str(events[0]["id"]).removeprefix("chatcmpl-")


async def test_signs_of_life_while_nothing_happens(tmp_path: Path) -> None:
    reply = Reply("\\boxed{7}", latency_s=0.7)
    async with house(tmp_path, reply, keep_alive_s=0.1) as gateway:
        for path, body in (
            ("/v1/chat/completions", {}), ("/v1/chat/completions", {"model": "stub:single"}),
            ("/v1/responses", {"input": "3+4=", "messages": None}),
        ):  # fmt: skip
            whole = {"model": "stub", "messages": QUESTION, "stream": True, **body}
            whole = {name: value for name, value in whole.items() if value is not None}
            began = time.monotonic()
            async with gateway.client.post(gateway.url + path, json=whole) as response:
                got = [(at - began, event) async for at, event in events_of(response)]
            alive = [at for at, event in got if event == ": keep-alive"]
            assert len(alive) >= 2, (path, body)
            assert alive[0] < 0.6
            assert "boxed{7}" in str(got)


async def test_completions_and_responses_stream_alike(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}, stub={"token_s": 0.02}) as gateway:
        whole = {"model": "stub:single", "prompt": "3+4=", "max_tokens": 50, "stream": True}
        usage = {"stream_options": {"include_usage": True}}
        async with gateway.client.post(f"{gateway.url}/v1/completions", json={**whole, **usage}) as response:
            got = [event async for _, event in events_of(response)]
        pieces = [event["choices"][0]["text"] for event in got[:-2]]
        assert "".join(pieces) == "think " * 9 + "\\boxed{7}"
        assert len([piece for piece in pieces if piece]) > 1
        assert (got[-2]["usage"]["completion_tokens"], got[-1]) == (10, "[DONE]")


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
async def test_a_failure_before_the_first_byte_has_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    hurry(monkeypatch)
    words = {"/v1/completions": {"prompt": "3+4="}, "/v1/responses": {"input": "3+4="}}
    async with house(tmp_path, stub={"faults": lambda _number, _body: Status(500)}) as gateway:
        for model in ("stub", "stub:single"):
            body = {"model": model, "stream": True, **words.get(path, {"messages": QUESTION})}
            answer = await gateway.post(path, body)
            assert (answer.status, answer.headers["Content-Type"]) == (502, "application/json")
            assert answer.error["code"] == "upstream_error"


@pytest.mark.parametrize("fault", [Drop(4), Malformed(4), ErrorEvent(4)])
async def test_a_failure_after_it_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    hurry(monkeypatch)
    slow = {"faults": lambda _number, _body: fault, "token_s": 0.01}
    async with house(tmp_path, stub=slow) as gateway:
        async with asked(gateway, model="stub:single") as response:
            assert response.status == 200
            got = [event async for _, event in events_of(response)]
        assert "".join(delta(event).get("content") or "" for event in got) == "think think think think"
        assert got[-1] == "[DONE]"
        assert got[-2]["error"]["type"] == "server_error"
        assert set(got[-2]["error"]) == {"message", "type", "param", "code"}
        assert not any(event["choices"][0]["finish_reason"] for event in got[:-2])
        assert gateway.stub.counters.requests == 1  # what the client has heard is not drawn anew
        (record,) = await gateway.records()
        assert record["status"] in (502, 503)
        assert record["output_tokens"] >= gateway.stub.counters.output_tokens

        whole = {"model": "stub:single", "input": "3+4=", "stream": True}
        async with gateway.client.post(f"{gateway.url}/v1/responses", json=whole) as response:
            last = [event async for _, event in events_of(response)][-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["message"]


async def test_a_budget_that_ends_a_stream_ends_it_properly(tmp_path: Path) -> None:
    async with house(tmp_path, stub={"token_s": 0.02}) as gateway:
        async with asked(gateway, model="stub:single", inference={"budget": {"output_tokens": 4}}) as response:
            cut = [event async for _, event in events_of(response)]
        assert cut[-2]["choices"][0]["finish_reason"] == "length"
        async with asked(gateway, model="stub:single", inference={"budget": {"seconds": 0.1}}) as response:
            late = [event async for _, event in events_of(response)]
        assert late[-2]["choices"][0]["finish_reason"] == "length"
        assert late[-2]["thinkscale"]["stop_reason"] == "deadline"
        # Every choice that was begun is ended, those too for which there was no budget.
        async with asked(gateway, n=4, inference={"budget": {"calls": 2}}) as response:
            some = [event async for _, event in events_of(response)]
        begun = {event["choices"][0]["index"] for event in some[:-1]}
        ended = {
            e["choices"][0]["index"]: e["choices"][0]["finish_reason"]
            for e in some[:-1]
            if e["choices"][0]["finish_reason"]
        }
        assert begun == set(ended)
        assert {index: ended[index] for index in (0, 1)} == {0: "stop", 1: "stop"}
        assert some[-2]["thinkscale"]["stop_reason"] == "budget"


# -- clients that leave ---------------------------------------------------------------------------------------------

ASKS: dict[str, dict[str, Any]] = {
    "single": {"model": "stub:single"},
    "single streamed": {"model": "stub:single", "stream": True},
    "vote": {"inference": {"strategy": SLOW}},
    "vote streamed": {"inference": {"strategy": SLOW}, "stream": True},
    "choices streamed": {"n": 16, "stream": True},
}


async def leave(gateway: House, path: str, body: dict[str, Any], *, calls: int = 1, after_tokens: int = 0) -> float:
    """Ask, go away when so many calls are under way and have made so many tokens; say how long they then still ran."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.running.port)
    content = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    counters = gateway.stub.counters
    await until(lambda: counters.in_flight == calls and counters.output_tokens >= after_tokens)
    if after_tokens and body.get("stream") and (body["model"] == "stub:single" or body.get("n")):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    left = time.monotonic()
    writer.transport.abort()
    await until(lambda: counters.in_flight == 0)
    return time.monotonic() - left


@pytest.mark.parametrize("name", ASKS)
@pytest.mark.parametrize("after_tokens", [0, 40])
async def test_a_client_that_leaves_stops_every_branch(tmp_path: Path, name: str, after_tokens: int) -> None:
    """Within 100 ms, where the machine is not too busy for the test itself: alone it takes 7 ms."""
    slow: dict[str, Any] = {"owned_by": "library"} | ({"token_s": 0.02} if after_tokens else {"latency_s": 60.0})
    reply = Reply("think " * 5000)
    async with house(tmp_path, reply, stub=slow, model={"price": "1/1"}) as gateway:
        body = {"model": "stub", "messages": QUESTION, **ASKS[name]}
        calls = 1 if name.startswith("single") else 16
        took_s = await leave(gateway, "/v1/chat/completions", body, calls=calls, after_tokens=after_tokens)
        assert took_s < 0.25
        counters = gateway.stub.counters
        assert counters.cancelled == counters.requests
        assert counters.requests == calls
        await until(lambda: gateway.running.gateway.admission.inside == 0)
        (record,) = await gateway.records()
        assert record["status"] == 499
        assert record["calls"] == counters.requests
        # A token or so may have been on its way when the client left.
        assert counters.output_tokens - 2 * counters.requests <= record["output_tokens"] <= counters.output_tokens
        assert record["prompt_tokens"] >= counters.prompt_tokens
        assert record["cost_usd"] >= (record["prompt_tokens"] + record["output_tokens"]) * 0.99e-6


async def test_leaving_frees_the_place_and_the_slots(tmp_path: Path) -> None:
    two: dict[str, Any] = {"stub": {"owned_by": "library"}, "model": {"max_in_flight": 2}}
    async with house(tmp_path, Reply("x", latency_s=30.0), max_requests=1, **two) as gateway:
        for _ in range(3):
            body = {"model": "stub", "messages": QUESTION, "stream": True, "inference": {"strategy": SLOW}}
            assert await leave(gateway, "/v1/chat/completions", body, calls=2) < 0.5
            await until(lambda: gateway.running.gateway.admission.inside == 0)
        assert gateway.running.gateway.deployment.waiting() == 0


async def test_a_slow_reader_gets_all_of_it_and_delays_nobody(tmp_path: Path) -> None:
    """More than the sockets hold waits for the reader; the answer is whole in the end."""
    text = " ".join(f"w{number}" for number in range(20_000))
    async with house(tmp_path, Reply(text)) as gateway, asked(gateway, model="stub:single") as response:
        began = time.monotonic()
        others = await asyncio.gather(*(gateway.chat(model="stub:single", max_tokens=5) for _ in range(5)))
        assert time.monotonic() - began < 5
        assert {answer.status for answer in others} == {200}
        said = ""
        async for _, event in events_of(response):
            said += delta(event).get("content") or ""
            if len(said) < 2000:
                await asyncio.sleep(0.01)
    assert said == " ".join(text.split(" ")[:4096])


async def test_silence_upstream_can_be_left(tmp_path: Path) -> None:
    async with house(tmp_path, stub={"faults": lambda _number, _body: Silence(), "latency_s": 0.0}) as gateway:
        body = {"model": "stub:single", "messages": QUESTION, "stream": True}
        assert await leave(gateway, "/v1/chat/completions", body) < 0.5
