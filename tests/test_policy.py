"""`thinkscale policy`: fitted on a bank, judged on what was kept aside, put into service and taken back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from thinkscale.accounting import Price
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.parquet import read_bank, write_bank
from thinkscale.cli.app import app
from thinkscale.errors import UsageError
from thinkscale.optimize.comparing import compared, split, unseen
from thinkscale.optimize.promising import held
from thinkscale.policies.artifact import KINDS, Artifact
from thinkscale.policies.bandit import BanditPolicy, Logged
from thinkscale.policies.risk import RiskPolicy
from thinkscale.policies.stopping import StoppingPolicy
from thinkscale.store.database import Database
from thinkscale.store.policies import PolicyStore
from thinkscale.store.records import Records, RequestRecord
from thinkscale.types import AnswerKind, Prompt, Request


def made(
    problems: int = 80,
    samples: int = 12,
    seed: int = 1,
    name: str = "p",
    *,
    large: bool = False,
    prices: bool = False,
    judge: str | None = None,
    words: str = "What is",
    task: str = "made",
) -> Bank:
    """Half of the problems are easy, half are guesses among many: there, votes are wasted. `large` is a model that is
    always right, `judge` a verifier that is.
    """
    random = Random(seed)
    rows = []
    for problem in range(problems):
        chance = 0.9 if problem % 2 else 0.1
        for sample in range(samples):
            right = random.random() < chance
            answer = "1" if right else str(random.randrange(2, 9))
            rows.append(
                BankSample(
                    f"{name}{problem}", "small", sample, answer, right, answer, prompt_tokens=20, output_tokens=100,
                    scores={judge: float(right)} if judge else {},
                )
            )  # fmt: skip
        if large:
            rows += [
                BankSample(f"{name}{problem}", "large", i, "1", True, "1", prompt_tokens=20, output_tokens=100)
                for i in range(2)
            ]
    kind = AnswerKind.NUMBER
    known = [BankProblem(f"{name}{i}", Prompt.of(f"{words} {i}?"), kind, "1") for i in range(problems)]
    models = [BankModel("small", Price(1.0, 1.0) if prices else None, max_n=4)]
    models += [BankModel("large", Price(5.0, 5.0) if prices else None)] if large else []
    return Bank(known, models, rows, task=task)


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
    fitted_on = artifact.provenance["fitted_on"]
    assert len(fitted_on) == len(artifact.provenance["fitted_on_prompts"]) == artifact.provenance["problems"] == 56
    assert out.read_text().count("\n") < 700, "long lists are written on few lines"
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
    assert "all of them" in refused("policy", "evaluate", out, "--bank", bank)
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


def test_a_renamed_model_is_judged_by_its_own_samples_beside_what_serves_its_name(bank: Path, tmp_path: Path) -> None:
    good, other = tmp_path / "good.json", tmp_path / "other.json"
    run("policy", "fit", bank, "--out", good, "--worth", "3000")
    run("policy", "fit", bank, "--out", other, "--kind", "plans", "--tokens", "400")
    assert run("policy", "promote", good, "--bank", bank, "--model", "mine")["model"] == "mine"
    said = refused("policy", "promote", good, "--bank", bank, "--model", "mine")
    assert "the policy in service (stopping)" in said
    assert run("policy", "promote", good, "--bank", bank)["version"] == 1, "nothing serves the fitted model's own name"
    judged = run("policy", "evaluate", other, "--bank", bank, "--model", "mine")
    assert judged["against"] == "the policy in service (stopping)"
    run("policy", "rollback", "mine")
    assert run("policy", "evaluate", other, "--bank", bank, "--model", "mine")["against"] == "adaptive-consistency:n=12"


CHEAP, DEAR = "single", "self-consistency:n=4"


async def recorded(decisions: int, *, right: str, at: float) -> None:
    """Decisions drawn evenly between two strategies; one is always right, the other never."""
    async with Database(os.environ["THINKSCALE_DATABASE"]) as database, Records(database, clock=lambda: at) as records:
        taken = {f"{at}/{place}": (CHEAP, DEAR)[place % 2] for place in range(decisions)}
        for name, strategy in taken.items():
            records.add(
                RequestRecord(
                    name, at, "key", "small", "auto", strategy, probability=0.5, context={}, output_tokens=100
                )
            )  # fmt: skip
        for name, strategy in taken.items():
            await records.feedback(name, correct=strategy == right, key="key")


async def promoted(policy: BanditPolicy | StoppingPolicy, kind: str, at: float) -> None:
    async with Database(os.environ["THINKSCALE_DATABASE"]) as database:
        text = Artifact(kind, "small", policy, {}).text()
        await PolicyStore(database, clock=lambda: at).promote("small", kind, text, {})


def cold(*, price: float = 0.0) -> BanditPolicy:
    return BanditPolicy.cold({CHEAP: 1.0, DEAR: 4.0}, price=price, features=())


def test_a_bandit_in_service_is_judged_with_what_it_has_learned(bank: Path, tmp_path: Path) -> None:
    file = tmp_path / "bandit.json"
    old = [Logged({}, name, 0.5, float(name == CHEAP), 100.0) for name in (CHEAP, DEAR)] * 100
    file.write_text(Artifact("bandit", "small", cold().learned(old), {}).text())
    asyncio.run(promoted(cold(), "bandit", 1000.0))
    asyncio.run(recorded(220, right=DEAR, at=2000.0))
    judged = run("policy", "evaluate", file)
    assert judged["better"] is False, "what serves came to know that the other strategy is right now"
    assert judged["current"]["estimate"]["mean"] > 0.9
    easy = tmp_path / "easy.bank"
    write_bank(made(problems=10), easy)
    assert run("policy", "evaluate", file, "--bank", easy)["against_tokens"] > 400, (
        "on a bank too it takes the dear one"
    )


def test_what_took_no_decisions_at_random_is_not_judged_by_them(bank: Path, tmp_path: Path) -> None:
    file, stopping = tmp_path / "bandit.json", tmp_path / "stopping.json"
    file.write_text(Artifact("bandit", "small", cold(), {}).text())
    run("policy", "fit", bank, "--out", stopping, "--worth", "3000")
    asyncio.run(recorded(220, right=DEAR, at=2000.0))
    untried = run("policy", "evaluate", file)
    assert untried["better"] is None
    assert "adaptive-consistency:n=16" in untried["words"], "which is what auto does by itself"
    run("policy", "promote", stopping, "--force")
    judged = run("policy", "evaluate", file)
    assert judged["better"] is None
    assert "would have done is not on record" in judged["words"]
    assert run("policy", "evaluate", file, "--against", CHEAP)["better"] is True
    assert "not on record" in refused("policy", "promote", file)


def test_what_was_fitted_on_is_known_again_in_any_bank(bank: Path, tmp_path: Path) -> None:
    policy, longer, reworded = tmp_path / "policy.json", tmp_path / "longer.bank", tmp_path / "reworded.bank"
    run("policy", "fit", bank, "--out", policy, "--worth", "3000")
    write_bank(made(problems=100, seed=5, name="q", task="another"), longer)
    assert run("policy", "evaluate", policy, "--bank", longer)["problems"] == 44, "by the words, whatever the ids"
    write_bank(made(problems=100, seed=5, words="How much is", task="another"), reworded)
    assert run("policy", "evaluate", policy, "--bank", reworded)["problems"] == 100, "ids are alike by chance"
    wordless = made(problems=100, seed=5)
    for problem in wordless.problems.values():
        wordless.problems[problem.id] = replace(problem, prompt=None)
    assert len(unseen(Artifact.load(policy), wordless)) == 44, "without words the ids tell"


def test_a_bandit_is_judged_by_what_is_expected_of_it() -> None:
    bank = made(problems=10)
    artifact = Artifact("bandit", "small", cold(), {})
    judged = compared(artifact, "single", bank, price=0.0)
    assert compared(artifact, "single", bank, price=0.0) == judged
    chances = cold().chances({})
    each = {name: compared(artifact, name, bank, price=0.0) for name in chances}
    mean = sum(chances[name] * each[name].rival_accuracy.mean for name in chances)
    assert judged.accuracy.mean == pytest.approx(mean)
    assert judged.tokens == pytest.approx(chances[CHEAP] * 120 + chances[DEAR] * 420)


def test_nobody_is_judged_on_samples_that_are_not_there(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    told = run("policy", "fit", bank, "--out", out, "--worth", "3000")
    assert told["on_held_out"]["against"] == "adaptive-consistency:n=12"
    assert "the 12 of each" in refused("policy", "evaluate", out, "--bank", bank, "--against", "self-consistency:n=16")
    few = tmp_path / "few.bank"
    write_bank(made(samples=2, seed=3, name="q", words="How much is"), few)
    run("policy", "fit", bank, "--out", out, "--worth", "10000000")
    assert "the policy wants more samples than the 2" in refused("policy", "evaluate", out, "--bank", few)
    said = refused("policy", "fit", bank, "--out", tmp_path / "no.json", "--kind", "bandit")
    assert "adaptive-consistency:n=16 wants more samples than the 12" in said
    assert not (tmp_path / "no.json").exists()


def by_words(steps: dict[str, str], n: int = 12) -> StoppingPolicy:
    rule = {"n": n, "price": 0.0, "accuracy": 0.5, "tokens": 100.0, "ties": "first"}
    return StoppingPolicy.of(
        {"rule": {**rule, "states": {at: f"{do}; right 0.5, worth 0.5" for at, do in steps.items()}}}
    )


def test_each_side_is_replayed_with_its_own_models() -> None:
    bank = made(problems=10, large=True, judge="judge")
    plain = Artifact("stopping", "small", by_words({"0 0 0": "draw 1", "1 1 0": "stop"}), {})
    up = by_words({"0 0 0": "draw 1", "1 1 0": "escalate 1"})
    for weight in (None, 7.0):
        escalating = Artifact("stopping", "small", up, {"larger": "large", "larger_weight": weight})
        judged = compared(plain, escalating, bank, price=0.0)
        assert (judged.tokens, judged.rival_tokens) == (120, 120 + 120 * (weight or 1))
        assert judged.rival_accuracy.mean == 1.0
        assert compared(escalating, plain, bank, price=0.0).tokens == judged.rival_tokens


def test_verdicts_are_paid_for() -> None:
    bank = made(problems=10, large=True, judge="judge")
    known = {"verifier": "judge", "verifier_tokens": 50.0, "larger": "large"}
    verify = {"0 0 0": "draw 3", "3 3 0": "stop", "3 2 1": "verify", "3 1 1": "verify"}
    scored = [f"3 {votes} score {score}" for votes in ("2 1", "1 1") for score in (0.0, 1.0)]
    judged_all = by_words(verify | dict.fromkeys(scored, "stop"))
    then_up = by_words(verify | dict.fromkeys(scored, "escalate 1"))
    artifact = Artifact("stopping", "small", judged_all, known)
    free = Artifact("stopping", "small", judged_all, {**known, "verifier_tokens": None})
    disagreed = (compared(artifact, "single", bank, price=0.0).tokens - 320) / 150
    assert 0.2 < disagreed < 0.9, "the share of requests whose samples were judged"
    assert compared(free, "single", bank, price=0.0).tokens == 320
    escalated = compared(Artifact("stopping", "small", then_up, known), "single", bank, price=0.0)
    assert escalated.tokens == pytest.approx(320 + disagreed * (150 + 120)), "the larger model's sample is not judged"
    best = compared(artifact, "best-of-n:n=4,batches=4", bank, price=0.0)
    assert best.rival_tokens == 420 + 4 * 50
    bandit = Artifact(
        "bandit", "small", BanditPolicy.cold({"best-of-n:n=4,batches=4": 4.0}, price=0.0, features=()), known
    )
    assert compared(bandit, "single", bank, price=0.0).tokens == 420 + 4 * 50


def test_costs_that_a_bank_does_not_tell_must_be_said(tmp_path: Path, bank: Path) -> None:
    out, two, priced = tmp_path / "policy.json", tmp_path / "two.bank", tmp_path / "priced.bank"
    write_bank(made(large=True, judge="judge"), two)
    write_bank(made(large=True, prices=True), priced)
    fit = ("policy", "fit", two, "--out", out, "--model", "small", "--worth", "3000")
    assert "--larger-weight" in refused(*fit, "--larger", "large")
    assert "name that model too" in refused(*fit, "--larger-weight", "2")
    assert "--verifier-tokens" in refused(*fit, "--verifier", "judge")
    assert "name that verifier too" in refused(*fit, "--verifier-tokens", "9")
    assert "as if verdicts were free" in refused(
        *fit, "--kind", "plans", "--tokens", "900", "--verifier", "judge", "--verifier-tokens", "9"
    )
    assert "leave --verifier out" in refused(*fit, "--kind", "risk", "--verifier", "judge", "--verifier-tokens", "9")
    assert not out.exists()
    run(*fit, "--verifier", "judge", "--verifier-tokens", "1")
    assert any("verify" in step for step in json.loads(out.read_text())["policy"]["rule"]["states"].values())
    run(*fit, "--verifier", "judge", "--verifier-tokens", "100000")
    assert not any("verify" in step for step in json.loads(out.read_text())["policy"]["rule"]["states"].values())
    told = run("policy", "fit", priced, "--out", out, "--model", "small", "--worth", "3000", "--larger", "large")
    assert Artifact.load(out).provenance["larger_weight"] == pytest.approx(5.0)
    assert told["objective"].endswith("tokens of large count 5 times")
    few, many = (
        run(*fit, "--larger", "large", "--larger-weight", weight)["on_held_out"]["accuracy"][0]
        for weight in ("1", "900")
    )
    assert few == 1.0 > many, "who escalates to a model that is always right is, where that is worth it"


def test_an_allocation_is_refused_in_words(bank: Path, tmp_path: Path) -> None:
    fit = ("policy", "fit", bank, "--out", tmp_path / "policy.json", "--kind", "allocation")
    assert "do not hold even one sample" in refused(*fit, "--tokens", "1")
    assert "by --verifier checker" in refused(*fit, "--verifier", "confidence")


def test_a_mixture_tells_questions_apart_that_come_without_ids() -> None:
    one, other = (by_words({"0 0 0": f"draw {k}"}).rule for k in (1, 2))
    mixed = StoppingPolicy(one, other, 0.3)
    taken = [mixed.controller(Request(Prompt.of(f"What is {i}?"))) is other for i in range(400)]
    assert 80 < sum(taken) < 160
    assert taken == [mixed.controller(Request(Prompt.of(f"What is {i}?"))) is other for i in range(400)]


def risk(bank: Path, out: Path) -> RiskPolicy:
    run("policy", "fit", bank, "--out", out, "--kind", "risk", "--error-rate", "0.3")
    policy = Artifact.load(out).policy
    assert isinstance(policy, RiskPolicy)
    assert policy.promise.given
    return policy


def test_a_promise_is_tested_on_other_problems(bank: Path, tmp_path: Path) -> None:
    out, worse = tmp_path / "risk.json", tmp_path / "worse.bank"
    policy = risk(bank, out)
    told = Artifact.load(out).provenance["on_held_out"]["promise"]
    assert told["problems"] == 24
    assert told["kept"] is True
    assert 0 < told["confident"] < 24
    assert told["wrong"] <= 0.3 * told["confident"]
    evidence = run("policy", "promote", out, "--bank", bank)["evidence"]
    assert evidence["promise"] == told
    assert "kept on 24 problems" in evidence["words"]
    assert "promoted for its promise and not for reward" in evidence["words"]
    # Where the leading answer is always the same wrong one, every confident answer is wrong.
    misled = [
        replace(sample, answer="7", correct=False, problem=sample.problem)
        for sample in made(problems=30, name="q", words="How much is")
    ]
    known = made(problems=30, name="q", words="How much is")
    write_bank(Bank(known.problems.values(), known.models.values(), misled), worse)
    broken = held(policy, "small", read_bank(worse))
    assert (broken.confident, broken.wrong, broken.kept) == (30, 30, False)
    assert "broken on 30 problems" in refused("policy", "promote", out, "--bank", worse)


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys([{missing!r}]))
from thinkscale.cli.app import app
from thinkscale.errors import UsageError
for words in {commands!r}:
    try:
        app(words, standalone_mode=False)
        print("\\ndone")
    except UsageError as refusal:
        print(f"\\n{{refusal}}")
"""


