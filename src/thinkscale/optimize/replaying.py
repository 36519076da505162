"""The strategies themselves over recorded samples, one request after another: slow, and open to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from thinkscale.banks import Bank, BankProblem
from thinkscale.engine import Engine
from thinkscale.errors import MissingSample, NoAnswer
from thinkscale.models.base import Model, ModelWrapper, prompt_key
from thinkscale.models.replay import Recorded, ReplayModel
from thinkscale.optimize.requests import check_orders, joined, orders_of_larger
from thinkscale.optimize.simulate import HARD, scored_by
from thinkscale.optimize.table import Ints, Outcomes, Table
from thinkscale.types import Budget, Candidate, Chunk, Controller, Params, Prompt, Request, Token, Usage, Verdict
from thinkscale.verifiers.base import Generate


async def replayed(
    words: str,
    bank: Bank,
    table: Table,
    orders: Ints,
    *,
    auto: Callable[[Request], Controller | None] = lambda _request: None,
    larger: Table | None = None,
    larger_orders: Ints | None = None,
    verifier: str | None = None,
    affordable: Ints | None = None,
) -> Outcomes:
    """What the strategy of these words answers and spends on requests that see the samples in these [R, P, N] orders.

    The engine runs it, as it would live, over the samples that `bank` holds of the table's model and problems; answers
    and scores are those on record. `auto` makes the controller of the strategy `auto`, `larger` (with `larger_orders`
    [R, P, N'], by default as recorded) is the model that it may escalate to. `verifier` names the scores to go by; it
    may be left out where the table has one kind. `affordable` [R, P] is how many samples each request may draw in all.
    What is asked for and not on record is not invented: the strategy goes on without it, and the request counts as
    `missing`. A few hundred requests a second.
    """
    check_orders(table, orders)
    shape = (orders.shape[0], orders.shape[1])
    above = None if larger is None else orders_of_larger(table, larger, larger_orders, shape)
    budget = None if affordable is None else np.broadcast_to(affordable, shape)
    name = scored_by(table, verifier) if verifier or len(table.scores or ()) == 1 else None
    outcomes: dict[tuple[int, int], Outcomes] = {}
    for problem in range(shape[1]):
        own = _recorded(bank, table, problem, _OWN)
        others = [] if larger is None else _recorded(bank, larger, problem, _LARGER)
        asked = bank.problems[table.problems[problem]]
        for repeat in range(shape[0]):
            rows = {_OWN: _Row(table, problem, orders[repeat, problem], own)}
            if larger is not None and above is not None:
                rows[_LARGER] = _Row(larger, problem, above[repeat, problem], others)
            run = _Run(asked, rows, name)
            left = None if budget is None else int(budget[repeat, problem])
            outcomes[repeat, problem] = await run.outcome(words, auto, left)
            await asyncio.sleep(0)  # recorded samples keep nobody waiting: others may have their turn
    return joined([outcomes[place] for place in np.ndindex(shape)], shape)


_OWN, _LARGER = "own", "larger"


def _recorded(bank: Bank, table: Table, problem: int, name: str) -> list[Recorded]:
    """A problem's samples. Each has its place in the table for a text, by which it is known again."""
    recorded = []
    for place, sample in enumerate(bank.samples(table.model, table.problems[problem])[: table.n]):
        logprobs = () if table.nll is None else sample.logprobs
        confidences: Sequence[float | None] = sample.confidences
        if table.confidences is None:
            confidences = [None] * len(logprobs)
        recorded.append(
            Recorded(
                f"#{name}#{place}",
                finish_reason="length" if table.capped[problem, place] else "stop",
                prompt_tokens=int(table.prompt_tokens[problem]),
                output_tokens=int(table.output_tokens[problem, place]),
                tokens=tuple(Token("", float(own), top) for own, top in zip(logprobs, confidences, strict=True)),
            )
        )
    return recorded


@dataclass(frozen=True)
class _Row:
    """One problem's samples by one model, and the order in which a request sees them."""

    table: Table
    problem: int
    order: Ints
    recorded: Sequence[Recorded]

    def model(self, prompt: Prompt, name: str) -> ReplayModel:
        samples = [self.recorded[place] for place in self.order.tolist()]
        return ReplayModel({prompt_key(prompt): samples}, name=name, max_n=self.table.max_n)

    def number(self, place: int) -> int:
        """Which answer the sample at this place of the table gave."""
        return int(self.table.answers[self.problem, place])


class _Run:
    """One request over recorded samples, and what was heard of it. It is its own verifier, for it has the scores."""

    def __init__(self, problem: BankProblem, rows: Mapping[str, _Row], verifier: str | None) -> None:
        self.name = verifier or ""
        self._problem = problem
        self._rows = rows
        self._batches: list[_Batch] = []

    async def outcome(
        self, words: str, auto: Callable[[Request], Controller | None], affordable: int | None
    ) -> Outcomes:
        if affordable == 0:
            return self._outcome(None, 0, Usage())
        problem = self._problem
        prompt = problem.prompt or Prompt.of(problem.id)
        models = {name: row.model(prompt, name) for name, row in self._rows.items()}
        longest = max(int(row.table.output_tokens.max()) for row in self._rows.values())
        request = Request(prompt, problem.kind, Params(max_tokens=max(longest, 1)), id=problem.id)
        engine = Engine(
            models[_OWN],
            price=self._rows[_OWN].table.price,
            price_of=lambda model: self._rows[model.name].table.price,
            larger=models.get(_LARGER),
        )
        async with engine:
            try:
                result = await engine.solve(
                    request,
                    strategy=words,
                    budget=None if affordable is None else Budget(max_calls=affordable),
                    verifier=self if self.name else None,
                    through=self._through,
                    controller=auto(request),
                    canonical=self._answer,
                )
            except NoAnswer as none:
                return self._outcome(None, 0, none.usage)
            except MissingSample:
                return self._outcome(None, 0, Usage())
        return self._outcome(result.candidate, result.samples, result.usage)

    def _through(self, model: Model) -> Model:
        """Whatever a session draws together goes through a model of its own."""
        self._batches.append(_Batch(model, self._rows[model.name]))
        return self._batches[-1]

    def _sample(self, candidate: Candidate) -> tuple[str, int] | None:
        """Whose sample a candidate is, and its place in the table; `None` for one that was cut before it had ended."""
        parts = candidate.text.rsplit("#", 2)
        return (parts[1], int(parts[2])) if len(parts) == 3 else None

    async def _answer(self, candidate: Candidate) -> str | None:
        sample = self._sample(candidate)
        if sample is None:
            return None
        row = self._rows[sample[0]]
        number = row.number(sample[1])
        return None if number < 0 else row.table.codes[row.problem][number]

    async def verify(
        self, _request: Request, candidates: Sequence[Candidate], _generate: Generate
    ) -> Sequence[Verdict]:
        return [self._verdict(candidate) for candidate in candidates]

    def _verdict(self, candidate: Candidate) -> Verdict:
        sample, row = self._sample(candidate), self._rows[_OWN]
        score = float("nan")
        if sample is not None and sample[0] == _OWN:
            score = float((row.table.scores or {})[self.name][row.problem, sample[1]])
        if np.isnan(score):
            return Verdict(None, reason="no score is on record")
        return Verdict(score, passed=score == 1.0 if self.name in HARD else None)

    def _outcome(self, candidate: Candidate | None, samples: int, usage: Usage) -> Outcomes:
        sample = None if candidate is None else self._sample(candidate)
        chosen, correct = -1, False
        if sample is not None:
            row, place = self._rows[sample[0]], sample[1]
            correct = bool(row.table.correct[row.problem, place])
            chosen = row.number(place) if sample[0] == _OWN else -2 if row.number(place) >= 0 else -1
        batches = [batch for batch in self._batches if batch.drawn]
        waits = [batch.seconds() for batch in batches]
        known = [wait for wait in waits if wait is not None]
        priced = usage.cost_usd is not None and self._rows[_OWN].table.price is not None
        return Outcomes(
            correct=np.array([correct]),
            chosen=np.array([chosen]),
            samples=np.array([samples]),
            prompt_tokens=np.array([usage.prompt_tokens]),
            output_tokens=np.array([usage.output_tokens]),
            rounds=np.array([len(batches)]),
            seconds=np.array([sum(known)], np.float64) if len(known) == len(waits) else None,
            cost_usd=np.array([usage.cost_usd], np.float64) if priced else None,
            missing=np.array([any(batch.missing for batch in self._batches)]),
        )


class _Batch(ModelWrapper):
    """What is drawn together: which of the row's samples came, and whether any was not on record."""

    def __init__(self, model: Model, row: _Row) -> None:
        super().__init__(model)
        self.missing = False
        self.drawn: set[int] = set()
        self._row = row

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(self._model.generate(prompt, params, n=n, first=first)) as chunks:
                async for chunk in chunks:
                    self.drawn.add(first + chunk.index)
                    yield chunk
        except MissingSample:
            self.missing = True
            raise

    def seconds(self) -> float | None:
        """How long the slowest took; `None` where that is not on record."""
        seconds = self._row.table.seconds
        if seconds is None:
            return None
        return max(float(seconds[self._row.problem, self._row.order[place]]) for place in self.drawn)
