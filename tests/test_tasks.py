"""Tasks: generators, files, the gym, and grading."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thinkscale
from thinkscale.errors import UsageError
from thinkscale.tasks import GENERATORS, Problem, grade, parse_task
from thinkscale.tasks.expressions import evaluate, reaches, solve
from thinkscale.tasks.gym_worker import GymWorker
from thinkscale.types import AnswerKind, Prompt
from thinkscale.verifiers.answers import extract
from thinkscale.verifiers.equivalence import equivalent

SHARED = Path(__file__).parents[2] / "shared" / "data" / "tasks"
SOURCE = Path(thinkscale.__file__).parents[1]

SPECS = (
    *GENERATORS,
    "linear:a=1..30,x=-50..50,b=99",
    "countdown:numbers=4,largest=20",
    "countdown:numbers=6",
    "game24:largest=9",
    "chain_sum:terms=5,digits=3",
    "chain_sum?terms=2..3&shots=2",
)


def question(problem: Problem) -> str:
    content = problem.prompt.messages[-1]["content"]
    assert isinstance(content, str)
    return content


# -- every generator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_a_seed_gives_the_same_problems_and_another_seed_others(spec: str) -> None:
    first, again, other = (parse_task(spec).problems(12, seed) for seed in (3, 3, 4))
    assert [(one.id, one.prompt, one.reference) for one in first] == [
        (one.id, one.prompt, one.reference) for one in again
    ]
    shared = {question(one) for one in first} & {question(one) for one in other}
    assert len(shared) <= 1  # there are only so many games of 24
    assert {one.id for one in first}.isdisjoint({one.id for one in other})


@pytest.mark.parametrize("spec", SPECS)
def test_fewer_problems_are_the_first_of_more(spec: str) -> None:
    task = parse_task(spec)
    few, many = task.problems(5, 1), task.problems(10, 1)
    assert [(one.id, question(one)) for one in few] == [(one.id, question(one)) for one in many[:5]]


@pytest.mark.parametrize("spec", SPECS)
def test_problems_differ_from_each_other_and_from_the_examples(spec: str) -> None:
    problems = parse_task(spec).problems(60, 0)
    assert len({question(one) for one in problems}) == len({one.id for one in problems}) == 60
    shown = {message["content"] for one in problems for message in one.prompt.messages[:-1]}
    assert not shown & {question(one) for one in problems}


@pytest.mark.parametrize("spec", SPECS)
async def test_every_reference_is_right_and_as_the_reply_it_is_found_again(spec: str) -> None:
    for problem in parse_task(spec).problems(40, 2):
        assert problem.reference is not None
        assert problem.stop == ("\n",)
        assert problem.max_tokens is not None
        assert await grade(problem, problem.reference, equivalent)
        if problem.check is not None:
            assert problem.check(problem.reference) is True


@pytest.mark.parametrize("spec", SPECS)
def test_the_replies_in_the_examples_answer_their_questions(spec: str) -> None:
    """Each example, graded as if it were a problem of the task, with the answer found in its reply."""
    prompt = parse_task(spec).problems(1, 0)[0].prompt
    turns = [str(message["content"]) for message in prompt.messages[1:-1]]
    assert len(turns) >= 4
    for asked, reply in zip(turns[::2], turns[1::2], strict=True):
        if asked.startswith("Solve"):
            a, b, c = coefficients(asked)
            answer = extract(reply, AnswerKind.NUMBER)
            assert answer is not None
            assert a * Fraction(answer) + b == c
        elif asked.startswith("Use"):
            answer = extract(reply, AnswerKind.TEXT)
            *numbers, target = map(int, re.findall(r"\d+", asked))
            assert answer is not None
            assert reaches(answer, numbers, target)
        else:
            value = evaluate(asked.replace("?", ""))
            assert value is not None
            assert extract(reply, AnswerKind.NUMBER) == str(value[0])


@pytest.mark.parametrize("name", GENERATORS)
def test_no_examples_means_an_instruction_and_room_to_think(name: str) -> None:
    bare, shown = parse_task(f"{name}:shots=0").problems(5, 7), parse_task(name).problems(5, 7)
    for one, other in zip(bare, shown, strict=True):
        assert len(one.prompt.messages) == 1
        rule, asked, instruction = question(one).split("\n")
        assert str(other.prompt.messages[0]["content"]).startswith(rule)
        assert asked == question(other)
        assert instruction.startswith("Think step by step, then finish with one line 'Answer: <")
        assert (one.stop, one.max_tokens, one.reference) == ((), None, other.reference)


def test_an_endless_task_gives_a_hundred_where_no_limit_is_set() -> None:
    assert len(parse_task("chain_sum").problems()) == 100


def test_options_that_leave_too_few_problems_are_refused() -> None:
    with pytest.raises(UsageError, match=r"hardly more than \d+ different problems"):
        parse_task("chain_sum:terms=2,digits=1").problems(500, 0)


# -- linear equations -----------------------------------------------------------------------------------------------


def coefficients(asked: str) -> tuple[int, int, int]:
    """a, b and c of `a*x + b = c`, read from the question."""
    found = re.fullmatch(r"Solve for x: (\d+)\*x ([+-]) (\d+) = (-?\d+)", asked)
    assert found is not None
    return int(found[1]), int(found[2] + found[3]), int(found[4])


def test_linear_keeps_to_its_spans() -> None:
    for problem in parse_task("linear").problems(100, 5):
        a, b, c = coefficients(question(problem))
        assert 2 <= a <= 9
        assert 1 <= abs(b) <= 20
        assert Fraction(c - b, a) == Fraction(str(problem.reference))
        assert -9 <= (c - b) // a <= 12
    for problem in parse_task("linear:a=4,x=3..90,b=1").problems(20, 5):
        a, b, c = coefficients(question(problem))
        assert (a, abs(b)) == (4, 1)
        assert 3 <= (c - b) // a <= 90


@given(index=st.integers(0, 19), guess=st.fractions(min_value=-40, max_value=40, max_denominator=9))
def test_linear_passes_exactly_what_solves_the_equation(index: int, guess: Fraction) -> None:
    problem = LINEAR[index]
    a, b, c = coefficients(question(problem))
    assert problem.check is not None
    assert problem.check(str(guess)) is (a * guess + b == c)


LINEAR = parse_task("linear").problems(20, 0)


def test_linear_reads_an_answer_however_it_is_written() -> None:
    problem = LINEAR[0]
    x = int(str(problem.reference))
    assert problem.check is not None
    for right in (f"x = {x}", f"x={x}", f"{x}.0", f"{3 * x}/3", f" {x} ", f"${x}$", str(x).replace("-", "−")):
        assert problem.check(right) is True, right
    for wrong in ("", "x", f"{x} or {x + 1}", f"{x}{x}", f"{x}e1", "1/0", "nan", "1e999999999", "9" * 10**6):
        assert problem.check(wrong) is False, wrong


# -- calculations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("6 * 3 + 7", 25, [6, 3, 7]),
        ("6 × 3 + 7 = 25", 25, [6, 3, 7]),
        ("8 ÷ (3 − 8 ÷ 3)", 24, [8, 3, 8, 3]),
        ("(1 + 2) * (3 + 4)", 21, [1, 2, 3, 4]),
        (r"6 \times 4 \div 8", 3, [6, 4, 8]),
        ("1 / 3", Fraction(1, 3), [1, 3]),
        ("2 - 3 - 4", -5, [2, 3, 4]),
        ("24", 24, [24]),
    ],
)
def test_evaluate_known_values(text: str, value: Fraction | int, numbers: list[int]) -> None:
    assert evaluate(text) == (value, numbers)


def _tree(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda a, op, b: f"({a} {op} {b})", children, st.sampled_from("+-*"), children)


@given(st.recursive(st.integers(0, 30).map(str), _tree, max_leaves=12))
def test_evaluate_agrees_with_python(text: str) -> None:
    found = evaluate(text)
    assert found is not None
    assert found[0] == eval(text)  # made above, of digits and operators
    assert found[1] == [int(number) for number in re.findall(r"\d+", text)]


HOSTILE = [
    "__import__('os').system('true')",
    "().__class__",
    "9**9**9",
    "9^9^9",
    "9//2",
    "1/0",
    "3 if 4 else 5",
    "[3, 4, 5]",
    "lambda: 3",
    "x + 3",
    "3.5 + 4",
    "0x18",
    "1_0 + 2",
    "2 + -3",
    "8(3)",
    "3 +",
    "",
    " ",
    "=",
    "\n\n",
    "3\x004",
    "٣ + ٤",
    "(" * 190,
    "(" * 95 + "3" + ")" * 95,
    "1+" * 500_000 + "1",
    "9" * 1_000_000,
    "-" * 150 + "3",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_calculation_fails_quickly(text: str) -> None:
    problem = parse_task("countdown").problems(1, 0)[0]
    assert problem.check is not None
    began = time.perf_counter()
    assert problem.check(text) is False
    assert time.perf_counter() - began < 0.5


def test_countdown_wants_each_number_exactly_once() -> None:
    assert reaches("6 * 3 + 7", [3, 6, 7], 25)
    assert reaches("7 + 3 * 6 = 25", [3, 6, 7], 25)
    for wrong in ("25", "6 * 3 + 7 + 0", "7 + 6 + 6 + 6", "6 + 3 * 7", "6 * 3", "6 * 3 + 7 - 6 + 6", "63 + 7"):
        assert not reaches(wrong, [3, 6, 7], 25), wrong


def test_countdown_shows_distinct_numbers_in_order_and_a_target_in_range() -> None:
    for problem in parse_task("countdown:numbers=4,largest=15").problems(60, 1):
        *numbers, target = map(int, re.findall(r"\d+", question(problem)))
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 4
        assert numbers[-1] <= 15
        assert 1 <= target <= 100
        # As an EXPRESSION, a right calculation could be counted as the same answer as a wrong one with its value.
        assert problem.kind is AnswerKind.TEXT


@pytest.mark.parametrize("numbers", [[3, 3, 8, 8], [1, 5, 5, 5], [4, 4, 10, 10], [1, 2, 3, 4], [24, 1, 1, 1]])
def test_solve_finds_what_can_be_found(numbers: list[int]) -> None:
    solution = solve(numbers, 24)
    assert solution is not None
    assert reaches(solution, numbers, 24)


@pytest.mark.parametrize("numbers", [[1, 1, 1, 1], [1, 1, 1, 2], [13, 13, 13, 13], [7]])
def test_solve_says_where_there_is_nothing(numbers: list[int]) -> None:
    assert solve(numbers, 24) is None


# -- chain sums -----------------------------------------------------------------------------------------------------


def test_chain_sum_has_the_terms_and_digits_asked_for() -> None:
    for problem in parse_task("chain_sum:terms=2..3,digits=2").problems(80, 1):
        terms = re.findall(r"\d+", question(problem))
        assert len(terms) in (2, 3)
        assert all(10 <= int(term) <= 99 for term in terms)
        value = evaluate(question(problem).removesuffix(" = ?"))
        assert value is not None
        assert problem.reference == str(value[0])
        assert problem.check is None


# -- the game of 24 from its file -----------------------------------------------------------------------------------


def test_game24_reads_the_published_puzzles_in_order() -> None:
    problems = parse_task(f"game24:path={SHARED / 'game24.csv'}").problems(40, seed=9)
    assert [one.id for one in problems] == [f"game24/{rank}" for rank in range(1, 41)]
    assert question(problems[0]) == "Use 1, 1, 4, 6 to make 24"
    for problem in problems:
        assert problem.check is not None
        assert problem.check(str(problem.reference)) is True
        assert question(problem) not in [message["content"] for message in problem.prompt.messages[:-1]]
    assert problems[0].check is not None
    assert problems[0].check("(1 + 1) * 4 + 16") is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "columns Rank and Puzzles; it has a, b"),
        ("", "columns Rank and Puzzles; it has none"),
        ("Rank,Puzzles\n", "holds no puzzles"),
        ("Rank,Puzzles\n1,1 2 3\n", "line 2: '1 2 3' is not four whole numbers"),
        ("Rank,Puzzles\n1,1 2 3 x\n", "line 2: '1 2 3 x' is not four whole numbers"),
        ("Rank,Puzzles\n1\n", "line 2: None is not four whole numbers"),
        ("Rank,Puzzles\n1,1 2 3 4\n2,1 1 1 1\n", "line 3: 1 1 1 1 cannot make 24"),
    ],
)
def test_game24_says_what_is_wrong_with_a_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_task(f"game24?path={path}").problems()


# -- files ----------------------------------------------------------------------------------------------------------


def test_gsm8k_loads_with_numbers_for_references_and_the_recorded_prompt() -> None:
    problems = parse_task(f"gsm8k:{SHARED / 'gsm8k_test_first1000.jsonl'}").problems()
    assert len(problems) == 1000
    assert [one.reference for one in problems[:3]] == ["18", "3", "70000"]
    assert all(Fraction(str(one.reference).replace(",", "")).denominator == 1 for one in problems)
    assert {one.kind for one in problems} == {AnswerKind.NUMBER}
    asked = question(problems[1])
    assert asked.startswith("A robe takes 2 bolts")
    assert asked.endswith("take?\nThink step by step, then finish with one line 'Answer: <number>'.")
    assert problems[7].id == "gsm8k_test_first1000/7"


def test_math500_loads_with_its_own_ids() -> None:
    problems = parse_task(f"math500:{SHARED / 'math500_first350.jsonl'}").problems()
    assert len(problems) == 350
    assert problems[1].id == "test/intermediate_algebra/1994.json"
    assert problems[1].reference == "p - q"
    assert problems[1].kind is AnswerKind.EXPRESSION
    assert question(problems[1]).endswith("\nThink step by step, then finish with one line 'Answer: <expression>'.")


Write = Callable[[Sequence[object]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(rows: Sequence[object]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows))
        return path

    return to_file


def test_rows_are_mapped_by_name(write: Write) -> None:
    path = write(
        [{"q": "2+2, or A&B?", "a": 4, "t": "assert f() == 4", "n": "one"}, {"q": "x", "a": 0.5, "t": "", "n": "two"}]
    )
    first, second = parse_task(
        f"jsonl:{path}?question=q&answer=a&id=n&tests=t&instruction=Say A%26B, please."
    ).problems()
    assert (first.id, first.reference, first.kind) == ("one", "4", AnswerKind.TEXT)
    assert question(first) == "2+2, or A&B?\nSay A&B, please."
    assert first.tests == "assert f() == 4"
    assert second.reference == "0.5"
    bare = parse_task(f"jsonl:{path}?question=q&answer=a&instruction=").problems()[0]
    assert question(bare) == "2+2, or A&B?"
    assert (bare.id, bare.tests) == ("rows/0", None)


def test_the_reference_is_what_follows_the_mark(write: Write) -> None:
    rows = [{"question": "q", "answer": "1 #### 2 #### 3"}, {"question": "q", "answer": "4 => 5"}]
    path = write(rows)
    assert [one.reference for one in parse_task(f"jsonl:{path}").problems()] == ["3", "4 => 5"]
    assert parse_task(f"jsonl:{path}?answer_after=").problems()[0].reference == "1 #### 2 #### 3"
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 1: the answer has no '=>'"):
        parse_task(f"jsonl:{path}?answer-after=%3D>").problems()
    assert parse_task(f"jsonl:{write(rows[1:])}?answer_after=%3D>").problems()[0].reference == "5"


def test_rows_come_in_order_or_shuffled_by_the_seed(write: Write) -> None:
    path = write([{"question": str(number), "answer": str(number)} for number in range(50)])
    plain, shuffled = parse_task(f"jsonl:{path}"), parse_task(f"jsonl:{path}?shuffle=true")
    assert [one.reference for one in plain.problems(3, seed=5)] == ["0", "1", "2"]
    ten = [(one.id, one.reference) for one in shuffled.problems(10, seed=5)]
    assert ten != [(one.id, one.reference) for one in plain.problems(10)]
    assert ten == [(f"rows/{reference}", reference) for _, reference in ten]
    assert ten[:4] == [(one.id, one.reference) for one in shuffled.problems(4, seed=5)]
    assert ten != [(one.id, one.reference) for one in shuffled.problems(10, seed=6)]
    assert {one.reference for one in shuffled.problems(seed=5)} == {str(number) for number in range(50)}


GOOD = {"question": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("rows", "query", "message"),
    [
        ([GOOD, b"{nope"], "", "rows.jsonl, line 2: not JSON"),
        ([GOOD, b"", b"  ", b"\xff\xfe"], "", "rows.jsonl, line 4: not JSON"),
        ([GOOD, [1, 2]], "", "rows.jsonl, line 2: expected a JSON object, not [1,2]"),
        (
            [GOOD, {"problem": "q", "answer": "1"}],
            "",
            "line 2: there is no field 'question'; the fields are 'problem', 'answer'",
        ),
        ([{}], "", "line 1: there is no field 'question'; the fields are none"),
        ([GOOD], "answer=solution", "there is no field 'solution'; the fields are 'question', 'answer'"),
        ([{"question": "q", "answer": None}], "", "the field 'answer' is neither text nor a number: None"),
        ([{"question": ["q"], "answer": "1"}], "", "the field 'question' is neither text nor a number"),
        ([GOOD, {"question": "q", "answer": "many"}], "kind=number", "line 2: the answer 'many' is no number"),
        ([GOOD, GOOD], "id=answer", "line 2: the id '1' is there twice"),
        ([], "", "rows holds no problems"),
        ([b"\n \n"], "", "rows holds no problems"),
    ],
)
def test_a_faulty_file_is_refused_by_line(write: Write, rows: list[object], query: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_task(f"jsonl:{write(rows)}?{query}").problems()


def test_faults_behind_the_limit_do_no_harm(write: Write) -> None:
    assert len(parse_task(f"jsonl:{write([GOOD, b'nope'])}").problems(1)) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(UsageError, match=f"cannot read {re.escape(str(path))}"):
            parse_task(f"gsm8k:{path}").problems()


# -- the hub --------------------------------------------------------------------------------------------------------


def _python(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, *words, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_the_package_the_hub_names_the_extra() -> None:
    run = _python(
        "import sys; sys.modules['datasets'] = None\n"
        "from thinkscale.tasks import parse_task\n"
        "parse_task('hf:openai/gsm8k?config=main').problems()"
    )
    assert "UsageError: hf:openai/gsm8k needs the package datasets: pip install 'thinkscale[datasets]'" in run.stderr


def test_the_hub_is_asked_for_dataset_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself is a third-party boundary; a stand-in shows what it is asked and how its rows are read."""
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, object]]:
        asked.append((name, config, split))
        if split == "nope":
            raise ValueError("Unknown split 'nope'")
        return [{"q": "2+2?", "answer": "so\n#### 4"}, {"q": "3+3?", "answer": "#### six"}]

    package = ModuleType("datasets")
    monkeypatch.setattr(package, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", package)
    task = parse_task("hf:openai/gsm8k?config=main&question=q&kind=number")
    (problem,) = task.problems(1)
    assert (problem.id, problem.reference, question(problem)[:5]) == ("openai/gsm8k/0", "4", "2+2?\n")
    with pytest.raises(UsageError, match="hf:openai/gsm8k, row 1: the answer 'six' is no number"):
        task.problems()
    with pytest.raises(UsageError, match="hf:openai/gsm8k cannot be loaded: Unknown split"):
        parse_task("hf:openai/gsm8k?split=nope").problems()
    assert asked == [("openai/gsm8k", "main", "test")] * 2 + [("openai/gsm8k", None, "nope")]


# -- the gym --------------------------------------------------------------------------------------------------------


async def test_the_gym_gives_its_problems_and_grades_with_its_own_scorer() -> None:
    task = parse_task("gym:chain_sum?min_terms=2&max_terms=3&max_digits=2")
    problems = task.problems(6, 1)
    assert [one.id for one in problems[:2]] == [f"{task.name}/1/0", f"{task.name}/1/1"]
    for problem in problems:
        asked = question(problem)
        assert asked.endswith("\nThink step by step, then finish with one line 'Answer: <answer>'.")
        found = re.search(r"problem: (.+) =", asked)
        assert found is not None
        assert len(re.findall(r"\d+", found[1])) in (2, 3)
        value = evaluate(found[1])
        assert value is not None
        assert problem.reference == str(value[0])
        assert problem.check is None
        assert await grade(problem, problem.reference, equivalent)
        assert not await grade(problem, str(value[0] + 1), equivalent)
        assert not await grade(problem, f"it is {value[0]}, I think", equivalent)


def test_the_gym_keeps_to_the_seed_whatever_the_limit_and_the_process() -> None:
    def asked(limit: int, seed: int) -> list[str]:
        return [
            question(one)
            for one in parse_task("gym:word_ladder?min_word_length=3&max_word_length=3").problems(limit, seed)
        ]

    four = asked(4, 1)  # a dataset that draws from sets, whose order differs where hashes do
    assert four == asked(4, 1)
    assert four[:2] == asked(2, 1)
    assert set(four).isdisjoint(asked(4, 2))


async def test_a_grid_is_answered_in_a_block() -> None:
    problem = parse_task("gym:mini_sudoku").problems(1, 0)[0]
    assert problem.kind is AnswerKind.CODE
    assert "fenced code block" in question(problem)
    assert problem.reference is not None
    answer = extract(f"Here it is:\n```\n{problem.reference}\n```\n", problem.kind)
    assert await grade(problem, answer, equivalent)


async def test_an_answer_without_end_is_wrong_and_the_next_one_is_scored() -> None:
    worker = GymWorker("countdown", {}, 1, 1, timeout_s=2.0)
    ((_, reference),) = worker.rows()
    assert reference is not None
    began = time.monotonic()
    assert await worker.score(0, "9**9**9**9") == 0.0
    assert time.monotonic() - began < 10
    assert await worker.score(0, reference) == 1.0
    worker.close()


async def test_an_answer_that_is_a_program_does_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    answer = f"[open({str(mark)!r}, 'w').close(), __import__('os').system('touch {mark}')]"
    unguarded = _python(
        "from reasoning_gym import create_dataset\n"
        "dataset = create_dataset('string_insertion', seed=1, size=1)\n"
        f"dataset.score_answer({answer!r}, dataset[0])"
    )
    assert unguarded.returncode == 0, unguarded.stderr
    assert mark.exists()  # the scorer does run it where nothing holds it
    mark.unlink()
    (problem,) = parse_task("gym:string_insertion").problems(1, 1)
    assert not await grade(problem, answer, equivalent)
    assert not mark.exists()
    assert await grade(problem, problem.reference, equivalent)


def _held(folder: Path) -> int:
    return len(list(folder.iterdir()))


async def test_the_gym_leaves_no_process_and_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = GymWorker("chain_sum", {}, 1, 1)
    worker.rows()
    assert worker._process is not None
    pid = worker._process.pid
    os.kill(pid, 0)
    assert _held(tmp_path) == 1
    scoring = asyncio.ensure_future(worker.score(0, "1"))
    await asyncio.sleep(0)
    scoring.cancel()
    await asyncio.gather(scoring, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
    del worker, scoring
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert _held(tmp_path) == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gym:chain_sun", "task gym:chain_sun: there is no such dataset (did you mean chain_sum?); there are"),
        (
            "gym:chain_sum?min_term=2",
            "there is no option 'min_term' (did you mean min_terms?); there are min_terms, max_terms",
        ),
        ("gym:chain_sum?seed=2", "there is no option 'seed'"),
        ("gym:chain_sum?min_terms=two", "min_terms=two is not valid: expected a whole number"),
        ("gym:chain_sum?allow_negation=1", "allow_negation=1 is not valid: expected true or false"),
        ("gym:chain_sum?min_terms=9", "max_terms must be >= min_terms"),
        ("gym:chain_sum?size=0", "size must be positive"),
        ("gym:complex_arithmetic?operations=x", 'operations=x is not valid: expected JSON, such as ["a", "b"]'),
    ],
)
def test_the_gym_says_what_does_not_fit(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_task(spec).problems(1)


def test_without_the_package_the_gym_names_the_extra() -> None:
    """-S leaves all installed packages out, so this one is really missing."""
    run = _python("from thinkscale.tasks import parse_task; parse_task('gym:chain_sum').problems()", "-S")
    assert "UsageError: gym:chain_sum needs the package reasoning-gym: pip install 'thinkscale[tasks]'" in run.stderr


# -- specs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "lineer",
            "unknown task 'lineer' (did you mean linear?); known: linear, countdown, game24, chain_sum, gsm8k:FILE",
        ),
        ("", "unknown task ''; known: linear"),
        ("gsm8k", "task gsm8k does not say which: write gsm8k:FILE"),
        ("gym:", "task gym does not say which: write gym:DATASET"),
        ("linear:shots", "task linear: 'shots' is not key=value"),
        ("linear:=3", "task linear: '=3' is not key=value"),
        ("linear:b=3,b=4", "task linear: b is given twice"),
        (
            "linear:shotz=3",
            "task linear has no option 'shotz' (did you mean shots?); it has shots=6,a=2..9,x=-9..12,b=20",
        ),
        ("linear:shots=9", "task linear: shots must lie within 0..8, not 9"),
        ("linear:a=0..4", "task linear: a must lie within 1..1000000, not 0..4"),
        ("linear:a=5..4", "task linear: a=5..4 is not valid: 5..4 is empty: write the smaller number first"),
        ("linear:a=few", "task linear: a=few is not valid: expected 3 or 2..4"),
        ("linear:b=0", "task linear: b must lie within 1..1000000, not 0"),
        ("linear:b=1.5", "task linear: b=1.5 is not valid: expected a whole number"),
        ("countdown:numbers=7", "task countdown: numbers must lie within 2..6, not 7"),
        ("countdown:largest=5", "task countdown: largest must lie within 6..100, not 5"),
        ("chain_sum:terms=1..2", "task chain_sum: terms must lie within 2..20, not 1..2"),
        ("chain_sum:digits=0", "task chain_sum: digits must lie within 1..12, not 0"),
        (
            "jsonl:x?kind=nubmer",
            "kind=nubmer is not valid: expected one of number, choice, text, expression, json, code",
        ),
        ("jsonl:x?shuffle=yes", "shuffle=yes is not valid: expected true or false"),
        ("jsonl:x?path=y", "task jsonl has no option 'path'"),
        ("hf:x?splt=y", "task hf has no option 'splt' (did you mean split?)"),
    ],
)
def test_a_wrong_spec_is_explained(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        parse_task(spec)


def test_both_forms_of_options_mean_the_same() -> None:
    assert parse_task("countdown:numbers=4,shots=2") == parse_task(" countdown?numbers=4&shots=2")
    assert parse_task("countdown:numbers=4,shots=2").name == "countdown:shots=2,numbers=4"
    assert parse_task("countdown:numbers=3") == parse_task("countdown")


def test_importing_tasks_loads_nothing_heavy() -> None:
    run = _python(
        "import sys; import thinkscale.tasks as tasks; tasks.parse_task('linear'); tasks.parse_task('gsm8k:x')\n"
        "heavy = {'numpy', 'sympy', 'math_verify', 'reasoning_gym', 'datasets', 'aiohttp', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run.stdout == "[]\n", run.stderr


# -- grading --------------------------------------------------------------------------------------------------------


def problem_with(
    kind: AnswerKind = AnswerKind.TEXT,
    reference: str | None = None,
    check: Callable[[str], bool | None] | None = None,
    tests: str | None = None,
) -> Problem:
    return Problem("p", Prompt.of("?"), kind, reference, check, tests=tests)


@pytest.mark.parametrize(
    ("kind", "reference", "right", "wrong"),
    [
        (AnswerKind.NUMBER, "70000", "70,000.00", "7000"),
        (AnswerKind.NUMBER, "0.5", "1/2", "0.49999999999999999999"),
        (AnswerKind.CHOICE, "B", "(b)", "A"),
        (AnswerKind.TEXT, "New York", "new  york.", "york"),
        (AnswerKind.EXPRESSION, r"\frac{1}{2}", "0.5", "2"),
    ],
)
async def test_an_answer_is_compared_with_the_reference_by_kind(
    kind: AnswerKind, reference: str, right: str, wrong: str
) -> None:
    problem = problem_with(kind, reference)
    assert await grade(problem, right, equivalent)
    assert not await grade(problem, wrong, equivalent)
    assert not await grade(problem, None, equivalent)


async def test_the_check_goes_before_the_reference_unless_it_cannot_tell() -> None:
    sure = problem_with(reference="a", check=lambda answer: answer == "b")
    assert await grade(sure, "b", equivalent)
    assert not await grade(sure, "a", equivalent)
    unsure = problem_with(reference="a", check=lambda _answer: None)
    assert await grade(unsure, "a", equivalent)
    assert not await grade(unsure, "b", equivalent)


async def test_tests_decide_where_there_are_some() -> None:
    async def passes_tests(code: str, tests: str) -> bool:
        return tests == f"assert {code}"

    problem = problem_with(AnswerKind.CODE, reference="other", tests="assert f")
    assert await grade(problem, "f", equivalent, passes_tests)
    assert not await grade(problem, "other", equivalent, passes_tests)
    with pytest.raises(UsageError, match="problem p is graded by tests"):
        await grade(problem, "f", equivalent)


async def test_what_cannot_be_graded_is_an_error() -> None:
    with pytest.raises(UsageError, match="problem p cannot be graded"):
        await grade(problem_with(), "a", equivalent)
