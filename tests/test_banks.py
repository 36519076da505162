"""Banks: the figures of published ones, round trips through both file forms, imports, and every fault in a file."""

from __future__ import annotations

import fcntl
import json
import re
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from thinkscale.accounting import Price
from thinkscale.banks import VERSION, Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.importing import import_file, load
from thinkscale.banks.jsonl import export_jsonl
from thinkscale.banks.parquet import read_bank, write_bank
from thinkscale.cli.app import app
from thinkscale.errors import UsageError
from thinkscale.optimize.describing import described
from thinkscale.tasks import parse_task
from thinkscale.types import AnswerKind, Prompt

SHARED = Path(__file__).parents[2] / "shared" / "data"
LAST_LETTERS = SHARED / "banks" / "last_letters_gpt3.5_t0.7_350x40.jsonl"
CRUXEVAL = SHARED / "banks" / "cruxeval_output_codellama-7b_t0.2_800x10.json"
GSM8K = SHARED / "banks" / "gsm8k_train_qwen2.5-coder-0.5b_16.jsonl"
GAME24 = SHARED / "banks" / "game24_gpt4_cot_100x100.json"
GSM8K_TASK = f"gsm8k:{SHARED / 'tasks' / 'gsm8k_train.jsonl'}"


def same(one: Bank, other: Bank) -> bool:
    """Whether all that two banks hold is equal, order included, but for problems without samples."""
    return (list(one), one.problems, list(one.models.items()), one.task, one.history) == (
        list(other), other.problems, list(other.models.items()), other.task, other.history
    )  # fmt: skip


def figures(bank: Bank) -> tuple[int, int, float, float, float]:
    """n, problems that have as many samples, pass@1, majority, coverage of the bank's model."""
    (model,) = described(bank)["models"]
    return (
        model["n"], model["n_problems"], round(model["pass_at_1"], 4), round(model["majority"], 4),
        round(model["coverage"], 4),
    )  # fmt: skip


# -- published banks ------------------------------------------------------------------------------------------------


def test_last_letters() -> None:
    bank = import_file(LAST_LETTERS, model="gpt-3.5")
    # One name has an é, which a search for ASCII letters misses: it makes .809 and .917 of the last two figures.
    assert figures(bank) == (40, 350, 0.7841, 0.8114, 0.92)
    assert len(bank) == 14_000
    assert bank.models == {"gpt-3.5": BankModel("gpt-3.5", estimated=True)}
    first = bank.samples("gpt-3.5", "0")[0]
    assert (first.answer, first.correct, first.output_tokens) == ("yajo", True, round(len(first.text or "") / 4))
    assert bank.problems["0"].reference == "yajo"
    assert all(sample.output_tokens and sample.prompt_tokens for sample in bank), "an empty reply takes a token, too"


def test_cruxeval() -> None:
    bank = import_file(CRUXEVAL, model="codellama")
    assert figures(bank)[:3] == (10, 800, 0.3421)
    assert abs(figures(bank)[3] - 0.346) < 0.005, "ties go by the order, which is drawn"
    assert figures(bank)[4] == 0.4188
    assert same(bank, import_file(CRUXEVAL, model="codellama")), "and drawn alike each time"
    raw = json.loads(CRUXEVAL.read_text())["raw_generations"]

    def runs(answers: Iterable[str | None]) -> int:
        return len(list(groupby(answers)))

    recorded = sum(runs(raw[name]) for name in bank.problems)
    ours = sum(runs(one.answer for one in bank.samples("codellama", name)) for name in bank.problems)
    assert ours > 1.3 * recorded, "the file groups equal answers; the order must not"


def test_equal_answers_of_cruxeval_must_be_graded_alike(tmp_path: Path) -> None:
    path = tmp_path / "crux.json"
    answers = {"sample_3": ["'a'", '"a"', "{'x': 1, 'y': 2}", "{'y': 2, 'x': 1}", "not ( python"]}
    path.write_text(
        json.dumps(
            {"raw_generations": answers, "raw_scored_generations": {"sample_3": [True, True, False, False, False]}}
        )
    )
    (model,) = import_file(path).models
    assert sorted({str(one.answer) for one in import_file(path).samples(model, "sample_3")}) == [
        "'a'", "not ( python", "{'x': 1, 'y': 2}"
    ]  # fmt: skip
    path.write_text(
        json.dumps(
            {"raw_generations": answers, "raw_scored_generations": {"sample_3": [True, False, True, True, False]}}
        )
    )
    with pytest.raises(
        UsageError, match=r"crux\.json, sample_3, sample \d: the answer .* is marked (right|wrong), but"
    ):
        import_file(path)
    path.write_text(json.dumps({"raw_generations": answers, "raw_scored_generations": {"sample_3": [True]}}))
    with pytest.raises(UsageError, match="not of the form cruxeval"):
        import_file(path)


