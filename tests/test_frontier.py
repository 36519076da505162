"""The cost-accuracy frontier, on banks whose answers are known by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from browser import browser
from typer.testing import CliRunner

from thinkscale.accounting import Price
from thinkscale.banks import Bank, BankModel, BankProblem, BankSample
from thinkscale.banks.parquet import write_bank
from thinkscale.cli.app import app
from thinkscale.errors import UsageError
from thinkscale.optimize.bootstrap import Bootstrap
from thinkscale.optimize.choosing import beside, best_for, cheapest_for
from thinkscale.optimize.difficulty import by_difficulty
from thinkscale.optimize.fitted import fitted
from thinkscale.optimize.frontier import (
    Extra,
    Frontier,
    Row,
    by_engine,
    coverage,
    frontier,
    pareto,
    rotations,
    summary,
    tables_of,
)
from thinkscale.optimize.frontier_page import page
from thinkscale.optimize.settings import Setting
from thinkscale.optimize.stats import pass_at_k
from thinkscale.policies.artifact import Artifact
from thinkscale.types import Action, Request, Seen

HOSTILE = '</script><script>document.title = "broken"</script><img src=x onerror=alert(1)><!--<script> & \u2028'


def drawn(
    model: str, answers: Sequence[str], *, tokens: int = 10, seconds: float | None = None, judged: bool = False
) -> list[BankSample]:
    """Samples of problems p0, p1, …: a word for each, a letter for each sample; R is right, - no answer, else wrong."""
    return [
        BankSample(
            f"p{problem}",
            model,
            place,
            None if letter == "-" else letter,
            letter == "R",
            prompt_tokens=5,
            output_tokens=tokens,
            seconds=seconds,
            scores={"checker": float(letter == "R")} if judged else {},
        )
        for problem, word in enumerate(answers)
        for place, letter in enumerate(word)
    ]


def bank(*samples: list[BankSample], models: Sequence[BankModel] = (), task: str | None = "made") -> Bank:
    flat = [one for part in samples for one in part]
    problems = dict.fromkeys(one.problem for one in flat)
    names = dict.fromkeys(one.model for one in flat)
    return Bank(
        [BankProblem(problem) for problem in problems],
        models or [BankModel(name) for name in names],
        flat,
        task=task,
    )


MIXED = ["RRRRRRRR", "RRRRRabR", "RRaRRbRR", "aRbRcRdR", "aaRaaRaa", "aaaaaaaa", "RaRbRcdR", "abcdefgh"]


def found(words: str, of: Frontier, model: str | None = None) -> Row:
    return next(row for row in of.rows if row.setting.name == words and model in (None, row.model))


def test_accuracy_and_cost_are_those_of_the_samples() -> None:
    of = frontier(bank(drawn("m", MIXED)), repeats=8)
    single = found("single", of)
    rates = [word.count("R") / len(word) for word in MIXED]
    # Eight rotations of eight samples: each comes first once.
    assert single.correct == pytest.approx(rates)
    assert single.cost("tokens") == 15
    whole = found("self-consistency:n=8", of)
    assert whole.cost("tokens") == 8 * 15
    majority = [1, 1, 1, 1, 0, 0, 1, None]  # the last is a tie of eight, won by whoever comes first: never R
    assert list(whole.correct[:7]) == majority[:7]
    assert whole.correct[7] == 0
    assert of.axes == ["tokens"], "neither a price nor times are known"


def test_every_setting_has_the_coverage_of_what_it_drew() -> None:
    of = frontier(bank(drawn("m", MIXED, judged=True)), repeats=8)
    for row in of.rows:
        assert row.covered is not None
        assert np.all(row.covered >= row.correct - 1e-12)
    checked = found("best-of-n:n=8,batches=8 by checker", of)
    assert checked.covered is not None
    assert np.array_equal(checked.correct, checked.covered), "an exact checker finds what is there"
    (curve,) = of.coverage.values()
    assert [one.n for one in curve] == [1, 2, 3, 4, 5, 6, 8]
    assert curve[-1].share.mean == 6 / 8
    assert curve[0].share.mean == pytest.approx(sum(word.count("R") for word in MIXED) / 64)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_coverage_is_the_unbiased_pass_at_k(k: int) -> None:
    (table,) = tables_of(bank(drawn("m", MIXED))).values()
    assert coverage(table, k) == pytest.approx([pass_at_k(8, word.count("R"), k) for word in MIXED])


def test_rotations_are_orders_in_which_every_sample_comes_early_alike() -> None:
    places = np.array([[0, 1, 2, 3], [7, 9, 8, 4]])
    for repeats in (1, 3, 4, 7, 8):
        given = rotations(places, repeats, seed=1)
        assert given.shape == (repeats, 2, 4)
        assert np.array_equal(np.sort(given, axis=2), np.broadcast_to(np.sort(places, axis=1), given.shape))
    for problem, place in product(range(2), range(4)):
        assert sorted(given[:, problem, place]) == sorted([*places[problem]] * 2)


def rows(*points: tuple[float, Sequence[float]], by: str = "tokens") -> Frontier:
    """A frontier of rows with these costs and these accuracies by problem."""
    width = len(points[0][1])
    made = [
        Row(
            "m",
            Setting(f"s{place}"),
            np.array(correct, float),
            None,
            {"tokens": None, "usd": None, "seconds": None, by: np.full(width, cost)},
            np.full(width, cost),
            np.ones(width),
            np.ones(width),
        )
        for place, (cost, correct) in enumerate(points)
    ]
    tables = tables_of(bank(drawn("m", ["R"] * width)))
    return Frontier("made", tables, made, Bootstrap(width), {}, {}, ())


HALF, MOST, ALL = [1, 0] * 50, [1] * 90 + [0] * 10, [1] * 100


def test_the_pareto_front_is_what_none_beats() -> None:
    of = rows((10, HALF), (10, MOST), (20, HALF), (20, MOST), (30, ALL), (40, ALL), (5, [0] * 100))
    assert [row.setting.name for row in pareto(of.rows)] == ["s6", "s1", "s4"]
    assert pareto(of.rows, "usd") == [], "nothing is known of its cost in dollars"


def test_the_cheapest_for_a_target_says_how_sure_it_is() -> None:
    of = rows((10, HALF), (30, MOST), (50, ALL))
    near = cheapest_for(of, 0.89)
    assert near.row is of.rows[1]
    assert near.sure is of.rows[2], "an interval around 0.9 holds less than 0.89"
    assert "s1: 90.0% [8" in near.words
    clear = cheapest_for(of, 0.7)
    assert clear.row is clear.sure is of.rows[1]
    out = cheapest_for(rows((10, HALF), (30, MOST)), 0.99)
    assert out.row is None
    assert out.words.startswith("No setting reaches 99.0%: the highest is s1: 90.0%")
    assert "cannot rule it out" in cheapest_for(rows((30, MOST)), 0.91).words
    assert "not known" in cheapest_for(of, 0.5, "usd").words


def test_the_best_for_a_cost_names_the_cheaper_one_that_may_be_as_good() -> None:
    of = rows((10, HALF), (30, MOST), (31, [*MOST[:-1], 1]), (50, ALL))
    assert best_for(of, 30).row is of.rows[1]
    close = best_for(of, 40)
    assert close.row is of.rows[2]
    assert close.sure is of.rows[1], "one problem of a hundred more is no difference"
    assert best_for(of, 50).sure is of.rows[3]
    nothing = best_for(of, 9)
    assert nothing.row is None
    assert "the cheapest is s0" in nothing.words
    assert "not known" in best_for(of, 1, "seconds").words


def test_intervals_cover_the_truth() -> None:
    """95% intervals of a known mean, over 400 draws of 80 problems."""
    rng = np.random.default_rng(5)
    bootstrap = Bootstrap(80)
    held = 0
    for _ in range(400):
        figure = bootstrap.share(rng.binomial(4, 0.3, 80) / 4)
        assert figure.low is not None
        assert figure.high is not None
        held += figure.low <= 0.3 <= figure.high
    assert 0.91 <= held / 400 <= 0.98


def test_the_best_of_many_is_not_sure_by_luck() -> None:
    """Of 40 rivals no better than the reference, the luckiest is called better in about one draw of 20 at most."""
    rng = np.random.default_rng(6)
    bootstrap = Bootstrap(60, resamples=400)
    wrong = 0
    for _ in range(100):
        _, surely = bootstrap.surely_above(rng.random((60, 40)), rng.random(60))
        wrong += bool((surely > 0).any())
    assert wrong / 100 <= 0.12
    means, surely = bootstrap.surely_above(rng.random((60, 40)) + 0.5, rng.random(60))
    assert (surely > 0).all()
    assert (surely < means).all()


def test_few_problems_cannot_tell() -> None:
    one = frontier(bank(drawn("m", ["RRab"])), repeats=4)
    assert one.bootstrap.share(one.rows[0].correct).low is None
    assert any("One problem" in note for note in one.notes)
    assert "cannot tell" in str(one.bootstrap.share(one.rows[0].correct))
    assert "Cannot tell" in cheapest_for(one, 0.4).words
    assert "Cannot tell" in best_for(one, 1000).words
    assert np.isnan(Bootstrap(4).surely_above(np.ones((4, 1)), np.zeros(4))[1]).all()


@pytest.mark.parametrize(("letter", "said"), [("R", "every sample of m is right"), ("a", "every sample of m is wrong")])
def test_no_variance_is_said_and_not_taken_for_certainty(letter: str, said: str) -> None:
    of = frontier(bank(drawn("m", [letter * 4] * 6)), repeats=2)
    assert any(said in note for note in of.notes)
    share = of.bootstrap.share(of.rows[0].correct)
    assert share.low is not None
    assert share.high is not None
    assert share.high - share.low > 0.3, "six problems alike leave much open"
    assert [row.setting.name for row in pareto(of.rows)] == ["single"]


def test_banks_that_cannot_tell_are_refused() -> None:
    ungraded = Bank([BankProblem("p")], [BankModel("m")], [BankSample("p", "m", 0, "a", output_tokens=3)])
    with pytest.raises(UsageError, match="not graded"):
        frontier(ungraded)
    with pytest.raises(UsageError, match="no samples"):
        frontier(Bank([BankProblem("p")], [BankModel("m")], []))
    apart = Bank(
        [BankProblem("p"), BankProblem("q")],
        [BankModel("m"), BankModel("n")],
        [BankSample("p", "m", 0, "a", True, output_tokens=3), BankSample("q", "n", 0, "a", True, output_tokens=3)],
    )
    with pytest.raises(UsageError, match="m and n have no problem in common"):
        frontier(apart)
    with pytest.raises(UsageError, match="no model x to weigh"):
        frontier(bank(drawn("m", MIXED)), weights={"x": 2.0})
    made = bank(drawn("m", MIXED))
    with pytest.raises(UsageError, match="refine cannot be replayed"):
        frontier(made, extras=[Extra(Setting("refine"), by_engine(made))], repeats=1)


def test_what_cannot_be_simulated_runs_itself() -> None:
    made = bank(drawn("m", MIXED))
    extra = Setting("self-consistency:n=6")
    of = frontier(made, extras=[Extra(extra, by_engine(made))], repeats=2)
    simulated, run = (row for row in of.rows if row.setting == extra)
    assert np.array_equal(simulated.correct, run.correct)
    assert np.array_equal(simulated.tokens, run.tokens)


def two_models(weight: float | None = None, price: bool = False) -> Frontier:
    """A small model whose vote is right where its samples are mostly so, and a large one, sampled once."""
    made = bank(
        drawn("small", ["RRRRRRab", "RRRRRabR", "aRRRRRRb"] * 8),
        drawn("large", ["R", "R", "a"] * 8),
        models=[
            BankModel("small", Price(1, 1) if price else None, 8),
            BankModel("large", Price(20, 20) if price else None),
        ],
    )
    return frontier(made, weights=None if weight is None else {"large": weight}, repeats=8)


@pytest.mark.parametrize(("weight", "price"), [(20.0, False), (None, True)])
def test_a_small_model_with_more_compute_stands_beside_a_large_one(weight: float | None, price: bool) -> None:
    of = two_models(weight, price)
    by = of.axes[0]
    assert by == ("usd" if price else "tokens")
    (one,) = beside(of, by)
    assert (one.smaller, one.larger.model) == ("small", "large")
    assert one.larger.accuracy == pytest.approx(2 / 3)
    assert one.row.accuracy == 1
    assert one.sure
    assert one.gain.mean == pytest.approx(1 / 3)
    assert (one.row.cost(by) or 0) <= (one.larger.cost(by) or 0)


def test_tokens_of_several_models_are_not_taken_for_money() -> None:
    of = two_models()
    assert any("--weight" in note for note in of.notes)
    assert beside(of, "tokens") == [], "both take the same tokens once"


def test_models_are_compared_on_the_problems_that_both_have() -> None:
    made = bank(drawn("m", MIXED), drawn("n", MIXED[:5]))
    of = frontier(made, repeats=2)
    assert of.problems == 5
    assert any("3 problems of m are left out" in note for note in of.notes)
    assert frontier(made, ["m"], repeats=2).problems == 8


def test_difficulty_is_judged_on_other_samples_than_those_replayed() -> None:
    """Pure luck: every problem's samples are right half the time. Judged in-sample, hard ones would look hard."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(["R", "a"], 16)) for _ in range(200)]
    of = frontier(bank(drawn("m", words)), repeats=2)
    difficulty = by_difficulty(of, "m", repeats=8)
    assert not difficulty.in_sample
    assert len(difficulty.bins) > 2
    assert [one.low for one in difficulty.bins] == sorted((one.low for one in difficulty.bins), reverse=True)
    assert sum(len(one.problems) for one in difficulty.bins) == 200
    for one in difficulty.bins:
        assert 0.35 < one.matched[0].vote.accuracy < 0.65
        assert not any(match.sure for match in one.matched)


