"""`model:auto` in the gateway: the policy in service decides, learns from what comes back, and can be taken back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running_gateway import House, config_for, house

from thinkscale.errors import UsageError
from thinkscale.policies.artifact import Artifact
from thinkscale.policies.bandit import BanditPolicy
from thinkscale.policies.features import request_features
from thinkscale.serve import config as configuring
from thinkscale.serve.config import ModelConfig, PolicyConfig
from thinkscale.serve.deployment import open_deployment
from thinkscale.serve.learning import Learning
from thinkscale.store.database import Database
from thinkscale.store.policies import PolicyStore
from thinkscale.store.records import Records, RequestRecord
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import Prompt, Request

ARMS = {"single": 1.0, "self-consistency:n=4": 4.0}


def bandit(arms: dict[str, float] = ARMS, **settings: Any) -> str:
    policy = BanditPolicy.cold(arms, price=1e-4, **settings)
    return Artifact("bandit", "stub", policy, {"made": "by hand"}).text()


@asynccontextmanager
async def policies(folder: Path) -> AsyncIterator[PolicyStore]:
    """The gateway's own database, from outside: as the command line sees it."""
    async with Database(f"sqlite:///{folder}/gateway.db") as database:
        yield PolicyStore(database)


async def learn(gateway: House) -> BanditPolicy:
    learning = gateway.running.gateway.learning
    await learning.refresh()
    policy = learning._policies["stub"].policy
    assert isinstance(policy, BanditPolicy)
    return policy


async def ask(gateway: House, model: str = "stub:auto") -> str:
    return str((await gateway.chat(model=model)).json["thinkscale"]["trace_id"])


async def tell(gateway: House, trace: str, *, correct: bool) -> None:
    assert (await gateway.post("/v1/feedback", {"trace_id": trace, "correct": correct})).status == 200


def totals(policy: BanditPolicy) -> list[float]:
    """All that it was taught; in which order that came makes little difference, as long as little has faded."""
    return [value for arm in policy.state.arms for value in (*arm.moments.reward, arm.moments.gram[0][0])]


def decided(trace: str, model: str, strategy: str = "single") -> RequestRecord:
    return RequestRecord(trace, 800.0, model=model, strategy=strategy, probability=0.5, context={"length": 0.5})


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


