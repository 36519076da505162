"""`thinkscale policy fit`: make what `auto` follows of a bank, and judge it on what it has not seen."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console

from thinkscale import __version__
from thinkscale.banks import Bank
from thinkscale.banks.parquet import read_bank
from thinkscale.banks.writing import whole_file
from thinkscale.cli.output import print_json
from thinkscale.cli.policy_judging import WORTH, grid, verdict
from thinkscale.cli.policy_service import console
from thinkscale.errors import UsageError
from thinkscale.optimize.aiming import best_for, cheapest_for
from thinkscale.optimize.comparing import Compared, compared, marks, split, table_of
from thinkscale.optimize.fit_allocation import fit_coverage, fit_votes
from thinkscale.optimize.fit_bandit import fit_bandit
from thinkscale.optimize.fit_plans import fit_plans
from thinkscale.optimize.fit_risk import fit_risk
from thinkscale.optimize.fit_stopping import fit_stopping
from thinkscale.optimize.fitted import weighed
from thinkscale.optimize.promising import held
from thinkscale.optimize.simulate import scored_by, simulate
from thinkscale.optimize.table import Table, model_of, orders
from thinkscale.policies.allocation import AllocationPolicy
from thinkscale.policies.artifact import KINDS, Artifact, FittedPolicy
from thinkscale.policies.bandit import ARMS
from thinkscale.policies.needs import verifies
from thinkscale.policies.risk import RiskPolicy
from thinkscale.types import Prompt, Request

_ASKING = frozenset({"judge", "step-judge", "orm", "prm", "rollouts"})
"""Verifiers that ask a model, whose tokens a bank does not hold."""


@dataclass(frozen=True)
class Fit:
    bank: Path
    out: Path
    kind: str
    model: str | None
    larger: str | None
    larger_weight: float | None
    verifier: str | None
    verifier_tokens: float | None
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
    options = _settled(options, bank, whole)
    fitted_on, held_out = split(whole.problems, options.holdout, options.seed)
    table = table_of(bank, model, fitted_on)
    errors = Console(stderr=True)
    with errors.status(f"fitting on {len(table)} problems, {table.n} samples each"):
        policy, objective, price = _fitted(options, bank, table)
        if options.larger:
            objective += f"; tokens of {options.larger} count {options.larger_weight:.4g} times"
        provenance = {
            "bank": options.bank.name,
            "bank_sha256": sha256(options.bank.read_bytes()).hexdigest(),
            "task": bank.task,
            "problems": len(table),
            "samples": table.n,
            "objective": objective,
            "tokens_per_right_answer": float(f"{1 / price:.6g}") if price else None,
            "larger": options.larger,
            "larger_weight": options.larger_weight,
            "verifier": options.verifier,
            "verifier_tokens": options.verifier_tokens,
            "seed": options.seed,
            "thinkscale": __version__,
            "fitted_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["thinkscale", *sys.argv[1:]]),
        }
        artifact = Artifact(options.kind, model, policy, provenance)
        told: dict[str, Any] = {}
        beside: list[Compared] = []
        promise = None
        if held_out:
            beside = [
                compared(artifact, rival, bank, price=price, problems=held_out, seed=options.seed)
                for rival in (None, f"self-consistency:n={table.n}")
            ]
            told = {**beside[0].as_json(), "full_vote": beside[1].as_json()}
            if isinstance(policy, RiskPolicy):
                promise = held(policy, model, bank, held_out)
                told["promise"] = promise.as_json()
        # The long lists stand last, where they hide nothing from who reads the file.
        artifact = replace(artifact, provenance={**provenance, "on_held_out": told or None, **marks(bank, fitted_on)})
    with whole_file(options.out) as file:
        file.write(artifact.text().encode())
    if options.json:
        print_json({"policy": str(options.out), "objective": objective, "on_held_out": told or None})
        return
    out = console()
    out.print(f"{options.kind} policy for {model}: {objective}", highlight=False)
    if isinstance(policy, RiskPolicy):
        out.print(str(policy.promise), highlight=False)
    if beside:
        out.print(grid(beside))
        for line in (*([str(promise)] if promise else []), *map(verdict, beside)):
            out.print(line, highlight=False)
        out.print(f"A right answer is taken to be worth {1 / price:,.0f} tokens (--worth).", highlight=False)
    else:
        out.print("It is not judged: no problem was kept aside (--holdout).", highlight=False)
    out.print(f"written: {options.out}", highlight=False)


def _settled(options: Fit, bank: Bank, table: Table) -> Fit:
    """The options with what they leave to the bank: whose scores are meant, and what a token of the larger model
    costs. Raises `UsageError` for those that do not go together.
    """
    if options.larger is not None and options.kind != "stopping":
        raise UsageError("only a stopping policy can escalate: leave --larger out, or fit --kind stopping")
    if options.larger is None and options.larger_weight is not None:
        raise UsageError("--larger-weight says what a token of --larger costs: name that model too")
    for name, given, kinds in (
        ("--strategy", options.strategies, ("plans", "bandit")),
        ("--allowance", options.allowance, ("bandit",)),
        ("--accuracy", options.accuracy, ("stopping",)),
        ("--horizon", options.horizon, ("risk",)),
        ("--tokens", options.tokens, ("stopping", "plans", "allocation")),
    ):
        if given and options.kind in KINDS and options.kind not in kinds:
            raise UsageError(f"{name} is for --kind {' or '.join(kinds)}, and this is {options.kind}")
    verifier = options.verifier
    if verifier is None and any(map(verifies, options.strategies)):
        verifier = scored_by(table, None)
    if verifier is None and options.verifier_tokens is not None:
        raise UsageError("--verifier-tokens says what a verdict of --verifier takes: name that verifier too")
    if verifier is not None and options.kind == "risk":
        raise UsageError("a risk policy goes by the votes alone: leave --verifier out")
    if verifier is not None and options.kind == "allocation" and verifier != "checker":
        raise UsageError(
            f"an allocation policy can have samples checked, by --verifier checker, and not scored by {verifier}"
        )
    if options.kind == "plans" and options.verifier_tokens:
        raise UsageError("plans are fitted as if verdicts were free: where they are not, fit --kind stopping or bandit")
    if verifier is not None and options.verifier_tokens is None and _asks_a_model(verifier):
        raise UsageError(
            f"{verifier} asks a model, and the bank does not say what that takes: give --verifier-tokens, the tokens "
            "that judging one sample takes (those of its prompt included)"
        )
    weight = options.larger_weight
    if options.larger is not None and weight is None:
        weight = _times_as_dear(table, Table.of(bank, model_of(bank, options.larger)))
    return replace(options, verifier=verifier, larger_weight=weight)


def _asks_a_model(verifier: str) -> bool:
    return any(re.split("[=:]", part)[0] in _ASKING for part in verifier.split("+"))


def _times_as_dear(table: Table, larger: Table) -> float:
    """How many times as much a token of the larger model costs: what its samples cost, over what as many tokens of the
    smaller one do.
    """
    prompt, output = float(larger.prompt_tokens.mean()), float(larger.output_tokens.mean())
    small, large = (
        None if one.price is None else prompt * one.price.input_mtok + output * one.price.output_mtok
        for one in (table, larger)
    )
    if not small or not large:
        raise UsageError(
            f"the bank does not say what tokens of {table.model} and {larger.model} cost: give --larger-weight, how "
            f"many times as much one of {larger.model} does"
        )
    return large / small


def _fitted(options: Fit, bank: Bank, table: Table) -> tuple[FittedPolicy, str, float]:
    """The policy, what it aims at in words, and the price of a token that it is judged by."""
    larger = None
    if options.larger is not None:
        larger = table_of(bank, options.larger, table.problems)
        if larger.problems != table.problems:
            raise UsageError(f"{options.larger} has no samples of some problems that {table.model} has")
        larger = weighed(larger, options.larger_weight or 1.0)
    worth = options.worth or WORTH
    match options.kind:
        case "stopping":
            return _stopping(options, table, larger)
        case "allocation":
            gain = fit_coverage(table) if options.verifier else fit_votes(table, seed=options.seed)
            price = 1 / worth if options.tokens is None else gain.price(options.tokens)
            if price == inf:
                raise UsageError(f"{options.tokens:g} tokens a request do not hold even one sample: give more")
            limit = f"{1 / price:.6g} tokens gain a right answer" if price else "they gain anything"
            aim = f"samples as long as {limit}; `solve_batch` shares a total by it"
            return AllocationPolicy(gain, price), aim, 1 / worth
        case "risk":
            risk = fit_risk(
                table, alpha=options.error_rate, delta=options.delta, horizon=options.horizon, seed=options.seed
            )
            return risk, f"wrong in at most {options.error_rate:.0%} of the answers that it calls confident", 1 / worth
        case "plans":
            if options.tokens is None:
                raise UsageError("plans are chosen for a budget: give --tokens, per request on average")
            words = options.strategies or _plans(table, options.probes)
            plans = fit_plans(
                table, words, tokens=options.tokens, probes=min(options.probes, table.n - 1),
                prompts=_requests(bank, table), verifier=options.verifier, seed=options.seed,
            )  # fmt: skip
            return plans, f"the most accurate plans at {options.tokens:g} tokens a request", 1 / worth
        case "bandit":
            arms = options.strategies or tuple(ARMS)
            bandit = fit_bandit(
                table, arms, price=1 / worth, prompts=_requests(bank, table), allowance=options.allowance,
                verifier=options.verifier, verifier_tokens=options.verifier_tokens or 0.0, seed=options.seed,
            )  # fmt: skip
            return bandit, f"learns which of {', '.join(arms)} pays, at {worth:g} tokens a right answer", 1 / worth
    raise UsageError(f"unknown kind {options.kind!r}; known: {', '.join(KINDS)}")


def _stopping(options: Fit, table: Table, larger: Table | None) -> tuple[FittedPolicy, str, float]:
    aims = [name for name in ("worth", "tokens", "accuracy") if getattr(options, name) is not None]
    if len(aims) > 1:
        raise UsageError(f"give one of --worth, --tokens and --accuracy, not {len(aims)}")
    how: dict[str, Any] = {
        "larger": larger,
        "verifier": options.verifier,
        "verifier_tokens": options.verifier_tokens or 0.0,
        "seed": options.seed,
    }
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
        if options.accuracy is not None and policy.rule.accuracy < target:
            raise UsageError(
                f"no stopping policy is expected to reach accuracy {target:g}: the most is {policy.rule.accuracy:.3f}"
            )
        aim = f"the cheapest of accuracy {target:.3f}"
        aim += "" if options.accuracy is not None else f", that of a vote over all {table.n} samples"
    return policy, aim, 1 / (options.worth or WORTH)


def _plans(table: Table, probes: int) -> tuple[str, ...]:
    """Votes go on from the probes; what stops early draws its own samples, which must be on record too."""
    sizes = [n for n in (2, 4, 8, 16, 32, 64) if n <= table.n]
    votes = [f"self-consistency:n={n}" for n in sizes]
    return ("single", *votes, *(f"adaptive-consistency:n={n}" for n in sizes if n + probes <= table.n))


def _requests(bank: Bank, table: Table) -> list[Request] | None:
    """The problems as requests; `None` where the bank came without their words."""
    problems = [bank.problems[name] for name in table.problems]
    prompts: list[Prompt] = [problem.prompt for problem in problems if problem.prompt is not None]
    if len(prompts) < len(problems):
        return None
    return [Request(prompt, problem.kind, id=problem.id) for prompt, problem in zip(prompts, problems, strict=True)]
