"""Keys that clients present: who may ask, for what, and how much. Only a secret's SHA-256 is stored."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Double, Index, String, Table, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from thinkscale.errors import UsageError
from thinkscale.store.database import Database, metadata
from thinkscale.store.whole import whole

logger = logging.getLogger("thinkscale.store")

_REMEMBERED_S = 5.0
_GRACE_S = 300.0
_NEW_S = 1.0  # an unknown secret may be that of a key just made
_LEAST_SECRET = 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_ISSUED = re.compile(r"ts-([0-9a-f]{8})-[A-Za-z0-9_-]{43}")
_NOBODY = hashlib.sha256(b"").hexdigest()

_keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("policies", JSON(none_as_null=True)),
    Column("limits", JSON, nullable=False),
    Column("declared", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)
_live = _keys.c.revoked_at.is_(None)
Index("keys_live_name", _keys.c.name, unique=True, sqlite_where=_live, postgresql_where=_live)


@dataclass(frozen=True)
class KeyLimits:
    """What one key may use per window of time; `None` is unlimited. Tokens are prompt and output together.

    Raises `UsageError` for a limit that is not positive and finite.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    usd_per_day: float | None = None
    usd_per_month: float | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                words = limit.name.replace("_", " ")
                raise UsageError(f"{words} must be positive, not {value}: leave the limit out for none")


@dataclass(frozen=True)
class Key:
    """One key. `models` and `policies` are the names it may use, `None` for all; `id` is public.

    Times are Unix seconds; `revoked_at` is `None` for a key that works.
    """

    id: str
    name: str
    admin: bool
    models: tuple[str, ...] | None
    policies: tuple[str, ...] | None
    limits: KeyLimits
    created_at: float
    revoked_at: float | None


