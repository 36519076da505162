"""What happened in a request, as versioned events, one line of JSON each.

Every event is a flat object `{"v": 1, "trace": id, "t": seconds since the request began, "event": name, ...}`:

    request    id, kind, prompt, seed           plan      strategy, budget
    call       purpose, path, n, max_tokens     settle    purpose, paths, usage, reserved_tokens
    candidate  path, answer, text, ...          failed    purpose, paths, error, status
    step       path, text, finish_reason, ...   prune     paths, reason
    verdict    path, verifier, score, passed    offer     path, answer, value
    decision   action, k, strategy, confidence  result    answer, stop_reason, usage, ...

`path` names a sample; within one trace it is unique, and what grew from (3,) is (3, 0), (3, 1), ... . A `step` is one
step of a growing reply, with its own text; a `candidate` is a whole reply, with all of it. `call` names the first of
the `n` samples that travel together, `settle` all of them. Fields may be added within a version, never renamed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from thinkscale.errors import UsageError

VERSION = 1

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


class Trace:
    """The record of one request, as it happens: events go to `listeners`, who keep what they need."""

    def __init__(self, *, listeners: tuple[Listener, ...] = (), id: str | None = None) -> None:
        self.id = id or uuid.uuid4().hex
        self._listeners = listeners
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time since the request began."""
        return time.monotonic() - self._began

    def emit(self, event: str, **fields: Any) -> None:
        record = {"v": VERSION, "trace": self.id, "t": round(self.seconds, 6), "event": event, **fields}
        for listener in self._listeners:
            listener(record)


def write_events(path: Path, events: Sequence[Event]) -> None:
    """Write a trace to a file, one event a line, whole or not at all. Raises `UsageError` where that cannot be."""
    lines = b"".join(orjson.dumps(dict(event), option=orjson.OPT_APPEND_NEWLINE) for event in events)
    regular = path.is_file() or not path.exists()
    part = path.with_name(path.name + ".part") if regular else path  # a device or a pipe must not be replaced
    try:
        part.write_bytes(lines)
        if regular:
            part.replace(path)
    except OSError as error:
        if regular:
            part.unlink(missing_ok=True)
        raise UsageError(f"cannot write the trace {path}: {error.strerror}") from None
