"""From candidates to one answer. Selection is not verification, and a score is not a vote."""

from __future__ import annotations

from collections.abc import Sequence

from thinkscale.errors import NoAnswer
from thinkscale.types import Candidate, Selection, Verdict


def tally(candidates: Sequence[Candidate], weights: Sequence[float] | None = None) -> dict[str, float]:
    """Total weight per answer, in order of first appearance. Without an answer, or cut, a candidate does not vote."""
    votes: dict[str, float] = {}
    for candidate, weight in zip(candidates, weights or [1.0] * len(candidates), strict=True):
        if candidate.answer is not None and candidate.finish_reason != "cut":
            votes[candidate.answer] = votes.get(candidate.answer, 0.0) + weight
    return votes


def majority(
    candidates: Sequence[Candidate], weights: Sequence[float] | None = None, *, stop_reason: str = "complete"
) -> Selection:
    """argmax_a sum_i w_i 1[a_i = a]; ties go to the answer seen first, so two votes equal one.

    The confidence is the winner's share of the votes; one vote alone tells nothing, so it is unknown then. Where
    nobody votes, the first finished candidate stands, with confidence unknown.
    """
    votes = tally(candidates, weights)
    total = sum(votes.values())
    voters = sum(tally(candidates).values())
    if total <= 0:
        return Selection(_first(candidates), None, stop_reason)
    winner = max(votes, key=lambda answer: votes[answer])
    candidate = _first([one for one in candidates if one.answer == winner and one.finish_reason != "cut"])
    return Selection(candidate, votes[winner] / total if voters > 1 else None, stop_reason)


def likelihood_weight(nll: float) -> float:
    """The weight of a vote where ties are to go to the likelier answer: 1, less what only a tie can notice.

    `nll` is the reply's mean negative log-likelihood per token, in nats. Weights are whole multiples of 2^-36, so that
    sums of thousands are exact.
    """
    return 1.0 - min(round(nll * 2**16), 2**20) * 2.0**-36


def best(candidates: Sequence[Candidate], verdicts: Sequence[Verdict], *, stop_reason: str = "complete") -> Selection:
    """argmax_i s_i over the candidates that could be judged; ties go to the first. If none could, a plain vote."""
    judged = [(candidate, v.score) for candidate, v in zip(candidates, verdicts, strict=True) if v.score is not None]
    if not judged:
        return majority(candidates, stop_reason=stop_reason)
    candidate, score = max(judged, key=lambda pair: pair[1])
    return Selection(candidate, score, stop_reason)


def _first(candidates: Sequence[Candidate]) -> Candidate:
    if not candidates:
        raise NoAnswer("failed", "there is no candidate to choose from")
    return next((candidate for candidate in candidates if candidate.finished), candidates[0])
