"""When to stop: beside the exact optimum where the process is known, and at the edges where it can be reasoned out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from thinkscale.banks.importing import import_file
from thinkscale.errors import UsageError
from thinkscale.optimize.aiming import best_for, cheapest_for
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.fit_stopping import fit_stopping, stopping_family
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.table import Floats, Ints, Table, orders
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.stopping import State, Step, StoppingPolicy, StoppingRule
from thinkscale.types import Action, Prompt, Request, Seen

BANKS = Path(__file__).parents[2] / "shared" / "data" / "banks"
TOKENS = 10  # of each sample, without a prompt
RIGHT = (0.9, 0.75, 0.6)  # the chances that a sample is right: easy, middling and hard problems, equally many


def table(answers: Ints, *, right: int = 0, scores: dict[str, Floats] | None = None, prompt: int = 0) -> Table:
    """Answers [P, N], of which one is right and -1 is none."""
    return Table(
        model="m",
        problems=tuple(str(place) for place in range(len(answers))),
        answers=answers,
        codes=tuple(tuple(map(str, range(int(answers.max()) + 1))) for _ in answers),
        correct=answers == right,
        capped=np.zeros(answers.shape, np.bool_),
        prompt_tokens=np.full(len(answers), prompt),
        output_tokens=np.full(answers.shape, TOKENS),
        max_n=1,
        scores=scores,
    )


def two_answers(problems: int, n: int, seed: int) -> Table:
    """Problems with the chances `RIGHT`; all wrong samples of a problem agree."""
    rng = np.random.default_rng(seed)
    chance = np.array(RIGHT)[np.arange(problems) % len(RIGHT)]
    return table((rng.random((problems, n)) > chance[:, None]).astype(np.int64))


def mixed(problems: int, n: int, seed: int = 0) -> Table:
    """On half of the problems 7 in 10 samples are right; on the others each says something else, and nothing right."""
    rng = np.random.default_rng(seed)
    answers = np.where(rng.random((problems, n)) < 0.7, 0, rng.integers(1, 4, (problems, n)))
    answers[problems // 2 :] = np.arange(1, n + 1)
    return table(answers)


def act(rule: StoppingRule, seen: Seen) -> Action:
    return asyncio.run(rule.act(seen))


class Exact:
    """Two answers, one of them right, each problem's chance one of `RIGHT`: the value of any way of stopping."""

    def __init__(self, n: int, price: float) -> None:
        self.n, self.cost = n, price * TOKENS

    @staticmethod
    def likelihood(ours: int, theirs: int) -> float:
        """Of so many right and so many wrong samples in some one order."""
        return sum(p**ours * (1 - p) ** theirs for p in RIGHT) / len(RIGHT)

    def right(self, first: int, second: int) -> float:
        """The chance that the leader is right: before samples came, either answer was as likely to be."""
        ahead, behind = self.likelihood(first, second), self.likelihood(second, first)
        return ahead / (ahead + behind)

    def next(self, first: int, second: int) -> float:
        """The chance that the next sample is for the leader."""
        seen = self.likelihood(first, second) + self.likelihood(second, first)
        return (self.likelihood(first + 1, second) + self.likelihood(second, first + 1)) / seen

    def value(self, stops: Callable[[int, int], bool | None]) -> float:
        """Of a request, where `stops` says whether to at a state, `None` for whatever is better."""

        @cache
        def worth(first: int, second: int) -> float:
            if first < second:
                first, second = second, first
            stop = self.right(first, second) if first else 0.0
            if first + second == self.n or (first and stops(first, second)):
                return stop
            ahead = self.next(first, second)
            go = ahead * worth(first + 1, second) + (1 - ahead) * worth(first, second + 1) - self.cost
            return go if stops(first, second) is not None or not first else max(stop, go)

        return worth(0, 0)


@pytest.mark.parametrize("price", [0.0003, 0.001, 0.003, 0.01])
def test_the_policy_is_nearly_as_good_as_the_exact_optimum(price: float) -> None:
    """The true value of the fitted rule, on the process itself, beside what dynamic programming with all of it known
    reaches; and better than stopping at once or never.
    """
    n = 9
    rule = fit_stopping(two_answers(300, n, seed=1), price=price, batches=(1,)).rule
    exact = Exact(n, price)

    def stops(first: int, second: int) -> bool:
        return act(rule, Seen(drawn=first + second, votes=tuple(v for v in (first, second) if v))).kind == "stop"

    best, ours = exact.value(lambda *_: None), exact.value(stops)
    assert best - 0.006 < ours <= best + 1e-12
    assert ours >= max(exact.value(lambda *_: True), exact.value(lambda *_: False)) - 0.006


