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
        return replace(params, stop=(*params.stop, self.stop)) if self.stop is not None else params

    @property
    def stop(self) -> str | None:
        """The string at which the step ends."""
        return self.step.stop(self.prompt.prefix) if self.step else None

    def prompt_tokens(self, question: int) -> int:
        """About how many prompt tokens it has, given those of the question; for where no budget hangs on it."""
        added = len(self.prompt.prefix.encode()) - len(as_written(self.parent).encode())
        return question + int(self.written * _RETOKENIZED) + added + 16

    def child(self, piece: Candidate, *, tells_stop: bool) -> Candidate | None:
        """What was sampled as a whole reply; `None` for a step of nothing but space: it must be asked for again.

        `tells_stop`: whether the server says which stop string ended a sample. Where it does not, a piece that ended
        by itself is taken to have ended at the boundary: what follows a reply's true end comes back blank each time.
        """
        text = self.prompt.prefix + _piece_as_written(piece, self.prompt.prefix)
        if self.step is None:
            return replace(piece, text=self.prompt.prefix + piece.text, prefix_tokens=self.written)
        before = as_written(self.parent)
        blank = not text[len(before) :].strip() and not piece.tool_calls
        ended = piece.finish_reason == "stop" and self.stop is not None
        if ended and (piece.stop_string == self.stop if tells_stop else True):
            if blank:
                return None
            return self._grown(piece, text, "step", self.stop)
        if blank and piece.finish_reason == "stop":
            return self.ended(piece)
        if piece.finish_reason == "length" and piece.output_tokens < self.usual.max_tokens - self.written:
            return self._grown(piece, text, "step", None)  # as long as a step may be
        return self._grown(piece, text, piece.finish_reason, piece.stop_string)

    def ended(self, piece: Candidate) -> Candidate:
        """The parent's reply as a finished one: nothing but space came after it."""
        return self._grown(piece, as_written(self.parent), "stop", None)

    def again(self) -> Growth:
        """The same growth from behind one more separator."""
        return replace(self, prompt=replace(self.prompt, prefix=self.prompt.prefix + (self.stop or "")))

    def _grown(self, piece: Candidate, text: str, finish_reason: str | None, stop_string: str | None) -> Candidate:
        before = as_written(self.parent)
        steps = self.parent.steps or ((before,) if before else ())
        if text != before:
            steps = (*steps, text[len(before) :])
        return replace(
            piece,
            text=text,
            reasoning="",
            steps=steps,
            prefix_tokens=self.written,
            finish_reason=finish_reason,
            stop_string=stop_string,
        )


def as_written(candidate: Candidate) -> str:
    """The reply as the model wrote it, thinking included, ready to be continued."""
    return f"<think>\n{candidate.reasoning}\n</think>\n{candidate.text}" if candidate.reasoning else candidate.text


def _piece_as_written(piece: Candidate, prefix: str) -> str:
    """A piece behind `prefix`, with its thinking: that goes on where the prefix has opened it, and stays open as long
    as nothing follows it.
    """
    if not piece.reasoning:
        return piece.text
    thinking = "<think>" in prefix and "</think>" not in prefix
    opened = piece.reasoning if thinking else f"<think>\n{piece.reasoning}"
    return f"{opened}\n</think>\n{piece.text}" if piece.text else opened


def beginning(candidate: Candidate, suffix: str) -> str:
    """What a continuation of a reply starts with: the separator at which its last step ended comes first."""
    ended_at = candidate.stop_string if candidate.finish_reason == "step" else None
    return as_written(candidate) + (ended_at or "") + suffix
