"""The stub server over real connections: its wire, its counts, and each of its faults as a plain client meets it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import pytest

from thinkscale.models.gather import Gathering
from thinkscale.models.openai import OpenAIModel
from thinkscale.testing import Reply
from thinkscale.testing.step_tree import StepTree, branches
from thinkscale.testing.stub_delivery import Served
from thinkscale.testing.stub_faults import (
    Drop,
    ErrorEvent,
    Fault,
    Malformed,
    Misreport,
    Silence,
    Slow,
    Status,
    UsageReport,
    drawn_faults,
)
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import Params, Prompt

MESSAGES = [{"role": "user", "content": "What is 3 plus 4?"}]  # 5 words
ASK: dict[str, Any] = {"model": "stub", "messages": MESSAGES}
STREAM: dict[str, Any] = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}


@asynccontextmanager
async def client(server: StubServer, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    base = server.base_url.removesuffix("v1")
    async with aiohttp.ClientSession(base, connector=aiohttp.TCPConnector(limit=0), **options) as session:
        yield session


async def post(http: aiohttp.ClientSession, body: dict[str, Any], route: str = "v1/chat/completions") -> Any:
    async with http.post(route, json=body) as response:
        return orjson.loads(await response.read())


async def stream(http: aiohttp.ClientSession, body: dict[str, Any], route: str = "v1/chat/completions") -> list[Any]:
    """The events of a stream that ends as it should."""
    async with http.post(route, json=body) as response:
        assert response.content_type == "text/event-stream"
        lines = [line[6:] for line in (await response.read()).split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    return [orjson.loads(line) for line in lines[:-1]]


async def settles(condition: Callable[[], bool]) -> None:
    """Wait for what the server does in its own time, for a second at most."""
    until = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < until, "the server did not get there"
        await asyncio.sleep(0.005)


def text_of(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def usages(events: list[Any]) -> list[int]:
    return [event["usage"]["completion_tokens"] for event in events if event.get("usage")]


class TestTheWire:
    async def test_a_whole_response(self) -> None:
        async with StubServer(tokens=3) as server, client(server) as http:
            response = await post(http, ASK)
        assert response["choices"][0]["message"] == {"role": "assistant", "content": "think think \\boxed{7}"}
        assert response["choices"][0]["finish_reason"] == "stop"
        usage = response["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 3, 8)

    async def test_a_stream(self) -> None:
        async with StubServer(tokens=3) as server, client(server) as http:
            events = await stream(http, {**STREAM, "n": 2})
        assert text_of(events, 0) == text_of(events, 1) == "think think \\boxed{7}"
        assert events[-1]["choices"] == []
        assert usages(events) == [6]
        reasons = [one["finish_reason"] for event in events for one in event["choices"] if one["finish_reason"]]
        assert reasons == ["stop", "stop"]

    async def test_usage_streams_only_when_asked_for(self) -> None:
        async with StubServer() as server, client(server) as http:
            assert usages(await stream(http, {**ASK, "stream": True})) == []

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    async def test_both_names_of_the_cap_hold(self, field: str) -> None:
        async with StubServer() as server, client(server) as http:
            response = await post(http, {**ASK, field: 4})
            events = await stream(http, {**STREAM, field: 4})
        assert (response["choices"][0]["finish_reason"], response["usage"]["completion_tokens"]) == ("length", 4)
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        assert server.counters.output_tokens == 8

    async def test_legacy_completions(self) -> None:
        async with StubServer(tokens=2) as server, client(server) as http:
            response = await post(http, {"prompt": "one two three", "logprobs": 2}, "v1/completions")
            events = await stream(http, {"prompt": "one two three", "stream": True}, "v1/completions")
        assert response["choices"][0]["text"] == "think \\boxed{7}"
        assert response["choices"][0]["logprobs"]["token_logprobs"] == [-0.1, -0.1]
        assert [len(top) for top in response["choices"][0]["logprobs"]["top_logprobs"]] == [2, 2]
        assert response["usage"]["prompt_tokens"] == 3
        assert "".join(event["choices"][0]["text"] for event in events) == "think \\boxed{7}"

    async def test_logprobs_carry_the_confidence(self) -> None:
        reply = Reply("a b", logprob=-0.5, confidence=(2.0, 3.0))
        async with StubServer(reply) as server, client(server) as http:
            response = await post(http, {**ASK, "logprobs": True, "top_logprobs": 4})
            plain = await post(http, ASK)
            events = await stream(http, {**STREAM, "logprobs": True, "top_logprobs": 4})
        content = response["choices"][0]["logprobs"]["content"]
        assert [token["logprob"] for token in content] == [-0.5, -0.5]
        means = [sum(top["logprob"] for top in token["top_logprobs"]) / 4 for token in content]
        assert means == [-2.0, -3.0]
        assert plain["choices"][0]["logprobs"] is None
        shown = [event["choices"][0]["logprobs"] for event in events if event["choices"]]
        assert [token for one in shown if one for token in one["content"]] == content

    async def test_reasoning_and_tool_calls(self) -> None:
        reply = Reply("so", reasoning="hm well", tool_calls=(CALL,))
        async with StubServer(reply) as server, client(server) as http:
            response = await post(http, ASK)
            events = await stream(http, STREAM)
        message = response["choices"][0]["message"]
        assert (message["reasoning_content"], message["tool_calls"]) == ("hm well", [CALL])
        assert response["choices"][0]["finish_reason"] == "tool_calls"
        assert response["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm well"
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert calls[0]["id"] == "c1"
        assert "".join(call["function"]["arguments"] for call in calls) == CALL["function"]["arguments"]  # type: ignore[index]
        assert len(calls) > 2
        assert usages(events) == [2 + 1 + len(calls)]

    async def test_models_and_flavours(self) -> None:
        async with StubServer(owned_by="vllm", model="m") as server, client(server) as http:
            async with http.get("v1/models") as response:
                listed = (await response.json())["data"]
            assert (listed[0]["id"], listed[0]["owned_by"]) == ("m", "vllm")
            assert (await post(http, ASK, "tokenize"))["count"] == 5
        async with StubServer(owned_by="llamacpp", max_n=4) as server, client(server) as http:
            async with http.get("props") as response:
                assert (await response.json())["total_slots"] == 4
            assert (await post(http, ASK, "v1/chat/completions/input_tokens"))["input_tokens"] == 5
            assert "error" in await post(http, ASK, "tokenize")

    async def test_a_key_is_checked(self) -> None:
        async with StubServer(key="right") as server:
            for key, status in (("right", 200), ("wrong", 401)):
                async with client(server, headers={"Authorization": f"Bearer {key}"}) as http:
                    assert (await http.post("v1/chat/completions", json=ASK)).status == status
            async with client(server) as http:
                assert (await http.get("v1/models")).status == 401

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"messages": []},
            {**ASK, "n": 0},
            {**ASK, "max_tokens": -1},
            [1],
            {**ASK, "continue_final_message": True},
        ],
    )
    async def test_nonsense_is_a_400(self, body: Any) -> None:
        async with StubServer() as server, client(server) as http:
            response = await http.post("v1/chat/completions", json=body)
            assert response.status == 400
            assert orjson.loads(await response.read())["error"]["type"] == "invalid_request_error"
            assert server.counters.calls == 0


CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
TREE = StepTree(steps=3, tokens=6)
STEPS: dict[str, Any] = {**ASK, "stop": "\n\n"}


def continuing(body: dict[str, Any], beginning: str) -> dict[str, Any]:
    return {**body, "messages": [*MESSAGES, {"role": "assistant", "content": beginning}], **CONTINUE}


class TestSteps:
    """Replies that stop at a string, continue a beginning, and find it cached."""

    @pytest.mark.parametrize(
        ("owned_by", "stopped", "ended"),
        [
            ("vllm", {"stop_reason": "\n\n"}, {"stop_reason": None}),
            ("sglang", {"matched_stop": "\n\n"}, {"matched_stop": 2}),
            ("stub", {}, {}),
        ],
    )
    async def test_a_choice_says_what_stopped_it(
        self, owned_by: str, stopped: dict[str, Any], ended: dict[str, Any]
    ) -> None:
        async with StubServer(TREE.choice, owned_by=owned_by) as server, client(server) as http:
            for body, said in ((STEPS, stopped), (ASK, ended)):
                (choice,) = (await post(http, body))["choices"]
                usual = {"index": 0, "logprobs": None, "finish_reason": "stop"}
                assert {name: choice[name] for name in choice if name != "message"} == {**usual, **said}
                events = await stream(http, {**body, "stream": True})
                *growing, last = [one for event in events for one in event["choices"]]
                assert last == {**usual, **said, "delta": {}}
                assert {one["finish_reason"] for one in growing} == {None}

    async def test_llamacpp_says_it_beside_the_choice_where_asked(self) -> None:
        async with StubServer(TREE.choice, owned_by="llamacpp") as server, client(server) as http:
            assert "__verbose" not in await post(http, STEPS)
            for body, word in (({**STEPS, "verbose": True}, "\n\n"), ({**ASK, "verbose": True}, "")):
                assert (await post(http, body))["__verbose"]["stopping_word"] == word
                events = await stream(http, {**body, "stream": True})
                assert [event["__verbose"]["stopping_word"] for event in events if "__verbose" in event] == [word]

    @pytest.mark.parametrize("owned_by", ["vllm", "sglang", "llamacpp"])
    @pytest.mark.parametrize("streams", [True, False])
    async def test_the_adapter_reads_every_way_of_saying_it(self, owned_by: str, streams: bool) -> None:
        async with (
            StubServer(TREE.choice, owned_by=owned_by) as server,
            OpenAIModel(server.base_url, stream=streams) as model,
        ):
            beginning, stops = "", []
            for _ in range(3):
                prompt = Prompt.of("What is 3 plus 4?")
                gathering = Gathering()
                params = Params(stop=("\n\n",))
                async for chunk in model.generate(replace(prompt, prefix=beginning), params):
                    gathering.add(chunk)
                stops.append(gathering.choices[0].stop_string)
                beginning += "".join(gathering.choices[0].text) + (stops[-1] or "")
        assert stops == ["\n\n", "\n\n", None]
        assert beginning.endswith(f"\\boxed{{{sum(branches(beginning))}}}")
        assert len(branches(beginning)) == 3

    async def test_a_trailing_assistant_message_is_continued_only_where_asked(self) -> None:
        begun = continuing(STEPS, "Step 1: branch 5\n\n")
        anew = {name: value for name, value in begun.items() if name not in CONTINUE}
        async with StubServer(TREE.choice) as server, client(server) as http:
            onward, afresh = [(await post(http, body))["choices"][0]["message"]["content"] for body in (begun, anew)]
            raw = await post(http, {"prompt": "Q\n\nStep 1: branch 5\n\nStep 2: branch 6\n\n"}, "v1/completions")
        assert onward.startswith("Step 2: ")
        assert afresh.startswith("Step 1: ")
        assert raw["choices"][0]["text"].startswith("Step 3: ")

    async def test_a_drawn_reply_goes_on_with_a_space(self) -> None:
        async with StubServer({"7": 1.0}, tokens=2) as server, client(server) as http:
            response = await post(http, continuing(ASK, "I"))
        assert response["choices"][0]["message"]["content"] == " think \\boxed{7}"

    async def test_choices_of_one_request_branch(self) -> None:
        async with StubServer(TREE.choice) as server, client(server) as http:
            choices = (await post(http, {**STEPS, "n": 8}))["choices"]
        assert len({choice["message"]["content"] for choice in choices}) > 4

    async def test_the_prefix_cache_saves_what_was_read_or_written(self) -> None:
        async with StubServer(TREE.choice, prefix_cache=True) as server, client(server) as http:

            async def cached(body: dict[str, Any]) -> tuple[int, int]:
                usage = (await post(http, body))["usage"]
                return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]

            assert await cached({**STEPS, "n": 2, "seed": 1}) == (5, 0)
            assert await cached(STEPS) == (5, 4)  # the last token is always read
            response = await post(http, {**STEPS, "seed": 1})
            step = response["choices"][0]["message"]["content"] + "\n\n"
            assert await cached(continuing(STEPS, step)) == (11, 10)
            assert await cached(continuing(STEPS, "Step 1: branch none\n\n")) == (9, 5 + 3)
            assert server.counters.prompt_tokens == 5 + 5 + 5 + 11 + 9
            assert server.counters.cached_tokens == 4 + 4 + 10 + 8
        async with StubServer(TREE.choice) as server, client(server) as http:
            assert [(await cached(STEPS))[1] for _ in "ab"] == [0, 0]


class TestManySamples:
    async def test_honoured_ignored_refused(self) -> None:
        async with StubServer(n="honour", max_n=8) as server, client(server) as http:
            assert len((await post(http, {**ASK, "n": 8}))["choices"]) == 8
            assert "at most 8" in (await post(http, {**ASK, "n": 9}))["error"]["message"]
        async with StubServer(n="ignore") as server, client(server) as http:
            assert len((await post(http, {**ASK, "n": 8}))["choices"]) == 1
        async with StubServer(n="refuse") as server, client(server) as http:
            assert "error" in await post(http, {**ASK, "n": 2})
            assert len((await post(http, {**ASK, "n": 1}))["choices"]) == 1
            assert (server.counters.requests, server.counters.calls) == (2, 1)

    async def test_answers_follow_the_distribution(self) -> None:
        n = 2000
        async with StubServer({"7": 0.7, None: 0.3}, tokens=1) as server, client(server) as http:
            choices = (await post(http, {**ASK, "n": n}))["choices"]
        found = Counter("7" in choice["message"]["content"] for choice in choices)
        assert abs(found[True] - n * 0.7) < 4 * (n * 0.7 * 0.3) ** 0.5

    async def test_the_same_seed_draws_the_same(self) -> None:
        async with StubServer({"7": 0.5, "8": 0.5}) as server, client(server) as http:
            seeded = [
                [one["message"] for one in (await post(http, {**ASK, "n": 16, "seed": 5}))["choices"]] for _ in "ab"
            ]
            unseeded = [[one["message"] for one in (await post(http, {**ASK, "n": 16}))["choices"]] for _ in "ab"]
        assert seeded[0] == seeded[1]
        assert unseeded[0] != unseeded[1]

    async def test_a_script_sees_the_body(self) -> None:
        def script(body: Any, index: int, rng: Random) -> Reply:
            return Reply(f"{body['temperature']} {index}")

        async with StubServer(script) as server, client(server) as http:
            choices = (await post(http, {**ASK, "temperature": 0.5, "n": 2}))["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["0.5 0", "0.5 1"]


class TestTimeAndCounts:
    async def test_latency_and_time_per_token(self) -> None:
        async with StubServer(tokens=5, latency_s=0.05, token_s=0.02) as server, client(server) as http:
            began = time.monotonic()
            async with http.post("v1/chat/completions", json=STREAM) as response:
                await response.content.readline()
                to_first = time.monotonic() - began
                await response.read()
            total = time.monotonic() - began
            began = time.monotonic()
            await post(http, ASK)
            whole = time.monotonic() - began
        assert 0.05 <= to_first < total
        assert min(total, whole) >= 0.13

    async def test_a_server_behind_its_time_leaves_no_token_out(self) -> None:
        def script(body: Any, index: int, rng: Random) -> Reply:
            return Reply(" ".join(map(str, range(300 * (index + 1)))))

        async with StubServer(script, token_s=1e-6) as server, client(server) as http:
            events = await stream(http, {**STREAM, "n": 2})
        assert [text_of(events, index) for index in (0, 1)] == [script({}, index, Random()).text for index in (0, 1)]
        assert usages(events) == [server.counters.output_tokens] == [900]

    async def test_it_counts_what_it_did(self) -> None:
        async with StubServer(tokens=3, latency_s=0.02) as server, client(server) as http:
            await asyncio.gather(*(post(http, {**ASK, "n": 2}) for _ in range(4)))
            async with http.get("counters") as response:
                told = await response.json()
        assert told == {
            "requests": 4,
            "calls": 8,
            "prompt_tokens": 20,
            "cached_tokens": 0,
            "output_tokens": 24,
            "in_flight": 0,
            "most_in_flight": 4,
            "connections": 4,
            "cancelled": 0,
            "faults": 0,
        }

    @pytest.mark.parametrize("body", [ASK, STREAM])
    async def test_the_journal_tells_what_became_of_each_request(self, body: dict[str, Any]) -> None:
        faults = [None, Status(500), Drop(after_tokens=2), ErrorEvent(after_tokens=1), Slow(60)]
        journal: list[Served] = []
        async with StubServer(tokens=3, faults=faults, journal=journal.append) as server, client(server) as http:
            for _ in range(4):
                with suppress(aiohttp.ClientPayloadError):
                    await (await http.post("v1/chat/completions", json={**body, "n": 2, "max_tokens": 9})).read()
            waiting = asyncio.create_task(post(http, body))
            await settles(lambda: server.counters.in_flight == 1)
            waiting.cancel()
            await settles(lambda: len(journal) == 5)
            await post(http, {**body, "n": 0})
            counters = server.counters
        assert journal == [
            Served(0, "What is 3 plus 4?", 2, 9, 5, 6, "complete"),
            Served(1, "What is 3 plus 4?", 0, 9, 0, 0, "refused"),
            Served(2, "What is 3 plus 4?", 2, 9, 5, 4, "broken"),
            Served(3, "What is 3 plus 4?", 2, 9, 5, 2, "broken"),
            Served(4, "What is 3 plus 4?", 1, None, 5, 0, "left"),
            Served(5, outcome="refused"),
        ]
        assert sum(one.prompt_tokens for one in journal) == counters.prompt_tokens
        assert sum(one.output_tokens for one in journal) == counters.output_tokens
        assert sum(one.n for one in journal) == counters.calls

    @pytest.mark.parametrize("body", [ASK, STREAM])
    async def test_a_client_that_leaves_is_noticed_and_its_tokens_stop(self, body: dict[str, Any]) -> None:
        async with StubServer(tokens=1000, token_s=0.01) as server, client(server) as http:
            reading = asyncio.create_task(post(http, body))
            await settles(lambda: server.counters.output_tokens >= 3)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await settles(lambda: server.counters.in_flight == 0)
            counted = server.counters.output_tokens
            await asyncio.sleep(0.05)
            assert server.counters.cancelled == 1
            assert server.counters.output_tokens == counted < 20

    async def test_closing_the_server_is_not_a_client_leaving(self) -> None:
        async with StubServer(latency_s=60) as server, client(server) as http:
            waiting = asyncio.create_task(post(http, ASK))
            await settles(lambda: server.counters.in_flight == 1)
            await server.aclose()
            with pytest.raises(aiohttp.ClientError):
                await waiting
            assert (server.counters.in_flight, server.counters.cancelled) == (0, 0)


class TestFaults:
    async def test_a_queue_strikes_in_order_and_can_be_refilled(self) -> None:
        async with StubServer(faults=[Status(500), None, Status(503)]) as server, client(server) as http:

            async def statuses(n: int) -> list[int]:
                return [(await http.post("v1/chat/completions", json=ASK)).status for _ in range(n)]

            assert await statuses(4) == [500, 200, 503, 200]
            server.faults.append(Status(529))
            assert await statuses(2) == [529, 200]
            assert (server.counters.faults, server.counters.calls) == (3, 3)

    async def test_a_script_chooses_by_number_and_body(self) -> None:
        def script(number: int, body: Any) -> Fault | None:
            return Status(500) if number % 2 or body.get("temperature") == 2 else None

        async with StubServer(faults=script) as server, client(server) as http:
            bodies = [ASK, ASK, ASK, ASK, {**ASK, "temperature": 2}]
            statuses = [(await http.post("v1/chat/completions", json=body)).status for body in bodies]
        assert statuses == [200, 500, 200, 500, 500]

    async def test_a_status_carries_retry_after_and_body(self) -> None:
        faults = [Status(429, retry_after_s=1.5, message="slow down"), Status(502, body=b"<html>")]
        async with StubServer(faults=faults) as server, client(server) as http:
            limited = await http.post("v1/chat/completions", json=ASK)
            assert (limited.status, limited.headers["Retry-After"]) == (429, "1.5")
            assert orjson.loads(await limited.read())["error"]["message"] == "slow down"
            broken = await http.post("v1/chat/completions", json=ASK)
            assert (broken.status, await broken.read()) == (502, b"<html>")
            assert (server.counters.calls, server.counters.prompt_tokens) == (0, 0)

    @pytest.mark.parametrize("body", [ASK, STREAM])
    async def test_drop_before_headers(self, body: dict[str, Any]) -> None:
        async with StubServer(faults=[Drop()]) as server, client(server) as http:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await http.post("v1/chat/completions", json=body)
            assert (await http.post("v1/chat/completions", json=body)).status == 200
            assert (server.counters.in_flight, server.counters.cancelled) == (0, 0)

    async def test_drop_after_tokens(self) -> None:
        async with StubServer(faults=[Drop(after_tokens=3)], token_s=0.001) as server, client(server) as http:
            seen = bytearray()

            async def read() -> None:
                async with http.post("v1/chat/completions", json=STREAM) as response:
                    async for block in response.content.iter_any():
                        seen.extend(block)

            with pytest.raises(aiohttp.ClientPayloadError):
                await read()
            assert seen.count(b"think") == server.counters.output_tokens == 3
            assert b"[DONE]" not in seen
            assert server.counters.cancelled == 0

    async def test_a_scripted_error_drops_after_the_reply(self) -> None:
        async with StubServer(Reply("a b", error=RuntimeError())) as server, client(server) as http:
            with pytest.raises(aiohttp.ClientPayloadError):
                await stream(http, STREAM)
            assert server.counters.output_tokens == 2

    async def test_drop_within_a_whole_body(self) -> None:
        async with StubServer(faults=[Drop(after_tokens=2)]) as server, client(server) as http:
            with pytest.raises(aiohttp.ClientPayloadError):
                await post(http, ASK)
            assert server.counters.output_tokens == 2

    @pytest.mark.parametrize("fault", [Silence(), Silence(after_tokens=2)])
    @pytest.mark.parametrize("body", [ASK, STREAM])
    async def test_silence_lasts_until_the_client_goes(self, fault: Silence, body: dict[str, Any]) -> None:
        async with StubServer(faults=[fault]) as server, client(server) as http:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(post(http, body), 0.1)
            await settles(lambda: server.counters.in_flight == 0)
            assert server.counters.output_tokens == (fault.after_tokens or 0)
            assert server.counters.cancelled == 1

    async def test_slow(self) -> None:
        async with StubServer(faults=[Slow(0.1)]) as server, client(server) as http:
            began = time.monotonic()
            await post(http, ASK)
            assert time.monotonic() - began >= 0.1

    async def test_malformed_json(self) -> None:
        async with StubServer(faults=[Malformed(), Malformed(after_tokens=2)]) as server, client(server) as http:
            with pytest.raises(orjson.JSONDecodeError):
                await post(http, ASK)
            async with http.post("v1/chat/completions", json=STREAM) as response:
                lines = [line for line in (await response.read()).split(b"\n") if line.startswith(b"data: ")]
            assert b"".join(lines).count(b"think") == 2
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(lines[-1][6:])

    async def test_an_error_where_an_event_was_due(self) -> None:
        async with StubServer(faults=[ErrorEvent(), ErrorEvent(after_tokens=2)]) as server, client(server) as http:
            assert (await post(http, ASK))["error"]["message"] == "the engine died"
            async with http.post("v1/chat/completions", json=STREAM) as response:
                lines = [line for line in (await response.read()).split(b"\n") if line.startswith(b"data: ")]
            assert orjson.loads(lines[-1][6:])["error"]["message"] == "the engine died"

    @pytest.mark.parametrize(
        ("report", "whole", "streamed"),
        [
            ("right", [9], [9]),
            ("missing", [], []),
            ("zero", [0], [0]),
            ("last", [3], [3]),
            ("per-choice", [3], [3, 3, 3]),
        ],
    )
    async def test_usage_reports(self, report: UsageReport, whole: list[int], streamed: list[int]) -> None:
        async with StubServer(tokens=3, usage=report) as server, client(server) as http:
            assert usages([await post(http, {**ASK, "n": 3})]) == whole
            assert usages(await stream(http, {**STREAM, "n": 3})) == streamed
            assert server.counters.output_tokens == 18

    async def test_drawn_faults_strike_as_often_as_they_should_and_alike_for_a_seed(self) -> None:
        chances = {"429": 0.1, "500": 0.2, "drop": 0.1, "slow": 0.1, "malformed": 0.05, "error": 0.05}
        drawn = [drawn_faults(chances, seed=1)(number, {}) for number in range(4000)]
        kinds = Counter(fault.status if isinstance(fault, Status) else type(fault) for fault in drawn if fault)
        expected = {429: 0.1, 500: 0.2, Drop: 0.1, Slow: 0.1, Malformed: 0.05, ErrorEvent: 0.05}
        assert {kind: times / 4000 for kind, times in kinds.items()} == pytest.approx(expected, abs=0.02)
        assert drawn == [drawn_faults(chances, seed=1)(number, {}) for number in range(4000)]
        assert drawn != [drawn_faults(chances, seed=2)(number, {}) for number in range(4000)]
        drops = {fault.after_tokens for fault in drawn if isinstance(fault, Drop)}
        assert drops == {None, *range(7)}
        assert all(fault.retry_after_s for fault in drawn if isinstance(fault, Status) and fault.status == 429)

    @pytest.mark.parametrize("chances", [{"42": 0.1}, {"dorp": 0.1}, {"drop": 1.1}, {"drop": 0.6, "500": 0.6}])
    def test_chances_that_make_no_sense_are_refused(self, chances: dict[str, float]) -> None:
        with pytest.raises(ValueError):
            drawn_faults(chances)

    async def test_one_request_can_be_misreported(self) -> None:
        async with StubServer(tokens=3, faults=[Misreport("missing")]) as server, client(server) as http:
            assert [usages([await post(http, ASK)]) for _ in range(2)] == [[], [3]]


@asynccontextmanager
async def served(*options: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the server as a program, which must end without a complaint."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "thinkscale.testing.stub_server", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        base_url = (await asyncio.wait_for(program.stdout.readline(), 20)).decode().strip()
        async with aiohttp.ClientSession(base_url.removesuffix("v1")) as http:
            yield http
    finally:
        program.terminate()
        _, complaints = await program.communicate()
    assert (program.returncode, complaints) == (0, b"")


class TestAsAProgram:
    async def test_fixed_replies(self) -> None:
        async with served("--tokens", "4", "--n", "ignore") as http:
            assert (await post(http, {**ASK, "n": 3}))["usage"]["completion_tokens"] == 4
            async with http.get("counters") as response:
                assert (await response.json())["calls"] == 1

    async def test_steps_and_a_prefix_cache(self) -> None:
        async with served("--steps", "3", "--tokens", "6", "--prefix-cache", "--owned-by", "vllm") as http:
            response = await post(http, STEPS)
            step = response["choices"][0]["message"]["content"]
            assert (len(step.split()), response["choices"][0]["stop_reason"]) == (6, "\n\n")
            usage = (await post(http, continuing(STEPS, step + "\n\n")))["usage"]
            assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (11, 10)

    async def test_faults_and_a_journal(self, tmp_path: Path) -> None:
        journal = tmp_path / "journal.jsonl"
        async with served("--faults", "503=0.5,429=0.5", "--seed", "3", "--journal", str(journal)) as http:
            responses = [await http.post("v1/chat/completions", json=ASK) for _ in range(20)]
            assert {response.status for response in responses} == {429, 503}
            assert {response.headers["Retry-After"] for response in responses} == {"0.1"}
        lines = [orjson.loads(line) for line in journal.read_bytes().splitlines()]
        assert [line["number"] for line in lines] == list(range(20))
        assert {line["outcome"] for line in lines} == {"refused"}
