"""The verifiers that run nothing: check, judge, confidence."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from thinkscale.errors import ModelUnavailable
from thinkscale.models.base import BaseModel, Capabilities, Model
from thinkscale.testing import ScriptedModel
from thinkscale.types import AnswerKind, Candidate, Params, Prompt, Request, Token, Verdict
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.confidence import ConfidenceVerifier
from thinkscale.verifiers.judge import Judge, question_of, read_score, read_yes_no

REQUEST = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER)


def reply(text: str, index: int = 0, **fields: Any) -> Candidate:
    return Candidate((index,), REQUEST.prompt, text, **{"finish_reason": "stop", **fields})


class Asked:
    """A `generate` that answers by rule and remembers what it was asked."""

    def __init__(self, answer: Callable[[str], list[Candidate]]) -> None:
        self.answer = answer
        self.calls: list[tuple[Prompt, Params, Model | None]] = []

    async def __call__(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]:
        assert n == 1
        self.calls.append((prompt, params, model))
        await asyncio.sleep(0)
        return self.answer(prompt.messages[-1]["content"] if prompt.messages else str(prompt.text))


async def silent(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
    raise AssertionError("this verifier asks no model")


async def judged(verifier: Verifier, candidates: Sequence[Candidate], generate: Any = silent) -> list[Verdict]:
    return list(await verifier.verify(REQUEST, candidates, generate))


# -- checker ------------------------------------------------------------------------------------------------------


async def test_a_check_sees_the_candidates_own_answer() -> None:
    seen = []

    def check(answer: str) -> bool | None:
        seen.append(answer)
        return None if answer == "0" else answer == "7"

    candidates = [
        # `answer` may be another candidate's form of the same; what was written counts.
        reply("Answer: 7.0", answer="seven"),
        reply("Answer: 8"),
        reply("Answer: 0"),
        reply("I do not know."),
        reply("It is 7", finish_reason="length"),
    ]
    verdicts = await judged(CheckerVerifier(check), candidates)
    assert seen == ["7", "8", "0"]
    assert [(verdict.score, verdict.passed) for verdict in verdicts] == [
        (1.0, True),
        (0.0, False),
        (None, None),
        (None, None),
        (None, None),
    ]


async def test_a_failing_check_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await judged(CheckerVerifier(lambda answer: bool(1 // 0)), [reply("7")])


# -- confidence ---------------------------------------------------------------------------------------------------


async def test_confidence_is_the_geometric_mean_probability() -> None:
    tokens = (Token("a", math.log(0.5)), Token("b", math.log(0.125)))
    certain = (Token("a", 0.0), Token("b", 1e-6))  # some servers round above 0
    verdicts = await judged(
        ConfidenceVerifier(), [reply("ab", tokens=tokens), reply("ab", tokens=certain), reply("ab")]
    )
    assert verdicts[0].score == pytest.approx(0.25)
    assert verdicts[1].score == 1.0
    assert verdicts[2].score is None
    assert {verdict.passed for verdict in verdicts} == {None}


# -- judge --------------------------------------------------------------------------------------------------------


def said(text: str, *tops: dict[str, float]) -> Candidate:
    """A judge's reply; `tops` gives each of its words' alternatives with their probabilities."""
    tokens = [
        Token(
            max(top, key=lambda word: top[word]),
            math.log(max(top.values())),
            None,
            tuple((w, math.log(p)) for w, p in top.items()),
        )
        for top in tops
    ]
    return reply(text, tokens=tuple(tokens))


async def test_the_judge_scores_by_the_probability_of_yes() -> None:
    answer = {
        "7": said(" Yes", {" Yes": 0.5, "yes": 0.1, "YES": 0.1, " No": 0.1, "no": 0.1, " Maybe": 0.1}),
        "8": said("No.", {"No": 0.9, "Yes": 0.1}, {".": 1.0}),
    }
    generate = Asked(lambda text: [answer["7" if "Answer: 7" in text else "8"]])
    verdicts = await judged(Judge(), [reply("Answer: 7"), reply("Answer: 8")], generate)
    assert [verdict.score for verdict in verdicts] == [pytest.approx(0.7 / 0.9), pytest.approx(0.1)]
    assert [verdict.passed for verdict in verdicts] == [None, None]
    prompt, params, model = generate.calls[0]
    assert "What is 3 + 4?" in prompt.messages[0]["content"]
    assert (params.temperature, params.max_tokens, params.top_logprobs, model) == (0.0, 4, 20, None)


async def test_all_candidates_are_judged_at_once() -> None:
    together = asyncio.Barrier(3)

    async def generate(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
        async with asyncio.timeout(5):
            await together.wait()
        return [reply("Yes")]

    assert [verdict.score for verdict in await judged(Judge(), [reply("7")] * 3, generate)] == [1.0] * 3


async def test_a_failed_or_missing_judgement_is_no_zero() -> None:
    def answer(text: str) -> list[Candidate]:
        if "reply 0" in text:
            raise ModelUnavailable("the judge is down")
        return [] if "reply 1" in text else [reply("Hm." if "reply 2" in text else "Yes")]

    verdicts = await judged(Judge(), [reply(f"reply {index}") for index in range(4)], Asked(answer))
    assert [verdict.score for verdict in verdicts] == [None, None, None, 1.0]
    assert "the judge is down" in verdicts[0].reason
    assert "budget" in verdicts[1].reason
    assert "'Hm.'" in verdicts[2].reason


@pytest.mark.parametrize(
    ("judgement", "score"),
    [
        (said("**Yes**", {"**": 1.0}, {"Yes": 0.6, "No": 0.2}), 0.75),
        (said("The answer", {"The": 0.9, "Yes": 0.1}, {" answer": 1.0}), None),
        (said("I say no.", {"I": 1.0}, {" say": 1.0}, {" no": 0.8, " yes": 0.2}), 0.0),
        (reply("Yes"), 1.0),
        (reply("No, because 3 + 4 is 7."), 0.0),
        (reply("Answer: **yes**"), 1.0),
        (reply("There are no errors in it"), None),
        (reply("Yes. No."), None),
        (reply("<think>No.</think>Yes"), 1.0),
        (reply("<think>No."), None),
        (reply("Nothing, yesterday"), None),
        (reply(""), None),
    ],
)
def test_reading_yes_and_no(judgement: Candidate, score: float | None) -> None:
    assert read_yes_no(judgement) == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 7", 0.7),
        ("**Score:** 7.5", 0.75),
        ("At first score: 3. But no.\nScore: 9/10", 0.9),
        ("I give it 7/10.", 0.7),
        ("10", 1.0),
        ("The score is 0.", 0.0),
        ("Score: 85", None),
        ("Score: -3", None),
        ("Score: 70%", None),
        ("It has 3 steps.", None),
        ("", None),
    ],
)
def test_reading_scores(text: str, score: float | None) -> None:
    assert read_score(text) == score


class Blind(BaseModel):
    """A model that gives no log-probabilities."""

    def generate(self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0) -> Any:
        raise AssertionError("only `generate` may ask")


class Seeing(Blind):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(logprobs=True)


async def test_a_given_model_is_asked_in_the_way_it_can_answer() -> None:
    generate = Asked(lambda text: [reply("Score: 6" if "Score: N" in text else "No")])
    blind, seeing = Blind(), Seeing()
    judges = [Judge(blind), Judge(seeing), Judge(blind, mode="yes-no"), Judge(mode="score")]
    scores = [(await judged(judge, [reply("7")], generate))[0].score for judge in judges]
    assert scores == [0.6, 0.0, 0.0, 0.6]
    assert [(call[2], call[1].top_logprobs, call[1].max_tokens) for call in generate.calls] == [
        (blind, None, 256),
        (seeing, 20, 4),
        (blind, None, 4),
        (None, None, 256),
    ]


async def test_the_judge_reads_conversations_texts_and_calls() -> None:
    talk = Prompt(
        messages=(
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]},
        )
    )
    assert question_of(talk) == "Hi\n[image_url]"
    longer = Prompt(
        messages=(*talk.messages, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "3+4"})
    )
    assert question_of(longer) == "system: Be short.\n\nuser: Hi\n[image_url]\n\nassistant: Yes?\n\nuser: 3+4"
    generate = Asked(lambda text: [reply("Yes")])
    call = reply("", tool_calls=({"function": {"name": "add", "arguments": "{}"}},))
    await Judge().verify(Request(Prompt(text="3+4=")), [call], generate)
    asked = generate.calls[0][0].text
    assert asked is not None
    assert "3+4=" in asked
    assert '"name": "add"' in asked
    assert asked.endswith("\nAnswer:")


def test_each_has_its_name() -> None:
    assert [Judge.name, CheckerVerifier.name, ConfidenceVerifier.name] == ["judge", "checker", "confidence"]
    assert ScriptedModel.name != Judge.name
