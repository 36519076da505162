"""Intervals for what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from random import Random

_Z95 = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion; (0, 1) for no trials.

    `successes` may be a sum of shares, which vary less than trials that succeed or fail: it is then wide enough.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Exact at the ends, where the two terms cancel but for rounding.
    return (centre - half if successes else 0.0), (centre + half if successes < n else 1.0)


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ours - theirs over the same problems, with its 95% percentile bootstrap interval over problems."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    n = len(differences)
    if n == 0:
        return 0.0, 0.0, 0.0
    rng = Random(seed)
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(resamples))
    return sum(differences) / n, means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased oracle pass@k from n samples of which `correct` are right (Chen et al. 2021)."""
    if n - correct < k:
        return 1.0
    miss = 1.0
    for i in range(n - correct + 1, n + 1):
        miss *= 1 - k / i
    return 1 - miss
