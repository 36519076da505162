"""Linear regressions of several arms that share what they have in common, and forget: discounted, hierarchical Bayes.

The reward of arm k in context x is z·(b0 + b_k) + noise, with z = (1, x): b0 is what all arms share (how hard the
request is), b_k what sets arm k apart. Both have normal priors, so the posterior means are ridge regressions (Lindley
and Smith 1972). An arm that nobody tried lately shrinks towards the others instead of staying at what it was worth in
easier times. Costs have nothing in common between arms: each is a ridge regression of its own.

Only discounted sums are kept, in the features' own units, so that forgetting is one multiplication. The priors hold for
standardized features; mean and scale come from the same sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]

# Prior precisions, in observations: the variance of one reward (about 0.2) over the prior variance. What all arms share
# may be anything; arms differ by some .1; a standard deviation of a feature changes a reward by .1, and an arm's
# advantage by .06.
_SHARED, _SHARED_SLOPE = 1.0, 20.0
_OWN, _OWN_SLOPE = 20.0, 50.0
_COST, _COST_SLOPE = 1.0, 20.0
_FARTHEST = 3.0


@dataclass(frozen=True)
class Moments:
    """Discounted sums over one arm's observations: of z zᵀ, of reward times z and of cost times z, with z = (1, x)."""

    gram: Matrix
    reward: Vector
    cost: Vector

    @classmethod
    def none(cls, features: int) -> Moments:
        zeros = (0.0,) * (features + 1)
        return cls((zeros,) * (features + 1), zeros, zeros)

    @property
    def weight(self) -> float:
        """How many observations the sums are worth."""
        return self.gram[0][0]

    def faded(self, by: float) -> Moments:
        return Moments(
            tuple(tuple(by * value for value in row) for row in self.gram),
            tuple(by * value for value in self.reward),
            tuple(by * value for value in self.cost),
        )

    def plus(self, x: Sequence[float], reward: float, cost: float, weight: float) -> Moments:
        z = (1.0, *x)
        return Moments(
            tuple(
                tuple(value + weight * a * b for value, b in zip(row, z, strict=True))
                for row, a in zip(self.gram, z, strict=True)
            ),
            tuple(value + weight * reward * a for value, a in zip(self.reward, z, strict=True)),
            tuple(value + weight * cost * a for value, a in zip(self.cost, z, strict=True)),
        )


@dataclass(frozen=True)
class Belief:
    """What one arm is expected to earn and to cost in one context.

    `variance` is that of the arm's own part of the reward, in units of one reward's variance: the shared part is the
    same for all and decides nothing.
    """

    reward: float
    cost: float
    variance: float


