"""Where a step of reasoning ends: the unit by which a search grows a reply and a verifier reads it.

A step begins with the separator that sets it off, so that a reply is exactly the sum of its steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["auto", "blank-line", "line", "step", "numbered", "thinking", "tokens"]

_LONGEST = 256  # tokens; a step that does not end by then is one all the same
_TOKENS = 64  # a step of a model that sets nothing off
_WORDS_TO_TOKENS = 0.75
_KINDS: tuple[Kind, ...] = ("auto", "blank-line", "line", "step", "numbered", "thinking", "tokens")
_SECOND = r"(?:[2-9]|\d\d+)"  # what comes before the first heading belongs to the first step
_SPLITS = {
    "blank-line": re.compile(r"(?=\n\n)"),
    "line": re.compile(r"(?=\n)"),
    "step": re.compile(rf"(?=Step {_SECOND}\b)"),
    "numbered": re.compile(rf"(?=\n{_SECOND}\. )"),
    "thinking": re.compile(r"(?=</think>)"),
}
_STEP = re.compile(r"Step (\d+)\b")
_ITEM = re.compile(r"(?:\A|\n)(\d+)\. ")


@dataclass(frozen=True, slots=True)
class Boundary:
    """What separates steps: a blank line, a line break, the heading of the next "Step k", the next numbered item, the
    end-of-thinking tag, or a number of tokens.

    No step has more than `tokens` tokens. `auto` stands for whichever kind the model's own output shows (`found_in`).
    Typed, it is `line`, `line/100` (the most tokens of a step), or a number of tokens.
    """

    kind: Kind = "auto"
    tokens: int = _LONGEST

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError("a step has at least 1 token")

    @classmethod
    def parse(cls, text: str) -> Boundary:
        if text.isdecimal():
            return cls("tokens", int(text))
        name, slash, most = text.partition("/")
        kind = next((kind for kind in _KINDS if kind == name), None)
        if kind is None or kind == "tokens" or (slash and not most.isdecimal()):
            kinds = ", ".join(kind for kind in _KINDS if kind != "tokens")
            raise ValueError(
                f"a step ends at one of {kinds} (line/100: after 100 tokens at most) or is a number of tokens"
            )
        return cls(kind, int(most)) if slash else cls(kind)

    def __str__(self) -> str:
        if self.kind == "tokens":
            return str(self.tokens)
        return self.kind if self.tokens == _LONGEST else f"{self.kind}/{self.tokens}"

    def stop(self, reply: str) -> str | None:
        """The string at which the next step of `reply` ends; `None` where only its length or the reply's end does."""
        match self.kind:
            case "blank-line":
                return "\n\n"
            case "line":
                return "\n"
            case "step":
                return f"Step {_last(_STEP, reply) + 1}"
            case "numbered":
                return f"\n{_last(_ITEM, reply) + 1}. "
            case "thinking":
                return None if "</think>" in reply else "</think>"
            case _:
                return None

    def split(self, text: str) -> tuple[str, ...]:
        """The steps of a finished text: their sum is the text, and each holds more than space."""
        if self.kind == "auto":
            return self.found_in(text).split(text)
        if self.kind == "tokens":
            size = max(1, round(self.tokens * _WORDS_TO_TOKENS))
            words = re.findall(r"\s*\S+|\s+", text)
            pieces = ["".join(words[first : first + size]) for first in range(0, len(words), size)]
        else:
            pieces = _SPLITS[self.kind].split(text)
        steps: list[str] = []
        for piece in pieces:
            if steps and not (piece.strip() and steps[-1].strip()):
                steps[-1] += piece
            else:
                steps.append(piece)
        return tuple(steps) if text.strip() else ()

    def found_in(self, text: str) -> Boundary:
        """The boundary that a reply's own form shows, if this one is `auto`: the coarsest kind that gives at least
        three steps (two, if none gives three), else a number of tokens.
        """
        if self.kind != "auto":
            return self
        for least in (3, 2):
            for kind in ("step", "blank-line", "numbered", "line"):
                found = Boundary(kind, self.tokens)
                if len(found.split(text)) >= least:
                    return found
        return Boundary("tokens", min(self.tokens, _TOKENS))


def _last(heading: re.Pattern[str], reply: str) -> int:
    """The number of the last heading; before the first, 1: what comes first belongs to the first step."""
    return max((int(number) for number in heading.findall(reply)), default=1)
