"""Particle filtering over steps (Puri et al. 2025, "Rollout Roulette")."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import log

from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.rebase import softmax
from thinkscale.strategies.search.tree import Grow, Tree, known

_SURE = 1e-6  # a score of 0 or 1 must leave a finite weight


@dataclass(frozen=True)
class ParticleFilter(StepSearch):
    """Treat the step scores as likelihoods: after each step draw the n particles anew, with chances by their weight.

    Weights are softmax(logit(r)/T) of the scores r, T = `temperature`; resampling is multinomial. As in the authors'
    code a finished particle stays in the draw with the weight it ended with. Where all replies have as many steps, the
    particles follow p(x) prod_t (r_t / (1 - r_t))^(1/T) as n grows. The last draw is not made: the finished particles
    vote with their scores.
    """

    n: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("n", self.n, 1)
        if self.temperature <= 0:
            raise ValueError("temperature must be positive")

    def ask(self, tree: Tree) -> list[Grow]:
        if tree.round == 0:
            return [Grow(tree.root, self.n)]
        if not tree.open:
            return []
        particles = [*tree.open, *(node for node in tree.done for _ in range(tree.copies[node.path]))]
        weights = softmax([logit(score) for score in known(particles)], self.temperature)
        drawn = Counter(node.path for node in tree.random().choices(particles, weights, k=self.n))
        return [Grow(node, drawn[node.path]) for node in tree.open if drawn[node.path]] + [
            Grow(node, drawn[node.path]) for node in tree.done
        ]


def logit(score: float) -> float:
    score = min(max(score, _SURE), 1 - _SURE)
    return log(score / (1 - score))
