"""What a run keeps on disk: every finished sample once, charged once, served again on resumption."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from thinkscale.engine import Engine
from thinkscale.errors import UsageError
from thinkscale.models.base import Capabilities
from thinkscale.models.openai import OpenAIModel
from thinkscale.store import Recorder, RunStore
from thinkscale.store.recorder import _key
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import AnswerKind, Chunk, Params, Prompt, Request, Result

PROMPT = Prompt.of("What is 3 + 4?")
REQUEST = Request(PROMPT, AnswerKind.NUMBER, Params(max_tokens=64))


async def drawn(model: Recorder, n: int, first: int = 0, params: Params | None = None) -> list[Chunk]:
    async with aclosing(model.generate(PROMPT, params or Params(), n=n, first=first)) as chunks:
        return [chunk async for chunk in chunks]


def texts(chunks: list[Chunk]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        found[chunk.index] = found.get(chunk.index, "") + chunk.text
    return found


async def test_a_recorded_sample_is_served_not_asked_again(tmp_path: Path) -> None:
    model = ScriptedModel({"7": 0.5, "8": 0.5}, capabilities=Capabilities(8, logprobs=True))
    async with RunStore(tmp_path / "run.db", {}) as store:
        recorder = Recorder(model, store, "unit")
        params = Params(top_logprobs=2)
        before = await drawn(recorder, 3, 0, params)
        again = await drawn(recorder, 6, 0, params)
        assert model.calls == 6
        assert texts(before) == {index: text for index, text in texts(again).items() if index < 3}
        tokens = [
            [token for chunk in chunks for token in chunk.tokens if chunk.index == 0] for chunks in (before, again)
        ]
        assert tokens[0] == tokens[1]
        assert tokens[0]


async def test_gaps_between_recorded_samples_are_filled(tmp_path: Path) -> None:
    model = ScriptedModel({"7": 1.0}, capabilities=Capabilities(16))
    async with RunStore(tmp_path / "run.db", {}) as store:
        recorder = Recorder(model, store, "unit")
        await drawn(recorder, 2, 1)
        await drawn(recorder, 1, 5)
        assert set(texts(await drawn(recorder, 8))) == set(range(8))
        assert model.calls == 8


async def test_a_filled_gap_has_the_seed_it_would_have_had_alone(tmp_path: Path) -> None:
    seeds: dict[str, list[int]] = {"whole": [], "resumed": []}

    def server(run: str) -> StubServer:
        def script(body: Mapping[str, Any], _index: int, _rng: Random) -> Reply:
            seeds[run].append(body["seed"])
            return Reply("\\boxed{7}")

        return StubServer(script, n="refuse")

    async with RunStore(tmp_path / "run.db", {}) as store:
        async with server("whole") as whole, Engine(OpenAIModel(whole.base_url)) as engine:
            await engine.solve(REQUEST, strategy="self-consistency:n=6")
        async with server("resumed") as resumed, Engine(OpenAIModel(resumed.base_url)) as engine:
            for n in (2, 6):
                await engine.solve(
                    REQUEST, strategy=f"self-consistency:n={n}", through=lambda one: Recorder(one, store, "unit")
                )
    assert sorted(seeds["resumed"]) == sorted(seeds["whole"])
    assert len(set(seeds["whole"])) == 6


async def test_other_units_prompts_and_parameters_share_nothing(tmp_path: Path) -> None:
    model = ScriptedModel({"7": 1.0})
    async with RunStore(tmp_path / "run.db", {}) as store:
        await drawn(Recorder(model, store, "a"), 1)
        await drawn(Recorder(model, store, "b"), 1)
        await drawn(Recorder(model, store, "a"), 1, params=Params(temperature=0.1))
        assert model.calls == 3


@pytest.mark.parametrize("max_n", [1, 4])
async def test_a_resumed_request_costs_what_it_would_have(tmp_path: Path, max_n: int) -> None:
    """Interrupted half-way and run again: the same answer, the same bill, no sample drawn twice."""

    async def solve(model: ScriptedModel, store: RunStore, unit: str, **options: Any) -> Result:
        async with Engine(model) as engine:
            return await engine.solve(
                REQUEST, strategy="self-consistency:n=12", through=lambda one: Recorder(one, store, unit), **options
            )

    def model(slow_from: int = 99) -> ScriptedModel:
        return ScriptedModel(
            {"7": 0.6, "8": 0.4},
            latency_s=lambda index, _rng: 0.0 if index < slow_from else 30.0,
            capabilities=Capabilities(max_n),
        )

    async with RunStore(tmp_path / "run.db", {}) as store:
        whole = await solve(model(), store, "whole")
        first = model(slow_from=8)
        interrupt = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, interrupt.set)
        half = await solve(first, store, "resumed", interrupt=interrupt)
        assert half.samples == 8
        second = model()
        resumed = await solve(second, store, "resumed")
        assert second.calls == 4, "only the missing samples are drawn"
        assert (resumed.answer, resumed.confidence) == (whole.answer, whole.confidence)
        assert resumed.usage.output_tokens == whole.usage.output_tokens
        assert resumed.usage.prompt_tokens == whole.usage.prompt_tokens
        assert resumed.usage.calls == whole.usage.calls == 12


async def test_a_finished_sample_is_kept_though_its_batch_is_not_finished(tmp_path: Path) -> None:
    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply("\\boxed{7}", latency_s=30.0 if index == 3 else 0.0)

    model = ScriptedModel(script, capabilities=Capabilities(max_n=4))
    async with RunStore(tmp_path / "run.db", {}) as store:
        recorder = Recorder(model, store, "unit")
        task = asyncio.create_task(drawn(recorder, 4))
        async with asyncio.timeout(5):
            while len(await store.samples("unit", _key(model.name, PROMPT, Params()), 0, 4)) < 3:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_server_that_ignores_n_is_counted_right(tmp_path: Path) -> None:
    async with (
        StubServer(n="ignore") as server,
        RunStore(tmp_path / "run.db", {}) as store,
        Engine(OpenAIModel(server.base_url)) as engine,
    ):
        result = await engine.solve(
            REQUEST, strategy="self-consistency:n=4", through=lambda one: Recorder(one, store, "unit")
        )
        assert result.usage.calls == result.samples == 4
        assert result.usage.output_tokens == server.counters.output_tokens


async def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    async with RunStore(tmp_path / "run.db", {}):
        with pytest.raises(UsageError, match="another process"):
            async with RunStore(tmp_path / "run.db", {}):
                pass
    async with RunStore(tmp_path / "run.db", {}):
        pass


async def test_a_cut_sample_is_kept_as_cut(tmp_path: Path) -> None:
    model = ScriptedModel({"7": 1.0}, tokens=50)
    async with RunStore(tmp_path / "run.db", {}) as store:
        recorder = Recorder(model, store, "unit")
        async with aclosing(recorder.generate(PROMPT, Params())) as chunks:
            async for _ in chunks:
                break
        again = await drawn(recorder, 1)
        assert [chunk.finish_reason for chunk in again if chunk.finish_reason] == ["cut"]
        assert model.calls == 1


async def test_another_runs_folder_is_refused_and_the_difference_told(tmp_path: Path) -> None:
    async with RunStore(tmp_path / "run.db", {"seed": 1, "model": "a"}):
        pass
    async with RunStore(tmp_path / "run.db", {"model": "a", "seed": 1}):
        pass
    with pytest.raises(UsageError, match="seed was 1, is 2"):
        async with RunStore(tmp_path / "run.db", {"seed": 2, "model": "a"}):
            pass


async def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(UsageError, match="not a run of thinkscale"):
        async with RunStore(tmp_path / "run.db", {}):
            pass


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the folder"):
        async with RunStore(tmp_path / "file" / "run.db", {}):
            pass


async def test_a_finished_unit_is_finished_once(tmp_path: Path) -> None:
    async with RunStore(tmp_path / "run.db", {}) as store:
        await store.finish("unit", {"correct": True})
        assert await store.finished() == {"unit": {"correct": True}}
        with pytest.raises(sqlite3.IntegrityError):
            await store.finish("unit", {"correct": False})
