"""What became of each request: its bill, its trace, what people said of its answer, and the sums of all spending."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import orjson
from sqlalchemy import Row, Select, func, select

from thinkscale.errors import NotAllowed, UsageError
from thinkscale.store.database import Database
from thinkscale.store.record_queue import RecordQueue
from thinkscale.store.record_tables import (
    DECISION,
    clean,
    count,
    feedback,
    insert_into,
    request_row,
    requests,
    spend,
    without_content,
)
from thinkscale.store.whole import whole


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as it ended. `at` is unix time in seconds, `key` the name of the caller's key, "" for none.

    `trace_id` is unique; one that is "" (a request refused before it had a trace) is stored under a new one.
    `probability` is the chance with which the policy chose this decision (strategy and budget), 1.0 for a fixed one;
    `context` is what it knew of the request then, `None` where it did not look. `verdict` is the verifier's score of
    the answer, `None` where there was none; `passed` is its hard yes or no where the operator chose the verifier, and
    `None` where the client did, or the verifier gives none.
    `status` is the HTTP status of the response. `usage_by_purpose` holds for `generate`, `verify` and `probe` what
    `Usage` holds: at least prompt_tokens, output_tokens, calls and cost_usd, and cached_tokens where known. `events`
    are the trace's, `None` where it was not kept. An unknown cost is `None`.
    """

    trace_id: str
    at: float
    key: str = ""
    model: str = ""
    policy: str = ""
    strategy: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    probability: float = 1.0
    status: int = 200
    stop_reason: str | None = None
    confidence: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    samples: int = 0
    cost_usd: float | None = 0.0
    seconds: float = 0.0
    queue_s: float = 0.0
    context: Mapping[str, float] | None = None
    verdict: float | None = None
    passed: bool | None = None
    usage_by_purpose: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one request, what came of it, and what was said of the answer.

    `at` (unix seconds) is when it was said, or when the request was stored where nobody said anything. `correct` and
    `score` (in [0, 1]) are what a person said, `None` where not said; `verdict` is the verifier's score, in [0, 1] too,
    and `passed` the yes or no of a verifier of the operator's. `correct`, `score` or `passed` is there. `probability`
    is the chance with which the policy chose this strategy and budget, knowing `context`: with both, decisions not
    taken can be judged without bias.
    """

    trace_id: str
    at: float
    correct: bool | None
    score: float | None
    key: str
    model: str
    policy: str
    strategy: str
    budget: Mapping[str, Any]
    probability: float
    stop_reason: str | None
    confidence: float | None
    prompt_tokens: int
    output_tokens: int
    calls: int
    samples: int
    cost_usd: float | None
    seconds: float
    context: Mapping[str, float] | None = None
    verdict: float | None = None
    passed: bool | None = None

    @property
    def reward(self) -> float:
        """How right the answer was, in [0, 1]: by a person's word, else by the operator's verifier's yes or no."""
        if self.correct is not None:
            return float(self.correct)
        return float(self.passed or False) if self.score is None else self.score


_UNLISTED = ("budget", "probability", "usage_by_purpose", "events", "context", "verdict", "passed", "stored_at")
_LISTED = [column for column in requests.c if column.name not in _UNLISTED]
_SAID = [feedback.c.at.label("said_at"), feedback.c.correct, feedback.c.score]


