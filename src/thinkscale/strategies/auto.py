"""Doing what a controller says, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.vote import AdaptiveConsistency
from thinkscale.types import Action, Candidate, Controller, Params, Seen, Selection, Verdict

NLL_STEP = 0.05


@dataclass(frozen=True)
class Auto:
    """Spend what the fitted policy finds worth spending; without one, adaptive consistency over at most `n` samples.

    The controller looks at what was seen (votes, confidence, length, what is left of the budget) and says what comes
    next: more samples, verification, a larger model, another strategy, or the end. One that may verify names `score`
    among its features, one that may escalate `larger`, and one by which ties go to the likelier answer `likelihood`.
    """

    n: int = 16

    async def __call__(self, session: Session) -> Selection:
        controller = session.controller
        if controller is None:
            return await AdaptiveConsistency(n=self.n)(session)
        params = _params(session, controller)
        candidates: list[Candidate] = []
        verdicts: list[Verdict] | None = None
        while not session.ended:
            action = await controller.act(await seen(session, candidates, verdicts, controller.features))
            session.decided(action)
            match action.kind:
                case "draw":
                    drawn = await session.sample(action.k, params=params)
                    candidates += drawn
                    if verdicts is not None:
                        verdicts += await session.verify(drawn)
                case "verify" if verdicts is None:
                    verdicts = await session.verify(candidates)
                case "verify":  # samples are judged as they come by now, so it would be asked for forever
                    break
                case "escalate":
                    parent = selection.majority(candidates).candidate if candidates else session.root
                    larger = await session.escalate(action.k, parent=parent)
                    if larger:
                        return _decided(selection.majority(larger), action)
                    break
                case "run":
                    from thinkscale.strategies import parse  # it knows this strategy, too

                    session.controller = None  # should it be this one again, it has its default
                    return await parse(action.strategy)(session)
                case "stop":
                    return _decided(_leader(candidates, verdicts, controller.features), action)
            if candidates:
                leader = _leader(candidates, verdicts, controller.features)
                session.offer(leader.candidate, leader.confidence)
        return _leader(candidates, verdicts, controller.features)


async def seen(
    session: Session,
    candidates: Sequence[Candidate],
    verdicts: Sequence[Verdict] | None,
    features: frozenset[str],
) -> Seen:
    """What a controller may look at, from the samples so far, in order. A prompt is counted only on demand."""
    tally = selection.tally(candidates)
    weighed = selection.tally(candidates, _likelihoods(candidates, features))
    leader = max(weighed, key=lambda answer: weighed[answer], default=None)
    lls = [(candidate, _nll(candidate)) for candidate in candidates]
    judged = [
        verdict.score
        for candidate, verdict in zip(candidates, verdicts or (), strict=False)
        if candidate.answer == leader and leader is not None and verdict.score is not None
    ]
    return Seen(
        drawn=len(candidates),
        votes=tuple(sorted((int(count) for count in tally.values()), reverse=True)),
        unanswered=len(candidates) - int(sum(tally.values())),
        capped=sum(candidate.finish_reason == "length" for candidate in candidates),
        output_tokens=sum(candidate.output_tokens for candidate in candidates),
        prompt_tokens=await session.prompt_tokens() if "prompt_tokens" in features else 0,
        nll=rounded_nll([nll for _, nll in lls]),
        leader_nll=rounded_nll([nll for candidate, nll in lls if leader is not None and candidate.answer == leader]),
        verified=verdicts is not None,
        score=fsum(judged) / len(judged) if judged else None,
        best=max((verdict.score for verdict in verdicts or () if verdict.score is not None), default=None),
        affordable=await session.affordable(),
    )


def rounded_nll(values: Sequence[float | None]) -> float | None:
    """The mean of samples' negative log-likelihoods per token, to 0.05 nats; `None` where any is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return round(round(fsum(known) / len(known) / NLL_STEP) * NLL_STEP, 2)


def _nll(candidate: Candidate) -> float | None:
    tokens = candidate.tokens
    return -fsum(token.logprob for token in tokens) / len(tokens) if tokens else None


def _params(session: Session, controller: Controller) -> Params | None:
    """How to sample for a controller. Raises `UsageError` where what it may need is missing, before anything is spent.

    Log-probabilities are asked for where it looks at them, and the server gives them.
    """
    params = session.request.params
    if "score" in controller.features:
        session.need_verifier()
    if "larger" in controller.features:
        session.need_larger()
    if (
        controller.features & {"nll", "leader_nll", "likelihood"}
        and session.gives_logprobs
        and params.top_logprobs is None
    ):
        return replace(params, top_logprobs=0)
    return None


def _likelihoods(candidates: Sequence[Candidate], features: frozenset[str]) -> list[float] | None:
    """Weights with which ties go to the likelier answer, for a controller that wants that; `None` for plain votes."""
    lls = [_nll(candidate) for candidate in candidates] if "likelihood" in features else [None]
    known = [selection.likelihood_weight(nll) for nll in lls if nll is not None]
    return known if len(known) == len(candidates) else None


def _leader(candidates: Sequence[Candidate], verdicts: Sequence[Verdict] | None, features: frozenset[str]) -> Selection:
    """The vote, weighted by score once there are any."""
    if verdicts is None or all(verdict.score is None for verdict in verdicts):
        return selection.majority(candidates, _likelihoods(candidates, features))
    return selection.majority(candidates, [verdict.score or 0.0 for verdict in verdicts])


def _decided(leader: Selection, action: Action) -> Selection:
    confidence = leader.confidence if action.confidence is None else action.confidence
    return Selection(leader.candidate, confidence, action.reason)
