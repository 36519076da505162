"""Verifiers of single steps that ask a model: caching and aggregation, the step judge, rollouts, composition, words."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest

from thinkscale.accounting import Ledger
from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.models.base import Model
from thinkscale.models.opening import Local
from thinkscale.session import Session
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.scripted import count_words
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.base import Generate, Verifier, together
from thinkscale.verifiers.compose import Combined, Rule
from thinkscale.verifiers.equivalence import Answers
from thinkscale.verifiers.rollouts import Rollouts
from thinkscale.verifiers.step_judge import StepJudge
from thinkscale.verifiers.steps import Aggregation, Solution, StepVerifier, Stepwise
from thinkscale.verifiers.words import check_word, shared_verifier

REQUEST = Request(Prompt.of("What is 3 + 4 + 5?"), AnswerKind.NUMBER, Params(max_tokens=64))
STEPS = ("Step 1: 3 + 4 is 7.", "\n\nStep 2: 7 + 5 is 12.", "\n\nStep 3: So it is 12.")


def grown(*steps: str, request: Request = REQUEST, index: int = 0) -> Candidate:
    return Candidate((index,), request.prompt, "".join(steps), finish_reason="stop", steps=steps)


async def silent(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
    raise AssertionError("this verifier asks no model")


class Told:
    """Judges by the last word of a step, as told (`None`: cannot); counts what it was asked."""

    def __init__(self, scores: dict[str, float | Verdict | None], name: str = "told") -> None:
        self.name = name
        self.scores = scores
        self.asked: list[tuple[str, ...]] = []

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        await asyncio.sleep(0)
        return [[self._one(one.steps[: last + 1]) for last in range(one.judged, len(one.steps))] for one in solutions]

    def _one(self, steps: tuple[str, ...]) -> Verdict:
        self.asked.append(steps)
        score = self.scores.get(steps[-1])
        return score if isinstance(score, Verdict) else Verdict(score, reason=f"{self.name} on {steps[-1]}")


def session_of(model: Model, verifier: Verifier, request: Request = REQUEST, ledger: Ledger | None = None) -> Session:
    return Session(
        request,
        model=model,
        ledger=ledger or Ledger(),
        trace=Trace(),
        canonical=Answers(request.kind).canonical,
        verifier=verifier,
    )


class Each:
    """Shows what a step verifier says of each step within a session."""

    def __init__(self, steps: StepVerifier) -> None:
        self.name = steps.name
        self.steps = steps
        self.told: Sequence[Sequence[Verdict]] = ()

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        self.told = await self.steps.judge(request, [Solution(one.steps) for one in candidates], generate)
        return [Verdict(None)] * len(candidates)


async def each(steps: StepVerifier, model: Model, *reply: str, request: Request = REQUEST) -> Sequence[Verdict]:
    verifier = Each(steps)
    await session_of(model, verifier, request).verify([grown(*reply, request=request)])
    return verifier.told[0]


# -- Stepwise -----------------------------------------------------------------------------------------------------


async def test_no_step_is_judged_twice_within_a_call_or_across_calls() -> None:
    told = Told({"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5})
    verifier = Stepwise(told)
    replies = [grown("a"), grown("a", "b", "c"), grown("a", "b"), grown("a", "b", "d"), grown("a", "b", "c")]
    verdicts = await verifier.verify(REQUEST, replies, silent)
    assert [verdict.steps for verdict in verdicts] == [
        (0.9,),
        (0.9, 0.8, 0.7),
        (0.9, 0.8),
        (0.9, 0.8, 0.6),
        (0.9, 0.8, 0.7),
    ]
    assert sorted(told.asked) == [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "d")]
    told.asked.clear()
    again = await verifier.verify(REQUEST, [grown("a", "b", "c", "e"), grown("a")], silent)
    assert told.asked == [("a", "b", "c", "e")]
    assert again[0].steps == (0.9, 0.8, 0.7, 0.5)
    # The same words are another step where something else came before, and another request pays for itself.
    await verifier.verify(REQUEST, [grown("b", "a")], silent)
    await verifier.verify(REQUEST, [grown("a")], partial(silent))
    assert told.asked == [("a", "b", "c", "e"), ("b",), ("b", "a"), ("a",)]


async def test_solutions_are_asked_in_the_order_of_the_candidates() -> None:
    """Equal seeds must give equal traces: the order may not come from a hash."""
    names = [f"step {number}" for number in range(40)]
    told = Told(dict.fromkeys(names, 0.5))
    await Stepwise(told).verify(REQUEST, [grown(name) for name in names], silent)
    assert told.asked == [(name,) for name in names]


@pytest.mark.parametrize(("aggregate", "score"), [("last", 0.8), ("min", 0.5), ("prod", 0.36), ("mean", 2.2 / 3)])
async def test_aggregation_over_the_steps_that_could_be_judged(aggregate: Aggregation, score: float) -> None:
    told = Told({"a": 0.9, "b": None, "c": 0.5, "d": 0.8, "e": None})
    verdict = (await Stepwise(told, aggregate=aggregate).verify(REQUEST, [grown("a", "b", "c", "d", "e")], silent))[0]
    assert verdict.score == pytest.approx(score)
    assert verdict.steps == (0.9, None, 0.5, 0.8, None)
    assert verdict.passed is None


async def test_where_no_step_can_be_judged_neither_can_the_candidate() -> None:
    verdicts = await Stepwise(Told({})).verify(REQUEST, [grown("a", "b"), Candidate((1,), REQUEST.prompt)], silent)
    assert [(verdict.score, verdict.steps) for verdict in verdicts] == [(None, (None, None)), (None, ())]


async def test_a_candidate_fails_with_a_step_and_passes_only_where_every_judged_step_does() -> None:
    right, wrong = Verdict(1.0, passed=True, reason="holds"), Verdict(0.0, passed=False, reason="2 + 2 is 4")
    told = Told({"right": right, "wrong": wrong, "fair": 0.4, "mute": None})
    replies = [
        grown("right", "mute", "right"),
        grown("right", "wrong", "fair"),
        grown("right", "fair"),
        grown("fair"),
    ]
    verdicts = await Stepwise(told).verify(REQUEST, replies, silent)
    assert [verdict.passed for verdict in verdicts] == [True, False, None, None]
    assert verdicts[1].reason == "step 2: 2 + 2 is 4"


async def test_a_whole_reply_is_split_first() -> None:
    told = Told(dict.fromkeys(STEPS, 0.5))
    await Stepwise(told).verify(REQUEST, [Candidate((0,), REQUEST.prompt, "".join(STEPS))], silent)
    # Where the reply numbers its steps, the space before a heading belongs to the step before.
    assert ["".join(steps) for steps in told.asked][-1] == "".join(STEPS)
    assert [len(steps) for steps in told.asked] == [1, 2, 3]


# -- the step judge -----------------------------------------------------------------------------------------------


def judging(says: Callable[[str], Reply | Exception]) -> ScriptedModel:
    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply | Exception:
        text = str(prompt.messages[-1]["content"] if prompt.messages else prompt.text)
        last = text[text.rindex("<step>") : text.rindex("</step>")]
        return says(last)

    return ScriptedModel(script)


def yes(probability: float) -> Reply:
    rest = 0.9  # of the mass; the others say something else
    top = ((" Yes", math.log(probability * rest)), ("No", math.log((1 - probability) * rest)), ("Well", math.log(0.1)))
    return Reply("Yes" if probability > 0.5 else "No", top=top)


async def test_the_step_judge_scores_each_step_by_its_probability_of_yes() -> None:
    model = judging(lambda step: yes(0.9 if "3 + 4" in step else 0.2 if "7 + 5" in step else 0.6))
    session = session_of(model, Stepwise(StepJudge()))
    verdict = (await session.verify([grown(*STEPS)]))[0]
    assert verdict.steps == pytest.approx((0.9, 0.2, 0.6))
    assert verdict.score == pytest.approx(0.2)
    assert verdict.passed is None
    assert (model.requests, session.spent.calls) == (3, 3)
    assert session.spent.prompt_tokens == model.prompt_tokens_served


@pytest.mark.parametrize("raw", [False, True])
async def test_each_judgement_begins_with_all_that_the_one_before_it_read(raw: bool) -> None:
    asked: list[str] = []

    async def generate(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
        assert (params.temperature, params.top_logprobs, n, model) == (0.0, 20, 1, None)
        assert (prompt.text is not None) == raw
        asked.append(prompt.text or prompt.messages[0]["content"])
        return [Candidate((0,), prompt, "Yes")]

    prompt = Prompt(text="3 + 4 + 5 =") if raw else REQUEST.prompt
    await StepJudge().judge(Request(prompt), [Solution(STEPS)], generate)
    shared = [text[: text.rindex("</step>")] for text in asked]
    assert len(shared) == 3
    assert "3 + 4 + 5" in shared[0][: shared[0].index("<step>")]
    assert shared[1].startswith(shared[0])
    assert shared[2].startswith(shared[1])
    endings = {text[text.rindex("</step>") :] for text in asked}
    assert len(endings) == 1
    assert endings.pop().endswith("\nAnswer:" if raw else "Yes or No.")


async def test_the_step_judge_skips_what_is_judged_and_asks_the_rest_at_once() -> None:
    together_now = asyncio.Barrier(3)

    async def generate(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
        async with asyncio.timeout(5):
            await together_now.wait()
        return [Candidate((0,), prompt, "No" if "other" in prompt.messages[0]["content"] else "Yes")]

    told = await StepJudge().judge(REQUEST, [Solution(STEPS, 1), Solution((STEPS[0], "other"), 1)], generate)
    assert [[verdict.score for verdict in verdicts] for verdicts in told] == [[1.0, 1.0], [0.0]]


async def test_a_step_that_cannot_be_asked_or_read_is_no_zero() -> None:
    def says(step: str) -> Reply | Exception:
        return ModelUnavailable("the judge is down", status=500) if "3 + 4" in step else Reply("Hm.")

    down, mute = await each(StepJudge(), judging(says), *STEPS[:2])
    assert (down.score, mute.score) == (None, None)
    assert "the judge is down" in down.reason
    assert "'Hm.'" in mute.reason


async def test_a_judge_that_the_budget_cannot_pay_is_not_asked() -> None:
    model = judging(lambda _step: yes(0.9))
    session = session_of(model, Stepwise(StepJudge()), ledger=Ledger(Budget(max_total_tokens=60)))
    verdict = (await session.verify([grown(*STEPS)]))[0]
    assert verdict.steps[0] == pytest.approx(0.9)
    assert verdict.steps[1:] == (None, None)
    assert session.ended == "budget"
    assert session.spent.total_tokens <= 60


async def test_where_one_fails_the_others_are_stopped_before_it_is_raised() -> None:
    stopped = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise UsageError("wrong")

    with pytest.raises(UsageError, match="wrong"):
        async with asyncio.timeout(5):
            await together([waits(), fails()])
    assert stopped.is_set()


# -- rollouts -----------------------------------------------------------------------------------------------------


def leading(ends: dict[str, Sequence[str]]) -> ScriptedModel:
    """What follows a beginning is told by its last word; the rollouts of one beginning take their turns."""

    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply(ends[prompt.prefix.split()[-1]][index])

    return ScriptedModel(script)


@pytest.mark.parametrize("raw", [False, True])
async def test_a_step_is_worth_the_share_of_the_answer_that_most_rollouts_reach(raw: bool) -> None:
    model = leading(
        {
            "one": [" so \\boxed{12}", " so \\boxed{12.0}", " so \\boxed{13}", " I cannot tell."],
            "two": [" so \\boxed{12}"] * 4,
            "three": [" so \\boxed{1}", " so \\boxed{2}", " so \\boxed{3}", " so \\boxed{4}"],
            "four": [" Who knows."] * 4,
        }
    )
    request = Request(Prompt(text="3 + 4 + 5 =") if raw else REQUEST.prompt, AnswerKind.NUMBER)
    verdicts = await each(Rollouts(), model, "one", "\n\ntwo", "\n\nthree", "\n\nfour", request=request)
    assert [verdict.score for verdict in verdicts] == [0.5, 1.0, 0.25, 0.0]
    assert verdicts[0].reason == "2 of 4 rollouts agree on 12"


async def test_rollouts_cost_exactly_what_they_produce() -> None:
    model = leading({"one": [" so \\boxed{12}"] * 3, "two": [" a b c \\boxed{12}"] * 3})
    steps = ("one", "\n\ntwo")
    session = session_of(model, Stepwise(Rollouts(3)))
    await session.verify([grown(*steps)])
    prompts = [Prompt(REQUEST.prompt.messages, prefix="one"), Prompt(REQUEST.prompt.messages, prefix="one\n\ntwo")]
    read = 3 * sum(map(count_words, prompts))  # this model takes one sample a request
    assert model.tokens_served == 3 * 2 + 3 * 4
    assert session.spent == Usage(read, 3 * 2 + 3 * 4, 6, model.requests, cached_tokens=0, cost_usd=None)
    assert session.candidates == [], "a rollout is no candidate"


async def test_a_step_that_states_the_answer_is_not_rolled_out() -> None:
    model = leading({"first": [" so \\boxed{12}"] * 4})
    for last in ("\n\nThe answer is 12", "\n\nSo \\boxed{12}", "\n\n#### 12\n"):
        verdicts = await each(Rollouts(), model, "first", last)
        assert [verdict.score for verdict in verdicts] == [1.0, None]
        assert "stated" in verdicts[1].reason


async def test_an_answer_may_begin_in_the_step_and_end_in_the_rollout() -> None:
    model = leading({"is": [" 12.\n" + "and so on " * 20] * 3 + [" 13.\n" + "and so on " * 20]})
    verdict = (await each(Rollouts(max_tokens=10), model, "So the answer is"))[0]
    assert verdict.score == 0.75


async def test_rollouts_that_never_end_say_nothing() -> None:
    model = leading({"long": [" and so on" * 20] * 4, "half": [" and so on" * 20] * 3 + [" so \\boxed{1}"]})
    long, half = await each(Rollouts(max_tokens=10), model, "long", " half")
    assert (long.score, half.score) == (None, 0.25)
    assert "10 tokens" in long.reason


async def test_rollouts_keep_the_requests_own_parameters() -> None:
    seen: list[tuple[Prompt, Params, int]] = []

    async def generate(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
        seen.append((prompt, params, n))
        return [Candidate((0,), prompt, "\\boxed{1}", finish_reason="stop")]

    request = Request(Prompt(text="Q: 1+1\nA:"), params=Params(0.2, max_tokens=512, stop=("\nQ:",), top_logprobs=5))
    verdict = (await Rollouts(4, max_tokens=32).judge(request, [Solution((" Well,", " so"), 1)], generate))[0][0]
    assert seen == [(Prompt(text="Q: 1+1\nA:", prefix=" Well, so"), Params(0.8, max_tokens=32, stop=("\nQ:",)), 4)]
    assert verdict.score is None
    assert verdict.reason.startswith("1 of 4")
    with pytest.raises(ValueError, match="at least 2"):
        Rollouts(1)


async def test_failed_rollouts_are_no_zero() -> None:
    down = ModelUnavailable("down", status=500)
    lost = ScriptedModel({"7": 1.0}, failures=dict.fromkeys(range(4), down))
    verdict = (await each(Rollouts(), lost, "one"))[0]
    assert verdict.score is None
    assert "down" in verdict.reason
    verdict = (await each(Rollouts(), ScriptedModel({"7": 1.0}, failures={0: down}), "one"))[0]
    assert (verdict.score, verdict.reason) == (1.0, "3 of 3 rollouts agree on 7")


# -- composition --------------------------------------------------------------------------------------------------


def scores(told: Sequence[Sequence[Verdict]]) -> list[list[float | None]]:
    return [[verdict.score for verdict in verdicts] for verdicts in told]


async def test_first_asks_a_later_one_only_for_the_gaps() -> None:
    exact = Told({"b": 1.0, "e": 0.0}, "exact")
    fair = Told({"a": 0.5, "b": 0.1, "c": 0.4}, "fair")
    last = Told({"d": 0.3, "e": 0.9}, "last")
    both = Combined([exact, fair, last])
    told = await both.judge(
        REQUEST, [Solution(("a", "b", "c", "d")), Solution(("b", "e")), Solution(("a", "x"), 1)], silent
    )
    assert scores(told) == [[0.5, 1.0, 0.4, 0.3], [1.0, 0.0], [None]]
    assert both.name == "exact+fair+last"
    assert fair.asked == [("a",), ("a", "b", "c"), ("a", "b", "c", "d"), ("a", "x")]
    assert last.asked == [("a", "b", "c", "d"), ("a", "x")]


async def test_first_asks_nobody_else_where_the_first_knows_all() -> None:
    later = Told({}, "later")
    assert scores(await Combined([Told({"a": 0.5}), later]).judge(REQUEST, [Solution(("a",))], silent)) == [[0.5]]
    assert later.asked == []


@pytest.mark.parametrize(("rule", "expected"), [("mean", [0.6, 0.8, 0.4, None]), ("min", [0.2, 0.8, 0.4, None])])
async def test_mean_and_min_over_those_that_could_judge(rule: Rule, expected: list[float | None]) -> None:
    one, two = Told({"a": 1.0, "b": 0.8}, "one"), Told({"a": 0.2, "c": 0.4}, "two")
    told = await Combined([one, two], rule).judge(REQUEST, [Solution(("a", "b", "c", "d"))], silent)
    assert told[0][0].reason == "one: one on a; two: two on a"
    assert [verdict.score for verdict in told[0]] == [None if x is None else pytest.approx(x) for x in expected]


async def test_a_step_passes_where_all_pass_it_and_fails_where_one_fails_it() -> None:
    passing, failing = Verdict(1.0, passed=True), Verdict(0.0, passed=False)
    one = Told({"a": passing, "b": passing, "c": passing, "d": passing})
    two = Told({"a": passing, "b": failing, "c": 0.5})
    told = await Combined([one, two], "min").judge(REQUEST, [Solution(("a", "b", "c", "d"))], silent)
    assert [verdict.passed for verdict in told[0]] == [True, False, None, True]


# -- words --------------------------------------------------------------------------------------------------------

URL = "http://127.0.0.1:9/v1#Qwen/Qwen2.5-Math-PRM-7B"


@pytest.mark.parametrize(
    "word",
    [
        "arithmetic",
        "step-judge",
        "step-judge=http://127.0.0.1:9/v1#c4ai-command-r+08-2024",
        "rollouts=2:aggregate=last",
        f"prm={URL}",
        f"orm={URL}",
        f"prm={URL}:style=math-shepherd",
        f"arithmetic+prm={URL}:7b+rollouts:combine=min,aggregate=prod,style=rlhflow",
        "arithmetic+step-judge:combine=mean",
        "judge=http://127.0.0.1:9/v1#qwen:7b",
        "confidence",
    ],
)
def test_right_words(word: str) -> None:
    check_word(word, own_checks=False)


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("stepjudge", r"unknown verifier 'stepjudge' \(did you mean step-judge\?\)"),
        ("arithmetik+step-judge", r"did you mean arithmetic\?"),
        ("arithmetic+", "unknown verifier"),
        ("", "unknown verifier"),
        ("arithmetic+judge", "judge judges whole replies: only arithmetic, step-judge, rollouts, prm can be joined"),
        ("judge:aggregate=min", "judge judges whole replies: it takes no aggregate"),
        ("checker:combine=mean", "takes no combine"),
        ("arithmetic:aggregat=min", r"has no option 'aggregat' \(did you mean aggregate\?\); it has combine=first"),
        ("arithmetic:aggregate=max", "expected one of last, min, prod, mean"),
        ("arithmetic+rollouts:combine=max", "expected one of first, mean, min"),
        ("arithmetic:combine=mean", "combine needs several step verifiers"),
        ("arithmetic:style=qwen", "style is how a prm=URL reads"),
        (f"prm={URL}:style=quen", "expected one of qwen, math-shepherd, rlhflow"),
        ("rollouts=1", "a number of at least 2"),
        ("rollouts=many", "a number of at least 2"),
        ("arithmetic=3", "takes nothing behind ="),
        ("prm", "prm needs the address of a vLLM server"),
        ("orm=smollm2", "orm needs the address of a vLLM server"),
        ("step-judge=smolm2", "smollm2"),
        ("checker", "needs a task that brings its own checks"),
    ],
)
def test_wrong_words_say_what_is_right(word: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_word(word, own_checks=False)


async def test_a_word_makes_a_verifier_that_works() -> None:
    model = judging(lambda _step: yes(0.6))
    async with shared_verifier("arithmetic+step-judge:combine=first,aggregate=mean", Local()) as verifier:
        assert verifier is not None
        assert verifier.name == "arithmetic+step-judge"
        session = session_of(model, verifier)
        right = grown("So 3 + 4 = 7.", "\nThat is fine.")
        wrong = grown("So 3 + 4 = 8.", "\nThat is fine.", index=1)
        verdicts = await session.verify([right, wrong])
        assert verdicts[0].steps == pytest.approx((1.0, 0.6))
        assert verdicts[1].steps == pytest.approx((0.0, 0.6))
        assert [verdict.passed for verdict in verdicts] == [None, False]
        assert model.requests == 2, "what arithmetic settles is not asked"


async def test_rollouts_by_word_let_go_of_what_they_started() -> None:
    async with shared_verifier("rollouts=2", Local()) as verifier:
        assert verifier is not None
        model = leading({"one": [" so \\boxed{12}"] * 2})
        assert (await session_of(model, verifier).verify([grown("one")]))[0].score == 1.0
    assert model.calls == 2


@pytest.mark.parametrize("word", [None, "checker", "code"])
async def test_no_shared_verifier_where_each_problem_has_its_own(word: str | None) -> None:
    async with shared_verifier(word, Local()) as verifier:
        assert verifier is None


def test_step_verifiers_fit_the_seam() -> None:
    made: list[StepVerifier] = [StepJudge(), Rollouts(), Combined([Told({})])]
    assert [one.name for one in made] == ["step-judge", "rollouts", "told"]
