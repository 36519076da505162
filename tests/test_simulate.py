"""Simulated requests: the array code and the strategies over a replayed model must agree to the last token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.accounting import Price
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.errors import UsageError
from thinkscale.optimize.confident import confident_votes
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.replaying import replayed
from thinkscale.optimize.requests import requests_of
from thinkscale.optimize.seeing import FEATURES
from thinkscale.optimize.simulate import SIMULATED, simulate
from thinkscale.optimize.stats import pass_at_k
from thinkscale.optimize.table import Ints, Outcomes, Table, orders
from thinkscale.strategies.deepconf import DeepConfOffline, Score, scaled_window, trace_confidence
from thinkscale.types import Action, AnswerKind, Candidate, Prompt, Seen, Token, derive_seed

EXACT = ("correct", "chosen", "samples", "prompt_tokens", "output_tokens", "rounds")


def assert_alike(ours: Outcomes, theirs: Outcomes) -> None:
    for name in EXACT:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in ("seconds", "cost_usd"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            np.testing.assert_allclose(mine, other, err_msg=name)
    nothing = np.zeros(ours.correct.shape, np.bool_)
    np.testing.assert_array_equal(
        nothing if ours.missing is None else ours.missing, nothing if theirs.missing is None else theirs.missing
    )


def eighths(random: Random, count: int) -> list[float]:
    """Their sums, and means over a power of two, are exact, so that no rounding can hide or make a difference."""
    return [random.randrange(25) / 8 for _ in range(count)]


def sample(random: Random, problem: str, model: str, number: int, *, logprobs: bool, timed: bool) -> BankSample:
    tokens = random.choice([1, 4, 16, 128])
    return BankSample(
        problem,
        model,
        number,
        answer=random.choice([None, "a", "a", "b", "c"]),
        correct=random.random() < 0.5,  # even of equal answers, so that it tells which of them was chosen
        finish_reason=random.choice(["stop", "stop", "length"]),
        prompt_tokens=len(problem),
        output_tokens=tokens,
        seconds=eighths(random, 1)[0] if timed else None,
        logprobs=[-nats for nats in eighths(random, tokens)] if logprobs else (),
        confidences=eighths(random, tokens) if logprobs else (),
        scores={
            "checker": random.choice([None, 0.0, 0.0, 1.0]),
            "judge": random.choice([None, 0.0, 0.25, 0.5, 1.0]),
        },
    )


@st.composite
def banks(draw: st.DrawFn, logprobs: bool | None = None) -> Bank:
    """Small ones, with ties, problems that nobody answers, and single samples among them."""
    logprobs = draw(st.booleans()) if logprobs is None else logprobs
    timed, random = draw(st.booleans()), Random(draw(st.integers(0, 1 << 30)))
    price = draw(st.sampled_from([None, Price(1.0, 4.0)]))
    problems = [
        BankProblem("p" * (place + 1), kind=draw(st.sampled_from([AnswerKind.TEXT, AnswerKind.NUMBER])))
        for place in range(draw(st.integers(1, 3)))
    ]
    counts = {"small": draw(st.integers(1, 9)), "large": draw(st.integers(1, 3))}
    return Bank(
        problems,
        [BankModel("small", price, draw(st.integers(1, 5))), BankModel("large", Price(3.0, 9.0), 2)],
        [
            sample(random, problem.id, model, number, logprobs=logprobs, timed=timed)
            for model, count in counts.items()
            for problem in problems
            for number in range(count)
        ],
    )


schedules = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(lambda sizes: "/".join(map(str, sizes)))


@st.composite
def wordings(draw: st.DrawFn, among: tuple[str, ...] = SIMULATED) -> str:
    """Any setting of any strategy that is simulated, sample counts beyond what is recorded included."""
    name, n, batches = draw(st.sampled_from(among)), draw(st.integers(1, 11)), draw(schedules)
    match name:
        case "self-consistency":
            return f"{name}:n={n},weighted={draw(st.booleans())}".lower()
        case "adaptive-consistency":
            confidence, prose = draw(st.sampled_from([0.6, 0.8, 0.95])), draw(st.integers(0, 4))
            return f"{name}:n={n},batches={batches},confidence={confidence},prose={prose}"
        case "esc":
            return f"{name}:n={n},batches={batches},window={draw(st.integers(2, 4))}"
        case "best-of-n":
            return f"{name}:n={n},batches={batches}"
        case "first-verified":
            return f"{name}:n={n},batches={batches},threshold={draw(st.sampled_from([0.0, 0.25, 0.5, 0.75]))}"
        case "deepconf":
            score, window = (
                draw(st.sampled_from(["lowest", "bottom10", "tail", "mean"])),
                draw(st.sampled_from([0, 3, 9])),
            )
            return f"{name}:n={n},eta={draw(st.sampled_from([10, 25, 50, 90, 100]))},score={score},window={window}"
    return name


VOTES = tuple(name for name in SIMULATED if name != "deepconf")


def assert_replay_alike(data: st.DataObject, words: str, bank: Bank, verifier: str) -> None:
    table = Table.of(bank, "small")
    given_orders = orders(table, 2, data.draw(st.integers(0, 99)))[:, :, : data.draw(st.integers(1, table.n))]
    ours = simulate(words, table, given_orders, verifier=verifier)
    theirs = asyncio.run(replayed(words, bank, table, given_orders, verifier=verifier))
    assert_alike(ours, theirs)


@given(st.data(), wordings(VOTES), banks(), st.sampled_from(["checker", "judge"]))
@settings(max_examples=60, deadline=None)
def test_arrays_and_strategies_agree(data: st.DataObject, words: str, bank: Bank, verifier: str) -> None:
    assert_replay_alike(data, words, bank, verifier)


@given(st.data(), wordings(("deepconf",)), banks(logprobs=True))
@settings(max_examples=30, deadline=None)
def test_token_confidences_weigh_the_same_votes(data: st.DataObject, words: str, bank: Bank) -> None:
    assert_replay_alike(data, words, bank, "judge")


@pytest.mark.parametrize("score", ["lowest", "bottom10", "tail", "mean"])
@pytest.mark.parametrize("window", [0, 1, 3, 500])
def test_token_confidences_are_those_of_the_strategy_to_the_last_bit(score: Score, window: int) -> None:
    random = Random(1)
    lengths = [3, 30, 70, 200, 240]
    values = [[random.expovariate(1.0) for _ in range(length)] for length in lengths]
    table = replace(Table.of(made("abcab")), confidences=(tuple(np.array(row) for row in values),))
    candidates = [
        Candidate((place,), Prompt.of("?"), tokens=tuple(Token("", 0.0, value) for value in row))
        for place, row in enumerate(values)
    ]
    (requests,) = requests_of(table, as_recorded(table))
    for n in (2, 3, 5):
        strategy = DeepConfOffline(n=n, score=score, window=window)
        _, weights = confident_votes(strategy, requests, n)
        width = window or scaled_window(candidates[:n])
        assert weights[0].tolist() == [trace_confidence(one.tokens, width, score) for one in candidates[:n]]


@dataclass(frozen=True)
class Erratic:
    """Does anything, but the same whenever it sees the same."""

    seed: int
    features: frozenset[str]
    choices: tuple[Action, ...]

    async def act(self, seen: Seen) -> Action:
        looks = [getattr(seen, name) for name in sorted(self.features - {"larger", "likelihood"})]
        return self.choices[derive_seed(self.seed, [repr(look) for look in looks]) % len(self.choices)]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_arrays_and_the_strategy_auto_agree_on_any_controller(data: st.DataObject) -> None:
    bank = data.draw(banks())
    table, larger = Table.of(bank, "small"), Table.of(bank, "large")
    controller = Erratic(
        data.draw(st.integers(0, 999)),
        data.draw(st.frozensets(st.sampled_from(sorted(FEATURES)))) | {"larger"},
        (
            *(Action("draw", data.draw(st.integers(1, 4))) for _ in range(3)),
            *data.draw(
                st.lists(
                    st.one_of(
                        st.just(Action("verify")),
                        st.just(Action("stop")),
                        st.integers(1, 4).map(lambda k: Action("escalate", k)),
                        wordings(VOTES).map(lambda words: Action("run", strategy=words)),
                    ),
                    max_size=4,
                )
            ),
        ),
    )
    given_orders = orders(table, 2, data.draw(st.integers(0, 99)))
    options: dict[str, Any] = {"larger": larger, "verifier": "judge"}
    if data.draw(st.booleans()):
        options["larger_orders"] = orders(larger, 2, 5)
    if data.draw(st.booleans()):
        options["affordable"] = np.array(
            data.draw(st.lists(st.integers(0, 8), min_size=len(table), max_size=len(table)))
        )[None, :]
    ours = simulate_controller(controller, table, given_orders, **options)
    theirs = asyncio.run(replayed("auto", bank, table, given_orders, auto=lambda _request: controller, **options))
    assert_alike(ours, theirs)


def made(*rows: str, right: str = "a", price: Price | None = None, max_n: int = 1, **more: Any) -> Bank:
    """A bank of one problem a row, one answer a letter ("-": none); each sample takes 10 tokens after a prompt of 5."""
    return Bank(
        [BankProblem(f"problem {place}", kind=AnswerKind.NUMBER) for place in range(len(rows))],
        [BankModel("small", price, max_n)],
        [
            BankSample(
                f"problem {place}",
                "small",
                number,
                None if letter == "-" else letter,
                letter == right,
                prompt_tokens=5,
                output_tokens=10,
                scores={"checker": None if letter == "-" else float(letter == right)},
                **more,
            )
            for place, row in enumerate(rows)
            for number, letter in enumerate(row)
        ],
    )


def as_recorded(table: Table) -> Ints:
    return orders(table, 1, 0)


def every_order(table: Table) -> Ints:
    """All orders of the samples, the same for every problem."""
    every = np.array(list(permutations(range(table.n))))
    return np.repeat(every[:, None, :], len(table), axis=1)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_over_all_orders_a_checker_finds_what_is_covered(k: int) -> None:
    """The mean over all permutations is the unbiased estimate of pass@k, exactly."""
    table = Table.of(made("abbb-", "aabbb", "bbbbb", "aaaaa"))
    for words in (f"first-verified:n={k},batches=1/2", f"best-of-n:n={k}"):
        found = simulate(words, table, every_order(table)).correct.mean(axis=0)
        assert found == pytest.approx([pass_at_k(5, correct, k) for correct in (1, 2, 0, 5)])


def test_the_cost_of_the_first_success_is_the_mean_of_its_place() -> None:
    """Drawn one by one, c of n right: the first right one comes at (n + 1) / (c + 1) on average."""
    table = Table.of(made("abbbbb", "aabbbb", "aaabbb"))
    drawn = simulate("first-verified:n=6,batches=1", table, every_order(table)).samples.mean(axis=0)
    assert drawn == pytest.approx([7 / 2, 7 / 3, 7 / 4])


def test_a_vote_over_all_orders_is_counted_by_hand() -> None:
    """Votes of three among a, a, b and one without an answer, in every order."""
    table = Table.of(made("aab-"))
    voted = simulate("self-consistency:n=3", table, every_order(table))
    # Left out: "-" gives aab, a wins; b gives aa-, a wins; an a gives ab-, won by whichever of the two came first.
    assert voted.correct.mean() == pytest.approx(1 / 4 + 1 / 4 + 2 / 4 * 1 / 2)
    assert set(voted.chosen.ravel()) == {0, 1}


@pytest.mark.parametrize(
    ("words", "row", "samples", "rounds", "chosen"),
    [
        ("adaptive-consistency:n=8,batches=1", "aaaaaaaa", 4, 4, 0),  # 4-0 is the first lead that passes at 0.95
        ("adaptive-consistency:n=8,batches=1", "baaaaaaa", 7, 7, 1),  # 6-1 passes, 5-1 does not
        ("adaptive-consistency:n=8,batches=3", "aaaaaaaa", 6, 2, 0),
        ("esc:n=8,window=2,batches=2", "abbbaaaa", 4, 2, 1),
        ("esc:n=8,window=2,batches=2", "ab--abab", 8, 4, 0),  # no answer is no agreement
        ("esc:n=8,window=3,batches=8", "aaabbbbb", 8, 1, 1),  # all that was drawn votes
        ("self-consistency:n=4", "ba-bbbbb", 4, 1, 0),
        ("self-consistency:n=2", "ab------", 2, 1, 0),  # a tie goes to the first
        ("self-consistency:n=3", "---aaaaa", 3, 1, -1),
        ("self-consistency:n=8,weighted=true", "bbbbabbb", 8, 1, 1),
    ],
)
def test_known_runs(words: str, row: str, samples: int, rounds: int, chosen: int) -> None:
    table = Table.of(made(row))
    came = simulate(words, table, as_recorded(table))
    assert (came.samples[0, 0], came.rounds[0, 0], came.chosen[0, 0]) == (samples, rounds, chosen)
    assert came.missing is None


@pytest.mark.parametrize(("max_n", "prompts"), [(1, 6), (2, 4), (3, 2), (8, 2)])
def test_each_request_of_a_batch_pays_for_the_prompt(max_n: int, prompts: int) -> None:
    table = Table.of(made("abcdef", price=Price(1.0, 2.0), max_n=max_n, seconds=2.0))
    came = simulate("adaptive-consistency:n=6,batches=3", table, as_recorded(table))
    assert (came.prompt_tokens[0, 0], came.output_tokens[0, 0]) == (5 * prompts, 60)
    assert came.cost_usd is not None
    assert came.cost_usd[0, 0] == pytest.approx((5 * prompts + 2 * 60) / 1e6)
    assert came.seconds is not None
    assert came.seconds[0, 0] == 4.0


def test_open_answers_that_all_differ_end_the_vote() -> None:
    bank = made("abcdefgh")
    prose = Bank([replace(one, kind=AnswerKind.TEXT) for one in bank.problems.values()], bank.models.values(), bank)
    for recorded, drawn in ((bank, 8), (prose, 4)):
        table = Table.of(recorded)
        assert simulate("adaptive-consistency:n=8", table, as_recorded(table)).samples[0, 0] == drawn


async def test_what_is_not_on_record_is_missing_and_not_invented() -> None:
    bank = made("abc", "aaaa"[:3])
    table = Table.of(bank)
    came = simulate("esc:n=40,window=3,batches=3", table, as_recorded(table))
    assert came.missing is not None
    assert came.missing.tolist() == [[True, False]]
    assert came.samples.tolist() == [[3, 3]]
    beam = await replayed("beam:width=4", bank, table, as_recorded(table), verifier="checker")
    assert beam.missing is not None
    assert beam.missing.all()
    refined = await replayed("refine:rounds=1", bank, table, as_recorded(table))
    assert refined.missing is not None
    assert refined.missing.all()
    assert refined.samples.tolist() == [[1, 1]]


@dataclass
class Rule:
    """A controller by a function, which counts how often it was asked."""

    rule: Callable[[Seen], Action]
    features: frozenset[str]
    asked: int = 0

    async def act(self, seen: Seen) -> Action:
        self.asked += 1
        return self.rule(seen)


def test_a_controller_is_asked_once_about_what_looks_alike() -> None:
    table = Table.of(made("aaab", "bbba", "cccd", "abcd"))
    agree = Rule(
        lambda seen: Action("stop") if seen.first >= 2 or seen.drawn == 4 else Action("draw", 1),
        frozenset({"drawn", "first"}),
    )
    came = simulate_controller(agree, table, every_order(table))
    # (0, 0), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2): the last one comes of no order here.
    assert agree.asked == 7
    assert came.samples[:, 3].tolist() == [4] * 24
    assert set(came.samples[:, 0].tolist()) == {2, 3}


def test_the_leader_of_the_verified_votes_is_the_answer() -> None:
    table = Table.of(made("bba"))
    rule = Rule(lambda seen: Action("draw", 3) if not seen.drawn else Action("verify"), frozenset({"drawn", "score"}))
    came = simulate_controller(rule, table, as_recorded(table))
    assert came.correct.all()
    assert rule.asked == 3  # asking for the same verdicts again ends the request


def test_a_larger_model_has_the_last_word_and_its_price() -> None:
    table = Table.of(made("bbb", price=Price(1.0, 1.0)))
    larger = replace(Table.of(made("aab", price=Price(10.0, 10.0))), model="large")
    rule = Rule(lambda seen: Action("escalate", 2) if seen.drawn else Action("draw", 1), frozenset({"drawn"}))
    came = simulate_controller(rule, table, as_recorded(table), larger=larger)
    assert (came.chosen[0, 0], bool(came.correct[0, 0])) == (-2, True)
    assert (came.samples[0, 0], came.rounds[0, 0], came.tokens[0, 0]) == (3, 2, 15 + 30)
    assert came.cost_usd is not None
    assert came.cost_usd[0, 0] == pytest.approx((15 + 300) / 1e6)


async def _waits(_seen: Seen) -> Action:
    await asyncio.sleep(0)
    return Action("stop")


class Waiting:
    features = frozenset[str]()

    async def act(self, seen: Seen) -> Action:
        return await _waits(seen)


@pytest.mark.parametrize(
    ("rule", "features", "why"),
    [
        (Action("escalate"), (), "larger model"),
        (Action("draw", 0), (), "at least one"),
        (Action("run", strategy="beam"), (), "read off"),
        (Action("stop"), ("mood",), "mood"),
    ],
)
def test_a_controller_that_asks_for_what_is_not_there_is_told_so(
    rule: Action, features: tuple[str, ...], why: str
) -> None:
    table = Table.of(made("ab"))
    with pytest.raises(UsageError, match=why):
        simulate_controller(Rule(lambda _seen: rule, frozenset(features)), table, as_recorded(table))


def test_what_cannot_be_simulated_is_refused() -> None:
    table = Table.of(made("ab"))
    with pytest.raises(UsageError, match="waits"):
        simulate_controller(Waiting(), table, as_recorded(table))
    with pytest.raises(UsageError, match="read off recorded samples"):
        simulate("rebase", table, as_recorded(table))
    with pytest.raises(UsageError, match="alternatives"):
        simulate("deepconf", table, as_recorded(table))
    with pytest.raises(UsageError, match=r"no scores of judge.*checker"):
        simulate("best-of-n", table, as_recorded(table), verifier="judge")
    with pytest.raises(UsageError, match="has none"):
        simulate("best-of-n", replace(table, scores={}), as_recorded(table))
    with pytest.raises(UsageError, match="do not fit"):
        simulate("single", table, as_recorded(Table.of(made("ab", "ab"))))