def test_bins_keep_equals_together_and_name_the_winner() -> None:
    """Easy problems are always right; in hard ones one sample of four is, and a checker finds it."""
    rng = np.random.default_rng(3)
    hard = ["".join(rng.permutation(list("RRRRabcdabcdabcd"))) for _ in range(24)]
    of = frontier(bank(drawn("m", ["R" * 16] * 24 + hard, judged=True)), repeats=4)
    difficulty = by_difficulty(of, "m", bins=2, repeats=8)
    easy, *rest = difficulty.bins
    assert set(easy.problems) == {f"p{place}" for place in range(24)}
    assert easy.matched[0].winner.setting.name in ("single", "first-verified:n=2,batches=1 by checker")
    assert easy.matched[0].gain.mean == 0
    for one in rest:
        match = one.matched[-1]
        assert match.winner.setting.verifier == "checker"
        assert match.sure
        assert (match.winner.cost("tokens") or 0) <= match.limit


def test_few_samples_are_binned_in_sample_and_say_so() -> None:
    difficulty = by_difficulty(frontier(bank(drawn("m", [word[:4] for word in MIXED])), repeats=2), "m", repeats=4)
    assert difficulty.in_sample


class Fixed:
    """A policy that draws `first` samples, of a longer question twice as many, then stops."""

    features = frozenset({"drawn"})

    def __init__(self, k: int) -> None:
        self.k = k

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and self.k == other.k

    def __hash__(self) -> int:
        return self.k

    async def act(self, seen: Seen) -> Action:
        return Action("stop") if seen.drawn else Action("draw", self.k)

    def controller(self, request: Request) -> Fixed:
        return Fixed(self.k * 2 if request.id in ("p1", "p4") else self.k)

    def body(self) -> dict[str, int]:
        return {"k": self.k}

    @classmethod
    def of(cls, body: object) -> Fixed:
        raise NotImplementedError(body)


