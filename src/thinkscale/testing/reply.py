"""What a scripted model or a stub server says: replies whose tokens are known, drawn from a known distribution.

A token here is a word with the whitespace before it; a tool call is one token for its name and one per piece of its
arguments. Both fakes cut replies into the same tokens, so their counts agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from thinkscale.types import Token

_WORD = re.compile(r"\s*\S+")
_ARGUMENTS_PIECE = 8  # characters


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `finish_reason` is the model's own ending; a reply cut by `max_tokens` ends with `length` instead.

    `confidence` (nats) goes to each token, or in order where it is a sequence, whose last value repeats; the
    alternatives are made up to fit it. `top` gives them instead, as (text, logprob) and the same for every token: for a
    judge's one-word reply. `latency_s` is the wait for the first token, `None` for the model's own. `error` breaks the
    reply off after its last token.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    logprob: float = -0.1
    confidence: float | Sequence[float] = 1.0
    top: tuple[tuple[str, float], ...] = ()
    latency_s: float | None = None
    error: Exception | None = None

    def token(self, position: int, text: str, alternatives: int) -> Token:
        """The token at a position with its log-probability and as many alternatives as were asked for."""
        if not alternatives:
            return Token(text, self.logprob)
        if self.top:
            top = self.top[:alternatives]
            return Token(text, dict(top).get(text, self.logprob), -sum(value for _, value in top) / len(top), top)
        confidence = self.confidence
        if not isinstance(confidence, int | float):
            confidence = confidence[min(position, len(confidence) - 1)]
        top = tuple((text + "~" * rank, -float(confidence)) for rank in range(alternatives))
        return Token(text, self.logprob, float(confidence), top)


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a reply: a word of its text or its reasoning, or a delta of a tool call."""

    text: str = ""
    reasoning: str = ""
    tool_call: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """As much of a reply as was asked for, token by token. `stop_string` is what ended it, `None` where nothing did."""

    pieces: list[Piece]
    finish_reason: str
    stop_string: str | None = None


def words(text: str) -> list[str]:
    """The text cut into words with the whitespace before each; joined, they give it back."""
    found = _WORD.findall(text)
    rest = text[sum(map(len, found)) :]
    if rest:
        found[-1:] = [found[-1] + rest] if found else [rest]
    return found


def cut_to(reply: Reply, max_tokens: int | None = None, stop: Sequence[str] = ()) -> Cut:
    """The reply within `max_tokens` and before the first of `stop`."""
    ends = [(at, end) for at, end in ((reply.text.find(end), end) for end in stop if end) if at >= 0]
    at, stop_string = min(ends, default=(len(reply.text), None))
    text = reply.text[:at]
    cut = [Piece(reasoning=word) for word in words(reply.reasoning)]
    cut += [Piece(text=word) for word in words(text)]
    if stop_string is None:
        cut += [piece for index, call in enumerate(reply.tool_calls) for piece in _call_pieces(index, call)]
    if max_tokens is not None and len(cut) > max_tokens:
        return Cut(cut[:max_tokens], "length")
    own = reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    return Cut(cut, own) if stop_string is None else Cut(cut, "stop", stop_string)


def _call_pieces(index: int, call: Mapping[str, Any]) -> list[Piece]:
    """A tool call as servers stream it: its name at once, then its arguments in pieces."""
    function = call["function"]
    arguments: str = function["arguments"]
    head = {**call, "index": index, "function": {**function, "arguments": ""}}
    rest = [arguments[at : at + _ARGUMENTS_PIECE] for at in range(0, len(arguments), _ARGUMENTS_PIECE)]
    return [Piece(tool_call=head)] + [
        Piece(tool_call={"index": index, "function": {"arguments": part}}) for part in rest
    ]


@dataclass(frozen=True, slots=True)
class Answers:
    """A distribution over final answers; the probabilities add up to 1.

    The key `None` is a reply that names no number and no choice (free text always names something).
    """

    probabilities: Mapping[str | None, float]

    def __post_init__(self) -> None:
        values = self.probabilities.values()
        if min(values, default=-1.0) < 0 or not math.isclose(sum(values), 1.0, abs_tol=1e-9):
            raise ValueError(f"answers need probabilities that add up to 1, not {dict(self.probabilities)}")

    def draw(self, rng: Random) -> str | None:
        return rng.choices(list(self.probabilities), list(self.probabilities.values()))[0]


def answering(answer: str | None, tokens: int) -> Reply:
    """A reply of `tokens` tokens that ends with the answer in a box; longer only where the answer itself is."""
    ending = "I cannot tell." if answer is None else f"\\boxed{{{answer}}}"
    filler = ["think"] * max(0, tokens - len(ending.split()))
    return Reply(" ".join([*filler, ending]))
