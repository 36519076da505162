"""Scoring with reasoning-gym's own scorers, in a process that is locked in.

Some of them evaluate what the model wrote (`eval`, or sympy's parser, which is no better): an answer may never finish,
or do harm. So a child process (`python -m thinkscale.tasks.gym_scorer`) loads the gym, locks itself in as the sandbox
for code does, then reads pickled requests and answers each with a line that holds the score. A pickle goes from parent
to child only; nothing but a number is read back.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import weakref
from contextlib import suppress
from typing import Any

from thinkscale.errors import ThinkscaleError

_START_S = 60.0
_READY = b"ready\n"
_MEMORY_BYTES = 4 << 30
_CPU_S = 3600
_FILE_BYTES = 1 << 20


class Scorer:
    """Scores answers to the problems of one dataset, one at a time. The process starts when first needed.

    It ends with this object, or with the interpreter. `timeout_s` bounds one answer.
    """

    def __init__(self, kind: type[Any], config: Any, *, timeout_s: float = 5.0) -> None:
        self.timeout_s = timeout_s
        self._made_of = (kind, config)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    async def score(self, answer: str, row: dict[str, Any]) -> float:
        """The dataset's score for an answer to one of its problems: 1 is right, 0 where it cannot be scored in time.

        Raises `ThinkscaleError` if the process does not start.
        """
        return await asyncio.to_thread(self._score, answer, row)

    def _score(self, answer: str, row: dict[str, Any]) -> float:
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._start()
            reply = self._ask((answer, row), self.timeout_s)
            if not reply:
                self.close()
            return float(reply or 0)

    def _start(self) -> None:
        self.close()
        folder = tempfile.TemporaryDirectory(prefix="thinkscale-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "thinkscale.tasks.gym_scorer", folder.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # a Ctrl-C is for this process to act on
        )
        self._end = weakref.finalize(self, _end, self._process, folder)
        greeting = self._ask(self._made_of, _START_S)
        if greeting != _READY:
            self.close()
            raise ThinkscaleError(
                f"reasoning-gym's scorers did not start ({greeting.decode().strip() or 'no reply'}); check the "
                'installation with: python -c "import reasoning_gym" (they do not run on Windows)'
            )

    def _ask(self, request: object, seconds: float) -> bytes:
        """The process's line in reply, empty if none came in time: the process is then gone."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the process. It starts again when needed again."""
        if self._end is not None:
            self._end()
        self._process = self._end = None


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    with suppress(BrokenPipeError):
        process.communicate()
    folder.cleanup()


# -- the child ----------------------------------------------------------------------------------------------------


def _serve(folder: str) -> None:
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a scorer prints is no reply
    kind, config = pickle.load(requests)
    dataset = kind(config)
    _lock_in(folder)
    reply = _READY
    while True:
        replies.write(reply)
        replies.flush()
        try:
            answer, row = pickle.load(requests)
        except EOFError:
            return
        reply = f"{_scored(dataset, answer, row)}\n".encode()


def _scored(dataset: Any, answer: str, row: dict[str, Any]) -> float:
    try:
        return float(dataset.score_answer(answer, row))
    except Exception:  # noqa: BLE001 - some scorers raise on an answer that they cannot read: it is not right
        return 0.0


def _lock_in(folder: str) -> None:
    from thinkscale.verifiers import sandbox

    readable = sandbox.installation()
    sandbox.lock_kernel(folder, readable, _CPU_S, _MEMORY_BYTES, _FILE_BYTES)
    sandbox.watch(folder, readable)


if __name__ == "__main__":
    _serve(sys.argv[1])