def test_a_fitted_policy_is_replayed_for_each_request() -> None:
    made = bank(drawn("m", MIXED))
    artifact = Artifact("stopping", "m", Fixed(3), {})
    of = frontier(made, extras=[fitted(artifact, "policy file.json", made)], repeats=4)
    row = found("policy file.json", of)
    assert list(row.samples) == [3, 6, 3, 3, 6, 3, 3, 3]
    assert any("flattered" in note for note in of.notes)
    for problem, n in enumerate(row.samples):
        assert row.correct[problem] == found(f"self-consistency:n={n:.0f}", of).correct[problem]
        assert row.tokens[problem] == 15 * n
    with pytest.raises(UsageError, match="fitted for m; the bank has n"):
        fitted(artifact, "policy", bank(drawn("n", MIXED)))


def test_the_summary_is_json_and_whole() -> None:
    of = two_models(price=True)
    content = json.loads(json.dumps(summary(of)))
    assert list(content["axes"]) == ["usd", "tokens"]
    assert len(content["rows"]) == len(of.rows)
    front = [row["name"] for row in content["rows"] if "usd" in row["pareto"]]
    assert front == [of.name(row) for row in sorted(pareto(of.rows, "usd"), key=of.rows.index)]
    for row in content["rows"]:
        mean, low, high = row["accuracy"]
        assert low <= mean <= high
        assert row["costs"]["usd"][0] > 0


