"""Collecting a bank: resumable, extendable, nothing lost and nothing drawn twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thinkscale.accounting import Price
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.parquet import read_bank, write_bank
from thinkscale.cli import collect as command
from thinkscale.engine import Engine
from thinkscale.errors import ModelError, ModelRefused, ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.opening import Local
from thinkscale.optimize.collect import Collected, Collection, collect, journal_of
from thinkscale.tasks import parse_task
from thinkscale.tasks.base import Problem
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.stub_faults import Status
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Verdict
from thinkscale.verifiers.base import Generate
from thinkscale.verifiers.judge import Judge

PROBLEMS = [
    Problem(f"sum/{n}", Prompt.of(f"What is {n} + 4 ?"), AnswerKind.NUMBER, reference="7" if n % 2 else "8")
    for n in range(4)
]
PARAMS = Params(max_tokens=20, top_logprobs=2)


def scripted(**options: Any) -> ScriptedModel:
    able = options.pop("capabilities", Capabilities(4, logprobs=True))
    return ScriptedModel({"7": 0.5, "8": 0.4, None: 0.1}, capabilities=able, **options)


async def collected(
    path: Path, n: int, model: ScriptedModel, problems: Sequence[Problem] = PROBLEMS, **options: Any
) -> Collected:
    """Collect with a model; what is not about the collection goes to `collect`."""
    told = {name: options.pop(name) for name in ("verifier_for", "interrupt", "heard") if name in options}
    async with Engine(model, price=options.pop("price", None)) as engine:
        work = Collection("sums", problems, n, **{"params": PARAMS, "model": options.pop("name", None)} | options)
        return await collect(work, engine, path, **told)


def content(bank: Bank) -> list[tuple[Any, ...]]:
    """All of a bank's samples that does not hang on the clock."""
    return [
        (one.model, one.problem, one.sample, one.text, one.answer, one.correct, one.output_tokens, tuple(one.logprobs))
        for one in bank
    ]


# -- what is in the bank ---------------------------------------------------------------------------------------------


async def test_a_bank_holds_what_was_said_what_it_cost_and_whether_it_was_right(tmp_path: Path) -> None:
    path, model = tmp_path / "bank", scripted()
    done = await collected(path, 6, model, price=Price(1, 2))
    bank = read_bank(path)
    assert (done.drawn, done.short, done.waiting, done.ended) == (24, {}, 0, None)
    assert len(bank) == 24
    assert sum(one.output_tokens or 0 for one in bank) == model.tokens_served
    for one in bank:
        problem = bank.problems[one.problem]
        assert one.answer in ("7", "8", None)
        assert one.correct == (one.answer == problem.reference)
        assert one.finish_reason == "stop"
        assert one.prompt_tokens == 6, "the prompt's length, which requests for several samples share"
        assert one.output_tokens == len(one.logprobs) == len(one.confidences)
        assert one.seconds is not None
        assert one.seconds >= 0
    assert {one.answer for one in bank} == {"7", "8", None}
    assert [bank.problems[one.id].prompt for one in PROBLEMS] == [one.prompt for one in PROBLEMS]
    known = bank.models["scripted"]
    assert (known.price, known.max_n, known.estimated) == (Price(1, 2), 4, False)
    assert known.params == {"temperature": 0.8, "max_tokens": 20, "top_logprobs": 2, "seed": 0}
    assert bank.task == "sums"
    assert "24 samples of scripted" in bank.history[0]
    assert not journal_of(path).exists()


async def test_nothing_is_claimed_of_problems_that_cannot_be_graded(tmp_path: Path) -> None:
    await collected(tmp_path / "bank", 3, scripted(), [replace(PROBLEMS[0], reference=None)])
    assert {one.correct for one in read_bank(tmp_path / "bank")} == {None}


async def test_a_check_grades_too(tmp_path: Path) -> None:
    problem = replace(PROBLEMS[0], reference=None, check=lambda answer: answer == "8")
    await collected(tmp_path / "bank", 8, scripted(), [problem])
    bank = read_bank(tmp_path / "bank")
    assert [one.correct for one in bank] == [one.answer == "8" for one in bank]
    assert {one.correct for one in bank} == {True, False}


