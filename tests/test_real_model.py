"""The whole path on a real model: SmolLM2-135M on llama.cpp, on this machine."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import thinkscale
from thinkscale.engine import Engine
from thinkscale.errors import UsageError
from thinkscale.models.openai import OpenAIModel
from thinkscale.optimize.bench import request_for
from thinkscale.tasks import parse_task
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Budget, Params, Prompt, Request
from thinkscale.verifiers.arithmetic import Arithmetic
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.judge import Judge
from thinkscale.verifiers.steps import Stepwise

pytestmark = pytest.mark.model

QUESTION = Request(
    Prompt.of("What is 2 + 3? Finish with 'Answer: <number>'."), AnswerKind.NUMBER, Params(max_tokens=48)
)


async def test_samples_share_their_prompt_and_the_bill_is_exact(embedded_url: str) -> None:
    async with Engine(OpenAIModel(embedded_url)) as engine:
        assert engine.model.capabilities.max_n == 16
        fresh = Request(Prompt.of("Name a colour of the rainbow, one word."), params=Params(max_tokens=8))
        result = await engine.solve(fresh, strategy="self-consistency:n=16")
    assert result.samples == 16
    assert (result.usage.calls, result.usage.requests) == (16, 1)
    assert 16 <= result.usage.output_tokens <= 16 * 8
    assert not result.usage.counted, "llama.cpp tells each sample's tokens when streaming"
    expected = await prompt_tokens(embedded_url, fresh.prompt)
    assert result.usage.prompt_tokens == expected, "sixteen samples pay for one prompt"


async def prompt_tokens(url: str, prompt: Prompt) -> int:
    async with OpenAIModel(url) as model:
        return await model.count_prompt_tokens(prompt)


@pytest.mark.parametrize("max_total_tokens", [100, 300, 700])
async def test_the_budget_holds(embedded_url: str, max_total_tokens: int) -> None:
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(
            QUESTION,
            strategy="best-of-n:n=12,batches=4",
            budget=Budget(max_total_tokens=max_total_tokens),
            verifier=Judge(),
        )
    assert result.usage.total_tokens <= max_total_tokens
    assert result.stop_reason == "budget"


async def test_a_judge_gives_probabilities_and_is_on_the_bill(embedded_url: str) -> None:
    events: list[Any] = []
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(QUESTION, strategy="best-of-n:n=3", verifier=Judge(), listeners=(events.append,))
    scores = [event["score"] for event in events if event["event"] == "verdict"]
    assert len(scores) == 3
    assert all(0 < score < 1 for score in scores)
    assert result.usage_by_purpose["verify"].calls == 3
    assert result.confidence == max(scores)


@pytest.mark.parametrize("strategy", ["deepconf:n=6", "deepconf-online:n=12,warmup=4,batches=4", "refine:rounds=1"])
async def test_strategies_run(embedded_url: str, strategy: str) -> None:
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(QUESTION, strategy=strategy)
    assert result.text
    assert result.usage.output_tokens > 0


async def test_budget_forcing_continues_the_models_own_words(embedded_url: str) -> None:
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(QUESTION, strategy="budget-forcing:waits=2")
    assert result.text.count("\nWait") >= 2
    assert result.usage.calls >= 3


async def test_a_continuation_does_not_repeat_its_prefix(embedded_url: str) -> None:
    prompt = Prompt(messages=({"role": "user", "content": "Count from 1 to 10."},), prefix="1, 2, 3, 4,")
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(Request(prompt, params=Params(temperature=0, max_tokens=12)), strategy="single")
    assert result.text.startswith("1, 2, 3, 4, 5, 6")


async def test_a_deadline_stops_the_server_too(embedded_url: str) -> None:
    long = Request(Prompt.of("Tell a very long story."), params=Params(max_tokens=1500, extra={"ignore_eos": True}))
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(long, strategy="self-consistency:n=8", budget=Budget(deadline_s=1.5))
        assert result.stop_reason == "deadline"
        assert result.text
        assert result.seconds < 4
        quick = await engine.solve(QUESTION, strategy="single")
    assert quick.seconds < 20, "the slots were freed"


async def test_checking_beats_one_sample_on_fresh_equations(embedded_url: str) -> None:
    problems = parse_task("linear").problems(8, seed=11)
    right = {1: 0, 32: 0}
    async with Engine(OpenAIModel(embedded_url)) as engine:
        for n in right:
            for problem in problems:
                assert problem.check is not None
                result = await engine.solve(
                    request_for(problem, Params(), 3),
                    strategy=f"first-verified:n={n},batches={n}",
                    verifier=CheckerVerifier(problem.check),
                )
                right[n] += result.stop_reason == "verified"
    assert right[32] > right[1]


def test_one_call_from_synchronous_code(smollm2_path: Path) -> None:
    params = Params(max_tokens=32)
    result = thinkscale.solve(
        "What is 2 + 3?", model=str(smollm2_path), kind="number", strategy="single", params=params
    )
    assert result.text
    assert 0 < result.usage.output_tokens <= 32


async def test_the_blocking_call_refuses_a_running_loop() -> None:
    with pytest.raises(UsageError, match="open_engine"):
        thinkscale.solve("What is 2 + 3?", model="smollm2")


async def test_the_demo_writes_its_report(smollm2_path: Path, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "thinkscale.cli", "demo", "--seconds", "15", "--out", str(tmp_path / "demo"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    assert "first-verified" in out.decode()
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    wanted = {
        "task",
        "strategy",
        "budget",
        "n_problems",
        "accuracy",
        "ci_low",
        "ci_high",
        "total_tokens",
        "seconds",
        "cost_usd",
    }
    assert all(wanted <= row.keys() for row in summary["rows"])
    assert {row["budget"] for row in summary["rows"]} == {1, 4, 16, 64}
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("<svg") >= 1
    by_budget = [
        row["accuracy"] for row in summary["rows"] if row["strategy"] == "first-verified" and row["task"] == "linear"
    ]
    assert by_budget == sorted(by_budget), "a larger budget over the same samples never verifies fewer"


async def test_a_search_over_steps_computes_shared_prefixes_once(embedded_url: str) -> None:
    ask = "Count from 1 to 6, one number a line, each with the word for it."
    events: list[Event] = []
    async with Engine(OpenAIModel(embedded_url)) as engine:
        result = await engine.solve(
            Request(Prompt.of(ask), AnswerKind.NUMBER, Params(max_tokens=64)),
            strategy="rebase:width=8,step=line",
            verifier=Stepwise(Arithmetic()),
            listeners=(events.append,),
        )
        question = await engine.model.count_prompt_tokens(Prompt.of(ask))
    steps = [event for event in events if event["event"] == "step"]
    assert max(len(event["path"]) for event in steps) > 1, "the model's lines are steps"
    assert result.text == "".join(
        next(one["text"] for one in steps if one["path"] == result.candidate.path[:length])
        for length in range(1, len(result.candidate.path) + 1)
    )
    assert result.usage.cached_tokens is not None
    evaluated = result.usage.prompt_tokens - result.usage.cached_tokens
    nodes = question + sum(event["output_tokens"] for event in steps)
    assert evaluated <= 1.3 * nodes
    # The separator that ends a piece is generated, and billed, but shown to nobody.
    shown = sum(event["output_tokens"] for event in steps)
    assert shown <= result.usage.output_tokens <= shown + result.usage.calls
