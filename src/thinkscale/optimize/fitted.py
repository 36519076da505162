"""A fitted policy among the settings that are replayed over a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.frontier import Extra
from thinkscale.optimize.settings import Setting
from thinkscale.optimize.table import Ints, Outcomes, Table
from thinkscale.policies.artifact import Artifact
from thinkscale.types import Controller, Prompt, Request


def fitted(
    artifact: Artifact, name: str, bank: Bank, *, larger: str | None = None, verifier: str | None = None
) -> Extra:
    """Replays the policy of an artifact on the model it was fitted for. `name` is what its row is called.

    `larger` is the model it may escalate to, `verifier` the scores it may ask for (the bank's one kind by default).
    Raises `UsageError` for a model that the bank lacks.
    """
    if artifact.model not in bank.models:
        raise UsageError(f"{name} was fitted for {artifact.model}; the bank has {', '.join(bank.models)}")
    if larger is not None and larger not in bank.models:
        raise UsageError(f"the bank has no model {larger} to escalate to; it has {', '.join(bank.models)}")

    def measure(table: Table, given: Ints, _setting: Setting) -> Outcomes:
        above = None if larger is None else _on(table.problems, Table.of(bank, larger))
        parts = []
        for controller, places in _alike(artifact, bank, table.problems):
            parts.append(
                (
                    places,
                    simulate_controller(
                        controller,
                        table.take(places),
                        given[:, places],
                        larger=None if above is None else above.take(places),
                        verifier=verifier,
                    ),
                )
            )
        return _whole(parts, given.shape[0], len(table))

    note = f"{name} is flattered as far as it was fitted on these problems."
    return Extra(Setting(name), measure, artifact.model, note)


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
        known = bank.problems[problem]
        request = Request(known.prompt or Prompt(text=""), known.kind, id=problem)
        controller = artifact.policy.controller(request)
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
