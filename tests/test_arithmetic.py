"""The arithmetic verifier: what it finds right, wrong, or nothing to judge, in the many ways people write."""

from __future__ import annotations

import asyncio
import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.models.base import Model
from thinkscale.types import AnswerKind, Candidate, Params, Prompt, Request
from thinkscale.verifiers.arithmetic import Arithmetic, check
from thinkscale.verifiers.steps import Solution, Stepwise

REQUEST = Request(Prompt.of("How many?"), AnswerKind.NUMBER)


async def silent(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
    raise AssertionError("this verifier asks no model")


RIGHT = [
    "18 - 6 = 12",
    r"Since there were 18 flamingos, \(1/3 \times 18 = 6\) flamingos are taken back.",
    r"\[ \frac{3}{5} \times 30 = 18 \] This means 18 cats ran after a mouse.",
    r"\[ \text{Time} = \frac{480 \text{ miles}}{60 \text{ miles/hour}} = 8 \text{ hours} \]",
    r"\dfrac12 + \tfrac{1}{2} = 1",
    r"We get $12 \div 4 = 3$ and then $3 \cdot 5 = 15$.",
    "12 ÷ 4 = 3 and 3 × 5 = 15",
    r"20\% of 50 = 10",
    "20% of 50 is 10.",
    "0.99 * $5 = $4.95",
    "12 eggs * $0.50/egg = $6",
    "3 apples + 2 apples = 5 apples",
    "Total travel time: 2 hours (to the museum) + 2 hours (back home) = 4 hours.",
    "$1,250 + $2,750 = $4,000",
    r"1{,}250 + 2{,}750 = 4{,}000 = 4,\!000",
    "This gives us (60 * 4) / 5 = 240 / 5 = 48 lines.",
    "10 / 3 = 3.33",
    "10 / 3 ≈ 3.3",
    "2 / 3 = 0.66",
    r"\frac{2987}{3} \approx 1000",
    "5 / 20 = 25%",
    "5 / 20 * 100 = 25%",
    "100% - 20% = 80%",
    "$50 + 20% = $60",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.",
    "**3 + 4 = 7**",
    "So the total is **5** + **3** = **8**.",
    r"7 + 10 = \boxed{17}",
    "- 5 + 3 = 8",
    "1. First, 5 + 3 = 8",
    "2(3 + 4) = 14",
    "2**3 = 8",
    "2^{3} + 1 = 9",
    "5² = 25",
    r"\sqrt{16} + 1 = 5",
    "7 // 2 = 3",
    "total = 3 * 4 == 12",
    "5 + 3 = 8 * 2 = 16",
    "2 + 3\n= 5",
    r"\begin{align*} x &= 3 + 4 \\ &= 7 \end{align*}",
    "3 1/2 + 1/2 = 4",
    "1 ½ × 2 = 3",
    "-3 + 5 = 2",
    "5 - 8 = -3",
    "half of 48 is 24",
    "Half of the 48 clips is 24 clips",
    "half of 48 = 24",
    "two-thirds of 18 is 12",
    "3 times 4 is 12",
    "twice 12 is 24",
    "5 plus 3 is 8",
    "12 divided by 4 equals 3",
    "5 dozen is 60",
    "3 dozen eggs * 2 = 6 dozen eggs",
    "20% of 50 is equal to 10",
    "60 x 60 = 3600 seconds",
    "3x4=12",
    "2 hours * 60 minutes/hour = 120 minutes",
    "5 hours = 60 * 5 = 300 minutes",
    r"\(2(x + 3) = 2x + 6\)",
    r"\(x + 2x + 5 = 3x + 5\)",
    "4x = 100, so x = 25.",
    "3x + 4 = 19 and thus:\n3x = 15\nx = 5",
    "Total = 52 + 24 + 44. Total = 120.",
    "5 * 10-minute breaks = 50 minutes",
    "1.5 \\times 10^3 = 1500",
    "1.5e3 + 0 = 1500",
    "2 + 2 > 3 and 3 * 3 = 9",
    "10 / 3 = 3.333...",
    "(5 * 3 = 15) minutes",
]


@pytest.mark.parametrize("step", RIGHT)
def test_what_holds_passes(step: str) -> None:
    verdict = check(step)
    assert (verdict.score, verdict.passed) == (1.0, True), verdict.reason


WRONG = [
    ("18 - 6 = 13", "18 - 6 = 13 is wrong: it is 12"),
    (r"\[ \frac{3}{5} \times 30 = 20 \]", r"\frac{3}{5} \times 30 = 20 is wrong: it is 18"),
    ("She has 7995 (total) - 2595 (rainbow) = 4500 cookies", "it is 5400"),
    ("495 students * $15/student = $7455.", "it is 7425"),
    (r"\(50 + 70 + 140 + 240 = 400\)", "it is 500"),
    (r"\$10 + \$24 + \$12 + \$14 = \$50", "it is 60"),
    ("5 + 3 = 8, 8 * 2 = 17, 17 + 1 = 18", "8 * 2 = 17 is wrong: it is 16"),
    ("2 * 22 - 8 = 46 - 8 = 38", "2 * 22 - 8 = 46 - 8 is wrong: it is 36"),
    ("10 / 4 = 2.6", "it is 2.5"),
    ("10 / 3 = 3.43", "it is 3.33333"),
    ("10 / 3 ≈ 3.5", "it is 3.33333"),
    ("20% of 50 is 12", "it is 10"),
    ("half of 48 is 25", "it is 24"),
    ("3 times 4 is 13.", "it is 12"),
    ("5 dozen is 62", "it is 60"),
    ("twice 12 is 25", "it is 24"),
    ("Natalia sold 48/2 = <<48/2=26>>26 clips", "it is 24"),
    ("**3 + 4 = 8**", "it is 7"),
    (r"7 + 10 = \boxed{18}", "it is 17"),
    ("1,000 * 3 = 3,300", "it is 3000"),
    ("2(3 + 4) = 15", "it is 14"),
    ("2**3 = 6", "it is 8"),
    (r"\sqrt{16} + 1 = 6", "it is 5"),
    ("On day 2 he had 5 + 3 = 9 apples", "it is 8"),
    ("We know that 4 + 4 = 9", "it is 8"),
    (r"Stan has \( 4x - 13 = 4(40) - 13 = 157 \)", "4(40) - 13 = 157 is wrong: it is 147"),
    (r"\[x + 2x + 2x = 7x\]", "x + 2x + 2x = 7x is wrong"),
    ("Total earnings = $3.00 + $3.00 + $1.50 + $1.50. Total earnings = $8.00.", "it is 9"),
    ("Total = 1A + 60 + 1.75A. Total = 2A + 60.", "is wrong"),
    ("This gives 150 + x = 500. Subtracting 150, we get x = 200.", "x = 200 does not follow: x was 350"),
    ("0.25x - 0.4x = 90\n0.05x = 90", "0.05x = 90 does not follow: x was -600"),
    ("The rest (12 - 5 = 8) is left", "12 - 5 = 8 is wrong: it is 7"),
    ("total = 3 * 4 == 13", "it is 12"),
    ("5 cm + 3 cm = 9 cm", "it is 8"),
    ("half a dozen is 6/2 = 4", "6/2 = 4 is wrong: it is 3"),
]


@pytest.mark.parametrize(("step", "reason"), WRONG)
def test_what_does_not_hold_fails_and_says_why(step: str, reason: str) -> None:
    verdict = check(step)
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert reason in verdict.reason


UNCLEAR = [
    "",
    "Erin starts with 7 lollipops.",
    "Let x be the number of apples.",
    r"\[ 10n + 10 = 120 \]",
    r"\( J_c = 3O_c \)",
    r"\[ \text{Total} = \text{Rate} \times \text{Time} \]",
    "Total cost = 20 + 4*x",
    "price - 3 = 5",
    "Chips - 5 * 3 = 14",
    "Step 2 - 5 * 3 = 15",
    "1 foot = 12 inches",
    "$0.25 * 4 = 100 cents",
    "10 dozen = 5 cartons",
    "3 small beans = 1 medium bean",
    "8 batches = 5.5 * 8",
    "2 weeks = 7 * 2 days",
    "3 shirts + 2 pants = $50",
    "1 hour + 30 minutes = 90",
    "The cost of 3 shirts + 5 = 50",
    "the sum of 3, 4, and 5 + 6 = 18",
    "twice as many as 5 + 3 = 16",
    "the ratio is 3:4 = 6:8",
    "11 PM + 9 hours = 8 AM",
    "Since 3/4 is equal to $15, then 1/4 is $5.",
    "1/2 a cup = 4 ounces",
    "25 / 1/3 = 75",
    "0900-0130 = 0730 hours",
    "5! = 120",
    "1 + 2 + ... + 10 = 55",
    "(1/4) x = 20",
    "2x + 5 = 15",
    "2/3 of the students = 12",
    "30% of the students + 5 = 17",
    "100 / people = 5",
    "17 mod 5 = 2",
    "5 + 3 = 7?",
    "It is not true that 5 + 3 = 9.",
    "Suppose that 5 + 3 = 9.",
    "If x = 1, then x - 3 = 0; if x = 2, 2x = 5",
    "5 + 3 is more than 7",
    "3 times 4 is 2 more than 10",
    "3 times 4 is greater than 10",
    "7 / 2 = 3 remainder 1",
    r"\begin{pmatrix} 1 \\ 2 \end{pmatrix} = 5 \begin{pmatrix} 3 \\ 4 \end{pmatrix}",
    "1 + 1 != 3",
    "5 + 3 <= 9",
    "x = 26 - 24 and y = 10",
    r"$a = 2/3$ and $b = 1/3$",
    "Friday, 5 + apples = 9",
    "def f(x): return x + 1 == 3",
]


@pytest.mark.parametrize("step", UNCLEAR)
def test_what_is_unclear_is_not_judged(step: str) -> None:
    verdict = check(step)
    assert (verdict.score, verdict.passed) == (None, None), verdict.reason


# -- rounding, and steps together ---------------------------------------------------------------------------------


async def verdicts(*solutions: Solution) -> list[list[float | None]]:
    judged = await Arithmetic().judge(REQUEST, solutions, silent)
    return [[verdict.score for verdict in of_one] for of_one in judged]


async def test_each_step_is_judged_and_those_judged_before_are_not_repeated() -> None:
    steps = ("Start: 3 + 4 = 7.", "\n\nThen 7 + 5 = 13.", "\n\nSo it is 13.")
    assert await verdicts(Solution(steps), Solution(steps, 1), Solution(steps, 3)) == [
        [1.0, 0.0, None],
        [0.0, None],
        [],
    ]


async def test_a_rounded_result_is_carried_on_with_its_error() -> None:
    steps = ("Each is 100 / 3 = 33.33.", "\n\nTwo of them are 33.33 * 2 = 66.67.", "\n\nAll are 33.33 * 3 = 100.")
    assert await verdicts(Solution(steps)) == [[1.0, 1.0, 1.0]]
    assert check("33.33 * 2 = 66.67").passed is False  # nothing says that 33.33 was rounded
    assert (await verdicts(Solution((steps[0], "33.33 * 2 = 67.66"))))[0][1] == 0.0


async def test_a_candidate_fails_at_its_wrong_step() -> None:
    text = "First, 3 + 4 = 7.\n\nSo far nothing else.\n\nThen 7 * 5 = 45."
    (verdict,) = await Stepwise(Arithmetic()).verify(REQUEST, [Candidate((0,), REQUEST.prompt, text)], silent)
    assert (verdict.score, verdict.passed, verdict.steps) == (0.0, False, (1.0, None, 0.0))
    assert verdict.reason == "step 3: 7 * 5 = 45 is wrong: it is 35"


# -- properties ---------------------------------------------------------------------------------------------------

WHOLE = st.integers(1, 999)
SIGNS = {"+": ["+", "plus"], "-": ["-", "−", "minus"], "*": ["*", "×", "x", r"\times", r"\cdot", "times"]}


@st.composite
def sums(draw: st.DrawFn) -> tuple[list[str], Fraction]:
    """Terms with their signs in one of several ways of writing, and the exact value."""
    signs = draw(st.lists(st.sampled_from("+-*"), min_size=1, max_size=4))
    numbers = [draw(WHOLE) for _ in range(len(signs) + 1)]
    value, product, sign = Fraction(0), Fraction(numbers[0]), 1
    for operator, number in zip(signs, numbers[1:], strict=True):
        if operator == "*":
            product *= number
        else:
            value, product, sign = value + sign * product, Fraction(number), 1 if operator == "+" else -1
    written = [draw(st.sampled_from(SIGNS[operator])) for operator in signs]
    unit = draw(st.sampled_from(["", " apples", " miles/hour", " (each)"]))
    money = draw(st.sampled_from(["", "$", r"\$"])) if not unit else ""
    parts = [f"{money}{number:{draw(st.sampled_from(['', ',']))}}{unit}" for number in numbers]
    return [
        parts[0],
        *(piece for pair in zip(written, parts[1:], strict=True) for piece in pair),
    ], value + sign * product


STYLES = [
    "{left} = {right}",
    "So there are {left} = {right} left.",
    r"Therefore, \({left} = {right}\) remain.",
    "\\[\n{left} = {right}\n\\]",
    r"\[ \text{{Total}} = {left} = \boxed{{{right}}} \]",
    "**{left} = {right}**",
    "- Total: {left} = {right}.",
    "Total = {left}. Total = {right}.",
    "We get <<{left}={right}>>.",
    "{left} is {right}.",
    "{left} equals {right}",
]


@settings(max_examples=300, deadline=None)
@given(sums(), st.sampled_from(STYLES), st.integers(-5000, 5000).filter(bool))
def test_a_true_sum_never_fails_and_a_changed_one_always_does(
    sum_: tuple[list[str], Fraction], style: str, change: int
) -> None:
    parts, value = sum_
    left = " ".join(parts)
    told = check(style.format(left=left, right=f"{value}"))
    assert told.passed is True, told.reason
    assert check(style.format(left=left, right=f"{value + change}")).passed is False


@settings(max_examples=200, deadline=None)
@given(
    WHOLE,
    WHOLE,
    st.integers(0, 4),
    st.sampled_from(["{a} / {b}", "{a} ÷ {b}", r"\frac{{{a}}}{{{b}}}", r"{a} \div {b}"]),
)
def test_a_quotient_may_be_rounded_to_any_digit_but_not_be_another(a: int, b: int, places: int, style: str) -> None:
    exact, unit = Fraction(a, b), Fraction(1, 10**places)
    left = style.format(a=a, b=b)
    rounded = round(exact / unit) * unit
    assert check(f"so {left} = {float(rounded):.{places}f}").passed is not False
    # two units off is no rounding; 4/7 = 24 may mean 4/7 of something
    verdict = check(f"so {left} = {float(rounded + 2 * unit):.{places}f}")
    assert verdict.passed is False or exact < 1


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 100),
    st.integers(1, 500),
    st.sampled_from(["{p}% of {n} is {r}", r"{p}\% \times {n} = {r}", "{n} * {p}% = {r}"]),
)
def test_percentages(percent: int, of: int, style: str) -> None:
    exact = Fraction(percent * of, 100)
    assert check(style.format(p=percent, n=of, r=float(exact))).passed is True
    wrong = check(style.format(p=percent, n=of, r=float(exact + 1)))
    assert wrong.passed is False or exact + 1 in (percent * of, Fraction(of * (100 + percent), 100))


