"""The session's plumbing under the conditions that strategies rarely see: races, half batches, early exits."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from thinkscale.accounting import Ledger
from thinkscale.engine import Engine
from thinkscale.errors import AuthenticationFailed, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.models.openai import OpenAIModel
from thinkscale.policies import Fixed
from thinkscale.session import Session
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.stub_faults import Drop
from thinkscale.testing.stub_server import StubServer
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Usage
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.judge import Judge

QUESTION = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))


async def text_of(candidate: Candidate) -> str:
    return candidate.text


def session_of(model: ScriptedModel, ledger: Ledger) -> Session:
    return Session(QUESTION, model=model, ledger=ledger, trace=Trace(), canonical=text_of)


@pytest.mark.parametrize("limit", range(60, 400, 17))
async def test_leaving_early_gives_back_every_hold(limit: int) -> None:
    """A call admitted in the tick in which the strategy leaves never starts; its hold must not stay."""
    model = ScriptedModel({"7": 1.0}, capabilities=Capabilities(max_n=1))
    account = Ledger()
    ledger = Ledger(Budget(max_total_tokens=limit), parent=account)
    session = session_of(model, ledger)
    for _ in range(3):
        async with session.sampling(4) as finished:
            async for _candidate in finished:
                break
        assert ledger.held == account.held == Usage()
        assert model.in_flight == 0
    await asyncio.wait_for(session.sample(1), 1)
    assert ledger.spent.total_tokens <= limit


def runaway(_prompt: Prompt, index: int, _rng: Random) -> Reply:
    return Reply("on and on " * 500) if index == 3 else Reply("\\boxed{7}")


@pytest.mark.parametrize("max_n", [1, 4])
async def test_samples_that_finished_count_though_a_sibling_never_does(max_n: int) -> None:
    model = ScriptedModel(runaway, token_s=0.005, capabilities=Capabilities(max_n=max_n))
    request = Request(QUESTION.prompt, AnswerKind.NUMBER, Params(max_tokens=2000))
    async with Engine(model) as engine:
        result = await engine.solve(request, strategy="self-consistency:n=4", budget=Budget(deadline_s=0.3))
    assert (result.answer, result.samples, result.stop_reason) == ("7", 3, "deadline")


async def test_a_batch_that_breaks_keeps_what_was_finished_and_redraws_the_rest() -> None:
    def script(_body: Any, index: int, _rng: Any) -> Reply:
        return Reply("\\boxed{7}") if index < 3 else Reply("so " * 30 + "\\boxed{7}")

    async with (
        StubServer(script, token_s=0.001, faults=[Drop(8)]) as server,
        Engine(OpenAIModel(server.base_url)) as engine,
    ):
        result = await engine.solve(QUESTION, strategy="self-consistency:n=4")
        assert (result.samples, result.answer) == (4, "7")
        assert server.counters.calls == 5, "only the sample that was lost is drawn again"
        assert result.usage.output_tokens == server.counters.output_tokens


async def test_one_failed_batch_does_not_end_an_adaptive_rule() -> None:
    for strategy in (
        "first-verified:n=64",
        "adaptive-consistency:batches=1",
        "esc:batches=1",
        "best-of-n:n=4,batches=1",
    ):
        model = ScriptedModel({"7": 1.0}, failures={0: ModelRefused("no", status=400)})
        async with Engine(model) as engine:
            check = CheckerVerifier(lambda answer: answer == "7")
            result = await engine.solve(QUESTION, strategy=strategy, verifier=check)
        assert result.answer == "7", strategy


async def test_failure_after_failure_ends_it() -> None:
    model = ScriptedModel(lambda _prompt, _index, _rng: ModelUnavailable("down", status=503))
    async with Engine(model) as engine:
        with pytest.raises(ModelUnavailable, match="down"):
            await engine.solve(QUESTION, strategy="adaptive-consistency:n=40,batches=1")
    assert model.requests == 3


async def test_a_refused_key_ends_it_at_once() -> None:
    model = ScriptedModel(lambda _prompt, _index, _rng: AuthenticationFailed("no", status=401))
    async with Engine(model) as engine:
        with pytest.raises(AuthenticationFailed):
            await engine.solve(QUESTION, strategy="adaptive-consistency:n=40,batches=1")
    assert model.requests == 1


@pytest.mark.parametrize(
    "strategy", ["best-of-n", "first-verified", "self-consistency:weighted=true", "refine:verify=true"]
)
async def test_a_missing_verifier_costs_nothing(strategy: str) -> None:
    model = ScriptedModel({"7": 1.0})
    async with Engine(model) as engine:
        with pytest.raises(UsageError, match="needs a verifier"):
            await engine.solve(QUESTION, strategy=strategy)
    assert model.requests == 0


async def test_a_judge_without_budget_is_not_a_complete_run() -> None:
    async with Engine(ScriptedModel({"7": 1.0})) as engine:
        result = await engine.solve(QUESTION, strategy="best-of-n:n=4", budget=Budget(max_calls=4), verifier=Judge())
    assert (result.answer, result.stop_reason) == ("7", "budget")


async def test_a_policys_budget_holds_whatever_the_strategy() -> None:
    async with Engine(ScriptedModel({"7": 1.0}), policy=Fixed("single", Budget(max_calls=2))) as engine:
        result = await engine.solve(QUESTION, strategy="self-consistency:n=9")
    assert result.usage.calls == 2


async def test_the_context_bounds_a_sample() -> None:
    model = ScriptedModel(lambda _p, _i, _r: Reply("on and on " * 99), capabilities=Capabilities(context=40))
    async with Engine(model) as engine:
        result = await engine.solve(QUESTION, strategy="single")
    assert result.usage.total_tokens == 40


async def test_calls_that_reached_no_server_cost_nothing() -> None:
    account = Ledger()
    async with StubServer() as server:
        model = OpenAIModel(server.base_url)
        await model.open()
    async with Engine(model) as engine:
        with pytest.raises(ModelUnavailable):
            await engine.solve(QUESTION, strategy="self-consistency:n=64", account=account)
    assert account.spent.total_tokens == 0


async def test_work_lost_on_the_way_is_charged_and_asked_again_within_the_budget() -> None:
    async with StubServer(faults=[Drop(None)] * 9) as server, Engine(OpenAIModel(server.base_url)) as engine:
        account = Ledger(Budget(max_calls=2))
        with pytest.raises(ModelUnavailable):
            await engine.solve(QUESTION, strategy="single", account=account)
        assert server.counters.faults == 2
        assert account.spent.calls == 2


async def test_every_charge_is_in_the_trace() -> None:
    events: list[Any] = []
    async with StubServer(faults=[Drop(None)]) as server, Engine(OpenAIModel(server.base_url)) as engine:
        result = await engine.solve(QUESTION, strategy="self-consistency:n=3", listeners=(events.append,))
    settled = [event for event in events if event["event"] == "settle"]
    assert sum(event["output_tokens"] for event in settled) == result.usage.output_tokens
    assert sum(event["prompt_tokens"] for event in settled) == result.usage.prompt_tokens


async def test_a_fault_of_ours_is_raised_not_lost() -> None:
    class Broken(ScriptedModel):
        async def count_prompt_tokens(self, prompt: Prompt) -> int:
            raise ZeroDivisionError("a bug")

    async with Engine(Broken({"7": 1.0})) as engine:
        with pytest.raises(ZeroDivisionError):
            await engine.solve(QUESTION, strategy="self-consistency:n=3")
