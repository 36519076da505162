"""thinkscale: spend inference compute on purpose.

    import thinkscale

    result = thinkscale.solve("What is 17 * 23?", model="http://localhost:8000/v1", strategy="self-consistency:n=8")
    result.answer, result.confidence, result.usage

Inside an event loop, open a model and an `Engine` and await `engine.solve`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinkscale.api import open_engine, solve, solve_batch
    from thinkscale.engine import Engine
    from thinkscale.models.openai import OpenAIModel
    from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request, Result

__version__ = "0.1.0"

__all__ = [
    "AnswerKind",
    "Budget",
    "Engine",
    "OpenAIModel",
    "Params",
    "Prompt",
    "Request",
    "Result",
    "open_engine",
    "solve",
    "solve_batch",
]

_HOMES = {
    "AnswerKind": "types",
    "Budget": "types",
    "Engine": "engine",
    "OpenAIModel": "models.openai",
    "Params": "types",
    "Prompt": "types",
    "Request": "types",
    "Result": "types",
    "open_engine": "api",
    "solve": "api",
    "solve_batch": "api",
}


def __getattr__(name: str) -> Any:
    # Public names load on first use: `thinkscale --help` must not pay for an HTTP client.
    if name in _HOMES:
        return getattr(import_module(f"thinkscale.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'thinkscale' has no attribute {name!r}")
