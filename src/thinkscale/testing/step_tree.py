"""Replies that branch at every step, for tests and benches of step search: the best path is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from thinkscale.testing.reply import Reply
from thinkscale.testing.stub_wire import prefix
from thinkscale.types import Prompt

BLANK_LINE = "\n\n"
_BRANCH = re.compile(r"\bbranch (\d+)")
_LEAST_TOKENS = 5  # "Step 8: branch 417 \boxed{...}"


@dataclass(frozen=True, slots=True)
class StepTree:
    """Replies of `steps` steps of `tokens` tokens each, a blank line between them. Every step draws a branch, evenly
    from [0, branches), and names it.

    A reply's answer is the sum of its branches: `best` is the greatest there is. Each method says all that follows a
    given beginning, which a stop string cuts to one step; after the last step nothing follows.
    """

    steps: int = 8
    tokens: int = 20
    branches: int = 1000

    def __post_init__(self) -> None:
        if self.tokens < _LEAST_TOKENS:
            raise ValueError(f"a step has at least {_LEAST_TOKENS} tokens, not {self.tokens}")

    @property
    def best(self) -> int:
        return self.steps * (self.branches - 1)

    def sample(self, prompt: Prompt, index: int, rng: Random) -> Reply:
        """The script of a `ScriptedModel`."""
        return self.reply(prompt.prefix, rng)

    def choice(self, body: Mapping[str, Any], index: int, rng: Random) -> Reply:
        """The script of a `StubServer`."""
        return self.reply(prefix(body), rng)

    def reply(self, beginning: str, rng: Random) -> Reply:
        """What follows `beginning`, which begins with some of the tree's steps or is empty."""
        taken = branches(beginning)
        text = "" if not taken or beginning.endswith(BLANK_LINE) or len(taken) >= self.steps else BLANK_LINE
        while len(taken) < self.steps:
            taken.append(rng.randrange(self.branches))
            last = len(taken) == self.steps
            head = f"Step {len(taken)}: branch {taken[-1]}"
            tail = f" \\boxed{{{sum(taken)}}}" if last else " on"
            text += head + " and" * (self.tokens - _LEAST_TOKENS) + tail + ("" if last else BLANK_LINE)
        return Reply(text)


def branches(reply: str) -> list[int]:
    """The branches that a reply took so far, one per step."""
    return [int(branch) for branch in _BRANCH.findall(reply)]
