"""The soak of the gateway, short: real processes, faults from the backends, clients that leave; and that its checks can
fail.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson
import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The benches import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield
    for name in [name for name, module in sys.modules.items() if str(BENCH) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


async def test_ten_seconds_of_it(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BENCH / "soak.py"), "--seconds", "10", "--clients", "16", "--out", str(out)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(program.communicate(), 150)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, said.decode()
    report = json.loads(out.read_text())
    assert [one["name"] for one in report["checks"] if one["met"] is not True] == ["memory is flat"]
    assert report["ended"]["answered"] > 50
    assert report["ended"]["left"] > 0


PLAIN = (
    b'{"outcome":"complete","about":"Request 0: what is 3 plus 4?","n":1,"max_tokens":32,'
    b'"prompt_tokens":7,"output_tokens":18}\n'
)
CUT = PLAIN.replace(b"complete", b"broken")
LEFT = PLAIN.replace(b"complete", b"left")
LINE = {"request_id": "soak-0", "key": "large", "prompt_tokens": 7, "output_tokens": 18}


def compared(folder: Path, journal: bytes, ended: str, *lines: dict[str, Any], stopping: bool = False) -> Any:
    """One request for one sample, as the journal, its client and the gateway's log tell of it."""
    clients, bill = import_module("soak_clients"), import_module("soak_bill")
    (folder / "journal").write_bytes(journal)
    (folder / "log").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    plan = clients.Plan(0, "large", clients.KINDS[0], False, {}, None)
    outcome = clients.Outcome(plan, 100.0, 1.0, ended=ended)
    if ended == "answered":
        outcome.prompt_tokens, outcome.output_tokens = 7, 18
    outage = bill.Outage(100.5, 100.6, 100.7) if stopping else bill.Outage(0, 0, 0)
    return bill.compare([outcome], bill.journals([folder / "journal"]), bill.charges(folder / "log"), outage)


class TestTheBill:
    def test_a_plain_request_is_charged_to_the_token(self, tmp_path: Path) -> None:
        found = compared(tmp_path, PLAIN, "answered", LINE)
        assert (found.faults, found.plain_requests, found.plain, found.charged) == ([], 1, 25, {"large": 25})

    @pytest.mark.parametrize("journal", [PLAIN.replace(b"18", b"19"), PLAIN.replace(b":7", b":6"), PLAIN * 2, b""])
    def test_another_count_of_the_stubs_is_a_fault(self, tmp_path: Path, journal: bytes) -> None:
        assert compared(tmp_path, journal, "answered", LINE).faults

    def test_another_bill_in_the_reply_is_a_fault(self, tmp_path: Path) -> None:
        journal = PLAIN.replace(b"18", b"19")
        assert len(compared(tmp_path, journal, "answered", {**LINE, "output_tokens": 19}).faults) == 1

    @pytest.mark.parametrize(
        ("journal", "prompt", "output", "allowed"),
        [
            (CUT, 7, 18, True),
            (CUT, 7, 3, True),
            (CUT, 7, 32, True),  # the whole reservation
            (CUT, 7, 33, False),
            (CUT, 6, 18, False),
            (LEFT, 7, 0, True),
            (LEFT, 7, 18, True),
            (LEFT, 7, 19, False),
            (LEFT, 6, 0, False),
            (b"", 7, 0, True),  # cancelled before it was sent
            (b"", 7, 1, False),
            (b"", 48, 0, False),
        ],
    )
    def test_what_was_cut_short_is_charged_within_bounds(
        self, tmp_path: Path, journal: bytes, prompt: int, output: int, allowed: bool
    ) -> None:
        line = {**LINE, "prompt_tokens": prompt, "output_tokens": output}
        found = compared(tmp_path, journal, "left", line)
        assert (not found.faults) == allowed
        assert found.others == 1

    def test_a_request_that_nobody_logged_is_a_fault_unless_it_never_came(self, tmp_path: Path) -> None:
        assert compared(tmp_path, PLAIN, "answered").faults
        assert compared(tmp_path, PLAIN, "left").faults
        assert not compared(tmp_path, b"", "left").faults

    def test_what_belongs_to_no_request_or_comes_twice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no request"):
            compared(tmp_path, PLAIN.replace(b"Request", b"Reply"), "answered", LINE)
        with pytest.raises(ValueError, match="twice"):
            compared(tmp_path, PLAIN, "answered", LINE, LINE)

    def test_a_call_may_be_lost_whole_while_a_backend_stops(self, tmp_path: Path) -> None:
        line = {**LINE, "output_tokens": 32}
        assert compared(tmp_path, b"", "refused", line).faults
        assert not compared(tmp_path, b"", "refused", line, stopping=True).faults


def events(*chunks: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + end


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
ROLE = {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
TEXT = {"choices": [{"delta": {"content": "7"}, "finish_reason": None}]}
FINISH = {"choices": [{"delta": {}, "finish_reason": "stop"}], "thinkscale": {"stop_reason": "complete"}}
BILL = {"choices": [], "usage": USAGE}
ERROR = {"error": {"message": "it broke", "type": "server_error", "param": None, "code": None}}


class TestWhatClientsInsistOn:
    def test_a_whole_stream_and_one_that_tells_of_its_failure_pass(self) -> None:
        read = import_module("soak_clients")._stream
        assert read(b": keep-alive\n\n" + events(ROLE, TEXT, FINISH, BILL)) == (USAGE, FINISH["thinkscale"])
        assert read(events(ROLE, TEXT, ERROR)) is None

    @pytest.mark.parametrize(
        "content",
        [
            events(ROLE, TEXT, FINISH, BILL, end=b""),
            events(ROLE, TEXT, FINISH, BILL)[:-1],
            events(TEXT, FINISH, BILL),
            events(ROLE, FINISH, BILL),
            events(ROLE, TEXT, BILL),
            events(ROLE, TEXT, FINISH, FINISH, BILL),
            events(ROLE, TEXT, FINISH),
            events(ROLE, TEXT, {"error": "it broke"}),
            events(ROLE, TEXT, {"error": {**ERROR["error"], "message": ""}}),
        ],
    )
    def test_others_do_not(self, content: bytes) -> None:
        clients = import_module("soak_clients")
        with pytest.raises(clients.WrongReply):
            clients._stream(content)

    def test_a_bill_over_its_budget_or_that_does_not_add_up_is_wrong(self) -> None:
        clients = import_module("soak_clients")
        plan = clients.Plan(0, "large", clients.KINDS[0], False, {"tokens": 9, "calls": 1}, None)
        purposes = {"generate": {"prompt_tokens": 7, "output_tokens": 2}}
        report = {"usage_by_purpose": purposes, "calls": 1, "stop_reason": "complete", "trace_id": "0" * 32}
        assert clients._check_bill(USAGE, report, plan) == (7, 2, "complete")
        for usage, told in (
            ({**USAGE, "total_tokens": 10}, report),
            ({**USAGE, "completion_tokens": 3, "total_tokens": 10}, report),
            (USAGE, {**report, "calls": 2}),
            (USAGE, {**report, "trace_id": ""}),
        ):
            with pytest.raises(clients.WrongReply):
                clients._check_bill(usage, told, plan)
        tight = clients.Plan(0, "large", clients.KINDS[0], False, {"tokens": 8}, None)
        with pytest.raises(clients.WrongReply, match="over its budget"):
            clients._check_bill(USAGE, report, tight)
