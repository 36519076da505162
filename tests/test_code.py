"""Running model-written code: results, limits, isolation, nothing left behind; and the verifier on top."""

from __future__ import annotations

import ast
import asyncio
import ctypes
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import thinkscale
from thinkscale.errors import ThinkscaleError, UsageError
from thinkscale.types import AnswerKind, Candidate, Params, Prompt, Request, Verdict
from thinkscale.verifiers import code as code_module
from thinkscale.verifiers.code import CodeVerifier, Execution, Limits, run_code

SOURCE = Path(thinkscale.__file__).parents[1]
SANDBOX = SOURCE / "thinkscale/verifiers/sandbox.py"
REQUEST = Request(Prompt.of("Write f."), AnswerKind.CODE)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every run's folder is made in here, and none is left after the test."""
    place = tmp_path / "runs"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


async def test_output_errors_and_exit_status() -> None:
    run = await run_code(
        "import sys\nprint('é', input(), __name__)\nprint('e', file=sys.stderr)\nsys.exit(3)", stdin="in\n"
    )
    assert run == Execution("é in __main__\n", "e\n", 3, False, False, run.isolation)
    failed = await run_code("def f():\n    return 1 / 0\nf()")
    assert failed.exit_status == 1
    assert 'File "solution.py", line 2, in f\n    return 1 / 0' in failed.stderr
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert (await run_code("def f(:")).stderr.endswith("SyntaxError: invalid syntax\n")


async def test_ordinary_programs_work() -> None:
    program = """
import collections, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq, itertools, json
import math, os, pathlib, random, re, statistics, string, tempfile, threading, typing, zoneinfo
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
    x: "int" = 1

Pair = collections.namedtuple("Pair", "a b", defaults=[2])
with ThreadPoolExecutor(8) as pool:
    total = sum(pool.map(abs, range(-9, 0)))
folder = pathlib.Path("made")
folder.mkdir()
(folder / "a.txt").write_text("kept")
os.rename("made/a.txt", "b.txt")
with tempfile.NamedTemporaryFile("w") as file:
    file.write("x")
print(Point(), Pair(1), total, sorted(os.listdir(".")), open("b.txt").read(), random.Random(0).randint(0, 9))
"""
    run = await run_code(program)
    assert run.stderr == ""
    assert run.stdout == "Point(x=1) Pair(a=1, b=2) 45 ['b.txt', 'made'] kept 6\n"


async def test_the_same_source_gives_the_same_output() -> None:
    program = "print({'a', 'b', 'c', 'd', 'e'}, hash('x'))"
    assert (await run_code(program)).stdout == (await run_code(program)).stdout


async def test_time_limits() -> None:
    slept = await run_code("print('here', flush=True)\nimport time\ntime.sleep(60)", limits=Limits(wall_s=1))
    assert (slept.timed_out, slept.stdout) == (True, "here\n")
    spun = await run_code("while True: pass", limits=Limits(wall_s=50, cpu_s=1))
    assert spun.timed_out


async def test_memory_file_and_output_limits() -> None:
    greedy = await run_code("x = 'a' * 10**9")
    assert greedy.stderr.endswith("MemoryError\n")
    big = await run_code("open('big', 'wb').write(b'x' * 2**20)", limits=Limits(file_bytes=1000))
    assert "File too large" in big.stderr
    loud = await run_code("while True: print('x' * 1000)", limits=Limits(output_bytes=5000))
    assert (loud.truncated, loud.timed_out, len(loud.stdout)) == (True, False, 5000)
    exact = await run_code("print('x' * 4999)", limits=Limits(output_bytes=5000))
    assert (exact.truncated, exact.exit_status) == (False, 0)


async def test_input_that_is_not_read() -> None:
    run = await run_code("print(1)", stdin="x" * 10**6)
    assert (run.stdout, run.exit_status) == ("1\n", 0)


