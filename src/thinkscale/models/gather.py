"""From chunks as they arrive to finished candidates and a counted bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from thinkscale.types import Candidate, Chunk, Prompt, Token, Usage


class Choice:
    """One sample while it is still growing."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.tokens: list[Token] = []
        self.counted_tokens = 0
        self.reasoning_tokens = 0
        self.finish_reason: str | None = None
        self.stop_string: str | None = None
        self._tool_calls: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            self.text.append(chunk.text)
        if chunk.reasoning:
            self.reasoning.append(chunk.reasoning)
            if not chunk.text:
                self.reasoning_tokens += chunk.counted_tokens
        self.tokens.extend(chunk.tokens)
        self.counted_tokens += chunk.counted_tokens
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.stop_string = chunk.stop_string or self.stop_string
        for call in chunk.tool_calls:
            _merge_call(self._tool_calls.setdefault(int(call.get("index", len(self._tool_calls))), {}), call)

    @property
    def tool_calls(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self._tool_calls[index] for index in sorted(self._tool_calls))


def _merge_call(call: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Tool calls stream as deltas: names and arguments in pieces, everything else once."""
    for key, value in delta.items():
        if key == "index" or value is None:
            continue
        if key == "function":
            function = call.setdefault("function", {})
            for name, piece in value.items():
                if piece is not None:
                    function[name] = function.get(name, "") + piece if isinstance(piece, str) else piece
        else:
            call[key] = value


class Gathering:
    """The samples of one model request.

    Output tokens are the larger of what the server reports and what was seen to arrive: some servers bill the last of
    n samples for all of them, some report nothing.
    """

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}
        self._reported: Usage | None = None

    def add(self, chunk: Chunk) -> Choice:
        if chunk.usage is not None:
            self._reported = chunk.usage
        choice = self.choices.setdefault(chunk.index, Choice())
        choice.add(chunk)
        return choice

    def candidate(self, index: int, prompt: Prompt, path: tuple[int, ...]) -> Candidate:
        """One sample as it stands; without a finish reason it was cut."""
        choice = self.choices[index]
        reported = self._reported if self._reported and len(self.choices) == 1 else Usage()
        return Candidate(
            path=path,
            prompt=prompt,
            text="".join(choice.text),
            reasoning="".join(choice.reasoning),
            tool_calls=choice.tool_calls,
            tokens=tuple(choice.tokens),
            finish_reason=choice.finish_reason or "cut",
            stop_string=choice.stop_string,
            output_tokens=max(reported.output_tokens, choice.counted_tokens),
            reasoning_tokens=max(reported.reasoning_tokens, choice.reasoning_tokens),
        )

    def usage(self, prompt_tokens: int, *, calls: int = 0) -> Usage:
        """The bill for `calls` samples, or for those that came where they are more.

        `prompt_tokens` stands in where the server reported none.
        """
        counted = sum(choice.counted_tokens for choice in self.choices.values())
        calls = max(len(self.choices), calls, 1)
        reported = self._reported
        if reported is None or not reported.prompt_tokens:
            output = max(reported.output_tokens if reported else 0, counted)
            return Usage(prompt_tokens, output, calls, 1, None, None, counted=True)
        bill = replace(reported, calls=calls, requests=1, cost_usd=None)
        if counted > reported.output_tokens:
            return replace(bill, output_tokens=counted, counted=True)
        return bill
