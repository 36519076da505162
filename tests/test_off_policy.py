"""Judging a policy by another's log: no bias, intervals that hold, and no promotion without evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest

from thinkscale.errors import UsageError
from thinkscale.optimize.off_policy import Method, evaluate, promotes
from thinkscale.policies.bandit import BanditPolicy, Logged

PRICE = 1e-4
CHANCE = {"single": 0.8, "vote": 0.7}  # of a right answer where x = 0; it falls by .5 and .1 where x = 1
FALL = {"single": 0.5, "vote": 0.1}
COST = {"single": 100.0, "vote": 500.0}

Chances = Callable[[Mapping[str, float]], Mapping[str, float]]


def logger(features: Mapping[str, float]) -> Mapping[str, float]:
    """Prefers the vote where it is worth less."""
    return {"single": 0.3, "vote": 0.7} if features["x"] < 0.5 else {"single": 0.8, "vote": 0.2}


def wise(features: Mapping[str, float]) -> Mapping[str, float]:
    return {"single": 1.0} if features["x"] < 0.5 else {"vote": 1.0}


def foolish(features: Mapping[str, float]) -> Mapping[str, float]:
    return {"vote": 1.0} if features["x"] < 0.5 else {"single": 1.0}


def expected(policy: Chances) -> float:
    """A policy's true worth, over x in {0, 1} with even chances."""
    return sum(
        chance * (CHANCE[name] - FALL[name] * x - PRICE * COST[name]) / 2
        for x in (0.0, 1.0)
        for name, chance in policy({"x": x}).items()
    )


def drawn(rows: int, seed: int, policy: Chances = logger) -> list[Logged]:
    random = Random(seed)
    log = []
    for at in range(rows):
        x = float(random.random() < 0.5)
        chances = policy({"x": x})
        (name,) = random.choices(list(chances), list(chances.values()))
        right = float(random.random() < CHANCE[name] - FALL[name] * x)
        log.append(Logged({"x": x}, name, chances[name], right, COST[name], float(at)))
    return log


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ips", "snips", "dr"])
def test_estimates_are_unbiased_and_their_intervals_hold_as_often_as_they_say(method: Method) -> None:
    """80 logs. The mean of unbiased estimates lies within 4 standard errors of the truth; 95% intervals miss it in
    more than 11 logs of 80 with a chance below .1%.
    """
    truth, logs = expected(wise), 80
    found = [evaluate(wise, drawn(300, seed), price=PRICE, method=method).estimate for seed in range(logs)]
    mean = sum(one.mean for one in found) / logs
    spread = math.sqrt(sum((one.mean - mean) ** 2 for one in found) / (logs - 1))
    assert abs(mean - truth) < 4 * spread / math.sqrt(logs)
    held = sum(one.low is not None and one.high is not None and one.low <= truth <= one.high for one in found)
    assert held >= logs - 11


def test_taking_every_choice_as_it_came_is_biased_which_is_why_there_are_weights() -> None:
    log = drawn(20_000, 0)
    plain = sum(row.reward - PRICE * row.cost for row in log if wise(row.features).get(row.strategy)) / sum(
        bool(wise(row.features).get(row.strategy)) for row in log
    )
    assert abs(plain - expected(wise)) > 0.03
    assert evaluate(wise, log, price=PRICE, method="snips").estimate.mean == pytest.approx(expected(wise), abs=0.03)


def test_knowing_more_makes_more_certain() -> None:
    def width(method: Method) -> float:
        found = evaluate(wise, drawn(2000, 1), price=PRICE, method=method).estimate
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert max(width("dr"), width("snips")) < 0.8 * width("ips")


def test_the_doubly_robust_estimate_survives_features_that_tell_nothing() -> None:
    """The regression is then wrong, and the propensities alone carry the estimate."""
    log = [replace(row, features={}) for row in drawn(20_000, 2)]
    by_row = {id(row.features): wise(kept.features) for row, kept in zip(log, drawn(20_000, 2), strict=True)}
    found = evaluate(lambda features: by_row[id(features)], log, price=PRICE).estimate
    assert found.mean == pytest.approx(expected(wise), abs=0.03)


def test_of_the_policy_that_took_the_decisions_it_is_the_plain_mean() -> None:
    log = drawn(500, 3)
    plain = sum(row.reward - PRICE * row.cost for row in log) / len(log)
    value = evaluate(None, log, price=PRICE)
    assert value.estimate.mean == pytest.approx(plain)
    assert value.effective == pytest.approx(500)
    assert evaluate(logger, log, price=PRICE, method="ips").estimate.mean == pytest.approx(plain)


def test_one_strategy_for_all_can_be_judged_by_its_name() -> None:
    found = evaluate("vote", drawn(20_000, 4), price=PRICE).estimate
    assert found.mean == pytest.approx(0.65 - 0.05, abs=0.03)


def test_effective_rows_are_those_of_the_weights() -> None:
    """Weights of 4 on one of four rows and 0 on the others: one row's worth of evidence per four."""
    log = [Logged({}, "ab"[i % 4 > 0], [0.25, 0.75][i % 4 > 0], 1.0, 0.0) for i in range(40)]
    assert evaluate("a", log, price=0.0).effective == pytest.approx(10)


