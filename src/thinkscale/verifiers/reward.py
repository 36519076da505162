"""Reward models: process reward models (PRM) score each step, outcome reward models (ORM) the whole reply."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from thinkscale.accounting import Price
from thinkscale.errors import BudgetExhausted, MissingSample, ModelError, ModelRefused, ModelUnavailable
from thinkscale.models.base import Model
from thinkscale.models.pooling import PoolingServer, Reading
from thinkscale.types import Candidate, Message, Params, Prompt, Request, Token, Verdict
from thinkscale.verifiers.base import Generate, Metered, together
from thinkscale.verifiers.judge import question_of
from thinkscale.verifiers.steps import Solution

Style = Literal["qwen", "math-shepherd"]
"""How a process reward model wants to read a solution, and where it speaks."""

_BATCH = 16  # inputs in one request: what one refusal or the end of the budget costs
_ITS_FAULT = (400, 413, 422)  # statuses that mean this request, not every one
_OFF_ONE = 0.02  # half precision: two probabilities add up to 1 within this


@dataclass(frozen=True, slots=True)
class _Layout:
    """`mark` is the token at which the model judges the step before it, `good` the class that means right."""

    mark: str
    good: int
    text: Callable[[str, Sequence[str]], str]


def _qwen(question: str, steps: Sequence[str]) -> str:
    return (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n"
        f"<|im_start|>assistant\n{''.join(step + '<extra_0>' for step in steps)}<|im_end|>\n"
    )


def _math_shepherd(question: str, steps: Sequence[str]) -> str:
    return f"{question} " + "\n".join(f"{step} ки" for step in steps)


_LAYOUTS: dict[Style, _Layout] = {
    "qwen": _Layout("<extra_0>", 1, _qwen),
    "math-shepherd": _Layout("ки", 0, _math_shepherd),
}


class ProcessReward:
    """A discriminative process reward model behind vLLM's `/pooling`: all steps of a solution in one pass.

    `qwen` (Qwen2.5-Math-PRM, Zhang et al. 2025): P(class 1) at the `<extra_0>` after each step, in the model's own chat
    template. `math-shepherd` (Wang et al. 2024): P(+) against P(-) at the `ки` after each step; the server must have
    made classes of those two tokens, `+` first (`classifier_from_token`; what `returned_token_ids` gives instead is no
    pair of probabilities, and refused). The server may give a row per step, or one per token, of which those at the
    marks are read.

    Solutions travel together, 16 to a request; where the server refuses such a batch, each is asked for alone. The
    tokens read are counted first, held on the request's budget, and charged at `price` (`None`: unknown). A server that
    fails, counts other marks than steps, or gives what are no probabilities has not judged: the reason says which.
    """

    name = "prm"

    def __init__(self, server: PoolingServer, *, style: Style = "qwen", price: Price | None = None) -> None:
        self._server = server
        self._layout = _LAYOUTS[style]
        self._price = price
        self._mark: int | None = None

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        meter = _metered(generate)
        question = question_of(request.prompt)
        told = await together(
            [
                self._batch(question, [one.steps for one in solutions[first : first + _BATCH]], meter)
                for first in range(0, len(solutions), _BATCH)
            ]
        )
        scored = [scores for batch in told for scores in batch]
        return [_verdicts(one, scores) for one, scores in zip(solutions, scored, strict=True)]

    async def _batch(self, question: str, replies: Sequence[tuple[str, ...]], meter: Metered) -> list[_Scores]:
        """The scores of all steps of each reply, or why there are none."""
        try:
            texts = await together([self._marked(question, steps) for steps in replies])
        except ModelError as error:
            return [f"the reward model failed: {error}"] * len(replies)
        fit = [text for text in texts if isinstance(text, _Marked)]
        scores = iter(await self._read(fit, meter))
        return [next(scores) if isinstance(text, _Marked) else text for text in texts]

    async def _marked(self, question: str, steps: Sequence[str]) -> _Marked | str:
        text = self._layout.text(question, [step.strip() for step in steps])
        if self._mark is None:
            self._mark = (await self._server.tokens(self._layout.mark, special=False))[-1]
        ids = await self._server.tokens(text)
        marks = tuple(place for place, one in enumerate(ids) if one == self._mark)
        if len(marks) != len(steps):
            return f"{self._server.name} reads {len(marks)} separators {self._layout.mark} for {len(steps)} steps"
        return _Marked(text, len(ids), marks)

    async def _read(self, texts: Sequence[_Marked], meter: Metered) -> list[_Scores]:
        if not texts:
            return []
        tokens = sum(text.tokens for text in texts)
        try:
            reading = await _paid(
                lambda: self._server.pooling([text.text for text in texts]), tokens, self._price, meter
            )
        except BudgetExhausted:
            return ["the budget ended before the reward model could be asked"] * len(texts)
        except ModelRefused as error:
            if (
                len(texts) > 1 and error.status in _ITS_FAULT
            ):  # one that is too long must not cost the others their scores
                return [scores for text in texts for scores in await self._read([text], meter)]
            return [f"the reward model failed: {error}"] * len(texts)
        except ModelError as error:
            return [f"the reward model failed: {error}"] * len(texts)
        return [self._scores(text, rows) for text, rows in zip(texts, reading.rows, strict=True)]

    def _scores(self, text: _Marked, rows: Sequence[Sequence[float]]) -> _Scores:
        if len(rows) == text.tokens:
            rows = [rows[mark] for mark in text.marks]
        if len(rows) != len(text.marks):
            return f"{self._server.name} gave {len(rows)} scores for {len(text.marks)} steps of {text.tokens} tokens"
        if not all(_is_pair(row) for row in rows):
            return f"{self._server.name} gave {list(rows[0])} where two probabilities were due"
        return [min(1.0, row[self._layout.good]) for row in rows]


@dataclass(frozen=True, slots=True)
class _Marked:
    """A text as the server reads it: how many tokens, and the places of those that stand behind its steps."""

    text: str
    tokens: int
    marks: tuple[int, ...]


_Scores = list[float] | str
"""One score per step, or the reason why there is none."""


class PlusMinusReward:
    """A process reward model that says "+" or "-" after each step (RLHFlow, Xiong et al. 2024), on any chat server.

    Each step is a user turn, the question before the first, and every earlier one was answered "+". The score is
    P(+) / (P(+) + P(-)) at the first token of the reply. One call per step; a server with a prefix cache reads each
    step once. A step where neither sign is among the 20 likeliest tokens is not judged.
    """

    name = "prm"

    def __init__(self, model: Model) -> None:
        self._model = model

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        question = question_of(request.prompt)
        places = [(one, last) for one in solutions for last in range(one.judged, len(one.steps))]
        verdicts = iter(
            await together([self._judge(question, one.steps[: last + 1], generate) for one, last in places])
        )
        return [[next(verdicts) for _ in one.steps[one.judged :]] for one in solutions]

    async def _judge(self, question: str, steps: Sequence[str], generate: Generate) -> Verdict:
        turns: list[Message] = []
        for place, step in enumerate(steps):
            said = step.strip()
            turns.append({"role": "user", "content": said if place else f"{question} {said}"})
            turns.append({"role": "assistant", "content": "+"})
        try:
            replies = await generate(Prompt(messages=tuple(turns[:-1])), _SIGN, model=self._model)
        except (ModelError, MissingSample) as error:
            return Verdict(None, reason=f"the reward model failed: {error}")
        if not replies:
            return Verdict(None, reason="the budget ended before the reward model could be asked")
        score = _plus(replies[0].tokens)
        if score is None:
            return Verdict(None, reason=f"neither + nor - is likely in {self._model.name}'s reply: {replies[0].text!r}")
        return Verdict(score)


_SIGN = Params(temperature=0.0, max_tokens=1, top_logprobs=20)


def _plus(tokens: Sequence[Token]) -> float | None:
    mass = {"+": 0.0, "-": 0.0}
    for text, logprob in tokens[0].top if tokens else ():
        if text.strip() in mass:
            mass[text.strip()] += math.exp(logprob)
    total = mass["+"] + mass["-"]
    return mass["+"] / total if total else None


class OutcomeReward:
    """An outcome reward model behind vLLM's `/classify`: one score for a whole reply, in the server's own template.

    With one class the score is its (sigmoid) value, with two the probability of the second. One request per candidate,
    as a conversation cannot be batched on that route. Tokens are counted, held and charged as by `ProcessReward`.
    """

    name = "orm"

    def __init__(self, server: PoolingServer, *, price: Price | None = None) -> None:
        self._server = server
        self._price = price

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        meter = _metered(generate)
        return await together([self._judge(request.prompt, candidate, meter) for candidate in candidates])

    async def _judge(self, prompt: Prompt, candidate: Candidate, meter: Metered) -> Verdict:
        asked = prompt.messages or ({"role": "user", "content": prompt.text},)
        messages = (*asked, candidate.message)
        try:
            tokens = len(await self._server.chat_tokens(messages))
            reading = await _paid(lambda: self._server.classify(messages), tokens, self._price, meter)
        except BudgetExhausted:
            return Verdict(None, reason="the budget ended before the reward model could be asked")
        except ModelError as error:
            return Verdict(None, reason=f"the reward model failed: {error}")
        row = reading.rows[0][0]
        if not (_is_pair(row) or (len(row) == 1 and 0 <= row[0] <= 1)):
            return Verdict(None, reason=f"{self._server.name} gave {list(row)} where one or two probabilities were due")
        return Verdict(min(1.0, row[-1]))


async def _paid(trip: Callable[[], Awaitable[Reading]], tokens: int, price: Price | None, meter: Metered) -> Reading:
    """One trip, charged at what was counted or, if more, what the server says; nothing where it surely read nothing."""
    async with meter.charge(tokens, price=price) as charge:
        try:
            reading = await trip()
        except ModelError as error:
            if not isinstance(error, ModelUnavailable) or error.status is not None or not error.sent:
                charge.settle(0)
            raise
        charge.settle(max(tokens, reading.prompt_tokens or 0))
        return reading


def _metered(generate: Generate) -> Metered:
    if not isinstance(generate, Metered):
        raise TypeError("a reward model needs a `generate` that can charge what it reads")
    return generate


def _is_pair(row: Sequence[float]) -> bool:
    return len(row) == 2 and min(row) >= 0 and abs(sum(row) - 1) <= _OFF_ONE


def _verdicts(solution: Solution, scores: _Scores) -> list[Verdict]:
    if isinstance(scores, str):
        return [Verdict(None, reason=scores)] * (len(solution.steps) - solution.judged)
    return [Verdict(score) for score in scores[solution.judged :]]
