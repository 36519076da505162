"""`thinkscale policy`: fitted on a bank, judged on what was kept aside, put into service and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.parquet import write_bank
from thinkscale.cli.app import app
from thinkscale.errors import UsageError
from thinkscale.optimize.comparing import compared, split
from thinkscale.policies.artifact import KINDS, Artifact
from thinkscale.types import AnswerKind, Prompt


def made(problems: int = 80, samples: int = 12, seed: int = 1, name: str = "p") -> Bank:
    """Half of the problems are easy, half are guesses among many: there, votes are wasted."""
    random = Random(seed)
    rows = []
    for problem in range(problems):
        chance = 0.9 if problem % 2 else 0.1
        for sample in range(samples):
            right = random.random() < chance
            answer = "1" if right else str(random.randrange(2, 9))
            rows.append(
                BankSample(
                    f"{name}{problem}", "small", sample, answer, right, answer, prompt_tokens=20, output_tokens=100
                )
            )
    known = [BankProblem(f"{name}{i}", Prompt.of(f"What is {i}?"), AnswerKind.NUMBER, "1") for i in range(problems)]
    return Bank(known, [BankModel("small", max_n=4)], rows, task="made")


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THINKSCALE_DATABASE", f"sqlite:///{tmp_path}/gateway.db")
    path = tmp_path / "made.bank"
    write_bank(made(), path)
    return path


def run(*words: str | Path) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--json")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*words: str | Path) -> str:
    with pytest.raises(UsageError) as refusal:
        CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return str(refusal.value)


FITS = {
    "stopping": ["--tokens", "400"],
    "plans": ["--tokens", "400"],
    "risk": ["--error-rate", "0.3"],
    "allocation": ["--tokens", "400"],
    "bandit": ["--strategy", "single", "--strategy", "self-consistency:n=4"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_fitted_judged_and_read_again(kind: str, bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    told = run("policy", "fit", bank, "--out", out, "--kind", kind, *FITS[kind])
    artifact = Artifact.load(out)
    assert (artifact.kind, artifact.model) == (kind, "small")
    assert Artifact.parse(artifact.text()).text() == artifact.text()
    held_out = artifact.provenance["held_out"]
    assert len(held_out) == 24
    assert artifact.provenance["problems"] == 56
    assert told["on_held_out"]["problems"] == 24
    judged = run("policy", "evaluate", out, "--bank", bank, "--against", "self-consistency:n=12")
    assert judged["problems"] == 24, "only what it was not fitted on counts"
    assert judged["against_tokens"] == pytest.approx(3 * 20 + 12 * 100)


def test_a_better_policy_is_promoted_and_a_worse_one_is_not(bank: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    run("policy", "fit", bank, "--out", good, "--worth", "3000")
    run("policy", "fit", bank, "--out", bad, "--worth", "10000000")
    assert "not promoted" in refused("policy", "promote", bad, "--bank", bank, "--worth", "3000")
    assert run("policy", "list") == {"policies": []}
    promoted = run("policy", "promote", good, "--bank", bank)
    assert (promoted["model"], promoted["version"], promoted["evidence"]["better"]) == ("small", 1, True)
    assert "not promoted" in refused("policy", "promote", good, "--bank", bank), "it is no better than itself"
    assert run("policy", "promote", bad, "--force", "--model", "small")["version"] == 2
    states = [(one["version"], one["state"]) for one in run("policy", "list")["policies"]]
    assert states == [(2, "in service"), (1, "before")]
    assert run("policy", "rollback", "small") == {"model": "small", "withdrawn": 2, "in_service": 1}
    assert run("policy", "rollback", "small")["in_service"] is None
    assert "no policy is in service for small" in refused("policy", "rollback", "small")


def test_solve_and_bench_follow_a_policy(bank: Path, tmp_path: Path) -> None:
    policy, tasks = tmp_path / "policy.json", tmp_path / "problems.jsonl"
    run("policy", "fit", bank, "--out", policy, "--worth", "3000")
    lines = [json.dumps({"question": f"What is {i}?", "answer": "1", "id": f"p{i}"}) for i in range(6)]
    tasks.write_text("\n".join(lines))
    task = f"jsonl:{tasks}?kind=number&instruction=&id=id"
    words = ["bench", "--task", task, "--model", f"bank:{bank}", "--strategy", "self-consistency:n=12", "--limit", "6"]
    words += ["--strategy", "auto", "--out", str(tmp_path / "run")]
    vote, auto = run(*words, "--policy", policy)["rows"]
    assert auto["total_tokens"] < vote["total_tokens"] / 2
    assert "holds another run" in refused(*words), "without the policy it would be another run"
    assert "add --strategy auto" in refused("bench", "--task", task, "--out", tmp_path / "x", "--policy", policy)
    assert "cannot read the policy" in refused(*words, "--policy", tmp_path / "none.json")


def test_what_cannot_be_told_is_said(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    run("policy", "fit", bank, "--out", out, "--holdout", "0")
    assert "all of it" in refused("policy", "evaluate", out, "--bank", bank)
    other = tmp_path / "other.bank"
    write_bank(made(problems=3, seed=2, name="q"), other)
    few = Artifact.load(out)
    assert compared(few, "single", made(problems=3, name="q"), price=0.0).better is None


def test_a_record_without_chance_judges_no_bandit(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "bandit.json"
    run("policy", "fit", bank, "--out", out, "--kind", "bandit", *FITS["bandit"])
    judged = run("policy", "evaluate", out)
    assert judged["better"] is None
    assert "0 decisions" in judged["words"]
    run("policy", "fit", bank, "--out", out, "--tokens", "400")
    assert "judge it on a bank" in refused("policy", "evaluate", out)


def test_wrong_words(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    assert "unknown kind 'magic'" in refused("policy", "fit", bank, "--out", out, "--kind", "magic")
    assert "one of --worth, --tokens and --accuracy" in refused(
        "policy", "fit", bank, "--out", out, "--worth", "9", "--tokens", "9"
    )
    assert "does not exist" in refused("policy", "fit", bank, "--out", tmp_path / "no" / "policy.json")
    assert "give --tokens" in refused("policy", "fit", bank, "--out", out, "--kind", "plans")
    assert "has no model large" in refused("policy", "fit", bank, "--out", out, "--larger", "large")
    assert "from 0 to below 1" in refused("policy", "fit", bank, "--out", out, "--holdout", "1")
    assert not out.exists()
    out.write_text('{"format": "thinkscale-policy", "version": 9}')
    assert "has format 9" in refused("policy", "promote", out, "--force")


def test_problems_are_kept_aside_by_chance_and_for_good() -> None:
    names = [f"p{i}" for i in range(100)]
    fitted_on, aside = split(names, 0.3, seed=0)
    assert (len(fitted_on), len(aside)) == (70, 30)
    assert sorted(fitted_on + aside) == sorted(names)
    assert split(names, 0.3, seed=0) == (fitted_on, aside)
    assert split(names, 0.3, seed=1) != (fitted_on, aside)
    assert split(names, 0.0, seed=0) == (names, [])