def test_cutting_weights_is_stated() -> None:
    log = drawn(1000, 5)
    cut = evaluate(wise, log, price=PRICE, method="ips", clip=4.0)
    share = sum(row.strategy == "vote" and row.features["x"] > 0.5 for row in log) / len(log)  # with a weight of 5
    assert cut.clipped == pytest.approx(share)
    assert cut.estimate.mean < evaluate(wise, log, price=PRICE, method="ips").estimate.mean
    assert evaluate(wise, log, price=PRICE).clipped == 0


# -- promotion ---------------------------------------------------------------------------------------------------


def test_a_true_gain_is_promoted_and_a_loss_is_not() -> None:
    log = drawn(2000, 6)
    verdict = promotes(wise, None, log, price=PRICE)
    assert verdict.better is True
    assert verdict.words.startswith("Better than what is in service: 0.")
    assert verdict.gain is not None
    assert verdict.gain.mean == pytest.approx(expected(wise) - expected(logger), abs=0.06)
    assert promotes(foolish, wise, log, price=PRICE).better is False
    json.dumps(verdict.as_json())


def test_no_gain_is_promoted_no_oftener_than_stated() -> None:
    """The worths are equal, so that 2.5% of the logs may say better: more than 8 of 100 have a chance < .1%."""
    even = {"single": 0.5, "vote": 0.5}

    def same(rows: int, seed: int) -> list[Logged]:
        random = Random(seed)
        return [
            Logged({"x": random.random()}, random.choice(list(even)), 0.5, float(random.random() < 0.6), 100.0)
            for _ in range(rows)
        ]

    promoted = sum(promotes("vote", "single", same(300, seed), price=PRICE).better is True for seed in range(100))
    assert promoted <= 8


def test_the_same_policy_is_no_better_than_itself() -> None:
    verdict = promotes(wise, wise, drawn(1000, 7), price=PRICE)
    assert verdict.better is None
    assert "would have done the same" in verdict.words


def test_a_log_without_chance_cannot_tell_anything_of_others() -> None:
    certain = [replace(row, probability=1.0) for row in drawn(1000, 8)]
    unwritten = [replace(row, probability=None) for row in drawn(1000, 8)]
    for log in (certain, unwritten):
        verdict = promotes(wise, None, log, price=PRICE)
        assert verdict.better is None
        assert (verdict.rows, verdict.unused) == (0, 1000)
        assert "always done the same way" in verdict.words
        with pytest.raises(UsageError, match="too few to judge"):
            evaluate(wise, log, price=PRICE)


def test_rows_that_were_certain_are_left_out() -> None:
    log = drawn(2000, 9)
    fixed = [Logged({"x": 0.0}, "vote", 1.0, 0.0, 1e6) for _ in range(500)]
    verdict = promotes(wise, None, fixed + log, price=PRICE)
    assert verdict.unused == 500
    assert verdict.gain == promotes(wise, None, log, price=PRICE).gain


@pytest.mark.parametrize("count", [0, 1])
def test_an_empty_log_cannot_tell(count: int) -> None:
    verdict = promotes(wise, None, drawn(count, 0), price=PRICE)
    assert verdict.better is None
    assert f"there are {count} decisions" in verdict.words


def test_few_effective_rows_cannot_tell_however_large_the_gain() -> None:
    rare = [
        Logged({}, "new", 0.01, 1.0, 0.0) if i % 100 == 0 else Logged({}, "old", 0.99, float(i % 2), 0.0)
        for i in range(2000)
    ]
    verdict = promotes("new", None, rare, price=0.0)
    assert verdict.better is None
    assert "are worth 20 of the policies' own, and 100 are needed" in verdict.words


def test_a_strategy_that_was_never_tried_cannot_be_judged() -> None:
    verdict = promotes(lambda _: {"single": 0.5, "beam": 0.5}, None, drawn(1000, 10), price=PRICE)
    assert verdict.better is None
    assert "would take beam for 50% of the requests" in verdict.words
    assert "would take beam for 100%" in promotes("beam", None, drawn(1000, 10), price=PRICE).words


def test_what_could_not_be_chosen_cannot_be_judged() -> None:
    """Where x = 1 a guard left the vote out, so the log knows it from easy requests only."""

    def guarded(features: Mapping[str, float]) -> Mapping[str, float]:
        return {"single": 0.5, "vote": 0.5} if features["x"] < 0.5 else {"single": 0.5, "other": 0.5}

    CHANCE["other"], FALL["other"], COST["other"] = 0.5, 0.0, 100.0
    try:
        verdict = promotes("vote", None, drawn(1000, 11, guarded), price=PRICE)
    finally:
        for table in (CHANCE, FALL, COST):
            del table["other"]
    assert verdict.better is None
    assert "was often left out" in verdict.words


def test_a_bandit_that_learned_from_the_first_half_is_judged_by_the_second() -> None:
    log = drawn(4000, 12)
    cold = BanditPolicy.cold({"single": 1.0, "vote": 5.0}, price=PRICE, sample_cost=100.0, features=("x",))
    learned = cold.learned(log[:2000])
    verdict = promotes(learned, None, log[2000:], price=PRICE)
    assert verdict.better is True
    assert _mean(learned, log) == pytest.approx(expected(wise), abs=0.05)


def _mean(policy: BanditPolicy, log: Sequence[Logged]) -> float:
    return evaluate(policy, log[2000:], price=PRICE).estimate.mean