def test_gsm8k_with_its_task() -> None:
    bank = import_file(GSM8K, task=GSM8K_TASK, model="qwen", max_n=16, price=Price(0.1, 0.2))
    # As docs/log.md has it from replays of the 36 problems that have 16 samples; pass@1 is over all 37 here.
    assert figures(bank) == (16, 36, 0.2044, 0.4167, 0.6944)
    assert bank.models == {
        "qwen": BankModel("qwen", Price(0.1, 0.2), 16, {"temperature": 0.8, "max_tokens": 320}, estimated=False)
    }
    assert bank.task == GSM8K_TASK
    assert (bank.problems["gsm8k_train/0"].reference, bank.problems["gsm8k_train/0"].kind) == ("72", AnswerKind.NUMBER)
    first = bank.samples("qwen", "gsm8k_train/0")[0]
    assert (first.answer, first.correct, first.prompt_tokens, first.output_tokens) == ("72", True, 84, 222)
    assert len(first.logprobs) == len(first.confidences) == 222
    assert first.logprobs[0] == -0.569
    assert min(first.confidences) > 0


def test_gsm8k_without_its_task_cannot_be_graded() -> None:
    with pytest.raises(UsageError, match=r"line 1: nothing tells whether the answer is right.*\(--task\)"):
        import_file(GSM8K)


def test_game24() -> None:
    bank = import_file(GAME24, model="gpt-4")
    assert figures(bank) == (100, 100, 0.0403, 0.08, 0.49)
    assert bank.models["gpt-4"].max_n == 20
    assert list(bank.problems)[::99] == ["game24/901", "game24/1000"]
    assert {sample.prompt_tokens for sample in bank} == {437}
    # The last of each run's sums; the run was started anew at the 33rd puzzle.
    sums = [row["usage_so_far"]["completion_tokens"] for row in json.loads(GAME24.read_text())]
    assert sum(sample.output_tokens or 0 for sample in bank) == sums[31] + sums[-1]
    assert all(sample.scores == {"checker": float(bool(sample.correct))} for sample in bank)


def test_game24_finds_the_prompts_of_its_task_whose_check_agrees(tmp_path: Path) -> None:
    puzzles = (SHARED / "tasks" / "game24.csv").read_text().splitlines()
    some = lines(tmp_path / "game24.csv", puzzles[0], *puzzles[901:1001])
    problems = parse_task(f"game24:path={some}").problems()
    bank = import_file(GAME24, problems=problems, model="gpt-4")
    assert all(problem.prompt is not None for problem in bank.problems.values())
    for problem in problems:
        assert problem.check is not None
        for sample in bank.samples("gpt-4", problem.id):
            assert problem.check((sample.answer or "").partition("=")[0]) == sample.correct


@pytest.mark.parametrize(
    ("content", "form", "words"),
    [
        ([{"idx": 0, "ys": ["x"], "infos": [], "usage_so_far": {"prompt_tokens": 1, "completion_tokens": 1}}],
         "auto", "entry 0: not of the form tree-of-thought"),
        ([{"idx": 0, "ys": ["x"]}], "tree-of-thought", "entry 0: not of the form .*: it lacks 'usage_so_far'"),
        ({"idx": 0}, "tree-of-thought", "there is no list of samples"),
        ({"question": "?", "generated_answer": ["x"]}, "auto", "line 1: not of the form esc: it lacks 'answer'"),
        ({"question": "?", "answer": "x", "generated_answer": "x"}, "auto", "line 1: there is no list of samples"),
        ({"raw_generations": {"a": ["1"]}}, "auto", "not of the form cruxeval: it lacks 'raw_scored_generations'"),
    ],
)  # fmt: skip
def test_a_published_form_with_a_fault_is_told(tmp_path: Path, content: Any, form: str, words: str) -> None:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=words):
        import_file(path, form=form)


def test_a_published_form_that_was_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    for source in (GAME24, CRUXEVAL):
        path.write_bytes(source.read_bytes()[:100_000])
        with pytest.raises(UsageError, match=r"bank\.json is not JSON, or was cut short"):
            import_file(path)
    path.write_bytes(LAST_LETTERS.read_bytes()[:100_000])
    with pytest.raises(UsageError, match="not of the form esc"):
        import_file(path)


