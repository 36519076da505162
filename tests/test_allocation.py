"""Sharing one budget among many requests: known optima, a total that holds, and nobody who waits for ever."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.accounting import Ledger
from thinkscale.api import BatchResult, solve_batch
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.importing import import_file
from thinkscale.engine import Engine
from thinkscale.errors import ModelRefused, ModelUnavailable, NoAnswer, UsageError
from thinkscale.models.base import Capabilities, prompt_key
from thinkscale.models.replay import Recorded, ReplayModel
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.fit_allocation import fit_coverage, fit_votes
from thinkscale.optimize.replaying import replayed
from thinkscale.optimize.simulate_allocation import (
    simulate_allocation,
    simulate_oracle,
    simulate_stream,
    simulate_uniform,
)
from thinkscale.optimize.table import Table, orders
from thinkscale.optimize.votes import leaders
from thinkscale.policies.allocation import AllocationPolicy, BatchAllocator, Pace, StreamAllocator
from thinkscale.policies.gain import CoverageGain, Gain, Lengths, VoteGain, gain_of, shares
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request, Result, Seen, Usage
from thinkscale.verifiers.checker import CheckerVerifier

TOKENS = 16  # of each sample, where nothing else is said
BANKS = Path(__file__).parents[2] / "shared" / "data" / "banks"


def bank(*answers: str, right: str = "a", max_n: int = 1, lengths: int | None = None, seed: int = 0) -> Bank:
    """One problem for each text, whose letters are the samples' answers; a dot is none. Samples have `TOKENS` tokens,
    or up to twice `lengths`.
    """
    random = Random(seed)
    problems = [BankProblem(f"p{place}", Prompt.of(f"problem {place}")) for place in range(len(answers))]
    samples = [
        BankSample(
            problem.id,
            "small",
            number,
            None if letter == "." else letter,
            letter == right,
            f"The answer is \\boxed{{{letter}}}" if letter != "." else "No idea.",
            prompt_tokens=2,
            output_tokens=TOKENS if lengths is None else random.randrange(1, 2 * lengths),
        )
        for problem, letters in zip(problems, answers, strict=True)
        for number, letter in enumerate(letters)
    ]
    return Bank(problems, [BankModel("small", max_n=max_n)], samples)


def mixed(problems: int, n: int, *, seed: int = 0, max_n: int = 1, lengths: int | None = None) -> Bank:
    """Half are easy: all samples but a few agree. Half are contested, four samples of seven being right."""
    random = Random(seed)
    easy = ["".join(random.choices("ab", (29, 1), k=n)) for _ in range(problems // 2)]
    hard = ["".join(random.choices("abc", (4, 2, 1), k=n)) for _ in range(problems - len(easy))]
    return bank(
        *(text for pair in zip(easy, hard, strict=True) for text in pair), seed=seed, max_n=max_n, lengths=lengths
    )


def replay(of: Bank, max_n: int = 1) -> tuple[ReplayModel, list[Request]]:
    recorded = {}
    asked = []
    for problem in of.problems.values():
        assert problem.prompt is not None
        recorded[prompt_key(problem.prompt)] = [
            Recorded(one.text or "", prompt_tokens=2, output_tokens=TOKENS) for one in of.samples("small", problem.id)
        ]
        asked.append(Request(problem.prompt, AnswerKind.TEXT, Params(max_tokens=TOKENS), id=problem.id))
    return ReplayModel(recorded, max_n=max_n), asked


def request(number: int, max_tokens: int = 64) -> Request:
    return Request(Prompt.of(f"question {number}"), AnswerKind.NUMBER, Params(max_tokens=max_tokens), id=str(number))


@pytest.fixture(scope="module")
def votes() -> VoteGain:
    return fit_votes(Table.of(mixed(60, 12)))


# -- what samples are worth ------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.02, 0.98), min_size=1, max_size=4),
    st.integers(0, 7),
)
def test_shares_are_as_good_as_the_best_of_all_ways_to_share(chances: list[float], total: int) -> None:
    def solved(given: tuple[int, ...] | list[int]) -> float:
        return sum(1 - (1 - p) ** k for p, k in zip(chances, given, strict=True))

    best = max(solved(ways) for ways in product(range(total + 1), repeat=len(chances)) if sum(ways) <= total)
    given = shares(chances, [1.0] * len(chances), total)
    assert sum(given) <= total
    assert solved(given) == pytest.approx(best, abs=1e-9)


def test_shares_of_two_kinds_are_those_of_the_closed_form() -> None:
    # .5, .25 and .125 beside .3, .21 and .147: the first five by size.
    assert shares([0.5, 0.3], [1, 1], 5) == [2, 3]
    # .1 for a unit of cost, beside .3, .21, .147, .103 and .072.
    assert shares([0.5, 0.3], [5, 1], 9) == [1, 4]
    assert shares([0.5, 0.3], [5, 1], 4) == [0, 4]
    assert shares([0.0, 0.0], [1, 1], 5) == [0, 0]


def test_a_vote_of_three_is_worth_what_can_be_counted_by_hand() -> None:
    gain = fit_votes(Table.of(bank("aab", "aab", "aab")), repeats=600, prior=1e-9)
    # The leader of one sample is right twice in three times. A second one agrees half of the time if it is, and settles
    # it; otherwise the third does.
    promise = gain.states[1, 1, 0]
    assert promise.gain == pytest.approx(1 / 3, abs=0.03)
    assert promise.samples == pytest.approx(1 + 2 / 3, abs=0.03)
    assert (2, 2, 0) not in gain.states
    prospect = gain.prospect(Seen(drawn=2, votes=(1, 1), output_tokens=2 * TOKENS, prompt_tokens=2))
    assert prospect is not None
    assert (prospect.k, prospect.tokens) == (1, TOKENS + 2)
    assert prospect.gain == pytest.approx(0.5, abs=0.05)
    assert gain.prospect(Seen(drawn=3, votes=(2, 1))) is None


def test_what_is_contested_promises_more_than_what_is_agreed(votes: VoteGain) -> None:
    def rate(drawn: int, *counts: int) -> float:
        prospect = votes.prospect(Seen(drawn=drawn, votes=counts, output_tokens=TOKENS * drawn, prompt_tokens=2))
        return prospect.rate if prospect else 0.0

    assert rate(4, 2, 2) > rate(4, 3, 1) > rate(4, 4)
    assert rate(8, 4, 3) > rate(8, 7, 1)
    long = votes.prospect(Seen(drawn=4, votes=(2, 2), output_tokens=TOKENS * 40, prompt_tokens=2))
    assert long is not None
    assert long.rate < rate(4, 2, 2) / 4  # longer answers cost more for the same


def test_samples_that_share_a_prompt_are_drawn_together_where_it_is_long() -> None:
    few = fit_votes(Table.of(mixed(40, 12, max_n=12)))
    of = mixed(40, 12, max_n=12)
    long = Bank(
        of.problems.values(),
        of.models.values(),
        [
            BankSample(one.problem, one.model, one.sample, one.answer, one.correct, prompt_tokens=900, output_tokens=9)
            for one in of
        ],
    )
    many = fit_votes(Table.of(long))
    assert many.first(many.price(1200)) > 3
    assert few.first(few.price(1.5 * TOKENS)) == 1


def test_nothing_is_promised_where_the_vote_of_all_is_surely_no_better_than_one() -> None:
    worse = fit_votes(Table.of(bank(*["abbabbb"] * 40)))
    assert not worse.states
    assert worse.prospect(Seen(drawn=1, votes=(1,))) is None
    assert fit_votes(Table.of(bank(*["baabaaa"] * 40))).states


@pytest.mark.parametrize(
    ("of", "wrong"), [(bank("aab"), "1 problems"), (bank("ab", "ab"), "2 samples"), (bank("a", "a"), "1 samples")]
)
def test_a_bank_that_cannot_tell_is_refused(of: Bank, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        fit_votes(Table.of(of))


@pytest.mark.parametrize("of", [bank("aaa", "aaa"), bank("bbb", "bbb"), bank("aab")])
def test_coverage_without_variance_is_refused(of: Bank) -> None:
    with pytest.raises(UsageError, match="cannot be told"):
        fit_coverage(Table.of(of))


def test_leaders_are_those_of_the_vote_with_ties_to_the_first_seen() -> None:
    table = Table.of(bank("abba", ".bab", "...a"))
    found = [
        [None if code < 0 else table.codes[row][code] for code in column]
        for row, column in enumerate(leaders(table.answers).T.tolist())
    ]
    assert found == [[None, "a", "a", "b", "a"], [None, None, "b", "b", "b"], [None, None, None, None, "a"]]


def test_coverage_is_the_closed_form_where_all_requests_are_alike() -> None:
    alike = CoverageGain(50, Lengths(0, 1), 0.3e9, 0.7e9)
    for k in range(1, 5):
        gained = alike.chance(0, k) - alike.chance(0, k - 1)
        assert gained == pytest.approx(0.3 * 0.7 ** (k - 1))
    differing = CoverageGain(50, Lengths(0, 1), 1, 1)
    assert [differing.chance(failures) for failures in range(3)] == pytest.approx([1 / 2, 1 / 3, 1 / 4])


def test_coverage_finds_how_requests_differ() -> None:
    random = Random(1)
    chances = [random.betavariate(2, 6) for _ in range(600)]
    gain = fit_coverage(Table.of(bank(*("".join(random.choices("ab", (p, 1 - p), k=20)) for p in chances))))
    assert gain.right / (gain.right + gain.wrong) == pytest.approx(0.25, abs=0.02)
    assert gain.right + gain.wrong == pytest.approx(8, rel=0.25)


def test_coverage_draws_more_at_once_where_they_share_a_long_prompt() -> None:
    assert CoverageGain(16, Lengths(1, 100, 8), 1, 4).first(0.0) == 1
    assert CoverageGain(16, Lengths(1000, 10, 8), 1, 4).first(0.0) == 8
    between = CoverageGain(16, Lengths(100, 100, 8), 1, 4)
    assert [between.first(price) for price in (math.inf, 1e-3)] == [2, 2]  # .2/200, .333/300, .429/400 a token
    assert between.first(1e-4) == 3  # not all 8: a check may spare the others


@pytest.mark.parametrize("kind", ["votes", "coverage"])
def test_prices_keep_the_mean_of_what_new_requests_spend(kind: str, votes: VoteGain) -> None:
    gain: Gain = votes if kind == "votes" else CoverageGain(30, Lengths(2, 16), 1, 3)
    each = gain.tokens(Seen(), 1)
    assert gain.price(0.5 * each) == math.inf
    assert gain.price(1e9) == 0.0
    prices = [gain.price(each * times) for times in (1, 2, 3, 5, 8)]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > prices[-1]
    between = {gain.price(each * 2.5, at / 50) for at in range(50)}
    assert 1 <= len(between) <= 2


@pytest.mark.parametrize("kind", ["votes", "coverage"])
def test_a_gain_is_the_same_after_a_trip_through_json(kind: str, votes: VoteGain) -> None:
    gain = votes if kind == "votes" else CoverageGain(30, Lengths(2.5, 16, 4), 0.5, 3)
    assert gain_of(json.loads(json.dumps(gain.body()))) == gain
    for name in gain.body():
        damaged = {key: value for key, value in gain.body().items() if key != name}
        with pytest.raises(KeyError):
            gain_of(damaged)
    with pytest.raises(ValueError):
        gain_of({"gain": "luck"})
    with pytest.raises(ValueError):
        VoteGain.of(votes.body() | {"states": {"1 1 0": "0.5 1 1"}})


# -- over recorded samples -------------------------------------------------------------------------------------------


def test_sharing_beats_the_same_for_all_and_not_the_oracle() -> None:
    trained, tested = Table.of(mixed(80, 16, seed=1)), Table.of(mixed(80, 16, seed=2))
    gain, seen = fit_votes(trained, repeats=20), orders(tested, 6, 0)
    for n in (2, 4, 8):
        total = float(len(tested) * n * (TOKENS + 2))
        ways = {
            "uniform": simulate_uniform(tested, seen, total),
            "batch": simulate_allocation(gain, tested, seen, total),
            "stream": simulate_stream(gain, tested, seen, total, Pace(requests=len(tested))),
            "oracle": simulate_oracle(tested, seen, total),
        }
        for outcomes in ways.values():
            assert outcomes.tokens.sum(axis=1).max() <= total
            assert outcomes.samples.min() >= 1
        right = {name: outcomes.correct.mean() for name, outcomes in ways.items()}
        assert right["uniform"] + 0.01 < right["batch"] <= right["oracle"]
        assert right["uniform"] < right["stream"] <= right["oracle"]
        assert (ways["uniform"].samples == n).all()


def test_uniform_gives_what_is_left_over_to_some() -> None:
    table = Table.of(mixed(20, 8))
    outcomes = simulate_uniform(table, orders(table, 3, 0), 20 * 2.5 * (TOKENS + 2))
    assert sorted(outcomes.samples[0].tolist()) == [2] * 10 + [3] * 10
    poor = simulate_uniform(table, orders(table, 1, 0), 5 * (TOKENS + 2))
    assert (poor.samples.sum(), poor.tokens.sum()) == (5, 5 * (TOKENS + 2))
    assert not poor.correct[poor.samples == 0].any()


@pytest.mark.parametrize("room", [0.5, 1.0, 3.3, 100.0])
def test_a_simulated_total_holds_where_lengths_differ(room: float) -> None:
    table = Table.of(mixed(30, 8, lengths=40, max_n=3))
    gain, seen = fit_votes(table), orders(table, 10, 0)
    total = round(room * 30 * 42)
    for outcomes in (
        simulate_allocation(gain, table, seen, total),
        simulate_stream(gain, table, seen, total, Pace(requests=30)),
        simulate_stream(gain, table, seen, total, Pace(per_request=total / 30)),
    ):
        assert outcomes.tokens.sum(axis=1).max() <= total
        assert outcomes.samples.max() <= 8
        assert not outcomes.correct[outcomes.samples == 0].any()


def test_a_stream_keeps_to_its_pace_when_requests_get_harder() -> None:
    gain = fit_votes(Table.of(mixed(60, 16)))
    random = Random(3)
    texts = ["a" * 16] * 100 + ["".join(random.choices("abc", (3, 2, 2), k=16)) for _ in range(100)]
    table = Table.of(bank(*texts))
    each = 4 * (TOKENS + 2)
    total = 200 * each
    outcomes = simulate_stream(gain, table, orders(table, 1, 0), total, Pace(requests=200))
    assert outcomes.tokens.sum() == pytest.approx(total, rel=0.02)
    assert outcomes.samples.min() >= 1
    slow = simulate_stream(gain, table, orders(table, 1, 0), total, Pace(per_request=each / 2))
    assert slow.tokens[0, 100:].mean() == pytest.approx(each / 2, rel=0.35)  # 20 requests make up for the easy ones
    assert slow.tokens.sum() <= 1.1 * total / 2


def test_last_letters_shared_is_better_than_the_same_for_all() -> None:
    whole = Table.of(import_file(BANKS / "last_letters_gpt3.5_t0.7_350x40.jsonl", model="gpt-3.5"))
    rng, ahead = np.random.default_rng(5), []
    for _ in range(2):
        places = rng.permutation(len(whole))
        gain, tested = fit_votes(whole.take(places[:175]), repeats=10), whole.take(places[175:])
        seen = orders(tested, 3, 1)
        total = float(2 * (tested.prompt_tokens.sum() + tested.output_tokens.mean(axis=1).sum()))
        shared, uniform = simulate_allocation(gain, tested, seen, total), simulate_uniform(tested, seen, total)
        assert shared.tokens.sum(axis=1).max() <= total
        ahead.append(shared.correct.mean() - uniform.correct.mean())
    assert min(ahead) > 0
    assert sum(ahead) / 2 > 0.005


# -- live ------------------------------------------------------------------------------------------------------------


async def run(
    model: ReplayModel | ScriptedModel,
    asked: list[Request],
    total: int,
    gain: Gain,
    *,
    width: int | None = None,
    concurrency: int = 64,
) -> BatchResult:
    async with Engine(model) as engine:
        budget = Budget(max_total_tokens=total)
        return await solve_batch(asked, engine=engine, total=budget, gain=gain, width=width, concurrency=concurrency)


@pytest.mark.parametrize("n", [1.5, 3, 6])
@pytest.mark.parametrize("max_n", [1, 4])
async def test_a_live_batch_is_shared_as_the_simulated_one(n: float, max_n: int) -> None:
    of = mixed(20, 10, seed=4, max_n=max_n)
    gain, table = fit_votes(Table.of(mixed(60, 10, max_n=max_n))), Table.of(of)
    total = round(20 * n * (TOKENS + 2))
    model, asked = replay(of, max_n)
    batch = await run(model, asked, total, gain, width=1)
    simulated = simulate_allocation(gain, table, orders(table, 1, 0), total)
    results = [one for one in batch.results if isinstance(one, Result)]
    assert [one.samples for one in results] == simulated.samples[0].tolist()
    assert [one.usage.total_tokens for one in results] == simulated.tokens[0].tolist()
    assert [one.answer == "a" for one in results] == simulated.correct[0].tolist()
    assert batch.usage.total_tokens == simulated.tokens.sum() <= total


@settings(deadline=None, max_examples=40)
@given(st.data())
async def test_the_total_holds_and_nobody_is_left_waiting_whatever_fails_or_is_cancelled(data: st.DataObject) -> None:
    gain = _fitted()
    count = data.draw(st.integers(1, 8))
    max_n = data.draw(st.sampled_from([1, 3, 16]))
    failing = data.draw(st.sets(st.integers(0, 6), max_size=4))
    failures: dict[int, Exception] = {
        index: data.draw(st.sampled_from([ModelUnavailable("down", sent=True), ModelRefused("no", status=400)]))
        for index in failing
    }
    model = ScriptedModel(
        {"7": 0.6, "8": 0.3, None: 0.1},
        tokens=lambda _index, random: random.randrange(5, 40),
        latency_s=lambda _index, random: random.choice([0.0, 0.001]),
        failures=failures,
        capabilities=Capabilities(max_n=max_n, streams=data.draw(st.booleans())),
    )
    total = data.draw(st.integers(20, 3000))
    asked = [request(number) for number in range(count)]
    width, concurrency = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8))
    cancelled = data.draw(st.none() | st.floats(0, 0.01))
    running = asyncio.create_task(run(model, asked, total, gain, width=width, concurrency=concurrency))
    if cancelled is not None:
        await asyncio.sleep(cancelled)
        running.cancel()
    done, _ = await asyncio.wait([running], timeout=20)
    assert done, "the batch hangs"
    assert model.in_flight == 0
    assert model.tokens_served + model.prompt_tokens_served <= total
    if not running.cancelled():
        batch = running.result()
        assert len(batch.results) == count
        assert batch.usage.total_tokens <= total
        assert batch.usage.total_tokens >= model.tokens_served + model.prompt_tokens_served
        for one in batch.results:
            if isinstance(one, Result):
                assert one.candidate.text


def _fitted() -> VoteGain:
    if not _FITTED:
        _FITTED.append(fit_votes(Table.of(mixed(30, 8)), repeats=10))
    return _FITTED[0]


_FITTED: list[VoteGain] = []


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_few_slots_leave_something_for_those_to_come(concurrency: int, votes: VoteGain) -> None:
    of = mixed(40, 12, seed=6)
    model, asked = replay(of)
    total = 40 * 3 * (TOKENS + 2)
    batch = await run(model, asked, total, votes, concurrency=concurrency)
    results = [one for one in batch.results if isinstance(one, Result)]
    assert len(results) == 40
    assert batch.usage.total_tokens == pytest.approx(total, rel=0.1)
    easy, hard = results[0::2], results[1::2]
    assert sum(one.samples for one in hard) > 1.5 * sum(one.samples for one in easy)


async def test_one_that_is_cancelled_while_it_waits_leaves_its_share_to_others(votes: VoteGain) -> None:
    ledger = Ledger(Budget(max_total_tokens=1000))
    allocator = BatchAllocator(votes, ledger, 3)
    seen = Seen(drawn=2, votes=(1, 1), output_tokens=2 * TOKENS, prompt_tokens=2)
    with allocator.request() as first, allocator.request() as second, allocator.request() as third:
        assert (await first.act(Seen())).kind == "draw"
        waiting = [asyncio.create_task(one.act(seen)) for one in (first, second)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)  # the third may still turn out to need it more
        waiting[0].cancel()
        action = asyncio.create_task(third.act(Seen(drawn=2, votes=(2,), output_tokens=2 * TOKENS, prompt_tokens=2)))
        assert (await asyncio.wait_for(waiting[1], 1)).kind == "draw"
        assert not action.done()
    action.cancel()


async def test_the_end_of_the_one_that_draws_wakes_those_that_wait(votes: VoteGain) -> None:
    allocator = BatchAllocator(votes, Ledger(Budget(max_total_tokens=1000)), 2)
    with allocator.request() as first:
        with allocator.request():
            waiting = asyncio.create_task(first.act(Seen(drawn=2, votes=(1, 1), output_tokens=32, prompt_tokens=2)))
            await asyncio.sleep(0)
            assert not waiting.done()
        assert (await asyncio.wait_for(waiting, 1)).kind == "draw"


async def test_a_spent_total_ends_those_that_wait(votes: VoteGain) -> None:
    ledger = Ledger(Budget(max_total_tokens=100))
    allocator = BatchAllocator(votes, ledger, 1)
    with allocator.request() as only:
        ledger.spent += Usage(prompt_tokens=10, output_tokens=85)
        action = await only.act(Seen(drawn=2, votes=(1, 1), output_tokens=32, prompt_tokens=2))
    assert (action.kind, action.reason) == ("stop", "budget")


async def test_requests_that_keep_failing_a_check_are_given_up_for_fresh_ones() -> None:
    # Every other question is hopeless; the others are right half of the time. All wrong answers are the same.
    def script(prompt: Prompt, _index: int, random: Random) -> Reply:
        hopeless = int(str(prompt.messages[0]["content"]).split()[-1]) % 2
        return Reply(f"It is \\boxed{{{7 if not hopeless and random.random() < 0.5 else 8}}}")

    model = ScriptedModel(script)
    gain = CoverageGain(40, Lengths(2, 3), 0.5, 0.5)
    async with Engine(model, verifier=CheckerVerifier(lambda answer: answer == "7")) as engine:
        batch = await solve_batch(
            [request(number) for number in range(20)],
            engine=engine,
            total=Budget(max_total_tokens=900),
            gain=gain,
        )
    results = [one for one in batch.results if isinstance(one, Result)]
    assert [one.answer for one in results] == ["7", "8"] * 10
    assert max(one.samples for one in results[0::2]) < 12
    given_up = [one.samples for one in results[1::2]]
    assert max(given_up) - min(given_up) <= 1
    assert batch.usage.total_tokens <= 900


async def test_a_stream_ends_within_its_total_and_near_it(votes: VoteGain) -> None:
    of = mixed(40, 12, seed=8)
    model, asked = replay(of)
    total = 40 * 3 * (TOKENS + 2)
    ledger = Ledger(Budget(max_total_tokens=total))
    stream = StreamAllocator(votes, ledger, Pace(requests=40))
    samples = []
    async with Engine(model) as engine:
        for one in asked:
            with stream.request() as controller:
                result = await engine.solve(one, strategy="auto", account=ledger, controller=controller)
            samples.append(result.samples)
    assert 0.9 * total <= ledger.spent.total_tokens <= total
    assert min(samples) >= 1
    assert sum(samples[1::2]) > 1.5 * sum(samples[0::2])
    table = Table.of(of)
    simulated = simulate_stream(votes, table, orders(table, 1, 0), total, Pace(requests=40))
    assert samples == simulated.samples[0].tolist()


async def test_the_price_of_a_stream_follows_what_was_spent(votes: VoteGain) -> None:
    ledger = Ledger(Budget(max_total_tokens=100_000))
    now = 0.0
    stream = StreamAllocator(votes, ledger, Pace(per_second=100), clock=lambda: now)
    assert stream.price == math.inf  # nothing is earned yet
    now = 1.0
    early = stream.price
    ledger.spent += Usage(output_tokens=2000)
    assert stream.price == math.inf > early
    now = 60.0
    assert stream.price < early


def test_what_cannot_be_shared_is_refused(votes: VoteGain) -> None:
    with pytest.raises(UsageError, match="max_total_tokens"):
        BatchAllocator(votes, Ledger(Budget(max_cost_usd=1)), 3)
    for wrong in ({}, {"requests": 1, "per_request": 2.0}, {"per_second": 0.0}):
        with pytest.raises(UsageError, match="pace"):
            Pace(**wrong)  # type: ignore[arg-type]


async def test_a_failure_leaves_the_others_alone_and_a_batch_may_be_empty(votes: VoteGain) -> None:
    def script(prompt: Prompt, _index: int, _random: Random) -> Reply | Exception:
        if prompt.messages[0]["content"] == "question 1":
            return ModelRefused("not this one", status=400)
        return Reply("It is \\boxed{7}")

    batch = await run(ScriptedModel(script), [request(number) for number in range(3)], 5000, votes)
    assert [getattr(one, "answer", None) for one in batch.results] == ["7", None, "7"]
    assert isinstance(batch.results[1], ModelRefused)
    assert (await run(ScriptedModel(script), [], 5000, votes)).results == ()


async def test_the_deadline_is_that_of_the_batch(votes: VoteGain) -> None:
    model = ScriptedModel({"7": 1.0}, latency_s=0.2)
    async with Engine(model) as engine:
        batch = await solve_batch(
            [request(number) for number in range(4)],
            engine=engine,
            total=Budget(max_total_tokens=5000, deadline_s=0.3),
            gain=votes,
            concurrency=1,
        )
    ended = ["deadline" if isinstance(one, NoAnswer) else getattr(one, "answer", None) for one in batch.results]
    assert ended in (["7", *["deadline"] * 3], ["7", "7", *["deadline"] * 2])
    assert model.in_flight == 0


async def test_as_a_policy_for_single_requests_it_does_what_it_is_judged_by() -> None:
    """One controller may stand for many requests: it keeps nothing of any."""
    of = mixed(12, 16, seed=3)
    rows = [replace(sample, scores={"checker": float(bool(sample.correct))}) for sample in of]
    checked = Bank(of.problems.values(), of.models.values(), rows)
    table = Table.of(checked)
    for gain, verifier in ((fit_coverage(table), "checker"), (fit_votes(table), None)):
        policy = AllocationPolicy(gain, gain.price(60.0))
        assert AllocationPolicy.of(json.loads(json.dumps(policy.body()))).body() == policy.body()
        given = orders(table, 4, 1)
        fast = simulate_controller(policy.controller(request(0)), table, given, verifier=verifier)
        slow = await replayed("auto", checked, table, given, auto=policy.controller, verifier=verifier)
        assert (fast.correct == slow.correct).all()
        assert (fast.samples == slow.samples).all()
        assert (fast.tokens == slow.tokens).all()
        assert fast.samples.max() > fast.samples.min()