async def test_the_parents_environment_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "sk-secret")
    run = await run_code("import os\nprint(dict(os.environ))\nprint(open('/proc/self/environ').read())")
    assert "HOME" in run.stdout
    assert "secret" not in run.stdout
    assert "not allowed here" in run.stderr


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("open('/etc/passwd')", "PermissionError: opening '/etc/passwd' is not allowed here"),
        ("open('/proc/self/environ')", "PermissionError: opening"),
        ("open('../solution.py')", "PermissionError: opening"),
        ("open('/usr/lib/made-by-a-test', 'w')", "PermissionError: opening"),
        ("import os\nos.symlink('/etc/passwd', 'a')\nopen('a')", "PermissionError: os.symlink"),
        ("import os\nos.listdir('/')", "PermissionError: os.listdir"),
        ("import os\nos.chmod('/etc/hostname', 0o777)", "PermissionError: os.chmod"),
        ("import os\nos.rename('solution.py', '../x')", "PermissionError: os.rename"),
        ("import os\nos.remove('/etc/hostname')", "PermissionError: os.remove"),
        ("import sqlite3\nsqlite3.connect('/var/tmp/made-by-a-test')", "PermissionError: sqlite3.connect"),
        ("import socket\nsocket.socket()", "PermissionError: socket"),
        ("import os\nos.fork()", "PermissionError: os.fork"),
        ("import os\nos.system('true')", "PermissionError: os.system"),
        ("import os\nos.execv('/bin/true', ['true'])", "PermissionError: os.exec"),
        ("import os\nos.kill(os.getppid(), 9)", "PermissionError: os.kill"),
        ("import subprocess", "ImportError: importing _posixsubprocess"),
        ("import ctypes", "ImportError: importing ctypes"),
        ("import gc\ngc.get_objects()", "PermissionError: gc"),
        ("import builtins\nbuiltins.PermissionError = print\nopen('/etc/passwd')", "PermissionError: opening"),
        ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ],
)
async def test_what_a_program_may_not_do(program: str, error: str) -> None:
    run = await run_code(program)
    assert run.exit_status == 1
    assert error in code_module.last_line(run.stderr)


_BEHIND_THE_HOOK = """
import os, socket, subprocess, sys
sys.argv[1:1] = [sys.argv.pop(1)]
namespace = {"__name__": "sandbox"}
exec(compile(open(sys.argv[1]).read(), "sandbox.py", "exec"), namespace)
folder = sys.argv[2]
layers = namespace["lock_kernel"](folder, namespace["installation"](), 5, 1 << 30, 1 << 20)

def tried(what):
    try:
        what()
        return "done"
    except OSError as error:
        return type(error).__name__

open(folder + "/own", "w").write("x")
print({
    "layers": layers,
    "read": tried(lambda: open("/etc/passwd")),
    "write": tried(lambda: open("/var/tmp/made-by-a-test", "w")),
    "list": tried(lambda: os.listdir("/")),
    "execute": tried(lambda: os.execv("/bin/true", ["true"])),
    "fork": tried(os.fork),
    "spawn": tried(lambda: subprocess.run(["/bin/true"])),
    "socket": tried(socket.socket),
    "signal": tried(lambda: os.kill(os.getppid(), 0)),
})
"""


def test_the_kernel_enforces_it_without_the_hook(folders: Path) -> None:
    command = [sys.executable, "-c", _BEHIND_THE_HOOK, str(SANDBOX), str(folders)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (folders / "own").unlink()
    seen = ast.literal_eval(told)
    layers = seen.pop("layers")
    if sys.platform == "linux":
        assert ("landlock" in layers) == (ctypes.CDLL(None).syscall(444, None, 0, 1) > 0)
        assert ("seccomp" in layers) == (platform.machine() in ("x86_64", "aarch64"))
    expected = dict.fromkeys(seen, "done")
    if "landlock" in layers:
        expected |= dict.fromkeys(("read", "write", "list", "execute", "spawn"), "PermissionError")
    if "seccomp" in layers:
        expected |= dict.fromkeys(("execute", "fork", "spawn", "socket", "signal"), "PermissionError")
    assert seen == expected
    assert "rlimits" in layers


async def test_the_isolation_is_reported() -> None:
    run = await run_code("print(1)")
    assert (
        {"rlimits", "audit hook"}
        <= {*run.isolation}
        <= {
            *("rlimits", "audit hook", "landlock", "seccomp", "network namespace"),
        }
    )


async def test_a_sandbox_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ThinkscaleError, match=r"did not start \(exit status 1.*check that /bin/false runs"):
        await run_code("print(1)")


