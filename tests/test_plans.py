"""Plans by difficulty: where the right plan for each kind of request is known, it is found and beats one for all."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.errors import UsageError
from thinkscale.optimize.fit_plans import fit_plans, planned
from thinkscale.optimize.logistic import logistic
from thinkscale.optimize.replaying import replayed
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Table, orders
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.features import request_features
from thinkscale.policies.plans import Bin, Ease, Planned, PlansPolicy, probe_features, votes_of
from thinkscale.types import Action, AnswerKind, Prompt, Request, Seen

VOTES = ["single", *(f"self-consistency:n={n}" for n in (3, 5, 7, 9, 11, 15, 19, 24))]
EASY, HARD, HOPELESS = "What is 2 + 3?", "What is 4821 * 397 + 16?", "What is 4821 * 397 + 16 - 94021 / 381 ** 2?"


def bank(kinds: Sequence[tuple[str, float]], n: int, seed: int, max_n: int = 64) -> Bank:
    """Problems with a prompt and the chance that a sample is right; wrong answers are 8 others, equally likely. Every
    sample takes ten tokens, and every request one for its prompt.
    """
    rng = np.random.default_rng(seed)
    problems, samples = [], []
    for place, (question, chance) in enumerate(kinds):
        problems.append(BankProblem(str(place), Prompt.of(question), AnswerKind.NUMBER, "7"))
        for sample in range(n):
            answer = "7" if rng.random() < chance else f"w{rng.integers(8)}"
            logprobs = [-0.1 if chance > 0.9 else -1.0] * 3
            samples.append(
                BankSample(
                    str(place),
                    "m",
                    sample,
                    answer,
                    answer == "7",
                    prompt_tokens=1,
                    output_tokens=10,
                    logprobs=logprobs,
                )
            )
    return Bank(problems, [BankModel("m", max_n=max_n)], samples)


def requests(of: Bank) -> list[Request]:
    return [Request(problem.prompt, problem.kind) for problem in of.problems.values() if problem.prompt]


def mixed(seed: int, problems: int = 90) -> Bank:
    """Three kinds: one sample is enough, a vote of many is needed, nothing helps."""
    return bank([(EASY, 1.0), (HARD, 0.4), (HOPELESS, 0.02)] * (problems // 3), 24, seed)


def best_for_all(known: Table, later: Table, tokens: float) -> float:
    """The accuracy on later problems of the plan that is best on the known ones within the budget."""
    given = orders(known, 8, 1)
    found = [(simulate(plan, known, given), plan) for plan in VOTES]
    _, plan = max((outcomes.correct.mean(), plan) for outcomes, plan in found if outcomes.tokens.mean() <= tokens)
    return float(simulate(plan, later, orders(later, 8, 2)).correct.mean())


# -- known optima ------------------------------------------------------------------------------------------------


def test_by_the_prompt_each_kind_gets_its_own_plan() -> None:
    """At 90 tokens a request: a sample for those where more gains nothing, 24 for those that need a vote."""
    known, later = mixed(1), mixed(2)
    policy = fit_plans(Table.of(known), VOTES, tokens=90, probes=0, bins=3, prompts=requests(known))
    plans = [votes_of(one.plan) or 0 for one in policy.bins]
    assert plans[0] == plans[2] == 1
    assert plans[1] >= 15
    assert [policy.bin(request_features(one)).plan for one in requests(later)[:3]] == [
        policy.bins[2].plan,
        policy.bins[1].plan,
        policy.bins[0].plan,
    ]
    table = Table.of(later)
    outcomes = planned(policy, table, orders(table, 8, 2), prompts=requests(later))
    assert outcomes.tokens.mean() <= 91
    assert outcomes.correct.mean() >= best_for_all(Table.of(known), table, 90) + 0.05


def test_by_probes_alone_too() -> None:
    """Here nothing is known of the prompts, and three samples must tell, which are paid for."""
    kinds = [(EASY, 1.0), (EASY, 1.0), (HARD, 0.45)] * 40
    known, later = bank(kinds, 24, 3), bank(kinds, 24, 4)
    policy = fit_plans(Table.of(known), VOTES, tokens=90, probes=3, bins=3)
    assert policy.probes == 3
    assert (votes_of(policy.bins[0].plan) or 0) >= 15
    assert (votes_of(policy.bins[-1].plan) or 0) <= 3
    table = Table.of(later)
    outcomes = planned(policy, table, orders(table, 8, 2))
    assert outcomes.samples.min() == 3
    assert outcomes.tokens.mean() <= 95
    assert outcomes.correct.mean() >= best_for_all(Table.of(known), table, outcomes.tokens.mean()) + 0.03


def test_where_prompts_tell_nothing_difficulty_is_not_judged() -> None:
    alike = bank([(EASY, 0.6), (HARD, 0.6), (HOPELESS, 0.6)] * 20, 24, 5)
    policy = fit_plans(Table.of(alike), VOTES, tokens=100, probes=0, prompts=requests(alike))
    assert (policy.probes, len(policy.bins), policy.ease.weights) == (0, 1, {})
    assert (votes_of(policy.bins[0].plan) or 0) > 1


def test_what_cannot_be_told_apart_is_not_paid_for() -> None:
    sure = Table.of(bank([(EASY, 1.0)] * 40, 24, 5))
    assert [one.plan for one in fit_plans(sure, VOTES, tokens=1000).bins] == ["single"]


def test_the_larger_the_budget_the_more_accurate() -> None:
    table = Table.of(mixed(6))
    expected = []
    for tokens in (11, 60, 200):
        policy = fit_plans(table, VOTES, tokens=tokens, prompts=requests(mixed(6)))
        assert sum(one.share * one.tokens for one in policy.bins) <= tokens * 1.001
        expected.append(sum(one.share * one.accuracy for one in policy.bins))
    assert expected == sorted(expected)
    assert expected[-1] > expected[0] + 0.1


# -- the same live -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_n", [1, 4])
async def test_the_simulated_policy_is_the_policy_itself(max_n: int) -> None:
    """The engine, with the policy's own controllers, over the same samples: a vote, a strategy of its own, a stop."""
    known = bank([(EASY, 1.0), (HARD, 0.5), (HOPELESS, 0.1)] * 4, 12, 7, max_n)
    table = Table.of(known)
    weights = {"agreement": 4.0, "nll": -0.5, "digits": -3.0, "tokens": 0.1}
    policy = PlansPolicy(
        3,
        Ease(0.2, weights, dict.fromkeys(weights, 0.0)),
        (
            Bin(0.6, "adaptive-consistency:n=8,batches=2", 0.5, 1.0, 0.3),
            Bin(0.8, "self-consistency:n=9", 0.5, 1.0, 0.3),
            Bin(1.0, "single", 0.5, 1.0, 0.3),
        ),
    )
    given = orders(table, 6, 8)
    ours = planned(policy, table, given, prompts=requests(known))
    theirs = await replayed("auto", known, table, given, auto=policy.controller)
    assert {3, 9} < set(ours.samples.ravel().tolist())
    for name in ("correct", "chosen", "samples", "prompt_tokens", "output_tokens", "rounds"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


async def test_probes_stay_in_the_vote_and_the_budget_is_kept_in_mind() -> None:
    ease = Ease(0.0, {}, {})
    vote = PlansPolicy(2, ease, (Bin(1.0, "self-consistency:n=5", 0.7, 1.0, 1.0),)).controller(Request(Prompt.of("?")))
    assert await vote.act(Seen()) == Action("draw", 2)
    assert await vote.act(Seen(affordable=1)) == Action("draw", 1)
    assert await vote.act(Seen(2, (2,))) == Action("draw", 3)
    assert await vote.act(Seen(2, (2,), affordable=2)) == Action("draw", 2)
    assert await vote.act(Seen(2, (2,), affordable=0)) == Action("stop", confidence=0.7)
    assert await vote.act(Seen(5, (4, 1))) == Action("stop")
    other = PlansPolicy(0, ease, (Bin(1.0, "first-verified:n=8", 0.7, 1.0, 1.0),)).controller(Request(Prompt.of("?")))
    assert await other.act(Seen()) == Action("run", strategy="first-verified:n=8")


def test_log_probabilities_are_asked_for_only_where_they_count() -> None:
    plain = PlansPolicy(2, Ease(0.0, {"agreement": 1.0}, {"agreement": 0.5}), (Bin(1.0, "single", 0.5, 1.0, 1.0),))
    assert Planned(plain, {}).features == {"drawn", "first", "affordable"}
    told = PlansPolicy(2, Ease(0.0, {"nll": 1.0}, {"nll": 0.5}), plain.bins)
    assert "nll" in Planned(told, {}).features
    assert told.ease({}) == told.ease({"nll": 0.5}) > told.ease({"nll": 0.1})


# -- what it is made of ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "votes"),
    [
        ("single", 1),
        ("self-consistency", 16),
        ("self-consistency:n=5", 5),
        ("self-consistency:n=5,weighted=true", None),
        ("adaptive-consistency:n=8", None),
    ],
)
def test_which_plans_count_the_probes(words: str, votes: int | None) -> None:
    assert votes_of(words) == votes


