"""A plan for each request by how hard it looks: from its prompt, and from a few samples worth drawing anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log1p
from typing import Any, Self

from thinkscale.options import arguments
from thinkscale.policies.features import request_features
from thinkscale.policies.needs import needed
from thinkscale.types import Action, Request, Seen

PROBED = {
    "agreement": "first",
    "lead": "second",
    "unanswered": "unanswered",
    "capped": "capped",
    "tokens": "output_tokens",
    "nll": "nll",
}
"""What the probes tell, and the field of `Seen` that it takes."""


def probe_features(seen: Seen) -> dict[str, float]:
    """The leader's share of the samples, by how much it leads, the shares without an answer and at the token cap, the
    logarithm of a sample's mean length, and the mean negative log-likelihood where it is known.
    """
    drawn = max(seen.drawn, 1)
    features = {
        "agreement": seen.first / drawn,
        "lead": (seen.first - seen.second) / drawn,
        "unanswered": seen.unanswered / drawn,
        "capped": seen.capped / drawn,
        "tokens": log1p(seen.output_tokens / drawn),
    }
    return features if seen.nll is None else features | {"nll": seen.nll}


@dataclass(frozen=True)
class Ease:
    """The chance that a sample is right, by a logistic model: its `intercept`, and one of `weights` for each feature of
    the prompt or the probes. A feature that is unknown counts as in `typical`.
    """

    intercept: float
    weights: Mapping[str, float]
    typical: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.weights.keys() != self.typical.keys():
            raise ValueError("weights and typical values must be of the same features")

    def __call__(self, features: Mapping[str, float]) -> float:
        total = self.intercept
        for name, weight in self.weights.items():
            total += weight * features.get(name, self.typical[name])
        return 1 / (1 + exp(-max(-30.0, min(30.0, total))))


@dataclass(frozen=True)
class Bin:
    """What requests get whose samples are right with a chance of at most `upto`: a strategy's words. `accuracy` and
    `tokens` are what it is expected to reach and to cost per request, probes included; `share` is how many are such.
    """

    upto: float
    plan: str
    accuracy: float
    tokens: float
    share: float

    @property
    def votes(self) -> int | None:
        """How many samples the plan wants in one vote; `None` where it is no plain vote."""
        return votes_of(self.plan)


def votes_of(words: str) -> int | None:
    """The n of `single` and of a plain `self-consistency`, which may count the probes; `None` for anything else."""
    name, _, rest = words.partition(":")
    given = arguments(words, rest, ",")
    if name == "single":
        return 1
    if name == "self-consistency" and given.keys() <= {"n"}:
        return int(given.get("n", "16"))
    return None


@dataclass(frozen=True)
class PlansPolicy:
    """Compute-optimal plans (Snell et al. 2024): the best plan of each difficulty under one budget for all.

    `probes` samples are drawn first (0: the prompt alone decides), and how hard the request is judged from them and the
    prompt, by the chance `ease` that a sample is right. `bins` are in order of that chance. A plan that is a plain vote
    counts the probes, so that they cost nothing more; any other strategy draws its own samples after them.
    Deviation from the paper: the prompt and a few probes take the place of 2048 samples of each question.
    """

    probes: int
    ease: Ease
    bins: Sequence[Bin]

    def __post_init__(self) -> None:
        if self.probes < 0:
            raise ValueError(f"probes must be 0 or more, not {self.probes}")
        if not self.bins or [one.upto for one in self.bins] != sorted(one.upto for one in self.bins):
            raise ValueError("bins must be in order of `upto`, and at least one")
        if self.bins[-1].upto < 1:
            raise ValueError("the last bin must reach up to 1")

    def bin(self, features: Mapping[str, float]) -> Bin:
        """Where a request with these features belongs."""
        ease = self.ease(features)
        return next(one for one in self.bins if ease <= one.upto)

    def controller(self, request: Request) -> Planned:
        prompt = request_features(request)
        return Planned(self, {name: prompt[name] for name in sorted(self.ease.weights.keys() & prompt.keys())})

    def body(self) -> dict[str, Any]:
        return {"probes": self.probes, "ease": asdict(self.ease), "bins": [asdict(one) for one in self.bins]}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        return cls(int(body["probes"]), Ease(**body["ease"]), tuple(Bin(**one) for one in body["bins"]))


@dataclass(frozen=True)
class Planned:
    """The policy for one request, whose prompt has these features."""

    policy: PlansPolicy
    prompt: Mapping[str, float]

    @property
    def features(self) -> frozenset[str]:
        probed = {field for name, field in PROBED.items() if name in self.policy.ease.weights}
        return frozenset({"drawn", "first", "affordable", *probed}) | needed(one.plan for one in self.policy.bins)

    async def act(self, seen: Seen) -> Action:
        probes = self.policy.probes
        if seen.drawn < min(probes, 1):
            return _draw(probes, seen)
        if seen.drawn > probes:  # the plan was a vote, and drew what it wanted
            return Action("stop")
        chosen = self.policy.bin({**probe_features(seen), **self.prompt} if seen.drawn else self.prompt)
        votes = chosen.votes
        if votes is None:
            return Action("run", strategy=chosen.plan)
        more = votes - seen.drawn
        if more <= 0 or (seen.drawn and seen.affordable == 0):
            return Action("stop", confidence=chosen.accuracy)
        return _draw(more, seen)


def _draw(k: int, seen: Seen) -> Action:
    return Action("draw", k if seen.affordable is None else max(1, min(k, seen.affordable)))
