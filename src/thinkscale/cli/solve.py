"""`thinkscale solve`: one question, watched while it is being answered."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from thinkscale import strategies
from thinkscale.accounting import Price
from thinkscale.api import open_engine
from thinkscale.cli import bill
from thinkscale.cli.fetching import fetching
from thinkscale.cli.following import check, follow
from thinkscale.cli.output import print_json
from thinkscale.cli.tree import SearchTree
from thinkscale.cli.tree_view import TreeView
from thinkscale.cli.words import sampling
from thinkscale.errors import UsageError
from thinkscale.models.opening import Local
from thinkscale.tasks.base import INSTRUCTIONS
from thinkscale.trace import Event, write_events
from thinkscale.types import AnswerKind, Budget, Prompt, Request, Result, Usage
from thinkscale.verifiers.words import check_word, shared_verifier
from thinkscale.words import parse_budget, parse_kind


@dataclass(frozen=True)
class Options:
    question: str
    model: str
    strategy: str
    budget: str | None
    verifier: str | None
    kind: str
    system: str | None
    instruct: bool
    temperature: float
    max_tokens: int
    seed: int
    price: str | None
    trace: Path | None
    local: Local
    json: bool
    tree: bool = False
    policy: Path | None = None
    larger: str | None = None


def run(options: Options) -> None:
    """Check every word before anything is loaded or spent, then solve and show."""
    if not options.question.strip():
        raise UsageError("the question is empty")
    if any("\ud800" <= character <= "\udfff" for character in options.question):
        raise UsageError("the question is not valid UTF-8")
    strategies.parse(options.strategy)
    check((options.strategy,), options.policy, options.larger)
    check_word(options.verifier, own_checks=False)
    budget = parse_budget(options.budget)
    price = Price.parse(options.price) if options.price else None
    kind = parse_kind(options.kind, options.question)
    if options.trace is not None and not options.trace.parent.is_dir():
        raise UsageError(f"cannot keep a trace in {options.trace}: the folder {options.trace.parent} does not exist")
    asked = f"{options.question}\n{INSTRUCTIONS[kind]}" if options.instruct else options.question
    request = Request(
        Prompt.of(asked, system=options.system),
        kind,
        sampling(options.temperature, options.max_tokens, options.verifier),
        options.seed,
    )
    errors = Console(stderr=True)
    result = asyncio.run(_solve(options, request, budget, price, errors))
    if options.json:
        print_json(as_json(result))
    else:
        _show(result, kind, Console(), errors)
    if result.stop_reason == "interrupted":
        raise SystemExit(130)


async def _solve(options: Options, request: Request, budget: Budget, price: Price | None, errors: Console) -> Result:
    async with AsyncExitStack() as stack:
        with fetching(errors, options.model) as progress:
            engine = await stack.enter_async_context(
                open_engine(options.model, local=options.local, price=price, progress=progress)
            )
            verifier = await stack.enter_async_context(shared_verifier(options.verifier, options.local, progress))
            if check((options.strategy,), options.policy, options.larger):
                await follow(
                    engine, stack, errors,
                    policy=options.policy, larger=options.larger, local=options.local, progress=progress,
                )  # fmt: skip
        view: Progress | TreeView = Progress(options.strategy)
        if options.tree:
            view = stack.enter_context(_tree_view(errors))
        stack.enter_context(Live(view, console=errors, refresh_per_second=8, transient=True))
        interrupt = stack.enter_context(interruptible())
        events: list[Event] = []
        try:
            return await engine.solve(
                request,
                strategy=options.strategy,
                budget=budget,
                verifier=verifier,
                interrupt=interrupt,
                listeners=(view.hear, events.append),
            )
        finally:
            if options.trace is not None:
                write_events(options.trace, events)


@contextmanager
def _tree_view(errors: Console) -> Iterator[TreeView]:
    """A view to watch; the tree, if there is one, is printed in the end, however the run ended."""
    tree = SearchTree()
    view = TreeView(tree, live=True)
    try:
        yield view
    finally:
        view.catch_up()
        if tree.nodes:
            errors.print(TreeView(tree))
            errors.print()


@contextmanager
def interruptible() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets, so that the run ends with its best answer; a second one ends the program."""
    interrupt, loop = asyncio.Event(), asyncio.get_running_loop()

    def first() -> None:
        interrupt.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    loop.add_signal_handler(signal.SIGINT, first)
    try:
        yield interrupt
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class Progress:
    """What is known so far, redrawn while it changes."""

    def __init__(self, strategy: str) -> None:
        self._strategy = strategy
        self._votes: Counter[str] = Counter()
        self._finished = self._asked = self._tokens = self._judged = self._failed = 0
        self._began = time.monotonic()

    def hear(self, event: Event) -> None:
        name = event["event"]
        if name == "call" and event["purpose"] == "generate":
            self._asked += event["n"]
        elif name == "candidate":
            self._finished += 1
            self._votes[event["answer"] or "no answer"] += 1
        elif name == "settle":
            self._tokens += event["prompt_tokens"] + event["output_tokens"]
        elif name == "verdict":
            self._judged += 1
        elif name == "failed":
            self._failed += len(event["paths"])

    def __rich__(self) -> Text:
        seconds = time.monotonic() - self._began
        line = Text.assemble(
            (self._strategy, "bold"),
            f"  {self._finished}/{self._asked} samples  {self._tokens:,} tokens  {seconds:.1f} s",
        )
        if self._judged:
            line.append(f"  {self._judged} judged")
        if self._failed:
            line.append(f"  {self._failed} failed", "red")
        for answer, votes in self._votes.most_common(3):
            line.append(f"\n  {votes:3}  {_short(answer)}")
        return line


def as_json(result: Result) -> dict[str, Any]:
    """The result in the form that scripts read; unknown is null."""

    def bill(usage: Usage) -> dict[str, Any]:
        return {**asdict(usage), "total_tokens": usage.total_tokens}

    return {
        "answer": result.answer,
        "text": result.text,
        "confidence": result.confidence,
        "stop_reason": result.stop_reason,
        "strategy": result.strategy,
        "samples": result.samples,
        "tool_calls": [dict(call) for call in result.candidate.tool_calls],
        "usage": {**bill(result.usage), "seconds": result.seconds},
        "usage_by_purpose": {purpose: bill(usage) for purpose, usage in result.usage_by_purpose.items()},
        "trace_id": result.trace_id,
    }


def _show(result: Result, kind: AnswerKind, out: Console, errors: Console) -> None:
    """The reply and the answer on standard output, the bill on standard error."""
    out.print(result.text.strip(), markup=False, highlight=False, soft_wrap=True)
    if result.answer is None:
        errors.print(f"\nno {kind} was found in the reply: another --kind may fit the question better", style="yellow")
    elif result.answer != result.text.strip():
        out.print(f"\nanswer: {result.answer}", markup=False, highlight=False, soft_wrap=True, style="bold")
    errors.print(
        "\n" + bill.summary(result.confidence, result.stop_reason, result.samples, result.seconds), highlight=False
    )
    errors.print(bill.table(result.usage_by_purpose, result.usage))


def _short(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
