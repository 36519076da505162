"""What people who run a gateway rely on: it gives nothing away, is not worn down, and goes on without its database."""

from __future__ import annotations

import io
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running_gateway import house, hurry

from thinkscale.serve.config import PolicyConfig
from thinkscale.serve.logs import configure_logs
from thinkscale.testing.stub_faults import Status
from thinkscale.types import Budget


async def test_clients_cannot_make_verifiers_without_end(tmp_path: Path) -> None:
    async with house(tmp_path) as gateway:
        statuses = []
        for kind in range(70):
            word = "arithmetic" + "+arithmetic" * (kind % 35) + (":aggregate=mean" if kind >= 35 else "")
            answer = await gateway.chat(inference={"strategy": "best-of-n:n=1", "verifier": word})
            statuses.append(answer.status)
        assert (statuses[0], statuses[-1]) == (200, 400)
        again = await gateway.chat(inference={"strategy": "best-of-n:n=1", "verifier": "arithmetic"})
        assert again.status == 200


async def test_a_key_may_name_its_model_by_an_alias(tmp_path: Path) -> None:
    async with house(tmp_path, model={"aliases": ("gpt-4o-mini",)}) as gateway:
        _, secret = await gateway.key(models=["gpt-4o-mini"])
        assert (await gateway.chat(key=secret, model="gpt-4o-mini:single")).status == 200


async def test_an_effort_does_not_widen_what_a_key_was_given(tmp_path: Path) -> None:
    policies = {"small": PolicyConfig("self-consistency:n=8", Budget(max_calls=2))}
    async with house(tmp_path, policies=policies) as gateway:
        _, secret = await gateway.key(policies=["small"])
        bound = await gateway.chat(key=secret, model="stub:small", reasoning_effort="max")
        free = await gateway.chat(model="stub:small", reasoning_effort="max")
        assert (bound.json["thinkscale"]["calls"], free.json["thinkscale"]["calls"]) == (2, 8)


async def test_refusals_are_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "thinkscale.access")
    async with house(tmp_path) as gateway:
        assert (await gateway.chat(key="ts-00000000-wrong")).status == 401
        assert (await gateway.chat(model="nobody")).status == 404
        assert (await gateway.chat(model="stub:single")).status == 200
        metrics = (await gateway.get("/metrics")).content.decode()
    for status in (401, 404):
        assert f'thinkscale_requests_total{{model="",policy="",status="{status}"}} 1.0' in metrics
        assert any(record.getMessage() == f"{status} POST /v1/chat/completions" for record in caplog.records)


async def test_the_log_does_not_quote_a_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    fault = Status(500, message="could not parse prompt 'my secret diary'")
    heard = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("thinkscale")
    before = (list(root.handlers), root.level, ours.level)
    monkeypatch.setattr(sys, "stderr", heard)
    configure_logs(json=True)
    try:
        async with house(tmp_path, stub={"faults": lambda _number, _body: fault}) as gateway:
            assert (await gateway.chat(model="stub:single")).status == 502
    finally:
        root.handlers[:], level, own_level = before
        root.setLevel(level)
        ours.setLevel(own_level)
    assert "status 500" in heard.getvalue()
    assert "diary" not in heard.getvalue()


async def test_a_long_prompt_whose_length_is_only_guessed_is_answered_in_full(tmp_path: Path) -> None:
    async with house(tmp_path, stub={"owned_by": "vllm", "tokens": 30}) as gateway:
        served = gateway.running.gateway.deployment.served["stub"]
        served.engine.model._context = 4096  # type: ignore[attr-defined]
        answer = await gateway.post(
            "/v1/completions", {"model": "stub:single", "prompt": "word " * 1000, "max_tokens": 40}
        )
        assert answer.json["choices"][0]["finish_reason"] == "stop"


async def test_reasoning_items_may_be_sent_back(tmp_path: Path) -> None:
    async with house(tmp_path) as gateway:
        first = await gateway.post("/v1/responses", {"model": "stub", "input": "What is 3+4?", "stream": True})
        done = next(event for event in first.events if event["type"] == "response.completed")
        output = done["response"]["output"]
        assert [item["type"] for item in output] == ["reasoning", "message"]
        asked = [{"role": "user", "content": "What is 3+4?"}, *output, {"role": "user", "content": "Sure?"}]
        answer = await gateway.post("/v1/responses", {"model": "stub:single", "input": asked})
        assert answer.status == 200
        roles = [message["role"] for message in gateway.bodies[-1]["messages"]]
        assert roles == ["user", "assistant", "user"]


async def test_known_keys_outlive_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, require_key=True) as gateway:
        _, secret = await gateway.key()
        assert (await gateway.get("/v1/models", key=secret)).status == 200
        keys, now = gateway.running.keys, time.time()

        def away() -> Any:
            raise OSError("unreachable")

        monkeypatch.setattr(keys._database, "begin", away)
        monkeypatch.setattr(keys, "_clock", lambda: now + 60)
        assert (await gateway.get("/v1/models", key=secret)).status == 200
        monkeypatch.setattr(keys, "_clock", lambda: now + 3600)
        late = await gateway.get("/v1/models", key=secret)
        assert (late.status, late.error["code"]) == (503, "store_unavailable")
        monkeypatch.undo()
