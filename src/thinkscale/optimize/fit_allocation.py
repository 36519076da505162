"""Fitting what more samples are worth, so that requests can share a budget: from a table of recorded ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thinkscale.errors import UsageError
from thinkscale.optimize.requests import requests_of
from thinkscale.optimize.table import Bools, Floats, Ints, Table, orders
from thinkscale.optimize.votes import leaders, top_two
from thinkscale.policies.gain import CoverageGain, Lengths, Promise, VoteGain, Votes

_BATCHES = (1, 2, 3, 4, 6, 8, 12, 16)
_PRICES = np.geomspace(1.0, 1e-6, 61)
"""Of one sample, in chances of a right answer, largest first: beyond them nothing, or everything, pays."""

_MOVES = 3  # a sample votes for the leader, makes the runner-up's count larger, or does neither
_RIDGE = 0.5


def fit_votes(table: Table, *, repeats: int = 40, prior: float = 4.0, seed: int = 0) -> VoteGain:
    """What a majority vote gains from more samples, pooled over the table's problems and `repeats` orders of each.

    From the votes (drawn, first, second) come the chance that the leader is what all of the bank's samples vote for,
    and the odds of what the next sample does. Both are logistic regressions on the shares of the votes, corrected
    where a state was seen often: `prior` is how many problems' worth of sightings the regression counts for. Then
    dynamic programming, once for each price, finds the stopping rule with the best gain for its tokens from each state.

    The gain is counted in agreement with the vote of all samples, times what that agreement is worth on this bank in
    right answers. Whether single states gain right answers hangs on a handful of problems, and a rule fitted to that
    does worse on others. Where the vote of all samples is surely no better than one, nothing is promised to anybody.

    Raises `UsageError` where nothing can be told: fewer than three samples of a problem, or a single problem.
    """
    if table.n < 3 or len(table) < 2:
        raise UsageError(
            f"what votes gain cannot be told from {len(table)} problems with {table.n} samples each: "
            "two problems and three samples are the least"
        )
    told = _Told.of(table, orders(table, repeats, seed))
    lengths = _lengths(table)
    worth = told.worth()
    if worth <= 0:
        tokens = lengths.prompt_tokens + lengths.output_tokens
        return VoteGain(table.n, lengths, {}, ((_short(1 / tokens), float(f"{tokens:.6g}"), 1),))
    return _Programme(lengths, worth * told.agreement(prior), told.moves(prior)).solved()


def fit_coverage(table: Table) -> CoverageGain:
    """How the chance of a right sample differs between problems: the Beta distribution with the mean and variance that
    the table shows, chance in the samples themselves taken off. Raises `UsageError` where every sample is right or
    every one wrong, and where there is one problem only.
    """
    share = table.correct.mean(axis=1)
    mean = float(share.mean())
    if len(table) < 2 or table.n < 2 or not 0 < mean < 1:
        what = f"{len(table)} problems with {table.n} samples each, of which {mean:.0%} are right"
        raise UsageError(f"how requests differ cannot be told from {what}")
    spread = float(share.var(ddof=1))
    noise = float((share * (1 - share)).sum() / (len(table) * (table.n - 1)))
    most = mean * (1 - mean)
    between = min(max(spread - noise, 0.01 * most), 0.99 * most)
    strength = most / between - 1
    return CoverageGain(table.n, _lengths(table), mean * strength, (1 - mean) * strength)


def _lengths(table: Table) -> Lengths:
    if not table.output_tokens.any():
        raise UsageError(f"what samples of {table.model} cost cannot be told: none has a token on record")
    return Lengths(
        round(float(table.prompt_tokens.mean()), 2), round(float(table.output_tokens.mean()), 2), table.max_n
    )


@dataclass(frozen=True)
class _Told:
    """How often the states of the votes were seen, in problems: each of P problems counts 1 at every `drawn`.

    `seen`, `agreed` (with the vote of all samples) are [N + 1, N + 1, N // 2 + 1] by drawn, first and second; `moved`
    has the three moves in a further axis. `gained` [P, 2] is what each problem's votes of 1, 2, ... samples lack beside
    that of all, summed: right answers, and agreement.
    """

    seen: Floats
    agreed: Floats
    moved: Floats
    gained: Floats

    @classmethod
    def of(cls, table: Table, seen_in: Ints) -> _Told:
        n = table.n
        shape = (n + 1, n + 1, n // 2 + 1)
        weight = 1 / len(seen_in)
        seen, agreed, moved = np.zeros(shape), np.zeros(shape), np.zeros((*shape, _MOVES))
        gained = np.zeros((len(table), 2))
        is_right, is_mode = _by_answer(table)
        for requests in requests_of(table, seen_in):
            answers = requests.see(table.answers)
            first, second = top_two(answers)
            leader = leaders(answers)
            voted = leader >= 0
            mode = is_mode[requests.problem, leader] & voted
            good = is_right[requests.problem, leader] & voted
            for column, won in enumerate((good, mode)):
                lacking = (won[-1].astype(np.float64) - won[1:]).sum(axis=0)
                np.add.at(gained[:, column], requests.problem, weight * lacking)
            for drawn in range(n + 1):
                state = (np.full(len(requests), drawn), first[drawn], second[drawn])
                np.add.at(seen, state, weight)
                np.add.at(agreed, state, weight * mode[drawn])
                if drawn < n:
                    up = first[drawn + 1] > first[drawn]
                    follows = second[drawn + 1] > second[drawn]
                    np.add.at(moved, (*state, np.where(up, 0, np.where(follows, 1, 2))), weight)
        return cls(seen, agreed, moved, gained)

    def worth(self) -> float:
        """Right answers gained per agreement gained, between any number of samples and all of them; 0 where that is
        surely none.

        Before looking, agreement is taken to be worth something, anything: with an estimate of w, give or take s, it is
        worth the mean of what is positive of a normal distribution around w with deviation s.
        """
        right, agreement = self.gained.T
        if agreement.sum() <= 0:
            return 0.0
        ratio = float(right.sum() / agreement.sum())
        error = math.sqrt(float(((right - ratio * agreement) ** 2).sum())) / float(agreement.sum())
        if error == 0 or ratio <= -2 * error:
            return max(ratio, 0.0)
        z = ratio / error
        return ratio + error * math.exp(-z * z / 2) / (math.sqrt(math.pi / 2) * math.erfc(-z / math.sqrt(2)))

    def agreement(self, prior: float) -> Floats:
        """The chance, per state, that the leader has the vote of all samples."""
        features, states = _features(self.seen.shape)
        seen, agreed = self.seen[states], self.agreed[states]
        fitted = _logistic(features, agreed, seen)
        chance = np.zeros(self.seen.shape)
        chance[states] = (agreed + prior * fitted) / (seen + prior)
        chance[:, 0, :] = 0.0  # nobody leads
        return chance

    def moves(self, prior: float) -> Floats:
        """The odds, per state, of the three moves. Where the first two have as many votes, either makes a leader."""
        features, states = _features(self.seen.shape)
        moved = self.moved[states]
        seen = moved.sum(axis=1)
        fitted = np.stack([_logistic(features, moved[:, move], seen) for move in range(_MOVES)], axis=1)
        odds = np.zeros(self.moved.shape)
        fitted /= fitted.sum(axis=1, keepdims=True)
        odds[states] = (moved + prior * fitted) / (seen + prior).reshape(-1, 1)
        for tied in range(self.seen.shape[-1]):
            odds[:, tied, tied, 0] += odds[:, tied, tied, 1]
            odds[:, tied, tied, 1] = 0.0
        odds[0, 0, 0] = self.moved[0, 0, 0] / self.moved[0, 0, 0].sum()
        return odds


def _by_answer(table: Table) -> tuple[Bools, Bools]:
    """Which of each problem's answers is right, and which has the most votes of all samples: [P, answers]."""
    width = max(1, int(table.answers.max()) + 1)
    rows = np.broadcast_to(np.arange(len(table))[:, None], table.answers.shape)
    voted = table.answers >= 0
    right = np.zeros((len(table), width), np.bool_)
    counts = np.zeros((len(table), width), np.int64)
    np.logical_or.at(right, (rows[voted], table.answers[voted]), table.correct[voted])
    np.add.at(counts, (rows[voted], table.answers[voted]), 1)
    return right, (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)


def _features(shape: tuple[int, ...]) -> tuple[Floats, tuple[Ints, Ints, Ints]]:
    """The states that votes can have, by drawn (1 or more), first and second, and what a regression sees of them."""
    drawn, first, second = np.indices(shape)
    possible = (drawn > 0) & (second <= first) & (first + second <= drawn)
    states = (drawn[possible], first[possible], second[possible])
    n, a, b = (axis.astype(np.float64) for axis in states)
    log_n = np.log(n)
    columns = [np.ones_like(n), a / n, b / n, (a - b) / np.sqrt(n), log_n, a == b, a / n * log_n, b / n * log_n]
    return np.stack(columns, axis=1), states


def _logistic(features: Floats, hits: Floats, trials: Floats) -> Floats:
    """The chances that a ridge logistic regression fits to weighted counts, by Newton's method."""
    weights = np.zeros(features.shape[1])
    ridge = _RIDGE * np.eye(len(weights))
    chances = np.full(len(features), 0.5)
    for _ in range(25):
        slope = features.T @ (hits - trials * chances) - _RIDGE * weights
        curvature = (features * (trials * chances * (1 - chances))[:, None]).T @ features + ridge
        step = np.clip(np.linalg.solve(curvature, slope), -4, 4)
        weights += step
        chances = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        if np.abs(step).max() < 1e-6:
            break
    return np.asarray(chances, np.float64)


class _Programme:
    """Dynamic programming over the states of the votes, for all prices at once.

    What lies ahead of a state is kept as [first, second, 3, prices]: the chance of a right answer less the price of the
    tokens, the samples, and the requests, all expected. `right` is that chance where it stops, `moves` what comes next.
    """

    def __init__(self, lengths: Lengths, right: Floats, moves: Floats) -> None:
        self._lengths = lengths
        self._right = right
        self._moves = moves
        self._n = right.shape[0] - 1
        self._prices = _PRICES / (lengths.prompt_tokens + lengths.output_tokens)
        self._sizes = tuple(k for k in _BATCHES if k <= max(lengths.max_n, 1))
        self._costs = np.array(
            [k * lengths.output_tokens + lengths.requests(k) * lengths.prompt_tokens for k in _BATCHES]
        )

    def solved(self) -> VoteGain:
        states: dict[Votes, Promise] = {}
        ahead: dict[int, Floats] = {self._n: self._stopped(self._n)}
        for drawn in range(self._n - 1, 0, -1):
            stopped = self._stopped(drawn)
            going, sizes = self._going(drawn, ahead)
            pays = going[:, :, 0] > stopped[:, :, 0] + 1e-12
            ahead[drawn] = np.where(pays[:, :, None], going, stopped)
            states |= self._promises(drawn, going, stopped, sizes, pays)
        going, sizes = self._going(0, ahead)
        spent = self._tokens(going[0, 0])
        curve: list[tuple[float, float, int]] = []
        for price, tokens, k in zip(self._prices, spent, sizes[0, 0], strict=True):
            if not curve or tokens > curve[-1][1] * 1.001 or k != curve[-1][2]:
                curve.append((float(f"{price:.3g}"), float(f"{tokens:.6g}"), int(k)))
        return VoteGain(self._n, self._lengths, dict(sorted(states.items())), tuple(curve))

    def _tokens(self, ahead: Floats) -> Floats:
        spent: Floats = self._lengths.output_tokens * ahead[..., 1, :] + self._lengths.prompt_tokens * ahead[..., 2, :]
        return spent

    def _stopped(self, drawn: int) -> Floats:
        ends = np.zeros((*self._right.shape[1:], 3, len(self._prices)))
        ends[:, :, 0] = self._right[drawn][:, :, None]
        return ends

    def _going(self, drawn: int, ahead: dict[int, Floats]) -> tuple[Floats, Ints]:
        """What lies ahead of drawing the best number of samples, and that number, for each state and price."""
        best = np.full((*self._right.shape[1:], 3, len(self._prices)), -np.inf)
        sizes = np.zeros((*self._right.shape[1:], len(self._prices)), np.int64)
        for k in self._sizes:
            if drawn + k > self._n:
                break
            cost = k * self._lengths.output_tokens + self._lengths.requests(k) * self._lengths.prompt_tokens
            after = ahead[drawn + k]
            for step in range(drawn + k - 1, drawn - 1, -1):
                after = self._before(step, after)
            after[:, :, 0] -= self._prices * cost
            after[:, :, 1] += k
            after[:, :, 2] += self._lengths.requests(k)
            better = after[:, :, 0] > best[:, :, 0] + 1e-12
            best = np.where(better[:, :, None], after, best)
            sizes = np.where(better, k, sizes)
        return best, sizes

    def _before(self, drawn: int, after: Floats) -> Floats:
        """What is expected before a sample from what lies ahead after it."""
        moves = self._moves[drawn][:, :, :, None, None]
        before: Floats = moves[:, :, 2] * after
        before[:-1] += moves[:-1, :, 0] * after[1:]
        before[:, :-1] += moves[:, :-1, 1] * after[:, 1:]
        return before

    def _promises(self, drawn: int, going: Floats, stopped: Floats, sizes: Ints, pays: Bools) -> dict[Votes, Promise]:
        """Of each state in which going on pays at some price: what it gains at the highest such."""
        found: dict[Votes, Promise] = {}
        spent = self._tokens(going)
        for first, second in zip(*np.nonzero(pays.any(axis=2)), strict=True):
            if first + second > drawn or second > first:
                continue
            at = int(pays[first, second].argmax())
            here = going[first, second, :, at]
            gain = float(here[0] + self._prices[at] * spent[first, second, at] - stopped[first, second, 0, at])
            batches: list[tuple[float, int]] = []
            for price, k in zip(self._prices[at:], sizes[first, second, at:], strict=True):
                if batches and batches[-1][1] == k:
                    batches.pop()
                batches.append((float(f"{price:.3g}"), int(k)))
            if math.isfinite(gain) and gain > 0:
                votes = (drawn, int(first), int(second))
                found[votes] = Promise(_short(gain), _short(here[1]), _short(here[2]), tuple(batches))
        return found


def _short(value: float) -> float:
    return float(f"{value:.3g}")