# -- round trips ----------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=12)
NATS = st.integers(-20_000, 20_000).map(lambda value: value / 1000)
SCORES = st.none() | st.floats(0, 1)
PROMPTS = st.none() | st.builds(Prompt.of, WORDS, system=WORDS) | st.builds(Prompt, text=WORDS, prefix=WORDS)


@st.composite
def samples_of(draw: st.DrawFn, problem: str, model: str) -> list[BankSample]:
    samples = []
    for number in range(draw(st.integers(0, 3))):
        length = draw(st.integers(0, 3))
        per_token = st.lists(NATS, min_size=length, max_size=length).map(tuple)
        samples.append(
            BankSample(
                problem,
                model,
                number,
                draw(st.none() | WORDS),
                draw(st.none() | st.booleans()),
                draw(st.none() | WORDS),
                draw(WORDS),
                draw(st.sampled_from(["stop", "length"])),
                draw(st.none() | WORDS),
                draw(st.none() | st.integers(0, 2**31 - 1)),
                draw(st.none() | st.integers(0, 2**31 - 1)),
                draw(st.none() | st.floats(0, 1e6)),
                draw(per_token),
                draw(per_token | st.just(())),
                draw(st.dictionaries(WORDS, SCORES, max_size=2)),
                draw(st.dictionaries(WORDS, st.lists(SCORES, max_size=2).map(tuple), max_size=2)),
            )
        )
    return samples


@st.composite
def banks(draw: st.DrawFn) -> Bank:
    ids = draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=3, unique=True))
    problems = [
        BankProblem(id, draw(PROMPTS), draw(st.sampled_from(AnswerKind)), draw(st.none() | WORDS)) for id in ids
    ]
    price = st.none() | st.builds(Price, st.floats(0, 9), st.floats(0, 9))
    models = [
        BankModel(name, draw(price), draw(st.integers(1, 9)), draw(st.dictionaries(WORDS, SCORES)), draw(st.booleans()))
        for name in draw(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=2, unique=True))
    ]
    samples = [one for problem in ids for model in models for one in draw(samples_of(problem, model.name))]
    return Bank(problems, models, samples, task=draw(st.none() | WORDS), history=draw(st.lists(WORDS, max_size=2)))


@settings(max_examples=25, deadline=None)
@given(bank=banks())
def test_a_bank_comes_back_from_parquet_and_from_json_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, bank: Bank
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    write_bank(bank, folder / "a" / "bank.parquet")
    assert same(read_bank(folder / "a" / "bank.parquet"), bank)
    export_jsonl(bank, folder / "bank.jsonl")
    assert same(load(folder / "bank.jsonl"), bank)
    if len(bank):
        assert same(import_file(folder / "bank.jsonl"), bank)


def test_log_probabilities_are_kept_to_a_thousandth(tmp_path: Path) -> None:
    sample = BankSample("p", "m", 0, logprobs=(-0.12345, -1e-9), confidences=(3.00049, 2.0))
    write_bank(Bank([BankProblem("p")], [BankModel("m")], [sample]), tmp_path / "b")
    (back,) = read_bank(tmp_path / "b")
    assert (back.logprobs, back.confidences) == ((-0.123, 0.0), (3.0, 2.0))


def test_others_read_the_columns_as_they_are(tmp_path: Path) -> None:
    write_bank(small(), tmp_path / "bank.parquet")
    rows = parquet.ParquetFile(tmp_path / "bank.parquet").read().to_pylist()
    assert len(rows) == 4
    assert rows[0]["problem"] == "p"
    assert json.loads(rows[0]["prompt"]) == {"messages": [{"role": "user", "content": "What is 3 + 4?"}]}
    assert rows[1] == {
        "problem": "p", "prompt": rows[0]["prompt"], "kind": "number", "reference": "7", "model": "m", "sample": 1,
        "answer": "8", "correct": False, "text": None, "reasoning": "", "finish_reason": "stop", "stop_string": None,
        "prompt_tokens": 9, "output_tokens": 5, "seconds": None, "logprobs": [-0.5, -0.25], "confidences": [],
        "scores": [("judge", 0.25), ("orm", None)], "steps": [("prm", [0.5, None])],
    }  # fmt: skip


