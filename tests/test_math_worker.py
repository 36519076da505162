"""The math-verify process: right, quick, patient with no one, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import thinkscale
from thinkscale.errors import ThinkscaleError
from thinkscale.verifiers import math_worker
from thinkscale.verifiers.math_worker import MathWorker

ENDLESS = "9^{9^{9^{9}}}"
SOURCE = Path(thinkscale.__file__).parents[1]


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pid_of(worker: MathWorker) -> int:
    assert worker._process is not None
    return worker._process.pid


async def gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not alive(pid)


async def test_equal() -> None:
    cases = [
        ("x^2+2x+1", "(x+1)^2", True),
        ("\\frac{\\sqrt{2}}{2}", "1/sqrt(2)", True),
        ("\\sin^2 x + \\cos^2 x", "1", True),
        ("pi/2", "\\frac{\\pi}{2}", True),
        ("(1, 2)", "(2, 1)", False),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("x+1", "x+2", False),
        ("\\sqrt{", "3", False),
        ("two\nlines", '"quoted"', False),
        ("", "", False),
    ]
    async with MathWorker(timeout_s=30) as worker:
        for a, b, same in cases:
            assert await worker.equal(a, b) is same, (a, b)
            assert await worker.equal(b, a) is same, (b, a)


async def test_a_hang_is_ended_and_the_next_comparison_works() -> None:
    async with MathWorker(timeout_s=0.5) as worker:
        assert await worker.equal("1/2", "0.5") is True
        first = pid_of(worker)
        began = time.monotonic()
        assert await worker.equal(ENDLESS, "2") is None
        assert time.monotonic() - began < 2
        assert not alive(first)
        assert await worker.equal("1/2", "0.5") is True
        assert pid_of(worker) != first


async def test_the_start_does_not_count_as_comparison_time() -> None:
    async with MathWorker(timeout_s=0.3) as worker:
        began = time.monotonic()
        assert await worker.equal("2", "3") is False
        # Python and math-verify alone take longer than the limit, or this test proves nothing.
        assert time.monotonic() - began > 0.3


async def test_the_event_loop_keeps_running() -> None:
    async with MathWorker(timeout_s=0.5) as worker:
        await worker.equal("1", "1")
        comparing = asyncio.create_task(worker.equal(ENDLESS, "2"))
        ticks = 0
        while not comparing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert comparing.result() is None
        assert ticks > 5


async def test_many_may_ask_at_once() -> None:
    async with MathWorker(timeout_s=30) as worker:
        answers = await asyncio.gather(*(worker.equal(f"{n}+x", f"x+{n % 3}") for n in range(9)))
        assert answers == [n == n % 3 for n in range(9)]


async def test_a_cancelled_asker_does_not_shift_the_replies() -> None:
    async with MathWorker(timeout_s=30) as worker:
        assert await worker.equal("1", "1") is True
        first = pid_of(worker)
        asking = asyncio.create_task(worker.equal("\\int_0^1 x^7 dx", "\\frac{1}{8}"))
        await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await worker.equal("2", "3") is False
        assert await worker.equal("1/2", "0.5") is True
        assert pid_of(worker) == first


async def test_a_cancelled_hang_is_cleared_for_the_next_asker() -> None:
    async with MathWorker(timeout_s=0.5) as worker:
        await worker.equal("1", "1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await worker.equal(ENDLESS, "2")
        assert await worker.equal("1/2", "0.5") is True


async def test_a_killed_process_is_replaced() -> None:
    async with MathWorker(timeout_s=30) as worker:
        await worker.equal("1", "1")
        os.kill(pid_of(worker), signal.SIGKILL)
        assert await worker.equal("1/2", "0.5") is None
        assert await worker.equal("1/2", "0.5") is True


async def test_closing_ends_the_process_and_asking_starts_one() -> None:
    worker = MathWorker(timeout_s=30)
    await worker.aclose()
    assert await worker.equal("1", "1") is True
    first = pid_of(worker)
    await worker.aclose()
    assert not alive(first)
    assert await worker.equal("1", "1") is True
    await worker.aclose()


_PARENT = """
import asyncio, sys
from thinkscale.verifiers.math_worker import MathWorker

async def main():
    worker = MathWorker(timeout_s=1)
    await worker.equal("1", "1")
    print(worker._process.pid, flush=True)
    await (worker.equal(sys.argv[1], "2") if len(sys.argv) > 1 else asyncio.sleep(60))

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True])
async def test_it_does_not_outlive_a_killed_parent(busy: bool) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PARENT, *([ENDLESS] if busy else [])),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await asyncio.sleep(0.2)
    assert alive(pid)
    parent.kill()
    await parent.wait()
    assert await gone(pid, within_s=5)


async def test_a_missing_math_verify_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('no sympy here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with MathWorker() as worker:
        with pytest.raises(ThinkscaleError, match=r"did not start \(no sympy here\).*import math_verify"):
            await worker.equal("1", "2")


def test_only_the_child_imports_math_verify() -> None:
    probe = "import sys, thinkscale.verifiers.equivalence; sys.exit(bool({'sympy', 'math_verify'} & {*sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    assert subprocess.run([sys.executable, "-c", probe], env=environment, check=False).returncode == 0
    assert math_worker.__name__ in sys.modules
