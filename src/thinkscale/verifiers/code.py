"""Running code that a model wrote, and verifying candidates by it."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thinkscale.errors import ThinkscaleError, UsageError
from thinkscale.types import AnswerKind, Candidate, Request, Verdict
from thinkscale.verifiers.answers import answer_of
from thinkscale.verifiers.base import Generate

_SANDBOX = Path(__file__).with_name("sandbox.py")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `output_bytes` holds for stdout and stderr each, `file_bytes` for each file written."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    file_bytes: int = 16 << 20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Execution:
    """How a run went.

    `exit_status` is negative where a signal ended it. `timed_out`: it met the limit on wall or CPU time. `truncated`:
    it was stopped for writing more than `output_bytes`. `isolation` names what was in force, from `rlimits`,
    `network namespace`, `landlock`, `seccomp` and `audit hook`; empty where the time ran out before it began.
    """

    stdout: str
    stderr: str
    exit_status: int
    timed_out: bool
    truncated: bool
    isolation: tuple[str, ...]


async def run_code(
    source: str, *, stdin: str = "", limits: Limits = DEFAULT_LIMITS, module_name: str = "__main__"
) -> Execution:
    """Run Python source in a process of its own, with the standard library only, in a fresh folder deleted afterwards.

    Limits on time, memory, output and file size; an environment without the parent's variables; the process group is
    killed at the end, on timeout and on cancellation. On Linux the kernel keeps it from the network, from other
    processes and programs, and from files outside its folder but those of the Python installation, as far as
    `isolation` lists it; everywhere an audit hook in the interpreter refuses the same.

    This holds off mistakes (endless loops, memory, stray deletes) and ordinary attempts to cheat or to reach out. It
    is no defence against an attacker with a kernel or interpreter exploit; where only `audit hook` and `rlimits` are
    in force, none against a determined one. File modes and times are guarded by the hook alone. The number of files is
    not limited. For code of hostile origin, run the whole program in a virtual machine.

    Raises `UsageError` where the system is not Unix-like, `ThinkscaleError` where the sandbox does not start.
    """
    if os.name != "posix":
        raise UsageError("running code needs Linux or macOS: this system cannot limit what it does")
    with tempfile.TemporaryDirectory(prefix="thinkscale-", ignore_cleanup_errors=True) as folder:
        command, given = _command(Path(folder), source, module_name, limits), stdin.encode()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd=Path(folder) / "work",
            env=_environment(Path(folder) / "work"),
            start_new_session=True,
        )
        run = _Run(process, limits)
        out_of_time = asyncio.get_running_loop().call_later(limits.wall_s, run.time_out)
        try:
            await asyncio.gather(run.feed(given), run.read(process.stdout, run.out), run.read(process.stderr, run.err))
        finally:
            out_of_time.cancel()
            await run.end()
        isolation = _isolation(Path(folder))
        stdout, stderr = run.out.decode(errors="replace"), run.err.decode(errors="replace")
        timed_out = run.timed_out or process.returncode == -signal.SIGXCPU
        if not isolation and not timed_out:
            raise ThinkscaleError(
                f"the sandbox for running code did not start (exit status {process.returncode}: "
                f"{last_line(stderr) or 'no output'}); check that {sys.executable} runs"
            )
        return Execution(stdout, stderr, process.returncode or 0, timed_out, run.truncated, isolation)


class _Run:
    """One process and what it has written so far."""

    def __init__(self, process: Process, limits: Limits) -> None:
        self.out = bytearray()
        self.err = bytearray()
        self.timed_out = False
        self.truncated = False
        self._process = process
        self._limits = limits

    async def feed(self, stdin: bytes) -> None:
        writer = self._process.stdin
        assert writer is not None
        with suppress(ConnectionError):  # a program need not read its input
            writer.write(stdin)
            await writer.drain()
        writer.close()

    async def read(self, stream: asyncio.StreamReader | None, into: bytearray) -> None:
        """Read to the end: a pipe left full would keep the process from ending."""
        assert stream is not None
        while chunk := await stream.read(1 << 16):
            room = self._limits.output_bytes - len(into)
            into += chunk[:room]
            if len(chunk) > room and not self.truncated:
                self.truncated = True
                self._kill()

    def time_out(self) -> None:
        self.timed_out = True
        self._kill()

    async def end(self) -> None:
        self._kill()
        await asyncio.gather(self.read(self._process.stdout, bytearray()), self.read(self._process.stderr, bytearray()))
        await self._process.wait()

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone already; macOS says it of a group of zombies
            os.killpg(self._process.pid, signal.SIGKILL)


def _command(folder: Path, source: str, module_name: str, limits: Limits) -> list[str]:
    """Lay out the folder, and the words that start the sandbox in it."""
    work, program, report = folder / "work", folder / "solution.py", folder / "isolation"
    work.mkdir()
    program.write_text(source, encoding="utf-8", errors="replace")
    report.touch()
    bounds = (math.ceil(limits.cpu_s), limits.memory_bytes, limits.file_bytes)
    return [
        *(sys.executable, "-S", "-s", "-P", "-B", str(_SANDBOX)),
        *(str(work), str(program), str(report), module_name),
        *map(str, bounds),
    ]


def _environment(work: Path) -> dict[str, str]:
    return {
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",  # the same source gives the same output, sets included
        "MALLOC_ARENA_MAX": "1",  # each thread's own arena would reserve an eighth of the memory allowed
    }


def _isolation(folder: Path) -> tuple[str, ...]:
    return tuple((folder / "isolation").read_text(encoding="utf-8").splitlines())


def last_line(text: str) -> str:
    """The last line with anything on it: of a traceback, the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class CodeVerifier:
    """Passes candidates whose code does what the tests say.

    `tests` are Python asserts that run after the candidate's code (which is then not `__main__`), or pairs of standard
    input and expected standard output (compared without trailing white space), all of which must match. A candidate
    without code is not judged. At most `parallel` runs at once, one per processor unless said otherwise.
    """

    name = "code"

    def __init__(
        self, tests: str | Sequence[tuple[str, str]], *, limits: Limits = DEFAULT_LIMITS, parallel: int | None = None
    ) -> None:
        if not tests:
            raise UsageError("the code verifier has no tests: everything would pass")
        self._tests = tests
        self._limits = limits
        self._free = asyncio.Semaphore(parallel or os.cpu_count() or 1)

    async def verify(
        self, _request: Request, candidates: Sequence[Candidate], _generate: Generate
    ) -> Sequence[Verdict]:
        return await asyncio.gather(*map(self._verify_one, candidates))

    async def _verify_one(self, candidate: Candidate) -> Verdict:
        code = answer_of(candidate, AnswerKind.CODE)
        if code is None:
            return Verdict(None, reason="no code in the reply")
        async with self._free:
            if isinstance(self._tests, str):
                fault = await self._fails_asserts(code, self._tests)
            else:
                fault = await self._fails_pairs(code, self._tests)
        return Verdict(1.0, True, "all tests passed") if fault is None else Verdict(0.0, False, fault)

    async def _fails_asserts(self, code: str, tests: str) -> str | None:
        # Exit status 0 is not enough: the code may have ended the program before the tests.
        seal = secrets.token_hex(16)
        source = f"{code}\n\n{tests}\n\nprint('\\n{seal}')\n"
        run = await run_code(source, limits=self._limits, module_name="solution")
        fault = self._fault(run)
        if fault is None and last_line(run.stdout) != seal:
            return "the program ended before the tests"
        return fault

    async def _fails_pairs(self, code: str, tests: Sequence[tuple[str, str]]) -> str | None:
        for number, (stdin, expected) in enumerate(tests, start=1):
            run = await run_code(code, stdin=stdin, limits=self._limits)
            fault = self._fault(run)
            if fault is None and _lines(run.stdout) != _lines(expected):
                fault = f"printed {run.stdout.strip()[:200]!r} where {expected.strip()[:200]!r} was expected"
            if fault is not None:
                return f"test {number}: {fault}"
        return None

    def _fault(self, run: Execution) -> str | None:
        if run.timed_out:
            return f"ran out of time ({self._limits.wall_s:g} s, {self._limits.cpu_s:g} s of CPU)"
        if run.truncated:
            return f"wrote more than {self._limits.output_bytes} bytes"
        if run.exit_status:
            return last_line(run.stderr) or f"ended with exit status {run.exit_status}"
        return None


async def passes_tests(code: str, tests: str) -> bool:
    """Whether code does what the tests, Python asserts, say."""
    return await CodeVerifier(tests)._fails_asserts(code, tests) is None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
