"""Vote and stop rules over a table, all requests at once: what the strategies themselves do over a replayed model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from thinkscale import strategies
from thinkscale.errors import UsageError
from thinkscale.optimize.confident import confident_votes
from thinkscale.optimize.requests import Batches, Requests, joined, outcomes_of, requests_of
from thinkscale.optimize.table import Bools, Floats, Ints, Outcomes, Table
from thinkscale.optimize.votes import leading, top_two, upto
from thinkscale.strategies.auto import Auto
from thinkscale.strategies.deepconf import DeepConfOffline
from thinkscale.strategies.verified import BestOfN, FirstVerified
from thinkscale.strategies.vote import AdaptiveConsistency, EarlyStopping, SelfConsistency, Single, leads

Choice = tuple[Ints, Bools, Ints]
"""Per request the batch with which it ended, whether it wanted no more by then, and the place of what it chose."""


def simulate(words: str, table: Table, orders: Ints, *, verifier: str | None = None) -> Outcomes:
    """What the strategy of these words answers and spends on requests that see the samples in these [R, P, N] orders.

    Agrees exactly with `replayed`, which runs the strategy itself. `verifier` names the scores that a strategy with a
    verifier goes by; it may be left out where the table has one kind. What a verifier cost is not on record, and not
    charged. Raises `UsageError` for strategies that are not among `SIMULATED` and scores that the table lacks.
    """
    strategy = strategies.parse(words)
    parts = [simulated(strategy, requests, verifier) for requests in requests_of(table, orders)]
    return joined(parts, (orders.shape[0], orders.shape[1]))


def simulated(strategy: Any, requests: Requests, verifier: str | None) -> Outcomes:
    """The same for one strategy, as parsed, and flat [M] requests."""
    if isinstance(strategy, Auto):
        strategy = AdaptiveConsistency(n=strategy.n)  # as it does without a controller
    if type(strategy) not in _RULES:
        raise UsageError(f"{strategy} cannot be read off recorded samples; {', '.join(SIMULATED)} can")
    batches = Batches.of(_asked(strategy), requests.n)
    last, stopped, place = _RULES[type(strategy)](strategy, requests, batches, verifier)
    return outcomes_of(requests, batches, last, place, stopped)


def scored_by(table: Table, verifier: str | None) -> str:
    """The verifier that is meant. Raises `UsageError` where that is not clear."""
    names = tuple(table.scores or ())
    if verifier is None and not names:
        raise UsageError("this strategy goes by a verifier's scores, and the bank has none for every sample")
    if verifier is None and len(names) > 1:
        raise UsageError(f"say by which verifier's scores this strategy is to go: {', '.join(names)}")
    return verifier or names[0]


def passes(verifier: str, scores: Floats, threshold: float) -> Bools:
    """What passes: all that scores 1 with a checker, which says yes or no, else what reaches the threshold."""
    return scores == 1.0 if verifier in HARD else scores >= threshold


HARD = frozenset({"checker"})
"""Verifiers whose scores are a yes or no."""


def _asked(strategy: Any) -> list[int]:
    if isinstance(strategy, Single):
        return [1]
    if isinstance(strategy, SelfConsistency | DeepConfOffline):
        return [strategy.n]
    return list(strategy.batches.batches(strategy.n))


def _whole(requests: Requests, batches: Batches) -> tuple[Ints, Bools]:
    """Every batch drawn, and nothing more wanted than was asked for."""
    return np.full(len(requests), len(batches.sizes) - 1), np.zeros(len(requests), np.bool_)


def _first_of(found: Bools) -> tuple[Ints, Bools]:
    """The first place in each row where it is true, the last place where it never is; and whether it is anywhere."""
    some: Bools = np.asarray(found.any(axis=1))
    return np.where(some, found.argmax(axis=1), found.shape[1] - 1), some


def _vote(requests: Requests, samples: Ints) -> Ints:
    """The majority's choice after so many samples of each request."""
    among = upto(samples)
    drawn = among.shape[1]
    return leading(requests.see(requests.table.answers, drawn), requests.finished(drawn), among)


def _single(_strategy: Single, requests: Requests, batches: Batches, _verifier: str | None) -> Choice:
    return *_whole(requests, batches), np.zeros(len(requests), np.int64)


