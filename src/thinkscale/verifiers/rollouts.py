"""The value of a step by where it leads: Monte-Carlo rollouts, with agreement in place of a reference answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from thinkscale.errors import MissingSample, ModelError
from thinkscale.types import Request, Verdict
from thinkscale.verifiers.answers import extract
from thinkscale.verifiers.base import Generate, together
from thinkscale.verifiers.equivalence import Answers
from thinkscale.verifiers.math_worker import MathWorker
from thinkscale.verifiers.steps import Solution


class Rollouts:
    """From the end of each step, `n` continuations; the score is the share of the most frequent answer among them.

    After Math-Shepherd (Wang et al. 2024, eq. 2-3), whose value of a step is the share of rollouts that reach the right
    answer. Deviation: no reference is known here, so the share is that of whichever answer most rollouts agree on.

    It measures how far the model's own answer is settled once the step is written. It does not measure whether that
    answer is right: a confident mistake scores as high as the truth. A rollout without an answer agrees with nobody;
    one that never came, because its call failed, does not count. Answers are compared as the session compares them;
    `math` decides between formulas and may be shared.

    Not judged: a step after which an answer stands behind a marker, since rollouts would only repeat it (also where the
    reply is not finished yet); fewer than two rollouts, because the budget ended or calls failed; rollouts that were
    all cut at `max_tokens` before an answer.

    The session's own model is asked, with the request's parameters but for `temperature` and `max_tokens`. Every
    rollout is charged to the request: n times the rest of a reply, per step.
    """

    name = "rollouts"

    def __init__(
        self, n: int = 4, *, max_tokens: int = 256, temperature: float = 0.8, math: MathWorker | None = None
    ) -> None:
        if n < 2:
            raise ValueError(f"agreement takes at least 2 rollouts, not {n}")
        self._n = n
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._math = math

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        prefixes = ["".join(one.steps[: last + 1]) for one in solutions for last in range(one.judged, len(one.steps))]
        answers = Answers(request.kind, math=self._math)
        try:
            verdicts = iter(await together([self._value(request, prefix, answers, generate) for prefix in prefixes]))
        finally:
            await answers.aclose()
        return [[next(verdicts) for _ in one.steps[one.judged :]] for one in solutions]

    async def _value(self, request: Request, prefix: str, answers: Answers, generate: Generate) -> Verdict:
        # The line break says that the last word is whole.
        if extract(prefix + "\n", request.kind, explicit_only=True) is not None:
            return Verdict(None, reason="the answer is stated: rollouts would only repeat it")
        params = replace(request.params, max_tokens=self._max_tokens, temperature=self._temperature, top_logprobs=None)
        try:
            ends = await generate(replace(request.prompt, prefix=prefix), params, n=self._n)
        except (ModelError, MissingSample) as error:
            return Verdict(None, reason=f"the rollouts failed: {error}")
        if len(ends) < 2:
            return Verdict(None, reason=f"{len(ends)} of {self._n} rollouts came: too few to agree")
        reached = [await answers.canonical(replace(end, text=prefix + end.text)) for end in ends]
        votes = Counter(answer for answer in reached if answer is not None)
        if not votes and not any(end.finished for end in ends):
            return Verdict(None, reason=f"no rollout came to an answer within {self._max_tokens} tokens")
        answer, most = votes.most_common(1)[0] if votes else (None, 0)
        found = f"{most} of {len(ends)} rollouts agree on {answer}" if votes else "no rollout gave an answer"
        return Verdict(most / len(ends), reason=found)