def small() -> Bank:
    """Four samples of one problem by two models: 7, 8, none; 7."""
    fine = BankSample("p", "m", 0, "7", True, prompt_tokens=9, output_tokens=5)
    samples = [
        fine,
        replace(
            fine, sample=1, answer="8", correct=False, logprobs=(-0.5, -0.25), scores={"judge": 0.25, "orm": None},
            steps={"prm": (0.5, None)},
        ),
        replace(fine, sample=2, answer=None, correct=False, finish_reason="length"),
        replace(fine, model="large"),
    ]  # fmt: skip
    problem = BankProblem("p", Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, "7")
    return Bank([problem], [BankModel("m"), BankModel("large")], samples, task="sums", history=["made"])


# -- files that are no banks ----------------------------------------------------------------------------------------


def test_a_file_that_is_no_parquet_or_was_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bank.parquet"
    with pytest.raises(UsageError, match=r"cannot read the bank .*: No such file"):
        read_bank(path)
    path.write_text('{"problem": 0}')
    with pytest.raises(
        UsageError, match="is not a bank, which is a Parquet file: import it with thinkscale bank import"
    ):
        read_bank(path)
    write_bank(small(), path)
    whole = path.read_bytes()
    for length in range(4, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="damaged or was cut short"):
            read_bank(path)


def test_bytes_that_changed_never_end_in_another_error(tmp_path: Path) -> None:
    path = tmp_path / "bank.parquet"
    write_bank(small(), path)
    whole = path.read_bytes()
    told = 0
    for place in range(4, len(whole), 53):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_bank(path)  # a byte that says nothing may change
        except UsageError as error:
            told += str(path) in str(error)
    assert told > 10


def rewritten(path: Path, change: Any = lambda table: table, header: Any = None) -> None:
    """Write the small bank with its table changed, or its header."""
    write_bank(small(), path)
    table = parquet.ParquetFile(path).read()
    known = orjson.loads(table.schema.metadata[b"thinkscale"])
    metadata = orjson.dumps(known | header) if isinstance(header, dict) else header or orjson.dumps(known)
    parquet.write_table(change(table).replace_schema_metadata({b"thinkscale": metadata}), path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"version": VERSION + 1}, f"has version {VERSION + 1} of the bank format, and this thinkscale reads up to"),
        ({"version": "1"}, "does not say which version"),
        ({"models": [{"name": "m"}]}, "its header cannot be read"),
        ({"models": []}, "unknown model"),
        ({"history": None}, "its header cannot be read"),
        (b"{broken", "its header is not JSON"),
        (b"[1]", "does not say which version"),
    ],
)
def test_a_header_with_a_fault_is_told(tmp_path: Path, header: Any, words: str) -> None:
    path = tmp_path / "bank.parquet"
    rewritten(path, header=header)
    with pytest.raises(UsageError, match=words) as told:
        read_bank(path)
    assert str(path) in str(told.value)


