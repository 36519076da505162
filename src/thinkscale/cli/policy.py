"""`thinkscale policy`: fit what `auto` follows, judge it on what it has not seen, put it into service, take it back."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from thinkscale import __version__
from thinkscale.banks import Bank
from thinkscale.banks.parquet import read_bank
from thinkscale.cli.output import print_json
from thinkscale.errors import UsageError
from thinkscale.optimize.aiming import best_for, cheapest_for
from thinkscale.optimize.comparing import DEFAULT, Compared, compared, split
from thinkscale.optimize.fit_allocation import fit_coverage, fit_votes
from thinkscale.optimize.fit_bandit import fit_bandit
from thinkscale.optimize.fit_plans import fit_plans
from thinkscale.optimize.fit_risk import fit_risk
from thinkscale.optimize.fit_stopping import fit_stopping
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Table, model_of, orders
from thinkscale.policies.allocation import AllocationPolicy
from thinkscale.policies.artifact import KINDS, Artifact, FittedPolicy
from thinkscale.policies.bandit import ARMS
from thinkscale.policies.risk import RiskPolicy
from thinkscale.store.database import Database, default_database
from thinkscale.store.policies import PolicyStore, Promoted
from thinkscale.types import Prompt, Request

WORTH = 100_000.0
"""The tokens that a right answer is worth where nobody says."""


@dataclass(frozen=True)
class Fit:
    bank: Path
    out: Path
    kind: str
    model: str | None
    larger: str | None
    verifier: str | None
    worth: float | None
    tokens: float | None
    accuracy: float | None
    error_rate: float
    delta: float
    horizon: int | None
    probes: int
    strategies: tuple[str, ...]
    allowance: float | None
    holdout: float
    seed: int
    json: bool


def fit(options: Fit) -> None:
    """Fit, judge on the problems kept aside, and write the policy with its provenance."""
    if not options.out.parent.is_dir():
        raise UsageError(f"cannot write {options.out}: the folder {options.out.parent} does not exist")
    bank = read_bank(options.bank)
    model = model_of(bank, options.model)
    whole = Table.of(bank, model)
    fitted_on, held_out = split(whole.problems, options.holdout, options.seed)
    table = _of(whole, fitted_on)
    errors = Console(stderr=True)
    with errors.status(f"fitting on {len(table)} problems, {table.n} samples each"):
        policy, objective, price = _fitted(options, bank, table)
        provenance = {
            "bank": options.bank.name,
            "bank_sha256": sha256(options.bank.read_bytes()).hexdigest(),
            "task": bank.task,
            "problems": len(table),
            "samples": table.n,
            "objective": objective,
            "tokens_per_right_answer": float(f"{1 / price:.6g}") if price else None,
            "larger": options.larger,
            "verifier": options.verifier,
            "seed": options.seed,
            "thinkscale": __version__,
            "fitted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["thinkscale", *sys.argv[1:]]),
            "held_out": held_out,
        }
        artifact = Artifact(options.kind, model, policy, provenance)
        judged = None
        if held_out:
            judged = compared(
                artifact, DEFAULT, bank, price=price, problems=held_out,
                larger=options.larger, verifier=options.verifier, seed=options.seed,
            )  # fmt: skip
            artifact = Artifact(options.kind, model, policy, {**provenance, "on_held_out": judged.as_json()})
    options.out.write_text(artifact.text(), encoding="utf-8")
    if options.json:
        print_json({"policy": str(options.out), "objective": objective, "on_held_out": judged and judged.as_json()})
        return
    console = _console()
    console.print(f"{options.kind} policy for {model}: {objective}", highlight=False)
    if isinstance(policy, RiskPolicy):
        console.print(str(policy.promise), highlight=False)
    if judged:
        console.print(_grid([judged]))
        console.print(_verdict(judged), highlight=False)
    console.print(f"written: {options.out}", highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def _of(table: Table, problems: Sequence[str]) -> Table:
    wanted = set(problems)
    return table.take(np.array([place for place, name in enumerate(table.problems) if name in wanted], dtype=np.int64))


def _fitted(options: Fit, bank: Bank, table: Table) -> tuple[FittedPolicy, str, float]:
    """The policy, what it aims at in words, and the price of a token that it is judged by."""
    larger = None
    if options.larger is not None:
        if options.kind != "stopping":
            raise UsageError("only a stopping policy can escalate: leave --larger out, or fit --kind stopping")
        larger = _of(Table.of(bank, model_of(bank, options.larger)), table.problems)
        if larger.problems != table.problems:
            raise UsageError(f"{options.larger} has no samples of some problems that {table.model} has")
    worth = options.worth or WORTH
    match options.kind:
        case "stopping":
            return _stopping(options, table, larger)
        case "allocation":
            gain = fit_coverage(table) if options.verifier else fit_votes(table, seed=options.seed)
            price = 1 / worth if options.tokens is None else gain.price(options.tokens)
            limit = f"{1 / price:.6g} tokens gain a right answer" if price else "they gain anything"
            aim = f"samples as long as {limit}; `solve_batch` shares a total by it"
            return AllocationPolicy(gain, price), aim, price
        case "risk":
            risk = fit_risk(
                table, alpha=options.error_rate, delta=options.delta, horizon=options.horizon, seed=options.seed
            )
            return risk, f"wrong in at most {options.error_rate:.0%} of the answers that it calls confident", 1 / worth
        case "plans":
            if options.tokens is None:
                raise UsageError("plans are chosen for a budget: give --tokens, per request on average")
            words = options.strategies or _plans(table)
            plans = fit_plans(
                table, words, tokens=options.tokens, probes=min(options.probes, table.n - 1),
                prompts=_requests(bank, table), verifier=options.verifier, seed=options.seed,
            )  # fmt: skip
            return plans, f"the most accurate plans at {options.tokens:g} tokens a request", 1 / worth
        case "bandit":
            arms = options.strategies or tuple(ARMS)
            bandit = fit_bandit(
                table, arms, price=1 / worth, prompts=_requests(bank, table), allowance=options.allowance,
                verifier=options.verifier, seed=options.seed,
            )  # fmt: skip
            return bandit, f"learns which of {', '.join(arms)} pays, at {worth:g} tokens a right answer", 1 / worth
    raise UsageError(f"unknown kind {options.kind!r}; known: {', '.join(KINDS)}")


def _stopping(options: Fit, table: Table, larger: Table | None) -> tuple[FittedPolicy, str, float]:
    aims = [name for name in ("worth", "tokens", "accuracy") if getattr(options, name) is not None]
    if len(aims) > 1:
        raise UsageError(f"give one of --worth, --tokens and --accuracy, not {len(aims)}")
    how: dict[str, Any] = {"larger": larger, "verifier": options.verifier, "seed": options.seed}
    if options.worth is not None:
        policy = fit_stopping(table, price=1 / options.worth, **how)
        aim = f"the most reward, at {options.worth:g} tokens a right answer"
    elif options.tokens is not None:
        policy = best_for(table, options.tokens, **how)
        aim = f"the most accurate at {options.tokens:g} tokens a request"
    else:
        target = options.accuracy
        if target is None:
            vote = simulate(f"self-consistency:n={table.n}", table, orders(table, 1, options.seed))
            target = float(vote.correct.mean())
        policy = cheapest_for(table, target, **how)
        aim = f"the cheapest of accuracy {target:.3f}"
        aim += "" if options.accuracy is not None else f", that of a vote over all {table.n} samples"
    return policy, aim, policy.rule.price


def _plans(table: Table) -> tuple[str, ...]:
    sizes = [n for n in (2, 4, 8, 16, 32, 64) if n <= table.n]
    words = [f"{name}:n={n}" for n in sizes for name in ("self-consistency", "adaptive-consistency")]
    return ("single", *words)


def _requests(bank: Bank, table: Table) -> list[Request] | None:
    """The problems as requests; `None` where the bank came without their words."""
    problems = [bank.problems[name] for name in table.problems]
    prompts: list[Prompt] = [problem.prompt for problem in problems if problem.prompt is not None]
    if len(prompts) < len(problems):
        return None
    return [Request(prompt, problem.kind, id=problem.id) for prompt, problem in zip(prompts, problems, strict=True)]


# -- judging ---------------------------------------------------------------------------------------------------


def evaluate(
    file: Path, bank: Path | None, against: str | None, worth: float | None, database: str | None, *, as_json: bool
) -> None:
    """What a policy is worth beside what is in service: on a bank's problems that it was not fitted on, or on the
    gateway's own record of decisions and feedback."""
    artifact = Artifact.load(file)
    with Console(stderr=True).status("replaying"):
        evidence = asyncio.run(_evidence(artifact, bank, against, worth, database))
    if as_json:
        print_json({"policy": str(file), **evidence.as_json()})
        return
    console = _console()
    console.print(evidence.shown())
    console.print(evidence.words, highlight=False)


