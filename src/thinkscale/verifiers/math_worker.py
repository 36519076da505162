"""Whether two formulas are equal, decided by math-verify in a process of its own.

Math-verify is slow to import, can run for ever (9**9**9**9) while holding the interpreter, and guards itself with a
signal that works in a main thread only. So a child process (`python -m thinkscale.verifiers.math_worker`) reads one
JSON request a line, `[a, b, seconds]`, and answers each with the line `true` or `false`; who asks can stop waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

from thinkscale.errors import ThinkscaleError

_START_S = 60.0
_READY = b"ready\n"
_MEMORY_BYTES = 2 << 30


class MathWorker:
    """Compares formulas one at a time; starts its process when first asked, and again after it had to be killed.

    Made for sharing: one for an event loop serves all requests. The process ends with `aclose`, or with this one.
    """

    def __init__(self, *, timeout_s: float = 2.0) -> None:
        self.timeout_s = timeout_s
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        # How long to wait for a line that is still to come: the greeting, or a reply whose asker was cancelled.
        self._owed_s: float | None = None

    async def equal(self, a: str, b: str) -> bool | None:
        """Whether two formulas (LaTeX or plain) are mathematically equal; `None` if not decided in `timeout_s`.

        Raises `ThinkscaleError` if math-verify cannot be loaded.
        """
        async with self._turn:
            process = await self._ready()
            self._owed_s = self.timeout_s
            try:
                async with asyncio.timeout(self.timeout_s):
                    _writer(process).write(json.dumps([a, b, self.timeout_s]).encode() + b"\n")
                    await _writer(process).drain()
                    reply = await _reader(process).readline()
            except (TimeoutError, ConnectionError):
                reply = b""
            self._owed_s = None
            if not reply:
                await self.aclose()
                return None
            return reply == b"true\n"

    async def aclose(self) -> None:
        """End the process. It starts again if asked again."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _ready(self) -> Process:
        """A process that waits for a request."""
        if self._process is not None and self._owed_s is not None and await self._next_line() == b"":
            await self.aclose()
        if self._process is not None:
            return self._process
        self._owed_s = _START_S
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "thinkscale.verifiers.math_worker"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # a Ctrl-C is for this process to act on
        )
        greeting = await self._next_line()
        if greeting != _READY:
            await self.aclose()
            raise ThinkscaleError(
                f"formulas cannot be compared: the math-verify process did not start ({greeting.decode().strip()}); "
                'check the installation with: python -c "import math_verify"'
            )
        return self._process

    async def _next_line(self) -> bytes:
        """The line that is owed, empty if it does not come."""
        assert self._process is not None
        try:
            async with asyncio.timeout(self._owed_s):
                line = await _reader(self._process).readline()
        except TimeoutError:
            line = b""
        self._owed_s = None
        return line


def _reader(process: Process) -> asyncio.StreamReader:
    assert process.stdout is not None
    return process.stdout


def _writer(process: Process) -> asyncio.StreamWriter:
    assert process.stdin is not None
    return process.stdin


# -- the child ----------------------------------------------------------------------------------------------------

_FUNCTIONS = re.compile(r"(?<![\\A-Za-z])(pi|exp|sin|cos|tan|log|ln)(?![A-Za-z])")


@lru_cache(maxsize=512)
def _parsed(formula: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    latex = _FUNCTIONS.sub(r"\\\1", formula.replace("**", "^").strip("$"))
    return parse(f"${latex}$", [LatexExtractionConfig()], parsing_timeout=None)


def _equal(a: str, b: str) -> bool:
    """Math-verify's comparison is one-sided (`x = 5` may stand for 5), an equivalence is not."""
    from math_verify import verify

    left, right = _parsed(a), _parsed(b)
    return bool(verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None))


def _end_after(seconds: float) -> None:
    """Let the kernel end this process then, even if it computes without ever coming back; 0 calls that off.

    The parent kills it much earlier; this is for the day the parent is gone.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # absent on Windows, refused on macOS
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def _serve() -> None:
    _limit_memory()
    replies, sys.stdout = sys.stdout, sys.stderr
    try:
        _equal("x^2", "x * x")  # loading, and the parser's first use, are on no comparison's time
    except ImportError as error:
        print(error, file=replies, flush=True)
        return
    logging.disable()
    print(_READY.decode().strip(), file=replies, flush=True)
    for line in sys.stdin:
        a, b, seconds = json.loads(line)
        _end_after(2 * seconds)
        same = _equal(a, b)
        _end_after(0)
        print(json.dumps(same), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
