"""The frozen data that every layer shares. Standard library only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeVar

_N = TypeVar("_N", int, float)

Message = Mapping[str, Any]
"""One chat message in the OpenAI form. Passed through untouched, tool calls and multi-part content included."""


class AnswerKind(StrEnum):
    """What an answer is, and so how it is found in a text and when two are the same."""

    NUMBER = "number"
    CHOICE = "choice"
    TEXT = "text"
    EXPRESSION = "expression"
    JSON = "json"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: a chat (`messages`), or raw text (`text`) for the completions route; exactly one of them.

    `prefix` is the beginning of the reply, which the model continues instead of starting anew. `key` is kept by
    `prompt_key`.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    prefix: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    key: str | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if bool(self.messages) == (self.text is not None):
            raise ValueError("a prompt is either messages or text: give exactly one, and not an empty one")

    @classmethod
    def of(cls, question: str, *, system: str | None = None) -> Prompt:
        head: tuple[Message, ...] = ({"role": "system", "content": system},) if system else ()
        return cls(messages=(*head, {"role": "user", "content": question}))


@dataclass(frozen=True, slots=True)
class Params:
    """How to sample. `None` leaves a choice to the server.

    `max_tokens` bounds one sample's output tokens; the session lowers it where the budget holds less.
    `top_logprobs`: 0 asks for each token's own log-probability, k > 0 for the k likeliest alternatives too.
    `extra` is merged into the request body as it stands (`top_k`, `response_format`, ...).
    """

    temperature: float | None = 0.8
    top_p: float | None = None
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")

    def drawn(self, max_tokens: int, seed: int) -> Params:
        """The same, for one call; in full, for `replace` takes thrice as long, and every sample needs one."""
        return Params(self.temperature, self.top_p, max_tokens, self.stop, seed, self.top_logprobs, self.extra)


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `confidence` is DeepConf's C_t = -mean(log p) over the top-k alternatives, in nats.

    `top` holds those alternatives as (text, logprob), likeliest first; empty unless they were asked for.
    """

    text: str
    logprob: float
    confidence: float | None = None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What was consumed. Adds up with `+`.

    `calls` counts generations: a request for n samples is n calls, however it travelled. `requests` counts trips to a
    server. `cached_tokens` (prompt tokens the server did not recompute) and `cost_usd` are `None` when unknown.
    `counted` is true where the server's figures were absent or too low and our own count replaced them.
    `reasoning_tokens` are those output tokens that the server says were thinking.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    requests: int = 0
    cached_tokens: int | None = 0
    cost_usd: float | None = 0.0
    counted: bool = False
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            calls=self.calls + other.calls,
            requests=self.requests + other.requests,
            cached_tokens=_sum_known(self.cached_tokens, other.cached_tokens),
            cost_usd=_sum_known(self.cost_usd, other.cost_usd),
            counted=self.counted or other.counted,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        """What is left of a sum without one of its parts; an unknown part leaves an unknown rest."""
        return Usage(
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
            calls=self.calls - other.calls,
            requests=self.requests - other.requests,
            cached_tokens=None,
            cost_usd=None if self.cost_usd is None or other.cost_usd is None else self.cost_usd - other.cost_usd,
            counted=self.counted,
            reasoning_tokens=self.reasoning_tokens - other.reasoning_tokens,
        )


