"""Intervals over problems, for everything measured on them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thinkscale.optimize.stats import wilson
from thinkscale.optimize.table import Floats

_TAILS = (0.025, 0.975)
_FEWEST = 5  # problems: 0.5^5 < 0.05, so that their agreement is more than chance


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95% interval, both ends `None` where one problem alone cannot give one."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} [cannot tell]"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Bootstrap:
    """Resamples of P problems, drawn once: what is measured on the same problems is compared pairwise.

    Percentile intervals over problems (Efron 1979). A problem's own values are means over the orders in which its
    samples were seen, so the interval holds both which problems and which samples were drawn.
    """

    def __init__(self, problems: int, *, resamples: int = 1000, seed: int = 0) -> None:
        if problems < 1:
            raise ValueError("there is no problem to draw")
        self.problems = problems
        rng = np.random.default_rng(seed)
        self._shares: Floats = rng.multinomial(problems, np.full(problems, 1 / problems), size=resamples) / problems

    def means(self, values: Floats) -> Floats:
        """The mean over each resample's problems: [P, ...] gives [resamples, ...]."""
        return np.tensordot(self._shares, values, axes=1)

    def estimate(self, values: Floats) -> Estimate:
        """Of values [P] of any kind."""
        mean = float(values.mean())
        if self.problems < 2:
            return Estimate(mean, None, None)
        low, high = np.quantile(self.means(values), _TAILS)
        return Estimate(mean, float(low), float(high))

    def share(self, values: Floats) -> Estimate:
        """Of values [P] that are chances. Where all are 0, or all 1, resamples never differ, which is no certainty:
        the Wilson interval of as many trials stands in.
        """
        mean = float(values.mean())
        if self.problems > 1 and (np.all(values <= 0) or np.all(values >= 1)):
            return Estimate(mean, *wilson(round(mean * self.problems), self.problems))
        return self.estimate(values)

    def surely_above(self, ours: Floats, reference: Floats) -> tuple[Floats, Floats]:
        """How far each of K rivals [P, K] lies above the reference [P], and how far surely: [K] and [K].

        The lower bounds hold for all rivals together at 95% (the largest studentized difference of a resample, after
        White's reality check, 2000), so the best of many may be picked by looking. nan for fewer than 5 problems,
        which could all agree by chance.
        """
        differences = ours - reference[:, None]
        means = differences.mean(axis=0)
        if self.problems < _FEWEST:
            return means, np.full_like(means, np.nan)
        off = self.means(differences) - means
        spread = off.std(axis=0)
        worst = np.divide(off, spread, out=np.zeros_like(off), where=spread > 0).max(axis=1)
        return means, means - np.quantile(worst, 0.95) * spread
