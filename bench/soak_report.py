"""What soak.py insists on, from what a run showed, and its tables."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from soak_bill import Books, Comparison, Outage
from soak_clients import KINDS, Outcome

MINUTE_TOKENS = 20_000  # of the key "small"
ANSWERED = 0.9  # the rest: streams that a backend cut off, and a backend's overload passed on
FILES = 16  # the database's connections, which come when they are needed
MEMORY_FROM_S = 120.0


@dataclass(frozen=True)
class Level:
    """What the gateway holds at some moment."""

    in_flight: int
    queued: int
    sockets: int
    files: int
    megabytes: float


def no_more_than(before: Level, after: Level) -> bool:
    return after.sockets <= before.sockets and after.files <= before.files + FILES


@dataclass(frozen=True)
class Found:
    """All that a run showed, for the checks. `busy` is how much of a core the gateway took."""

    outcomes: list[Outcome]
    outage: Outage
    megabytes: list[float]
    busy: float
    before: Level
    after: Level
    settled_s: float
    upstream: int
    told: dict[str, int]
    status: int
    complaints: list[str]
    books: Books
    bill: Comparison


@dataclass(frozen=True)
class Check:
    name: str
    figures: str
    met: bool | None  # `None`: not judged in so short a run


def checks(found: Found, seconds: float) -> list[Check]:
    bill, books, before, after = found.bill, found.books, found.before, found.after
    wrong = [outcome for outcome in found.outcomes if outcome.ended == "wrong"]
    minute = max(books.minutes.get("small", [0]))
    stayed = [one for one in found.outcomes if one.plan.key == "large" and not one.plan.budget and one.ended != "left"]
    share = sum(one.answered for one in stayed) / max(1, len(stayed))
    return [
        Check(
            "every request answered, or refused as it should be",
            f"{len(found.outcomes)}, {len(wrong)} wrong",
            not wrong,
        ),
        Check(
            "those who stayed, without limit or budget, were answered",
            f"{100 * share:.1f} % of {len(stayed)}, at least {100 * ANSWERED:g} %",
            share >= ANSWERED,
        ),
        Check(
            "plain requests are charged what the stubs count",
            f"{bill.plain_requests} requests, {bill.plain} tokens",
            bill.plain_requests > 0 and not bill.faults,
        ),
        Check(
            "the others, outside the outage, within what can be known",
            f"{bill.others} requests, {bill.least} <= {bill.others_charged} <= {bill.most} tokens",
            bill.least <= bill.others_charged <= bill.most and not bill.faults,
        ),
        Check(
            "the log is the sum of the replies' bills, and each request is in it",
            f"{len(bill.faults)} faults",
            not bill.faults,
        ),
        Check("the spend that is kept is the sum of the log", _by_key(books.spend), books.spend == bill.charged),
        Check("the keys' accounts agree", _by_key(books.accounts), books.accounts == books.spend),
        Check("so does the spend that is told", _by_key(found.told), found.told == books.spend),
        Check(
            "no minute of the key with a limit is over it",
            f"at most {minute} of {MINUTE_TOKENS} in {len(books.minutes.get('small', []))} minutes",
            0 < minute <= MINUTE_TOKENS,
        ),
        Check(
            "nothing in flight or queued, here or upstream",
            f"{after.in_flight}, {after.queued}, {found.upstream}",
            not (after.in_flight or after.queued or found.upstream),
        ),
        Check(
            "sockets and files are back to where they were",
            f"{before.sockets} -> {after.sockets}, {before.files} -> {after.files}, after {found.settled_s:.0f} s",
            no_more_than(before, after),
        ),
        _memory(found.megabytes, seconds),
        Check(
            "a clean end",
            f"status {found.status}, {len(found.complaints)} complaints in the log",
            found.status == 0 and not found.complaints,
        ),
    ]


def _by_key(tokens: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {tokens[name]}" for name in sorted(tokens))


def _memory(megabytes: list[float], seconds: float) -> Check:
    quarter = max(1, len(megabytes) // 4)
    early, late = (
        statistics.median(megabytes[quarter : 2 * quarter] or megabytes),
        statistics.median(megabytes[-quarter:]),
    )
    flat = late - early < max(5.0, 0.05 * early)
    return Check("memory is flat", f"{early:.1f} -> {late:.1f} MB", flat if seconds >= MEMORY_FROM_S else None)


def show(found: Found, judged: Sequence[Check], seconds: float) -> None:
    console = Console(width=max(140, Console().width))
    table = Table(
        title=f"{len(found.outcomes)} requests in {seconds:g} s, gateway at {100 * found.busy:.0f} % of a core"
    )
    for column in ("strategy", "requests", "answered", "p50 s", "refused", "broken off", "left", "wrong"):
        table.add_column(column, no_wrap=True)
    for kind in KINDS:
        mine = [outcome for outcome in found.outcomes if outcome.plan.kind == kind]
        ended = Counter(outcome.ended for outcome in mine)
        statuses = Counter(outcome.status for outcome in mine if outcome.ended == "refused")
        refused = ", ".join(f"{status}: {times}" for status, times in sorted(statuses.items()))
        times = [outcome.seconds for outcome in mine if outcome.answered]
        table.add_row(
            *(kind.strategy, str(len(mine)), str(ended["answered"])),
            *(f"{statistics.median(times):.2f}" if times else "", refused),
            *(str(ended[name]) for name in ("broken off", "left", "wrong")),
        )
    console.print(table)
    table = Table("check", "figures", "met", title="checks")
    for one in judged:
        table.add_row(one.name, one.figures, {True: "yes", False: "NO", None: "-"}[one.met])
    console.print(table)
    faults = [f"request {one.plan.number}: {one.wrong}" for one in found.outcomes if one.wrong]
    for fault in (faults + found.bill.faults + found.complaints)[:20]:
        console.print(fault, markup=False, highlight=False)