# -- hostile and broken input -------------------------------------------------------------------------------------

HOSTILE = [
    "9**9**9**9**9 = 1",
    "2^{999999999999} = 1",
    "10^400 * 10^400 * 10^400 * 10^400 * 10^400 = 1",
    "1e99999999 + 1 = 2",
    "(" * 4000 + "1" + ")" * 4000 + " = 2",
    "\\frac{" * 3000 + "1",
    r"\sqrt" * 5000 + "{4} = 3",
    "-" * 5000 + "5 = 5",
    "1" * 15000 + " + 1 = 2",
    "1 + " * 4000 + "1 = 3",
    "1 is " * 4000,
    "a 1 " * 4000 + "= 2",
    "1 (a " * 3000 + "= 2",
    "x = " * 4000,
    "\\(" * 8000,
    " " * 19000 + "=",
    "\n" * 19000 + "=",
    "of the " * 2500,
    "1,000" * 3000,
    "\\begin{matrix}" * 1200,
    "**" * 9000,
    "<<" * 9000,
    "1 + 1 = 3 " * 4000,  # longer than any step
    "__import__('os').system('exit 1') + 1 = 2",
    "(lambda: 1/0)() = 3",
    "1 / 0 = 5",
    "0 ** -1 = 0",
    "1 / (3 - 3) = 1",
    "\x00 1 + 1 = 2 \ud800",
    "١ + ١ = ٣",
]


