"""Collecting a bank: samples drawn live, resumable, then sealed into one file with answers, grades and scores."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from thinkscale.accounting import Ledger
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.parquet import need_pyarrow, read_bank, write_bank
from thinkscale.engine import Engine
from thinkscale.errors import ThinkscaleError, UsageError
from thinkscale.models.base import prompt_key
from thinkscale.optimize.bench import VerifierFor, request_for
from thinkscale.optimize.drawing import Drawing, draw, unit_of
from thinkscale.optimize.sealing import graded, read_samples, scored
from thinkscale.store import Recorder, RunStore
from thinkscale.store.recorder import answers_prompt
from thinkscale.tasks.base import Problem
from thinkscale.trace import Event
from thinkscale.types import Budget, Params, Usage
from thinkscale.verifiers.base import together
from thinkscale.verifiers.equivalence import Answers
from thinkscale.verifiers.math_worker import MathWorker


@dataclass(frozen=True)
class Collection:
    """What a bank is to hold: of each problem the samples 0 to `n` - 1, drawn with `params` and `seed`.

    `model` is the model's name in the bank, by default its own. `verifier` is the word under which scores are kept,
    `None` for no scores. `budget` bounds what is spent, and what an earlier call drew but did not seal counts again.
    """

    task: str
    problems: Sequence[Problem]
    n: int
    params: Params = field(default_factory=Params)
    seed: int = 0
    concurrency: int = 1
    model: str | None = None
    verifier: str | None = None
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Collected:
    """What became of a collection.

    `drawn` samples and `scored` scores are new in the bank. `short` says why a problem has fewer samples than asked
    for. `unscored` samples lack the verifier's score, `unscored_why` is a reason. `waiting` samples are in the journal
    until those before them are drawn. `ended` is what ended it early: `interrupted` or `deadline`, else `None`.
    """

    bank: Bank
    model: str
    drawn: int
    scored: int
    short: Mapping[str, str]
    unscored: int
    unscored_why: str | None
    waiting: int
    usage: Usage
    ended: str | None


def journal_of(bank: Path) -> Path:
    """The folder in which samples are kept until they are sealed into the bank."""
    return bank.with_name(f"{bank.name}.journal")


async def collect(
    collection: Collection,
    engine: Engine,
    path: Path,
    *,
    verifier_for: VerifierFor = lambda _problem: None,
    interrupt: asyncio.Event | None = None,
    heard: Callable[[Event], None] = lambda _event: None,
    begun: Callable[[str, int], None] = lambda _what, _total: None,
) -> Collected:
    """Draw what the bank at `path` lacks, and seal it there. A bank that is there already is extended.

    Every sample is in a journal beside the bank as soon as it ends, so the same call goes on after a kill; the journal
    goes when the bank holds all of it. `heard` hears the events of the runs; `begun` what begins, `samples` or
    `verdicts`, and how many there will be. Setting `interrupt`, as the end of the budget's seconds does, seals what is
    there. An error that ends the drawing (an unreachable server, a refused key) is raised once what was drawn before
    it is sealed.

    Raises `UsageError` where the extra optimize is missing, where the bank's samples of this model were drawn with
    other parameters, where its problems of the same names ask something else, and where the journal is that of another
    collection.
    """
    need_pyarrow()  # better told before the samples are paid for
    loop, stop, limit = asyncio.get_running_loop(), interrupt or asyncio.Event(), collection.budget.deadline_s
    async with _journal(path, collection) as journal:
        bank = await asyncio.to_thread(_bank_at, path, collection.task)
        work = _Work(collection, engine, bank, journal, stop, heard)
        work.check(path)
        timer = loop.call_later(limit, stop.set) if limit is not None else None
        try:
            begun("samples", sum(map(work.drawing.missing, collection.problems)))
            failure = await work.draw()
            await work.read()
            if collection.verifier and failure is None and not stop.is_set():
                begun("verdicts", work.unscored)
                failure = await work.score(collection.verifier, verifier_for)
        finally:
            if timer:
                timer.cancel()
        late = timer is not None and loop.time() >= timer.when()
        sealed = await work.seal(path, "deadline" if late else "interrupted" if stop.is_set() else None)
    if failure is not None:
        raise failure
    return sealed


def _bank_at(path: Path, task: str) -> Bank:
    return read_bank(path) if path.exists() else Bank((), (), (), task=task)


@asynccontextmanager
async def _journal(path: Path, collection: Collection) -> AsyncIterator[RunStore]:
    """The journal beside a bank; it goes when nothing is in it."""
    params = collection.params
    settings = {"temperature": params.temperature, "max_tokens": params.max_tokens, "seed": collection.seed}
    async with RunStore(journal_of(path) / "drawing.db", settings) as journal:
        try:
            yield journal
        finally:
            if await journal.is_empty():
                await journal.remove()


class _Work:
    """One collection under way: what the bank held, and what is new."""

    def __init__(
        self,
        collection: Collection,
        engine: Engine,
        bank: Bank,
        journal: RunStore,
        stop: asyncio.Event,
        heard: Callable[[Event], None],
    ) -> None:
        self.model = collection.model or engine.model.name
        self._collection = collection
        self._engine = engine
        self._bank = bank
        self._journal = journal
        self._stop = stop
        self._heard = heard
        self._account = Ledger(collection.budget)
        self._samples = {problem.id: list(self._held(self.model, problem)) for problem in collection.problems}
        self._before = {problem: tuple(samples) for problem, samples in self._samples.items()}
        self._short: dict[str, str] = {}
        self._waiting: Counter[str] = Counter()
        self._counted = False
        self._unscored_why: str | None = None
        self.drawing = Drawing(
            collection.problems,
            collection.n,
            collection.params,
            collection.seed,
            collection.concurrency,
            {problem: len(samples) for problem, samples in self._samples.items()},
            self.model,
        )

    def _held(self, model: str, problem: Problem) -> Sequence[BankSample]:
        return self._bank.samples(model, problem.id) if model in self._bank.models else ()

    @property
    def _params(self) -> dict[str, object]:
        params = self._collection.params
        return {
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            "top_logprobs": params.top_logprobs,
            "seed": self._collection.seed,
        }

    def check(self, path: Path) -> None:
        """Raise `UsageError` where the bank holds something else under the same names."""
        model = self._bank.models.get(self.model)
        before = model.params if model else {}
        differing = [
            f"{name} was {before[name]!r}, is {now!r}"
            for name, now in self._params.items()
            if name in before and before[name] != now
        ]
        if differing:
            raise UsageError(
                f"{path} holds samples of {self.model} drawn otherwise ({', '.join(differing)}): draw with the same "
                "parameters, keep these under another name (--name), or choose another --out"
            )
        for problem in self._collection.problems:
            known = self._bank.problems.get(problem.id)
            if known is None or known.prompt is None:
                continue
            if prompt_key(known.prompt) != prompt_key(problem.prompt) or known.kind != problem.kind:
                raise UsageError(
                    f"{path} has another problem by the name of {problem.id}: collect from the task it was made of"
                    f"{f' ({self._bank.task})' if self._bank.task else ''}, or choose another --out"
                )

    async def draw(self) -> ThinkscaleError | None:
        """Draw into the journal; gives the error that ended it."""

        def done(problem: Problem, why: str | None) -> None:
            if why is not None:
                self._short[problem.id] = why

        try:
            await draw(
                self.drawing,
                self._engine,
                self._journal,
                account=self._account,
                interrupt=self._stop,
                done=done,
                heard=self._heard,
            )
        except ThinkscaleError as error:
            return error
        return None

    async def read(self) -> None:
        """Take over what the journal holds, with answers and grades."""
        async with MathWorker() as math:
            for problem in self._collection.problems:
                samples = self._samples[problem.id]
                rows = {
                    place: row
                    for key, place, row in await self._journal.of_unit(unit_of(self.model, problem))
                    if answers_prompt(key, problem.prompt)
                }
                answers = Answers(problem.kind, math=math)
                for model in self._bank.models:
                    for one in self._held(model, problem):
                        if one.answer is not None:
                            await answers.representative(one.answer)
                longest = request_for(problem, self._collection.params, 0).params.max_tokens
                held = len(samples)
                samples += await read_samples(problem, self.model, rows, answers, held=held, longest=longest)
                self._counted |= any(row["usage"]["counted"] for place, row in rows.items() if place >= held)
                self._waiting[problem.id] = sum(place >= len(samples) for place in rows)
                self._samples[problem.id] = await graded(problem, samples, self._engine)

    @property
    def unscored(self) -> int:
        word = self._collection.verifier
        return sum(word not in one.scores for samples in self._samples.values() for one in samples) if word else 0

    async def score(self, word: str, verifier_for: VerifierFor) -> ThinkscaleError | None:
        """Have the verifier judge what lacks its score; gives the error that ended it."""
        slots = asyncio.Semaphore(self._collection.concurrency)

        async def one(problem: Problem) -> None:
            verifier = verifier_for(problem)
            unit = _verdicts_of(unit_of(self.model, problem))
            async with slots:
                if verifier is None or self._stop.is_set():
                    return
                self._samples[problem.id], why = await scored(
                    self._samples[problem.id],
                    word,
                    verifier,
                    request_for(problem, self._collection.params, self._collection.seed),
                    self._engine,
                    account=self._account,
                    interrupt=self._stop,
                    through=lambda model: Recorder(model, self._journal, unit),
                    heard=self._heard,
                )
                self._unscored_why = why or self._unscored_why

        try:
            await together([one(problem) for problem in self._collection.problems])
        except ThinkscaleError as error:
            return error
        return None

    async def seal(self, path: Path, ended: str | None) -> Collected:
        """Write the bank where anything is new, then forget what the journal need not hold any more."""
        changed = {
            problem: samples for problem, samples in self._samples.items() if tuple(samples) != self._before[problem]
        }
        drawn = sum(len(samples) - len(self._before[problem]) for problem, samples in changed.items())
        word = self._collection.verifier
        scored = sum(
            word in one.scores and (place >= len(before) or word not in before[place].scores)
            for problem, samples in changed.items()
            for before in [self._before[problem]]
            for place, one in enumerate(samples)
        )
        bank = self._bank
        if changed:
            bank = self._extended(changed, drawn, self._line(drawn, scored))
            await asyncio.to_thread(write_bank, bank, path)
        for problem in self._collection.problems:
            unit = unit_of(self.model, problem)
            if not self._waiting[problem.id]:
                await self._journal.drop(unit)
            if word is not None and all(word in one.scores for one in self._samples[problem.id]):
                await self._journal.drop(_verdicts_of(unit))
        n = self._collection.n
        return Collected(
            bank,
            self.model,
            drawn,
            scored,
            {
                problem: self._short.get(problem, "a sample failed, and those after it wait for it")
                for problem, samples in self._samples.items()
                if len(samples) < n
            },
            self.unscored,
            self._unscored_why,
            self._waiting.total(),
            self._account.spent,
            ended,
        )

    def _extended(self, changed: Mapping[str, Sequence[BankSample]], drawn: int, line: str) -> Bank:
        problems = dict(self._bank.problems)
        for one in self._collection.problems:
            if one.id in changed:
                known = problems.get(one.id)
                reference = known.reference if known and one.reference is None else one.reference
                problems[one.id] = BankProblem(one.id, one.prompt, one.kind, reference)
        before = self._bank.models.get(self.model)
        model = BankModel(
            self.model,
            self._engine.price or (before.price if before else None),
            self._engine.model.capabilities.max_n if drawn or before is None else before.max_n,
            before.params if before else self._params,
            self._counted or (before is not None and before.estimated),
        )
        kept = (one for one in self._bank if one.model != self.model or one.problem not in changed)
        return Bank(
            problems.values(),
            (self._bank.models | {self.model: model}).values(),
            [*kept, *(one for samples in changed.values() for one in samples)],
            task=self._bank.task or self._collection.task,
            history=[*self._bank.history, line],
        )

    def _line(self, drawn: int, scored: int) -> str:
        """What is new, for the bank's history."""
        did = [f"collected {drawn} samples of {self.model} from {self._collection.task}"] if drawn else []
        if scored:
            did.append(f"scored {scored} by {self._collection.verifier}")
        day = datetime.now(UTC).date().isoformat()
        return f"{day}: {', '.join(did or ['graded samples'])}"


def _verdicts_of(unit: str) -> str:
    """Where what a verifier's model said of a problem's samples is kept."""
    return f"{unit}|verify"