class Billed(ScriptedModel):
    """Bills the token that ends a reply, which nobody sees."""

    async def generate(self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0) -> Any:
        ended = 0
        async for chunk in super().generate(prompt, params, n=n, first=first):
            ended += chunk.finish_reason == "stop"
            bill = chunk.usage and replace(chunk.usage, output_tokens=chunk.usage.output_tokens + ended)
            yield replace(chunk, usage=bill)


@pytest.mark.parametrize("together", [1, 4])
async def test_tokens_that_are_billed_but_not_seen_count_where_replies_ended(together: int, tmp_path: Path) -> None:
    """The journal has what a request was billed for on one of its samples; a capped one has no end to pay for."""

    def script(_prompt: Prompt, index: int, _rng: Any) -> Reply:
        return Reply("word " * (5 + 9 * index) + "\\boxed{7}")

    model = Billed(script, capabilities=Capabilities(together))
    done = await collected(tmp_path / "bank", 4, model, PROBLEMS[:1])
    assert [one.output_tokens for one in done.bank] == [7, 16, 20, 20]
    assert done.usage.output_tokens == 7 + 16 + 20 + 20


async def test_without_log_probabilities_none_are_recorded(tmp_path: Path) -> None:
    await collected(tmp_path / "bank", 2, scripted(), params=replace(PARAMS, top_logprobs=None))
    assert all(not one.logprobs and not one.confidences for one in read_bank(tmp_path / "bank"))


# -- extending -------------------------------------------------------------------------------------------------------


async def test_more_samples_and_problems_extend_a_bank_to_what_it_would_be_at_once(tmp_path: Path) -> None:
    whole, grown, model = tmp_path / "whole", tmp_path / "grown", scripted()
    await collected(whole, 9, scripted())
    await collected(grown, 3, model, PROBLEMS[:2])
    assert model.calls == 6
    await collected(grown, 9, model, PROBLEMS[:2])
    assert model.calls == 18, "only what the bank lacks is drawn"
    last = await collected(grown, 9, model)
    assert (last.drawn, model.calls) == (18, 36)
    assert content(read_bank(grown)) == content(read_bank(whole))
    again = await collected(grown, 9, model)
    assert (again.drawn, model.calls, len(again.bank.history)) == (0, 36, 3)
    fewer = await collected(grown, 2, model)
    assert (fewer.short, len(fewer.bank)) == ({}, 36)


async def test_models_share_a_bank_and_their_answers_compare(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    await collected(path, 3, ScriptedModel({"7": 1.0}, name="small"))
    await collected(path, 2, ScriptedModel({"7.0": 1.0}, name="large"))
    await collected(path, 2, ScriptedModel({"007": 1.0}, name="large"), name="larger")
    bank = read_bank(path)
    assert list(bank.models) == ["small", "large", "larger"]
    assert [len(bank.samples(model, "sum/0")) for model in bank.models] == [3, 2, 2]
    assert {one.answer for one in bank} == {"7"}, "equal answers are equal strings, whoever gave them"


async def test_an_imported_bank_is_extended_and_gets_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    samples = [BankSample("sum/1", "scripted", place, "7", None, "It is 7", output_tokens=3) for place in range(2)]
    write_bank(Bank([BankProblem("sum/1", kind=AnswerKind.NUMBER)], [BankModel("scripted")], samples), path)
    model = scripted()
    done = await collected(path, 4, model)
    bank = read_bank(path)
    assert (done.drawn, model.calls) == (14, 14)
    assert [one.correct for one in bank.samples("scripted", "sum/1")][:2] == [True, True]
    assert bank.samples("scripted", "sum/1")[1].text == "It is 7"
    assert bank.problems["sum/1"] == BankProblem("sum/1", PROBLEMS[1].prompt, AnswerKind.NUMBER, "7")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"params": replace(PARAMS, temperature=0.2)}, "temperature was 0.8, is 0.2"),
        ({"params": replace(PARAMS, max_tokens=99)}, "max_tokens was 20, is 99"),
        ({"params": replace(PARAMS, top_logprobs=None)}, "top_logprobs was 2, is None"),
        ({"seed": 5}, "seed was 0, is 5"),
        (
            {"problems": [replace(PROBLEMS[0], prompt=Prompt.of("What is 9 + 9 ?"))]},
            "another problem by the name of sum/0",
        ),
        ({"problems": [replace(PROBLEMS[0], kind=AnswerKind.TEXT)]}, "another problem by the name of sum/0"),
    ],
)
async def test_what_does_not_belong_together_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path, model = tmp_path / "bank", scripted()
    await collected(path, 2, model)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=said):
        await collected(path, 4, model, **changed)
    assert model.calls == 8
    assert path.read_bytes() == before
    assert not journal_of(path).exists()


