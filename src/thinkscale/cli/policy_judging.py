"""`thinkscale policy evaluate`, and what `promote` asks for: whether a policy is better than what is in service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from thinkscale.banks.parquet import read_bank
from thinkscale.cli.output import print_json
from thinkscale.cli.policy_service import console
from thinkscale.errors import UsageError
from thinkscale.optimize.comparing import DEFAULT, Compared, compared, unseen
from thinkscale.optimize.off_policy import promotes
from thinkscale.optimize.promising import held
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.policies.needs import verifies
from thinkscale.policies.risk import RiskPolicy
from thinkscale.serve.learning import logged
from thinkscale.store.database import Database, default_database
from thinkscale.store.policies import PolicyStore
from thinkscale.store.records import Records

WORTH = 100_000.0
"""The tokens that a right answer is worth where nobody says."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a policy: a comparison on a bank, or an estimate from logged decisions. `kept` is whether one
    that is there for its promise keeps it, `None` for all others.
    """

    better: bool | None
    words: str
    figures: Mapping[str, Any]
    comparison: Compared | None = None
    kept: bool | None = None

    @property
    def serves(self) -> bool:
        """Whether it is enough to put the policy into service."""
        return self.better is True if self.kept is None else self.kept

    def as_json(self) -> dict[str, Any]:
        return {**self.figures, "better": self.better, "words": self.words}

    def shown(self) -> Grid | str:
        return grid([self.comparison]) if self.comparison else _listed(self.figures)


def evaluate(
    file: Path,
    bank: Path | None,
    model: str | None,
    against: str | None,
    worth: float | None,
    database: str | None,
    *,
    as_json: bool,
) -> None:
    """What a policy is worth beside what is in service: on a bank's problems that it was not fitted on, or on the
    gateway's own record of decisions and feedback."""
    artifact = Artifact.load(file)
    with Console(stderr=True).status("replaying"):
        evidence = asyncio.run(judged(artifact, model or artifact.model, bank, against, worth, database))
    if as_json:
        print_json({"policy": str(file), **evidence.as_json()})
        return
    out = console()
    out.print(evidence.shown())
    out.print(evidence.words, highlight=False)


async def judged(
    artifact: Artifact, model: str, bank: Path | None, against: str | None, worth: float | None, database: str | None
) -> Evidence:
    """Beside what is in service for `model`, by the gateway's name, or the strategy or policy file of `against`. The
    bank's samples are those of the model that the policy was fitted for.
    """
    rival: Artifact | str | None = against
    if against is not None and against.endswith(".json"):
        rival = Artifact.load(Path(against))
    async with Database(database or default_database()) as opened, Records(opened) as records:
        if rival is None:
            rival = await _in_service(model, PolicyStore(opened), records)
        if bank is None:
            return await _from_log(artifact, model, rival, records, worth)
    return await asyncio.to_thread(_on_bank, artifact, rival, bank, worth, "the other policy" if against else None)


async def _in_service(model: str, store: PolicyStore, records: Records) -> Artifact | None:
    """The policy in service, a bandit with all that it has learned since its promotion."""
    promoted = await store.active(model)
    if promoted is None:
        return None
    artifact = Artifact.parse(promoted.artifact, f"the policy v{promoted.version} of {model}")
    policy = artifact.policy
    if not isinstance(policy, BanditPolicy):
        return artifact
    rows = await _rows(records, model, policy, _strategies(policy), promoted.promoted_at)
    return replace(artifact, policy=await asyncio.to_thread(policy.learned, rows))


def _on_bank(
    artifact: Artifact, rival: Artifact | str | None, path: Path, worth: float | None, named: str | None
) -> Evidence:
    bank = read_bank(path)
    problems = unseen(artifact, bank)
    price = 1 / (worth or artifact.provenance.get("tokens_per_right_answer") or WORTH)
    comparison = compared(artifact, rival, bank, price=price, problems=problems)
    if named and isinstance(rival, Artifact):
        comparison = replace(comparison, rival=f"{named} ({rival.kind})")
    evidence = Evidence(comparison.better, verdict(comparison), comparison.as_json(), comparison)
    if not isinstance(artifact.policy, RiskPolicy):
        return evidence
    promise = held(artifact.policy, artifact.model, bank, problems)
    words = f"{promise} A risk policy is promoted for its promise and not for reward. {evidence.words}"
    figures = {**evidence.figures, "promise": promise.as_json()}
    return replace(evidence, words=words, figures=figures, kept=promise.kept is True)


async def _from_log(
    artifact: Artifact, model: str, rival: Artifact | str | None, records: Records, worth: float | None
) -> Evidence:
    policy = artifact.policy
    if not isinstance(policy, BanditPolicy):
        raise UsageError(
            f"the record of decisions can judge what chooses among strategies, and a {artifact.kind} policy does not: "
            "judge it on a bank (--bank)"
        )
    current = rival.policy if isinstance(rival, Artifact) else rival or DEFAULT
    if not isinstance(current, BanditPolicy | str):
        return Evidence(
            None,
            "Cannot tell: what the other policy, which is no bandit, would have done is not on record. Judge both on a "
            "bank (--bank), or this one against a strategy (evaluate --against).",
            {},
        )
    others = _strategies(current) if isinstance(current, BanditPolicy) else [current]
    log = await _rows(records, model, policy, [*_strategies(policy), *others], 0.0)
    price = policy.price if worth is None else 1 / worth
    judgement = await asyncio.to_thread(promotes, policy, current, log, price=price)
    return Evidence(judgement.better, judgement.words, judgement.as_json())


async def _rows(
    records: Records, model: str, policy: BanditPolicy, strategies: Sequence[str], since: float
) -> list[Logged]:
    """What became known after `since` (unix seconds) of the model's decisions, as a bandit learns from it. Verdicts
    count as they do in the gateway: only where each of the strategies has one.
    """
    outcomes = await records.outcomes(since, model=model, verdicts=all(map(verifies, strategies)))
    return [row for row in (logged(outcome, policy.unit) for outcome in outcomes) if row is not None]


def _strategies(policy: BanditPolicy) -> list[str]:
    return [arm.strategy for arm in policy.state.arms]


def verdict(one: Compared) -> str:
    low, high = one.gain.low, one.gain.high
    if low is None or high is None:
        return f"Cannot tell: {one.problems} problems give no interval."
    span = f"{one.gain.mean:+.4f} [{low:+.4f}, {high:+.4f}] right answers a request, tokens paid"
    match one.better:
        case True:
            return f"Better than {one.rival}: {span}."
        case False:
            return f"Worse than {one.rival}: {span}."
    return f"Cannot tell from {one.problems} problems whether it is better than {one.rival}: {span}."


def grid(rows: Sequence[Compared]) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "problems", "accuracy [95%]", "tokens a request"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        if row is rows[0]:
            grid.add_row("the policy", str(row.problems), str(row.accuracy), f"{row.tokens:.0f}")
        grid.add_row(row.rival, str(row.problems), str(row.rival_accuracy), f"{row.rival_tokens:.0f}")
    return grid


def _listed(figures: Mapping[str, Any]) -> Grid:
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for name, value in figures.items():
        if name in ("better", "words") or value is None:
            continue  # told below, or not to be told
        grid.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    return grid
