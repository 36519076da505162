"""Ridge logistic regression of rates in [0, 1], its strength chosen by cross-validation over groups."""

from __future__ import annotations

import numpy as np

from thinkscale.optimize.table import Floats, Ints

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
_STEPS = 30
_CLOSE = 1e-6
_LEAST = 0.05  # a feature that varies less is taken to vary so much: what is all but constant must not count for much


def logistic(features: Floats, rates: Floats, groups: Ints, *, folds: int = 5, seed: int = 0) -> tuple[float, Floats]:
    """Intercept and weights [D] for `features` [M, D] such that sigmoid(intercept + features @ weights) is near `rates`
    [M].

    Rows of one of `groups` [M] (numbers from 0) are alike: together they count as one, and no fold parts them. The
    penalty is on weights of features scaled to variance 1; one that does not vary gets no weight. Its strength is that
    of `STRENGTHS` with the least cross entropy on held-out groups; the largest where there are too few groups to tell.
    """
    centre, scale = features.mean(axis=0), features.std(axis=0)
    varies, scale = scale > 1e-9, np.maximum(scale, _LEAST)
    scaled = np.where(varies, (features - centre) / scale, 0.0)
    counts = np.bincount(groups)
    weights = 1.0 / counts[groups]
    strength = STRENGTHS[-1]
    if len(counts) >= 2 * folds:
        fold = np.random.default_rng(seed).permutation(np.arange(len(counts)) % folds)[groups]
        losses = [
            sum(
                _loss(_fitted(scaled[fold != k], rates[fold != k], weights[fold != k], one), scaled, rates, fold == k)
                for k in range(folds)
            )
            for one in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmin(losses))]
    fitted = _fitted(scaled, rates, weights, strength)
    slopes = np.where(varies, fitted[1:] / scale, 0.0)
    return float(fitted[0] - slopes @ centre), slopes


def _fitted(features: Floats, rates: Floats, weights: Floats, strength: float) -> Floats:
    """Newton's method, from the overall rate: [1 + D]."""
    design = np.column_stack([np.ones(len(features)), features])
    penalty = np.full(design.shape[1], strength)
    penalty[0] = 1e-3  # so that rates of all 0 or all 1 have a finite intercept
    rate = np.clip(np.average(rates, weights=weights), 0.01, 0.99)
    found = np.zeros(design.shape[1])
    found[0] = np.log(rate / (1 - rate))
    for _ in range(_STEPS):
        chance = _sigmoid(design @ found)
        slope = design.T @ (weights * (rates - chance)) - penalty * found
        curve = (design * (weights * chance * (1 - chance))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        found += np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < _CLOSE:
            break
    return found


def _loss(fitted: Floats, features: Floats, rates: Floats, among: Floats) -> float:
    chance = np.clip(_sigmoid(fitted[0] + features[among] @ fitted[1:]), 1e-6, 1 - 1e-6)
    part = rates[among]
    return float(-(part * np.log(chance) + (1 - part) * np.log(1 - chance)).mean())


def _sigmoid(values: Floats) -> Floats:
    chances: Floats = 1 / (1 + np.exp(-np.clip(values, -30.0, 30.0)))
    return chances
