"""Measuring step verifiers: the figures, the command, the files it reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from thinkscale.accounting import Price
from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.optimize.judging import Judged, Judging, first_wrong, summarize
from thinkscale.tasks.processbench import LabelledSolution, ProcessBench
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import AnswerKind, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.arithmetic import Arithmetic
from thinkscale.verifiers.base import Generate
from thinkscale.verifiers.step_judge import StepJudge
from thinkscale.verifiers.steps import Solution

from test_cli import thinkscale  # isort: skip

REAL = Path("../shared/data/tasks/processbench_gsm8k.json")


def row(name: str, label: int, *steps: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "generator": "someone", "problem": "How many?", "steps": list(steps), "label": label} | more


ROWS = [
    row("found", 1, "3 + 4 = 7.", "7 * 5 = 45.", "So 45."),
    row("missed", 0, "He has 7 cats.", "7 - 2 = 5."),
    row("too-early", 1, "3 + 4 = 8.", "So there are 9.", "9 - 1 = 8."),
    row("late", 0, "He has 7 cats.", "7 - 2 = 4."),
    row("right", -1, "3 + 4 = 7.", "7 * 5 = 35.", "So 35."),
    row("alarm", -1, "3 + 4 = 7.", "8 - 3 = 6."),
]
"""Of four erroneous, one is found; of two correct, one is left alone. 10 of 15 steps can be checked."""


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.json"
    path.write_text(json.dumps(ROWS))
    return path


# -- the figures --------------------------------------------------------------------------------------------------


def judged(
    label: int, predicted: int, *, steps: int = 4, scored: int = 2, tokens: int = 0, error: str | None = None
) -> Judged:
    return Judged(f"{label}/{predicted}", label, predicted, steps, scored, Usage(prompt_tokens=tokens), error=error)


def test_the_figures_are_those_of_the_paper() -> None:
    rows = [judged(2, 2), judged(2, 1), judged(2, 3), judged(0, -1), judged(-1, -1), judged(-1, 0)]
    figures = summarize(rows)
    assert (figures["erroneous"], figures["correct"], figures["failed"]) == (4, 2, 0)
    assert figures["accuracy_error"] == 0.25
    assert figures["accuracy_correct"] == 0.5
    assert figures["f1"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert figures["accuracy_error_ci"] == pytest.approx((0.04559, 0.69936), abs=1e-5)  # Wilson, 1 of 4
    assert figures["accuracy_correct_ci"] == pytest.approx((0.09453, 0.90547), abs=1e-5)  # 1 of 2
    assert figures["false_alarms"] == pytest.approx(2 / 6)  # before the first error, and where there is none
    assert figures["steps_judged"] == 0.5


def test_what_there_is_nothing_of_is_unknown() -> None:
    figures = summarize([judged(1, 1)])
    assert (figures["accuracy_error"], figures["accuracy_correct"], figures["f1"]) == (1.0, None, None)
    assert figures["accuracy_correct_ci"] is None
    assert summarize([judged(1, 0), judged(-1, 0)])["f1"] == 0.0


def test_what_failed_is_paid_for_but_not_judged() -> None:
    figures = summarize(
        [judged(1, 1, tokens=10), judged(1, -1, tokens=30, error="it broke"), judged(-1, -1, tokens=20)]
    )
    assert (figures["solutions"], figures["failed"], figures["error"]) == (3, 1, "it broke")
    assert (figures["accuracy_error"], figures["accuracy_correct"]) == (1.0, 1.0)
    assert (figures["tokens"], figures["tokens_per_solution"]) == (60, 20.0)


def test_a_step_is_wrong_where_it_fails_or_scores_below_the_threshold() -> None:
    verdicts = [Verdict(0.9), Verdict(None), Verdict(0.5), Verdict(0.49), Verdict(0.8, passed=False)]
    assert first_wrong(verdicts, 0.5) == 3
    assert first_wrong(verdicts, 0.4) == 4
    assert first_wrong(verdicts, 0.95) == 0
    assert first_wrong(verdicts[:3], 0.5) == -1
    assert first_wrong([Verdict(0.2, passed=True)], 0.0) == -1


# -- a run --------------------------------------------------------------------------------------------------------


def solution(name: str, label: int, *steps: str) -> LabelledSolution:
    return LabelledSolution(name, f"How many {name}?", steps, label)


async def test_a_judges_calls_are_metered() -> None:
    """Says Yes to every step but those with 9 in them; each call costs its prompt's words and one token."""

    def says(prompt: Prompt, _index: int, _rng: object) -> Reply:
        asked = str(prompt.messages[-1]["content"])
        return Reply("No" if "9" in asked.rpartition("<step>")[2] else "Yes")

    model = ScriptedModel(says)
    solutions = [solution("cats", 1, "It is 7.", " It is 9."), solution("dogs", -1, "It is 8.", " It is 7.")]
    figures = await Judging(StepJudge(), solutions, model=model, price_for=lambda _model: Price(1.0, 2.0)).run()
    assert (figures["accuracy_error"], figures["accuracy_correct"], figures["f1"]) == (1.0, 1.0, 1.0)
    assert model.requests == 4
    assert figures["tokens"] == model.prompt_tokens_served + model.tokens_served > 0
    assert figures["tokens_per_solution"] == figures["tokens"] / 2
    assert figures["cost_usd"] == pytest.approx((model.prompt_tokens_served + 2 * model.tokens_served) / 1e6)


