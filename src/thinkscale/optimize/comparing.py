"""Whether one policy does better than another: on problems of a bank that neither was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.optimize.bootstrap import Bootstrap, Estimate
from thinkscale.optimize.fitted import fitted
from thinkscale.optimize.frontier import Extra, by_simulation
from thinkscale.optimize.settings import Setting
from thinkscale.optimize.table import Floats, Table, orders
from thinkscale.policies.artifact import Artifact

DEFAULT = "adaptive-consistency:n=16"
"""What `auto` does where no policy is in service."""

_ORDERS = 20
_FEWEST = 5  # problems: fewer could all agree by chance


@dataclass(frozen=True)
class Compared:
    """One policy beside a rival, over the same problems and orders of samples; 95% intervals over problems.

    A request is worth 1 where its answer is right, less `price` for each token; `gain` is by how much the policy is
    worth more. `better` is `None` where the problems cannot tell.
    """

    rival: str
    problems: int
    price: float
    accuracy: Estimate
    rival_accuracy: Estimate
    tokens: float
    rival_tokens: float
    gain: Estimate

    @property
    def better(self) -> bool | None:
        if self.gain.low is None or self.gain.high is None or self.problems < _FEWEST:
            return None
        return True if self.gain.low > 0 else False if self.gain.high < 0 else None

    def as_json(self) -> dict[str, Any]:
        def triple(of: Estimate) -> list[float | None]:
            return [of.mean, of.low, of.high]

        return {
            "against": self.rival,
            "problems": self.problems,
            "tokens_per_right_answer": None if self.price == 0 else 1 / self.price,
            "accuracy": triple(self.accuracy),
            "against_accuracy": triple(self.rival_accuracy),
            "tokens": self.tokens,
            "against_tokens": self.rival_tokens,
            "gain": triple(self.gain),
            "better": self.better,
        }


def compared(
    artifact: Artifact,
    rival: Artifact | str,
    bank: Bank,
    *,
    price: float,
    problems: Sequence[str] | None = None,
    larger: str | None = None,
    verifier: str | None = None,
    seed: int = 0,
) -> Compared:
    """Replay both on `problems` (all of the bank's by default). A rival is another policy, or a strategy by its words.

    Raises `UsageError` where none of the problems is in the bank, or the policy is of a model that is not.
    """
    ours = fitted(artifact, "the policy", bank, larger=larger, verifier=verifier)
    table = Table.of(bank, artifact.model)
    if problems is not None:
        places = [place for place, name in enumerate(table.problems) if name in set(problems)]
        if not places:
            raise UsageError("the bank has none of the problems that the policy was not fitted on")
        table = table.take(np.array(places))
    if isinstance(rival, str):
        theirs = Extra(Setting(rival), by_simulation, artifact.model)
    else:
        named = Artifact(rival.kind, artifact.model, rival.policy, rival.provenance)
        theirs = fitted(named, "the other policy", bank, larger=larger, verifier=verifier)
    given = orders(table, _ORDERS, seed)
    bootstrap = Bootstrap(len(table), seed=seed)

    def measured(extra: Extra) -> tuple[Floats, Floats]:
        outcomes = extra.measure(table, given, extra.setting)
        return outcomes.correct.mean(axis=0), outcomes.tokens.mean(axis=0)

    (right, tokens), (their_right, their_tokens) = measured(ours), measured(theirs)
    return Compared(
        rival if isinstance(rival, str) else f"the policy in service ({rival.kind})",
        len(table),
        price,
        bootstrap.share(right),
        bootstrap.share(their_right),
        float(tokens.mean()),
        float(their_tokens.mean()),
        bootstrap.estimate((right - their_right) - price * (tokens - their_tokens)),
    )


def split(problems: Sequence[str], holdout: float, seed: int) -> tuple[list[str], list[str]]:
    """Problems to fit on, and a share of `holdout` to keep aside, by chance; none of those where `holdout` is 0."""
    if not 0 <= holdout < 1:
        raise UsageError(f"the share held out must be from 0 to below 1, not {holdout}")
    shuffled = list(problems)
    Random(f"{seed}/holdout").shuffle(shuffled)
    aside = set(shuffled[: round(holdout * len(shuffled))])
    return [name for name in problems if name not in aside], [name for name in problems if name in aside]
