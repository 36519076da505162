"""How sure the model was of its own words, as a verifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from thinkscale.types import Candidate, Request, Verdict
from thinkscale.verifiers.base import Generate


class ConfidenceVerifier:
    """Scores exp(mean log p) over a reply's tokens: their geometric mean probability, in (0, 1].

    It measures fluency, not truth: a baseline for verifiers that cost something. Candidates without token
    log-probabilities (`Params.top_logprobs` unset, or a server without them) are not judged.
    """

    name = "confidence"

    async def verify(
        self, _request: Request, candidates: Sequence[Candidate], _generate: Generate
    ) -> Sequence[Verdict]:
        return [_confidence(candidate) for candidate in candidates]


def _confidence(candidate: Candidate) -> Verdict:
    if not candidate.tokens:
        return Verdict(None, reason="no token log-probabilities")
    return Verdict(min(1.0, math.exp(fmean(token.logprob for token in candidate.tokens))))
