"""A language model as a judge (Zheng et al. 2023), by the probability of its "Yes" (Zhang et al. 2024)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from thinkscale.errors import MissingSample, ModelError
from thinkscale.models.base import Model
from thinkscale.types import Candidate, Params, Prompt, Request, Token, Verdict
from thinkscale.verifiers.answers import without_thinking
from thinkscale.verifiers.base import Generate, together

Mode = Literal["yes-no", "score"]

_CASE = """\
Here are a question and a reply to it.

<question>
{question}
</question>

<reply>
{reply}
</reply>

"""
_ASK = {
    "yes-no": "Is the final answer of the reply correct? Answer with one word, Yes or No.",
    "score": (
        "How good is the reply? Check it briefly, then finish with one line 'Score: N', where N is from 0 (certainly "
        "wrong) to 10 (certainly right)."
    ),
}
_LEAD = {"yes-no": "\nAnswer:", "score": "\nCheck:"}
_PARAMS = {
    "yes-no": Params(temperature=0.0, max_tokens=4, top_logprobs=20),
    "score": Params(temperature=0.0, max_tokens=256),
}


class Judge:
    """Asks a model about each candidate; `model=None` asks the session's own.

    `yes-no` scores P(yes) / (P(yes) + P(no)) at the first word of the judge's reply; where that has no alternatives or
    is another word, 1 or 0 by the words. `score` asks for a mark out of 10, divided by 10. By default it is `yes-no`,
    but `score` for a given model without log-probabilities. What cannot be read, or asked, is not judged. A judge
    never sets `passed`: its word is a score.
    """

    name = "judge"

    def __init__(self, model: Model | None = None, *, mode: Mode | None = None) -> None:
        self._model = model
        self._mode = mode

    @property
    def mode(self) -> Mode:
        """Which question it asks. A model may learn its capabilities on opening, so it is looked up each time."""
        if self._mode is not None:
            return self._mode
        return "yes-no" if self._model is None or self._model.capabilities.logprobs else "score"

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        return await together([self._judge(request, candidate, generate) for candidate in candidates])

    async def _judge(self, request: Request, candidate: Candidate, generate: Generate) -> Verdict:
        mode = self.mode
        try:
            replies = await generate(self._prompt(request, candidate, mode), self._params(mode), model=self._model)
        except (ModelError, MissingSample) as error:
            return Verdict(None, reason=f"the judge failed: {error}")
        if not replies:
            return Verdict(None, reason="the budget ended before the judge could be asked")
        score = read_yes_no(replies[0]) if mode == "yes-no" else read_score(replies[0].text)
        if score is None:
            return Verdict(None, reason=f"the judge gave neither yes, no nor a score: {replies[0].text[:80]!r}")
        return Verdict(score, reason=without_thinking(replies[0].text).strip())

    def _params(self, mode: Mode) -> Params:
        blind = self._model is not None and not self._model.capabilities.logprobs
        return Params(temperature=0.0, max_tokens=4) if mode == "yes-no" and blind else _PARAMS[mode]

    def _prompt(self, request: Request, candidate: Candidate, mode: Mode) -> Prompt:
        reply = candidate.text or json.dumps([dict(call) for call in candidate.tool_calls])
        case = _CASE.format(question=question_of(request.prompt), reply=reply) + _ASK[mode]
        if self._model is None and request.prompt.text is not None:
            return Prompt(text=case + _LEAD[mode])  # its own model, asked on the route that is known to work
        return Prompt.of(case)


def question_of(prompt: Prompt) -> str:
    """What was asked, as text; a conversation with its roles. Images and the like are only named."""
    if prompt.text is not None:
        return prompt.text
    spoken = [(str(message.get("role", "user")), _text_of(message.get("content"))) for message in prompt.messages]
    asked = [text for role, text in spoken if role == "user"]
    if len(asked) == 1 and all(role in ("system", "developer", "user") for role, _ in spoken):
        return asked[0]
    return "\n\n".join(f"{role}: {text}" for role, text in spoken)


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content or ()
    return "\n".join(str(part.get("text", f"[{part.get('type', 'attachment')}]")) for part in parts)


def read_yes_no(reply: Candidate) -> float | None:
    """P(yes) against P(no) where the reply's first word is one of them, else what the words say; `None` if neither."""
    weighed = _weigh(reply.tokens)
    if weighed is not None:
        return weighed
    said = {match[1].casefold() for match in _YES_NO.finditer(without_thinking(reply.text))}
    return float(said == {"yes"}) if len(said) == 1 else None


# Standing for itself: "No, because" and "I say yes." but not "there are no errors".
_YES_NO = re.compile(r"(?<!\w)(yes|no)(?=\W*\Z|[*_\"']*[.,:;!\n])", re.IGNORECASE)


def _weigh(tokens: Sequence[Token]) -> float | None:
    first = next((token for token in tokens if _word(token.text)), None)
    if first is None or _word(first.text) not in ("yes", "no"):
        return None
    mass = {"yes": 0.0, "no": 0.0}
    for text, logprob in first.top:
        if _word(text) in mass:
            mass[_word(text)] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    return mass["yes"] / total if total else None


def _word(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


_SCORE = re.compile(
    r"\bscore\b(?:\s+is)?[\s:=*_]*(\d+(?:\.\d+)?)(?![\d%])|(?<![\d.])(\d+(?:\.\d+)?)\s*/\s*10\b", re.IGNORECASE
)


def read_score(text: str) -> float | None:
    """The last `Score: 7` or `7/10` in the text (or a bare number), divided by 10; `None` if there is none in range."""
    text = without_thinking(text).strip()
    found = [match[1] or match[2] for match in _SCORE.finditer(text)] or re.findall(r"\A\W*(\d+(?:\.\d+)?)\W*\Z", text)
    if not found or float(found[-1]) > 10:
        return None
    return float(found[-1]) / 10
