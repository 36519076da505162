"""What fitted policies save on problems they have not seen: fit on one half of a bank, test on the other, many times.

    python bench/frontier.py letters.bank cruxeval.bank gsm8k.bank --checked game24.bank --splits 200

Each bank is a file that `thinkscale bank import` or `thinkscale collect` wrote. Figures are means over the splits, with
the 2.5% and 97.5% quantiles over splits in brackets: those hold both which problems were fitted on and which were
tested, but all splits share one bank, so they say nothing of another one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # many small problems: threads would only wait for each other

import numpy as np
from rich.console import Console
from rich.progress import track

from thinkscale.banks import Bank
from thinkscale.banks.parquet import read_bank
from thinkscale.optimize.aiming import worthwhile
from thinkscale.optimize.controlling import simulate_controller
from thinkscale.optimize.fit_allocation import fit_votes
from thinkscale.optimize.fit_risk import fit_risk
from thinkscale.optimize.fit_stopping import stopping_family
from thinkscale.optimize.report import write_json
from thinkscale.optimize.simulate import simulate
from thinkscale.optimize.simulate_allocation import simulate_allocation, simulate_oracle, simulate_uniform
from thinkscale.optimize.table import Bools, Ints, Outcomes, Table, orders
from thinkscale.optimize.traffic import run, standings, traffic
from thinkscale.policies.bandit import ARMS, BanditPolicy
from thinkscale.policies.risk import RiskPolicy
from thinkscale.types import Seen

ORDERS = 8
REQUESTS = 8000
STREAMS = 20
CONFIDENCES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WINDOWS = (2, 3, 4, 5, 8)
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
Curve = list[tuple[float, float]]
"""(tokens, accuracy) of each setting."""


@dataclass
class Over:
    """One figure over the splits."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(float(value))

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else float("nan")

    def text(self, form: str = "+.4f") -> str:
        if not self.values:
            return "none"
        low, high = np.quantile(self.values, (0.025, 0.975))
        return f"{self.mean:{form}} [{low:{form}}, {high:{form}}]"


