"""How one reply grows from another: what is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thinkscale.steps import Boundary
from thinkscale.types import Candidate, Params, Prompt

_RETOKENIZED = 1.05  # a text read back may have a few more tokens than it was written in


@dataclass(frozen=True, slots=True)
class Growth:
    """The continuation of `parent`, by one `step` or to its end, from the beginning that `prompt.prefix` holds.

    The `usual` parameters are the request's: their `max_tokens` bounds the whole reply. Those of the `special` ones, if
    any, bounds the piece.
    """

    parent: Candidate
    prompt: Prompt
    step: Boundary | None
    usual: Params
    special: Params | None = None

    @property
    def written(self) -> int:
        """Output tokens of the reply so far."""
        return self.parent.prefix_tokens + self.parent.output_tokens

    @property
    def room(self) -> int:
        """Most output tokens of the piece; below 1 the reply is as long as it may be."""
        rest = self.usual.max_tokens - self.written
        if self.step is None:
            return self.special.max_tokens if self.special else rest
        return min(rest, self.step.tokens, self.special.max_tokens if self.special else rest)

    @property
    def params(self) -> Params:
        params = replace(self.special or self.usual, max_tokens=self.room)
        stop = self._stop
        return replace(params, stop=(*params.stop, stop)) if stop is not None else params

    def prompt_tokens(self, question: int) -> int:
        """About how many prompt tokens it has at most, given those of the question."""
        added = len(self.prompt.prefix.encode()) - len(reply_so_far(self.parent).encode())
        return question + int(self.written * _RETOKENIZED) + added + 16

    def child(self, piece: Candidate, *, tells_stop: bool) -> Candidate:
        """What was sampled as a whole reply. `tells_stop`: whether the server says which stop string ended it.

        Where it does not, a piece that ended by itself is taken to have ended at the boundary unless it is empty: one
        that follows the reply's true end comes back empty.
        """
        before = reply_so_far(self.parent)
        whole = replace(piece, text=self.prompt.prefix + piece.text, prefix_tokens=self.written)
        if self.step is None:
            return whole
        steps = (before,) if self.parent.reasoning else self.parent.steps or ((before,) if before else ())
        reason, stop = piece.finish_reason, self._stop
        at_boundary = piece.stop_string == stop if tells_stop else bool(piece.text)
        if reason == "stop" and stop is not None and at_boundary:
            reason = "step"
            whole = replace(whole, stop_string=stop)
        elif reason == "length" and piece.output_tokens < self.usual.max_tokens - self.written:
            reason = "step"  # as long as a step may be
        elif not (piece.text.strip() or piece.reasoning or piece.tool_calls):
            return replace(whole, text=before, steps=steps)  # the reply had ended already
        return replace(whole, finish_reason=reason, steps=(*steps, whole.text[len(before) :]))

    @property
    def _stop(self) -> str | None:
        return self.step.stop(self.prompt.prefix) if self.step else None


def reply_so_far(candidate: Candidate) -> str:
    """The reply as the model wrote it, thinking included, ready to be continued."""
    return f"<think>\n{candidate.reasoning}\n</think>\n{candidate.text}" if candidate.reasoning else candidate.text


def beginning(candidate: Candidate, suffix: str) -> str:
    """What a continuation of a reply starts with: the separator at which its last step ended comes first."""
    ended_at = candidate.stop_string if candidate.finish_reason == "step" and not candidate.reasoning else None
    return reply_so_far(candidate) + (ended_at or "") + suffix