class Breaking:
    """Fails a step with 9 in it, breaks on the problem that it is told of, and notes how many it judges at a time."""

    name = "breaking"

    def __init__(self, *on: str) -> None:
        self.on = on
        self.now = self.most = 0

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if request.id in self.on:
            raise ModelUnavailable("the server went away")
        return [[Verdict(0.0 if "9" in step else 1.0) for step in one.steps] for one in solutions]


async def test_a_failed_solution_does_not_lose_the_others() -> None:
    solutions = [solution(name, 0, "It is 9.") for name in ("a", "b", "c", "d")]
    heard: list[Judged] = []
    verifier = Breaking("b")
    figures = await Judging(verifier, solutions, concurrency=2).run(heard.append)
    assert (figures["solutions"], figures["failed"], figures["erroneous"]) == (4, 1, 3)
    assert figures["accuracy_error"] == 1.0
    assert figures["error"] == "the server went away"
    assert {one.id: one.error for one in heard}["b"] == "the server went away"
    assert verifier.most == 2


async def test_where_all_fail_the_run_does() -> None:
    with pytest.raises(ModelUnavailable, match="went away"):
        await Judging(Breaking("a", "b"), [solution("a", 0, "x"), solution("b", -1, "x")]).run()


async def test_a_verifier_that_asks_a_model_must_have_one() -> None:
    with pytest.raises(UsageError, match="asks a model"):
        await Judging(StepJudge(), [solution("a", 0, "It is 9.")]).run()


async def test_nothing_goes_on_after_an_interruption() -> None:
    model = ScriptedModel({"7": 1.0}, latency_s=30.0)
    running = asyncio.create_task(
        Judging(StepJudge(), [solution("a", 0, "It is 9."), solution("b", 0, "It is 9.")], model=model).run()
    )
    while model.in_flight < 2:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert model.in_flight == 0


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_real_file_is_read() -> None:
    solutions = ProcessBench.parse(f"processbench:{REAL}").solutions()
    assert len(solutions) == 400
    assert sum(one.label < 0 for one in solutions) == 193
    first = solutions[0]
    assert first.steps[1].startswith("\n\nOn Saturday")
    assert "".join(first.steps).startswith("To find out how many")


def test_the_seed_chooses_and_fewer_are_among_more() -> None:
    task = ProcessBench(path=REAL)
    few, more, other = task.solutions(10), task.solutions(40), task.solutions(10, seed=1)
    assert more[:10] == few
    assert few != other
    assert 0 < sum(one.label < 0 for one in more) < 40


MALFORMED = [
    ("nothing", "is not JSON"),
    ("{}", "expected a list of solutions"),
    ("[]", "with at least one in it"),
    ("[3]", "solution 0: expected a JSON object, not 3"),
    (json.dumps([{"id": "a", "problem": "b", "steps": ["c"]}]), "solution 0: there is no field 'label'"),
    (json.dumps([row("a", 0, "x"), row("b", 0)]), "solution 1: steps must be a list of texts"),
    (json.dumps([row("a", 0, "x") | {"steps": "x"}]), "steps must be a list of texts"),
    (json.dumps([row("a", 0, "x") | {"steps": ["x", 3]}]), "steps must be a list of texts"),
    (json.dumps([row("a", 1, "x")]), "label 1 is no step: expected -1 (none is wrong) to 0"),
    (json.dumps([row("a", -2, "x")]), "label -2 is no step"),
    (json.dumps([row("a", 0, "x") | {"label": True}]), "label True is no step"),
    (json.dumps([row("a", 0, "x") | {"problem": 5}]), "id and problem must be texts"),
]