async def test_other_parameters_are_fine_under_another_name(tmp_path: Path) -> None:
    await collected(tmp_path / "bank", 2, scripted())
    cool = replace(PARAMS, temperature=0.2)
    await collected(tmp_path / "bank", 2, scripted(), params=cool, name="scripted-cool")
    assert read_bank(tmp_path / "bank").models["scripted-cool"].params["temperature"] == 0.2


# -- what goes wrong -------------------------------------------------------------------------------------------------


async def test_samples_behind_a_failed_one_wait_for_it(tmp_path: Path) -> None:
    """They are not renumbered: the seeds of later numbers would be drawn twice."""
    path, whole = tmp_path / "bank", tmp_path / "whole"
    await collected(whole, 8, scripted(), PROBLEMS[:1])
    alone = Capabilities(1, logprobs=True)
    broken = scripted(capabilities=alone, failures={3: ModelRefused("the filter said no", status=400)})
    done = await collected(path, 8, broken, PROBLEMS[:1])
    assert (done.drawn, done.waiting, done.short) == (3, 4, {"sum/0": "the filter said no"})
    assert content(read_bank(path)) == content(read_bank(whole))[:3]
    healed = scripted(capabilities=alone)
    done = await collected(path, 8, healed, PROBLEMS[:1])
    assert (healed.calls, done.drawn, done.waiting, done.short) == (1, 5, 0, {})
    assert content(read_bank(path)) == content(read_bank(whole))
    assert not journal_of(path).exists()


async def test_a_refused_problem_does_not_stop_the_others(tmp_path: Path) -> None:
    def script(prompt: Prompt, _index: int, _rng: Any) -> Reply | Exception:
        too_long = prompt == PROBLEMS[1].prompt
        return ModelRefused("the prompt is too long", status=400) if too_long else Reply("\\boxed{7}")

    done = await collected(tmp_path / "bank", 2, ScriptedModel(script))
    assert done.short == {"sum/1": "the prompt is too long"}
    assert list(read_bank(tmp_path / "bank").problems) == ["sum/0", "sum/2", "sum/3"]


async def test_an_error_that_ends_the_run_is_told_when_what_there_is_is_sealed(tmp_path: Path) -> None:
    def script(prompt: Prompt, _index: int, _rng: Any) -> Reply | Exception:
        return ModelUnavailable("the server is gone") if prompt == PROBLEMS[2].prompt else Reply("\\boxed{7}")

    with pytest.raises(ModelUnavailable, match="the server is gone"):
        await collected(tmp_path / "bank", 2, ScriptedModel(script))
    assert len(read_bank(tmp_path / "bank")) == 4
    done = await collected(tmp_path / "bank", 2, ScriptedModel({"7": 1.0}))
    assert (done.drawn, len(done.bank)) == (4, 8)


async def test_where_nothing_was_drawn_nothing_is_left(tmp_path: Path) -> None:
    def script(*_asked: Any) -> Exception:
        return ModelUnavailable("the server is gone")

    with pytest.raises(ModelUnavailable):
        await collected(tmp_path / "bank", 2, ScriptedModel(script))
    with pytest.raises(UsageError, match="price"):
        await collected(tmp_path / "bank", 2, scripted(), budget=Budget(max_cost_usd=1))
    assert names_in(tmp_path) == []


