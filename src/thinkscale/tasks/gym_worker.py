"""reasoning-gym in a process of its own, locked in.

Some of its scorers evaluate what the model wrote (`eval`, or sympy's parser, which is no better): an answer may never
finish, or do harm. Some of its problems depend on the order of sets, which differs between processes unless hashes are
fixed. So a child process (`python -m thinkscale.tasks.gym_worker FOLDER`) makes the dataset, locks itself in as the
sandbox for code does, and serves JSON lines: `[index]` gives `[question, answer]`, and `[index, answer]` a score.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import typing
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from thinkscale.errors import ThinkscaleError, UsageError
from thinkscale.options import near, read_option

_MEMORY_BYTES = 4 << 30
_CPU_S = 3600
_FILE_BYTES = 1 << 20


class GymWorker:
    """One dataset: `limit` problems of it, `None` for as many as its option `size` says.

    The process starts when needed, and again after it had to be killed. It ends with this object, or with the
    interpreter. `timeout_s` bounds the scoring of one answer.
    """

    def __init__(
        self, dataset: str, options: Mapping[str, str], seed: int, limit: int | None, *, timeout_s: float = 5.0
    ) -> None:
        self.timeout_s = timeout_s
        self._setup = {"dataset": dataset, "options": dict(options), "seed": seed, "limit": limit}
        self._size = 0
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def rows(self) -> list[tuple[str, str | None]]:
        """Each problem's question and known answer, `None` where the dataset has none to show.

        Raises `UsageError` for what the dataset does not accept.
        """
        with self._turn:
            self._start()
            return [tuple(self._answered([index])) for index in range(self._size)]

    async def score(self, index: int, answer: str) -> float:
        """The dataset's score for an answer to a problem: 1 is right. 0 where it could not be scored in time."""
        return await asyncio.to_thread(self._score, index, answer)

    def _score(self, index: int, answer: str) -> float:
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._start()
            reply = self._ask([index, answer], self.timeout_s)
            if reply is None:
                self.close()
            return float(reply or 0)

    def _start(self) -> None:
        self.close()
        folder = tempfile.TemporaryDirectory(prefix="thinkscale-", ignore_cleanup_errors=True)
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "thinkscale.tasks.gym_worker", folder.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # a Ctrl-C is for this process to act on
        )
        self._end = weakref.finalize(self, _end, self._process, folder)
        self._size = self._answered(self._setup)

    def _answered(self, request: object) -> Any:
        """The reply to a request that must have one."""
        reply = self._ask(request, None)
        if reply is None:
            self.close()
            raise ThinkscaleError(
                f"reasoning-gym's process ended while making {self._setup['dataset']}; check the installation with: "
                'python -c "import reasoning_gym" (it does not run on Windows)'
            )
        if isinstance(reply, dict):
            self.close()
            raise UsageError(f"task gym:{self._setup['dataset']}: {reply['error']}")
        return reply

    def _ask(self, request: object, seconds: float | None) -> Any:
        """The reply, `None` if none came in time: the process is then gone."""
        process = self._process
        assert process is not None
        timer = threading.Timer(seconds or 0, process.kill)
        if seconds is not None:
            timer.start()
        try:
            _pipe(process.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(process.stdin).flush()
            line = _pipe(process.stdout).readline()
            return json.loads(line) if line else None
        except BrokenPipeError:
            return None
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


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


# -- the child ----------------------------------------------------------------------------------------------------


def _serve(folder: str) -> None:
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a dataset prints is no reply

    def reply(content: object) -> None:
        print(json.dumps(content), file=replies, flush=True)

    try:
        dataset, size = _dataset(**json.loads(requests.readline()))
    except (UsageError, AssertionError, ValueError, TypeError) as error:
        reply({"error": str(error)})
        return
    _lock_in(folder)
    reply(size)
    rows: dict[int, dict[str, Any]] = {}
    for line in requests:
        index, *answers = json.loads(line)
        if index not in rows:
            try:
                rows[index] = dataset[index]
            except (AssertionError, ValueError) as error:
                reply({"error": f"problem {index} cannot be made: {error}"})
                return
        row = rows[index]
        if answers:
            reply(_score(dataset, answers[0], row))
        else:
            reply([row["question"], None if row["answer"] is None else str(row["answer"])])


def _dataset(dataset: str, options: Mapping[str, str], seed: int, limit: int | None) -> tuple[Any, int]:
    import reasoning_gym

    known = reasoning_gym.factory.DATASETS
    if dataset not in known:
        raise UsageError(f"there is no such dataset{near(dataset, known)}; there are {', '.join(sorted(known))}")
    kind, config_kind = known[dataset]
    hints = typing.get_type_hints(config_kind)
    fields = [field.name for field in dataclasses.fields(config_kind) if field.name != "seed"]
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in fields:
            raise UsageError(f"there is no option {key!r}{near(key, fields)}; there are {', '.join(fields)}")
        values[key] = read_option(key, hints[key], text)
    if "size" not in values and limit is not None:
        values["size"] = max(limit, config_kind.size)
    made = kind(config_kind(**values, seed=seed))
    return made, len(made) if limit is None else min(limit, len(made))


def _score(dataset: Any, answer: str, row: dict[str, Any]) -> float:
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