class Regression:
    """The posterior that the moments of all arms give. `priors` are the arms' (reward, cost) before any observation."""

    def __init__(self, moments: Sequence[Moments], priors: Sequence[tuple[float, float]]) -> None:
        self._standard = _Standard(moments)
        size = self._standard.size
        own = (_OWN, *(_OWN_SLOPE,) * (size - 1))
        pooled = [[0.0] * size for _ in range(size)]
        for j in range(size):
            pooled[j][j] = _SHARED if j == 0 else _SHARED_SLOPE
        # The shared intercept's prior is the mean of the arms' priors; an arm's own part has the rest.
        centre = sum(reward for reward, _ in priors) / len(priors)
        known = [_SHARED * centre] + [0.0] * (size - 1)
        self._spread: list[Matrix] = []
        grams, targets = [], []
        self._cost: list[Vector] = []
        for one, (reward, cost) in zip(moments, priors, strict=True):
            gram = self._standard.gram(one.gram)
            target = self._standard.vector(one.reward)
            target = tuple(value - row[0] * (reward - centre) for value, row in zip(target, gram, strict=True))
            spread = inverse(_ridge(gram, own))
            # Integrating the arm's own part out leaves Λ - Λ M Λ of its gram matrix, and Λ M of its targets.
            for i in range(size):
                pooled[i][i] += own[i]
                for j in range(size):
                    pooled[i][j] -= own[i] * spread[i][j] * own[j]
                known[i] += own[i] * _dot(spread[i], target)
            self._spread.append(spread)
            grams.append(gram)
            targets.append(target)
            costs = self._standard.vector(one.cost)
            held = inverse(_ridge(gram, (_COST, *(_COST_SLOPE,) * (size - 1))))
            self._cost.append(_times(held, (costs[0] + _COST * cost, *costs[1:])))
        common = _times(inverse(tuple(tuple(row) for row in pooled)), known)
        self._reward: list[Vector] = []
        for spread, gram, target, (reward, _) in zip(self._spread, grams, targets, priors, strict=True):
            left = tuple(value - _dot(row, common) for value, row in zip(target, gram, strict=True))
            apart = _times(spread, left)
            line = tuple(shared + own for shared, own in zip(common, apart, strict=True))
            self._reward.append((line[0] + reward - centre, *line[1:]))

    @property
    def mean(self) -> Vector:
        """Of each feature, over all arms' observations."""
        return tuple(self._standard.mean[1:])

    def beliefs(self, x: Sequence[float]) -> list[Belief]:
        """One for each arm, for a context of the features in their own units."""
        z = self._standard.of(x)
        return [
            Belief(_dot(reward, z), max(_dot(cost, z), 0.0), _dot(_times(spread, z), z))
            for reward, cost, spread in zip(self._reward, self._cost, self._spread, strict=True)
        ]


class _Standard:
    """Features with mean 0 and standard deviation 1 over all arms' observations, without those that never varied."""

    def __init__(self, moments: Sequence[Moments]) -> None:
        weight = sum(one.weight for one in moments)
        self.mean = [0.0] * len(moments[0].reward)
        self._varied: list[tuple[int, float, float]] = []
        if weight <= 0:
            return
        for j in range(1, len(self.mean)):
            mean = self.mean[j] = sum(one.gram[0][j] for one in moments) / weight
            square = sum(one.gram[j][j] for one in moments) / weight
            variance = square - mean * mean
            if variance > 1e-9 * square:
                self._varied.append((j, mean, 1 / math.sqrt(variance)))

    @property
    def size(self) -> int:
        return len(self._varied) + 1

    def of(self, x: Sequence[float]) -> Vector:
        """(1, x) standardized, no farther out than three standard deviations: lines are not to be trusted beyond."""
        inside = (max(-_FARTHEST, min(_FARTHEST, (x[j - 1] - mean) * scale)) for j, mean, scale in self._varied)
        return (1.0, *inside)

    def vector(self, sums: Sequence[float]) -> Vector:
        return (sums[0], *((sums[j] - mean * sums[0]) * scale for j, mean, scale in self._varied))

    def gram(self, gram: Matrix) -> Matrix:
        rows = [self.vector(row) for row in gram]
        return tuple(zip(*(self.vector(column) for column in zip(*rows, strict=True)), strict=True))


def inverse(matrix: Matrix) -> Matrix:
    """Of a symmetric positive definite matrix, by Gauss and Jordan: such a one needs no pivoting."""
    size = len(matrix)
    rows = [[*row, *(1.0 if i == j else 0.0 for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = rows[i][i]
        head = rows[i] = [value / pivot for value in rows[i]]
        for j in range(size):
            factor = rows[j][i]
            if j != i and factor:
                rows[j] = [value - factor * other for value, other in zip(rows[j], head, strict=True)]
    return tuple(tuple(row[size:]) for row in rows)


def _ridge(gram: Matrix, precisions: Sequence[float]) -> Matrix:
    return tuple(
        tuple(value + (precisions[i] if i == j else 0.0) for j, value in enumerate(row)) for i, row in enumerate(gram)
    )


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _times(matrix: Matrix, vector: Sequence[float]) -> Vector:
    return tuple(_dot(row, vector) for row in matrix)