def test_stopping_pays_where_the_optimum_is_between_the_extremes() -> None:
    """The comparison above has something to tell: both extremes lose more than it allows for."""
    exact = Exact(9, 0.003)
    best = exact.value(lambda *_: None)
    assert best > exact.value(lambda *_: True) + 0.01
    assert best > exact.value(lambda *_: False) + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_it_serves_problems_that_it_was_not_fitted_on(seed: int) -> None:
    price = 0.002
    rule = fit_stopping(two_answers(60, 12, seed), price=price, batches=(1, 2, 4)).rule
    fresh = two_answers(600, 12, seed + 100)
    given = orders(fresh, 8, seed)

    def reward(outcomes: object) -> float:
        return float(outcomes.correct.mean() - price * outcomes.tokens.mean())  # type: ignore[attr-defined]

    ours = reward(simulate_controller(rule, fresh, given))
    for words in ("single", "self-consistency:n=4", "self-consistency:n=12", "adaptive-consistency:n=12,batches=1"):
        assert ours > reward(simulate(words, fresh, given)) - 0.004, words


def test_at_no_price_all_is_drawn_and_at_a_high_one_a_single_sample() -> None:
    known = two_answers(100, 8, seed=3)
    given = orders(known, 4, 0)
    spent = simulate_controller(fit_stopping(known, price=0.0).rule, known, given)
    assert (spent.samples == 8).all()
    spared = simulate_controller(fit_stopping(known, price=1.0).rule, known, given)
    assert (spared.samples == 1).all()


def test_dearer_tokens_are_never_spent_more_freely() -> None:
    family = stopping_family(two_answers(100, 12, seed=4), batches=(1, 2, 4))
    tokens = [policy.tokens for _, policy in family]
    assert len(family) > 5
    assert tokens == sorted(tokens)
    assert [price for price, _ in family] == sorted((price for price, _ in family), reverse=True)


def test_hopeless_problems_are_given_up() -> None:
    known = mixed(200, 16)
    rule = fit_stopping(known, price=0.0005).rule
    lost = act(rule, Seen(drawn=5, votes=(1,) * 5))
    assert (lost.kind, lost.reason) == ("stop", "disagreement")
    assert lost.confidence is not None
    assert lost.confidence < 0.15
    assert act(rule, Seen(drawn=4, votes=(2, 2))).kind == "draw"
    outcomes = simulate_controller(rule, known, orders(known, 4, 0))
    assert outcomes.samples[:, 100:].mean() < 12
    vote = simulate("self-consistency:n=16", known, orders(known, 4, 0))
    assert outcomes.correct.mean() > vote.correct.mean() - 0.03


def test_where_the_first_samples_disagree_by_chance_it_goes_on() -> None:
    """The same votes, 1 to 1, in a bank where they are no bad sign: two more samples decide."""
    rng = np.random.default_rng(0)
    answers = np.where(rng.random((200, 16)) < 0.7, 0, rng.integers(1, 6, (200, 16)))
    rule = fit_stopping(table(answers), price=0.0005).rule
    assert act(rule, Seen(drawn=2, votes=(1, 1))).kind == "draw"


def test_a_prompt_that_is_paid_for_each_time_makes_for_larger_batches() -> None:
    rng = np.random.default_rng(5)
    answers = np.where(rng.random((150, 12)) < 0.6, 0, rng.integers(1, 5, (150, 12)))
    apart = table(answers)
    shared = replace(table(answers, prompt=200), max_n=12)
    first = [fit_stopping(one, price=0.0003).rule.steps[0, 0, 0, None] for one in (apart, shared)]
    assert first[0].kind == first[1].kind == "draw"
    assert first[1].k > first[0].k


def test_waiting_has_its_price_too() -> None:
    known = two_answers(150, 12, seed=6)
    given = orders(known, 4, 0)
    rounds = [
        simulate_controller(fit_stopping(known, price=0.0005, round_price=wait).rule, known, given).rounds.mean()
        for wait in (0.0, 0.02)
    ]
    assert rounds[1] < rounds[0]


