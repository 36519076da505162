"""Reading what people type: sampling parameters, folders."""

from __future__ import annotations

from pathlib import Path

from thinkscale.errors import UsageError
from thinkscale.types import Params


def sampling(temperature: float, max_tokens: int, verifier: str | None) -> Params:
    """The sampling parameters; a verifier that reads the model's confidence needs the tokens' log-probabilities."""
    return Params(temperature=temperature, max_tokens=max_tokens, top_logprobs=0 if verifier == "confidence" else None)


def writable_folder(path: Path) -> Path:
    """The folder, made if missing; `UsageError` where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {path}: {error.strerror}") from None
    return path