def _set(table: pa.Table, name: str, values: Sequence[Any], kind: Any = None) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop_columns(["answer"]), "the column 'answer' is missing"),
        (lambda table: _set(table, "sample", ["a", "b", "c", "d"]), "the column 'sample' does not hold int32"),
        (lambda table: _set(table, "sample", [0, None, 2, 0]), "the column 'sample' lacks values"),
        (lambda table: _set(table, "sample", [0, 0, 1, 0]), "sample 0 of m on problem p is there twice"),
        (lambda table: _set(table, "sample", [0, 2, 3, 0]), "sample 1 of m on problem p is missing"),
        (lambda table: _set(table, "kind", ["numbers"] * 4), "'numbers' is not a valid AnswerKind"),
        (lambda table: _set(table, "prompt", ["{"] * 4), "damaged"),
        (lambda table: _set(table, "prompt", ["{}"] * 4), "a prompt is either messages or text"),
        (
            lambda table: _set(table, "confidences", [[], [1.0], [], []]),
            "sample 1 of problem p has other numbers of logprobs and confidences",
        ),
    ],
)
def test_a_table_with_a_fault_is_told(tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "bank.parquet"
    rewritten(path, change)
    with pytest.raises(UsageError, match=words) as told:
        read_bank(path)
    assert str(path) in str(told.value)


def test_a_bank_that_another_program_wrote_again_is_still_one(tmp_path: Path) -> None:
    """Plain columns in another order, of other widths, with one more."""
    path = tmp_path / "bank.parquet"

    def plain(table: pa.Table) -> pa.Table:
        columns = {
            name: table.column(name) if name in ("scores", "steps") else pa.array(table.column(name).to_pylist())
            for name in reversed(table.column_names)
        }
        return pa.table(columns | {"note": ["x"] * 4})

    rewritten(path, plain)
    assert same(read_bank(path), small())


def test_a_parquet_file_without_a_header_is_no_bank(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    parquet.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UsageError, match="is a Parquet file but not a bank"):
        read_bank(path)


def test_a_full_disk_leaves_the_old_bank_whole(tmp_path: Path) -> None:
    path = tmp_path / "bank.parquet"
    write_bank(small(), path)
    large = Bank(
        [BankProblem("p")],
        [BankModel("m")],
        [BankSample("p", "m", n, logprobs=[n * 0.1 - k for k in range(500)]) for n in range(300)],
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UsageError, match=r"cannot write .*bank\.parquet: File too large; nothing was changed"):
            write_bank(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read_bank(path), small())
    assert [one.name for one in tmp_path.iterdir()] == ["bank.parquet"]


def test_a_missing_extra_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'thinkscale\[optimize\]'"):
        read_bank(tmp_path / "bank.parquet")


# -- samples of other programs --------------------------------------------------------------------------------------


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_fields_that_any_program_has_are_enough(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "theirs.jsonl",
        {"problem": 5, "sample": 1, "answer": "a", "correct": True, "score": 0.5, "completion_tokens": 12},
        {"problem": 5, "sample": 0, "answer": 8, "correct": 0, "score": None, "completion_tokens": 14},
        "",
        {"problem": "x", "answer": None, "correct": False, "text": "Dunno."},
        {"problem": "x", "answer": "B", "correct": False, "question": "Is it?"},
    )
    bank = import_file(path)
    assert list(bank) == [
        BankSample("5", "theirs", 0, "8", False, output_tokens=14, scores={"score": None}),
        BankSample("5", "theirs", 1, "a", True, output_tokens=12, scores={"score": 0.5}),
        BankSample("x", "theirs", 0, None, False, "Dunno.", output_tokens=2),
        BankSample("x", "theirs", 1, "B", False, output_tokens=1, prompt_tokens=2),
    ]
    assert bank.problems["x"] == BankProblem("x", Prompt.of("Is it?"))
    assert bank.models["theirs"].estimated, "some have no counts"
    assert bank.history == ("4 samples of theirs imported from theirs.jsonl (jsonl)",)


def test_every_known_field_is_taken(tmp_path: Path) -> None:
    row = {
        "problem": "p", "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "kind": "number", "reference": 7, "model": "m", "answer": "7.0", "text": "t", "reasoning": "r",
        "finish_reason": "length", "stop_string": "END", "prompt_tokens": 3, "completion_tokens": 2, "seconds": 1.5,
        "logprob": [-1, -0.5], "top5_mean_logprob": [-3, -4], "scores": {"orm": 1}, "steps": {"prm": [0.5, None]},
        "temperature": 0.7, "top_p": 1, "max_tokens": 9, "their own": {"a": 1},
    }  # fmt: skip
    bank = import_file(lines(tmp_path / "x.jsonl", row), max_n=4, price=Price(1, 2))
    assert list(bank) == [
        BankSample(
            "p", "m", 0, "7.0", True, "t", "r", "length", "END", 3, 2, 1.5, (-1.0, -0.5), (3.0, 4.0), {"orm": 1.0},
            {"prm": (0.5, None)},
        )
    ]  # fmt: skip
    assert bank.problems["p"] == BankProblem("p", Prompt.of("q", system="s"), AnswerKind.NUMBER, "7")
    params = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 9}
    assert bank.models["m"] == BankModel("m", Price(1, 2), 4, params, estimated=False)