async def test_two_refreshes_at_once_learn_once(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        await tell(gateway, await ask(gateway), correct=True)
        await asyncio.gather(*(learn(gateway) for _ in range(5)))
        assert (await learn(gateway)).state.feedback == 1


async def test_a_word_said_again_teaches_once_and_one_taken_back_is_unlearned(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        traces = [await ask(gateway) for _ in range(3)]
        for trace in traces:
            await tell(gateway, trace, correct=True)
        first = await learn(gateway)
        await tell(gateway, traces[0], correct=True)
        assert (await learn(gateway)).state == first.state
        await tell(gateway, traces[0], correct=False)
        changed = await learn(gateway)
        assert changed.state.feedback == 3
        assert sum(arm.moments.reward[0] for arm in changed.state.arms) < 2.1
        assert changed.spending == first.spending, "what was spent is spent"
    async with house(tmp_path, {"7": 1.0}) as again:
        assert totals(await learn(again)) == pytest.approx(totals(changed), abs=0.05)


async def test_each_model_has_its_own_place_in_the_record(tmp_path: Path) -> None:
    """Feedback on another model, and one that is committed after a later one: neither hides what is to be learned."""
    now = [1000.0]
    async with Database(f"sqlite:///{tmp_path}/own.db") as database:
        store = PolicyStore(database, clock=lambda: 900.0)
        async with Records(database, clock=lambda: now[0]) as records:
            for model in ("small", "large"):
                await store.promote(model, "bandit", bandit(), {})
            learning = Learning(store, records, ("small", "large"))

            async def heard(trace: str, model: str, at: float) -> int:
                now[0] = at
                records.add(decided(trace, model))
                await records.feedback(trace, correct=True, key="")
                await learning.refresh()
                policy = learning._policies[model].policy
                assert isinstance(policy, BanditPolicy)
                return policy.state.feedback

            assert await heard("a", "small", 2000.0) == 1
            assert await heard("b", "large", 1500.0) == 1
            assert await heard("c", "small", 1990.0) == 2
            assert await heard("d", "small", 2010.0) == 3


async def test_replicas_and_restarts_come_to_know_the_same(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path}/own.db") as database:
        store = PolicyStore(database, clock=lambda: 0.0)
        await store.promote("small", "bandit", bandit(), {})
        async with Records(database) as here, Records(database) as there:
            replicas = [Learning(store, records, ("small",)) for records in (here, there)]
            for number in range(6):
                records = (here, there)[number % 2]
                records.add(decided(f"t{number}", "small", strategy=list(ARMS)[number % 3 == 0]))
                await records.feedback(f"t{number}", score=number / 5, key="")
                await replicas[number % 3 == 0].refresh()
            known = []
            for one in (*replicas, Learning(store, here, ("small",))):
                await one.refresh()
                policy = one._policies["small"].policy
                assert isinstance(policy, BanditPolicy)
                known.append(totals(policy))
            assert known[0] == pytest.approx(known[2], abs=0.05)
            assert known[1] == pytest.approx(known[2], abs=0.05)


JUDGED = {"best-of-n:n=1": 1.0, "best-of-n:n=2": 2.0}
CHECKED = PolicyConfig("auto", verifier="arithmetic")


@pytest.mark.parametrize(
    ("arms", "body", "learned"),
    [
        (JUDGED, {"model": "stub:checked"}, 1),
        (JUDGED | {"single": 1.0}, {"model": "stub:checked"}, 0),  # one is never judged
        (JUDGED, {"inference": {"strategy": "auto", "verifier": "arithmetic"}}, 0),  # the client chose who judges
    ],
)
async def test_verdicts_teach_where_the_operators_verifier_judges_every_strategy(
    tmp_path: Path, arms: dict[str, float], body: dict[str, Any], learned: int
) -> None:
    async with house(tmp_path, {"2 + 2 = 5, so 5": 1.0}, policies={"checked": CHECKED}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(arms), {})
        await learn(gateway)
        record: dict[str, Any] = {"strategy": "single"}
        while record["strategy"] == "single":  # until one that is judged was taken
            record = await gateway.record((await gateway.chat(**body)).json["thinkscale"]["trace_id"])
        assert record["context"] is not None
        assert record["verdict"] == 0.0
        assert (await learn(gateway)).state.feedback == learned


async def test_feedback_takes_the_place_of_a_verdict(tmp_path: Path) -> None:
    async with house(tmp_path, {"2 + 2 = 5, so 5": 1.0}, policies={"checked": CHECKED}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(JUDGED), {})
        await learn(gateway)
        trace = await ask(gateway, model="stub:checked")
        judged = await learn(gateway)
        await tell(gateway, trace, correct=True)
        told = await learn(gateway)
        assert (judged.state.feedback, told.state.feedback) == (1, 1)
        assert totals(told) != pytest.approx(totals(judged), abs=0.05)


async def test_auto_with_settings_follows_the_policy_too(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        answer = await gateway.chat(inference={"strategy": "auto:n=8"})
        record = await gateway.record(answer.json["thinkscale"]["trace_id"])
        assert record["strategy"] in ARMS
        assert record["context"] is not None


async def test_only_what_the_bandit_decided_is_charged_to_it(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        await ask(gateway)
        charged = (await learn(gateway)).spending
        assert charged.requests == 1
        await gateway.chat()
        gateway.running.gateway.admission.close()
        assert (await gateway.chat(model="stub:auto")).status == 503
        assert (await learn(gateway)).spending == charged


async def test_a_policy_that_lacks_what_it_needs_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway:
        async with policies(tmp_path) as store:
            await store.promote("stub", "bandit", bandit(JUDGED), {})
        await learn(gateway)
        for _ in range(2):
            assert (await gateway.chat(model="stub:auto")).status == 200
        assert len([line for line in caplog.messages if "policy v1 (bandit) needs a verifier" in line]) == 1


async def test_the_admin_api_tells_what_auto_follows(tmp_path: Path) -> None:
    async with house(tmp_path, {"7": 1.0}) as gateway, policies(tmp_path) as store:
        assert (await gateway.get("/admin/api/setup")).json["auto"] == {}
        await store.promote("stub", "bandit", bandit(), {})
        await learn(gateway)
        assert (await gateway.get("/admin/api/setup")).json["auto"] == {"stub": "bandit v1"}


@pytest.mark.parametrize("piece", ["\n", " ", " \n", "\t", "$", "$a", '"', "1,", "\\a", "(", "`", "A)\n"])
def test_no_prompt_takes_long_to_look_at(piece: str) -> None:
    """Quadratic time is seconds here, linear time milliseconds."""
    began = time.process_time()
    request_features(Request(Prompt.of((piece * 8000)[:8000])))
    assert time.process_time() - began < 0.2


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
    with pytest.raises(UsageError, match=r"gateway.toml:4: .*no other model is named 'a'"):
        configuring.load(file)
