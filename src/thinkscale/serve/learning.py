"""What `auto` follows in a running gateway: the policy in service for each model, which learns from what comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from thinkscale.errors import UsageError
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.store.policies import PolicyStore, Promoted
from thinkscale.store.records import Decision, Records, RequestRecord
from thinkscale.types import Controller, Request

_REFRESH_S = 5.0
_LOG = logging.getLogger("thinkscale")


@dataclass
class _InService:
    """A policy in service; `heard` is the moment (unix seconds) up to which it has learned."""

    promoted: Promoted
    artifact: Artifact
    heard: float


class Learning:
    """The policies in service, reread every few seconds, so that a promotion or a rollback needs no restart.

    What a bandit learns is no state of its own: it follows from the feedback and verdicts on record since it was
    promoted. So every replica comes to know the same, and a restart forgets nothing.
    """

    def __init__(self, store: PolicyStore, records: Records, models: Collection[str]) -> None:
        self._store = store
        self._records = records
        self._models = models
        self._policies: dict[str, _InService] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.refresh()
        self._task = asyncio.create_task(self._keep_up())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def controller(self, model: str, request: Request, *, verifier: bool, larger: bool) -> Controller | None:
        """What decides for one request; `None` where no policy is in service, or it needs what is not there."""
        in_service = self._policies.get(model)
        if in_service is None:
            return None
        controller = in_service.artifact.policy.controller(request)
        missing = {"score": not verifier, "larger": not larger}
        return None if any(missing.get(feature, False) for feature in controller.features) else controller

    def charged(self, record: RequestRecord) -> None:
        """Tell the model's bandit, if it has one, what a request that it decided has cost."""
        in_service = self._policies.get(record.model)
        if in_service is not None and record.context is not None:
            policy = in_service.artifact.policy
            if isinstance(policy, BanditPolicy) and (cost := _cost(record, policy.unit)) is not None:
                self._follow(in_service, policy.charged(cost))

    def versions(self) -> dict[str, str]:
        """Kind and version of the policy in service, by model, for people who look."""
        return {model: f"{one.promoted.kind} v{one.promoted.version}" for model, one in sorted(self._policies.items())}

    async def refresh(self) -> None:
        """Read which policies are in service, and learn what came back since the last time."""
        for model in self._models:
            promoted = await self._store.active(model)
            known = self._policies.get(model)
            if promoted is None:
                self._policies.pop(model, None)
            elif known is None or known.promoted.version != promoted.version:
                self._take_up(promoted)
        for model, one in self._policies.items():
            if isinstance(one.artifact.policy, BanditPolicy):
                await self._learn(model, one)

    def _take_up(self, promoted: Promoted) -> None:
        try:
            artifact = Artifact.parse(promoted.artifact, f"the policy v{promoted.version} of {promoted.model}")
        except UsageError as error:
            _LOG.error("%s; auto keeps to what it followed before", error)
            return
        self._policies[promoted.model] = _InService(promoted, artifact, promoted.promoted_at)
        _LOG.info("model %s: auto follows policy v%d (%s)", promoted.model, promoted.version, promoted.kind)

    async def _learn(self, model: str, one: _InService) -> None:
        outcomes = await self._records.outcomes(one.heard)
        if not outcomes:
            return
        policy = one.artifact.policy
        assert isinstance(policy, BanditPolicy)
        rows = [row for row in (logged(outcome, policy.unit) for outcome in outcomes if outcome.model == model) if row]
        # Much feedback is seconds of arithmetic at a start; requests must not wait for it.
        learned = await asyncio.to_thread(policy.learned, rows)
        one.heard = outcomes[-1].at
        current = one.artifact.policy  # it was charged meanwhile
        assert isinstance(current, BanditPolicy)
        self._follow(one, replace(learned, spending=current.spending))

    @staticmethod
    def _follow(one: _InService, policy: BanditPolicy) -> None:
        one.artifact = Artifact(one.artifact.kind, one.artifact.model, policy, one.artifact.provenance)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as error:  # the database is away: what is known still serves
                _LOG.warning("cannot read the policies in service: %s", error)


def logged(outcome: Decision, unit: str) -> Logged | None:
    """A decision as a policy learns from it; `None` where it was none of `auto`'s, or its cost is unknown."""
    cost: Any = _cost(outcome, unit)
    if outcome.context is None or cost is None:
        return None
    return Logged(outcome.context, outcome.strategy, outcome.probability, outcome.reward, cost, outcome.at)


def _cost(record: RequestRecord | Decision, unit: str) -> float | None:
    return record.cost_usd if unit == "usd" else float(record.prompt_tokens + record.output_tokens)