async def test_the_budget_bounds_all_of_it_and_shortens_no_sample(tmp_path: Path) -> None:
    path, whole = tmp_path / "bank", tmp_path / "whole"
    await collected(whole, 6, scripted(capabilities=Capabilities(1)))
    model = scripted(capabilities=Capabilities(1))
    # A sample takes 6 + 10 tokens and must have room for 6 + 20: in the end 25 are left, too few.
    done = await collected(path, 6, model, budget=Budget(max_total_tokens=9 * 16 + 25))
    assert done.usage.total_tokens == 9 * 16
    assert (done.drawn, model.calls) == (9, 9)
    full = "the budget has no room for another sample"
    assert done.short == {"sum/1": full, "sum/2": full, "sum/3": full}
    assert content(read_bank(path)) == content(read_bank(whole))[:9]
    await collected(path, 6, model)
    assert content(read_bank(path)) == content(read_bank(whole))
    assert model.calls == 24


async def test_a_context_that_is_too_small_for_the_longest_reply_is_no_budget(tmp_path: Path) -> None:
    able = Capabilities(1, context=17)
    done = await collected(tmp_path / "bank", 3, scripted(capabilities=able), PROBLEMS[:1])
    assert (done.drawn, done.short) == (3, {})


async def test_an_interruption_seals_what_is_there(tmp_path: Path) -> None:
    path, whole, interrupt = tmp_path / "bank", tmp_path / "whole", asyncio.Event()
    await collected(whole, 6, scripted(capabilities=Capabilities(1)))
    seen = 0

    def heard(event: Any) -> None:
        nonlocal seen
        seen += event["event"] == "candidate"
        if seen == 9:
            interrupt.set()

    slow = scripted(capabilities=Capabilities(1), token_s=0.001)
    done = await collected(path, 6, slow, heard=heard, interrupt=interrupt)
    assert done.ended == "interrupted"
    assert 0 < done.drawn + done.waiting < 24
    assert slow.in_flight == 0
    rest = scripted(capabilities=Capabilities(1))
    done = await collected(path, 6, rest)
    assert (done.ended, done.short) == (None, {})
    assert content(read_bank(path)) == content(read_bank(whole))


async def test_the_budgets_seconds_end_it_too(tmp_path: Path) -> None:
    slow = scripted(latency_s=0.08)
    done = await collected(tmp_path / "bank", 4, slow, budget=Budget(deadline_s=0.2))
    assert done.ended == "deadline"
    assert 4 <= done.drawn < 16
    assert len(read_bank(tmp_path / "bank")) == done.drawn


async def test_the_journal_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    path, alone = tmp_path / "bank", Capabilities(1)
    broken = scripted(capabilities=alone, failures={0: ModelRefused("no", status=400)})
    await collected(path, 3, broken, PROBLEMS[:1])
    assert waiting_in(path) == 2
    with sqlite3.connect(journal_of(path) / "drawing.db") as db:
        units = db.execute("SELECT DISTINCT unit FROM samples").fetchall()
    assert units == [("scripted|sum/0",)]
    with pytest.raises(UsageError, match="seed was 0, is 5"):
        await collected(path, 3, scripted(capabilities=alone), PROBLEMS[:1], seed=5)
    assert waiting_in(path) == 2


async def test_a_models_unfinished_samples_outlive_another_models_collection(tmp_path: Path) -> None:
    path, alone = tmp_path / "bank", Capabilities(1)
    broken = scripted(capabilities=alone, failures={0: ModelRefused("no", status=400)})
    await collected(path, 3, broken, PROBLEMS[:1])
    await collected(path, 3, scripted(name="other"))
    assert waiting_in(path) == 2
    healed = scripted(capabilities=alone)
    await collected(path, 3, healed, PROBLEMS[:1])
    assert healed.calls == 1
    assert not journal_of(path).exists()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def waiting_in(path: Path) -> int:
    with sqlite3.connect(journal_of(path) / "drawing.db") as db:
        return int(db.execute("SELECT count(*) FROM samples").fetchone()[0])


