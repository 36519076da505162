"""Logs: one JSON object a line on standard error, or a readable line on a terminal.

What people and models wrote never gets in, unless it is switched on: fields of those names are left out, and of an
exception only its type and where it was raised is told, since servers quote prompts in their error messages.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from thinkscale.store.record_tables import CONTENT
from thinkscale.store.records import RequestRecord

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that the running task works on; every line it logs carries it."""
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)

_access = logging.getLogger("thinkscale.access")
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_ACCESS_FIELDS = (
    "key",
    "model",
    "policy",
    "strategy",
    "status",
    "stop_reason",
    "confidence",
    "prompt_tokens",
    "output_tokens",
    "calls",
    "samples",
    "cost_usd",
    "seconds",
    "queue_s",
)
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10}


def configure_logs(*, json: bool | None = None, level: str | int = "INFO", content: bool = False) -> None:
    """Send the log to standard error: `json` or readable, `None` for what suits (readable on a terminal).

    `level` is that of thinkscale's own loggers; of all others, warnings and worse are shown. `content` lets what people
    and models wrote into the log. Calling it again replaces what it set up.
    """
    if json is None:
        json = not sys.stderr.isatty()
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, JsonLines | ReadableLines)]:
        root.removeHandler(old)
    ours = logging.StreamHandler(sys.stderr)
    ours.setFormatter(JsonLines(content=content) if json else ReadableLines(content=content))
    root.addHandler(ours)
    root.setLevel(logging.WARNING)
    logging.getLogger("thinkscale").setLevel(level.upper() if isinstance(level, str) else level)


def access(record: RequestRecord, request_id: str) -> None:
    """Log one line about a request that ended."""
    if _access.isEnabledFor(logging.INFO):
        fields = {name: getattr(record, name) for name in _ACCESS_FIELDS}
        _access.info(_described(record), extra={"request_id": request_id, "trace_id": record.trace_id, **fields})


def _described(record: RequestRecord) -> str:
    model = f"{record.model}:{record.policy}" if record.policy else record.model
    cost = "price unknown" if record.cost_usd is None else f"${record.cost_usd:.6f}"
    tokens = record.prompt_tokens + record.output_tokens
    parts = [
        str(record.status),
        model or "-",
        record.strategy or "-",
        record.stop_reason or "-",
        f"{record.samples} samples, {tokens} tokens, {cost}, {record.seconds:.3f} s",
    ]
    return " ".join(parts)


class JsonLines(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, request_id and trace_id where known, extra fields, exception."""

    def __init__(self, *, content: bool = False) -> None:
        super().__init__()
        self._content = content

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = {"request_id": request_id.get(), "trace_id": trace_id.get()}
        line |= {name: value for name, value in known.items() if value is not None}
        left_out = _STANDARD if self._content else _STANDARD | CONTENT
        line |= {name: value for name, value in vars(record).items() if name not in left_out}
        if record.exc_info:
            line["exception"] = _exception(record.exc_info[1], content=self._content)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class ReadableLines(logging.Formatter):
    """`12:34:56 info message`. Control characters are shown, not sent to the terminal."""

    def __init__(self, *, content: bool = False) -> None:
        super().__init__()
        self._content = content

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        text = f"{when} {record.levelname.lower():7} {record.getMessage()}"
        known = getattr(record, "request_id", None) or request_id.get()
        if known:
            text += f" [{known}]"
        if record.exc_info:
            text += "\n" + _exception(record.exc_info[1], content=self._content)
        return text.translate(_CONTROL)


def _exception(error: BaseException | None, *, content: bool) -> str:
    if error is None:
        return ""
    if content:
        return "".join(traceback.format_exception(error)).rstrip()
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        parts.append("".join(traceback.format_tb(error.__traceback__)) + kind)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich was raised from\n".join(parts)
