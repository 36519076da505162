"""Limits that hold: keys and their budgets, places inside, fair turns, fallback, draining, sudden death."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running_gateway import QUESTION, Answer, House, Process, config_for, house, hurry, until
from sqlalchemy import text

from thinkscale.serve.config import PolicyConfig
from thinkscale.serve.run import open_gateway
from thinkscale.store.database import Database
from thinkscale.store.keys import KeyLimits, KeyStore
from thinkscale.testing.reply import Reply
from thinkscale.testing.stub_faults import Status
from thinkscale.testing.stub_server import StubServer

SINGLE: dict[str, Any] = {"model": "stub:single", "messages": QUESTION, "max_tokens": 10}


async def many(gateway: House, secret: str, count: int, **body: Any) -> list[Answer]:
    asked = (gateway.chat(key=secret, **{**SINGLE, **body}) for _ in range(count))
    return list(await asyncio.gather(*asked))


def spent(gateway: House) -> int:
    """Tokens that the backend worked on."""
    return gateway.stub.counters.prompt_tokens + gateway.stub.counters.output_tokens


# -- keys -----------------------------------------------------------------------------------------------------------


async def test_requests_per_minute(tmp_path: Path) -> None:
    async with house(tmp_path) as gateway:
        _, secret = await gateway.key(limits=KeyLimits(requests_per_minute=5))
        _, other = await gateway.key("other")
        if time.time() % 60 > 55:  # a window must not end in the middle
            await asyncio.sleep(60 - time.time() % 60)
        answers = await many(gateway, secret, 12)
        assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 7
        refused = next(answer for answer in answers if answer.status == 429)
        assert (refused.error["type"], refused.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert "x-should-retry" not in refused.headers
        assert gateway.stub.counters.calls == 5
        assert (await gateway.chat(key=other, **SINGLE)).status == 200
        assert (await gateway.get("/v1/models", key=secret)).status == 200


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (KeyLimits(tokens_per_minute=400), 429),
        (KeyLimits(tokens_per_day=400), 402),
        (KeyLimits(tokens_per_month=400), 402),
        (KeyLimits(usd_per_day=0.004), 402),
        (KeyLimits(usd_per_month=0.004), 402),
    ],
)
async def test_what_a_key_may_use_holds_for_all_its_requests_together(
    tmp_path: Path, limits: KeyLimits, status: int
) -> None:
    async with house(tmp_path, model={"price": "10/10"}, stub={"latency_s": 0.02}) as gateway:
        _, secret = await gateway.key(limits=limits)
        if limits.tokens_per_minute and time.time() % 60 > 55:
            await asyncio.sleep(60 - time.time() % 60)
        statuses = [answer.status for answer in await many(gateway, secret, 40)]
        voted = await gateway.chat(key=secret, max_tokens=10, inference={"strategy": "self-consistency:n=64"})
        assert set(statuses) == {200, status}
        assert 3 <= statuses.count(200) <= 400 // 13
        assert gateway.stub.counters.requests < 40
        assert spent(gateway) <= 400
        last = (await many(gateway, secret, 1))[0]
        assert last.status == status
        if status == 402:
            assert last.headers["x-should-retry"] == "false"
            assert last.error["code"] == "budget_exhausted"
        assert voted.status in (200, status)


async def test_one_request_stops_at_its_keys_limit_with_the_best_so_far(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        _, secret = await gateway.key(limits=KeyLimits(tokens_per_day=600))
        answer = await gateway.chat(key=secret, max_tokens=10, inference={"strategy": "self-consistency:n=200"})
        assert (answer.status, answer.json["thinkscale"]["stop_reason"]) == (200, "budget")
        assert answer.json["thinkscale"]["answer"] == "7"
        assert 300 < spent(gateway) <= 600


async def test_what_was_spent_survives_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path) as gateway:
        _, secret = await gateway.key(limits=KeyLimits(tokens_per_day=400))
        while (await gateway.chat(key=secret, **SINGLE)).status == 200:
            pass
        assert 0 < spent(gateway) <= 400
    async with house(tmp_path) as gateway:
        answer = await gateway.chat(key=secret, **SINGLE)
        assert answer.status == 402
        assert gateway.stub.counters.calls == 0


# -- places and turns -----------------------------------------------------------------------------------------------


async def test_a_full_house_says_when_to_come_again(tmp_path: Path) -> None:
    async with house(tmp_path, stub={"latency_s": 0.3}, max_requests=4, per_key=2) as gateway:
        _, secret = await gateway.key()
        _, other = await gateway.key("other")
        greedy, modest = await asyncio.gather(many(gateway, secret, 6), many(gateway, other, 2))
        assert sorted(answer.status for answer in greedy) == [200] * 2 + [429] * 4
        assert [answer.status for answer in modest] == [200, 200]
        refused = next(answer for answer in greedy if answer.status == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert gateway.stub.counters.most_in_flight == 4
        assert [answer.status for answer in await many(gateway, secret, 2)] == [200, 200]


async def test_a_heavy_request_does_not_starve_light_ones(tmp_path: Path) -> None:
    """256 samples want every slot for a second and more; light requests get theirs at the next turn."""
    async with house(
        tmp_path, {"7": 1.0}, stub={"latency_s": 0.05, "max_n": 8}, model={"max_in_flight": 8}
    ) as gateway:  # fmt: skip
        _, light = await gateway.key("light")
        _, heavy = await gateway.key("heavy")

        load = asyncio.create_task(gateway.chat(key=heavy, inference={"strategy": "self-consistency:n=256"}))
        await until(lambda: gateway.stub.counters.in_flight >= 1 and gateway.stub.counters.calls > 10)
        for _ in range(5):
            before = gateway.stub.counters.calls
            assert (await gateway.chat(key=light, **SINGLE)).status == 200
            # At most the turn that was on, the one it shares, and what began while its own reply was on the way.
            assert gateway.stub.counters.calls - before <= 4 * 8
        assert not load.done()
        answer = await load
        assert answer.json["thinkscale"]["samples"] == 256


# -- fallback -------------------------------------------------------------------------------------------------------


async def test_a_second_backend_stands_in_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    faults: list[Any] = []
    async with (
        StubServer({"7": 1.0}, faults=lambda number, _body: faults[0] if faults else None) as first,
        StubServer({"8": 1.0}) as second,
        open_gateway(config_for(first.base_url, second.base_url, folder=tmp_path)) as running,
        aiohttp.ClientSession() as client,
    ):
        gateway = House(first, running, client, [])

        async def said(**body: Any) -> str:
            answer = await gateway.chat(**{**SINGLE, **body})
            assert answer.status == 200, answer.content
            return answer.text if body.get("stream") else answer.json["choices"][0]["message"]["content"]

        assert "7" in await said()
        faults.append(Status(500))
        assert "8" in await said()
        assert "8" in await said(stream=True)
        faults.clear()
        await first.aclose()
        assert "8" in await said()
        assert "8" in await said(model="stub", stream=True)
        await second.aclose()
        assert (await gateway.chat(**SINGLE)).status == 503


# -- the end --------------------------------------------------------------------------------------------------------


async def settings_for(stub: StubServer, folder: Path, *lines: str) -> tuple[Path, str]:
    """A configuration file for one model behind the stub, and a key."""
    url = f"sqlite:///{folder}/gateway.db"
    async with Database(url) as database:
        _, secret = await KeyStore(database).add("ci", limits=KeyLimits(tokens_per_day=100_000))
    server = "\n".join(("[server]", "port = 0", f'database = "{url}"', *lines))
    model = f'[[models]]\nname = "stub"\nbackends = ["{stub.base_url}#stub"]'
    file = folder / "gateway.toml"
    file.write_text(f"{server}\n{model}\n")
    return file, secret


async def post(client: aiohttp.ClientSession, url: str, secret: str, **body: Any) -> Answer:
    headers = {"Authorization": f"Bearer {secret}"}
    whole = {**SINGLE, **body}
    async with client.post(f"{url}/v1/chat/completions", json=whole, headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())


async def status_of(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as response:
        return response.status


async def test_sigterm_lets_those_inside_finish(tmp_path: Path) -> None:
    async with StubServer(Reply("\\boxed{7}", latency_s=1.5)) as stub, aiohttp.ClientSession() as client:
        file, secret = await settings_for(stub, tmp_path)
        async with Process("--config", str(file)) as gateway:
            inside = [asyncio.create_task(post(client, gateway.url, secret, stream=bool(n % 2))) for n in range(6)]
            await until(lambda: stub.counters.in_flight == 6)
            assert await status_of(client, f"{gateway.url}/readyz") == 200
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert await status_of(client, f"{gateway.url}/readyz") == 503
            assert await status_of(client, f"{gateway.url}/healthz") == 200
            refused = await post(client, gateway.url, secret)
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            answers = await asyncio.gather(*inside)
            assert [answer.status for answer in answers] == [200] * 6
            assert all(b"boxed{7}" in answer.content for answer in answers)
            async with asyncio.timeout(10):
                assert await gateway.process.wait() == 0
        assert await charged(tmp_path) == stub.counters.prompt_tokens + stub.counters.output_tokens == 6 * 4


async def test_what_takes_too_long_to_drain_gets_its_best_so_far(tmp_path: Path) -> None:
    replies = iter([Reply("\\boxed{7}")])
    script = lambda _body, _index, _rng: next(replies, Reply("\\boxed{8}", latency_s=60.0))  # noqa: E731
    async with StubServer(script, n="ignore") as stub, aiohttp.ClientSession() as client:
        config = config_for(
            stub.base_url, folder=tmp_path, drain_s=0.3, policies={"vote": PolicyConfig("self-consistency:n=4")}
        )
        async with open_gateway(config) as running:
            inside = asyncio.create_task(post(client, running.url, "anything", model="stub:vote"))
            await until(lambda: stub.counters.in_flight == 3)
        answer = await inside
    assert (answer.status, answer.json["thinkscale"]["stop_reason"]) == (200, "interrupted")
    assert answer.json["thinkscale"]["answer"] == "7"


async def test_a_sudden_death_loses_no_spend_that_was_settled(tmp_path: Path) -> None:
    """After SIGKILL the key is charged at least what the backend did: its lease stands for what was not reported."""
    async with StubServer(Reply("so it is \\boxed{7}")) as stub, aiohttp.ClientSession() as client:
        file, secret = await settings_for(stub, tmp_path)
        async with Process("--config", str(file)) as gateway:
            answers = await asyncio.gather(*(post(client, gateway.url, secret) for _ in range(20)))
            assert {answer.status for answer in answers} == {200}
            await asyncio.sleep(1.5)  # what was spent is reported every second
            reported = stub.counters.prompt_tokens + stub.counters.output_tokens
            with suppress(aiohttp.ClientError):
                late = [asyncio.create_task(post(client, gateway.url, secret)) for _ in range(5)]
                await asyncio.wait(late)
            await gateway.kill()
            await asyncio.gather(*late, return_exceptions=True)
        assert reported == 20 * 7
        assert await charged(tmp_path) >= stub.counters.prompt_tokens + stub.counters.output_tokens


async def charged(folder: Path) -> int:
    """What the key's day is charged: what was spent, and what a gateway that died had leased."""
    url = f"sqlite:///{folder}/gateway.db"
    async with Database(url) as database, database.begin() as connection:
        query = "SELECT spent_tokens + leased_tokens FROM account_windows WHERE per = 'day'"
        return int(await connection.scalar(text(query)) or 0)


async def test_a_second_signal_gives_those_inside_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    async with StubServer(Reply("word " * 400), token_s=0.05) as stub:
        file.write_text(
            f'[server]\nport = 0\ndatabase = "sqlite:///{tmp_path}/gateway.db"\n'
            f'[[models]]\nname = "stub"\nbackends = ["{stub.base_url}#stub"]\n'
        )
        async with Process("--config", str(file)) as gateway, aiohttp.ClientSession() as client:
            asked = client.post(f"{gateway.url}/v1/chat/completions", json={**SINGLE, "max_tokens": 500})
            answer = asyncio.create_task(whole(asked))
            await until(lambda: stub.counters.in_flight == 1)
            await asyncio.sleep(0.5)
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert not answer.done()
            gateway.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                status, body = await answer
            assert (status, body["thinkscale"]["stop_reason"]) == (200, "interrupted")
            assert body["choices"][0]["message"]["content"].startswith("word")


async def whole(asked: Any) -> tuple[int, Any]:
    async with asked as response:
        return response.status, await response.json()