def test_the_command_reports_into_its_folder(tmp_path: Path) -> None:
    file, out = tmp_path / "made.bank", tmp_path / "out"
    write_bank(bank(drawn("m", MIXED, seconds=2.0, judged=True)), file)
    words = ["frontier", str(file), "--out", str(out), "--repeats", "4", "--target-accuracy", "0.7"]
    told = CliRunner().invoke(app, [*words, "--target-tokens", "60"])
    assert told.exit_code == 0, told.output
    assert "70.0% costs least with" in told.output.replace("\n", " ")
    content = json.loads((out / "summary.json").read_text("utf-8"))
    assert [choice["target"] for choice in content["choices"]] == [
        {"accuracy": 0.7, "by": "tokens"},
        {"accuracy": 0.7, "by": "seconds"},
        {"tokens": 60.0},
    ]
    assert content["difficulty"][0]["bins"]
    assert "<svg" in (out / "report.html").read_text("utf-8")
    printed = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(printed.stdout)["rows"] == content["rows"], "the same seed gives the same figures"
    wrong = CliRunner().invoke(app, [*words, "--weight", "m"])
    assert isinstance(wrong.exception, UsageError)


async def test_the_page_in_a_browser(tmp_path: Path) -> None:
    made = bank(
        drawn("small", [f"{word}{word}" for word in MIXED], seconds=1.0),
        drawn(HOSTILE, [word[:2] for word in MIXED], seconds=4.0),
        task=HOSTILE,
    )
    of = frontier(made, repeats=4)
    file = tmp_path / "report.html"
    difficulties = [by_difficulty(of, name, repeats=4) for name in of.tables]
    file.write_text(page(of, difficulties, said=[HOSTILE], asked={"accuracy": 0.6}, made_by=HOSTILE), "utf-8")
    async with browser(tmp_path / "profile") as tab:
        await tab.open(f"file://{file}")
        assert HOSTILE[:30] in await tab.value("document.title")
        assert await tab.value("document.querySelectorAll('img').length") == 0
        shown = "document.querySelectorAll('#chart .point').length"
        assert await tab.value(shown) == len(of.rows)
        assert await tab.value("document.querySelectorAll('#rows tbody tr').length") == len(of.rows)

        # The sliders read off what the library chooses.
        row = cheapest_for(of, 0.6).row
        assert row is not None
        assert of.name(row) in await tab.value("document.getElementById('target-found').textContent")
        limit = await tab.value(
            "(() => { const bar = document.getElementById('limit'); bar.value = Math.log(100);"
            " bar.dispatchEvent(new Event('input')); return Math.exp(Number(bar.value)) })()"
        )
        best = best_for(of, limit).row
        assert best is not None
        assert of.name(best) in await tab.value("document.getElementById('limit-found').textContent")

        # A click hides a strategy, the other axis and the front alone draw anew.
        hidden = len([row for row in of.rows if row.model == "small" and row.setting.family == "esc"])
        await tab.value(
            "[...document.querySelectorAll('#legend button')].find(b => b.textContent === 'small: esc').click()"
        )
        assert await tab.value(shown) == len(of.rows) - hidden
        await tab.value("[...document.querySelectorAll('#axes button')].find(b => b.textContent === 'seconds').click()")
        assert "seconds" in await tab.value("document.getElementById('target-found').textContent")
        await tab.value(
            "[...document.querySelectorAll('#legend button')].find(b => b.textContent === 'small: esc').click()"
        )
        await tab.value("document.getElementById('only').click()")
        assert await tab.value(shown) == len(pareto(of.rows, "seconds"))

        # Pointing tells; a heading sorts.
        place = await tab.value(
            "(() => { document.getElementById('chart').scrollIntoView();"
            " const box = document.querySelector('#chart .point').getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        await tab.do("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
        assert "accuracy" in await tab.value("document.querySelector('.tip').textContent")
        await tab.value(
            "[...document.querySelectorAll('#rows th button')].find(b => b.textContent === 'accuracy [95%]').click()"
        )
        first = await tab.value("document.querySelector('#rows tbody tr').textContent")
        assert f"{max(row.accuracy for row in of.rows):.3f}" in first
        assert tab.errors == []

        # Without a script: the chart and the tables.
        await tab.do("Emulation.setScriptExecutionDisabled", value=True)
        await tab.do("Page.navigate", url=f"file://{file}")
        async with asyncio.timeout(10):
            while '"nodeName": "circle"' not in json.dumps(await tab.do("DOM.getDocument", depth=-1)):
                await asyncio.sleep(0.05)
