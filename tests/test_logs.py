"""The log: one line a record, the ids in it, and nothing that people or models wrote."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
import pytest

from thinkscale.serve import logs
from thinkscale.serve.logs import access, configure_logs
from thinkscale.store.records import RequestRecord

log = logging.getLogger("thinkscale.some")
RECORD = RequestRecord(
    trace_id="t1",
    at=0.0,
    key="app",
    model="small",
    policy="careful",
    strategy="self-consistency:n=4",
    stop_reason="consensus",
    prompt_tokens=100,
    output_tokens=20,
    samples=4,
    cost_usd=0.0015,
    seconds=1.25,
    events=[{"event": "request", "prompt": "SECRET"}],
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("thinkscale")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_record_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True)
    log.warning("odd\n%s", "✓", extra={"backend": "a", "paths": [(0,), (1,)], "model": object})
    (line,) = lines(capsys)
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert (line["level"], line["logger"], line["message"]) == ("warning", "thinkscale.some", "odd\n✓")
    assert (line["backend"], line["paths"], line["model"]) == ("a", [[0], [1]], "<class 'object'>")
    assert set(line) == {"time", "level", "logger", "message", "backend", "paths", "model"}


async def test_lines_carry_the_ids_of_the_request_they_are_about(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True)

    async def request(name: str) -> None:
        logs.request_id.set(name)
        await asyncio.sleep(0)
        log.warning("first")
        logs.trace_id.set(f"trace of {name}")
        await asyncio.create_task(asyncio.to_thread(log.warning, "second"))

    await asyncio.gather(asyncio.create_task(request("a")), asyncio.create_task(request("b")))
    log.warning("outside")
    found = {(line["message"], line.get("request_id"), line.get("trace_id")) for line in lines(capsys)}
    assert found == {
        ("first", "a", None),
        ("first", "b", None),
        ("second", "a", "trace of a"),
        ("second", "b", "trace of b"),
        ("outside", None, None),
    }


def test_a_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True)
    access(RECORD, "r1")
    (line,) = lines(capsys)
    assert (
        line["message"] == "200 small:careful self-consistency:n=4 consensus 4 samples, 120 tokens, $0.001500, 1.250 s"
    )
    assert (line["logger"], line["request_id"], line["trace_id"]) == ("thinkscale.access", "r1", "t1")
    assert (line["key"], line["status"], line["prompt_tokens"], line["cost_usd"]) == ("app", 200, 100, 0.0015)
    assert "SECRET" not in str(line)
    configure_logs(json=True, level="warning")
    access(RECORD, "r2")
    assert lines(capsys) == []


def fail(secret: str) -> None:
    try:
        raise ValueError(f"{secret} inner")
    except ValueError as error:
        raise RuntimeError(f"{secret} outer") from error


@pytest.mark.parametrize("json", [True, False])
@pytest.mark.parametrize("content", [True, False])
def test_content_only_where_it_is_switched_on(capsys: pytest.CaptureFixture[str], json: bool, content: bool) -> None:
    configure_logs(json=json, content=content)
    try:
        fail("SECRET")
    except RuntimeError:
        log.exception("a call failed", extra={"text": "SECRET text", "prompt": "SECRET prompt", "status": 503})
    written = capsys.readouterr().err
    assert ("SECRET outer" in written) is content
    assert ("SECRET inner" in written) is content
    assert ("SECRET text" in written) is (content and json)
    for told in ("a call failed", "ValueError", "RuntimeError", "in fail"):
        assert told in written, "what failed and where is always told"


def test_a_terminal_gets_lines_for_people_and_a_pipe_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    configure_logs()
    logs.request_id.set(None)
    log.warning("a title \x1b]0;owned\x07 and\r a return")
    access(RECORD, "r1")
    first, second = capsys.readouterr().err.splitlines()
    assert first[8:] == " warning a title \\x1b]0;owned\\x07 and\\x0d a return"
    assert second.endswith("1.250 s [r1]")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    configure_logs()
    log.warning("one")
    assert [line["message"] for line in lines(capsys)] == ["one"]


def test_levels_and_setting_up_twice(capsys: pytest.CaptureFixture[str]) -> None:
    others = list(logging.getLogger().handlers)
    configure_logs(json=True, level="debug")
    configure_logs(json=True, level="info")
    log.debug("too fine")
    log.info("fine")
    logging.getLogger("elsewhere").info("not ours")
    logging.getLogger("elsewhere").warning("grave")
    assert [line["message"] for line in lines(capsys)] == ["fine", "grave"]
    assert [one for one in logging.getLogger().handlers if one in others] == others, "those of others stay"


def test_an_unknown_price_is_not_free(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(json=True)
    access(RequestRecord(trace_id="", at=0.0, status=429, cost_usd=None), "r1")
    (line,) = lines(capsys)
    assert line["cost_usd"] is None
    assert line["message"] == "429 - - - 0 samples, 0 tokens, price unknown, 0.000 s"