def running(marker: str) -> list[int]:
    """Processes whose command line mentions the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and marker in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


async def test_cancellation_leaves_nothing(folders: Path) -> None:
    task = asyncio.create_task(run_code("import time\ntime.sleep(60)", limits=Limits(wall_s=60)))
    while not running(str(folders)):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(str(folders)) == []


_PARENT = """
import asyncio, tempfile, sys
from thinkscale.verifiers.code import Limits, run_code
tempfile.tempdir = sys.argv[1]
asyncio.run(run_code("import time\\ntime.sleep(60)", limits=Limits(wall_s=60)))
"""


def test_it_does_not_outlive_a_killed_parent(folders: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(folders)], env=environment)
    deadline = time.monotonic() + 30
    while not list(folders.glob("*/isolation")) or not (next(folders.glob("*/isolation"))).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while running(str(folders)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(str(folders)) == []
    for left in folders.iterdir():
        for path in sorted(left.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        left.rmdir()


# -- the verifier -------------------------------------------------------------------------------------------------


async def nobody(prompt: Prompt, params: Params, *, n: int = 1, model: object = None) -> list[Candidate]:
    raise AssertionError("running code asks no model")


async def verdicts(verifier: CodeVerifier, *texts: str) -> list[Verdict]:
    candidates = [Candidate((index,), REQUEST.prompt, text, finish_reason="stop") for index, text in enumerate(texts)]
    return list(await verifier.verify(REQUEST, candidates, nobody))


async def test_asserts() -> None:
    verifier = CodeVerifier("assert f(2) == 4\nassert f(3) == 9, 'f(3)'")
    right, wrong, broken, absent = await verdicts(
        verifier,
        "Here:\n```python\ndef f(x):\n    return x * x\nif __name__ == '__main__':\n    print(input())\n```",
        "```python\ndef f(x):\n    return x + 2\n```",
        "```python\ndef f(x:\n```",
        "   ",
    )
    assert (right.score, right.passed) == (1.0, True)
    assert (wrong.score, wrong.passed, wrong.reason) == (0.0, False, "AssertionError: f(3)")
    assert (broken.score, broken.passed) == (0.0, False)
    assert broken.reason.startswith("SyntaxError")
    assert (absent.score, absent.passed) == (None, None)


async def test_leaving_before_the_tests_does_not_pass() -> None:
    verifier = CodeVerifier("assert False")
    for verdict in await verdicts(verifier, "import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit"):
        assert (verdict.score, verdict.passed) == (0.0, False)
        assert verdict.reason == "the program ended before the tests"


async def test_input_output_pairs() -> None:
    verifier = CodeVerifier([("1 2\n", "3\n"), ("5 5\n", "10")])
    right, wrong, crashed = await verdicts(
        verifier,
        "print(sum(map(int, input().split())), ' ')",
        "print(3)",
        "raise ValueError('no')",
    )
    assert right.passed is True
    assert (wrong.score, wrong.reason) == (0.0, "test 2: printed '3' where '10' was expected")
    assert (crashed.passed, crashed.reason) == (False, "test 1: ValueError: no")


async def test_limits_are_reasons() -> None:
    verifier = CodeVerifier("assert True", limits=Limits(wall_s=1, output_bytes=1000))
    slow, loud = await verdicts(verifier, "import time\ntime.sleep(30)", "print('x' * 5000)")
    assert (slow.score, slow.reason) == (0.0, "ran out of time (1 s, 10 s of CPU)")
    assert (loud.score, loud.reason) == (0.0, "wrote more than 1000 bytes")


async def test_parallel_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def slow(source: str, **_options: object) -> Execution:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Execution("1", "", 0, False, False, ())

    monkeypatch.setattr(code_module, "run_code", slow)
    for parallel in (1, 3):
        most = 0
        assert all(
            verdict.passed for verdict in await verdicts(CodeVerifier([("", "1")], parallel=parallel), *"abcdef")
        )
        assert most == parallel


def test_no_tests_is_refused() -> None:
    with pytest.raises(UsageError, match="no tests"):
        CodeVerifier("")
    with pytest.raises(UsageError, match="no tests"):
        CodeVerifier([])
