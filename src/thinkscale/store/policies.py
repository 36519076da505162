"""The fitted policies in service: which one each model's `auto` follows, and which it followed before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Column, Float, Integer, Row, String, Table, Text, select, update

from thinkscale.store.database import Database, metadata
from thinkscale.store.whole import whole

_policies = Table(
    "policies",
    metadata,
    Column("model", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("evidence", Text, nullable=False),  # JSON
    Column("promoted_at", Float(53), nullable=False),
    Column("withdrawn_at", Float(53)),
)


@dataclass(frozen=True, slots=True)
class Promoted:
    """One policy as it was promoted, at `promoted_at` (unix seconds). `artifact` is its file's text, `evidence` what
    justified it. `withdrawn_at` is when it was rolled back, `None` where it was not.
    """

    model: str
    version: int
    kind: str
    artifact: str
    evidence: Mapping[str, Any]
    promoted_at: float
    withdrawn_at: float | None


class PolicyStore:
    """Versions of policies by model. In service is the newest that was not rolled back."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def promote(self, model: str, kind: str, artifact: str, evidence: Mapping[str, Any]) -> Promoted:
        """Put a policy into service; the one before stays on record."""

        async def write() -> Promoted:
            async with self._database.begin() as connection:
                if self._database.dialect == "postgresql":  # two promotions at once must not get one number
                    await connection.exec_driver_sql("LOCK TABLE policies IN EXCLUSIVE MODE")
                versions = await connection.execute(select(_policies.c.version).where(_policies.c.model == model))
                row = {
                    "model": model,
                    "version": max((version for (version,) in versions), default=0) + 1,
                    "kind": kind,
                    "artifact": artifact,
                    "evidence": orjson.dumps(dict(evidence)).decode(),
                    "promoted_at": self._clock(),
                    "withdrawn_at": None,
                }
                await connection.execute(_policies.insert().values(**row))
                return Promoted(**{**row, "evidence": dict(evidence)})  # type: ignore[arg-type]

        return await whole(write())

    async def rollback(self, model: str) -> tuple[Promoted | None, Promoted | None]:
        """Take the policy in service out of it. Gives it, `None` where there was none, and the one before, which is in
        service from now on; `None` where there is none: then `auto` has its default.
        """

        async def write() -> tuple[Promoted | None, Promoted | None]:
            async with self._database.begin() as connection:
                rows = (await connection.execute(_in_service(model).limit(2))).all()
                if not rows:
                    return None, None
                at = (_policies.c.model == model) & (_policies.c.version == rows[0].version)
                await connection.execute(update(_policies).where(at).values(withdrawn_at=self._clock()))
                return _promoted(rows[0]), _promoted(rows[1]) if len(rows) > 1 else None

        return await whole(write())

    async def active(self, model: str) -> Promoted | None:
        """The policy in service."""
        rows = await self._read(_in_service(model).limit(1))
        return _promoted(rows[0]) if rows else None

    async def listed(self) -> list[Promoted]:
        """Every version of every model, newest first."""
        rows = await self._read(select(_policies).order_by(_policies.c.model, _policies.c.version.desc()))
        return [_promoted(row) for row in rows]

    async def _read(self, asked: Any) -> list[Row[Any]]:
        async def read() -> list[Row[Any]]:
            async with self._database.begin() as connection:
                return list((await connection.execute(asked)).all())

        return await whole(read())


def _in_service(model: str) -> Any:
    remaining = (_policies.c.model == model) & _policies.c.withdrawn_at.is_(None)
    return select(_policies).where(remaining).order_by(_policies.c.version.desc())


def _promoted(row: Row[Any]) -> Promoted:
    return Promoted(**{**row._mapping, "evidence": orjson.loads(row.evidence)})
