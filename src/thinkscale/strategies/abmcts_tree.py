"""The tree of AB-MCTS: asked where to spend the next sample, told what came of it. No model, no clock, no session."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from random import Random
from sys import float_info
from typing import Any, Literal, Self

from thinkscale.types import derive_seed

Prior = Literal["gaussian", "beta"]
Outcome = float | Literal["pending", "failed"] | None
"""What became of a trial: a score in [0, 1], `None` for a candidate that could not be judged, or no candidate (yet)."""

ROOT = -1
_UNIT = 1 << 53


@dataclass(slots=True)
class Scores:
    """Sums over scores, in whole multiples of 2^-53: exact, so that the order in which scores arrive leaves no mark."""

    count: int = 0
    total: int = 0
    squares: int = 0

    def add(self, score: float) -> None:
        units = round(score * _UNIT)
        self.count += 1
        self.total += units
        self.squares += units * units


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Normal scores of unknown mean and variance: NIX^2(m, kappa, nu, tau^2) (Murphy 2023, section 3.4.3.3)."""

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_square: float = 0.1

    def given(self, scores: Scores) -> Gaussian:
        n = scores.count
        if not n:
            return self
        mean = scores.total / (n * _UNIT)
        spread = (n * scores.squares - scores.total**2) / (n * _UNIT * _UNIT)  # n times the variance, not cancelling
        kappa, nu = self.kappa + n, self.nu + n
        off = n * self.kappa / kappa * (self.m - mean) ** 2
        return Gaussian(
            (self.kappa * self.m + n * mean) / kappa, kappa, nu, (self.nu * self.tau_square + spread + off) / nu
        )

    def draw(self, rng: Random) -> float:
        """A mean from the posterior."""
        precision = rng.gammavariate(self.nu / 2, 2 / (self.nu * self.tau_square))
        return rng.gauss(self.m, 1 / sqrt(self.kappa * max(precision, float_info.min)))


@dataclass(frozen=True, slots=True)
class Beta:
    """Scores as fractions of a success; the prior is Jeffreys's."""

    a: float = 0.5
    b: float = 0.5

    def given(self, scores: Scores) -> Beta:
        return Beta(self.a + scores.total / _UNIT, self.b + (scores.count * _UNIT - scores.total) / _UNIT)

    def draw(self, rng: Random) -> float:
        """A mean from the posterior."""
        return rng.betavariate(self.a, self.b)


Posterior = Gaussian | Beta
_PRIORS: dict[Prior, Posterior] = {"gaussian": Gaussian(), "beta": Beta()}


class _Arm:
    """One choice at a node, with the scores it led to."""

    __slots__ = ("_prior", "_scores", "posterior")

    def __init__(self, prior: Posterior) -> None:
        self._prior = prior
        self._scores = Scores()
        self.posterior = prior

    def add(self, score: float) -> None:
        self._scores.add(score)
        self.posterior = self._prior.given(self._scores)


class _Node:
    """An answer (or the root). `going_on` is its arm among its siblings; `gen` and `cont` are the choice below it."""

    __slots__ = ("children", "cont", "gen", "going_on", "parent")

    def __init__(self, parent: int, prior: Posterior) -> None:
        self.parent = parent
        self.children: list[int] = []
        self.gen = _Arm(prior)
        self.cont = _Arm(prior)
        self.going_on = _Arm(prior)


