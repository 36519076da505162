"""What more samples of a request promise: the gain in its chance of a right answer, and the tokens that they take."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, Self

from thinkscale.types import Seen

_OWN = 2.0  # samples that the usual length of an answer counts for beside a request's own
_PRICES = 90  # steps over six decades
_ALMOST_FREE = 1e-12  # where all pays, it is still bought for as little as possible


@dataclass(frozen=True, slots=True)
class Prospect:
    """What going on promises: `k` samples next, and in all `gain` more chance of a right answer for `tokens` more."""

    k: int
    gain: float
    tokens: float

    @property
    def rate(self) -> float:
        """Gain per token: what is compared between requests."""
        return self.gain / self.tokens


class Gain(Protocol):
    """Knows what samples are worth. Fitted on a bank; immutable and pure.

    A price is a chance of a right answer per token: what a token must earn to be spent.
    """

    @property
    def features(self) -> frozenset[str]:
        """The fields of `Seen` that it looks at."""
        ...

    @property
    def checks(self) -> bool:
        """Whether samples are to be verified as they come."""
        ...

    def first(self, price: float) -> int:
        """How many samples a new request begins with where tokens have this price."""
        ...

    def prospect(self, seen: Seen, price: float = 0.0) -> Prospect | None:
        """Of a request with one sample at least; `None` where more samples promise nothing. How many come next depends
        on the price, what is promised in all does not.
        """
        ...

    def price(self, tokens: float, at: float = 0.5) -> float:
        """The price at which new requests spend this many tokens each on average; infinite where that is less than a
        request begins with, 0 where all that promises anything is spent for less.

        No one price may do: a little below it, many spend much more. The mean is kept by requests whose `at` are spread
        evenly over [0, 1).
        """
        ...

    def tokens(self, seen: Seen, k: int) -> float:
        """What `k` more samples of this request will take, as far as can be told."""
        ...


@dataclass(frozen=True)
class Lengths:
    """What samples take: `output_tokens` each on average, and a prompt's `prompt_tokens` for every `max_n` of them."""

    prompt_tokens: float
    output_tokens: float
    max_n: int = 1

    def __post_init__(self) -> None:
        if not (self.prompt_tokens >= 0 and self.output_tokens > 0 and self.max_n >= 1):
            raise ValueError("lengths must be positive")

    def output(self, seen: Seen) -> float:
        """Output tokens that one more sample of a request will have: those of its own, drawn towards the usual."""
        return (_OWN * self.output_tokens + seen.output_tokens) / (_OWN + seen.drawn)

    def requests(self, k: int) -> int:
        """The requests in which k samples travel."""
        return -(-k // self.max_n)

    def tokens(self, seen: Seen, k: int) -> float:
        prompt = seen.prompt_tokens or self.prompt_tokens
        return prompt * self.requests(k) + k * self.output(seen)


@dataclass(frozen=True)
class Promise:
    """What a state of the votes promises: `gain`, expected from going on as long as that pays, with `samples` more in
    `requests` more. `batches` says how many come next at which price: (price, k) for prices from that one upwards to
    the one before, largest price first.
    """

    gain: float
    samples: float
    requests: float
    batches: tuple[tuple[float, int], ...]

    def k(self, price: float) -> int:
        return next((k for least, k in self.batches if price >= least), self.batches[-1][1])

    def text(self) -> str:
        steps = " ".join(f"{k}@{price:.3g}" for price, k in self.batches)
        return f"{self.gain:.3g} {self.samples:.3g} {self.requests:.3g} {steps}"

    @classmethod
    def parse(cls, text: str) -> Self:
        gain, samples, requests, *steps = text.split()
        pairs = [step.partition("@") for step in steps]
        if not pairs:
            raise ValueError(f"{text!r} does not say how many samples come next")
        batches = tuple((float(price), int(k)) for k, _, price in pairs)
        return cls(float(gain), float(samples), float(requests), batches)


Votes = tuple[int, int, int]
"""Samples drawn, votes of the leading answer, votes of the runner-up."""


@dataclass(frozen=True)
class VoteGain:
    """The gain of a majority vote from more samples, by the votes so far (after Damani et al. 2024, who predict it from
    the prompt before anything is drawn; here it is read off the votes as they come in).

    Per state of the votes it holds the best ratio of expected gain to expected tokens that any stopping rule reaches
    from there (Gittins' index): a single next sample often cannot change a vote, two or three can. States that are not
    in it promise nothing: never seen, as good as decided, or with as many samples drawn as the bank has, `n`.
    `curve` has (price, tokens that a new request spends on average, samples it begins with), largest price first; each
    holds from its price down to the next.
    """

    n: int
    lengths: Lengths
    states: Mapping[Votes, Promise]
    curve: tuple[tuple[float, float, int], ...]

    features = frozenset({"drawn", "first", "second", "output_tokens", "prompt_tokens"})
    checks = False

    def first(self, price: float) -> int:
        return next((k for most, _, k in reversed(self.curve) if most >= price), self.curve[0][2])

    def prospect(self, seen: Seen, price: float = 0.0) -> Prospect | None:
        promise = self.states.get((seen.drawn, seen.first, seen.second))
        if promise is None:
            return None
        prompt = seen.prompt_tokens or self.lengths.prompt_tokens
        tokens = prompt * promise.requests + self.lengths.output(seen) * promise.samples
        return Prospect(promise.k(price), promise.gain, tokens)

    def price(self, tokens: float, at: float = 0.5) -> float:
        return _priced(tokens, at, [(price, spent) for price, spent, _ in self.curve])

    def tokens(self, seen: Seen, k: int) -> float:
        return self.lengths.tokens(seen, k)

    def body(self) -> dict[str, Any]:
        """As JSON holds it. A state is "drawn first second", what it promises "gain samples requests k@price ..."."""
        return {
            "gain": "votes",
            "n": self.n,
            "prompt_tokens": self.lengths.prompt_tokens,
            "output_tokens": self.lengths.output_tokens,
            "max_n": self.lengths.max_n,
            "curve": [f"{price:.3g} {tokens:.6g} {k}" for price, tokens, k in self.curve],
            "states": {" ".join(map(str, votes)): promise.text() for votes, promise in self.states.items()},
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The same from its body. Raises `KeyError`, `TypeError` or `ValueError` for a body that is not one."""
        curve = []
        for line in body["curve"]:
            price, tokens, k = line.split()
            curve.append((float(price), float(tokens), int(k)))
        states = {}
        for votes, text in body["states"].items():
            drawn, first, second = map(int, votes.split())
            states[drawn, first, second] = Promise.parse(text)
        lengths = Lengths(float(body["prompt_tokens"]), float(body["output_tokens"]), int(body["max_n"]))
        return cls(int(body["n"]), lengths, states, tuple(curve))


@dataclass(frozen=True)
class CoverageGain:
    """The gain where a checker tells a right answer: p(1-p)^(k-1) for the k-th sample of a request whose samples are
    right with chance p (Damani et al. 2024).

    p differs between requests as Beta(`right`, `wrong`) does. After f failures the next sample is right with chance
    right / (right + wrong + f), so that requests which keep failing are given up in favour of fresh ones. `n` is the
    most that a request may draw. A request with a sample that scores 1 is done.
    """

    n: int
    lengths: Lengths
    right: float
    wrong: float

    features = frozenset({"drawn", "verified", "score", "best", "output_tokens", "prompt_tokens"})
    checks = True

    def __post_init__(self) -> None:
        if not (self.right > 0 and self.wrong > 0 and self.n >= 1):
            raise ValueError("right, wrong and n must be positive")

    def chance(self, failures: int, k: int = 1) -> float:
        """That one of k samples is right after so many failures: 1 - E[(1-p)^k]."""
        missed = 1.0
        for more in range(failures, failures + k):
            missed *= (self.wrong + more) / (self.right + self.wrong + more)
        return 1 - missed

    def first(self, price: float) -> int:
        return _plan(self, price).batches[0]

    def prospect(self, seen: Seen, price: float = 0.0) -> Prospect | None:
        if seen.drawn >= self.n or (seen.best or 0.0) >= 1.0:
            return None
        best = _plan(self, math.inf).batches[seen.drawn]
        return Prospect(_plan(self, price).batches[seen.drawn], self.chance(seen.drawn, best), self.tokens(seen, best))

    def price(self, tokens: float, at: float = 0.5) -> float:
        return _priced(tokens, at, self._curve)

    @cached_property
    def _curve(self) -> list[tuple[float, float]]:
        """(price, tokens that a new request spends on average), largest price first."""
        best = self.first(math.inf)
        highest = self.chance(0, best) / self.tokens(Seen(), best)
        curve: list[tuple[float, float]] = []
        for step in range(_PRICES):
            price = 2 * highest * 10 ** (-6 * step / _PRICES)
            tokens = _plan(self, price).tokens
            if not curve or tokens > curve[-1][1]:
                curve.append((price, tokens))
        return curve

    def tokens(self, seen: Seen, k: int) -> float:
        return self.lengths.tokens(seen, k)

    def body(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "gain": "coverage",
            "n": self.n,
            "prompt_tokens": self.lengths.prompt_tokens,
            "output_tokens": self.lengths.output_tokens,
            "max_n": self.lengths.max_n,
            "right": self.right,
            "wrong": self.wrong,
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """The same from its body. Raises `KeyError`, `TypeError` or `ValueError` for a body that is not one."""
        lengths = Lengths(float(body["prompt_tokens"]), float(body["output_tokens"]), int(body["max_n"]))
        return cls(int(body["n"]), lengths, float(body["right"]), float(body["wrong"]))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many samples to draw at a price after 0, 1, ..., n - 1 failures, and the tokens that a new request spends."""

    batches: tuple[int, ...]
    tokens: float


@lru_cache(maxsize=1024)
def _plan(gain: CoverageGain, price: float) -> _Plan:
    """By dynamic programming: the most chance of a right sample less the price of its tokens. A request that does not
    pay begins, and goes on where it is told to, with the batch of the best ratio of chance to tokens; at an infinite
    price they all do.
    """
    worth, spent = [0.0] * (gain.n + 1), [0.0] * (gain.n + 1)
    batches = [0] * gain.n
    price = max(price, _ALMOST_FREE)
    for failures in range(gain.n - 1, -1, -1):
        net, ratio, thrifty = 0.0, -1.0, 1
        missed = 1.0
        for k in range(1, min(gain.lengths.max_n, gain.n - failures) + 1):
            missed *= 1 - gain.chance(failures + k - 1)
            tokens = gain.lengths.tokens(Seen(), k)
            if (1 - missed) / tokens > ratio:
                ratio, thrifty = (1 - missed) / tokens, k
            if (left := 1 - missed - price * tokens + missed * worth[failures + k]) > net:
                net, batches[failures] = left, k
                spent[failures] = tokens + missed * spent[failures + k]
        worth[failures] = net
        batches[failures] = batches[failures] or thrifty
    return _Plan(tuple(batches), spent[0] or gain.lengths.tokens(Seen(), batches[0]))


def gain_of(body: Mapping[str, Any]) -> VoteGain | CoverageGain:
    """The gain of a body, whichever it is. Raises `KeyError`, `TypeError` or `ValueError` for a body that is none."""
    match body["gain"]:
        case "votes":
            return VoteGain.of(body)
        case "coverage":
            return CoverageGain.of(body)
    raise ValueError(f"there is no gain {body['gain']!r}: votes and coverage are known")


def shares(chances: Sequence[float], costs: Sequence[float], total: float) -> list[int]:
    """How many samples each request gets before any is drawn, where a checker picks and p is known: greedily by
    marginal gain per cost, p(1-p)^(k-1) / cost (Damani et al. 2024, algorithm 1).

    Optimal for equal costs up to the last sample, since gains diminish. No sample that promises nothing is given.
    """
    given = [0] * len(chances)
    left = total
    while True:
        rates = [
            p * (1 - p) ** k / cost if cost <= left else 0.0 for p, cost, k in zip(chances, costs, given, strict=True)
        ]
        best = max(range(len(rates)), key=rates.__getitem__, default=None)
        if best is None or rates[best] <= 0:
            return given
        given[best] += 1
        left -= costs[best]


def _priced(tokens: float, at: float, curve: Sequence[tuple[float, float]]) -> float:
    """The price on either side of so much spent, by where `at` falls between the two."""
    place = bisect_right(curve, tokens, key=lambda one: one[1])
    if place == 0:
        return math.inf
    if place == len(curve):
        return 0.0
    (dear, few), (cheap, many) = curve[place - 1], curve[place]
    return cheap if at < (tokens - few) / (many - few) else dear
