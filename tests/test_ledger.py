"""The account: no reservation ever passes the budget, whatever fails or is cancelled, and nothing stays held."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.accounting import Claim, Ledger, Price
from thinkscale.errors import BudgetExhausted, UsageError
from thinkscale.types import Budget, Usage

PRICE = Price(input_mtok=3.0, output_mtok=15.0)

budgets = st.builds(
    Budget,
    max_output_tokens=st.none() | st.integers(1, 400),
    max_total_tokens=st.none() | st.integers(1, 600),
    max_cost_usd=st.none() | st.floats(1e-6, 0.01),
    max_calls=st.none() | st.integers(1, 12),
)
claims = st.builds(
    Claim,
    prompt_tokens=st.integers(0, 120),
    max_tokens=st.integers(1, 120),
    n=st.integers(1, 9),
    min_tokens=st.integers(1, 20),
    price=st.just(PRICE),
    purpose=st.sampled_from(["generate", "verify"]),
)


def within(ledger: Ledger) -> bool:
    """spent + held <= budget, limit by limit."""
    used, budget = ledger.spent + ledger.held, ledger.budget
    pairs = [
        (used.output_tokens, budget.max_output_tokens),
        (used.total_tokens, budget.max_total_tokens),
        (used.calls, budget.max_calls),
        (used.cost_usd, budget.max_cost_usd),
    ]
    return all(limit is None or (amount or 0) <= limit + 1e-9 for amount, limit in pairs)


def calls_in_parallel(deployment: Budget, key: Budget, request: Budget, asked: list[Claim], seed: int) -> None:
    """Calls in parallel finish, fail unsettled, or are cancelled at random; every level keeps its limits throughout."""
    rng = Random(seed)

    async def scenario() -> None:
        top = Ledger(deployment)
        middle = Ledger(key, parent=top)
        leaves = [Ledger(request, parent=middle), Ledger(request, parent=middle)]
        levels = [top, middle, *leaves]

        async def call(claim: Claim) -> None:
            try:
                hold = await rng.choice(leaves).reserve(claim)
            except BudgetExhausted as full:
                assert full.limit in ("max_calls", "max_output_tokens", "max_total_tokens", "max_cost_usd")
                return
            assert all(map(within, levels))
            assert 1 <= hold.n <= claim.n
            assert claim.min_tokens <= hold.max_tokens <= claim.max_tokens or hold.max_tokens == claim.max_tokens
            with hold:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                if rng.random() < 0.2:
                    return  # nobody could count it: the whole hold is charged
                used = rng.randint(0, hold.n * hold.max_tokens)
                hold.settle(Usage(claim.prompt_tokens, used, hold.n, 1))
            assert all(map(within, levels))

        tasks = [asyncio.create_task(call(claim)) for claim in asked]
        for _ in range(4):
            await asyncio.sleep(0)
        for task in tasks:
            if rng.random() < 0.2:
                task.cancel()
        done, stuck = await asyncio.wait(tasks, timeout=5)
        assert not stuck, "a reservation waits although nothing is outstanding"
        for task in done:
            if not task.cancelled():
                task.result()
        for level in levels:
            assert level.held == Usage()
            assert within(level)
        assert top.spent == middle.spent
        assert middle.spent.total_tokens == sum(leaf.spent.total_tokens for leaf in leaves)
        assert sum(usage.calls for usage in top.by_purpose.values()) == top.spent.calls

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(
    deployment=budgets,
    key=budgets,
    request=budgets,
    asked=st.lists(claims, min_size=1, max_size=12),
    seed=st.integers(),
)
def test_no_level_is_ever_overspent(
    deployment: Budget, key: Budget, request: Budget, asked: list[Claim], seed: int
) -> None:
    calls_in_parallel(deployment, key, request, asked, seed)


def test_those_who_wait_at_different_levels_do_not_wait_for_each_other() -> None:
    """Tight limits at every level. With queues in order of joining, some of these never ended."""
    for seed in range(1300):
        rng = Random(seed)
        tight = [
            Budget(
                max_output_tokens=rng.choice([None, rng.randint(1, 400)]),
                max_total_tokens=rng.choice([None, rng.randint(1, 600)]),
                max_calls=rng.choice([None, rng.randint(1, 12)]),
            )
            for _ in range(3)
        ]
        asked = [
            Claim(rng.randint(0, 120), rng.randint(1, 120), rng.randint(1, 9), rng.randint(1, 20), PRICE)
            for _ in range(rng.randint(1, 12))
        ]
        deployment, key, request = tight
        calls_in_parallel(deployment, key, request, asked, seed)


async def test_a_full_ledger_waits_for_settlements_and_then_grants() -> None:
    ledger = Ledger(Budget(max_total_tokens=100))
    first = await ledger.reserve(Claim(prompt_tokens=10, max_tokens=90))
    waiting = asyncio.create_task(ledger.reserve(Claim(prompt_tokens=10, max_tokens=50)))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle(Usage(10, 5, 1, 1))
    second = await waiting
    assert (second.n, second.max_tokens) == (1, 50)


async def test_the_last_sample_is_shortened_to_what_is_left() -> None:
    ledger = Ledger(Budget(max_total_tokens=100))
    hold = await ledger.reserve(Claim(prompt_tokens=40, max_tokens=500))
    assert hold.max_tokens == 60
    hold.settle(Usage(40, 60, 1, 1))
    with pytest.raises(BudgetExhausted) as full:
        await ledger.reserve(Claim(prompt_tokens=40, max_tokens=500))
    assert full.value.limit == "max_total_tokens"


async def test_as_many_samples_as_fit_are_granted_together() -> None:
    hold = await Ledger(Budget(max_total_tokens=350)).reserve(Claim(prompt_tokens=40, max_tokens=100, n=16))
    assert hold.n == 3


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    ledger = Ledger(Budget(max_calls=1))
    first = await ledger.reserve(Claim(prompt_tokens=1, max_tokens=1))
    waiting = asyncio.create_task(ledger.reserve(Claim(prompt_tokens=1, max_tokens=1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.settle(Usage(1, 1, 1, 1))
    assert ledger.held == Usage()


async def test_an_unsettled_reservation_is_charged_whole() -> None:
    ledger = Ledger()
    with await ledger.reserve(Claim(prompt_tokens=7, max_tokens=5, n=2)):
        pass
    assert (ledger.spent.prompt_tokens, ledger.spent.output_tokens, ledger.spent.calls) == (7, 10, 2)


async def test_dollars_are_priced_and_capped() -> None:
    ledger = Ledger(Budget(max_cost_usd=0.001))
    hold = await ledger.reserve(Claim(prompt_tokens=100, max_tokens=1000, price=PRICE))
    assert hold.max_tokens == 46  # (0.001 - 100 * 3e-6) / 15e-6
    hold.settle(Usage(100, 46, 1, 1))
    assert ledger.spent.cost_usd == pytest.approx(0.00099)


async def test_a_dollar_budget_without_a_price_is_refused() -> None:
    with pytest.raises(UsageError, match="price"):
        await Ledger(Budget(max_cost_usd=1)).reserve(Claim(prompt_tokens=1, max_tokens=1))


async def test_an_unknown_price_makes_an_unknown_cost_not_zero() -> None:
    ledger = Ledger()
    (await ledger.reserve(Claim(prompt_tokens=1, max_tokens=1))).settle(Usage(1, 1, 1, 1))
    assert ledger.spent.cost_usd is None


def test_budgets_refuse_nonsense() -> None:
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="deadline_s"):
            Budget(deadline_s=wrong)
    assert Budget(max_calls=3, deadline_s=1).within(Budget(max_calls=2)) == Budget(max_calls=2, deadline_s=1)


async def test_a_large_claim_is_not_starved_by_small_ones() -> None:
    ledger = Ledger(Budget(max_total_tokens=1000))
    served = asyncio.Event()

    async def small() -> None:
        while not served.is_set():
            with await ledger.reserve(Claim(prompt_tokens=0, max_tokens=500)) as hold:
                await asyncio.sleep(0.001)
                hold.settle(Usage())

    async def large() -> None:
        with await ledger.reserve(Claim(prompt_tokens=0, max_tokens=1000)) as hold:
            hold.settle(Usage())
        served.set()

    clients = [asyncio.create_task(small()) for _ in range(2)]
    await asyncio.sleep(0.005)
    await asyncio.wait_for(large(), 2)
    await asyncio.gather(*clients)


async def test_a_spent_request_does_not_wait_for_others_of_its_key() -> None:
    key = Ledger(Budget(max_total_tokens=1000))
    await key.reserve(Claim(prompt_tokens=0, max_tokens=1000))
    spent = Ledger(Budget(max_calls=1), parent=key)
    spent.spent = Usage(calls=1)
    with pytest.raises(BudgetExhausted) as full:
        await asyncio.wait_for(spent.reserve(Claim(prompt_tokens=0, max_tokens=10)), 1)
    assert full.value.limit == "max_calls"
