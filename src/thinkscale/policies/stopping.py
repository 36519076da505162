"""When to stop: what to do next at every state of the votes, as a table that people can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal, Self, cast

from thinkscale.models.base import prompt_key
from thinkscale.types import Action, Request, Seen, derive_seed

SCORE_STEPS = 5
"""A leader's score is told apart to fifths."""

State = tuple[int, int, int, int | None]
"""Samples drawn, votes of the leading answer and of the runner-up, and the leader's mean score in fifths: `None` before
the samples were verified, -1 where the leader could not be judged."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do at a state: `stop`, `draw` or `escalate` k samples, or `verify`.

    `right` is the chance that the leading answer is right there, `worth` what it is expected to be in the end, less the
    price of all that is spent on the way.
    """

    kind: Literal["stop", "draw", "verify", "escalate"]
    k: int
    right: float
    worth: float

    def __post_init__(self) -> None:
        if self.kind not in ("stop", "draw", "verify", "escalate") or self.k < 1:
            raise ValueError(f"nobody can {self.kind} {self.k}")
        if not 0 <= self.right <= 1:
            raise ValueError(f"a chance lies between 0 and 1, not at {self.right}")

    def text(self) -> str:
        what = f"{self.kind} {self.k}" if self.kind in ("draw", "escalate") else self.kind
        return f"{what}; right {self.right:.3f}, worth {self.worth:.3f}"

    @classmethod
    def parse(cls, text: str) -> Self:
        what, _, told = text.partition("; ")
        kind, _, k = what.partition(" ")
        (_, right), (_, worth) = (part.split(" ") for part in told.split(", "))
        known = cast(Literal["stop"], kind)  # which the constructor checks
        return cls(known, int(k or 1), float(right), float(worth))


