"""Replay: the same strategy code over recorded samples, reproducible, inventing nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks import importing as banks
from thinkscale.banks.parquet import write_bank
from thinkscale.engine import Engine
from thinkscale.errors import MissingSample, UsageError
from thinkscale.models.base import prompt_key
from thinkscale.models.opening import open_model
from thinkscale.models.replay import Recorded, ReplayModel, by_prompt, replay_file
from thinkscale.types import AnswerKind, Params, Prompt, Request, Token

PROMPT = Prompt.of("What is 3 + 4?")
REQUEST = Request(PROMPT, AnswerKind.NUMBER)
SHARED = Path(__file__).parents[2] / "shared" / "data"


def bank(*answers: str, tokens: int = 10) -> dict[str, list[Recorded]]:
    return {prompt_key(PROMPT): [Recorded(f"\\boxed{{{a}}}", prompt_tokens=5, output_tokens=tokens) for a in answers]}


def load(path: Path, prompts: Sequence[Prompt]) -> Sequence[Recorded]:
    """The samples of the first prompt."""
    found = banks.load(path)
    return by_prompt(found, found.model_name(), prompts)[prompt_key(prompts[0])]


async def test_samples_come_in_their_recorded_order_and_are_charged() -> None:
    async with Engine(ReplayModel(bank("8", "7", "7"))) as engine:
        one = await engine.solve(REQUEST, strategy="single")
        three = await engine.solve(REQUEST, strategy="self-consistency:n=3")
    assert (one.answer, one.usage.total_tokens) == ("8", 15)
    assert (three.answer, three.usage.total_tokens, three.usage.calls) == ("7", 45, 3)


@pytest.mark.parametrize(("max_n", "prompt_tokens"), [(1, 40), (4, 10), (16, 5)])
async def test_a_shared_request_is_charged_its_prompt_once(max_n: int, prompt_tokens: int) -> None:
    async with Engine(ReplayModel(bank(*"77777777"), max_n=max_n)) as engine:
        result = await engine.solve(REQUEST, strategy="self-consistency:n=8")
    assert (result.usage.prompt_tokens, result.usage.output_tokens) == (prompt_tokens, 80)


@pytest.mark.parametrize("max_n", [1, 8])
async def test_what_was_not_recorded_is_missing_not_invented(max_n: int) -> None:
    events: list[Mapping[str, Any]] = []
    async with Engine(ReplayModel(bank("8", "7", "7"), max_n=max_n)) as engine:
        result = await engine.solve(REQUEST, strategy="self-consistency:n=5", listeners=(events.append,))
        assert (result.answer, result.samples) == ("7", 3)
        missing = [event for event in events if event["event"] == "failed"]
        assert sum(len(event["paths"]) for event in missing) == 2
        assert "not recorded" in missing[0]["error"]
        with pytest.raises(MissingSample):
            await engine.solve(Request(Prompt.of("Another question")), strategy="single")


async def test_a_sample_beyond_the_cap_comes_back_cut_and_without_words() -> None:
    async with Engine(ReplayModel(bank("7", tokens=100))) as engine:
        request = Request(PROMPT, AnswerKind.NUMBER, Params(max_tokens=20))
        result = await engine.solve(request, strategy="single")
    assert (result.text, result.candidate.finish_reason, result.usage.output_tokens) == ("", "length", 20)


async def test_shuffling_is_a_permutation_that_repeats_by_seed() -> None:
    async def order(shuffle: int) -> list[str]:
        async with Engine(ReplayModel(bank(*map(str, range(16))), shuffle=shuffle)) as engine:
            events: list[Mapping[str, Any]] = []
            await engine.solve(REQUEST, strategy="self-consistency:n=16", listeners=(events.append,))
        return [event["answer"] for event in events if event["event"] == "candidate"]

    assert await order(1) == await order(1) != await order(2)
    assert sorted(await order(2), key=int) == list(map(str, range(16)))


async def test_the_recorded_bank_replays_with_its_token_confidences() -> None:
    path = SHARED / "banks" / "gsm8k_train_qwen2.5-coder-0.5b_16.jsonl"
    samples = load(path, [PROMPT])
    assert len(samples) == 16
    async with Engine(replay_file(path, [PROMPT])) as engine:
        assert engine.model.capabilities.logprobs
        result = await engine.solve(REQUEST, strategy="deepconf:n=16")
    assert result.answer == "72"
    assert result.usage.output_tokens == sum(sample.output_tokens for sample in samples)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{broken", "line 2: not a recorded sample"),
        (json.dumps({"problem": 0}), "'text'"),
        (json.dumps({"text": "x"}), "'problem'"),
        (json.dumps({"problem": 0, "text": "x", "logprob": [-1.0], "top5_mean_logprob": [-1.0, -2.0]}), "line 2"),
    ],
)
def test_a_broken_bank_is_told_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(json.dumps({"problem": 0, "text": "fine"}) + "\n" + line + "\n")
    with pytest.raises(UsageError, match=words):
        replay_file(path, [PROMPT])


def test_a_bank_of_other_problems_or_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(json.dumps({"problem": 7, "text": "fine"}) + "\n")
    with pytest.raises(UsageError, match="no samples of these problems"):
        replay_file(path, [PROMPT])
    with pytest.raises(UsageError, match="cannot read the bank"):
        replay_file(tmp_path / "nowhere.jsonl", [PROMPT])


def test_token_confidence_is_the_negative_mean_of_the_likeliest(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    row = {"problem": 0, "text": "x", "logprob": [-1.0, -2.0], "top5_mean_logprob": [-3.0, -4.0]}
    path.write_text(json.dumps(row) + "\n")
    (sample,) = load(path, [PROMPT])
    assert sample.tokens == (Token("", -1.0, 3.0), Token("", -2.0, 4.0))
    assert sample.output_tokens == 2


def two_models(path: Path, prompt: Prompt | None) -> Path:
    problem = BankProblem("first" if prompt else "0", prompt, AnswerKind.NUMBER)
    samples = [
        BankSample(problem.id, model, number, answer, text=text, prompt_tokens=9, output_tokens=7)
        for model, answers in (("small", "88"), ("large", "77"))
        for number, (answer, text) in enumerate(zip(answers, (f"\\boxed{{{answers[0]}}}", None), strict=True))
    ]
    write_bank(Bank([problem], [BankModel("small", max_n=2), BankModel("large")], samples), path)
    return path


@pytest.mark.parametrize("prompt", [PROMPT, None])
@pytest.mark.parametrize(("model", "answer", "prompt_tokens"), [("small", "8", 9), ("large", "7", 18)])
async def test_a_parquet_bank_replays_each_of_its_models(
    tmp_path: Path, prompt: Prompt | None, model: str, answer: str, prompt_tokens: int
) -> None:
    path = two_models(tmp_path / "bank.parquet", prompt)
    async with open_model(f"bank:{path}#{model}", prompts=[PROMPT]) as opened, Engine(opened) as engine:
        assert opened.name == f"bank:bank.parquet#{model}"
        result = await engine.solve(REQUEST, strategy="self-consistency:n=2")
    assert (result.answer, result.samples, result.confidence) == (answer, 2, 1.0), "one without a text says its answer"
    assert (result.usage.prompt_tokens, result.usage.output_tokens) == (prompt_tokens, 14)


async def test_a_bank_of_several_models_asks_which_is_meant(tmp_path: Path) -> None:
    path = two_models(tmp_path / "bank.parquet", PROMPT)
    with pytest.raises(UsageError, match="say which model is meant: small, large"):
        replay_file(path, [PROMPT])
    with pytest.raises(UsageError, match="the bank has no model huge: small, large"):
        replay_file(path, [PROMPT], "huge")
    with pytest.raises(UsageError, match="no samples of these problems"):
        replay_file(path, [Prompt.of("Another question")], "small")


def test_samples_may_name_their_prompt_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "bank.jsonl"
    path.write_text(json.dumps({"prompt": prompt_key(PROMPT), "text": "fine"}))
    assert [sample.text for sample in load(path, [PROMPT])] == ["fine"]


def test_what_was_published_in_another_form_is_to_be_imported_first() -> None:
    with pytest.raises(UsageError, match="has the form cruxeval: first import it"):
        replay_file(SHARED / "banks" / "cruxeval_output_codellama-7b_t0.2_800x10.json", [PROMPT])
