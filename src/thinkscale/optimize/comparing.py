"""Whether one policy does better than another: on problems of a bank that neither was fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np

from thinkscale.banks import Bank
from thinkscale.errors import UsageError
from thinkscale.models.base import prompt_key
from thinkscale.optimize.bootstrap import Bootstrap, Estimate
from thinkscale.optimize.fitted import fitted
from thinkscale.optimize.frontier import Extra, Measure
from thinkscale.optimize.reaching import charged
from thinkscale.optimize.settings import Setting
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Floats, Ints, Outcomes, Table, orders
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.needs import verifies
from thinkscale.types import Prompt

_VOTE, _MOST = "adaptive-consistency", 16
DEFAULT = f"{_VOTE}:n={_MOST}"
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
    rival: Artifact | str | None,
    bank: Bank,
    *,
    price: float,
    problems: Sequence[str] | None = None,
    seed: int = 0,
) -> Compared:
    """Replay both on `problems` (all of the bank's by default). A rival is another policy, a strategy by its words, or
    `None` for `DEFAULT`, with as many samples as the bank has. Each policy escalates, and has samples judged, as its
    own provenance says; a strategy that asks a verifier asks that of `artifact`.

    Raises `UsageError` where none of the problems is in the bank, the policy is of a model that is not, or either side
    wants more samples than are recorded: what it would do with them, nobody can tell.
    """
    ours = fitted(artifact, "the policy", bank)
    table = table_of(bank, artifact.model, problems)
    given = orders(table, _ORDERS, seed)
    if isinstance(rival, Artifact):
        name = f"the policy in service ({rival.kind})"
        theirs = fitted(Artifact(rival.kind, artifact.model, rival.policy, rival.provenance), name, bank)
    else:
        name = rival or f"{_VOTE}:n={min(_MOST, table.n)}"
        theirs = Extra(Setting(name), _strategy(artifact), artifact.model)
    bootstrap = Bootstrap(len(table), seed=seed)

    def measured(extra: Extra, who: str) -> tuple[Floats, Floats]:
        outcomes = extra.measure(table, given, extra.setting)
        if outcomes.missing is not None:
            raise UsageError(
                f"{who} wants more samples than the {table.n} of each problem that the bank has of {table.model}: "
                "record more with `thinkscale collect`, or take one that wants fewer"
            )
        return outcomes.correct.mean(axis=0), outcomes.tokens.mean(axis=0)

    (right, tokens), (their_right, their_tokens) = measured(ours, "the policy"), measured(theirs, name)
    return Compared(
        name,
        len(table),
        price,
        bootstrap.share(right),
        bootstrap.share(their_right),
        float(tokens.mean()),
        float(their_tokens.mean()),
        bootstrap.estimate((right - their_right) - price * (tokens - their_tokens)),
    )


def _strategy(artifact: Artifact) -> Measure:
    known = artifact.provenance

    def measure(table: Table, given: Ints, setting: Setting) -> Outcomes:
        outcomes = simulate(setting.strategy, table, given, verifier=known.get("verifier"))
        if verifies(setting.strategy):
            return charged(outcomes, outcomes.samples, known.get("verifier_tokens") or 0.0)
        return outcomes

    return measure


def table_of(bank: Bank, model: str, problems: Sequence[str] | None = None) -> Table:
    """A model's samples of these problems, in the bank's order; all without. Raises `UsageError` where it has none."""
    table = Table.of(bank, model)
    if problems is None:
        return table
    wanted = set(problems)
    places = [place for place, name in enumerate(table.problems) if name in wanted]
    if not places:
        raise UsageError(f"the bank has no sample of {model} on any problem that the policy was not fitted on")
    return table.take(np.array(places))


def marks(bank: Bank, problems: Sequence[str]) -> dict[str, list[str]]:
    """What a provenance says of the problems that were fitted on, so that they are known again in any bank: their ids,
    and what their prompts come to where the bank has the words of all.
    """
    prompts = [bank.problems[name].prompt for name in problems]
    marked = {"fitted_on": list(problems)}
    if known := [_mark(prompt) for prompt in prompts if prompt is not None]:
        marked |= {"fitted_on_prompts": known} if len(known) == len(prompts) else {}
    return marked


def unseen(artifact: Artifact, bank: Bank) -> list[str]:
    """The bank's problems that the policy was not fitted on: those of other words, of other ids where the words of
    either are not known. Raises `UsageError` where there are none.
    """
    ids, prompts = (set(artifact.provenance.get(name, ())) for name in ("fitted_on", "fitted_on_prompts"))
    left = [
        name
        for name, problem in bank.problems.items()
        if (_mark(problem.prompt) not in prompts if prompts and problem.prompt is not None else name not in ids)
    ]
    if not left:
        raise UsageError(
            "the policy was fitted on the bank's problems, all of them: judge it on another bank, or fit with --holdout"
        )
    return left


def _mark(prompt: Prompt) -> str:
    return sha256(prompt_key(prompt).encode()).hexdigest()[:16]


def split(problems: Sequence[str], holdout: float, seed: int) -> tuple[list[str], list[str]]:
    """Problems to fit on, and a share of `holdout` to keep aside, by chance; none of those where `holdout` is 0."""
    if not 0 <= holdout < 1:
        raise UsageError(f"the share held out must be from 0 to below 1, not {holdout}")
    shuffled = list(problems)
    Random(f"{seed}/holdout").shuffle(shuffled)
    aside = set(shuffled[: round(holdout * len(shuffled))])
    return [name for name in problems if name not in aside], [name for name in problems if name in aside]
