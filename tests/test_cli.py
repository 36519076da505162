"""The command line as people and scripts use it: real processes against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from thinkscale.testing.stub_server import StubServer
from thinkscale.words import parse_kind

COMMAND = [sys.executable, "-m", "thinkscale.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_TOKEN"))}
    return kept | {"COLUMNS": "160"} | more


async def thinkscale(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=environment(**env),
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return subprocess.CompletedProcess(words, process.returncode or 0, out.decode(), err.decode())


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {n} + 4?", "answer": "7" if n % 2 else "8"} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_solve_answers_and_gives_its_bill_as_json() -> None:
    async with StubServer({"7": 0.7, "8": 0.3}, tokens=12) as server:
        done = await thinkscale(
            "solve", "What is 3 + 4?", "--model", server.base_url, "--strategy", "self-consistency:n=8", "--json",
            "--budget", "tokens=4000,seconds=20", "--price", "1/2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["answer"] == "7"
        assert result["stop_reason"] == "complete"
        assert 0.5 <= result["confidence"] <= 1
        usage = result["usage"]
        assert usage["output_tokens"] == server.counters.output_tokens
        assert usage["prompt_tokens"] == server.counters.prompt_tokens
        assert usage["calls"] == 8
        assert usage["seconds"] > 0
        assert usage["cost_usd"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["output_tokens"]) / 1e6)
        assert result["usage_by_purpose"]["generate"]["calls"] == 8
        assert result["trace_id"]
        assert result["text"]


async def test_solve_shows_people_the_answer_why_it_stopped_and_the_cost_by_purpose() -> None:
    async with StubServer({"7": 1.0}) as server:
        done = await thinkscale(
            "solve", "What is 3 + 4?", "--model", server.base_url, "--strategy", "best-of-n:n=4", "--verifier", "judge"
        )
    assert done.returncode == 0, done.stderr
    assert "answer: 7" in done.stdout
    assert "confidence" in done.stderr
    assert "all samples drawn" in done.stderr
    for purpose in ("generate", "verify", "in all"):
        assert re.search(rf"^{purpose}\s+\d", done.stderr, re.MULTILINE), done.stderr


async def test_a_trace_keeps_every_event_on_a_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with StubServer({"7": 1.0}) as server:
        done = await thinkscale("solve", "3 + 4?", "--model", server.base_url, "--trace", str(path), "--json")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {event["v"] for event in events} == {1}
    assert {event["trace"] for event in events} == {json.loads(done.stdout)["trace_id"]}
    assert [event["event"] for event in events][:2] == ["request", "plan"]
    assert events[-1]["event"] == "result"
    assert sum(event["event"] == "candidate" for event in events) == 16


async def test_an_interruption_gives_the_best_answer_so_far() -> None:
    def slow_after(number: int, _body: Any) -> Any:
        from thinkscale.testing.stub_faults import Slow

        return Slow(60) if number >= 4 else None

    async with StubServer({"7": 1.0}, n="refuse", faults=slow_after) as server:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "solve", "3 + 4?", "--model", server.base_url, "--json",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        async with asyncio.timeout(30):
            while server.counters.in_flight < 12:
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        result = json.loads(out)
        assert (result["answer"], result["stop_reason"]) == ("7", "interrupted"), err
        assert process.returncode == 130
        async with asyncio.timeout(5):
            while server.counters.in_flight:
                await asyncio.sleep(0.02)


SOLVE = ["solve", "What is 3 + 4?"]
DEAD = ["--model", "http://127.0.0.1:9/v1"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([*SOLVE, "--strategy", "self-consistancy:n=4", *DEAD], 2, "did you mean self-consistency"),
        ([*SOLVE, "--strategy", "self-consistency:n=-4", *DEAD], 2, "at least 1"),
        ([*SOLVE, "--budget", "tokens=lots", *DEAD], 2, "tokens='lots'"),
        ([*SOLVE, "--budget", "token=5", *DEAD], 2, "tokens=NUMBER"),
        ([*SOLVE, "--budget", "seconds=-1", *DEAD], 2, "positive"),
        ([*SOLVE, "--budget", "", *DEAD], 2, "empty"),
        ([*SOLVE, "--budget", "calls=1,calls=2", *DEAD], 2, "twice"),
        ([*SOLVE, "--price", "nan/1", *DEAD], 2, "amounts"),
        ([*SOLVE, "--kind", "numbr", *DEAD], 2, "unknown kind"),
        ([*SOLVE, "--price", "cheap", *DEAD], 2, "IN/OUT"),
        ([*SOLVE, "--trace", "/nowhere/at/all/trace.jsonl", *DEAD], 2, "does not exist"),
        ([*SOLVE, *DEAD], 1, "is the server running there"),
        ([*SOLVE, "--model", "nowhere.gguf"], 2, "nowhere.gguf"),
        ([*SOLVE, "--model", "smolm2"], 2, "smollm2"),
        ([*SOLVE, "--model", "http://me:secret@127.0.0.1/v1"], 2, "must not carry"),
        ([*SOLVE, "--verifier", "oracle", *DEAD], 2, "unknown verifier"),
        ([*SOLVE, "--verifier", "judge=smolm2", *DEAD], 2, "smollm2"),
        ([*SOLVE, "--verifier", "checker", *DEAD], 2, "needs a task"),
        ([*SOLVE, "--strategy", "best-of-n", "--model", "STUB"], 2, "needs a verifier"),
        ([*SOLVE, "--budget", "usd=1", "--model", "STUB"], 2, "price"),
        ([*SOLVE, "--budget", "tokens=5", "--model", "STUB"], 1, "max_total_tokens"),
        (["solve", "  ", *DEAD], 2, "empty"),
        (["bench", "--task", "liner", "--out", "OUT", *DEAD], 2, "linear"),
        (["bench", "--task", "gsm8k:/nowhere.jsonl", "--out", "OUT", *DEAD], 2, "/nowhere.jsonl"),
        (["bench", "--task", "linear", "--out", "OUT", *DEAD], 1, "is the server running there"),
        (["bench", "--task", "chain_sum", "--out", "OUT", "--verifier", "checker", *DEAD], 2, "cannot be checked"),
        (
            ["bench", "--task", "linear", "--strategy", "single", "--strategy", "single", "--out", "OUT", *DEAD],
            2,
            "twice",
        ),
        (["bench", "--task", "linear", "--out", "OUT", "--model", "bank:/nowhere.jsonl"], 2, "cannot read the bank"),
        (["models", "pull", "nothing"], 2, "no model is named"),
        (["solve"], 2, "question"),
        (["slove", "x"], 2, "slove"),
    ],
)
async def test_bad_input_gets_one_clear_line_and_leaves_nothing_behind(
    words: Sequence[str], status: int, said: str, tmp_path: Path
) -> None:
    async with StubServer() as server:
        places = {"STUB": server.base_url, "OUT": str(tmp_path / "run")}
        done = await thinkscale(*(places.get(word, word) for word in words), THINKSCALE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert "secret" not in done.stderr.replace("secret-bearing", "")
    assert not (tmp_path / "run").exists()


async def test_a_wrong_key_is_told_without_showing_it() -> None:
    async with StubServer(key="right") as server:
        done = await thinkscale(*SOLVE, "--model", server.base_url, THINKSCALE_API_KEY="wrong-key-value")
        assert done.returncode == 1
        assert "the key was refused" in done.stderr
        assert "wrong-key-value" not in done.stdout + done.stderr
        right = await thinkscale(*SOLVE, "--model", server.base_url, "--json", THINKSCALE_API_KEY="right")
        assert json.loads(right.stdout)["answer"] == "7"


# -- bench -------------------------------------------------------------------------------------------------------


def bench_words(url: str, problems: Path, out: Path, *more: str) -> list[str]:
    return [
        "bench", "--task", f"jsonl:{problems}?kind=number", "--model", url, "--out", str(out),
        "--strategy", "single", "--strategy", "self-consistency:n=6", "--limit", "12", *more,
    ]  # fmt: skip


async def test_bench_measures_and_reports(problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    async with StubServer({"7": 0.6, "8": 0.4}, tokens=12) as server:
        done = await thinkscale(*bench_words(server.base_url, problems, out, "--json"))
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        assert json.loads((out / "summary.json").read_text())["rows"] == rows
        single, vote = rows
        assert (single["n_problems"], single["calls"], vote["calls"]) == (12, 12, 72)
        assert single["output_tokens"] + vote["output_tokens"] == server.counters.output_tokens
        assert single["prompt_tokens"] + vote["prompt_tokens"] == server.counters.prompt_tokens
        for row in rows:
            assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
            assert row["coverage"] >= row["accuracy"]
            assert row["selection_gap"] == pytest.approx(row["coverage"] - row["accuracy"])
            assert row["seconds"] > 0
            assert row["cost_usd"] is None
        assert single["coverage"] == single["accuracy"]
        page = (out / "report.html").read_text()
        assert "<svg" in page
        assert "self-consistency" in page
        again = await thinkscale(*bench_words(server.base_url, problems, out, "--json"))
        assert json.loads(again.stdout)["rows"] == rows
        assert server.counters.calls == 84, "a finished run draws nothing again"


async def test_bench_survives_kill_9(problems: Path, tmp_path: Path) -> None:
    """Killed twice in the middle: no finished sample is lost, drawn again, or charged twice; the result is the same."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    answers: dict[str | None, float] = {"7": 0.6, "8": 0.4}
    async with StubServer(answers, tokens=12, n="refuse") as server:
        done = await thinkscale(*bench_words(server.base_url, problems, whole, "--json"))
        expected = json.loads(done.stdout)["rows"]
        url = server.base_url
        port = server.port
    async with StubServer(answers, tokens=12, n="refuse", token_s=0.01, port=port) as server:
        for drawn in (20, 64):
            process = await asyncio.create_subprocess_exec(
                *COMMAND, *bench_words(url, problems, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=environment(),
            )  # fmt: skip
            async with asyncio.timeout(30):
                while server.counters.calls < drawn:
                    await asyncio.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            async with asyncio.timeout(5):
                while server.counters.in_flight:
                    await asyncio.sleep(0.01)
        kept = samples_in(killed)
        assert 20 <= kept < 84
        before = server.counters.calls
        done = await thinkscale(*bench_words(url, problems, killed, "--json"))
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["rows"]
        assert server.counters.calls - before == 84 - kept, "only what was not kept is drawn"
        assert samples_in(killed) == 84
        for row, reference in zip(rows, expected, strict=True):
            for same in ("accuracy", "coverage", "calls", "output_tokens", "prompt_tokens", "samples"):
                assert row[same] == reference[same], same
        assert rows[1]["seconds"] is None, "time spent in a killed run is unknown, and said so"


def samples_in(folder: Path) -> int:
    with sqlite3.connect(folder / "run.db") as db:
        return int(db.execute("SELECT count(*) FROM samples").fetchone()[0])


async def test_bench_stops_when_the_server_dies_and_resumes_when_it_is_back(problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    async with StubServer({"7": 1.0}, token_s=0.02) as server:
        url, port = server.base_url, server.port
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *bench_words(url, problems, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        async with asyncio.timeout(30):
            while server.counters.calls < 10:
                await asyncio.sleep(0.01)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "Traceback" not in err.decode()
    async with StubServer({"7": 1.0}, port=port) as server:
        done = await thinkscale(*bench_words(url, problems, out, "--json"))
        assert done.returncode == 0, done.stderr
        assert [row["n_problems"] for row in json.loads(done.stdout)["rows"]] == [12, 12]


async def test_another_runs_folder_is_refused(problems: Path, tmp_path: Path) -> None:
    async with StubServer({"7": 1.0}) as server:
        assert (await thinkscale(*bench_words(server.base_url, problems, tmp_path / "run"))).returncode == 0
        done = await thinkscale(*bench_words(server.base_url, problems, tmp_path / "run", "--seed", "5"))
        assert done.returncode == 2
        assert "seed was 0, is 5" in done.stderr
        more = await thinkscale(
            *bench_words(server.base_url, problems, tmp_path / "run", "--strategy", "esc:n=5", "--json")
        )
        assert [row["strategy"] for row in json.loads(more.stdout)["rows"]][-1] == "esc:n=5", "strategies may be added"
        calls = server.counters.calls
        fewer = await thinkscale(
            "bench", "--task", f"jsonl:{problems}?kind=number", "--model", server.base_url,
            "--out", str(tmp_path / "run"), "--strategy", "self-consistency:n=6", "--limit", "6", "--json",
        )  # fmt: skip
        assert [row["n_problems"] for row in json.loads(fewer.stdout)["rows"]] == [6], (
            "and problems and strategies left out"
        )
        assert server.counters.calls == calls


async def test_bench_replays_a_bank(problems: Path, tmp_path: Path) -> None:
    bank = tmp_path / "bank.jsonl"
    rows = [
        {"problem": n, "text": f"\\boxed{{{answer}}}", "prompt_tokens": 5, "completion_tokens": 9}
        for n in range(12)
        for answer in ("7", "7", "8")
    ]
    bank.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = bench_words(f"bank:{bank}", problems, tmp_path / "run", "--json", "--strategy", "refine")
    done = await thinkscale(*words)
    assert done.returncode == 0, done.stderr
    single, vote, refine = json.loads(done.stdout)["rows"]
    assert single["accuracy"] == 0.5
    assert vote["samples"] == 3
    assert vote["failed_samples"] == 36, "three of six samples are not recorded, and reported so"
    assert refine["failed_samples"] == 12


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many legs has a spider?", "number"),
        ("What is 17 * 23?", "number"),
        ("Who wrote Catch-22?", "text"),
        ("Is 17 prime?", "text"),
        ("Who won the 2014 World Cup?", "text"),
    ],
)
def test_the_kind_of_answer_is_guessed_from_what_is_asked(question: str, kind: str) -> None:
    assert parse_kind("auto", question) == kind


# -- listings ----------------------------------------------------------------------------------------------------


async def test_listings_are_json_too() -> None:
    strategies = json.loads((await thinkscale("strategies", "--json")).stdout)["strategies"]
    assert {"single", "self-consistency", "deepconf-online"} <= {row["name"] for row in strategies}
    models = json.loads((await thinkscale("models", "list", "--json")).stdout)["models"]
    assert "smollm2" in {row["name"] for row in models}


async def test_doctor_finds_what_is_here_and_never_shows_a_key() -> None:
    done = await thinkscale("doctor", "--json", OPENAI_API_KEY="sk-very-secret")
    found = json.loads(done.stdout)
    assert found["keys"]["OPENAI_API_KEY"] is True
    assert found["keys"]["THINKSCALE_API_KEY"] is False
    assert found["hardware"]["cores"] == os.cpu_count()
    assert found["extras"]["local"]
    assert "sk-very-secret" not in done.stdout + done.stderr
    assert "sk-very-secret" not in (await thinkscale("doctor", OPENAI_API_KEY="sk-very-secret")).stdout


async def test_help_needs_no_heavy_import() -> None:
    heavy = ("aiohttp", "rich.progress", "sympy", "orjson")
    script = f"import sys; import thinkscale.cli.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
