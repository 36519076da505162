"""A fitted policy among the settings that are replayed over a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from thinkscale.accounting import Price
from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.frontier import Extra
from thinkscale.optimize.reaching import charged, judged
from thinkscale.optimize.settings import Setting
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Ints, Outcomes, Table
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import BanditPolicy
from thinkscale.policies.features import request_features
from thinkscale.policies.needs import verifies
from thinkscale.types import Controller, Prompt, Request


def fitted(
    artifact: Artifact,
    name: str,
    bank: Bank,
    *,
    larger: str | None = None,
    verifier: str | None = None,
) -> Extra:
    """Replays the policy of an artifact on the model it was fitted for. `name` is what its row is called.

    `larger` is the model it may escalate to, `verifier` the scores it may ask for; by default those of its provenance,
    which also tells how much a token of that model counts and what a verdict costs. What a bandit would come to is what
    is expected of it: its strategies' outcomes, each times the chance that it takes them. Raises `UsageError` for a
    model that the bank lacks.
    """
    known = artifact.provenance
    larger, verifier = larger or known.get("larger"), verifier or known.get("verifier")
    larger_weight = float(known.get("larger_weight") or 1.0)
    verifier_tokens = float(known.get("verifier_tokens") or 0.0)
    if artifact.model not in bank.models:
        raise UsageError(f"{name} was fitted for {artifact.model}; the bank has {', '.join(bank.models)}")
    if larger is not None and larger not in bank.models:
        raise UsageError(f"the bank has no model {larger} to escalate to; it has {', '.join(bank.models)}")

    def measure(table: Table, given: Ints, _setting: Setting) -> Outcomes:
        if isinstance(artifact.policy, BanditPolicy):
            return _expected(artifact.policy, bank, table, given, verifier, verifier_tokens)
        above = None if larger is None else weighed(_on(table.problems, Table.of(bank, larger)), larger_weight)
        parts = []
        for controller, places in _alike(artifact, bank, table.problems):
            taken, order = table.take(places), given[:, places]
            outcomes = simulate_controller(
                controller, taken, order, larger=None if above is None else above.take(places), verifier=verifier
            )
            if verifier_tokens:
                samples = judged(controller, taken, order, outcomes, verifier=verifier)
                outcomes = charged(outcomes, samples, verifier_tokens)
            parts.append((places, outcomes))
        return _whole(parts, given.shape[0], len(table))

    note = f"{name} is flattered as far as it was fitted on these problems."
    return Extra(Setting(name), measure, artifact.model, note)


def weighed(table: Table, weight: float) -> Table:
    """A model's samples with each token counted as `weight` tokens, to the whole token; dollars stay what they are."""
    if weight == 1:
        return table
    price = table.price and Price(table.price.input_mtok / weight, table.price.output_mtok / weight)
    prompt_tokens, output_tokens = (
        np.rint(counts * weight).astype(np.int64) for counts in (table.prompt_tokens, table.output_tokens)
    )
    return replace(table, prompt_tokens=prompt_tokens, output_tokens=output_tokens, price=price)


def _expected(
    policy: BanditPolicy, bank: Bank, table: Table, given: Ints, verifier: str | None, verifier_tokens: float
) -> Outcomes:
    """Means over the bandit's choice: all arrays are of floats, but `chosen`, which is that of its likeliest strategy,
    and `missing`, which is true where some strategy lacked samples.
    """
    words = [arm.strategy for arm in policy.state.arms]
    requests = [_request(bank, problem) for problem in table.problems]
    chances = np.array([list(policy.chances(request_features(request)).values()) for request in requests])
    every = []
    for arm in words:
        outcomes = simulate(arm, table, given, verifier=verifier)
        every.append(charged(outcomes, outcomes.samples, verifier_tokens) if verifies(arm) else outcomes)

    def mean(name: str) -> Any:
        values = [getattr(one, name) for one in every]
        if name == "missing":
            known = [value for value in values if value is not None]
            return np.any(known, axis=0) if known else None
        if any(value is None for value in values):
            return None
        if name == "chosen":
            return np.stack(values)[chances.argmax(axis=1), :, np.arange(len(table))].T
        return sum(chances[:, place] * value for place, value in enumerate(values))

    return Outcomes(**{field.name: mean(field.name) for field in fields(Outcomes)})


def _request(bank: Bank, problem: str) -> Request:
    known = bank.problems[problem]
    return Request(known.prompt or Prompt(text=""), known.kind, id=problem)


def _on(problems: Sequence[str], table: Table) -> Table:
    """The table on these problems, in this order."""
    places = {problem: place for place, problem in enumerate(table.problems)}
    if missing := [problem for problem in problems if problem not in places]:
        raise UsageError(f"{table.model} has no samples of problem {missing[0]} to escalate to")
    return table.take(np.array([places[problem] for problem in problems]))


def _alike(artifact: Artifact, bank: Bank, problems: Sequence[str]) -> list[tuple[Controller, Ints]]:
    """The controllers that the problems' requests get, each with the places of its problems: few simulations for many
    requests where controllers are equal.
    """
    groups: list[tuple[Controller, list[int]]] = []
    for place, problem in enumerate(problems):
        controller = artifact.policy.controller(_request(bank, problem))
        group = next((places for other, places in groups if other == controller), None)
        if group is None:
            groups.append((controller, [place]))
        else:
            group.append(place)
    return [(controller, np.array(places)) for controller, places in groups]


def _whole(parts: Sequence[tuple[Ints, Outcomes]], repeats: int, problems: int) -> Outcomes:
    """Outcomes on shares of the problems as those on all of them: [R, P]."""

    def joined(name: str) -> Any:
        values = [(places, getattr(outcomes, name)) for places, outcomes in parts]
        known = next((value for _, value in values if value is not None), None)
        # A share without missing samples does not say so; an unknown cost or time makes the whole unknown.
        if known is None or (name != "missing" and any(value is None for _, value in values)):
            return None
        whole = np.zeros((repeats, problems), known.dtype)
        for places, value in values:
            if value is not None:
                whole[:, places] = value
        return whole

    return Outcomes(**{field.name: joined(field.name) for field in fields(Outcomes)})