async def test_a_file_that_is_no_bank_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a bank")
    with pytest.raises(UsageError, match="not a bank"):
        await collected(path, 2, scripted())
    assert path.read_text() == "not a bank"
    assert names_in(tmp_path) == [path.name]


# -- verifiers -------------------------------------------------------------------------------------------------------


class Sevens:
    """Likes sevens, cannot judge replies without an answer, and counts what it is asked."""

    name = "sevens"

    def __init__(self, error: ModelError | None = None) -> None:
        self.asked = 0
        self._error = error

    async def verify(self, _request: Request, candidates: Sequence[Candidate], _generate: Generate) -> list[Verdict]:
        self.asked += len(candidates)
        if self._error is not None:
            raise self._error
        return [
            Verdict(None) if one.answer is None else Verdict(float(one.answer == "7"), steps=(0.5, None))
            for one in candidates
        ]


async def test_scores_are_recorded_and_what_lacks_them_is_scored_later(tmp_path: Path) -> None:
    path, model, sevens = tmp_path / "bank", scripted(), Sevens()
    await collected(path, 3, model)
    done = await collected(path, 5, model, verifier="sevens", verifier_for=lambda _problem: sevens)
    assert (done.drawn, done.scored, done.unscored, sevens.asked, model.calls) == (8, 20, 0, 20, 20)
    bank = read_bank(path)
    assert {(one.answer, one.scores["sevens"]) for one in bank} == {("7", 1.0), ("8", 0.0), (None, None)}
    assert {one.steps.get("sevens") for one in bank if one.answer} == {(0.5, None)}
    assert "scored 20 by sevens" in bank.history[-1]
    await collected(path, 5, model, verifier="sevens", verifier_for=lambda _problem: sevens)
    assert sevens.asked == 20, "what the verifier could not judge is not asked again"


async def test_a_judge_is_charged_and_its_budget_leaves_samples_unscored_not_unknown(tmp_path: Path) -> None:
    path, model = tmp_path / "bank", scripted(capabilities=Capabilities(4))
    await collected(path, 2, model)
    judge = Judge()
    poor = await collected(
        path, 2, model, verifier="judge", verifier_for=lambda _problem: judge, budget=Budget(max_calls=3)
    )
    assert (poor.usage.calls, poor.unscored_why) == (3, "the budget is spent")
    assert poor.scored + poor.unscored == 8
    done = await collected(path, 2, model, verifier="judge", verifier_for=lambda _problem: judge)
    assert (done.unscored, done.unscored_why) == (0, None)
    assert {"judge"} == {word for one in read_bank(path) for word in one.scores}
    assert model.calls == 8 + 8, "what was judged before the budget ended is not asked again"
    assert not journal_of(path).exists()


async def test_a_verifier_that_fails_leaves_the_samples_as_they_are(tmp_path: Path) -> None:
    broken = Sevens(ModelUnavailable("the judge is gone"))
    done = await collected(tmp_path / "bank", 2, scripted(), verifier="sevens", verifier_for=lambda _problem: broken)
    assert (done.drawn, done.scored, done.unscored) == (8, 0, 8)
    assert done.unscored_why == "the judge is gone"
    assert {len(one.scores) for one in read_bank(tmp_path / "bank")} == {0}


# -- the command -----------------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-m", "thinkscale.cli", "collect"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")} | {"COLUMNS": "160"}
ANSWERS: dict[str | None, float] = {"7": 0.6, "8": 0.4}


@pytest.fixture
def task(tmp_path: Path) -> str:
    folder = tmp_path / "task"
    folder.mkdir()
    rows = [{"question": f"What is {n} + 4?", "answer": "7" if n % 2 else "8"} for n in range(6)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder / 'problems.jsonl'}?kind=number"


