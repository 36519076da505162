"""A language model as a judge of single steps: the probability that it calls a step correct."""

from __future__ import annotations

from collections.abc import Sequence

from thinkscale.errors import MissingSample, ModelError
from thinkscale.models.base import Model
from thinkscale.types import Params, Prompt, Request, Verdict
from thinkscale.verifiers.base import Generate, together
from thinkscale.verifiers.judge import question_of, read_yes_no
from thinkscale.verifiers.steps import Solution

_QUESTION = """\
Here are a question and the first steps of a reply to it.

<question>
{question}
</question>
"""
_STEP = """
<step>
{step}
</step>
"""
_ASK = """
Is the last step correct, given the question and the steps before it? Answer with one word, Yes or No."""
_LEAD = "\nAnswer:"
_PARAMS = Params(temperature=0.0, max_tokens=4, top_logprobs=20)


class StepJudge:
    """Asks a model about each step; `model=None` asks the session's own.

    The score is P(yes) / (P(yes) + P(no)) at the first word of the reply, as in GenRM (Zhang et al. 2024) but for a
    step; by the words, 1 or 0, where there are no alternatives. Every step is written as it will be when it is an
    earlier step of the next one, and the ask comes last: a server with a prefix cache reads each step once. What cannot
    be read, or asked, is not judged. It never sets `passed`: its word is a score.
    """

    name = "step-judge"

    def __init__(self, model: Model | None = None) -> None:
        self._model = model

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        places = [(one, last) for one in solutions for last in range(one.judged, len(one.steps))]
        verdicts = iter(await together([self._judge(request, one.steps[: last + 1], generate) for one, last in places]))
        return [[next(verdicts) for _ in one.steps[one.judged :]] for one in solutions]

    async def _judge(self, request: Request, steps: Sequence[str], generate: Generate) -> Verdict:
        try:
            replies = await generate(self._prompt(request, steps), _PARAMS, model=self._model)
        except (ModelError, MissingSample) as error:
            return Verdict(None, reason=f"the judge failed: {error}")
        if not replies:
            return Verdict(None, reason="the budget ended before the judge could be asked")
        score = read_yes_no(replies[0])
        if score is None:
            return Verdict(None, reason=f"the judge said neither yes nor no: {replies[0].text[:80]!r}")
        return Verdict(score, reason=f"P(yes) = {score:.2f}")

    def _prompt(self, request: Request, steps: Sequence[str]) -> Prompt:
        case = _QUESTION.format(question=question_of(request.prompt))
        case += "".join(_STEP.format(step=step.strip()) for step in steps) + _ASK
        if self._model is None and request.prompt.text is not None:
            return Prompt(text=case + _LEAD)  # its own model, asked on the route that is known to work
        return Prompt.of(case)