def test_confidence_is_how_often_answers_are_right() -> None:
    rule = fit_stopping(two_answers(300, 9, seed=7), price=0.002, batches=(1, 2)).rule
    exact = Exact(9, 0.002)
    told = [(step.right, exact.right(first, second)) for (drawn, first, second, _), step in rule.steps.items() if drawn]
    assert len(told) > 5
    assert max(abs(ours - truth) for ours, truth in told) < 0.05


def checked(problems: int = 120, n: int = 8) -> Table:
    """A right answer comes once in four, and a wrong one is more common; a checker knows it."""
    rng = np.random.default_rng(8)
    answers = np.where(rng.random((problems, n)) < 0.25, 0, rng.integers(1, 3, (problems, n)))
    return table(answers, scores={"checker": (answers == 0).astype(np.float64)})


def test_what_a_checker_finds_is_asked_for() -> None:
    known = checked()
    given = orders(known, 8, 0)
    rule = fit_stopping(known, price=0.0005, verifier="checker").rule
    assert "score" in rule.features
    outcomes = simulate_controller(rule, known, given, verifier="checker")
    assert outcomes.correct.mean() > simulate("self-consistency:n=8", known, given).correct.mean() + 0.3
    assert outcomes.samples.mean() < 8


def test_a_checker_that_costs_too_much_is_not_asked() -> None:
    rule = fit_stopping(checked(), price=0.0005, verifier="checker", verifier_tokens=5000).rule
    assert "score" not in rule.features


def test_a_larger_model_is_asked_where_the_votes_are_hopeless() -> None:
    known = mixed(200, 8)
    able = replace(table(np.zeros((200, 4), np.int64)), output_tokens=np.full((200, 4), 1000))
    rule = fit_stopping(known, price=0.0005, larger=able).rule
    assert "larger" in rule.features
    assert act(rule, Seen(drawn=5, votes=(1, 1, 1, 1, 1))).kind == "escalate"
    assert act(rule, Seen(drawn=5, votes=(5,))).kind == "stop"
    outcomes = simulate_controller(rule, known, orders(known, 2, 0), larger=able)
    assert outcomes.correct.mean() > 0.9
    assert outcomes.tokens.mean() < 720


def test_a_larger_model_of_no_more_use_is_not_asked() -> None:
    known = two_answers(100, 8, seed=9)
    rule = fit_stopping(known, price=0.0005, larger=table(np.ones((100, 4), np.int64))).rule
    assert "larger" not in rule.features


def test_ties_go_to_the_likelier_answer_where_the_record_tells() -> None:
    known = two_answers(60, 6, seed=10)
    assert "likelihood" not in fit_stopping(known, price=0.001).rule.features
    told = replace(known, nll=np.where(known.correct, 0.1, 0.9))
    rule = fit_stopping(told, price=0.001).rule
    assert "likelihood" in rule.features
    assert StoppingRule.of(json.loads(json.dumps(rule.body()))) == rule


def test_a_policy_is_the_same_after_it_was_a_file() -> None:
    known = checked()
    rules = [policy.rule for _, policy in stopping_family(known, verifier="checker")]
    mixed = StoppingPolicy(rules[1], rules[-1], 0.25)
    for policy in (StoppingPolicy(rules[-1]), mixed):
        text = Artifact("stopping", "m", policy, {"bank": "made"}).text()
        assert Artifact.parse(text).policy == policy
    assert '"0 0 0": "draw ' in text


@pytest.mark.parametrize(
    "change",
    [
        {"states": {}},
        {"states": {"1 1": "stop; right 0.5, worth 0.5"}},
        {"states": {"1 1 0": "wait; right 0.5, worth 0.5"}},
        {"states": {"1 1 0": "stop; right 1.5, worth 0.5"}},
        {"states": {"1 1 0": "stop"}},
        {"n": 0},
        {"ties": "last"},
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, object]) -> None:
    rule = StoppingRule(4, 0.1, 0.5, 20.0, {(1, 1, 0, None): Step("stop", 1, 0.5, 0.5)})
    content = json.loads(Artifact("stopping", "m", StoppingPolicy(rule), {}).text())
    content["policy"]["rule"] |= change
    with pytest.raises(UsageError, match="damaged"):
        Artifact.parse(json.dumps(content))


