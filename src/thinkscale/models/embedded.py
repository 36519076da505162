"""The embedded engine: llama.cpp in a child process, for models that run on this machine's processor."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from thinkscale.errors import ModelUnavailable, UsageError

_READY_S = 300.0  # a large model from a slow disk
_STOP_S = 5.0
_TAIL_BYTES = 16_384
_SAMPLE_TOKENS = 1024
_PROMPT_TOKENS = 4096
_LOG_STAMP = re.compile(r"^[\d.]+ [A-Z] ")


class EmbeddedEngine:
    """Serves the GGUF file `path` under `name` on a loopback port, as a child process that dies with this one.

    `parallel` samples are decoded together; a request may ask for at most that many (`n`). `threads=None` takes the
    physical cores this process may use. `context` is the number of tokens in the key-value pool that all samples
    share; one sample may use as much of it as the model was trained for. `None` makes room for `parallel` samples of
    1024 tokens each and 4096 tokens of prompts, a prompt counting once for the samples drawn from it in one request.
    The pool is allocated at the start: 23 kB a token for SmolLM2-135M, 12 kB for Qwen2.5-0.5B, 29 kB for
    Qwen2.5-1.5B, 115 kB for Qwen3-0.6B and 1.7B. When it runs full, the engine fails every running request with
    status 500, "Context size has been exceeded.": raise `context` or lower `parallel` or the samples' length.
    """

    def __init__(
        self, path: Path, *, name: str, threads: int | None = None, context: int | None = None, parallel: int = 16
    ) -> None:
        for what, value in (("threads", threads), ("context", context), ("parallel", parallel)):
            if value is not None and value < 1:
                raise UsageError(f"{what} must be at least 1, not {value}")
        self.path = path
        self.name = name
        self.threads = threads or physical_cores()
        self.context = context or parallel * _SAMPLE_TOKENS + _PROMPT_TOKENS
        self.parallel = parallel
        self._process: asyncio.subprocess.Process | None = None
        self._errors = _Tail()
        self._listener: asyncio.Task[None] | None = None
        self._url = ""

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> str:
        """Load the model and return the base URL, which ends in /v1; a running engine just says it again.

        Raises `UsageError` for a file that is missing or no GGUF file and where the engine is not installed,
        `ModelUnavailable` with the engine's own words when it cannot load the model.
        """
        if self.pid is not None:
            return self._url
        await self.aclose()
        _check(self.path)
        if importlib.util.find_spec("xllamacpp") is None:
            raise UsageError("running a model here needs the embedded engine: pip install 'thinkscale[local]'")
        self._process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to answer: the engine stays until the best answer is out
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._errors = _Tail()
        self._listener = asyncio.create_task(self._errors.follow(self._process.stderr))
        try:
            async with asyncio.timeout(_READY_S):
                line = await self._process.stdout.readline()
                if not line:
                    raise await self._failure(self._process)
        except TimeoutError:
            await self.aclose()
            raise ModelUnavailable(
                f"the engine did not load {self.path} within {_READY_S:.0f} s{self._errors.quoted()}"
            ) from None
        except BaseException:
            await self.aclose()
            raise
        self._url = f"{json.loads(line)['url']}/v1"
        return self._url

    async def aclose(self) -> None:
        """End the child and see it gone; safe to call again, and before `start`."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            # Also reached when this task is cancelled while it waits: the child must not outlive it.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if self._listener is not None:
                await self._listener

    def _command(self) -> list[str]:
        program = Path(__file__).with_name("llama_server.py")
        # -P: neither the program's folder nor the current one may shadow the modules that the engine imports.
        return [
            *(sys.executable, "-P", str(program), str(self.path.absolute())),
            *("--threads", str(self.threads), "--context", str(self.context), "--parallel", str(self.parallel)),
            f"--alias={self.name}",
        ]

    async def _failure(self, process: asyncio.subprocess.Process) -> ModelUnavailable:
        status = await process.wait()
        if self._listener is not None:
            await self._listener
        why = f"it ended with status {status}"
        if status == -signal.SIGKILL:
            why = "the system killed it, most likely for want of memory: try a smaller context or model"
        elif status == -signal.SIGILL:
            why = "this processor lacks AVX2: run a llama-server built for it and give its URL instead"
        return ModelUnavailable(f"the engine could not load {self.path}: {why}{self._errors.quoted()}")


class _Tail:
    """The last words of a stream, however much it says."""

    def __init__(self) -> None:
        self._bytes = b""

    async def follow(self, stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(4096):
            self._bytes = (self._bytes + piece)[-_TAIL_BYTES:]

    def quoted(self, most: int = 8) -> str:
        said = self._bytes.decode(errors="replace").splitlines()
        lines = dict.fromkeys(words for line in said if (words := _LOG_STAMP.sub("", line).strip()))
        return "".join(f"\n  {line}" for line in list(lines)[-most:])


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError(f"cannot read the model file {path}: {error.strerror}") from None
    if magic != b"GGUF":
        raise UsageError(f"{path} is not a GGUF model: it begins with {magic!r}")


def physical_cores() -> int:
    """The physical cores this process may use, at least 1: hyper-threads and idle limits only slow decoding down."""
    try:
        allowed: Iterable[int] = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    limit = max(int(quota) // int(period), 1) if quota.isdecimal() and period.isdecimal() else len(cores)
    return min(len(cores), limit)


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