@pytest.mark.parametrize(("text", "told"), MALFORMED)
def test_a_malformed_file_is_refused_where_it_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        ProcessBench(path=path).solutions()
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("gsm8k:file.json", "write processbench:FILE"),
        ("processbench:", "write processbench:FILE"),
        ("processbench:file.json?kind=nonsense", "kind"),
        ("processbench:file.json?colour=red", "colour"),
    ],
)
def test_a_wrong_task_is_refused(spec: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        ProcessBench.parse(spec)
    assert told in str(error.value)


def test_the_kind_of_answer_may_be_told() -> None:
    assert ProcessBench.parse("processbench:a?kind=expression") == ProcessBench(
        path=Path("a"), kind=AnswerKind.EXPRESSION
    )


# -- the command --------------------------------------------------------------------------------------------------


async def test_the_command_gives_the_figures(labelled: Path) -> None:
    done = await thinkscale("judge-steps", "--task", f"processbench:{labelled}", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["solutions"], figures["erroneous"], figures["correct"], figures["failed"]) == (6, 4, 2, 0)
    assert (figures["accuracy_error"], figures["accuracy_correct"]) == (0.25, 0.5)
    assert figures["f1"] == pytest.approx(1 / 3)
    assert figures["false_alarms"] == pytest.approx(2 / 6)
    assert figures["steps_judged"] == pytest.approx(10 / 15)
    assert (figures["tokens"], figures["cost_usd"], figures["model"]) == (0, 0, None)
    shown = await thinkscale("judge-steps", "--task", f"processbench:{labelled}")
    assert shown.returncode == 0
    assert "0.250 [0.05, 0.70]  of 4 erroneous solutions" in shown.stdout
    assert "0.500 [0.09, 0.91]  of 2 correct solutions" in shown.stdout


async def test_the_command_asks_the_model_where_the_verifier_does(labelled: Path) -> None:
    async with StubServer(Reply("Yes")) as server:
        words = ("judge-steps", "--task", f"processbench:{labelled}", "--model", server.base_url, "--json")
        cheap = await thinkscale(*words)
        assert json.loads(cheap.stdout)["model"] is None
        assert server.counters.requests == 0
        done = await thinkscale(*words, "--verifier", "step-judge", "--price", "1/1")
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert figures["model"] == server.base_url
        assert (figures["accuracy_error"], figures["accuracy_correct"]) == (0.0, 1.0)
        assert figures["steps_judged"] == 1.0
        assert figures["tokens"] > 15
        assert figures["cost_usd"] == pytest.approx(figures["tokens"] / 1e6)
        both = await thinkscale(*words, "--verifier", "arithmetic+step-judge")
        assert json.loads(both.stdout)["accuracy_error"] == 0.25


async def test_a_server_that_is_gone_is_told(labelled: Path) -> None:
    done = await thinkscale(
        "judge-steps", "--task", f"processbench:{labelled}", "--model", "http://127.0.0.1:9/v1",
        "--verifier", "step-judge",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1:9" in done.stderr


async def test_the_command_refuses_what_judges_no_steps(labelled: Path) -> None:
    for word, told in [
        ("judge", "judges whole replies"),
        ("arithmetic:aggregate=last", "aggregate"),
        ("arithmetics", "arithmetic"),
    ]:
        done = await thinkscale("judge-steps", "--task", f"processbench:{labelled}", "--verifier", word)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr


# -- the verifier that needs no model, on the real file -----------------------------------------------------------


async def test_arithmetic_finds_errors_and_raises_no_false_alarm() -> None:
    """26 of 207 found, none of 193 disturbed: what `thinkscale judge-steps` gives."""
    figures = await Judging(Arithmetic(), ProcessBench(path=REAL).solutions()).run()
    assert figures["accuracy_error"] >= 0.12
    assert figures["accuracy_correct"] >= 0.99
    assert figures["false_alarms"] <= 0.005
    assert figures["steps_judged"] >= 0.55
    assert figures["tokens"] == 0