def test_states_that_it_does_not_know_are_decided_as_the_nearest() -> None:
    steps: dict[State, Step] = {
        (0, 0, 0, None): Step("draw", 4, 0.0, 0.5),
        (4, 4, 0, None): Step("stop", 1, 0.9, 0.9),
        (4, 1, 1, None): Step("draw", 4, 0.2, 0.4),
    }
    rule = StoppingRule(8, 0.1, 0.5, 50.0, steps)
    assert act(rule, Seen(drawn=4, votes=(3, 1))).kind == "stop"
    assert act(rule, Seen(drawn=4, votes=(2, 1, 1))) == Action("draw", 4)
    assert act(rule, Seen(drawn=6, votes=(2, 2, 2))) == Action("draw", 2)  # no more than 8
    assert act(rule, Seen(drawn=3, votes=(3,))).kind == "stop"
    assert act(rule, Seen(drawn=8, votes=(2, 2, 2, 2))).kind == "stop"
    assert act(rule, Seen(drawn=11, votes=(1,) * 11)).kind == "stop"


def test_it_takes_no_more_than_is_affordable() -> None:
    rule = fit_stopping(two_answers(100, 8, seed=11), price=0.0001).rule
    assert act(rule, Seen(drawn=2, votes=(1, 1), affordable=1)) == Action("draw", 1)
    assert act(rule, Seen(drawn=2, votes=(1, 1), affordable=0)).kind == "stop"
    known = two_answers(100, 8, seed=11)
    outcomes = simulate_controller(rule, known, orders(known, 2, 0), affordable=np.full((2, 100), 3))
    assert outcomes.samples.max() <= 3


def test_two_rules_mixed_cost_what_is_asked_for() -> None:
    known = two_answers(200, 10, seed=12)
    policy = best_for(known, 23.0, batches=(1, 2))
    assert policy.tokens == pytest.approx(23.0, abs=0.1)
    assert policy.other is not None
    assert 0 < policy.share < 1
    asked = [policy.controller(Request(Prompt.of("?"), id=str(number))) for number in range(2000)]
    assert np.mean([rule == policy.other for rule in asked]) == pytest.approx(policy.share, abs=0.04)
    again = [policy.controller(Request(Prompt.of("?"), id=str(number))) for number in range(20)]
    assert again == asked[:20]


def test_the_accuracy_of_the_full_vote_costs_half_of_its_tokens_on_other_problems() -> None:
    """On the recorded bank of last letters: fitted on one half of the problems, tested on the other."""
    bank = Table.of(import_file(BANKS / "last_letters_gpt3.5_t0.7_350x40.jsonl"))
    places = np.random.default_rng(0).permutation(len(bank))
    known, fresh = bank.take(places[:175]), bank.take(places[175:])
    vote = "self-consistency:n=40"
    goal = float(simulate(vote, known, orders(known, 1, 0)).correct.mean())
    prices = np.geomspace(1e-2, 1e-7, 6).tolist()
    policy = cheapest_for(known, goal, prices=prices, batches=(1, 4))
    given = orders(fresh, 8, 0)
    full, ours = simulate(vote, fresh, given), simulate_controller(policy.rule, fresh, given)
    assert ours.tokens.mean() < 0.5 * full.tokens.mean()
    assert ours.correct.mean() > full.correct.mean() - 0.01


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (table(np.zeros((1, 8), np.int64)), "one problem"),
        (table(np.array([[0], [1], [0]])), "one sample"),
        (table(np.zeros((5, 4), np.int64)), "every sample of m is right"),
        (table(np.full((5, 4), 1)), "every sample of m is wrong"),
        (table(np.full((5, 4), -1)), "every sample of m is wrong"),
    ],
)
def test_what_cannot_be_told_is_said(bad: Table, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        fit_stopping(bad, price=0.001)


def test_impossible_wishes_are_refused() -> None:
    known = two_answers(20, 4, seed=13)
    with pytest.raises(UsageError, match="price"):
        fit_stopping(known, price=-1.0)
    with pytest.raises(UsageError, match="price"):
        fit_stopping(known, price=float("nan"))
    with pytest.raises(UsageError, match="batches"):
        fit_stopping(known, price=0.1, batches=(0, 2))
    with pytest.raises(UsageError, match="scores"):
        fit_stopping(known, price=0.1, verifier="checker")
    with pytest.raises(UsageError, match="same problems"):
        fit_stopping(known, price=0.1, larger=two_answers(10, 4, seed=14))
    with pytest.raises(UsageError, match="few"):
        best_for(known, 3.0)