async def started(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *COMMAND, *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


async def run(*words: str) -> tuple[int | None, str, str]:
    process = await started(*words)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


def words(task: str, url: str, out: Path, *more: str) -> list[str]:
    return ["--task", task, "--model", url, "--out", str(out), "-n", "8", "--limit", "6", *more]


async def until(drawn: int, server: StubServer) -> None:
    async with asyncio.timeout(30):
        while server.counters.calls < drawn:
            await asyncio.sleep(0.005)


async def idle(server: StubServer) -> None:
    async with asyncio.timeout(10):
        while server.counters.in_flight:
            await asyncio.sleep(0.01)


async def test_the_command_survives_kill_9(task: str, tmp_path: Path) -> None:
    """Killed in the middle: no finished sample is lost or drawn again, and the bank is what it would have been."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    async with StubServer(ANSWERS, tokens=12, n="refuse") as server, Engine(OpenAIModel(server.base_url)) as engine:
        problems = parse_task(task).problems(6)
        await collect(Collection(task, problems, 8, Params(top_logprobs=5), concurrency=6), engine, whole)
        url, port = server.base_url, server.port
    async with StubServer(ANSWERS, tokens=12, n="refuse", token_s=0.01, port=port) as server:
        process = await started(*words(task, url, killed))
        await until(20, server)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        await idle(server)
        kept, before = waiting_in(killed), server.counters.calls
        assert 8 <= kept < 48
        assert not killed.exists()
        status, out, err = await run(*words(task, url, killed, "--concurrency", "6"))
        assert status == 0, err
        assert server.counters.calls - before == 48 - kept
    assert content(read_bank(killed)) == content(read_bank(whole))
    assert "48 samples drawn" in err
    assert "majority@n" in out
    assert not journal_of(killed).exists()


async def test_ctrl_c_seals_and_says_how_to_go_on(task: str, tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    async with StubServer(ANSWERS, tokens=12, n="refuse", token_s=0.02) as server:
        process = await started(*words(task, server.base_url, bank))
        await until(20, server)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 130
        assert "interrupted" in err.decode()
        assert "the same command goes on from here" in err.decode()
        assert "stub" in out.decode()
        assert 8 <= len(read_bank(bank)) < 48
        await idle(server)


async def test_a_key_that_is_refused_midway_ends_the_command_and_loses_nothing(task: str, tmp_path: Path) -> None:
    def refused(number: int, _body: Any) -> Status | None:
        return Status(401) if number >= 20 else None

    async with StubServer(ANSWERS, n="refuse", faults=refused) as server:
        status, _, err = await run(*words(task, server.base_url, tmp_path / "bank"))
    assert status == 1
    assert "Traceback" not in err
    assert "what was drawn is kept: the same command goes on from there" in err
    assert len(read_bank(tmp_path / "bank")) >= 16


async def test_too_few_samples_are_told_and_fail_the_command(task: str, tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    async with StubServer(ANSWERS) as server:
        status, out, err = await run(*words(task, server.base_url, bank, "--budget", "calls=20", "--json"))
        assert status == 1
        told = json.loads(out)
        assert (told["drawn"], told["usage"]["calls"], len(told["short"])) == (20, 20, 4)
        assert told["holds"]["samples"] == 20
        assert "too few samples of 4 problems: the budget has no room" in err
        status, _, err = await run(*words(task, server.base_url, bank, "--verifier", "judge"))
        assert status == 0, err
        assert "judge could judge none of the samples" in err, "its replies were no verdicts"
        assert server.counters.calls == 48 + 48
    assert {tuple(one.scores) for one in read_bank(bank)} == {("judge",)}


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"verifier": "checker"}, UsageError, "cannot be checked"),
        ({"verifier": "confidence", "logprobs": False}, UsageError, "leave --no-logprobs out"),
        ({"price": "cheap"}, UsageError, "IN/OUT"),
        ({}, ModelUnavailable, "is the server running there"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(
    changed: dict[str, Any], error: type[Exception], said: str, task: str, tmp_path: Path
) -> None:
    options = command.Options(
        task, tmp_path / "bank", "http://127.0.0.1:9/v1", samples=8, name=None, limit=6, seed=0, budget=None,
        verifier=None, temperature=0.8, max_tokens=64, logprobs=True, concurrency=1, price=None, local=Local(),
        json=False,
    )  # fmt: skip
    with pytest.raises(error, match=said):
        command.run(replace(options, **changed))
    assert names_in(tmp_path) == ["task"]
