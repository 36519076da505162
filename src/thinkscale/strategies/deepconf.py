"""DeepConf: let the model's own token confidence choose which traces vote, and which are cut early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from thinkscale.errors import UsageError
from thinkscale.models.gather import Choice
from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import Schedule, at_least
from thinkscale.types import Candidate, Params, Selection, Token

TOP_K = 20
Score = Literal["lowest", "bottom10", "tail", "mean"]


@dataclass(frozen=True)
class DeepConfOffline:
    """Vote among the most confident traces, weighted by confidence (Fu et al. 2025, offline).

    Token confidence C_t = -mean log p over the top k alternatives; a group is a sliding window of them; a trace scores
    its lowest group, the mean of its lowest 10% of groups, its tail group, or its overall mean. The top `eta` percent
    of traces vote. `window=0` scales the paper's 2048 tokens (a tenth of its traces) to the traces at hand.
    """

    n: int = 16
    eta: float = 50.0
    score: Score = "bottom10"
    window: int = 0

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("window", self.window, 0)
        _check_percent(self.eta)

    async def __call__(self, session: Session) -> Selection:
        candidates = await session.sample(self.n, params=_with_logprobs(session))
        window = self.window or scaled_window(candidates)
        return confident_vote(candidates, window, self.eta, self.score)


@dataclass(frozen=True)
class DeepConfOnline:
    """Cut a trace as soon as its confidence falls below what warm-up traces showed, stop at consensus (Fu et al. 2025).

    `warmup` traces run to their end; the threshold is the (100 - eta) percentile of their lowest groups; later traces
    are cut when a group falls below it; after each batch, stop when the leader holds `consensus` of the weighted vote.
    Deviations: windows scale to short traces, and the consensus stop, which the published code leaves out, is here.
    """

    n: int = 64
    warmup: int = 16
    eta: float = 10.0
    consensus: float = 0.95
    window: int = 0
    batches: Schedule = Schedule((8,))

    def __post_init__(self) -> None:
        at_least("warmup", self.warmup, 2)
        at_least("n", self.n, self.warmup)
        at_least("window", self.window, 0)
        _check_percent(self.eta)

    async def __call__(self, session: Session) -> Selection:
        params = _with_logprobs(session)
        candidates = await session.sample(self.warmup, params=params)
        window = self.window or scaled_window(candidates)
        lowest = [min(group_confidences(candidate.tokens, window)) for candidate in candidates if candidate.tokens]
        threshold = percentile(lowest, 100 - self.eta) if lowest else -math.inf
        kept = [one for one in candidates if not one.tokens or min(group_confidences(one.tokens, window)) >= threshold]
        for batch in self.batches.batches(self.n - self.warmup):
            weights = [trace_confidence(candidate.tokens, window, "lowest") for candidate in kept]
            leader = selection.majority(kept or candidates, weights if kept else None)
            if kept and leader.confidence is not None and leader.confidence >= self.consensus:
                return replace(leader, stop_reason="consensus")
            session.offer(leader.candidate, leader.confidence)
            if session.ended:
                break
            drawn = await session.sample(batch, params=params, watch=lambda one: falls_below(one, window, threshold))
            candidates += drawn
            kept += [candidate for candidate in drawn if candidate.finish_reason != "cut"]
        weights = [trace_confidence(candidate.tokens, window, "lowest") for candidate in kept]
        return selection.majority(kept, weights) if kept else selection.majority(candidates)


def confident_vote(candidates: Sequence[Candidate], window: int, eta: float, score: Score) -> Selection:
    """Keep the top `eta` percent by trace confidence and vote with confidence as weight; ties keep index order."""
    voters = [candidate for candidate in candidates if candidate.answer is not None]
    if not voters:
        return selection.majority(candidates)
    scored = sorted(voters, key=lambda one: -trace_confidence(one.tokens, window, score))
    kept = sorted(scored[: max(1, round(len(scored) * eta / 100))], key=lambda one: one.path)
    return selection.majority(kept, [trace_confidence(one.tokens, window, score) for one in kept])


def group_confidences(tokens: Sequence[Token], window: int) -> list[float]:
    """Sliding means of token confidence, one per full window; a trace shorter than the window is one group."""
    values = [_confidence(token) for token in tokens]
    size = min(window, len(values))
    total = sum(values[:size])
    groups = [total / size]
    for leaving, entering in zip(values, values[size:], strict=False):
        total += entering - leaving
        groups.append(total / size)
    return groups


def trace_confidence(tokens: Sequence[Token], window: int, score: Score) -> float:
    """One number per trace, higher is more confident; 0 for an empty trace."""
    if not tokens:
        return 0.0
    if score == "mean":
        return sum(map(_confidence, tokens)) / len(tokens)
    if score == "tail":
        tail = tokens[-window:]
        return sum(map(_confidence, tail)) / len(tail)
    groups = sorted(group_confidences(tokens, window))
    if score == "lowest":
        return groups[0]
    bottom = groups[: max(1, len(groups) // 10)]
    return sum(bottom) / len(bottom)


def falls_below(choice: Choice, window: int, threshold: float) -> bool:
    """Whether the latest full group of a growing trace is less confident than the threshold."""
    if len(choice.tokens) < window:
        return False
    return sum(map(_confidence, choice.tokens[-window:])) / window < threshold


def scaled_window(candidates: Sequence[Candidate]) -> int:
    """A tenth of the median trace, between 8 and the paper's 2048 tokens."""
    lengths = [len(candidate.tokens) for candidate in candidates if candidate.tokens]
    return min(2048, max(8, round(median(lengths) / 10))) if lengths else 8


def percentile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics; `q` in [0, 100]."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _confidence(token: Token) -> float:
    if token.confidence is None:
        raise UsageError("deepconf needs the likeliest alternatives of each token, and this server sends none")
    return token.confidence


def _check_percent(eta: float) -> None:
    if not 0 < eta <= 100:
        raise ValueError("eta must lie in (0, 100]")


def _with_logprobs(session: Session) -> Params:
    session.need_logprobs()
    return replace(session.request.params, top_logprobs=TOP_K)