def _self_consistency(strategy: SelfConsistency, requests: Requests, batches: Batches, verifier: str | None) -> Choice:
    drawn = batches.sizes[0]
    weights = None
    if strategy.weighted:
        scores = requests.judged(scored_by(requests.table, verifier), drawn)
        weights = weights_of(scores, np.ones(scores.shape, np.bool_))
    answers = requests.see(requests.table.answers, drawn)
    place = leading(answers, requests.finished(drawn), np.ones(answers.shape, np.bool_), weights)
    return *_whole(requests, batches), place


def weights_of(scores: Floats, among: Bools) -> Floats:
    """Scores as the weights of votes: nothing for what could not be judged, and one each where nothing could be."""
    unknown: Bools = np.isnan(scores)
    return np.where((unknown | ~among).all(axis=1, keepdims=True), 1.0, np.where(unknown, 0.0, scores))


def _adaptive(strategy: AdaptiveConsistency, requests: Requests, batches: Batches, _verifier: str | None) -> Choice:
    ends, texts = batches.ends, requests.table.texts
    first, second = (counts[ends].T for counts in top_two(requests.see(requests.table.answers, int(ends[-1]))))
    settled = _led(first, second, strategy.confidence)
    if strategy.prose and texts is not None:
        settled |= texts[requests.problem][:, None] & (ends >= strategy.prose) & (first <= 1)
    last, stopped = _first_of(settled)
    return last, stopped, _vote(requests, ends[last])


def _led(first: Ints, second: Ints, confidence: float) -> Bools:
    """Whether the leader would win the full vote, asked once for each pair of counts."""
    base = int(first.max(initial=0)) + 1
    pairs, places = np.unique(first * base + second, return_inverse=True)
    settled = np.array([_leads(int(pair) // base, int(pair) % base) >= confidence for pair in pairs], np.bool_)
    found: Bools = settled[places.reshape(first.shape)]
    return found


@lru_cache(maxsize=1 << 16)
def _leads(first: int, second: int) -> float:
    return leads({"first": first, "second": second})


def _early_stopping(strategy: EarlyStopping, requests: Requests, batches: Batches, _verifier: str | None) -> Choice:
    window, ends = strategy.window, batches.ends
    count = int(ends[-1]) // window
    if not count:
        last, stopped = _whole(requests, batches)
        return last, stopped, _vote(requests, ends[last])
    answers = requests.see(requests.table.answers, count * window).reshape(len(requests), count, window)
    agreed, stopped = _first_of((answers[:, :, 0] >= 0) & (answers == answers[:, :, :1]).all(axis=2))
    last = np.where(stopped, np.searchsorted(ends, (agreed + 1) * window), len(ends) - 1)
    return last, stopped, _vote(requests, ends[last])


def _best(requests: Requests, scores: Floats) -> Ints:
    """The highest score, ties to the first; a plain vote where nothing could be judged."""
    known = np.where(np.isnan(scores), -np.inf, scores)
    plain = _vote(requests, np.full(len(requests), scores.shape[1]))
    return np.where(np.isnan(scores).all(axis=1), plain, known.argmax(axis=1))


def _best_of_n(_strategy: BestOfN, requests: Requests, batches: Batches, verifier: str | None) -> Choice:
    scores = requests.judged(scored_by(requests.table, verifier), int(batches.ends[-1]))
    return *_whole(requests, batches), _best(requests, scores)


def _first_verified(strategy: FirstVerified, requests: Requests, batches: Batches, verifier: str | None) -> Choice:
    name = scored_by(requests.table, verifier)
    scores = requests.judged(name, int(batches.ends[-1]))
    place, stopped = _first_of(passes(name, scores, strategy.threshold))
    last = np.where(stopped, np.searchsorted(batches.ends, place + 1), len(batches.sizes) - 1)
    return last, stopped, np.where(stopped, place, _best(requests, scores))


def _confident(strategy: DeepConfOffline, requests: Requests, batches: Batches, _verifier: str | None) -> Choice:
    among, weights = confident_votes(strategy, requests, batches.sizes[0])
    answers = requests.see(requests.table.answers, batches.sizes[0])
    return *_whole(requests, batches), leading(answers, requests.finished(batches.sizes[0]), among, weights)


_RULES: dict[type[Any], Callable[..., Choice]] = {
    Single: _single,
    SelfConsistency: _self_consistency,
    AdaptiveConsistency: _adaptive,
    EarlyStopping: _early_stopping,
    BestOfN: _best_of_n,
    FirstVerified: _first_verified,
    DeepConfOffline: _confident,
}

SIMULATED = tuple(name for name, strategy in strategies.STRATEGIES.items() if strategy in _RULES)
"""The names of the strategies that `simulate` knows, beside `auto` without a controller."""
