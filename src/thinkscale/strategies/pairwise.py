"""A tournament of answers: the model compares its own replies two at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log2
from statistics import fmean
from typing import Literal

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import at_least
from thinkscale.types import Candidate, Params, Prompt, Selection
from thinkscale.verifiers.answers import without_thinking
from thinkscale.verifiers.base import together
from thinkscale.verifiers.judge import question_of

Format = Literal["knockout", "swiss"]

_CASE = """\
Here are a question and two replies to it.

<question>
{question}
</question>

<reply-a>
{a}
</reply-a>

<reply-b>
{b}
</reply-b>

Which reply is better? A right final answer counts most, not length or style. Compare them briefly, then finish with \
one line 'Better: A' or 'Better: B'."""
_LEAD = "\nComparison:"
_BETTER = re.compile(r"(?i:\bbetter[*_\s]*(?::|is\b)[\W_]*(?:reply[\W_]*)?)([AB])\b|\A\W*([AB])\W*\Z")
_BYE = -1


@dataclass(slots=True, eq=False)
class _Entrant:
    """One distinct answer in the tournament. `seed` is its rank in the vote, 0 for the most frequent answer.

    `shares` has the share of comparisons won, for each match that was decided by comparisons or drawn; `met` the seeds
    of those it has met.
    """

    candidate: Candidate
    seed: int
    points: float = 0.0
    shares: list[float] = field(default_factory=list)
    met: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Pairwise:
    """Sample n, let the model compare the answers: a knockout (Chen et al. 2024) or a Swiss tournament.

    A match asks `comparisons` times in each order, so that a taste for the first or the second place cancels; the share
    of wins, averaged over both orders, decides. `knockout`: the loser is out, so m answers take m-1 matches. `swiss`:
    ceil(log2 m) rounds between answers with about equal points that have not met; the most points win (1 for a win, 1/2
    for a draw or a round without an opponent). `compare_tokens` bounds the output of one comparison, which is charged
    as verification.

    Deviations: equal answers are not compared; each distinct answer enters once, with its first finished reply. The
    vote ranks them: the top meets the bottom in a knockout, and where comparisons decide nothing (a draw, replies that
    cannot be read in one of the orders, a budget that ended) the vote does, and then the answer seen first. The
    confidence is the share of comparisons that the winner won, averaged over its matches; `None` where none could be
    read.
    """

    n: int = 16
    format: Format = "knockout"
    comparisons: int = 1
    compare_tokens: int = 256

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("comparisons", self.comparisons, 1)
        at_least("compare_tokens", self.compare_tokens, 1)

    async def __call__(self, session: Session) -> Selection:
        candidates = await session.sample(self.n)
        vote = selection.majority(candidates)
        entrants = _seeded(candidates)
        if len(entrants) < 2:
            return vote
        session.offer(vote.candidate, vote.confidence)
        play = self._knockout if self.format == "knockout" else self._swiss
        return _selected(await play(session, entrants))

    async def _knockout(self, session: Session, alive: list[_Entrant]) -> _Entrant:
        while len(alive) > 1 and not session.ended:
            left_over, playing = alive[: len(alive) % 2], alive[len(alive) % 2 :]
            pairs = [(playing[place], playing[-1 - place]) for place in range(len(playing) // 2)]
            shares = await self._matches(session, pairs)
            winners = [a if share >= 0.5 else b for (a, b), share in zip(pairs, shares, strict=True)]
            alive = sorted(left_over + winners, key=lambda one: one.seed)
            _offer(session, alive[0])
        return alive[0]

    async def _swiss(self, session: Session, entrants: list[_Entrant]) -> _Entrant:
        ranked = entrants
        for _ in range(ceil(log2(len(entrants)))):
            if session.ended:
                break
            drawn = pairing([one.seed for one in ranked], [one.met for one in entrants])
            pairs = [(entrants[a], entrants[b]) for a, b in drawn if b != _BYE]
            for (a, b), share in zip(pairs, await self._matches(session, pairs), strict=True):
                a.points += _points(share)
                b.points += _points(1 - share)
            for idle in (entrants[a] for a, b in drawn if b == _BYE):
                idle.points += 0.5
                idle.met.add(_BYE)
            ranked = sorted(entrants, key=lambda one: -one.points)  # stable: equal points stay in the vote's order
            _offer(session, ranked[0])
        return ranked[0]

    async def _matches(self, session: Session, pairs: Sequence[tuple[_Entrant, _Entrant]]) -> list[float]:
        """For each pair the share of comparisons that the first one won; 1/2 where they decided nothing."""
        return await together([self._match(session, a, b) for a, b in pairs])

    async def _match(self, session: Session, a: _Entrant, b: _Entrant) -> float:
        a.met.add(b.seed)
        b.met.add(a.seed)
        forth, back = await together([self._read(session, a, b), self._read(session, b, a)])
        if not forth or not back:
            return 0.5
        lead = forth.count("A") * len(back) - back.count("A") * len(forth)  # whole numbers: a draw is exactly 1/2
        share = 0.5 + lead / (2 * len(forth) * len(back))
        a.shares.append(share)
        b.shares.append(1 - share)
        return share

    async def _read(self, session: Session, first: _Entrant, second: _Entrant) -> list[str]:
        """Which was preferred, `A` (the first) or `B`, for each comparison that could be read."""
        prompt = comparison_of(session.request.prompt, first.candidate, second.candidate)
        params = Params(temperature=0.0 if self.comparisons == 1 else 0.8, max_tokens=self.compare_tokens)
        replies = await session.ask(prompt, params, self.comparisons)
        return [letter for letter in (preferred(reply.text) for reply in replies) if letter]


def comparison_of(prompt: Prompt, a: Candidate, b: Candidate) -> Prompt:
    """A request to compare two replies; on the completions route where the request itself takes it."""
    case = _CASE.format(question=question_of(prompt), a=_shown(a), b=_shown(b))
    return Prompt.of(case) if prompt.text is None else Prompt(text=case + _LEAD)


def preferred(text: str) -> str | None:
    """`A` or `B`, by the last "Better: ..." of a comparison or a bare letter; `None` if it names neither."""
    found = _BETTER.findall(without_thinking(text))
    return (found[-1][0] or found[-1][1]) if found else None


def pairing(ranked: Sequence[int], met: Sequence[set[int]]) -> list[tuple[int, int]]:
    """A round of a Swiss tournament: each seed, best first, with the next that it has not met; `met` is by seed.

    Of an odd number one is paired with -1, the lowest that has not been before. In the first ceil(log2 m) rounds there
    is always such a pairing (Dirac: what is left to be met is dense enough).
    """
    found = _paired([*ranked, _BYE] if len(ranked) % 2 else list(ranked), met)
    if found is None:
        raise ValueError("there is no round left in which nobody meets again")
    return found


def _paired(ranked: list[int], met: Sequence[set[int]]) -> list[tuple[int, int]] | None:
    if not ranked:
        return []
    first, *others = ranked
    for other in others:
        if other not in met[first]:
            rest = _paired([one for one in others if one != other], met)
            if rest is not None:
                return [(first, other), *rest]
    return None


def _seeded(candidates: Sequence[Candidate]) -> list[_Entrant]:
    """The distinct answers, the most frequent first, then the first seen."""
    votes = selection.tally(candidates)
    answers = sorted(votes, key=lambda answer: -votes[answer])
    return [
        _Entrant(selection.majority([one for one in candidates if one.answer == answer]).candidate, seed)
        for seed, answer in enumerate(answers)
    ]


def _points(share: float) -> float:
    return 0.5 if share == 0.5 else float(share > 0.5)


def _selected(winner: _Entrant) -> Selection:
    return Selection(winner.candidate, fmean(winner.shares) if winner.shares else None)


def _offer(session: Session, leader: _Entrant) -> None:
    session.offer(leader.candidate, _selected(leader).confidence)


def _shown(candidate: Candidate) -> str:
    return candidate.text or candidate.answer or ""  # a tool call's answer is the call, written out
