"""From a journal's rows to a bank's samples: their answers, whether these are right, and what a verifier says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from thinkscale.accounting import Ledger
from thinkscale.banks import BankSample
from thinkscale.engine import Engine, unread
from thinkscale.session import Session, Through
from thinkscale.tasks.base import Problem
from thinkscale.tasks.grading import grade
from thinkscale.trace import Event, Trace
from thinkscale.types import Candidate, Prompt, Request, Token
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.code import passes_tests
from thinkscale.verifiers.equivalence import Answers

Rows = Mapping[int, Mapping[str, Any]]
"""What the journal holds of one problem, by the sample's index."""


async def read_samples(
    problem: Problem, model: str, rows: Rows, answers: Answers, *, held: int, longest: int
) -> list[BankSample]:
    """The samples from the `held`-th up to the first that is missing.

    Those behind it are left out, and not renumbered: the replies that were quick to finish would be too many among
    them, and the seeds of the later numbers would be drawn twice. `longest` is the cap on output tokens.
    """
    prompt_tokens, lengths = _prompt_tokens(rows), _output_tokens(rows, longest)
    samples: list[BankSample] = []
    while (place := held + len(samples)) in rows:
        row = rows[place]
        tokens = [Token(text, logprob, confidence) for text, logprob, confidence, _ in row["tokens"]]
        reply = Candidate(
            (place,),
            problem.prompt,
            problem.prompt.prefix + row["text"],
            row["reasoning"],
            tuple(row["tool_calls"]),
            finish_reason=row["finish_reason"] or "cut",
        )
        confidences = [token.confidence for token in tokens if token.confidence is not None]
        samples.append(
            BankSample(
                problem.id,
                model,
                place,
                answer=await answers.canonical(reply),
                text=reply.text,
                reasoning=reply.reasoning,
                finish_reason=row["finish_reason"] or "cut",
                stop_string=row.get("stop_string"),
                prompt_tokens=prompt_tokens,
                output_tokens=lengths[place],
                seconds=row.get("seconds"),
                logprobs=tuple(token.logprob for token in tokens),
                confidences=tuple(confidences) if len(confidences) == len(tokens) else (),
            )
        )
    return samples


def _prompt_tokens(rows: Rows) -> int | None:
    """The prompt's length: what one request was billed for it."""
    requests = sum(row["usage"]["requests"] for row in rows.values())
    billed = sum(row["usage"]["prompt_tokens"] for row in rows.values())
    return round(billed / requests) if requests else None


def _output_tokens(rows: Rows, longest: int) -> dict[int, int]:
    """Each sample's output tokens, which add up to the bill.

    Of samples that travelled together, one carries in the journal what the request was billed for beyond the tokens
    that were seen. As a rule these are the tokens that end a reply: so those that ended by themselves share it.
    """
    billed = {place: int(row["usage"]["output_tokens"]) for place, row in rows.items()}
    if all(row["usage"]["requests"] for row in rows.values()):
        return billed  # each travelled alone
    lengths = {place: int(row["counted_tokens"]) for place, row in rows.items()}
    unseen = sum(billed.values()) - sum(lengths.values())
    ended = [place for place, row in rows.items() if row["finish_reason"] != "length"] or list(rows)
    for number, place in enumerate(ended):
        share = unseen // len(ended) + (number < unseen % len(ended))
        lengths[place] = min(longest, lengths[place] + share)
    return lengths


async def graded(problem: Problem, samples: Sequence[BankSample], engine: Engine) -> list[BankSample]:
    """The samples with their correctness, where they lack it and the problem has a way to tell."""
    ways = (problem.check, problem.score, problem.tests, problem.reference)
    if all(way is None for way in ways):
        return list(samples)
    known = {one.answer: one.correct for one in samples if one.correct is not None}
    for answer in {one.answer for one in samples} - known.keys():
        known[answer] = await grade(problem, answer, engine.equivalent, passes_tests)
    return [one if one.correct is not None else replace(one, correct=known[one.answer]) for one in samples]


async def scored(
    samples: Sequence[BankSample],
    word: str,
    verifier: Verifier,
    request: Request,
    engine: Engine,
    *,
    account: Ledger,
    interrupt: asyncio.Event,
    through: Through,
    heard: Callable[[Event], None],
) -> tuple[list[BankSample], str | None]:
    """The samples with this verifier's score, where they lack it, and why some still do (`None`: all have it).

    What the verifier asks for is charged to the account. A score of `None` is its own "could not judge": what the end
    of the budget, a failed call or the interruption kept from being judged stays without a score.
    """
    unscored = [one for one in samples if word not in one.scores]
    if not unscored:
        return list(samples), None
    session = Session(
        request,
        model=engine.model,
        ledger=Ledger(parent=account),
        trace=Trace(listeners=(heard,)),
        canonical=unread,
        verifier=verifier,
        price_for=engine.price_for,
        through=through,
    )
    halting = asyncio.create_task(_halt(session, interrupt))
    try:
        verdicts = await session.verify([_candidate(one, request.prompt) for one in unscored])
    finally:
        halting.cancel()
        with suppress(asyncio.CancelledError):
            await halting
    why = None if session.error is None else str(session.error)
    if why is None and session.ended:
        why = "the budget is spent" if session.ended == "budget" else session.ended
    found = {
        one.sample: replace(
            one,
            scores={**one.scores, word: verdict.score},
            steps={**one.steps, word: verdict.steps} if verdict.steps else one.steps,
        )
        for one, verdict in zip(unscored, verdicts, strict=True)
        if why is None or verdict.score is not None
    }
    return [found.get(one.sample, one) for one in samples], why if len(found) < len(unscored) else None


async def _halt(session: Session, interrupt: asyncio.Event) -> None:
    await interrupt.wait()
    session.halt("interrupted")


def _candidate(sample: BankSample, prompt: Prompt) -> Candidate:
    confidences: Sequence[float | None] = sample.confidences or [None] * len(sample.logprobs)
    return Candidate(
        (sample.sample,),
        prompt,
        sample.text if sample.text is not None else sample.answer or "",
        sample.reasoning,
        tokens=tuple(Token("", *each) for each in zip(sample.logprobs, confidences, strict=True)),
        finish_reason=sample.finish_reason,
        stop_string=sample.stop_string,
        output_tokens=sample.output_tokens or 0,
        answer=sample.answer,
    )
