"""Which requests come to something that a controller may do: what outcomes alone do not tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.table import Bools, Ints, Outcomes, Table
from thinkscale.policies.needs import verifies
from thinkscale.types import Action, Controller, Seen


class _Marked:
    """The same controller, which never escalates but at an action that is looked for: the outcome shows it."""

    def __init__(self, controller: Controller, wanted: Callable[[Action], bool]) -> None:
        self.features = controller.features
        self._controller = controller
        self._wanted = wanted

    async def act(self, seen: Seen) -> Action:
        action = await self._controller.act(seen)
        if self._wanted(action):
            return Action("escalate", 1)
        return Action("stop") if action.kind == "escalate" else action


def reaching(
    controller: Controller,
    table: Table,
    given: Ints,
    wanted: Callable[[Action], bool],
    *,
    verifier: str | None = None,
) -> Bools:
    """Which requests that see the samples in these [R, P, N] orders come to a wanted action: [R, P]."""
    elsewhere = replace(table, answers=np.zeros_like(table.answers), capped=np.zeros_like(table.capped))
    marked = _Marked(controller, wanted)
    outcomes = simulate_controller(marked, table, given, larger=elsewhere, verifier=verifier)
    found: Bools = outcomes.chosen == -2
    return found


def judged(
    controller: Controller, table: Table, given: Ints, outcomes: Outcomes, *, verifier: str | None = None
) -> Ints:
    """How many samples a verifier judges for each request of these outcomes: [R, P]. All that were drawn of `table`
    where it is asked for some, since what comes later is judged as it comes.
    """
    asked = reaching(controller, table, given, _asks_verifier, verifier=verifier)
    own = outcomes.samples
    if (outcomes.chosen == -2).any():  # those of a larger model are not judged
        marked = _Marked(controller, lambda _action: False)
        own = simulate_controller(marked, table, given, verifier=verifier).samples
    return np.where(asked, own, 0)


def charged(outcomes: Outcomes, samples: Ints, tokens: float) -> Outcomes:
    """The same where judging one of these `samples` takes so many tokens. What verdicts take in dollars and seconds is
    not known.
    """
    if not tokens:
        return outcomes
    verdicts = np.rint(samples * tokens).astype(np.int64)
    return replace(outcomes, output_tokens=outcomes.output_tokens + verdicts, seconds=None, cost_usd=None)


def _asks_verifier(action: Action) -> bool:
    return action.kind == "verify" or (action.kind == "run" and verifies(action.strategy))