def halves(table: Table, splits: int, seed: int) -> Iterator[tuple[Table, Table]]:
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        places = rng.permutation(len(table))
        yield table.take(places[: len(table) // 2]), table.take(places[len(table) // 2 :])


def point(outcomes: Outcomes) -> tuple[float, float]:
    return float(outcomes.tokens.mean()), float(outcomes.correct.mean())


def rivals(n: int) -> dict[str, list[str]]:
    """The whole curves of the rules to beat."""
    sizes = sorted({size for size in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40) if size < n} | {n})
    return {
        "adaptive-consistency": [
            f"adaptive-consistency:n={size},confidence={confidence},batches={batches}"
            for size in sizes if size > 2 for confidence in CONFIDENCES for batches in (1, 4)
        ],
        "esc": [f"esc:n={size},window={window}" for size in sizes for window in WINDOWS if window <= size],
    }  # fmt: skip


def at(curve: Curve, tokens: float) -> float:
    """The accuracy that a family reaches at a cost: between two settings by taking each for a share of the requests."""
    ordered = sorted(curve)
    return float(np.interp(tokens, [cost for cost, _ in ordered], [accuracy for _, accuracy in ordered]))


def stopping(table: Table, splits: int, seed: int, say: Callable[[str], None]) -> dict[str, object]:
    """When to stop: what is saved at the full vote's accuracy, and accuracy at every matched cost."""
    vote = f"self-consistency:n={table.n}"
    saved, lost = Over(), Over()
    gains: dict[str, Over] = {words: Over() for family in rivals(table.n).values() for words in family}
    costs: dict[str, Over] = {words: Over() for words in gains}
    reached: list[tuple[Curve, float, float]] = []
    for half, (train, test) in enumerate(track(list(halves(table, splits, seed)), "stopping", transient=True)):
        given = orders(test, ORDERS, half)
        # Which rules to take, and for which aim, is decided by the half they were fitted on alone.
        rules = worthwhile(stopping_family(train, seed=half))
        goal = float(simulate(vote, train, orders(train, 1, half)).correct.mean())
        curve = [point(simulate_controller(rule, test, given)) for rule in rules]
        chosen = next((place for place, rule in enumerate(rules) if rule.accuracy >= goal), len(rules) - 1)
        full = point(simulate(vote, test, given[:1]))
        saved.add(1 - curve[chosen][0] / full[0])
        lost.add(curve[chosen][1] - full[1])
        reached.append((curve, *full))
        for words, gain in gains.items():
            cost, accuracy = point(simulate(words, test, given))
            gain.add(at(curve, cost) - accuracy)
            costs[words].add(cost)
    say(f"  the policy for the accuracy of {vote}: tokens saved {saved.text('.1%')}, accuracy {lost.text()}")
    figures: dict[str, object] = {"saved": saved.values, "accuracy_change": lost.values}
    at_half = Over([at(curve, tokens / 2) - accuracy for curve, tokens, accuracy in reached])
    say(f"  at half its tokens: accuracy {at_half.text()}")
    figures["at_half_the_tokens"] = at_half.values
    for name, family_words in rivals(table.n).items():
        means = np.array([gains[words].mean for words in family_words])
        worst, best = family_words[int(means.argmin())], family_words[int(means.argmax())]
        say(
            f"  beside {name}, {len(family_words)} settings at their own cost: better at {np.mean(means > 0):.0%}, "
            f"no worse than .002 at {np.mean(means >= -0.002):.0%}; mean {means.mean():+.4f}"
        )
        for what, words in (("least", worst), ("most", best)):
            say(f"    {what}: {words} ({costs[words].mean:.0f} tokens): {gains[words].text()}")
        figures[name] = {words: [costs[words].mean, gains[words].mean] for words in family_words}
    return figures


def allocation(table: Table, splits: int, seed: int, say: Callable[[str], None]) -> dict[str, object]:
    """One total for all requests of a half, beside the same number of samples for each."""
    figures: dict[str, object] = {}
    sizes = [n for n in (2, 4, 8, 16) if n < table.n]
    gains = {n: Over() for n in sizes}
    room = {n: Over() for n in sizes}
    for half, (train, test) in enumerate(track(list(halves(table, splits, seed)), "allocation", transient=True)):
        gain = fit_votes(train, seed=half)
        given = orders(test, 2, half)
        for n in sizes:
            total = float(simulate(f"self-consistency:n={n}", test, given[:1]).tokens.sum())
            uniform = float(simulate_uniform(test, given, total).correct.mean())
            gains[n].add(simulate_allocation(gain, test, given, total).correct.mean() - uniform)
            room[n].add(simulate_oracle(test, given, total).correct.mean() - uniform)
    for n in sizes:
        share = np.mean(np.array(gains[n].values) > 0)
        say(f"  at the tokens of {n} samples each: {gains[n].text()}, above in {share:.0%} (oracle {room[n].text()})")
        figures[str(n)] = gains[n].values
    return figures


def risk(table: Table, splits: int, seed: int, say: Callable[[str], None]) -> dict[str, object]:
    """The share of splits in which confident answers were wrong no more often than was promised."""
    figures: dict[str, object] = {}
    for alpha in ALPHAS:
        kept, promised, confident, silent = Over(), Over(), Over(), Over()
        for half, (train, test) in enumerate(halves(table, splits, seed)):
            policy = fit_risk(train, alpha=alpha, horizon=len(test), seed=half)
            silent.add(not policy.promise.given)
            sure, right = _confident(policy, test, orders(test, 2, half)[1:])
            wrong = int((sure & ~right).sum())
            within = wrong <= alpha * int(sure.sum())
            kept.add(within)
            if policy.promise.given:
                promised.add(within)
            confident.add(sure.mean())
        say(
            f"  error rate {alpha:.2f}: kept in {kept.mean:.1%} of splits, in {promised.mean:.1%} of the "
            f"{len(promised.values)} with a promise; {confident.mean:.0%} of answers confident"
        )
        figures[str(alpha)] = {
            "kept": kept.mean,
            "kept_of_promised": promised.mean,
            "confident": confident.mean,
            "silent": silent.mean,
        }
    return figures


def _confident(policy: RiskPolicy, test: Table, given: Ints) -> tuple[Bools, Bools]:
    """Which requests end as confident, and which as right: [P] each."""
    outcomes = simulate_controller(policy, test, given)
    sure = np.zeros(len(test), dtype=np.bool_)
    for problem, drawn in enumerate(outcomes.samples[0]):
        answers = test.answers[problem, given[0, problem, :drawn]]
        votes = np.bincount(answers[answers >= 0], minlength=1)
        sure[problem] = policy.needed(Seen(int(drawn), tuple(sorted(map(int, votes), reverse=True)))) == 0
    return sure, outcomes.correct[0]


def bandits(bank: Bank, table: Table, seeds: int, say: Callable[[str], None]) -> dict[str, object]:
    """From a cold start on replayed traffic that becomes harder half way."""
    arms = [words for words in (*ARMS, "self-consistency:n=4") if int(words.partition("n=")[2] or 1) <= table.n]
    missed: dict[str, Over] = {}
    sample = float(table.output_tokens.mean() + table.prompt_tokens.mean())
    price = 0.005 / sample  # a sample costs half a hundredth of a right answer
    for seed in track(range(seeds), "bandit", transient=True):
        stream = traffic(table, arms, requests=REQUESTS, bank=bank, seed=seed)
        policy = BanditPolicy.cold({arm: ARMS.get(arm, 4.0) for arm in arms}, price=price, sample_cost=sample)
        done = run(policy, stream, seed=seed, delay=20)
        for when, one in standings(done.chosen, stream, price).items():
            if one.missed is not None:
                missed.setdefault(when, Over()).add(one.missed)
    for when, over in missed.items():
        within = np.mean(np.array(over.values) <= 0.1)
        say(f"  {when}: short of the best fixed strategy's reward by {over.text('.1%')}, within 10% in {within:.0%}")
    return {when: over.values for when, over in missed.items()}


def checked(table: Table, say: Callable[[str], None]) -> dict[str, object]:
    """Where answers can be checked: the cheapest way to 40% solved, over all problems."""
    given = orders(table, 20, 0)
    found: list[tuple[float, float, str]] = []
    for n in range(8, table.n + 1, 4):
        for batches in ("1", "2", "4", "5", "8", "10", "20", "1/3/12/48", "20/20/60", str(min(n, table.n))):
            words = f"first-verified:n={n},batches={batches}"
            found.append((*point(simulate(words, table, given, verifier="checker")), words))
    votes = [(*point(simulate(f"self-consistency:n={n}", table, given)), n) for n in (1, 16, 64, table.n)]
    enough = sorted(one for one in found if one[1] >= 0.4)
    for tokens, accuracy, words in enough[:3]:
        say(f"  {words}: {accuracy:.3f} solved at {tokens:.0f} tokens a problem")
    for tokens, accuracy, n in votes:
        say(f"  a vote over {n}: {accuracy:.3f} at {tokens:.0f} tokens")
    return {"cheapest_to_40_percent": enough[:3]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("banks", nargs="*", type=Path, help="banks of which votes make sense")
    parser.add_argument("--checked", type=Path, help="a bank with the scores of an exact checker")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=("stopping", "allocation", "risk", "bandit"))
    parser.add_argument("--out", type=Path, default=Path("runs/frontier-bench.json"))
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=150)
    parts = options.part or ["stopping", "allocation", "risk", "bandit"]
    figures: dict[str, object] = {}

    def say(text: str) -> None:
        console.print(text)

    for path in options.banks:
        bank = read_bank(path)
        table = Table.of(bank)
        say(f"{path.name}: {table.model}, {len(table)} problems, {table.n} samples, {options.splits} splits")
        rows: dict[str, object] = {}
        for part in parts:
            say(part)
            match part:
                case "stopping":
                    rows[part] = stopping(table, options.splits, options.seed, say)
                case "allocation":
                    rows[part] = allocation(table, options.splits, options.seed, say)
                case "risk":
                    rows[part] = risk(table, options.splits, options.seed, say)
                case "bandit":
                    rows[part] = bandits(bank, table, min(options.splits, STREAMS), say)
        figures[path.name] = rows
    if options.checked:
        table = Table.of(read_bank(options.checked))
        say(f"{options.checked.name}: {len(table)} problems, {table.n} samples")
        figures[options.checked.name] = checked(table, say)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"splits": options.splits, "seed": options.seed, "banks": figures})
    say(f"written: {options.out}")


if __name__ == "__main__":
    main()