@pytest.mark.parametrize("missing", ["numpy", "pyarrow"])
def test_the_extra_is_asked_for_where_it_is_needed(missing: str, bank: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    run("policy", "fit", bank, "--out", policy, "--worth", "3000")
    commands = [
        ("policy", "promote", policy, "--force"),
        ("policy", "list"),
        ("policy", "rollback", "small"),
        ("policy", "fit", bank, "--out", tmp_path / "x.json"),
        ("policy", "evaluate", policy, "--bank", bank),
        ("policy", "promote", policy, "--bank", bank),
        ("frontier", bank, "--out", tmp_path / "x"),
        ("bank", "show", bank),
    ]
    program = WITHOUT.format(missing=missing, commands=[[str(word) for word in words] for words in commands])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = [line for line in done.stdout.splitlines() if line == "done" or "needs the extra" in line]
    assert ends[:3] == ["done"] * 3
    assert [line.partition(" needs ")[0] for line in ends[3:7]] == [
        "policy fit", "policy evaluate", "judging a policy", "frontier" if missing == "numpy" else "a bank"
    ]  # fmt: skip
    assert all(line.endswith("the extra optimize: pip install 'thinkscale[optimize]'") for line in ends[3:7])
    assert len(ends) == len(commands)


def test_the_full_vote_stands_beside_a_policy_that_is_to_match_it(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    told = run("policy", "fit", bank, "--out", out)["on_held_out"]
    assert told["full_vote"]["against"] == "self-consistency:n=12"
    assert told["full_vote"]["against_tokens"] == pytest.approx(3 * 20 + 12 * 100)
    assert told["tokens_per_right_answer"] == pytest.approx(100_000), "what people pay, and not the rule's own price"
    assert abs(told["gain"][0]) < 1
    shown = CliRunner().invoke(app, ["policy", "fit", str(bank), "--out", str(out)], catch_exceptions=False).output
    assert "100,000 tokens" in shown


def test_what_would_do_nothing_or_cannot_be_is_refused(bank: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    fit: list[str | Path] = ["policy", "fit", bank, "--out", out]
    assert "is expected to reach accuracy 0.99" in refused(*fit, "--accuracy", "0.99")
    assert "--strategy is for --kind plans or bandit" in refused(*fit, "--strategy", "single")
    assert "--allowance is for --kind bandit" in refused(*fit, "--allowance", "100")
    assert "--horizon is for --kind risk" in refused(*fit, "--horizon", "100")
    assert "an allowance of 10 cannot hold" in refused(*fit, "--kind", "bandit", *FITS["bandit"], "--allowance", "10")


def test_a_full_disk_leaves_the_policy_that_was_there(bank: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "policy.json"
    run("policy", "fit", bank, "--out", out)
    before = out.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "cannot write" in refused("policy", "fit", bank, "--out", out, "--worth", "10")
    assert out.read_text() == before