def test_fields_of_other_names_are_mapped(tmp_path: Path) -> None:
    row = {"task": {"id": "p"}, "answer": "7", "out": {"pred": "8"}, "out.raw": "eight", "critic": 0.25, "steps": {}}
    path = lines(tmp_path / "x.jsonl", row, row | {"out": {}})
    names = {
        "problem": "task.id", "reference": "answer", "answer": "out.pred", "text": "out.raw", "scores.critic": "critic"
    }  # fmt: skip
    bank = import_file(path, fields=names, kind=AnswerKind.NUMBER)
    assert [(one.problem, one.answer, one.correct, one.text) for one in bank] == [
        ("p", "8", False, "eight"),
        ("p", None, False, "eight"),
    ]
    assert [one.scores for one in bank] == [{"critic": 0.25}] * 2
    assert bank.problems["p"] == BankProblem("p", None, AnswerKind.NUMBER, "7")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"anser": "x"}, r"no field 'anser' \(did you mean answer\?\); it has answer, "),
        ({"scores": "nope"}, "no line has the field nope; the first line has problem, answer, correct"),
        ({"steps.": "x"}, "no field 'steps.'"),
    ],
)
def test_a_mapping_that_means_nothing_is_told(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    path = lines(tmp_path / "x.jsonl", {"problem": 1, "answer": "7", "correct": True})
    with pytest.raises(UsageError, match=words):
        import_file(path, fields=fields)


FINE = {"problem": 1, "answer": "7", "correct": True}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{broken", "line 2: not a recorded sample: it is not JSON"),
        ("[1]", "line 2: not a recorded sample: it is not a JSON object"),
        ({"answer": "7"}, "line 2: not a recorded sample: it lacks 'problem'"),
        ({"problem": 1}, "line 2: not a recorded sample: it lacks both 'answer' and 'text'"),
        (FINE | {"score": 1.5}, "line 2: not a recorded sample: score: Input should be less than or equal to 1"),
        (FINE | {"completion_tokens": -1}, "line 2: .*completion_tokens: Input should be greater than or equal to 0"),
        (FINE | {"correct": "perhaps"}, "line 2: .*correct: Input should be a valid boolean"),
        (FINE | {"kind": "numbers"}, "line 2: .*kind: Input should be 'number', 'choice'"),
        (FINE | {"prompt": 3}, "line 2: .*its prompt: a prompt is text, a list of messages"),
        (FINE | {"prompt": {"words": "?"}}, "line 2: .*its prompt: "),
        (FINE | {"logprobs": [-1], "confidences": [1, 2]}, "line 2: .*there are 1 tokens by their logprobs, but 2"),
        (FINE | {"sample": 0}, "line 2: sample 0 of x on problem 1 is there twice, first in .*, line 1"),
        (FINE | {"sample": 2}, "jsonl: sample 1 of x on problem 1 is missing, but later ones are there"),
        (FINE | {"correct": False}, "line 2: the answer '7' is marked wrong, but the same answer right in .*, line 1"),
        (FINE | {"answer": " 7. ", "correct": False}, "line 2: the answer '7' is marked wrong"),
        (FINE | {"answer": None}, "line 2: a sample without an answer is marked right"),
        (FINE | {"answer": "8", "correct": None}, "line 2: nothing tells whether the answer is right"),
        (FINE | {"kind": "number"}, "line 2: problem 1 has another kind than before"),
    ],
)
def test_a_line_with_a_fault_is_told(tmp_path: Path, row: Any, words: str) -> None:
    path = lines(tmp_path / "x.jsonl", FINE, row)
    with pytest.raises(UsageError, match=words) as told:
        import_file(path)
    assert str(path) in str(told.value)


def test_a_file_without_samples_or_of_no_such_form_is_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="holds no samples"):
        import_file(path)
    with pytest.raises(UsageError, match=r"no form 'crux' \(did you mean cruxeval\?\)"):
        import_file(path, form="crux")
    with pytest.raises(UsageError, match="cannot read"):
        import_file(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="only the fields of JSON lines can be mapped"):
        import_file(CRUXEVAL, fields={"answer": "x"})


def test_a_header_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"thinkscale": {"version": VERSION + 1}}, FINE)
    with pytest.raises(UsageError, match=r"line 1 has version 2 of the bank format"):
        import_file(path)


def test_answers_are_found_compared_and_graded_by_their_kind(tmp_path: Path) -> None:
    rows = [
        {"problem": 1, "kind": "number", "reference": "18", "text": text, "finish_reason": ended}
        for text, ended in [
            ("So it is 18.", "stop"), ("Answer: 18.0", "stop"), ("It is 18, and", "length"), ("Answer: 3/4\n", "length")
        ]
    ] + [
        {"problem": 2, "kind": "expression", "reference": "x/2", "answer": answer}
        for answer in (r"\frac{x}{2}", "x/2", "x/3", "0.5x")
    ]  # fmt: skip
    bank = import_file(lines(tmp_path / "x.jsonl", *rows))
    assert [(one.answer, one.correct) for one in bank.samples("x", "1")] == [
        ("18", True), ("18", True), (None, False), ("3/4", False)
    ]  # fmt: skip
    half = r"\frac{x}{2}"
    assert [(one.answer, one.correct) for one in bank.samples("x", "2")] == [
        (half, True), (half, True), ("x/3", False), (half, True)
    ]  # fmt: skip


