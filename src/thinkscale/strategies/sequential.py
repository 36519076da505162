"""More compute in sequence: revise the answer, or think longer about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import at_least
from thinkscale.types import Candidate, Prompt, Selection, Verdict

_REVISE = (
    "Check your answer step by step. {feedback}If you find a mistake, correct it; if not, confirm the answer. "
    "Finish in the form that was asked for."
)


@dataclass(frozen=True)
class Refine:
    """Revise the answer with the previous attempt in view (Madaan et al. 2023; revisions in Snell et al. 2024).

    With a verifier, its reason goes into the next request, and a revision replaces the incumbent only where it scores
    higher; a pass ends the run. Without one, the latest revision stands and two equal answers in a row end it.
    """

    rounds: int = 3
    verify: bool = False

    def __post_init__(self) -> None:
        at_least("rounds", self.rounds, 1)

    async def __call__(self, session: Session) -> Selection:
        if self.verify:
            session.need_verifier()
        attempts = await session.sample(1)
        incumbent = selection.majority(attempts).candidate
        verdict = await self._judge(session, incumbent)
        for _ in range(self.rounds):
            if verdict.passed:
                return Selection(incumbent, verdict.score, "verified")
            session.offer(incumbent, verdict.score)
            revisions = await session.sample(1, prompt=revision_of(session.request.prompt, incumbent, verdict.reason))
            if not revisions:
                break
            revision = revisions[0]
            if not self.verify:
                converged = revision.answer is not None and revision.answer == incumbent.answer
                incumbent = revision
                if converged:
                    return Selection(incumbent, None, "converged")
                continue
            judged = await self._judge(session, revision)
            if (judged.score or 0.0) > (verdict.score or 0.0) or judged.passed:
                incumbent, verdict = revision, judged
        return Selection(incumbent, verdict.score, "verified" if verdict.passed else "complete")

    async def _judge(self, session: Session, candidate: Candidate) -> Verdict:
        return (await session.verify([candidate]))[0] if self.verify else Verdict(None)


def revision_of(prompt: Prompt, attempt: Candidate, reason: str) -> Prompt:
    """The request, the attempt, and a call to check it."""
    ask = _REVISE.format(feedback=f"A check of it says: {reason}. " if reason else "")
    if prompt.text is not None:
        return replace(prompt, text=f"{prompt.text}{attempt.text}\n\n{ask}\n")
    return replace(prompt, messages=(*prompt.messages, attempt.message, {"role": "user", "content": ask}))


@dataclass(frozen=True)
class BudgetForcing:
    """Make the model think longer by appending "Wait", and end by force at the cap (s1, Muennighoff et al. 2025).

    Each of `waits` times, the reply is continued after "Wait" where the model would have ended; all of it stays within
    the request's `max_tokens`. If the cap cuts it or it names no answer, `end` is appended and a short answer drawn.
    `thinking_end` is the model's end of thinking tag (`</think>`): set, thinking stops before it and the answer follows
    it. Deviation: for models without such a tag the whole reply counts as thinking.
    """

    waits: int = 1
    thinking_end: str = ""
    end: str = "\n\nFinal answer:"
    answer_tokens: int = 64

    def __post_init__(self) -> None:
        at_least("waits", self.waits, 0)
        at_least("answer_tokens", self.answer_tokens, 1)

    async def __call__(self, session: Session) -> Selection:
        params = session.request.params
        thinking = replace(params, stop=(*params.stop, self.thinking_end)) if self.thinking_end else params
        session.need_continuation()
        reply = selection.majority(await session.sample(1, params=thinking)).candidate
        used = 0
        for _ in range(self.waits):
            used += reply.output_tokens
            if reply.finish_reason == "length" or used >= params.max_tokens:
                break
            session.offer(reply)
            thinking = replace(thinking, max_tokens=params.max_tokens - used)
            longer = await session.extend([reply], suffix="\nWait", params=thinking)
            if not longer:
                break
            reply = longer[0]
        if self.thinking_end:
            answered = await session.extend([reply], suffix=self.thinking_end, params=params)
            reply = (answered or [reply])[0]
        if not reply.finished or reply.answer is None:
            session.offer(reply)
            short = replace(params, max_tokens=min(self.answer_tokens, params.max_tokens))
            answered = await session.extend([reply], suffix=self.end, params=short)
            reply = (answered or [reply])[0]
        return Selection(reply)
