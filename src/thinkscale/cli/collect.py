"""`thinkscale collect`: draw samples into a bank; the same command resumes, more samples or problems extend it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from thinkscale.accounting import Price
from thinkscale.api import open_engine
from thinkscale.cli.bank import print_contents
from thinkscale.cli.fetching import fetching
from thinkscale.cli.output import print_json
from thinkscale.cli.solve import interruptible
from thinkscale.errors import ModelError, UsageError
from thinkscale.models.opening import Local
from thinkscale.optimize.collect import Collected, Collection, collect, journal_of
from thinkscale.tasks import parse_task
from thinkscale.trace import Event
from thinkscale.types import Params
from thinkscale.verifiers.words import check_word, problem_verifier, shared_verifier
from thinkscale.words import parse_budget

_ALTERNATIVES = 5  # per token, of which its confidence is the mean; the most that common servers give
_WINDOW_S = 300  # over which speeds are taken: a request for many samples may take minutes
_REASONS = 3


@dataclass(frozen=True)
class Options:
    task: str
    out: Path
    model: str
    samples: int
    name: str | None
    limit: int
    seed: int
    budget: str | None
    verifier: str | None
    temperature: float
    max_tokens: int
    logprobs: bool
    concurrency: int
    price: str | None
    local: Local
    json: bool


def run(options: Options) -> None:
    """Check every word, then collect and report. Exits with 1 where samples or scores are missing."""
    check_word(options.verifier, own_checks=True)
    if options.verifier == "confidence" and not options.logprobs:
        raise UsageError("the verifier confidence reads log-probabilities: leave --no-logprobs out")
    problems = list(parse_task(options.task).problems(options.limit, options.seed))
    own_verifiers = problem_verifier(options.verifier, options.task, problems)
    collection = Collection(
        options.task,
        problems,
        options.samples,
        Params(
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            top_logprobs=_ALTERNATIVES if options.logprobs else None,
        ),
        options.seed,
        options.concurrency,
        options.name,
        options.verifier,
        parse_budget(options.budget),
    )
    price = Price.parse(options.price) if options.price else None
    errors = Console(stderr=True)
    try:
        collected = asyncio.run(_collect(options, collection, price, own_verifiers, errors))
    except (ModelError, KeyboardInterrupt):
        if options.out.exists() or journal_of(options.out).exists():
            errors.print("what was drawn is kept: the same command goes on from there")
        raise
    _report(options, collected, errors)
    if collected.ended == "interrupted":
        raise SystemExit(130)
    if collected.short or collected.unscored:
        raise SystemExit(1)


async def _collect(
    options: Options, collection: Collection, price: Price | None, own_verifiers: Any, errors: Console
) -> Collected:
    async with AsyncExitStack() as stack:
        with fetching(errors, options.model) as progress:
            engine = await stack.enter_async_context(
                open_engine(
                    options.model,
                    local=options.local,
                    price=price,
                    prompts=[problem.prompt for problem in collection.problems],
                    progress=progress,
                )
            )
            word = None if own_verifiers else options.verifier
            shared = await stack.enter_async_context(shared_verifier(word, options.local, progress))
        if collection.params.top_logprobs is not None and not engine.model.capabilities.logprobs:
            errors.print(f"{engine.model.name} gives no log-probabilities: the bank will hold none of it")
            collection = replace(collection, params=replace(collection.params, top_logprobs=None))
        bars = stack.enter_context(_Bars(errors))
        return await collect(
            collection,
            engine,
            options.out,
            verifier_for=own_verifiers or (lambda _problem: shared),
            interrupt=stack.enter_context(interruptible()),
            heard=bars.hear,
            begun=bars.begin,
        )


class _Bars(Progress):
    """A bar for the samples and one for the verdicts, and the output tokens per second of the samples."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[rate]}"), console=console, speed_estimate_period=_WINDOW_S,
        )  # fmt: skip
        self._bars: dict[str, TaskID] = {}
        self._tokens = self.add_task("tokens", total=None, visible=False, rate="")

    def begin(self, what: str, total: int) -> None:
        if total:
            self._bars[what] = self.add_task(what, total=total, rate="")

    def hear(self, event: Event) -> None:
        if event["event"] == "verdict":
            self.advance(self._bars["verdicts"])
        elif event["event"] == "candidate":
            self.advance(self._tokens, event["output_tokens"])
            speed = self.tasks[self._tokens].speed
            self.update(self._bars["samples"], advance=1, rate="" if speed is None else f"{speed:,.0f} tokens/s")


def _report(options: Options, collected: Collected, errors: Console) -> None:
    """What the bank now holds on standard output; what is missing, and how to go on, on standard error."""
    from thinkscale.optimize.describing import described

    usage = collected.usage
    told = {
        "bank": str(options.out),
        "model": collected.model,
        "drawn": collected.drawn,
        "scored": collected.scored,
        "waiting": collected.waiting,
        "short": dict(collected.short),
        "unscored": collected.unscored,
        "ended": collected.ended,
        "usage": {**asdict(usage), "total_tokens": usage.total_tokens},
    }
    if options.json:
        print_json(told | {"holds": described(collected.bank)})
    elif len(collected.bank):
        console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
        print_contents(console, described(collected.bank))
    errors.print(f"{collected.drawn:,} samples drawn into {options.out}", highlight=False, soft_wrap=True)
    if collected.ended is not None:
        errors.print("interrupted" if collected.ended == "interrupted" else "the budget's time is over")
    for why, problems in Counter(collected.short.values()).most_common(_REASONS):
        errors.print(f"too few samples of {_problems(problems)}: {why}", markup=False, highlight=False)
    if collected.unscored:
        why = f": {collected.unscored_why}" if collected.unscored_why else ""
        errors.print(f"{collected.unscored} samples lack their score{why}", markup=False, highlight=False)
    word = options.verifier
    scores = [one.scores[word] for one in collected.bank if word in one.scores] if word else []
    if scores and all(score is None for score in scores):
        errors.print(f"{word} could judge none of the samples: its scores are unknown", markup=False, highlight=False)
    if collected.waiting:
        errors.print(f"{collected.waiting} samples wait in {journal_of(options.out)} for those before them")
    if collected.ended or collected.short or collected.unscored:
        errors.print("the same command goes on from here")


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"
