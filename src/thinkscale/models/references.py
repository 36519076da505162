"""What may be written where a model is asked for, and which key goes to which server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from thinkscale.errors import UsageError
from thinkscale.models import catalog

_VENDOR_KEYS = {
    "api.openai.com": "OPENAI_API_KEY",
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.fireworks.ai": "FIREWORKS_API_KEY",
    "api.deepinfra.com": "DEEPINFRA_API_KEY",
    "api.cerebras.ai": "CEREBRAS_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "integrate.api.nvidia.com": "NVIDIA_API_KEY",
    "router.huggingface.co": "HF_TOKEN",
}
_OWN_KEY = "THINKSCALE_API_KEY"

KEY_VARIABLES = (_OWN_KEY, *_VENDOR_KEYS.values())
"""The environment variables that keys are read from."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A name of the catalogue: `smollm2`."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file on this machine: `models/tiny.gguf`. It need not exist."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubModel:
    """A GGUF file on the Hugging Face hub: `hf:owner/repo/file.gguf`."""

    repo: str
    file: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server that speaks the OpenAI API: `http://127.0.0.1:8000/v1`, `https://host/v1#model`.

    `model=None` leaves the choice to a server that has only one.
    """

    url: str
    model: str | None


@dataclass(frozen=True, slots=True)
class Bank:
    """Recorded samples to replay: `bank:samples.parquet`, `bank:samples.jsonl`, `bank:FILE#model`.

    `model=None` is enough for a bank of one model.
    """

    path: Path
    model: str | None = None


Reference = NamedModel | ModelFile | HubModel | Server | Bank


def parse_reference(text: str) -> Reference:
    """What `text` refers to. Nothing is opened or fetched.

    Raises `UsageError` for a name nobody has, with the nearest ones, and for a malformed or secret-bearing URL.
    """
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    match scheme.lower() if colon else "":
        case "http" | "https":
            return _server(text)
        case "hf":
            return _hub(rest)
        case "bank":
            file, _, model = rest.partition("#")
            if not file:
                raise UsageError("bank: needs the file of recorded samples: bank:samples.jsonl")
            return Bank(Path(file).expanduser(), unquote(model) or None)
    if text.lower().endswith(".gguf"):
        return ModelFile(Path(text).expanduser())
    return NamedModel(catalog.entry(text).name)


def _hub(rest: str) -> HubModel:
    parts = rest.strip("/").split("/")
    if len(parts) < 3 or not all(parts) or ".." in parts or not parts[-1].lower().endswith(".gguf"):
        raise UsageError(
            f"hf:{rest} does not name a file: write hf:owner/repo/file.gguf, as in "
            "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf"
        )
    return HubModel("/".join(parts[:2]), "/".join(parts[2:]))


def _server(text: str) -> Server:
    if "@" in re.split(r"[/?#]", text.partition(":")[2].lstrip("/"))[0]:
        raise UsageError(
            "a model URL must not carry a user name or password: others can read a command line. "
            f"Put the key into ${_OWN_KEY} and leave it out of the URL"
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{text} is not a URL: {error}") from None
    if not host or re.search(r"\s", text):
        raise UsageError(f"{text} is not a URL of a server: write http://host:port/v1 or http://host:port/v1#model")
    if parts.query:
        raise UsageError(
            f"a model URL takes no ?query: name the model after a #, and put a key into ${_OWN_KEY}, not into the URL"
        )
    place = f"[{host}]" if ":" in host else host
    address = f"{parts.scheme}://{place}" + (f":{port}" if port is not None else "")
    return Server(address + (parts.path.rstrip("/") or "/v1"), unquote(parts.fragment) or None)


def api_key_for(url: str) -> str | None:
    """The key for a server, from the environment; `None` when there is none.

    $THINKSCALE_API_KEY goes to whichever server is named. A vendor's own variable is only ever sent to that vendor's
    host, and only over https.
    """
    if own := os.environ.get(_OWN_KEY, "").strip():
        return own
    parts = urlsplit(url)
    variable = _VENDOR_KEYS.get(parts.hostname or "") if parts.scheme == "https" else None
    return os.environ.get(variable, "").strip() or None if variable else None
