"""Every strategy against a model with a known answer distribution: its known optimum, its edges, its cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest

from thinkscale import strategies
from thinkscale.engine import Engine
from thinkscale.errors import ModelRefused, ModelUnavailable, NoAnswer, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.strategies.base import Schedule
from thinkscale.strategies.deepconf import group_confidences, percentile, trace_confidence
from thinkscale.strategies.selection import best, majority, tally
from thinkscale.strategies.vote import leads
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Result, Token, Verdict
from thinkscale.verifiers.base import Generate, Verifier
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.confidence import ConfidenceVerifier
from thinkscale.verifiers.steps import Solution, Stepwise

QUESTION = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))


def checker(right: str = "7") -> CheckerVerifier:
    return CheckerVerifier(lambda answer: answer == right)


class Scores:
    """A verifier with a fixed score per answer; `None` where it knows none."""

    name = "scores"

    def __init__(self, scores: Mapping[str, float]) -> None:
        self._scores = scores

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        return [Verdict(self._scores.get(candidate.answer or "")) for candidate in candidates]


async def solve(model: ScriptedModel, strategy: str, budget: Budget | None = None, **options: Any) -> Result:
    async with Engine(model) as engine:
        result = await engine.solve(QUESTION, strategy=strategy, budget=budget, **options)
    assert model.in_flight == 0
    assert result.usage.output_tokens == model.tokens_served
    assert result.usage.prompt_tokens == model.prompt_tokens_served
    return result


def in_order(*answers: str | None) -> Callable[[Prompt, int, Random], Reply]:
    """The i-th sample names the i-th answer; the last repeats."""

    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        answer = answers[min(index, len(answers) - 1)]
        return Reply("I do not know." if answer is None else f"It is \\boxed{{{answer}}}")

    return script


# -- voting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_n", [1, 5, 64])
async def test_self_consistency_finds_the_mode_however_samples_travel(max_n: int) -> None:
    model = ScriptedModel({"7": 0.5, "8": 0.3, "9": 0.2}, capabilities=Capabilities(max_n=max_n))
    result = await solve(model, "self-consistency:n=40")
    assert (result.answer, result.samples, result.stop_reason) == ("7", 40, "complete")
    assert result.usage.calls == 40
    assert result.usage.requests == -(-40 // max_n)


async def test_confidence_is_the_share_of_the_votes_that_named_an_answer() -> None:
    result = await solve(ScriptedModel(in_order("7", None, "8", "7")), "self-consistency:n=4")
    assert result.confidence == pytest.approx(2 / 3)


async def test_ties_go_to_the_first_seen_so_two_samples_equal_one() -> None:
    assert (await solve(ScriptedModel(in_order("8", "7")), "self-consistency:n=2")).answer == "8"


async def test_answers_vote_by_meaning_not_by_text() -> None:
    result = await solve(ScriptedModel(in_order("8", "7.0", "7", "14/2")), "self-consistency:n=4")
    assert result.answer == "7"
    assert result.confidence == pytest.approx(0.75)


async def test_n_of_one_is_single() -> None:
    one = await solve(ScriptedModel(in_order("5", "7")), "self-consistency:n=1")
    single = await solve(ScriptedModel(in_order("5", "7")), "single")
    assert one.answer == single.answer == "5"
    assert one.usage == single.usage


async def test_no_valid_answer_still_returns_a_reply_with_unknown_confidence() -> None:
    result = await solve(ScriptedModel({None: 1.0}), "self-consistency:n=4")
    assert result.answer is None
    assert result.confidence is None
    assert result.text


async def test_weighted_votes_follow_the_verifier_and_unjudged_ones_weigh_nothing() -> None:
    script = in_order("8", "8", "8", "7", "7", "9")
    result = await solve(
        ScriptedModel(script), "self-consistency:n=6,weighted=true", verifier=Scores({"8": 0.2, "7": 0.9})
    )
    assert result.answer == "7"
    assert result.confidence == pytest.approx(1.8 / 2.4)
    unjudged = await solve(ScriptedModel(script), "self-consistency:n=6,weighted=true", verifier=Scores({}))
    assert unjudged.answer == "8", "a verifier that can judge nothing leaves a plain vote"


async def test_more_samples_are_more_accurate_when_the_right_answer_is_the_mode() -> None:
    """Majority accuracy on p = (.45, .35, .2) rises with n, as theory says it must."""

    async def accuracy(n: int) -> float:
        results = [
            await solve(ScriptedModel({"7": 0.45, "8": 0.35, "9": 0.2}, seed=seed), f"self-consistency:n={n}")
            for seed in range(60)
        ]
        return sum(result.answer == "7" for result in results) / len(results)

    assert await accuracy(1) < await accuracy(9) < await accuracy(81)


# -- stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "stops"), [(4, 0, True), (3, 0, False), (5, 1, False), (6, 1, True), (1, 1, False), (0, 0, False)]
)
def test_the_beta_criterion_stops_where_the_paper_says(a: int, b: int, stops: bool) -> None:
    assert (leads({"x": a, "y": b}) >= 0.95) is stops


def test_the_beta_criterion_matches_the_integral() -> None:
    """P(p > 1/2) under Beta(7, 3) is 0.91015625 (a = 6, b = 2)."""
    assert leads({"x": 6, "y": 2}) == pytest.approx(0.91015625)


async def test_adaptive_consistency_stops_at_a_decided_vote() -> None:
    model = ScriptedModel({"7": 1.0})
    result = await solve(model, "adaptive-consistency")
    assert (result.samples, result.stop_reason, model.calls) == (4, "consensus", 4)


@pytest.mark.parametrize(("batches", "samples"), [("1", 7), ("4/1", 7), ("4", 8), ("2/3", 8), ("40", 40)])
async def test_the_batch_schedule_decides_when_the_rule_looks(batches: str, samples: int) -> None:
    """One dissenting vote among the first: 6-1 decides, at the seventh sample."""
    model = ScriptedModel(in_order("7", "8", "7"))
    result = await solve(model, f"adaptive-consistency:batches={batches}")
    assert (result.answer, result.samples, result.stop_reason) == ("7", samples, "consensus")


async def test_adaptive_consistency_ends_at_its_cap_without_a_decision() -> None:
    model = ScriptedModel(lambda _prompt, index, _rng: Reply(f"\\boxed{{{index % 2}}}"))
    result = await solve(model, "adaptive-consistency:n=12")
    assert (result.samples, result.stop_reason) == (12, "complete")


async def test_adaptive_consistency_leaves_prose_alone() -> None:
    """Open-ended replies never agree: no more are drawn than it takes to see that. Numbers get their full chance."""
    asked = Request(Prompt.of("Tell me a story."), AnswerKind.TEXT, Params(max_tokens=64))

    async def told(strategy: str, request: Request, replies: int) -> tuple[int, str]:
        model = ScriptedModel(lambda _prompt, index, _rng: Reply(f"Answer: {index % replies}"))
        async with Engine(model) as engine:
            result = await engine.solve(request, strategy=strategy)
        return result.samples, result.stop_reason

    assert await told("adaptive-consistency:n=16", asked, 99) == (4, "disagreement")
    assert await told("adaptive-consistency:n=16,prose=8", asked, 99) == (8, "disagreement")
    assert await told("adaptive-consistency:n=16,prose=0", asked, 99) == (16, "complete")
    assert await told("adaptive-consistency:n=16", asked, 3) == (16, "complete")
    assert await told("adaptive-consistency:n=16", QUESTION, 99) == (16, "complete")


async def test_esc_stops_on_a_unanimous_window_only() -> None:
    result = await solve(ScriptedModel(in_order("8", "7")), "esc")
    assert (result.answer, result.samples, result.stop_reason) == ("7", 10, "consensus")
    silent = await solve(ScriptedModel({None: 1.0}), "esc:n=20")
    assert (silent.samples, silent.stop_reason) == (20, "complete"), "agreeing on no answer is no agreement"


def test_schedules_add_up_and_repeat_their_last_batch() -> None:
    assert list(Schedule.parse("1/3/12/48").batches(64)) == [1, 3, 12, 48]
    assert list(Schedule.parse("4").batches(10)) == [4, 4, 2]
    assert list(Schedule.parse("1/2").batches(6)) == [1, 2, 2, 1]


# -- verifying ---------------------------------------------------------------------------------------------------


async def test_first_verified_stops_at_the_first_batch_with_a_pass() -> None:
    model = ScriptedModel(in_order("1", "2", "7", "3"))
    result = await solve(model, "first-verified", verifier=checker())
    assert (result.answer, result.samples, result.stop_reason, result.confidence) == ("7", 4, "verified", 1.0)


async def test_first_verified_reaches_coverage() -> None:
    """A right answer of probability .1 is found among 64 samples with probability .9988."""
    found = 0
    for seed in range(40):
        result = await solve(ScriptedModel({"7": 0.1, "8": 0.9}, seed=seed), "first-verified:n=64", verifier=checker())
        found += result.answer == "7"
    assert found >= 38


async def test_first_verified_says_so_when_nothing_passes() -> None:
    result = await solve(ScriptedModel({"8": 1.0}), "first-verified:n=5", verifier=checker())
    assert (result.answer, result.confidence, result.stop_reason, result.samples) == ("8", 0.0, "complete", 5)


async def test_best_of_n_takes_the_highest_score_and_breaks_ties_by_index() -> None:
    scores = Scores({"8": 0.4, "7": 0.9, "9": 0.9})
    result = await solve(ScriptedModel(in_order("8", "7", "9")), "best-of-n:n=3", verifier=scores)
    assert (result.answer, result.confidence) == ("7", 0.9)


async def test_best_of_n_by_the_models_own_confidence() -> None:
    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply(f"\\boxed{{{index}}}", logprob=-0.1 if index == 2 else -2.0)

    async with Engine(ScriptedModel(script)) as engine:
        request = Request(QUESTION.prompt, AnswerKind.NUMBER, Params(top_logprobs=0))
        result = await engine.solve(request, strategy="best-of-n:n=4", verifier=ConfidenceVerifier())
    assert result.answer == "2"


async def test_a_missing_verifier_is_told() -> None:
    with pytest.raises(UsageError, match="needs a verifier"):
        await solve(ScriptedModel({"7": 1.0}), "best-of-n:n=2")


# -- deepconf ----------------------------------------------------------------------------------------------------


def test_group_confidences_are_sliding_means() -> None:
    tokens = [Token("t", -1.0, value) for value in (1.0, 2.0, 3.0, 6.0)]
    assert group_confidences(tokens, 2) == pytest.approx([1.5, 2.5, 4.5])
    assert group_confidences(tokens, 9) == pytest.approx([3.0])
    assert trace_confidence(tokens, 2, "lowest") == pytest.approx(1.5)
    assert trace_confidence(tokens, 2, "tail") == pytest.approx(4.5)
    assert trace_confidence(tokens, 2, "mean") == pytest.approx(3.0)
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 90) == pytest.approx(4.6)


def confident_minority(_prompt: Prompt, index: int, _rng: Random) -> Reply:
    """One in four says 7 and is sure; the rest say 8 and waver half-way."""
    filler = "so " * 40
    if index % 4 == 0:
        return Reply(f"{filler}\\boxed{{7}}", confidence=9.0)
    return Reply(f"{filler}\\boxed{{8}}", confidence=[9.0] * 20 + [1.0])


async def test_deepconf_lets_the_confident_vote() -> None:
    assert (await solve(ScriptedModel(confident_minority), "self-consistency:n=16")).answer == "8"
    assert (await solve(ScriptedModel(confident_minority), "deepconf:n=16,eta=25")).answer == "7"


async def test_deepconf_online_cuts_what_wavers_and_is_charged_for_what_it_saw() -> None:
    model = ScriptedModel(confident_minority)
    result = await solve(model, "deepconf-online:n=32,warmup=8,eta=25,consensus=1.1,batches=24")
    assert result.answer == "7"
    # 8 warm-up traces and 6 confident ones run their 41 tokens. Half-way, after token 20, the other 18 turn to
    # confidence 1; the window of 8 falls below the threshold of 3 once 7 of its tokens are of that kind.
    assert result.usage.output_tokens == 14 * 41 + 18 * 27


async def test_deepconf_online_stops_at_consensus() -> None:
    model = ScriptedModel(lambda _prompt, _index, _rng: Reply("so " * 40 + "\\boxed{7}", confidence=9.0))
    result = await solve(model, "deepconf-online:n=64")
    assert (result.answer, result.samples, result.stop_reason) == ("7", 16, "consensus")


async def test_deepconf_needs_logprobs_and_says_so_before_spending() -> None:
    model = ScriptedModel({"7": 1.0}, capabilities=Capabilities(logprobs=False))
    with pytest.raises(UsageError, match="log-probabilities"):
        await solve(model, "deepconf")
    assert model.requests == 0


# -- in sequence -------------------------------------------------------------------------------------------------


def improving(prompt: Prompt, _index: int, _rng: Random) -> Reply:
    """Wrong at first, right once it has been asked to check."""
    asked = sum(message["role"] == "user" for message in prompt.messages)
    return Reply(f"\\boxed{{{5 + asked}}}")


async def test_refine_keeps_the_incumbent_unless_the_verifier_prefers_the_new() -> None:
    better = await solve(ScriptedModel(improving), "refine:rounds=3,verify=true", verifier=Scores({"6": 0.2, "7": 0.9}))
    assert (better.answer, better.confidence) == ("7", 0.9)
    worse = await solve(ScriptedModel(improving), "refine:rounds=3,verify=true", verifier=Scores({"6": 0.9, "7": 0.2}))
    assert (worse.answer, worse.confidence) == ("6", 0.9)


async def test_refine_ends_when_the_verifier_passes() -> None:
    result = await solve(ScriptedModel(improving), "refine:rounds=5,verify=true", verifier=checker())
    assert (result.answer, result.stop_reason, result.usage.calls) == ("7", "verified", 2)


async def test_refine_without_a_verifier_ends_when_nothing_changes() -> None:
    result = await solve(ScriptedModel(improving), "refine:rounds=9")
    assert (result.answer, result.stop_reason, result.usage.calls) == ("7", "converged", 3)


async def test_refine_sends_a_tool_call_back_intact() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4}'}}
    seen: list[Prompt] = []

    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        seen.append(prompt)
        return Reply(tool_calls=(call,))

    result = await solve(ScriptedModel(script), "refine:rounds=1")
    assert seen[1].messages[1]["tool_calls"] == [call]
    assert result.candidate.tool_calls == (call,)


def thinking(prompt: Prompt, _index: int, _rng: Random) -> Reply:
    """Right only after a Wait; names no answer before it is made to."""
    if prompt.prefix.endswith("Final answer:"):
        return Reply(" \\boxed{7}" if "Wait" in prompt.prefix else " \\boxed{8}")
    return Reply(" let me think")


@pytest.mark.parametrize(("waits", "answer", "calls"), [(0, "8", 2), (1, "7", 3), (2, "7", 4)])
async def test_budget_forcing_makes_it_think_longer(waits: int, answer: str, calls: int) -> None:
    result = await solve(ScriptedModel(thinking), f"budget-forcing:waits={waits}")
    assert (result.answer, result.usage.calls) == (answer, calls)
    assert result.text.count("Wait") == waits


async def test_budget_forcing_stops_before_the_end_of_thinking() -> None:
    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        return Reply(" \\boxed{7}") if prompt.prefix.endswith("</think>") else Reply(" hmm</think> \\boxed{1}")

    result = await solve(ScriptedModel(script), "budget-forcing:waits=1,thinking_end=</think>")
    assert result.text == " hmm\nWait hmm</think> \\boxed{7}"


async def test_budget_forcing_needs_continuation_and_says_so_before_spending() -> None:
    model = ScriptedModel({"7": 1.0}, capabilities=Capabilities(continuation=False))
    with pytest.raises(UsageError, match="cannot continue"):
        await solve(model, "budget-forcing")
    assert model.requests == 0


# -- edges that every strategy shares ----------------------------------------------------------------------------

ALL = [
    "single", "auto", "self-consistency:n=8", "self-consistency:n=8,weighted=true", "adaptive-consistency:n=8",
    "esc:n=10",
    "best-of-n:n=8", "first-verified:n=8", "deepconf:n=8", "deepconf-online:n=12,warmup=4", "refine",
    "refine:verify=true", "budget-forcing", "ab-mcts:n=8", "rsa:n=4,k=2", "pairwise:n=8",
    "beam:width=8", "dvts:width=8", "rebase:width=8", "rebase:width=8,step=line", "ets:width=8",
    "particle-filter:n=8", "best-first:expand=8", "check-and-correct:n=8",
]  # fmt: skip


class Wrong:
    """Calls every step wrong."""

    name = "wrong"

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        return [[Verdict(0.0, False) for _ in one.steps[one.judged :]] for one in solutions]


def judge_for(spec: str, right: str = "none") -> Verifier:
    return Stepwise(Wrong()) if spec.startswith("check-and-correct") else checker(right)


BUDGETS = [
    Budget(max_total_tokens=60), Budget(max_output_tokens=25), Budget(max_calls=2),
    Budget(max_total_tokens=60, max_calls=1, max_output_tokens=11),
]  # fmt: skip


def test_every_strategy_is_exercised() -> None:
    assert {spec.partition(":")[0] for spec in ALL} == set(strategies.STRATEGIES)


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("max_n", [1, 8])
async def test_no_strategy_passes_a_budget(spec: str, budget: Budget, max_n: int) -> None:
    model = ScriptedModel({"7": 0.5, "8": 0.5}, capabilities=Capabilities(max_n, continuation=True, logprobs=True))
    result = await solve(model, spec, budget, verifier=judge_for(spec))
    served = model.prompt_tokens_served + model.tokens_served
    assert served <= (budget.max_total_tokens or served)
    assert model.tokens_served <= (budget.max_output_tokens or model.tokens_served)
    assert model.calls <= (budget.max_calls or model.calls)
    assert result.stop_reason in ("budget", "complete", "consensus", "verified", "converged")


@pytest.mark.parametrize("spec", ALL)
async def test_a_budget_too_small_for_one_call_is_an_answerless_end(spec: str) -> None:
    model = ScriptedModel({"7": 1.0})
    with pytest.raises(NoAnswer, match="max_total_tokens") as end:
        await solve(model, spec, Budget(max_total_tokens=3), verifier=judge_for(spec, "7"))
    assert end.value.stop_reason == "budget"
    assert model.calls == 0


@pytest.mark.parametrize("spec", ALL)
async def test_a_deadline_returns_what_there_is_and_leaves_nothing_in_flight(spec: str) -> None:
    model = ScriptedModel(
        {"7": 1.0}, latency_s=lambda index, _rng: 0.0 if index < 2 else 30.0, capabilities=Capabilities(1, True, True)
    )
    async with Engine(model) as engine:
        result = await asyncio.wait_for(
            engine.solve(QUESTION, strategy=spec, budget=Budget(deadline_s=0.1), verifier=judge_for(spec)), 5
        )
    assert result.answer == "7"
    assert result.seconds < 2
    assert model.in_flight == 0


@pytest.mark.parametrize("spec", ALL)
async def test_all_samples_failing_is_an_error_with_the_upstreams_status(spec: str) -> None:
    def script(_prompt: Prompt, _index: int, _rng: Random) -> Exception:
        return ModelUnavailable("overloaded", status=503)

    with pytest.raises(ModelUnavailable) as failed:
        await solve(ScriptedModel(script), spec, verifier=judge_for(spec, "7"))
    assert failed.value.status == 503


async def test_one_failed_sample_does_not_fail_the_request() -> None:
    model = ScriptedModel({"7": 1.0}, failures={1: ModelRefused("no", status=400)}, capabilities=Capabilities(max_n=1))
    result = await solve(model, "self-consistency:n=4")
    assert (result.answer, result.samples) == ("7", 3)


async def test_an_interruption_returns_the_best_so_far() -> None:
    model = ScriptedModel(
        {"7": 1.0}, latency_s=lambda index, _rng: 0.0 if index < 3 else 30.0, capabilities=Capabilities(max_n=1)
    )
    interrupt = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, interrupt.set)
    async with Engine(model) as engine:
        result = await engine.solve(QUESTION, strategy="self-consistency:n=8", interrupt=interrupt)
    assert (result.answer, result.stop_reason, result.samples) == ("7", "interrupted", 3)
    assert model.in_flight == 0


async def test_cancelling_a_request_leaves_nothing_in_flight() -> None:
    model = ScriptedModel({"7": 1.0}, latency_s=30.0, capabilities=Capabilities(max_n=1))
    async with Engine(model) as engine:
        task = asyncio.create_task(engine.solve(QUESTION, strategy="self-consistency:n=8"))
        while model.in_flight < 8:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert model.in_flight == 0


async def test_a_deadline_in_mid_sentence_returns_the_sentence_so_far() -> None:
    model = ScriptedModel(lambda _prompt, _index, _rng: Reply("one two three " * 50), token_s=0.01)
    async with Engine(model) as engine:
        result = await engine.solve(QUESTION, strategy="single", budget=Budget(deadline_s=0.2))
    assert result.text.startswith("one two three")
    assert (result.candidate.finish_reason, result.stop_reason) == ("cut", "deadline")
    assert 0 < result.usage.output_tokens < 150


async def test_the_same_seed_gives_the_same_trace() -> None:
    async def trace() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []

        def listen(event: Mapping[str, Any]) -> None:
            events.append({name: value for name, value in event.items() if name not in ("t", "trace")})

        await solve(
            ScriptedModel({"7": 0.5, "8": 0.5}), "adaptive-consistency:n=12", listeners=(listen,), verifier=checker()
        )
        return events

    assert await trace() == await trace()


# -- selection and parsing ---------------------------------------------------------------------------------------


def candidate(index: int, answer: str | None, finish_reason: str = "stop") -> Candidate:
    return Candidate((index,), QUESTION.prompt, str(answer), finish_reason=finish_reason, answer=answer)


def test_cut_samples_do_not_vote() -> None:
    some = [candidate(0, "8", "cut"), candidate(1, "8", "cut"), candidate(2, "7")]
    assert tally(some) == {"7": 1.0}
    assert majority(some).candidate.answer == "7"


def test_best_ignores_what_could_not_be_judged_and_votes_if_nothing_could() -> None:
    some = [candidate(0, "8"), candidate(1, "7"), candidate(2, "8")]
    assert best(some, [Verdict(None), Verdict(0.0), Verdict(None)]).candidate.answer == "7"
    assert best(some, [Verdict(None)] * 3).candidate.answer == "8"
    with pytest.raises(NoAnswer):
        majority([])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("self-consistancy", "did you mean self-consistency"),
        ("self-consistency:m=3", "no option 'm'"),
        ("self-consistency:n=many", "expected a whole number"),
        ("self-consistency:n=0", "at least 1"),
        ("self-consistency:n", "key=value"),
        ("self-consistency:weighted=yes", "true or false"),
        ("adaptive-consistency:batches=0", "batch sizes"),
        ("adaptive-consistency:confidence=2", "between 0.5 and 1"),
        ("deepconf:score=best", "expected one of"),
        ("deepconf:eta=0", "eta"),
        ("", "unknown strategy"),
    ],
)
def test_a_wrong_strategy_is_told_in_one_line(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        strategies.parse(spec)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