def test_features_are_bounded_always_the_same_and_need_no_text() -> None:
    long = "x 12,345.5 = y? " * 100_000
    parts = Prompt(messages=({"role": "user", "content": [{"type": "text", "text": EASY}, {"type": "image_url"}]},))
    prompts = [
        Prompt.of(EASY),
        Prompt(text=long),
        parts,
        Prompt.of("```python\ndef f(): ...\n```", system=long),
        Prompt(messages=({"role": "assistant", "content": None},), tools=({"type": "function"},)),
    ]
    every = [request_features(Request(prompt, kind)) for prompt in prompts for kind in AnswerKind]
    assert all(features.keys() == every[0].keys() for features in every)
    assert all(0 <= value <= 1 for features in every for value in features.values())
    plain = request_features(Request(prompts[0], AnswerKind.NUMBER))
    assert {**plain, "context": 0.0} == {**request_features(Request(parts, AnswerKind.NUMBER)), "context": 0.0}
    assert (plain["kind_number"], plain["kind_text"], plain["code"]) == (1.0, 0.0, 0.0)
    harder = request_features(Request(Prompt.of(HOPELESS), AnswerKind.NUMBER))
    assert all(harder[name] > plain[name] for name in ("length", "numbers", "longest_number"))
    assert request_features(Request(prompts[3]))["code"] == 1.0
    assert request_features(Request(prompts[4]))["tools"] == 1.0