@dataclass(frozen=True, slots=True)
class Choices:
    """What a node's choice is made from. `children` are in the order of their trials."""

    gen: Posterior
    cont: Posterior
    children: tuple[Posterior, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One sample to draw: a revision of node `parent`, or an answer from scratch where that is `ROOT`.

    The candidate that comes of it is node `number`.
    """

    number: int
    parent: int


class Tree:
    """AB-MCTS-A (Inoue et al. 2025, "Wider or Deeper?"): node aggregation, with one way to generate.

    Each ask walks down from the root. At a node it draws a mean for GEN (from the scores of the node's children) and
    one for CONT (from the scores further below), and takes the larger: GEN ends the walk with a new child, CONT goes
    on to the child with the largest draw (from its own score and all below it). A node without children can only GEN.

    Deviation: pending trials count. The reference implementation draws each trial of a batch as if it were the only
    one. Here a walk that ends where a trial is under way is walked anew, once, and its second end stands (as in top-two
    Thompson sampling, Russo 2016). If such places have probability P together, the probability of each of them is
    multiplied by P, that of every other place by 1+P: a batch spreads as far as the evidence leaves room, and goes
    together where there is no doubt. No estimate moves: a virtual loss would push a batch away from what is best.
    Without pending trials nothing differs.

    Everything is a function of the seed and the trials: the k-th ask has a generator of its own, and scores enter by
    exact sums, so that results told in any order give the same tree and the same next ask.
    """

    def __init__(self, *, seed: int = 0, prior: Prior = "gaussian") -> None:
        self._seed = seed
        self._prior = prior
        self._trials: list[tuple[int, Outcome]] = []
        self._nodes: dict[int, _Node] = {ROOT: _Node(ROOT, _PRIORS[prior])}
        self._pending: Counter[int] = Counter()

    def ask(self, n: int = 1) -> list[Trial]:
        """Where the next `n` samples go. Each trial is pending until it is told or has failed."""
        return [self._open(self._choose()) for _ in range(n)]

    def tell(self, trial: Trial, score: float | None) -> None:
        """A candidate came: `score` in [0, 1], or `None` where it could not be judged, which is no evidence."""
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"the score of trial {trial.number} must lie in [0, 1], not {score}")
        self._close(trial, score)
        nodes, node = self._nodes, _Node(trial.parent, _PRIORS[self._prior])
        nodes[trial.number] = node
        insort(nodes[trial.parent].children, trial.number)
        if score is None:
            return
        node.going_on.add(score)
        nodes[trial.parent].gen.add(score)
        at = trial.parent
        while at != ROOT:
            above = nodes[at].parent
            nodes[at].going_on.add(score)
            nodes[above].cont.add(score)
            at = above

    def fail(self, trial: Trial) -> None:
        """No candidate came: the trial leaves no trace but its number."""
        self._close(trial, "failed")

    def choices(self, node: int = ROOT) -> Choices:
        """The posteriors at a node."""
        at = self._nodes[node]
        children = tuple(self._nodes[child].going_on.posterior for child in at.children)
        return Choices(at.gen.posterior, at.cont.posterior, children)

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values: equal for equal trees."""
        return {"seed": self._seed, "prior": self._prior, "trials": [list(trial) for trial in self._trials]}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The tree with that state: it goes on as the saved one would have."""
        tree = cls(seed=state["seed"], prior=state["prior"])
        for parent, outcome in state["trials"]:
            trial = tree._open(parent)
            if outcome == "failed":
                tree.fail(trial)
            elif outcome != "pending":
                tree.tell(trial, outcome)
        return tree

    def _choose(self) -> int:
        rng = Random(derive_seed(self._seed, ("ab-mcts", len(self._trials))))
        end = self._walk(rng)
        return self._walk(rng) if self._pending[end] else end

    def _walk(self, rng: Random) -> int:
        nodes, at = self._nodes, ROOT
        while (node := nodes[at]).children and node.gen.posterior.draw(rng) < node.cont.posterior.draw(rng):
            at = max(node.children, key=lambda child: nodes[child].going_on.posterior.draw(rng))
        return at

    def _open(self, parent: int) -> Trial:
        if parent not in self._nodes:
            raise ValueError(f"trial {len(self._trials)} expands node {parent}, which does not exist")
        self._pending[parent] += 1
        self._trials.append((parent, "pending"))
        return Trial(len(self._trials) - 1, parent)

    def _close(self, trial: Trial, outcome: Outcome) -> None:
        known = 0 <= trial.number < len(self._trials)
        if not known or self._trials[trial.number] != (trial.parent, "pending"):
            raise ValueError(f"trial {trial.number} at node {trial.parent} is not pending: tell each trial once")
        self._pending[trial.parent] -= 1
        self._trials[trial.number] = (trial.parent, outcome)
