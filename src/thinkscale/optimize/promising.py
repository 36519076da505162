"""Whether a promise of few errors holds on problems that it was not made on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thinkscale.banks import Bank
from thinkscale.optimize.comparing import table_of
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.reaching import reaching
from thinkscale.optimize.table import orders
from thinkscale.policies.risk import RiskPolicy


@dataclass(frozen=True)
class Held:
    """Of `problems` other ones `confident` got a confident answer, of which `wrong` were wrong, where at most a share
    `promised` may be. `kept` is `None` where no answer was confident.
    """

    promised: float
    problems: int
    confident: int
    wrong: int

    @property
    def kept(self) -> bool | None:
        return self.wrong <= self.promised * self.confident if self.confident else None

    def __str__(self) -> str:
        word = {True: "kept", False: "broken", None: "not tested"}[self.kept]
        return (
            f"Its promise is {word} on {self.problems} problems that it was not fitted on: {self.wrong} of "
            f"{self.confident} confident answers were wrong, at most {self.promised:.1%} may be."
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "promised": self.promised,
            "problems": self.problems,
            "confident": self.confident,
            "wrong": self.wrong,
            "kept": self.kept,
        }


def held(policy: RiskPolicy, model: str, bank: Bank, problems: Sequence[str] | None = None) -> Held:
    """Each of the problems counts once, its samples in the order of the record."""
    table = table_of(bank, model, problems)
    given = orders(table, 1, 0)
    sure = reaching(policy, table, given, lambda action: action.reason == "confident")
    wrong = sure & ~simulate_controller(policy, table, given).correct
    return Held(policy.promise.alpha, len(table), int(np.sum(sure)), int(np.sum(wrong)))
