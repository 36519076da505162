"""Check the steps of whole replies, and write anew from the first that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thinkscale.errors import UsageError
from thinkscale.session import Session, as_written
from thinkscale.steps import Boundary
from thinkscale.strategies.base import at_least
from thinkscale.strategies.search.tree import Node, chosen
from thinkscale.types import Candidate, Selection, Verdict


@dataclass(frozen=True)
class CheckAndCorrect:
    """Step check and correct: cut each reply before its first wrong step, and go on from there without that step.

    All `n` replies are drawn and checked at once. A step is wrong where its score is below `threshold`. From what
    stands before it `tries` other steps are drawn; those with the failed step's words are left out, and the best-scored
    one is written to its end. This is done up to `rounds` times for each reply. Then the replies vote with their
    scores; a corrected one takes the place of the one it came from.
    """

    n: int = 4
    rounds: int = 3
    tries: int = 2
    threshold: float = 0.5
    step: Boundary = Boundary()

    def __post_init__(self) -> None:
        for field, least in (("n", 1), ("rounds", 0), ("tries", 1)):
            at_least(field, getattr(self, field), least)

    async def __call__(self, session: Session) -> Selection:
        session.need_continuation()
        session.need_verifier()
        drawn = await session.sample(self.n)
        boundary = self.step.found_in(drawn[0].text if drawn else "")
        start = session.root.text
        replies = [stepwise(reply, boundary, start) for reply in drawn]
        verdicts = await session.verify(replies)
        if any(verdict.score is not None and not verdict.steps for verdict in verdicts):
            raise UsageError("check-and-correct needs a verifier that judges steps, such as arithmetic")
        failed: list[set[str]] = [set() for _ in replies]
        for _ in range(self.rounds):
            if replies:
                leader = self._vote(replies, verdicts)
                session.offer(leader.candidate, leader.confidence)
            wrong = {
                place: first for place in range(len(replies)) if (first := self._wrong(verdicts[place])) is not None
            }
            if session.ended or not wrong:
                break
            for place, first in wrong.items():
                failed[place].add(replies[place].steps[first].strip())
            starts = {place: cut(replies[place], first, boundary, start) for place, first in wrong.items()}
            mended = await self._mend(session, starts, failed, boundary)
            session.prune([replies[place] for place in mended], "wrong step")
            checked = await session.verify(list(mended.values()))
            for (place, reply), verdict in zip(mended.items(), checked, strict=True):
                replies[place], verdicts[place] = reply, verdict
        return self._vote(replies, verdicts)

    async def _mend(
        self, session: Session, starts: Mapping[int, Candidate], failed: Sequence[set[str]], boundary: Boundary
    ) -> dict[int, Candidate]:
        """A new end for each beginning that has another way to go on."""
        steps = await session.extend(list(starts.values()), self.tries, step=boundary)
        judged = list(zip(steps, await session.verify(steps), strict=True))
        taken: dict[int, Candidate] = {}
        for place, start in starts.items():
            others = [
                (self.threshold if verdict.score is None else verdict.score, step)
                for step, verdict in judged
                if step.path[:-1] == start.path
                and len(step.steps) > len(start.steps)
                and step.steps[-1].strip() not in {"", *failed[place]}
            ]
            if others:
                taken[place] = max(others, key=lambda pair: pair[0])[1]
        growing = {place: step for place, step in taken.items() if step.finish_reason == "step"}
        ends = {end.path[:-1]: end for end in await session.extend(list(growing.values()))}
        whole = {place: ends.get(step.path) if place in growing else step for place, step in taken.items()}
        return {
            place: replace(end, steps=(*taken[place].steps, *boundary.split(end.text[len(taken[place].text) :])))
            for place, end in whole.items()
            if end is not None
        }

    def _wrong(self, verdict: Verdict) -> int | None:
        """The first wrong step."""
        wrong = (place for place, score in enumerate(verdict.steps) if score is not None and score < self.threshold)
        return next(wrong, None)

    def _vote(self, replies: Sequence[Candidate], verdicts: Sequence[Verdict]) -> Selection:
        return chosen(
            [Node(reply, verdict.score) for reply, verdict in zip(replies, verdicts, strict=True)], "weighted"
        )


def stepwise(reply: Candidate, boundary: Boundary, start: str) -> Candidate:
    """A whole reply in steps, its thinking among them; the first holds the given `start` of the reply."""
    text = as_written(reply)
    steps = boundary.split(text[len(start) :] if text.startswith(start) else text)
    return replace(reply, text=text, reasoning="", steps=(start + steps[0], *steps[1:]) if steps else ())


def cut(reply: Candidate, first: int, boundary: Boundary, start: str) -> Candidate:
    """The reply before its step number `first`, ready for another such step; it has about its share of the tokens."""
    steps = reply.steps[:first]
    text = "".join(steps) or start
    written = round((reply.prefix_tokens + reply.output_tokens) * len(text) / max(len(reply.text), 1))
    return replace(
        reply, text=text, steps=steps, tokens=(), output_tokens=written, prefix_tokens=0,
        finish_reason="step", stop_string=boundary.stop(text) if steps else None,
    )  # fmt: skip