@dataclass(frozen=True)
class Evidence:
    """What speaks for a policy: a comparison on a bank, or an estimate from logged decisions."""

    better: bool | None
    words: str
    figures: Mapping[str, Any]
    comparison: Compared | None = None

    def as_json(self) -> dict[str, Any]:
        return {**self.figures, "better": self.better, "words": self.words}

    def shown(self) -> Grid | str:
        return _grid([self.comparison]) if self.comparison else _listed(self.figures)


async def _evidence(
    artifact: Artifact, bank: Path | None, against: str | None, worth: float | None, database: str | None
) -> Evidence:
    in_service = await _active(artifact.model, database)
    rival: Artifact | str | None = None
    if against is not None:
        rival = Artifact.load(Path(against)) if against.endswith(".json") else against
    elif in_service is not None:
        rival = Artifact.parse(in_service.artifact)
    if bank is None:
        return await _from_log(artifact, rival, worth, database)
    known = artifact.provenance.get("tokens_per_right_answer")
    recorded = read_bank(bank)
    told = [name for name in ("larger", "verifier") if artifact.provenance.get(name)]
    comparison = compared(
        artifact,
        rival or DEFAULT,
        recorded,
        price=1 / (worth or known or WORTH),
        problems=_unseen(artifact, bank, recorded),
        **{name: artifact.provenance[name] for name in told},
    )
    return Evidence(comparison.better, _verdict(comparison), comparison.as_json(), comparison)


