"""Many requests over one table, each with its own order of the samples, and what is charged for what they drew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkscale.accounting import Price
from thinkscale.errors import UsageError
from thinkscale.optimize.table import Bools, Floats, Ints, Outcomes, Table

_TOGETHER = 1 << 14
"""Requests that are simulated at once: so many that numpy's own overhead vanishes, so few that arrays stay in cache."""


@dataclass(frozen=True)
class Requests:
    """M requests. `order` [M, n] are places in the flattened arrays of the table, so that a row holds the samples of
    one problem in the order in which the request sees them; `problem` [M] is that problem's place.
    """

    table: Table
    problem: Ints
    order: Ints

    def __len__(self) -> int:
        return len(self.problem)

    @property
    def n(self) -> int:
        """Samples that each request can see."""
        return int(self.order.shape[1])

    def take(self, rows: Ints, first: int, last: int) -> Requests:
        """Some of the requests, which see only the samples from `first` up to `last`."""
        return Requests(self.table, self.problem[rows], self.order[rows, first:last])

    def see(self, values: NDArray[Any], n: int | None = None) -> NDArray[Any]:
        """The table's values of shape [P, N], as the requests see those of their first `n` samples: [M, n]."""
        return np.take(values, self.order[:, :n])

    def finished(self, n: int | None = None) -> Bools | None:
        """Which samples ended by themselves; `None` for all."""
        return ~self.see(self.table.capped, n) if self.table.capped.any() else None

    def judged(self, verifier: str, n: int | None = None) -> Floats:
        """Scores by the verifier of that name, nan for none."""
        scores = self.table.scores or {}
        if verifier not in scores:
            known = f"it has those of {', '.join(scores)}" if scores else "it has none"
            raise UsageError(f"the bank has no scores of {verifier} for every sample; {known}")
        return self.see(scores[verifier], n)


def requests_of(table: Table, orders: Ints) -> Iterator[Requests]:
    """All requests of [R, P, N] orders, a part at a time, in the order of the flattened array."""
    check_orders(table, orders)
    repeats = max(1, _TOGETHER // len(table))
    starts = np.arange(len(table))[:, None] * table.n
    for first in range(0, len(orders), repeats):
        part = orders[first : first + repeats]
        places = (part + starts).reshape(-1, orders.shape[2])
        yield Requests(table, np.tile(np.arange(len(table)), len(part)), places)


def check_orders(table: Table, orders: Ints) -> None:
    """Raises `UsageError` for orders that are not of this table."""
    if orders.ndim != 3 or orders.shape[1] != len(table) or not 0 < orders.shape[2] <= table.n or not len(orders):
        raise UsageError(f"orders of shape {orders.shape} do not fit {len(table)} problems with {table.n} samples each")


def orders_of_larger(table: Table, larger: Table, orders: Ints | None, shape: tuple[int, int]) -> Ints:
    """Orders for the samples of a larger model beside R orders of P problems, by default as recorded.

    Raises `UsageError` where the two do not go together.
    """
    if larger.problems != table.problems:
        raise UsageError(f"{larger.model} and {table.model} must have been recorded on the same problems")
    if orders is None:
        orders = np.broadcast_to(np.arange(larger.n), (*shape, larger.n))
    check_orders(larger, orders)
    if len(orders) != shape[0]:
        raise UsageError(f"there are {len(orders)} orders of {larger.model}, and {shape[0]} of {table.model}")
    return orders


@dataclass(frozen=True)
class Batches:
    """Batch sizes that a rule goes through, cut to the samples there are; `asked` counts those it would go through."""

    sizes: tuple[int, ...]
    asked: tuple[int, ...]

    @classmethod
    def of(cls, asked: Sequence[int], n: int) -> Batches:
        """Those of `asked` that find samples among `n`; the last one may find fewer than it asked for."""
        sizes, left = [], n
        for size in asked:
            if left <= 0:
                break
            sizes.append(min(size, left))
            left -= size
        return cls(tuple(sizes), tuple(asked))

    @property
    def ends(self) -> Ints:
        """Samples drawn by the end of each."""
        return np.cumsum(self.sizes)

    def missed(self, last: Ints, stopped: Bools) -> Bools:
        """Whether a request that ended with batch `last` asked for more than is recorded. `stopped`: it wanted no
        more.
        """
        if sum(self.asked) == sum(self.sizes):
            return np.zeros(len(last), np.bool_)
        end = len(self.sizes) - 1
        missed: Bools = (last == end) & (~stopped | (self.sizes[end] < self.asked[end]))
        return missed


def outcomes_of(requests: Requests, batches: Batches, last: Ints, place: Ints, stopped: Bools) -> Outcomes:
    """What became of requests that each chose the sample at `place` [M] after its batch `last` [M], charged as a
    session charges them: a batch of k travels in ceil(k / max_n) requests, each of which pays for the prompt.
    """
    table, rows = requests.table, np.arange(len(requests))
    samples = batches.ends[last]
    drawn = int(batches.ends[-1])
    prompts = np.cumsum(-(-np.array(batches.sizes) // table.max_n))[last]
    output = np.cumsum(requests.see(table.output_tokens, drawn), axis=1)[rows, samples - 1]
    seconds = None
    if table.seconds is not None:
        waits = np.maximum.reduceat(requests.see(table.seconds, drawn), batches.ends - batches.sizes, axis=1)
        seconds = np.cumsum(waits, axis=1)[rows, last]
    chosen = requests.order[rows, place]
    prompt_tokens = prompts * table.prompt_tokens[requests.problem]
    return Outcomes(
        correct=np.take(table.correct, chosen),
        chosen=np.take(table.answers, chosen),
        samples=samples,
        prompt_tokens=prompt_tokens,
        output_tokens=output,
        rounds=last + 1,
        seconds=seconds,
        cost_usd=priced(table.price, prompt_tokens, output),
        missing=batches.missed(last, stopped),
    )


def priced(price: Price | None, prompt_tokens: Ints, output_tokens: Ints) -> Floats | None:
    """Dollars, element by element; `None` without a price."""
    if price is None:
        return None
    return (prompt_tokens * price.input_mtok + output_tokens * price.output_mtok) / 1e6


def joined(parts: Sequence[Outcomes], shape: tuple[int, int]) -> Outcomes:
    """Flat parts as one whole of shape [R, P]."""

    def whole(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values).reshape(shape)

    outcomes = {field.name: whole(field.name) for field in fields(Outcomes)}
    if outcomes["missing"] is not None and not outcomes["missing"].any():
        outcomes["missing"] = None
    return Outcomes(**outcomes)