def test_a_task_tells_problems_by_place_or_id_and_grades_by_its_check(tmp_path: Path) -> None:
    problems = parse_task("countdown:numbers=4").problems(3)
    solution = problems[2].reference
    assert solution is not None
    rows: list[dict[str, Any]] = [{"problem": 2, "answer": solution}, {"problem": problems[2].id, "answer": "1 + 1"}]
    bank = import_file(lines(tmp_path / "x.jsonl", *rows), problems=problems)
    assert [(one.problem, one.correct) for one in bank] == [(problems[2].id, True), (problems[2].id, False)]
    assert bank.problems == {
        problems[2].id: BankProblem(problems[2].id, problems[2].prompt, problems[2].kind, solution)
    }
    with pytest.raises(
        UsageError, match="line 1: the task has no problem 3, by id or by place: it has 3, the first is"
    ):
        import_file(lines(tmp_path / "x.jsonl", rows[0] | {"problem": 3}), problems=problems)


def test_one_file_may_hold_several_models_but_then_not_be_named_as_one(tmp_path: Path) -> None:
    rows = [FINE | {"model": model, "temperature": t} for model, t in (("a", 0.5), ("b", 0.7), ("a", 0.5), ("b", 0.8))]
    path = lines(tmp_path / "x.jsonl", *rows)
    assert import_file(path).models == {
        "a": BankModel("a", params={"temperature": 0.5}, estimated=True),
        "b": BankModel("b", estimated=True),
    }
    with pytest.raises(UsageError, match=r"samples of several models \(a, b\), not of c alone"):
        import_file(path, model="c")


# -- into a bank that is there --------------------------------------------------------------------------------------


def test_another_model_joins_with_its_answers_under_the_same_names(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        {"problem": "p", "answer": "7.0", "text": "seven"},
        {"problem": "q", "answer": "x", "correct": True},
    )
    bank = import_file(path, model="new", into=small())
    assert list(bank.models) == ["m", "large", "new"]
    assert list(bank.problems) == ["p", "q"]
    (joined,) = bank.samples("new", "p")
    assert (joined.answer, joined.correct) == ("7", True), "7.0 is what the bank calls 7, and graded by its reference"
    assert [one for one in bank if one.model != "new"] == list(small())
    assert bank.history == ("made", "2 samples of new imported from x.jsonl (jsonl)")
    assert bank.task == "sums"


def test_more_samples_of_a_model_extend_it(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl", {"problem": "p", "sample": 1, "answer": "7"}, {"problem": "p", "sample": 2, "answer": "9"}
    )
    bank = import_file(path, model="large", into=small())
    assert [(one.answer, one.correct) for one in bank.samples("large", "p")] == [("7", True), ("7", True), ("9", False)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "line 1: the bank holds sample 0 of m on problem p already"),
        ({"sample": 4}, "sample 3 of m on problem p is missing"),
        ({"sample": 3, "question": "What is 3 + 5?"}, "problem p has another prompt than before"),
        ({"sample": 3, "reference": "8"}, "problem p has another reference than before"),
        ({"sample": 3, "kind": "text"}, "problem p has another kind than before"),
        (
            {"sample": 3, "correct": False},
            "line 1: the answer '7' is marked wrong, but the same answer right in the bank",
        ),
        ({"sample": 3, "temperature": 0.1}, r"the params of m in the bank is \{'temperature': 1.0\}, of the new"),
    ],
)
def test_what_contradicts_the_bank_is_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    bank = small()
    bank.models["m"] = replace(bank.models["m"], params={"temperature": 1.0})
    path = lines(tmp_path / "x.jsonl", {"problem": "p", "answer": "7", "model": "m"} | row)
    with pytest.raises(UsageError, match=words) as told:
        import_file(path, into=bank)
    assert str(path) in str(told.value)


def test_banks_merge(tmp_path: Path) -> None:
    other = Bank(
        [BankProblem("p", None, AnswerKind.NUMBER), BankProblem("r")],
        [BankModel("n", Price(1, 2))],
        [BankSample("p", "n", 0, "8.0", None), BankSample("p", "n", 1, "7.00", True)],
        history=["made too"],
    )
    write_bank(other, tmp_path / "other.parquet")
    both = import_file(tmp_path / "other.parquet", into=small())
    assert [one.answer for one in both.samples("n", "p")] == ["8", "7"]
    assert both.problems == {**small().problems, "r": BankProblem("r")}
    assert both.history == ("made", "made too")
    write_bank(small(), tmp_path / "small.parquet")
    with pytest.raises(UsageError, match="the bank holds sample 0 of m on problem p already"):
        import_file(tmp_path / "small.parquet", into=small())