def _unseen(artifact: Artifact, path: Path, bank: Bank) -> list[str] | None:
    """The problems that the policy was not fitted on; `None` for all, where the bank is another task's."""
    provenance = artifact.provenance
    same = provenance.get("bank_sha256") == sha256(path.read_bytes()).hexdigest() or (
        provenance.get("task") is not None and provenance.get("task") == bank.task
    )
    if not same:
        return None
    held_out = [str(name) for name in provenance.get("held_out", ())]
    if not held_out:
        raise UsageError(
            f"{path} is what the policy was fitted on, all of it: judge it on another bank, or fit with --holdout"
        )
    return held_out


async def _from_log(
    artifact: Artifact, rival: Artifact | str | None, worth: float | None, database: str | None
) -> Evidence:
    from thinkscale.optimize.off_policy import promotes
    from thinkscale.policies.bandit import BanditPolicy
    from thinkscale.serve.learning import logged
    from thinkscale.store.records import Records

    if not isinstance(artifact.policy, BanditPolicy):
        raise UsageError(
            f"the record of decisions can judge what chooses among strategies, and a {artifact.kind} policy does not: "
            "judge it on a bank (--bank)"
        )
    policy = artifact.policy
    current = rival.policy if isinstance(rival, Artifact) else rival
    if current is not None and not isinstance(current, str | BanditPolicy):
        current = None  # one of another kind took no decisions at random: what was done stands for it
    async with Database(database or default_database()) as opened, Records(opened) as records:
        rows = [logged(outcome, policy.unit) for outcome in await records.outcomes() if outcome.model == artifact.model]
    price = policy.price if worth is None else 1 / worth
    judgement = await asyncio.to_thread(promotes, policy, current, [row for row in rows if row], price=price)
    return Evidence(judgement.better, judgement.words, judgement.as_json())


def _verdict(one: Compared) -> str:
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


def _grid(rows: Sequence[Compared]) -> Grid:
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "problems", "accuracy [95%]", "tokens a request"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        grid.add_row("the policy", str(row.problems), str(row.accuracy), f"{row.tokens:.0f}")
        grid.add_row(row.rival, str(row.problems), str(row.rival_accuracy), f"{row.rival_tokens:.0f}")
    return grid


