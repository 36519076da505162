"""What the stub servers served, held against what the gateway charged, request by request.

The counts are made apart: the stubs' journals (tokens as they were produced, with what became of each call), the bills
that clients got, the gateway's log (one line per request, also of those whose client had left), and its database (the
spend table, from the records of requests, and the accounts of the keys, which are the ledger's own).

A request is *plain* if its client got a whole answer, its strategy cannot end before all its samples have come, no
backend was being stopped meanwhile, and the stubs delivered each of its calls in full or refused it: then its bill must
equal the stubs' count to the token. Otherwise some of its calls broke off or were cancelled, and nobody but the gateway
knows how much of them arrived. Such a call is charged its prompt and what was seen of it; if it was lost before
anything was seen, its whole reservation. So every request's charge has bounds:

prompt     at least the prompts of all calls that the stubs began; at most also that of each call which a request cut
           short may have begun without a stub seeing it.
output     at least that of delivered calls, if there was a whole answer by a strategy that does not cancel; at most
           what the stubs produced, or the whole reservation for a call that they cut off.

While a backend is being stopped a call on its way may meet nobody: it is charged whole. While it is away it cannot
count prompts: the gateway's guess is higher.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from soak_clients import MAX_TOKENS, REQUEST, Outcome

PROMPT_TOKENS = 40
"""At most of one call: a question and the steps before. The gateway asks the backends for the exact number."""

GUESSED_TOKENS = 400
"""The same where a backend is away and cannot count: the gateway's upper bound, as a token is at least a byte."""

_ASKED = 3  # times that a sample which was lost on the way is drawn
_OPENED_S = 6.0  # a backend that was away is tried every five seconds
_NUMBER = re.compile(r"Request (\d+):")


@dataclass(frozen=True)
class Outage:
    """One backend is told to stop, is gone, and is back: moments on the clock of the outcomes."""

    began: float
    gone: float
    back: float

    def stopping(self, outcome: Outcome) -> bool:
        """Whether a request ran while the backend stopped: a call that was on its way then may have met nobody."""
        return outcome.began <= self.gone and outcome.began + outcome.seconds >= self.began

    def guessing(self, outcome: Outcome) -> bool:
        """Whether the lengths of prompts may have been guessed: a backend that was away is asked for them only once the
        gateway has opened it again.
        """
        return outcome.began <= self.back + _OPENED_S and outcome.began + outcome.seconds >= self.began


@dataclass(slots=True)
class Served:
    """What the stubs served to one request of a client, over all its calls; `cut` and `left` are calls that broke off
    there or were cancelled by the gateway, `delivered` samples that went out in full.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    delivered_output_tokens: int = 0
    delivered: int = 0
    cut: int = 0
    left: int = 0
    cut_reserved: int = 0  # output tokens that were reserved for the calls that broke off, beyond those produced

    @property
    def in_full(self) -> bool:
        return not self.cut and not self.left


def journals(paths: Iterable[Path]) -> dict[int, Served]:
    """By request. Raises `ValueError` for a call that belongs to none."""
    served: dict[int, Served] = {}
    for path in paths:
        with path.open("rb") as lines:
            for line in map(orjson.loads, lines):
                if line["outcome"] == "refused":
                    continue
                number = _NUMBER.match(line["about"])
                if number is None:
                    raise ValueError(f"a call for no request: {line}")
                one = served.setdefault(int(number[1]), Served())
                one.prompt_tokens += line["prompt_tokens"]
                one.output_tokens += line["output_tokens"]
                match line["outcome"]:
                    case "complete":
                        one.delivered += line["n"]
                        one.delivered_output_tokens += line["output_tokens"]
                    case "left":
                        one.left += 1
                    case _:
                        one.cut += 1
                        one.cut_reserved += line["n"] * line["max_tokens"] - line["output_tokens"]
    return served


@dataclass(frozen=True, slots=True)
class Charged:
    """What one line of the gateway's log says that a request was charged."""

    key: str
    prompt_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


def charges(log: Path) -> dict[int, Charged]:
    """By request. Raises `ValueError` for a request that was charged twice."""
    charged: dict[int, Charged] = {}
    with log.open("rb") as lines:
        for line in map(orjson.loads, (text for text in lines if text.startswith(b"{") and b'"output_tokens"' in text)):
            number = int(line["request_id"].removeprefix(REQUEST))
            if number in charged:
                raise ValueError(f"request {number} was charged twice")
            charged[number] = Charged(line["key"], line["prompt_tokens"], line["output_tokens"])
    return charged


