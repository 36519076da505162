"""Answers made out of answers: a population of replies that is rewritten round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.base import at_least
from thinkscale.types import Candidate, Message, Prompt, Selection, derive_seed
from thinkscale.verifiers.base import together

_ONE = "Here is an attempt at {problem}, which may be wrong."
_SEVERAL = "Here are {k} attempts at {problem}. Some or all of them may be wrong."
_IMPROVE = (
    "Check each step, keep what is right, correct what is wrong, and write one improved solution that is complete in "
    "itself. Finish in the form that was asked for."
)


@dataclass(frozen=True)
class RecursiveAggregation:
    """RSA, recursive self-aggregation (Venkatraman et al. 2025): P_{t+1}[i] ~ model(question, k members of P_t).

    A population of `n` samples is replaced `rounds` times: each slot of the next one is a reply to the question with
    `k` members in view, drawn without replacement. The last population votes, as each does on the way. It costs
    n * (rounds + 1) samples, and prompts that hold k replies. `k=1` revises single members.

    Deviations: a slot that fails leaves the population smaller, and a round of which nothing came leaves it as it was.
    A round cut short by the end of the budget votes together with the population before it. Members show their text,
    not the thinking that a server keeps apart.
    """

    n: int = 16
    k: int = 4
    rounds: int = 2

    def __post_init__(self) -> None:
        at_least("n", self.n, 1)
        at_least("k", self.k, 1)
        at_least("rounds", self.rounds, 0)

    async def __call__(self, session: Session) -> Selection:
        population = await session.sample(self.n)
        for round_ in range(self.rounds):
            leader = selection.majority(population)
            session.offer(leader.candidate, leader.confidence)
            grown = await self._next(session, population, round_)
            if session.ended and len(grown) < self.n:
                return selection.majority([*population, *grown])
            population = grown or population
        return selection.majority(population)

    async def _next(self, session: Session, population: list[Candidate], round_: int) -> list[Candidate]:
        rng = Random(derive_seed(session.request.seed, ("rsa", round_)))
        groups = [rng.sample(population, min(self.k, len(population))) for _ in range(self.n)]
        prompts = [aggregation_of(session.request.prompt, group) for group in groups]
        slots = await together([session.sample(1, prompt=prompt) for prompt in prompts])
        return [candidate for slot in slots for candidate in slot]


def aggregation_of(prompt: Prompt, members: Sequence[Candidate]) -> Prompt:
    """The request with its attempts in view, and a call to write a better one.

    Raw text has them before it, for it may end in words that begin the reply ("Answer:").
    """
    problem = "this" if prompt.text is None else "the problem at the end"
    head = (_ONE if len(members) == 1 else _SEVERAL).format(k=len(members), problem=problem)
    attempts = [f"Attempt {place}:\n{_shown(member)}" for place, member in enumerate(members, 1)]
    if prompt.text is not None:
        return replace(prompt, text="\n\n".join([head, *attempts, _IMPROVE, prompt.text]))
    return replace(prompt, messages=_with_words(prompt.messages, "\n\n".join([head, *attempts, _IMPROVE])))


def _with_words(messages: tuple[Message, ...], words: str) -> tuple[Message, ...]:
    """The conversation with words at the end of the user's turn: many templates refuse two turns of one role."""
    *before, last = messages
    if last.get("role") != "user":
        return (*messages, {"role": "user", "content": words})
    content = last.get("content")
    whole = f"{content}\n\n{words}" if isinstance(content, str) else [*(content or ()), {"type": "text", "text": words}]
    return (*before, {**last, "content": whole})


def _shown(member: Candidate) -> str:
    return member.text or member.answer or "(no reply)"  # a tool call's answer is the call, written out