def test_probe_features() -> None:
    seen = Seen(drawn=4, votes=(2, 1), unanswered=1, capped=1, output_tokens=40)
    assert probe_features(seen) == pytest.approx(
        {"agreement": 0.5, "lead": 0.25, "unanswered": 0.25, "capped": 0.25, "tokens": np.log(11)}
    )


def test_the_regression_finds_what_made_the_rates() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3))
    features[:, 2] = 1.0
    rates = 1 / (1 + np.exp(-(0.5 + 2 * features[:, 0] - features[:, 1])))
    intercept, weights = logistic(features, rates, np.arange(4000))
    assert intercept == pytest.approx(0.5, abs=0.02)
    assert weights == pytest.approx([2.0, -1.0, 0.0], abs=0.02)
    noise = logistic(rng.normal(size=(30, 20)), (rng.random(30) < 0.5).astype(float), np.arange(30))[1]
    assert np.abs(noise).max() < 0.3  # few problems and many features: next to nothing is believed
    assert np.isfinite(logistic(features, np.ones(4000), np.arange(4000))[0])


def test_it_is_the_same_after_a_round_trip() -> None:
    known = mixed(1)
    policy = fit_plans(Table.of(known), VOTES, tokens=90, probes=3, prompts=requests(known))
    again = Artifact.parse(Artifact("plans", "m", policy, {}).text()).policy
    assert again == policy
    assert len(policy.bins) > 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"probes": -1}, "probes"),
        ({"bins": []}, "bins"),
        ({"bins": [{"upto": 0.5, "plan": "single", "accuracy": 1, "tokens": 1, "share": 1}]}, "up to 1"),
        ({"ease": {"intercept": 0, "weights": {"digits": 1}, "typical": {}}}, "same features"),
    ],
)
def test_a_damaged_one_is_refused(change: dict[str, object], why: str) -> None:
    policy = PlansPolicy(2, Ease(0.0, {}, {}), (Bin(1.0, "single", 0.5, 1.0, 1.0),))
    content = json.loads(Artifact("plans", "m", policy, {}).text())
    content["policy"] |= change
    with pytest.raises(UsageError, match=why):
        Artifact.parse(json.dumps(content))


def test_impossible_wishes_are_refused() -> None:
    table = Table.of(mixed(1, 30))
    for options, why in (
        ({"tokens": 5.0}, "no plan fits 5 tokens a request: the cheapest takes 11"),
        ({"tokens": 90, "probes": 25}, "probes"),
        ({"tokens": 90, "bins": 0}, "bins"),
        ({"tokens": 90, "prompts": [Request(Prompt.of("?"))]}, "1 prompts for 30"),
    ):
        with pytest.raises(UsageError, match=why):
            fit_plans(table, VOTES, **options)
    with pytest.raises(UsageError, match="name the plans"):
        fit_plans(table, [], tokens=90)
    with pytest.raises(UsageError, match="at least two problems"):
        fit_plans(Table.of(bank([(EASY, 0.5)], 8, 0)), VOTES, tokens=90)