def _sum_known(a: _N | None, b: _N | None) -> _N | None:
    return None if a is None or b is None else a + b


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits on one request; `None` means unlimited. Tokens include verifier, judge and probe calls.

    `max_total_tokens` counts prompt and output tokens of every call. `deadline_s` is wall time from the start of the
    request. `max_calls` counts generations.
    """

    max_output_tokens: int | None = None
    max_total_tokens: int | None = None
    max_cost_usd: float | None = None
    deadline_s: float | None = None
    max_calls: int | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{limit.name} must be positive and finite, not {value}")

    def within(self, other: Budget) -> Budget:
        """The tighter of the two, limit by limit."""
        if other in (_UNLIMITED, self):
            return self
        if self == _UNLIMITED:
            return other

        def tighter(a: Any, b: Any) -> Any:
            return min((x for x in (a, b) if x is not None), default=None)

        return Budget(*(tighter(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


_UNLIMITED = Budget()


@dataclass(frozen=True, slots=True)
class Request:
    """One question to be solved. `seed` makes its samples reproducible where the server honours seeds."""

    prompt: Prompt
    kind: AnswerKind = AnswerKind.TEXT
    params: Params = field(default_factory=Params)
    seed: int = 0
    id: str = "request"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice's output as it arrives. `usage` comes at most once per request, on the last chunk.

    `counted_tokens` is how many tokens this piece is known or, where the server does not say, taken to be.
    `stop_string` comes with the finish reason: the one of `Params.stop` that ended the choice, `None` where none did or
    the server does not tell.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tokens: tuple[Token, ...] = ()
    counted_tokens: int = 0
    finish_reason: str | None = None
    stop_string: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled reply. `path` is its place among the samples: (3,) is the fourth, (3, 0) its first extension.

    `answer` is the canonical form of the final answer, `None` if none was found: two candidates of one session hold
    equal strings exactly when their answers are equivalent, so strategies may count them. `tokens` is empty unless
    log-probabilities were asked for. `finish_reason` is the server's (`stop`, `length`, `tool_calls`), or `cut` when
    a strategy ended it early, or `step` when it was asked for one step and may go on. `stop_string` is the stop string
    that ended it, where the server tells. `prompt` is what it answers. `reasoning_tokens` of its own `output_tokens`
    made up `reasoning`, as far as the server lets them be told apart. A reply that grew from another holds the whole
    in `text`, `prefix_tokens` output tokens of it before its own `output_tokens`; where it grew step by step, `steps`
    are the pieces that make up `text`, else empty.
    """

    path: tuple[int, ...]
    prompt: Prompt
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    stop_string: str | None = None
    output_tokens: int = 0
    reasoning_tokens: int = 0
    prefix_tokens: int = 0
    answer: str | None = None
    steps: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the model ended it itself, rather than a cap, a cut or the end of a step."""
        return self.finish_reason not in ("length", "cut", "step", None)

    @property
    def message(self) -> Message:
        """The reply as an OpenAI assistant message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or (None if self.tool_calls else "")}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's word on one candidate.

    `score` is in [0, 1], higher is better; `None` means "could not judge", which is not a zero. `passed` is a hard
    yes or no where the verifier can give one, else `None`. `reason` is for people. `steps` are the scores of the
    candidate's steps, from a verifier that judges step by step; else empty.
    """

    score: float | None
    passed: bool | None = None
    reason: str = ""
    steps: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """What a strategy decided: the candidate, how sure it is (`None`: cannot tell), and what made it stop."""

    candidate: Candidate
    confidence: float | None = None
    stop_reason: str = "complete"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a controller may look at when it decides what comes next: all that is known of the request so far.

    `drawn` counts finished samples, `votes` how many gave each answer (largest first), `unanswered` those without an
    answer, `capped` those that ended at the token cap. `output_tokens` is what they took together, `prompt_tokens` the
    length of one prompt. `nll` is the mean over samples of their mean negative log-likelihood per token, `leader_nll`
    the same over those that gave the leading answer, in nats rounded to 0.05; `None` where the server gives none.
    `verified` says that the samples are being judged; `score` is then the mean verifier score of the leading answer,
    and `best` the highest of any sample, `None` where nothing could be judged. `affordable` is how many more samples
    the budget surely holds, `None` for any number.
    """

    drawn: int = 0
    votes: tuple[int, ...] = ()
    unanswered: int = 0
    capped: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    nll: float | None = None
    leader_nll: float | None = None
    verified: bool = False
    score: float | None = None
    best: float | None = None
    affordable: int | None = None

    @property
    def first(self) -> int:
        """Votes of the leading answer."""
        return self.votes[0] if self.votes else 0

    @property
    def second(self) -> int:
        """Votes of the runner-up."""
        return self.votes[1] if len(self.votes) > 1 else 0


@dataclass(frozen=True, slots=True)
class Action:
    """What a controller wants next.

    `stop`: answer with the leader. `draw`: `k` more samples, together. `verify`: have all samples judged, the votes of
    the answers then weighted by score. `escalate`: `k` samples of the larger model, whose vote is then the answer.
    `run`: hand over to another strategy, by its words. `reason` is the stop reason that the result will carry,
    `confidence` the chance that the answer is right as the controller knows it (`None`: the share of the votes), and
    `probability` the chance with which a randomizing controller took this action.
    """

    kind: Literal["stop", "draw", "verify", "escalate", "run"]
    k: int = 1
    strategy: str = ""
    reason: str = "complete"
    confidence: float | None = None
    probability: float = 1.0


class Controller(Protocol):
    """Decides, as samples of one request come in, what to do next. Fitted ones are made by a policy.

    `features` names the fields of `Seen` that it looks at: log-probabilities are asked for only where it does. One that
    may `verify` names `score`, one that may `escalate` names `larger`, and one by which ties of the vote go to the
    likelier answer, instead of the one seen first, names `likelihood`.
    """

    @property
    def features(self) -> frozenset[str]: ...

    async def act(self, seen: Seen) -> Action: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy chose for one request: a strategy with its parameters, and the budget it runs under."""

    strategy: str
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Result:
    """The answer and its bill.

    `usage` is everything charged; `usage_by_purpose` splits it into `generate`, `verify` and `probe`.
    `stop_reason`: `complete`, `consensus`, `disagreement`, `verified`, `converged`, or what ended the run early:
    `budget`, `deadline`, `interrupted`. `seconds` is wall time. `candidates` are all finished samples, in index order.
    """

    candidate: Candidate
    confidence: float | None
    stop_reason: str
    usage: Usage
    usage_by_purpose: Mapping[str, Usage]
    seconds: float
    samples: int
    strategy: str
    trace_id: str
    candidates: tuple[Candidate, ...] = ()

    @property
    def answer(self) -> str | None:
        return self.candidate.answer

    @property
    def text(self) -> str:
        return self.candidate.text


def flat(record: Any) -> dict[str, Any]:
    """A dataclass as a dict of its fields, which are not copied: `asdict` does that, at ten times the cost."""
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def derive_seed(seed: int, path: Sequence[int | str]) -> int:
    """A 31-bit seed for one sample, from the request's seed and the sample's path: stable across runs and machines."""
    digest = hashlib.sha256(repr((seed, tuple(path))).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sample_seed(seed: int, siblings: Sequence[int | str], index: int) -> int:
    """The seed of one of many samples: consecutive among siblings, so that whoever holds one sample's seed can tell the
    next one's, whichever of them travel together.
    """
    return (derive_seed(seed, siblings) + index) & 0x7FFFFFFF
