"""The bandit: finds what pays, follows when that changes, says how likely its choices were, keeps to its allowance."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.errors import UsageError
from thinkscale.optimize.table import Table
from thinkscale.optimize.traffic import Traffic, run, standings, traffic
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import ARMS, FEATURES, BanditPolicy, Logged
from thinkscale.policies.features import request_features
from thinkscale.policies.regression import Moments, Regression, inverse
from thinkscale.types import AnswerKind, Prompt, Request, Seen

PRICE = 1e-5
TWO = {"cheap": 1.0, "dear": 10.0}


def policy(**settings: object) -> BanditPolicy:
    return BanditPolicy.cold(**{"arms": TWO, "price": PRICE, "features": (), **settings})  # type: ignore[arg-type]


def lived(
    bandit: BanditPolicy, chance: dict[str, float], *, requests: int, seed: int = 0, x: float | None = None
) -> tuple[BanditPolicy, Counter[str]]:
    """The policy after so many requests, in which each strategy is right with its chance; and what it chose."""
    random = Random(seed)
    costs = {arm.strategy: arm.cost for arm in bandit.state.arms}
    features = {} if x is None else {"x": x}
    chosen: Counter[str] = Counter()
    for _ in range(requests):
        strategy, probability = bandit.choose(features, random=random)
        chosen[strategy] += 1
        right = float(random.random() < chance[strategy])
        bandit = bandit.learned([Logged(features, strategy, probability, right, costs[strategy])])
    return bandit, chosen


# -- learning ----------------------------------------------------------------------------------------------------


def test_it_finds_the_strategy_that_pays() -> None:
    three = {"a": 1.0, "b": 4.0, "c": 16.0}
    bandit, _ = lived(policy(arms=three), {"a": 0.3, "b": 0.7, "c": 0.72}, requests=1500)
    _, chosen = lived(bandit, {"a": 0.3, "b": 0.7, "c": 0.72}, requests=500, seed=1)
    assert chosen["b"] > 400  # c is right a little more often, for .048 more


def test_a_higher_price_makes_it_spend_less() -> None:
    rows = [
        Logged({}, strategy, 0.5, float(Random(i).random() < right), cost)
        for i in range(600)
        for strategy, right, cost in (("cheap", 0.5, 400.0), ("dear", 0.6, 4000.0))
    ]
    generous = policy(price=1e-6).learned(rows).chances({})
    thrifty = policy(price=1e-4).learned(rows).chances({})
    assert generous["dear"] > 0.9
    assert thrifty["dear"] == pytest.approx(0.025, abs=1e-3)


def test_it_follows_when_another_strategy_becomes_the_best() -> None:
    bandit, _ = lived(policy(memory=300), {"cheap": 0.8, "dear": 0.4}, requests=800)
    assert bandit.chances({})["cheap"] > 0.9
    bandit, _ = lived(bandit, {"cheap": 0.1, "dear": 0.7}, requests=1200, seed=1)
    assert bandit.chances({})["dear"] > 0.9


def test_it_learns_for_which_requests_more_compute_pays() -> None:
    bandit = policy(features=("x",), price=3e-5)
    random = Random(0)
    for _ in range(2000):
        x = float(random.random() < 0.5)
        strategy, probability = bandit.choose({"x": x}, random=random)
        right = {"cheap": 0.9 - 0.6 * x, "dear": 0.9}[strategy]
        rewarded = float(random.random() < right)
        bandit = bandit.learned([Logged({"x": x}, strategy, probability, rewarded, 400 * TWO[strategy])])
    assert bandit.chances({"x": 0.0})["cheap"] > 0.9
    assert bandit.chances({"x": 1.0})["dear"] > 0.9


def test_what_nobody_tried_lately_is_not_what_it_was_in_easier_times() -> None:
    """All became hard at once; the strategy that was not tried since is expected to have become so, too."""
    bandit = policy(memory=200).learned(Logged({}, name, 0.5, 1.0, 400.0) for _ in range(200) for name in TWO)
    bandit = bandit.learned(Logged({}, "cheap", 0.9, 0.0, 400.0) for _ in range(600))
    assert bandit.beliefs({})["dear"].reward < 0.4


def test_failures_make_it_try_the_others_soon() -> None:
    """From a cold start the likely choice always fails; its rival has been tried before long."""
    for seed in range(20):
        _, chosen = lived(
            policy(arms={"single": 1.0, "vote": 4.0}, price=1e-4), {"single": 0.0, "vote": 1.0}, requests=60, seed=seed
        )
        assert chosen["vote"] > 10


def test_it_begins_with_cheap_votes() -> None:
    cold = BanditPolicy.cold(price=PRICE)
    expected = {name: one.reward - PRICE * one.cost for name, one in cold.beliefs({}).items()}
    assert max(expected, key=expected.__getitem__) == "adaptive-consistency:n=8"
    assert list(expected) == list(ARMS)


def test_learning_row_by_row_or_all_at_once_is_the_same_but_for_the_noise() -> None:
    random = Random(3)
    rows = [Logged({"x": random.random()}, random.choice(list(TWO)), 0.5, random.random(), 300.0) for _ in range(130)]
    together = policy(features=("x",), memory=50).learned(rows)
    alone = policy(features=("x",), memory=50)
    for row in rows:
        alone = alone.learned([row])
    for x in (0.1, 0.8):
        for name in TWO:
            ours, theirs = together.beliefs({"x": x})[name], alone.beliefs({"x": x})[name]
            assert (ours.reward, ours.cost, ours.variance) == pytest.approx(
                (theirs.reward, theirs.cost, theirs.variance)
            )
    assert together.state.feedback == alone.state.feedback == 130


def test_feedback_on_strategies_it_does_not_have_teaches_nothing() -> None:
    cold = policy()
    assert cold.learned([Logged({}, "beam", 0.5, 1.0, 9.0)]) == cold


@pytest.mark.parametrize(("reward", "cost"), [(1.5, 1.0), (-0.1, 1.0), (math.nan, 1.0), (0.5, -1.0), (0.5, math.inf)])
def test_a_reward_or_cost_that_is_none_is_refused(reward: float, cost: float) -> None:
    with pytest.raises(UsageError, match="a reward is from 0 to 1"):
        policy().learned([Logged({}, "cheap", 0.5, reward, cost)])


# -- propensities ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1e4))),
    st.floats(0.01, 1.0),
    st.floats(-10, 10),
)
def test_chances_add_up_and_none_falls_below_the_floor(
    seen: list[tuple[str, float, float, float]], explore: float, x: float
) -> None:
    bandit = policy(arms={"a": 1.0, "b": 4.0, "c": 16.0}, features=("x",), explore=explore)
    bandit = bandit.learned(Logged({"x": x}, arm, 0.3, reward, cost) for arm, x, reward, cost in seen)
    chances = bandit.chances({"x": x})
    assert math.fsum(chances.values()) == pytest.approx(1)
    assert min(chances.values()) >= explore / 3 - 1e-12
    some = bandit.chances({"x": x}, allowed=("a", "c"))
    assert some["b"] == 0
    assert math.fsum(some.values()) == pytest.approx(1)
    assert min(some["a"], some["c"]) >= explore / 2 - 1e-12


def test_choices_come_as_often_as_they_say() -> None:
    bandit, _ = lived(policy(arms={"a": 1.0, "b": 4.0, "c": 16.0}), {"a": 0.5, "b": 0.55, "c": 0.6}, requests=100)
    chances = bandit.chances({})
    random = Random(5)
    count = 6000
    drawn = Counter(bandit.choose({}, random=random) for _ in range(count))
    for (strategy, probability), times in drawn.items():
        assert probability == chances[strategy]
        assert times / count == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / count))


def test_the_chance_to_be_the_best_is_that_of_normal_variables() -> None:
    """Two arms have it in closed form: P(a > b) = Φ((μa - μb) / √(sa² + sb²))."""
    bandit = policy(arms={"a": 1.0, "b": 4.0}, explore=1e-9)
    bandit = bandit.learned(Logged({}, "ab"[i % 2], 0.5, float(i % 5 > 1), 400.0) for i in range(40))
    a, b = bandit.beliefs({}).values()
    squared, weight = bandit.state.noise
    spread = 200 / 240 * math.sqrt((a.variance + b.variance) * squared / weight)
    ahead = (a.reward - b.reward - PRICE * (a.cost - b.cost)) / spread
    assert bandit.chances({})["a"] == pytest.approx(0.5 * (1 + math.erf(ahead / math.sqrt(2))), abs=0.01)


def test_nothing_allowed_is_an_error() -> None:
    with pytest.raises(UsageError, match="none of beam"):
        policy().chances({}, allowed=["beam"])


async def test_its_controller_runs_the_choice_and_says_how_likely_it_was() -> None:
    request = Request(Prompt.of("How much is 3 + 4?"), AnswerKind.NUMBER)
    bandit = BanditPolicy.cold(price=PRICE)
    controller = bandit.controller(request)
    chances = bandit.chances(request_features(request))
    actions = [await controller.act(Seen()) for _ in range(200)]
    assert not controller.features
    assert {action.kind for action in actions} == {"run"}
    assert all(action.probability == chances[action.strategy] for action in actions)
    assert len({action.strategy for action in actions}) > 1  # the same request, with the same seed


def test_its_features_are_among_those_of_requests() -> None:
    assert set(FEATURES) <= request_features(Request(Prompt.of("?"))).keys()


# -- spending ----------------------------------------------------------------------------------------------------


def test_the_average_stays_within_the_allowance_though_the_dear_strategy_pays() -> None:
    """Costs vary about what is expected, and the dear strategy is always better."""
    bandit = policy(price=0.0, allowance=1500.0, window=100.0)
    random = Random(2)
    total, dear, count = 0.0, 0, 3000
    for _ in range(count):
        strategy, probability = bandit.choose({}, random=random)
        dear += strategy == "dear"
        cost = 400 * TWO[strategy] * random.uniform(0.5, 1.5)
        total += cost
        right = float(random.random() < {"cheap": 0.2, "dear": 0.9}[strategy])
        bandit = bandit.charged(cost).learned([Logged({}, strategy, probability, right, cost)])
    assert total / count < 1500 * 1.02
    assert dear / count == pytest.approx((1500 - 400) / 3600, abs=0.05)  # what the allowance holds is spent


def test_what_the_allowance_rules_out_has_no_chance_and_the_rest_shares_it() -> None:
    bandit = policy(arms={"a": 1.0, "b": 2.0, "c": 10.0}, allowance=1000.0)
    chances = bandit.chances({})
    assert chances["c"] == 0
    assert chances["a"] + chances["b"] == pytest.approx(1)
    for _ in range(50):
        bandit = bandit.charged(100.0)
    assert bandit.chances({})["c"] > 0  # it saved up


def test_the_cheapest_is_always_open() -> None:
    bandit = policy(allowance=1.0).charged(1e6)
    assert bandit.chances({}) == {"cheap": 1.0, "dear": 0.0}


# -- as a file ---------------------------------------------------------------------------------------------------


def test_it_comes_back_from_its_file_as_it_was_and_stays_small() -> None:
    bandit = BanditPolicy.cold(price=PRICE, allowance=3000.0)
    random = Random(1)
    sizes = []
    for _ in range(3):
        bandit = bandit.learned(
            Logged({name: random.random() for name in FEATURES}, random.choice(list(ARMS)), 0.25, 1.0, 812.5)
            for _ in range(200)
        ).charged(700.0)
        text = Artifact("bandit", "m", bandit, {"bank": "b"}).text()
        assert Artifact.parse(text).policy == bandit
        sizes.append(len(text))
    assert max(sizes) < 25_000
    assert sizes[-1] < 1.05 * sizes[0]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("noise", [1.0], "expected 2 finite numbers"),
        ("unit", "joules", "tokens or usd"),
        ("explore", 0.0, "explore must be above 0"),
        ("features", ["x"], "the gram matrix of cheap has 1 rows instead of 2|expected 2 finite numbers"),
        ("arms", [], "a bandit needs strategies"),
        ("price", -1.0, "price must be"),
        ("memory", 1.0, "memory and window"),
        ("allowance", -5.0, "allowance must be positive"),
    ],
)
def test_a_damaged_file_is_told(key: str, value: object, why: str) -> None:
    content = json.loads(Artifact("bandit", "m", policy(), {}).text())
    content["policy"][key] = value
    with pytest.raises(UsageError, match=why):
        Artifact.parse(json.dumps(content))


# -- the regression beneath --------------------------------------------------------------------------------------


def test_the_posterior_is_that_of_the_whole_model_solved_at_once() -> None:
    """Eliminating the arms one by one must give what the normal equations of all coefficients together give."""
    rng = np.random.default_rng(0)
    moments = [Moments.none(2) for _ in range(3)]
    rows = []
    for _ in range(60):
        arm, x, y = int(rng.integers(3)), rng.normal(size=2), float(rng.random())
        moments[arm] = moments[arm].plus(x.tolist(), y, 100 * y, 1.0)
        rows.append((arm, x, y))
    priors = [(0.5, 100.0), (0.6, 200.0), (0.7, 300.0)]
    xs = np.array([x for _, x, _ in rows])
    standard = np.hstack([np.ones((60, 1)), (xs - xs.mean(axis=0)) / xs.std(axis=0)])
    design = np.zeros((60, 12))
    for i, (arm, _, _) in enumerate(rows):
        design[i, :3] = design[i, 3 + 3 * arm : 6 + 3 * arm] = standard[i]
    precision = np.diag([1.0, 20.0, 20.0] + [20.0, 50.0, 50.0] * 3)
    prior = np.array([0.6, 0, 0, -0.1, 0, 0, 0, 0, 0, 0.1, 0, 0])
    posterior = np.linalg.solve(
        design.T @ design + precision, design.T @ np.array([y for *_, y in rows]) + precision @ prior
    )
    beliefs = Regression(moments, priors).beliefs(xs[0].tolist())
    for arm, belief in enumerate(beliefs):
        line = posterior[:3] + posterior[3 + 3 * arm : 6 + 3 * arm]
        assert belief.reward == pytest.approx(float(line @ standard[0]))


def test_a_matrix_times_its_inverse_is_one() -> None:
    half = np.random.default_rng(1).normal(size=(6, 6))
    matrix = half @ half.T + np.eye(6)
    found = np.array(inverse(tuple(map(tuple, matrix.tolist()))))
    assert np.allclose(found @ matrix, np.eye(6))


def test_a_feature_that_is_not_known_counts_as_the_average() -> None:
    random = Random(0)
    rows = [Logged({"x": x, "y": 1.0}, "cheap", 0.5, x, 1.0) for x in (random.random() for _ in range(80))]
    bandit = policy(features=("x", "y"), memory=1e9).learned(rows)
    mean = sum(row.features["x"] for row in rows) / len(rows)
    assert bandit.beliefs({})["cheap"].reward == pytest.approx(bandit.beliefs({"x": mean, "y": 5.0})["cheap"].reward)


# -- replayed traffic --------------------------------------------------------------------------------------------


def small_bank(hard: float) -> Bank:
    """Problems that are right in .95 of the samples, and as many that are in `hard` of them; the wrong ones differ."""
    random = Random(7)
    samples = [
        BankSample(f"p{i}", "m", j, answer, answer == "right", output_tokens=50, prompt_tokens=0)
        for i in range(40)
        for j in range(16)
        for answer in ["right" if random.random() < (0.95 if i < 20 else hard) else f"wrong {random.randrange(9)}"]
    ]
    return Bank([BankProblem(f"p{i}", kind=AnswerKind.NUMBER) for i in range(40)], [BankModel("m")], samples)


def test_from_a_cold_start_it_ends_near_the_best_fixed_strategy_though_the_best_changes_half_way() -> None:
    """Easy requests need one sample; of the hard ones only a vote makes much."""
    requests = traffic(
        Table.of(small_bank(0.4)), ["single", "self-consistency:n=8"], requests=6000, seed=0, easy=(1.0, 0.2)
    )
    price = 0.1 / 350
    cold = policy(arms={"single": 1.0, "self-consistency:n=8": 8.0}, price=price, sample_cost=50.0)
    found = standings(run(cold, requests, seed=0, delay=10).chosen, requests, price)
    best = {name: one.best for name, one in found.items()}
    assert best["end of the first half"] == "single"
    assert best["end of the second half"] == "self-consistency:n=8"
    missed = {name: one.missed for name, one in found.items()}
    assert all(share is not None and share < 0.1 for share in missed.values()), missed


def test_traffic_turns_hard_half_way_and_is_the_same_for_the_same_seed() -> None:
    table = Table.of(small_bank(0.4))
    requests = traffic(table, ["single"], requests=1000, seed=3, easy=(1.0, 0.0))
    again = traffic(table, ["single"], requests=1000, seed=3, easy=(1.0, 0.0))
    assert np.array_equal(requests.rewards, again.rewards)
    assert requests.rewards[:500].mean() > 0.9
    assert requests.rewards[500:].mean() < 0.5
    assert np.all(requests.costs == 50)


def test_a_run_logs_what_was_said_only_and_charges_everything() -> None:
    requests = traffic(Table.of(small_bank(0.4)), ["single", "self-consistency:n=8"], requests=400, seed=1)
    cold = policy(arms={"single": 1.0, "self-consistency:n=8": 8.0}, sample_cost=50.0, window=1e9)
    done = run(cold, requests, seed=1, delay=7, said=0.25)
    assert 60 < len(done.log) < 140
    assert done.policy.state.feedback == len(done.log)
    assert done.policy.spending.requests == pytest.approx(400)
    paid = requests.costs[np.arange(400), done.chosen].sum()
    assert done.policy.spending.cost == pytest.approx(paid, rel=1e-4)


def test_what_is_missed_of_nothing_is_unknown() -> None:
    zeros = np.zeros((8, 1))
    nothing = Traffic(("a",), ({},) * 8, zeros, zeros, zeros, zeros, half=4)
    assert all(one.missed is None for one in standings(np.zeros(8, dtype=np.int64), nothing, 1.0).values())


def test_settings_outlive_learning() -> None:
    bandit = policy(allowance=900.0, explore=0.2, memory=77.0, unit="usd")
    after = bandit.learned([Logged({}, "cheap", 0.5, 1.0, 3.0)]).charged(3.0)
    assert replace(after, state=bandit.state, spending=bandit.spending) == bandit
