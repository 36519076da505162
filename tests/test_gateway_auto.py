"""`model:auto` in the gateway: the policy in service decides, learns from what comes back, and can be taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from running_gateway import House, config_for, house

from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import BanditPolicy
from thinkscale.serve import config as configuring
from thinkscale.serve.config import ModelConfig
from thinkscale.serve.deployment import open_deployment
from thinkscale.store.database import Database
from thinkscale.store.policies import PolicyStore
from thinkscale.testing.stub_server import StubServer

ARMS = {"single": 1.0, "self-consistency:n=4": 4.0}


def bandit(**settings: float | None) -> str:
    policy = BanditPolicy.cold(ARMS, price=1e-4, **settings)
    return Artifact("bandit", "stub", policy, {"made": "by hand"}).text()


@asynccontextmanager
async def policies(folder: Path) -> AsyncIterator[PolicyStore]:
    """The gateway's own database, from outside: as the command line sees it."""
    async with Database(f"sqlite:///{folder}/gateway.db") as database:
        yield PolicyStore(database)


async def learn(gateway: House) -> BanditPolicy:
    learning = gateway.running.gateway.learning
    await learning.refresh()
    policy = learning._policies["stub"].artifact.policy
    assert isinstance(policy, BanditPolicy)
    return policy


async def test_without_a_policy_auto_is_a_vote_that_stops_when_decided(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        assert "stub:auto" in [model["id"] for model in (await gateway.get("/v1/models")).json["data"]]
        answer = await gateway.chat(model="stub:auto")
        assert answer.json["thinkscale"]["samples"] == 4
        record = (await gateway.records())[0]
        assert (record["policy"], record["strategy"]) == ("auto", "auto")


async def test_a_bandit_decides_and_its_chances_are_on_record(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        before = await learn(gateway)
        taken = set()
        for _ in range(30):
            trace = (await gateway.chat(model="stub:auto")).json["thinkscale"]["trace_id"]
            record = await gateway.record(trace)
            taken.add(record["strategy"])
            chances = before.chances(record["context"])
            assert 0 < record["probability"] < 1
            assert set(chances) == set(ARMS)
        assert taken == set(ARMS), "both are tried"
        assert (await gateway.chat()).json["thinkscale"]["strategy"] != "auto", "other policies are left alone"


async def test_it_learns_from_feedback_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        before = await learn(gateway)
        for _ in range(40):
            trace = (await gateway.chat(model="stub:auto")).json["thinkscale"]["trace_id"]
            strategy = (await gateway.record(trace))["strategy"]
            await gateway.post("/v1/feedback", {"trace_id": trace, "correct": strategy != "single"})
        after = await learn(gateway)
        assert after.state.feedback == 40
        context = (await gateway.record(trace))["context"]
        assert after.chances(context)["single"] < before.chances(context)["single"]
        assert (await learn(gateway)).state.feedback == 40, "nothing is learned twice"
        assert after.spending.requests > 20
    async with house(tmp_path, {"7": 1.0}) as again:
        restarted = await learn(again)
        assert restarted.state.feedback == 40
        assert restarted.chances(context) == pytest.approx(after.chances(context))


async def test_verdicts_teach_it_where_nobody_says_anything(tmp_path: Path) -> None:
    async with house(tmp_path, {"2 + 2 = 5, so 5": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        body = {"inference": {"strategy": "best-of-n:n=2", "verifier": "arithmetic"}}
        trace = (await gateway.chat(**body)).json["thinkscale"]["trace_id"]
        assert (await gateway.record(trace))["verdict"] == 0.0
        assert (await learn(gateway)).state.feedback == 0, "it was not the bandit's decision"


async def test_a_rollback_takes_effect_without_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway, policies(tmp_path) as store:
        await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        learning = gateway.running.gateway.learning
        assert learning.versions() == {"stub": "bandit v1"}
        await store.rollback("stub")
        await learning.refresh()
        assert learning.versions() == {}
        assert (await gateway.chat(model="stub:auto")).status == 200


async def test_a_damaged_policy_is_not_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway, policies(tmp_path) as store:
        await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        await store.promote("stub", "bandit", "{}", {})
        await gateway.running.gateway.learning.refresh()
        assert gateway.running.gateway.learning.versions() == {"stub": "bandit v1"}
        assert "is not a policy" in caplog.text


async def test_an_allowance_holds_back_dear_strategies(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}, stub={"tokens": 100}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(allowance=1.0, sample_cost=100), {})
        await learn(gateway)
        for _ in range(10):
            await gateway.chat(model="stub:auto")
        assert {row["strategy"] for row in await gateway.records()} == {"single"}


async def test_the_larger_model_is_one_that_is_served(tmp_path: Path) -> None:
    async with StubServer({"7": 1.0}) as stub, AsyncExitStack() as stack:
        config = config_for(stub.base_url, folder=tmp_path)
        large = ModelConfig("large", (f"{stub.base_url}#stub",), price="1/2")
        config = replace(config, models=(replace(config.models[0], larger="large"), large))
        deployment = await stack.enter_async_context(open_deployment(config))
        small = deployment.served["stub"].engine
        assert small.larger is deployment.served["large"].engine.model
        assert small.price_for(small.larger) == deployment.served["large"].engine.price
    file = tmp_path / "gateway.toml"
    file.write_text('[[models]]\nname = "a"\nbackends = ["http://h/v1"]\nlarger = "a"\n')
    with pytest.raises(configuring.UsageError, match=r"gateway.toml:4: .*no other model is named 'a'"):
        configuring.load(file)