@dataclass(frozen=True)
class StoppingRule:
    """The controller: a look-up of what was seen.

    It holds the states that requests come to who follow it. At any other it does as at the nearest one: of as many
    samples, or the next number below or above, the one whose shares of the votes, and number of samples, differ least.
    With `n` samples drawn, or none affordable, it stops; where fewer are affordable than it would draw, it draws those.
    `accuracy` and `tokens` per request are what it is expected to reach and to cost, `price` what a token must earn.
    `likelier`: ties of the vote go to the likelier answer, where the server tells how likely its tokens were.
    """

    n: int
    price: float
    accuracy: float
    tokens: float
    steps: Mapping[State, Step]
    likelier: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, not {self.n}")
        if not self.steps:
            raise ValueError("there is no state")

    @cached_property
    def features(self) -> frozenset[str]:
        kinds = {step.kind for step in self.steps.values()}
        named = {"drawn", "first", "second", "affordable", "verified"}
        if self.likelier:
            named.add("likelihood")
        return frozenset(
            named | ({"score"} if "verify" in kinds else set()) | ({"larger"} if "escalate" in kinds else set())
        )

    async def act(self, seen: Seen) -> Action:
        step = self.step(seen)
        more = self.n - seen.drawn
        if seen.affordable is not None:
            more = min(more, seen.affordable)
        if not seen.drawn and step.kind not in ("draw", "escalate"):
            return Action("draw", 1)
        if step.kind == "draw" and (more >= 1 or not seen.drawn):
            return Action("draw", max(1, min(step.k, more)))
        if (step.kind == "verify" and not seen.verified) or (step.kind == "escalate" and seen.affordable != 0):
            return Action(step.kind, step.k)
        return Action("stop", reason=_reason(seen), confidence=step.right if seen.first else None)

    def alike(self, other: StoppingRule) -> bool:
        """Whether both do the same at every state."""
        mine, others = ({state: (step.kind, step.k) for state, step in rule.steps.items()} for rule in (self, other))
        return mine == others

    def step(self, seen: Seen) -> Step:
        """What the table says of what was seen, or of the nearest to it."""
        score = None
        if seen.verified:
            score = -1 if seen.score is None else _fifths(seen.score)
        return self.steps.get((seen.drawn, seen.first, seen.second, score)) or self._nearest(seen, score)

    def _nearest(self, seen: Seen, score: int | None) -> Step:
        layers = self._layers[score is not None] or self._layers[score is None]
        below = max((drawn for drawn in layers if drawn < seen.drawn), default=0)
        above = min((drawn for drawn in layers if drawn > seen.drawn), default=0)

        def distance(state: State) -> float:
            of, had = max(state[0], 1), max(seen.drawn, 1)
            far = abs(state[1] / of - seen.first / had) + abs(state[2] / of - seen.second / had)
            far += abs(state[0] - seen.drawn) / (2 * max(of, had))
            return far + abs((state[3] or 0) - (score or 0)) / SCORE_STEPS

        return self.steps[
            min((state for drawn in (below, seen.drawn, above) for state in layers.get(drawn, ())), key=distance)
        ]

    @cached_property
    def _layers(self) -> dict[bool, dict[int, list[State]]]:
        """The states after some samples, by whether these were verified and by how many they were."""
        layers: dict[bool, dict[int, list[State]]] = {False: {}, True: {}}
        for state in self.steps:
            if state[0] or len(self.steps) == 1:
                layers[state[3] is not None].setdefault(state[0], []).append(state)
        return layers

    def body(self) -> dict[str, Any]:
        """As JSON holds it. A state is "drawn leader's-votes runner-up's-votes", after verification followed by "score"
        and the leader's to one fifth, or "none".
        """
        return {
            "n": self.n,
            "price": self.price,
            "accuracy": self.accuracy,
            "tokens": self.tokens,
            "ties": "likelihood" if self.likelier else "first",
            "states": {_written(state): step.text() for state, step in self.steps.items()},
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The same from its body. Raises `KeyError`, `TypeError` or `ValueError` for a body that is not one."""
        steps = {_state(text): Step.parse(step) for text, step in body["states"].items()}
        if body["ties"] not in ("likelihood", "first"):
            raise ValueError(f"ties go to the likelihood or the first, not to {body['ties']}")
        price, accuracy, tokens = (float(body[name]) for name in ("price", "accuracy", "tokens"))
        return cls(int(body["n"]), price, accuracy, tokens, steps, body["ties"] == "likelihood")


@dataclass(frozen=True)
class StoppingPolicy:
    """One rule for all requests; or for a `share` of them another, `other`, picked by chance from the request's id,
    seed and prompt, so that a cost between those of the two is met exactly.
    """

    rule: StoppingRule
    other: StoppingRule | None = field(default=None)
    share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie between 0 and 1, not {self.share}")

    def controller(self, request: Request) -> StoppingRule:
        if self.other is None:
            return self.rule
        # Callers may leave id and seed at their defaults: the prompt tells such requests apart.
        path = ("stopping", request.id, prompt_key(request.prompt))
        chance = Random(derive_seed(request.seed, path)).random()
        return self.other if chance < self.share else self.rule

    @property
    def accuracy(self) -> float:
        """What it is expected to reach."""
        return self._mixed(self.rule.accuracy, self.other.accuracy if self.other else 0.0)

    @property
    def tokens(self) -> float:
        """What it is expected to cost per request, prompts included."""
        return self._mixed(self.rule.tokens, self.other.tokens if self.other else 0.0)

    def _mixed(self, mine: float, others: float) -> float:
        return mine if self.other is None else (1 - self.share) * mine + self.share * others

    def body(self) -> dict[str, Any]:
        """All of it, as JSON holds it."""
        if self.other is None:
            return {"rule": self.rule.body()}
        return {"rule": self.rule.body(), "share": self.share, "other": self.other.body()}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The same from its body. Raises `KeyError`, `TypeError` or `ValueError` for a body that is not one."""
        rule = StoppingRule.of(body["rule"])
        return cls(rule, StoppingRule.of(body["other"]), float(body["share"])) if "other" in body else cls(rule)


def _reason(seen: Seen) -> str:
    """Of a stop: most samples agree, or they do not."""
    return "consensus" if 2 * seen.first > seen.drawn else "disagreement"


def _fifths(score: float) -> int:
    return round(score * SCORE_STEPS)


def _written(state: State) -> str:
    drawn, first, second, score = state
    votes = f"{drawn} {first} {second}"
    if score is None:
        return votes
    return f"{votes} score {'none' if score < 0 else round(score / SCORE_STEPS, 3)}"


def _state(text: str) -> State:
    votes, judged, score = text.partition(" score ")
    drawn, first, second = map(int, votes.split())
    return drawn, first, second, (-1 if score == "none" else _fifths(float(score))) if judged else None
