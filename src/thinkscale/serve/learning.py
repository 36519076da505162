"""What `auto` follows in a running gateway: the policy in service for each model, which learns from what comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from thinkscale.errors import UsageError
from thinkscale.policies.artifact import Artifact, FittedPolicy
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.policies.needs import verifies
from thinkscale.store.policies import PolicyStore, Promoted
from thinkscale.store.records import Decision, Records, RequestRecord
from thinkscale.types import Controller, Request

_REFRESH_S = 5.0
_OVERLAP_S = 60.0  # longer than a row takes to be committed, and than the clocks of replicas differ
_LOG = logging.getLogger("thinkscale")


@dataclass
class _InService:
    """A policy in service: `promoted` and `artifact` as it was promoted, `policy` with what it has learned since.

    `rewards` tell by trace id what it was taught, `newest` is the time (unix seconds) of the latest row that it has
    seen. `warned`: that it cannot be followed everywhere has been told.
    """

    promoted: Promoted
    artifact: Artifact
    policy: FittedPolicy
    newest: float
    rewards: dict[str, float] = field(default_factory=dict)
    warned: bool = False


class Learning:
    """The policies in service, reread every few seconds, so that a promotion or a rollback needs no restart.

    What a bandit learns is no state of its own: it follows from what is on record since it was promoted, each request
    once. So every replica comes to know the same, but for the order of what came within the same seconds, and a restart
    forgets nothing but verdicts on requests that are no longer kept. Where somebody takes back a word that was learned
    already, the bandit begins again from its promotion. The clocks of replicas must agree to well within a minute.

    People's feedback is learned from always. A verifier's verdict counts where nobody said anything, and only a hard
    yes or no of a verifier that the operator chose, which is then taken for the truth: no score of a judge, and nothing
    that a client's own choice could steer. Where any of the bandit's strategies asks no verifier, no verdict counts at
    all, for those that ask one would look better or worse for being judged. What remains is assumed: whether a verdict
    was possible (the budget lasted, there was something to check) says nothing of how good a strategy is.
    """

    def __init__(self, store: PolicyStore, records: Records, models: Collection[str]) -> None:
        self._store = store
        self._records = records
        self._models = models
        self._policies: dict[str, _InService] = {}
        self._refreshing = asyncio.Lock()
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
        controller = in_service.policy.controller(request)
        needs = {"score": ("a verifier", verifier), "larger": ("a larger model", larger)}
        missing = [words for name, (words, there) in needs.items() if name in controller.features and not there]
        if not missing:
            return controller
        if not in_service.warned:
            in_service.warned = True
            _LOG.warning(
                "model %s: policy v%d (%s) needs %s; requests without keep to auto's default",
                model,
                in_service.promoted.version,
                in_service.promoted.kind,
                " and ".join(missing),
            )
        return None

    def charged(self, record: RequestRecord) -> None:
        """Tell the model's bandit, if it has one, what a request has cost for which it chose the strategy."""
        in_service = self._policies.get(record.model)
        if in_service is not None and isinstance(policy := in_service.policy, BanditPolicy):
            cost = _cost(record, policy.unit)
            if cost is not None:
                in_service.policy = policy.charged(cost)

    def versions(self) -> dict[str, str]:
        """Kind and version of the policy in service, by model, for people who look."""
        return {model: f"{one.promoted.kind} v{one.promoted.version}" for model, one in sorted(self._policies.items())}

    async def refresh(self) -> None:
        """Read which policies are in service, and learn what came back since the last time."""
        async with self._refreshing:  # two at once would teach the same twice
            for model in self._models:
                promoted = await self._store.active(model)
                known = self._policies.get(model)
                if promoted is None:
                    self._policies.pop(model, None)
                elif known is None or known.promoted.version != promoted.version:
                    self._take_up(promoted)
            for model, one in self._policies.items():
                if isinstance(one.artifact.policy, BanditPolicy):
                    await self._learn(model, one, one.artifact.policy)

    def _take_up(self, promoted: Promoted) -> None:
        try:
            artifact = Artifact.parse(promoted.artifact, f"the policy v{promoted.version} of {promoted.model}")
        except UsageError as error:
            _LOG.error("%s; auto keeps to what it followed before", error)
            return
        self._policies[promoted.model] = _InService(promoted, artifact, artifact.policy, promoted.promoted_at)
        _LOG.info("model %s: auto follows policy v%d (%s)", promoted.model, promoted.version, promoted.kind)

    async def _learn(self, model: str, one: _InService, promoted: BanditPolicy) -> None:
        policy, known = one.policy, one.rewards
        since = max(one.promoted.promoted_at, one.newest - _OVERLAP_S)
        outcomes = await self._outcomes(model, since, promoted)
        if any(known.get(outcome.trace_id, outcome.reward) != outcome.reward for outcome in outcomes):
            policy, known = promoted, {}
            outcomes = await self._outcomes(model, one.promoted.promoted_at, promoted)
        fresh = [outcome for outcome in outcomes if outcome.trace_id not in known]
        if not fresh:
            return
        rows = [row for outcome in fresh if (row := logged(outcome, promoted.unit))]
        assert isinstance(policy, BanditPolicy)
        # Much feedback is seconds of arithmetic at a start; requests must not wait for it.
        learned = await asyncio.to_thread(policy.learned, rows)
        current = one.policy  # it was charged meanwhile
        assert isinstance(current, BanditPolicy)
        one.policy = replace(learned, spending=current.spending)
        one.rewards = known | {outcome.trace_id: outcome.reward for outcome in fresh}
        one.newest = max(one.newest, outcomes[-1].at)

    async def _outcomes(self, model: str, since: float, policy: BanditPolicy) -> list[Decision]:
        """What there is to learn from, of decisions between the strategies of this policy."""
        strategies = {arm.strategy for arm in policy.state.arms}
        outcomes = await self._records.outcomes(since, model=model, verdicts=all(map(verifies, strategies)))
        return [outcome for outcome in outcomes if outcome.context is not None and outcome.strategy in strategies]

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self.refresh()
            except (SQLAlchemyError, OSError) as error:  # the database is away: what is known still serves
                _LOG.warning("cannot read the policies in service: %s", error)


def logged(outcome: Decision, unit: str) -> Logged | None:
    """A decision as a policy learns from it; `None` where it was none of `auto`'s, or its cost is unknown."""
    cost = _cost(outcome, unit)
    if outcome.context is None or cost is None:
        return None
    return Logged(outcome.context, outcome.strategy, outcome.probability, outcome.reward, cost, outcome.at)


def _cost(record: RequestRecord | Decision, unit: str) -> float | None:
    return record.cost_usd if unit == "usd" else float(record.prompt_tokens + record.output_tokens)