# -- what is in it --------------------------------------------------------------------------------------------------


def test_contents_of_a_small_bank() -> None:
    told = described(small())
    assert (told["task"], told["problems"], told["samples"], told["history"]) == ("sums", 1, 4, ["made"])
    first, large = told["models"]
    assert (first["n"], first["n_problems"], first["pass_at_1"]) == (3, 1, 1 / 3)
    assert (first["majority"], first["coverage"]) == (1.0, 1.0), "of two answers with a vote each the first seen wins"
    low, high = first["coverage_ci"]
    assert low < 0.21, "one problem tells little"
    assert high == 1.0
    assert (first["unanswered"], first["cut"]) == (1 / 3, 1 / 3)
    assert first["scores"] == {"judge": 1 / 3, "orm": 0.0}
    assert first["recorded"]["logprobs"] == first["recorded"]["steps"] == 1 / 3
    assert (large["output_tokens"], large["seconds"], large["scores"]) == (5, None, {})


def test_contents_that_are_unknown_are_none() -> None:
    ungraded = Bank([BankProblem("p")], [BankModel("m"), BankModel("none")], [BankSample("p", "m", 0, "x")])
    first, none = described(ungraded)["models"]
    for key in ("pass_at_1", "pass_at_1_ci", "majority", "coverage", "output_tokens", "prompt_tokens"):
        assert first[key] is None
        assert none[key] is None
    assert (none["samples"], none["n"], none["n_problems"], none["cut"]) == (0, 0, 0, None)


# -- the commands ---------------------------------------------------------------------------------------------------


def test_a_bank_is_made_shown_and_given_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def thinkscale(*words: str | Path) -> str:
        app(["bank", *map(str, words)], standalone_mode=False)
        return capsys.readouterr().out

    path = lines(
        tmp_path / "x.jsonl", {"id": 1, "pred": "7", "correct": True}, {"id": 1, "pred": "8", "correct": False}
    )
    bank = tmp_path / "bank.parquet"
    words = ("import", path, "--out", bank, "--field", "problem=id", "--field", "answer=pred", "--max-n", "8")
    made = thinkscale(*words, "--model", "small", "--price", "1/2", "--kind", "number", "--json")
    (model,) = json.loads(made)["models"]
    assert (model["name"], model["max_n"], model["pass_at_1"]) == ("small", 8, 0.5)
    assert model["price"] == {"input_mtok": 1.0, "output_mtok": 2.0}
    with pytest.raises(UsageError, match="holds sample 0 of small on problem 1 already"):
        thinkscale(*words, "--model", "small")
    thinkscale(*words, "--model", "large")
    shown = thinkscale("show", bank)
    assert re.search(r"small +large", shown)
    assert re.search(r"pass@1 +0\.500 \[0\.\d\d, 0\.\d\d\] +0\.500 \[", shown)
    assert re.search(r"price +1/2 +–", shown)
    thinkscale("export", bank, "--out", tmp_path / "out.jsonl")
    assert same(import_file(tmp_path / "out.jsonl"), read_bank(bank))


def test_wrong_words_are_told_before_anything_is_written(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", FINE)
    for words, told in (
        (["--field", "answer"], "write OURS=THEIRS"),
        (["--field", "answer=a", "--field", "answer=b"], "answer is given twice"),
        (["--kind", "numbers"], "unknown kind 'numbers'"),
        (["--price", "1"], "price '1' is not IN/OUT"),
        (["--task", "gsm9k:x"], "unknown task 'gsm9k'"),
    ):
        with pytest.raises(UsageError, match=re.escape(told)):
            app(["bank", "import", str(path), "--out", str(tmp_path / "bank.parquet"), *words], standalone_mode=False)
    assert not (tmp_path / "bank.parquet").exists()


def test_nothing_is_imported_into_a_bank_while_samples_are_collected_into_it(tmp_path: Path) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "b.bank"
    file.write_text('{"problem": "p", "answer": "1", "correct": true}\n')
    journal = tmp_path / "b.bank.journal"
    journal.mkdir()
    words = ["bank", "import", str(file), "--out", str(out)]
    with (journal / "drawing.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="being collected"):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