class KeyStore:
    """The keys in a database.

    Keys are few: all that work are remembered for 5 seconds, so that a request costs no trip to the database, whatever
    secret it comes with; a key revoked by another process works no longer than that. One added by another process is
    found within a second. While the database is away, those known last go on working for five minutes. `clock` tells
    Unix seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[str, Key]] = {}  # digest and key by id, so that no secret stays in memory
        self._read_at: float | None = None
        self._failed_at = -math.inf
        self._reading = asyncio.Lock()

    async def add(
        self,
        name: str,
        *,
        admin: bool = False,
        models: Collection[str] | None = None,
        policies: Collection[str] | None = None,
        limits: KeyLimits = KeyLimits(),
    ) -> tuple[Key, str]:
        """Make a key and its secret, `ts-<id>-<random>`, which is never seen again.

        Raises `UsageError` where a working key has that name, or the name or a scope is malformed.
        """
        scopes = _checked(name, models, policies)
        try:
            async with self._database.begin() as connection:
                if await _live_key(connection, name) is not None:
                    raise _taken(name)
                ids = set(await connection.scalars(select(_keys.c.id)))
                while (key_id := secrets.token_hex(4)) in ids:
                    pass
                secret = f"ts-{key_id}-{secrets.token_urlsafe(32)}"
                key = Key(key_id, name, admin, *scopes, limits, self._clock(), None)
                await connection.execute(insert(_keys).values(_row(key, _digest(secret), declared=False)))
        except IntegrityError:  # another process took it between the look and the insertion
            raise _taken(name) from None
        self._read_at = None
        return key, secret

    async def declare(
        self,
        name: str,
        secret: str,
        *,
        admin: bool = False,
        models: Collection[str] | None = None,
        policies: Collection[str] | None = None,
        limits: KeyLimits = KeyLimits(),
    ) -> Key:
        """Make or change the key that an operator's configuration declares, with a secret of the operator's choice.

        A new secret under the same name replaces the old one. Raises `UsageError` for a secret under 20 characters, a
        secret that was revoked or is another key's, and a name that `add` gave away.
        """
        scopes = _checked(name, models, policies)
        if len(secret) < _LEAST_SECRET:
            raise UsageError(f"key {name}: a secret needs at least {_LEAST_SECRET} characters, not {len(secret)}")
        digest = _digest(secret)
        self._read_at = None
        async with self._database.begin() as connection:
            if self._database.dialect == "postgresql":  # replicas that start together declare the same keys
                await connection.exec_driver_sql("LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE")
            same = (await connection.execute(select(_keys).where(_keys.c.id == digest[:8]))).one_or_none()
            if same is not None and (same.digest != digest or (same.name != name and same.revoked_at is None)):
                raise UsageError(f"key {name}: its secret is too like that of key {same.name}: choose another")
            if same is not None and same.revoked_at is not None:
                raise UsageError(f"key {name}: this secret was revoked: give it a new one")
            holder = await _live_key(connection, name)
            if holder is not None and not holder.declared:
                raise _taken(name)
            created_at = same.created_at if same is not None else self._clock()
            key = Key(digest[:8], name, admin, *scopes, limits, created_at, None)
            await connection.execute(delete(_keys).where(_keys.c.name == name, _live))
            await connection.execute(insert(_keys).values(_row(key, digest, declared=True)))
        return key

    async def keep_declared(self, names: Collection[str]) -> list[str]:
        """Drop the declared keys of other names: what left the configuration stops working. Returns their names.

        Call it before declaring, so that a key may change its name.
        """
        gone = _keys.c.declared & _live & _keys.c.name.not_in(list(names))
        async with self._database.begin() as connection:
            dropped = list(await connection.scalars(select(_keys.c.name).where(gone).order_by(_keys.c.name)))
            await connection.execute(delete(_keys).where(gone))
        self._read_at = None
        return dropped

    async def find(self, secret: str) -> Key | None:
        """The working key with this secret, `None` if there is none."""
        digest = _digest(secret)
        await self._refresh(_REMEMBERED_S)
        key = self._same(secret, digest)
        if key is None:
            await self._refresh(_NEW_S)
            key = self._same(secret, digest)
        return key

    async def list(self) -> list[Key]:
        """Every key, revoked ones too, oldest first."""
        async with self._database.begin() as connection:
            rows = await connection.execute(select(_keys).order_by(_keys.c.created_at, _keys.c.id))
            return [_key(row) for row in rows]

    async def revoke(self, name: str) -> Key:
        """End the working key of that name, for good. Raises `UsageError` where there is none."""
        now = self._clock()
        async with self._database.begin() as connection:
            ended = update(_keys).where(_keys.c.name == name, _live).values(revoked_at=now).returning(*_keys.c)
            row = (await connection.execute(ended)).one_or_none()
        if row is None:
            raise UsageError(f"no working key is named {name!r}: `thinkscale keys list` shows them")
        self._read_at = None
        return _key(row)

    async def count(self) -> int:
        """How many keys work."""
        async with self._database.begin() as connection:
            return await connection.scalar(select(func.count()).select_from(_keys).where(_live)) or 0

    def _older_than(self, seconds: float) -> bool:
        return self._read_at is None or not 0 <= self._clock() - self._read_at < seconds

    async def _refresh(self, seconds: float) -> None:
        """See to it that the keys known are those of at most `seconds` ago."""
        if self._older_than(seconds):
            await whole(self._read(seconds))

    async def _read(self, seconds: float) -> None:
        """Read all working keys, unless another request did while this one waited, or failed to a moment ago."""
        async with self._reading:
            now = self._clock()
            if not self._older_than(seconds):
                return
            if 0 <= now - self._failed_at < _NEW_S:
                self._make_do(now)
                return
            try:
                async with self._database.begin() as connection:
                    rows = await connection.execute(select(_keys).where(_live))
                    self._known = {row.id: (row.digest, _key(row)) for row in rows}
                self._read_at = now
            except (SQLAlchemyError, OSError) as error:
                self._failed_at = now
                logger.warning("the keys cannot be read (%s): those known are used", type(error).__name__)
                self._make_do(now)

    def _make_do(self, now: float) -> None:
        """Go on with the keys known while the database is away, but not for long: some may be revoked by now."""
        if self._read_at is None or now - self._read_at > _GRACE_S:
            raise ConnectionError("the database with the keys does not answer")

    def _same(self, secret: str, digest: str) -> Key | None:
        """The key of this secret , if known. An issued secret names its id; a declared one's begins its digest."""
        issued = _ISSUED.fullmatch(secret)
        # One comparison at least, each in constant time: how long it takes tells nothing about which ids exist.
        hmac.compare_digest(_NOBODY, digest)
        for key_id in {digest[:8], issued[1] if issued else digest[:8]}:
            of_id = self._known.get(key_id)
            if of_id is not None and hmac.compare_digest(of_id[0], digest):
                return of_id[1]
        return None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _checked(
    name: str, models: Collection[str] | None, policies: Collection[str] | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    if not _NAME.fullmatch(name):
        raise UsageError(f"key name {name!r} is not 1 to 64 of letters, digits and . _ @ + -, a letter or digit first")
    for kind, scope in (("models", models), ("policies", policies)):
        if scope is not None and (not scope or not all(one.strip() for one in scope)):
            raise UsageError(f"key {name}: {kind} must be names; leave them out to allow all")
    return tuple(models) if models is not None else None, tuple(policies) if policies is not None else None


def _taken(name: str) -> UsageError:
    return UsageError(f"a key named {name!r} exists already: choose another name, or revoke it first")


async def _live_key(connection: AsyncConnection, name: str) -> Any:
    return (await connection.execute(select(_keys).where(_keys.c.name == name, _live))).one_or_none()


def _row(key: Key, digest: str, *, declared: bool) -> dict[str, Any]:
    row = {field.name: getattr(key, field.name) for field in fields(key)}
    return row | {"limits": asdict(key.limits), "digest": digest, "declared": declared}


def _key(row: Any) -> Key:
    return Key(
        row.id,
        row.name,
        row.admin,
        None if row.models is None else tuple(row.models),
        None if row.policies is None else tuple(row.policies),
        KeyLimits(**row.limits),
        row.created_at,
        row.revoked_at,
    )