def _listed(figures: Mapping[str, Any]) -> Grid:
    grid = Grid(box=None, pad_edge=False, show_header=False)
    for name, value in figures.items():
        if name in ("better", "words"):
            continue  # which are told below
        grid.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    return grid


# -- in service ------------------------------------------------------------------------------------------------


async def _active(model: str, database: str | None) -> Promoted | None:
    async with Database(database or default_database()) as opened:
        return await PolicyStore(opened).active(model)


def promote(
    file: Path,
    bank: Path | None,
    model: str | None,
    worth: float | None,
    database: str | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Put a policy into service where it is shown to be better than what is there."""
    loaded = Artifact.load(file)
    artifact = Artifact(loaded.kind, model or loaded.model, loaded.policy, loaded.provenance)
    evidence: dict[str, Any] = {"forced": True}
    if not force:
        with Console(stderr=True).status("judging"):
            found = asyncio.run(_evidence(loaded if bank else artifact, bank, None, worth, database))
        if found.better is not True and not _keeps_promise(artifact):
            raise UsageError(
                f"not promoted. {found.words} Record more samples or feedback, or promote it untested with --force"
            )
        evidence = found.as_json()

    async def write() -> Promoted:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).promote(artifact.model, artifact.kind, artifact.text(), evidence)

    promoted = asyncio.run(write())
    if as_json:
        print_json({"model": promoted.model, "version": promoted.version, "evidence": evidence})
        return
    console = _console()
    console.print(
        f"{promoted.model}: auto follows policy v{promoted.version} ({promoted.kind}) from now on, a running gateway "
        "within 5 seconds",
        highlight=False,
    )
    if not force:
        console.print(str(evidence["words"]), highlight=False)


def _keeps_promise(artifact: Artifact) -> bool:
    """Whether it is there for its promise, not for reward."""
    return isinstance(artifact.policy, RiskPolicy) and artifact.policy.promise.given


def rollback(model: str, database: str | None, *, as_json: bool) -> None:
    """Take the policy in service out of it."""

    async def write() -> tuple[Promoted | None, Promoted | None]:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).rollback(model)

    out, back = asyncio.run(write())
    if out is None:
        raise UsageError(f"no policy is in service for {model}: `thinkscale policy list` shows what is")
    if as_json:
        print_json({"model": model, "withdrawn": out.version, "in_service": back and back.version})
        return
    now = f"policy v{back.version} ({back.kind})" if back else "its default, a vote that stops once it is decided"
    _console().print(f"{model}: v{out.version} is withdrawn; auto follows {now}", highlight=False)


def listed(database: str | None, *, as_json: bool) -> None:
    """Every policy that was promoted."""

    async def read() -> list[Promoted]:
        async with Database(database or default_database()) as opened:
            return await PolicyStore(opened).listed()

    rows = asyncio.run(read())
    serving: set[str] = set()
    states = []
    for row in rows:  # newest first
        in_service = row.withdrawn_at is None and row.model not in serving
        serving |= {row.model} if in_service else set()
        states.append("in service" if in_service else "withdrawn" if row.withdrawn_at else "before")
    if as_json:
        print_json(
            {"policies": [
                {"model": row.model, "version": row.version, "kind": row.kind, "state": state,
                 "promoted_at": row.promoted_at, "evidence": dict(row.evidence)}
                for row, state in zip(rows, states, strict=True)
            ]}
        )  # fmt: skip
        return
    if not rows:
        _console().print("no policy was promoted yet: thinkscale policy fit, then thinkscale policy promote")
        return
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "version", "kind", "state", "promoted", "evidence"):
        grid.add_column(heading)
    for row, state in zip(rows, states, strict=True):
        at = datetime.fromtimestamp(row.promoted_at, UTC).strftime("%Y-%m-%d %H:%M")
        why = "forced" if row.evidence.get("forced") else str(row.evidence.get("words", ""))
        grid.add_row(row.model, f"v{row.version}", row.kind, state, at, why)
    _console().print(grid)