@dataclass
class Comparison:
    """`faults` are requests whose charge is not as it must be. `charged` are tokens by key.

    Of the requests outside the outage: how many were plain and what those were charged, and for the others the tokens
    charged and their bounds.
    """

    faults: list[str] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)
    plain_requests: int = 0
    plain: int = 0
    others: int = 0
    others_charged: int = 0
    least: int = 0
    most: int = 0

    def add(self, outcome: Outcome, one: Served, charge: Charged | None, outage: Outage) -> None:
        plan = outcome.plan
        if charge is None:
            if outcome.ended != "left" or one != Served():
                self._fault(outcome, f"is not in the log; the stubs served {one}")
            return
        self.charged[charge.key] = self.charged.get(charge.key, 0) + charge.tokens
        told = (outcome.prompt_tokens, outcome.output_tokens)
        if outcome.answered and told != (charge.prompt_tokens, charge.output_tokens):
            self._fault(outcome, f"was told {told}, the log has {charge}")
        whole = outcome.answered and not plan.cancels
        if whole and not outage.stopping(outcome) and one.in_full:
            self.plain_requests += 1
            self.plain += charge.tokens
            unseen_prompts = unseen_output = 0
        else:
            unseen_prompts, unseen_output = _unseen(outcome, one, outage)
        prompts = (one.prompt_tokens, one.prompt_tokens + unseen_prompts)
        outputs = (one.delivered_output_tokens if whole else 0, one.output_tokens + unseen_output)
        if not (whole and one.in_full) and not outage.guessing(outcome):
            self.others += 1
            self.others_charged += charge.tokens
            self.least += prompts[0] + outputs[0]
            self.most += prompts[1] + outputs[1]
        if not prompts[0] <= charge.prompt_tokens <= prompts[1] or not outputs[0] <= charge.output_tokens <= outputs[1]:
            self._fault(outcome, f"{charge} is not within {prompts} and {outputs}; {outcome.ended}, {one}")

    def _fault(self, outcome: Outcome, words: str) -> None:
        self.faults.append(f"request {outcome.plan.number} ({outcome.plan.kind.strategy}) {words}")


def compare(
    outcomes: Sequence[Outcome], served: Mapping[int, Served], charged: Mapping[int, Charged], outage: Outage
) -> Comparison:
    found = Comparison()
    for outcome in outcomes:
        number = outcome.plan.number
        found.add(outcome, served.get(number, Served()), charged.get(number), outage)
    return found


def _unseen(outcome: Outcome, one: Served, outage: Outage) -> tuple[int, int]:
    """Prompt and output tokens that may be charged at most beyond what the stubs produced."""
    kind, guessing = outcome.plan.kind, outage.guessing(outcome)
    guess = GUESSED_TOKENS if guessing else PROMPT_TOKENS
    # A call may be cancelled here when all of it has left there, and is on its way: it is charged what was known here.
    given_up = kind.n if outcome.plan.cancels or outcome.ended == "left" else 0
    guessed = (one.cut + one.left + given_up) * guess if guessing else 0
    if outage.stopping(outcome):
        return guessed + _ASKED * kind.n * guess, one.cut_reserved + _ASKED * kind.n * MAX_TOKENS
    if outcome.answered and not outcome.plan.cancels:
        return guessed, one.cut_reserved
    calls = kind.n if kind.searches else max(0, kind.n - one.delivered)
    return guessed + calls * guess, one.cut_reserved


@dataclass(frozen=True)
class Books:
    """The gateway's own counts, from its database once it has stopped: tokens by key, and per minute of one key."""

    spend: dict[str, int]
    accounts: dict[str, int]
    minutes: dict[str, list[int]]

    @classmethod
    def read(cls, database: Path) -> Books:
        with closing(sqlite3.connect(database)) as rows:
            spend = rows.execute("SELECT key, SUM(prompt_tokens + output_tokens) FROM spend GROUP BY key")
            windows = "SELECT keys.name, spent_tokens FROM account_windows JOIN keys ON keys.id = account WHERE per = ?"
            days, minutes = dict[str, int](), dict[str, list[int]]()
            for name, tokens in rows.execute(windows, ("day",)):
                days[name] = days.get(name, 0) + tokens
            for name, tokens in rows.execute(windows, ("minute",)):
                minutes.setdefault(name, []).append(tokens)
            return cls(dict(spend), days, minutes)