@pytest.mark.parametrize("step", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_steps_neither_run_nor_hang(step: str) -> None:
    began = time.perf_counter()
    verdicts = [check(step), check(step[:9_999])]  # longer texts are not read at all
    assert time.perf_counter() - began < 1.0
    assert {verdict.score for verdict in verdicts} <= {None, 0.0, 1.0}


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,+-*/^=()[]{}%$\\ \n<>xaof is times half", max_size=80))
def test_any_text_gets_a_verdict(step: str) -> None:
    verdict = check(step)
    assert (verdict.score, verdict.passed) in ((1.0, True), (0.0, False), (None, None))


async def test_others_run_between_solutions() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await Arithmetic().judge(REQUEST, [Solution(("1 + 1 = 2",))] * 20, silent)
    counting.cancel()
    assert turns >= 20


# -- people's own solutions ---------------------------------------------------------------------------------------

GOLD = Path("../shared/data/tasks/gsm8k_test_first1000.jsonl")


def test_the_solutions_of_gsm8k_hold() -> None:
    """1000 solutions in 4615 lines. The two that fail are wrong as they are written."""
    answers = [json.loads(line)["answer"] for line in GOLD.read_text().splitlines()]
    told = [check(line) for answer in answers for line in answer.split("\n")]
    assert len(told) == 4615
    assert sum(verdict.score is not None for verdict in told) >= 3300
    assert {verdict.reason for verdict in told if verdict.passed is False} == {
        "364 / 4 = 273 yards is wrong: it is 91",
        "3.65 ÷ .05 = 69 is wrong: it is 73",
    }
