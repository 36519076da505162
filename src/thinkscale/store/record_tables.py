"""The tables behind `Records`, and what of a record goes into which row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, String, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from thinkscale.store.database import metadata

if TYPE_CHECKING:
    from thinkscale.store.records import RequestRecord

CONTENT = frozenset({"prompt", "text", "reasoning", "answer", "error", "reason"})
"""The fields of trace events that hold what people or models wrote."""

Insert = postgresql.Insert | sqlite.Insert


def _decision() -> list[Column[Any]]:
    """What was decided and what came of it: in `feedback` too, since that outlives the request's row."""
    return [
        Column("key", String, nullable=False),
        Column("model", String, nullable=False),
        Column("policy", String, nullable=False),
        Column("strategy", String, nullable=False),
        Column("budget", Text, nullable=False),  # JSON
        Column("probability", Float(53), nullable=False),
        Column("stop_reason", String),
        Column("confidence", Float(53)),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("calls", BigInteger, nullable=False),
        Column("samples", BigInteger, nullable=False),
        Column("cost_usd", Float(53)),
        Column("seconds", Float(53), nullable=False),
        Column("context", Text),  # JSON
        Column("verdict", Float(53)),
        Column("passed", Boolean),
    ]


DECISION = tuple(column.name for column in _decision())

requests = Table(
    "requests",
    metadata,
    Column("trace_id", String, primary_key=True),
    Column("at", Float(53), nullable=False),
    *_decision(),
    Column("stored_at", Float(53)),  # unix seconds; after `at` by as long as the request took
    Column("status", Integer, nullable=False),
    Column("queue_s", Float(53), nullable=False),
    Column("usage_by_purpose", Text, nullable=False),  # JSON
    Column("events", Text),  # JSON, NULL where not kept
)
Index("requests_by_time", requests.c.at, requests.c.trace_id)
Index("requests_by_storing", requests.c.stored_at)

feedback = Table(
    "feedback",
    metadata,
    Column("trace_id", String, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("correct", Boolean),
    Column("score", Float(53)),
    *_decision(),
)

spend = Table(
    "spend",
    metadata,
    Column("day", String(10), primary_key=True),  # UTC, 2026-11-24
    Column("key", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("purpose", String, primary_key=True),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("cost_usd", Float(53), nullable=False),  # of the calls whose cost is known
    Column("unknown_cost_calls", BigInteger, nullable=False),
)
_ACCOUNT = ("day", "key", "model", "purpose")
_SUMS = ("prompt_tokens", "output_tokens", "calls", "requests", "cost_usd", "unknown_cost_calls")

Sums = dict[tuple[str, ...], list[float]]
"""What to add to the rows of `spend`: by account (day, key, model, purpose), the amounts."""


def insert_into(table: Table, dialect: str) -> Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def add_to_spend(dialect: str) -> Insert:
    """Adds to the row that is there, so that several replicas may write the same one."""
    insert = insert_into(spend, dialect)
    added = {name: spend.c[name] + insert.excluded[name] for name in _SUMS}
    return insert.on_conflict_do_update(index_elements=_ACCOUNT, set_=added)


def spend_rows(sums: Sums) -> list[dict[str, Any]]:
    """In one order everywhere: two replicas that lock the same rows never wait for each other in a circle."""
    return [dict(zip(_ACCOUNT + _SUMS, (*account, *amounts), strict=True)) for account, amounts in sorted(sums.items())]


def count(sums: Sums, record: RequestRecord) -> None:
    """Add a record to sums of spending. The request itself is counted once, with what it generated."""
    day = datetime.fromtimestamp(record.at, UTC).date().isoformat()
    key, model = clean(record.key), clean(record.model)
    for purpose, usage in {"generate": {}, **record.usage_by_purpose}.items():
        amounts = sums.setdefault((day, key, model, clean(purpose)), [0, 0, 0, 0, 0.0, 0])
        calls, cost = usage.get("calls", 0), usage.get("cost_usd", 0.0)
        amounts[0] += usage.get("prompt_tokens", 0)
        amounts[1] += usage.get("output_tokens", 0)
        amounts[2] += calls
        amounts[3] += purpose == "generate"
        amounts[4] += cost or 0.0
        amounts[5] += max(1, calls) if cost is None else 0


def request_row(record: RequestRecord) -> dict[str, Any]:
    return {
        "trace_id": clean(record.trace_id),
        "at": record.at,
        "key": clean(record.key),
        "model": clean(record.model),
        "policy": clean(record.policy),
        "strategy": clean(record.strategy),
        "budget": to_json(record.budget),
        "probability": record.probability,
        "context": None if record.context is None else to_json(record.context),
        "verdict": record.verdict,
        "passed": record.passed,
        "stop_reason": record.stop_reason,
        "confidence": record.confidence,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "calls": record.calls,
        "samples": record.samples,
        "cost_usd": record.cost_usd,
        "seconds": record.seconds,
        "status": record.status,
        "queue_s": record.queue_s,
        "usage_by_purpose": to_json(record.usage_by_purpose),
        "events": None if record.events is None else to_json(record.events),
    }


def without_content(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    bare = [dict(event) for event in events]
    for event in bare:
        for name in CONTENT:
            event.pop(name, None)
    return bare


def clean(text: str) -> str:
    """A text that every database takes: PostgreSQL has no NUL, and neither has halves of characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def to_json(value: Any) -> str:
    try:
        return orjson.dumps(value, default=dict).decode()
    except TypeError:  # what JSON's reader took and orjson cannot write: one such record must not hold up the others
        return orjson.dumps(_plain(value)).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {clean(str(name)): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(2**63), min(value, 2**63 - 1))
    if value is None or isinstance(value, bool | float):
        return value
    return clean(str(value))