class Records:
    """The newest `keep` requests with their traces, all feedback, and the spending of every day.

    `add` never waits: a task of `open` writes what was added, a moment later, in batches; `aclose` writes the rest. The
    readers see everything added before. What people and models wrote is stored only with `log_content`. While the
    database cannot be reached, readers raise what it raised, and nothing that was added is lost but the oldest traces.
    """

    def __init__(
        self,
        database: Database,
        *,
        log_content: bool = False,
        keep: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if keep < 1:
            raise UsageError(f"at least one request must be kept, not {keep}")
        self._database = database
        self._log_content = log_content
        self._clock = clock
        self._queue = RecordQueue(database, keep=keep, clock=clock)

    async def open(self) -> None:
        self._queue.start()

    async def aclose(self) -> None:
        await self._queue.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def add(self, record: RequestRecord) -> None:
        """Keep a record. Safe and cheap anywhere on the event loop."""
        if not record.trace_id:
            record = replace(record, trace_id=uuid.uuid4().hex)
        if record.events is not None and not self._log_content:
            record = replace(record, events=without_content(record.events))
        count(self._queue.sums, record)
        self._queue.add(request_row(record))

    async def recent(self, limit: int = 50, before: float | None = None) -> list[dict[str, Any]]:
        """The newest requests first, those before a unix time only if one is given; without traces.

        `feedback` is `None` where nobody said anything.
        """
        asked = _with_feedback(*_LISTED).order_by(requests.c.at.desc(), requests.c.trace_id.desc()).limit(limit)
        if before is not None:
            asked = asked.where(requests.c.at < before)
        return [_listed(row) for row in await self._read(asked)]

    async def one(self, trace_id: str) -> dict[str, Any] | None:
        """All about one request, its `events` too (`None` where they were not kept); `None` where it is unknown."""
        kept = (column for column in requests.c if column.name != "stored_at")
        rows = await self._read(_with_feedback(*kept).where(requests.c.trace_id == clean(trace_id)))
        if not rows:
            return None
        found = _listed(rows[0])
        for name in ("budget", "usage_by_purpose", "events", "context"):
            found[name] = None if found[name] is None else orjson.loads(found[name])
        return found

    async def spend(self, days: int = 30) -> dict[str, list[dict[str, Any]]]:
        """Sums of the last `days` UTC days, today's included: `by_day` (oldest first), `by_key`, `by_model`,
        `by_purpose` (the dearest first).

        `cost_usd` sums what is known, and is `None` where nothing is; `unknown_cost_calls` says how many calls it
        leaves out.
        """
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        first = (today - timedelta(days=days - 1)).isoformat()
        sums: dict[str, list[dict[str, Any]]] = {}
        for by in ("day", "key", "model", "purpose"):
            account = spend.c[by]
            amounts = [func.sum(column).label(column.name) for column in spend.c if not column.primary_key]
            rows = await self._read(select(account, *amounts).where(spend.c.day >= first).group_by(account))
            sums[f"by_{by}"] = [_summed("day" if by == "day" else "name", row) for row in rows]
            if by == "day":
                sums["by_day"].sort(key=lambda row: row["day"])
            else:
                sums[f"by_{by}"].sort(key=lambda row: (-(row["cost_usd"] or 0.0), -row["tokens"], row["name"]))
        return sums

    async def feedback(
        self, trace_id: str, *, correct: bool | None = None, score: float | None = None, key: str
    ) -> Decision | None:
        """Keep what was said of an answer, in place of what was said before; `None` where the trace id is unknown.

        Raises `UsageError` where nothing is said or `score` is not in [0, 1], `NotAllowed` where the request was made
        with another key than `key`.
        """
        if correct is None and score is None:
            raise UsageError("feedback needs correct (true or false) or score (0 to 1)")
        if score is not None and not (math.isfinite(score) and 0 <= score <= 1):
            raise UsageError(f"score must be from 0 to 1, not {score}")
        await self._queue.written()
        said = {"at": self._clock(), "correct": correct, "score": score}
        return await whole(self._say(clean(trace_id), said, key))

    async def outcomes(self, since: float = 0.0, *, model: str | None = None, verdicts: bool = False) -> list[Decision]:
        """Decisions with what is known of their answers, oldest first: what a policy can learn from.

        Feedback that was said after `since` (unix seconds), on answers of one `model` where that is given. With
        `verdicts` also the hard ones of the operator's verifiers that were stored after `since`, on requests of which
        nobody has said anything. A row is seen some moments after its own time, when it is committed, and replicas'
        clocks differ: to miss nothing, ask again from a while before the newest that was seen.
        """
        said = select(feedback).where(feedback.c.at > since)
        decision = (requests.c[name] for name in DECISION)
        judged = (
            select(
                requests.c.trace_id,
                requests.c.stored_at.label("at"),
                feedback.c.correct,
                feedback.c.score,
                *decision,
            )
            .join_from(requests, feedback, requests.c.trace_id == feedback.c.trace_id, isouter=True)
            .where(requests.c.stored_at > since, requests.c.passed.is_not(None), feedback.c.at.is_(None))
        )
        if model is not None:
            said, judged = said.where(feedback.c.model == model), judged.where(requests.c.model == model)
        # Verdicts first: one that gets its feedback between the two is then seen twice, not overlooked.
        found = list(await self._read(judged)) if verdicts else []
        rows = {row.trace_id: dict(row._mapping) for row in (*found, *await self._read(said))}
        return [_decided(row) for row in sorted(rows.values(), key=lambda row: (row["at"], row["trace_id"]))]

    async def _say(self, trace_id: str, said: dict[str, Any], key: str) -> Decision | None:
        async with self._database.begin() as connection:
            row = None
            for table in (requests, feedback):  # feedback on a request that is no longer kept may still be changed
                asked = select(*(table.c[name] for name in DECISION)).where(table.c.trace_id == trace_id)
                row = row or (await connection.execute(asked)).one_or_none()
            if row is None:
                return None
            decision = dict(row._mapping)
            if decision["key"] != key:
                raise NotAllowed("this request was made with another key: give feedback with that one", known=True)
            keep = insert_into(feedback, self._database.dialect).values(trace_id=trace_id, **said, **decision)
            await connection.execute(keep.on_conflict_do_update(index_elements=["trace_id"], set_=said))
        return _decided({"trace_id": trace_id, **said, **decision})

    async def _read(self, asked: Select[Any]) -> Sequence[Row[Any]]:
        async def read() -> Sequence[Row[Any]]:
            async with self._database.begin() as connection:
                rows: Sequence[Row[Any]] = (await connection.execute(asked)).all()
                return rows

        await self._queue.written()
        return await whole(read())


def _with_feedback(*columns: Any) -> Select[Any]:
    return select(*columns, *_SAID).join_from(
        requests, feedback, requests.c.trace_id == feedback.c.trace_id, isouter=True
    )


def _listed(row: Row[Any]) -> dict[str, Any]:
    found = {str(name): value for name, value in row._mapping.items()}  # plain strings: orjson takes no others as keys
    said_at, correct, score = (found.pop(name) for name in ("said_at", "correct", "score"))
    return {**found, "feedback": None if said_at is None else {"correct": correct, "score": score}}


def _decided(row: dict[str, Any]) -> Decision:
    context = row["context"] and orjson.loads(row["context"])
    return Decision(**{**row, "budget": orjson.loads(row["budget"]), "context": context})


def _summed(name: str, row: Row[Any]) -> dict[str, Any]:
    sums = row._mapping
    calls, unknown = int(sums["calls"]), int(sums["unknown_cost_calls"])
    return {
        name: row[0],
        "tokens": int(sums["prompt_tokens"]) + int(sums["output_tokens"]),
        "calls": calls,
        "requests": int(sums["requests"]),
        "cost_usd": None if unknown and unknown >= calls else float(sums["cost_usd"]),
        "unknown_cost_calls": unknown,
    }
