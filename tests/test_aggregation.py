"""RSA and pairwise tournaments, on models whose aggregations and comparisons are known."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any, Protocol

import pytest

from thinkscale.accounting import Ledger
from thinkscale.errors import ModelRefused, ModelUnavailable, NoAnswer
from thinkscale.models.base import Capabilities
from thinkscale.session import Session
from thinkscale.strategies import selection
from thinkscale.strategies.aggregation import RecursiveAggregation, aggregation_of
from thinkscale.strategies.pairwise import Format, Pairwise, comparison_of, pairing, preferred
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Selection
from thinkscale.verifiers.equivalence import Answers

QUESTION = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))
Fresh = Callable[[int, Random], str | None]
"""The answer of the i-th sample of the question itself."""


class Strategy(Protocol):
    async def __call__(self, session: Session) -> Selection: ...


def boxed(text: str) -> list[str]:
    return re.findall(r"\\boxed\{(\d+)\}", text)


def words_of(prompt: Prompt) -> str:
    return prompt.text if prompt.text is not None else str(prompt.messages[-1]["content"])


def said(answer: str | None) -> Reply:
    return Reply("I do not know." if answer is None else f"It is \\boxed{{{answer}}}")


def in_order(*answers: str | None) -> Fresh:
    return lambda index, _rng: answers[index % len(answers)]


async def run(
    model: ScriptedModel,
    strategy: Strategy,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    halt_s: float | None = None,
    halt_after: int | None = None,
) -> tuple[Selection, Session, list[Mapping[str, Any]]]:
    """Solve the question with a strategy; `halt_s` and `halt_after` (candidates) are when time runs out."""
    events: list[Mapping[str, Any]] = []

    def listen(event: Mapping[str, Any]) -> None:
        events.append(event)
        if event["event"] == "candidate" and sum(one["event"] == "candidate" for one in events) == halt_after:
            session.halt("deadline")

    ledger = Ledger(budget or Budget())
    session = Session(
        Request(QUESTION.prompt, QUESTION.kind, QUESTION.params, seed=seed),
        model=model,
        ledger=ledger,
        trace=Trace(listeners=(listen,)),
        canonical=Answers(AnswerKind.NUMBER).canonical,
    )
    if halt_s is not None:
        asyncio.get_running_loop().call_later(halt_s, session.halt, "deadline")
    served, calls = model.tokens_served, model.calls
    selected = await strategy(session)
    assert model.in_flight == 0
    assert (ledger.spent.output_tokens, ledger.spent.calls) == (model.tokens_served - served, model.calls - calls)
    assert ledger.held.calls == 0
    return selected, session, events


def stable(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name not in ("t", "trace")} for event in events]


# -- recursive self-aggregation ----------------------------------------------------------------------------------


def aggregating(fresh: Fresh, choose: Callable[[list[str], Random], str | None]) -> ScriptedModel:
    """Answers the question afresh, or makes one answer of those in view."""

    def script(prompt: Prompt, index: int, rng: Random) -> Reply:
        seen = boxed(words_of(prompt))
        return said(choose(seen, rng) if "Attempt 1:" in words_of(prompt) else fresh(index, rng))

    return ScriptedModel(script, capabilities=Capabilities(max_n=16))


def right_if_seen(seen: list[str], rng: Random) -> str | None:
    return "7" if "7" in seen else rng.choice(seen)


@pytest.mark.parametrize("seed", range(8))
async def test_rsa_converges_on_what_an_aggregator_recognises(seed: int) -> None:
    """Two of sixteen are right. Groups of 4 hold one of them with probability 1 - C(14,4)/C(16,4) = .45, then almost
    surely: after two rounds the right answer has the majority, from which it started far."""
    model = aggregating(lambda index, _rng: "7" if index in (3, 11) else str(100 + index % 3), right_if_seen)
    selected, session, _ = await run(model, RecursiveAggregation(16, 4, 2), seed=seed)
    assert selection.majority(session.candidates[:16]).candidate.answer != "7"
    assert selected.candidate.answer == "7"
    assert selected.confidence is not None
    assert selected.confidence >= 0.75


@pytest.mark.parametrize(("n", "k", "rounds"), [(16, 4, 2), (5, 2, 3), (3, 8, 1), (4, 1, 2), (1, 4, 2), (6, 3, 0)])
async def test_rsa_costs_a_population_for_each_round_and_one_more(n: int, k: int, rounds: int) -> None:
    model = aggregating(in_order("7", "8"), right_if_seen)
    _, session, _ = await run(model, RecursiveAggregation(n, k, rounds))
    assert model.calls == len(session.candidates) == n * (rounds + 1)
    grown = session.candidates[n:]
    assert {words_of(one.prompt).count("Attempt ") for one in grown} <= {min(n, k)}
    assert [path for (path,) in sorted(one.path for one in session.candidates)] == list(range(n * (rounds + 1)))


async def test_rsa_with_no_rounds_is_a_plain_vote() -> None:
    selected, _, _ = await run(aggregating(in_order("8", "7", "7"), right_if_seen), RecursiveAggregation(9, 4, 0))
    assert selected.candidate.answer == "7"
    assert selected.confidence == pytest.approx(2 / 3)


async def test_rsa_draws_different_members_of_the_last_population_only() -> None:
    """Each reply is unique, so that the members in view tell where they come from."""

    def script(prompt: Prompt, _index: int, rng: Random) -> Reply:
        seen = boxed(words_of(prompt))
        generation = 0 if not seen else int(seen[0][0]) + 1
        return said(f"{generation + (not seen)}{rng.randrange(10**8)}")

    _, session, _ = await run(ScriptedModel(script), RecursiveAggregation(12, 4, 2))
    populations = [[one for one in session.candidates if (one.answer or "")[0] == str(age)] for age in (1, 2, 3)]
    assert list(map(len, populations)) == [12, 12, 12]
    drawn = []
    for older, newer in pairwise(populations):
        shown = [boxed(words_of(one.prompt)) for one in newer]
        assert all(len(set(group)) == 4 for group in shown)
        assert {answer for group in shown for answer in group} <= {one.answer for one in older}
        assert len({tuple(group) for group in shown}) > 8
        drawn.append([[[one.answer for one in older].index(answer) for answer in group] for group in shown])
    assert drawn[0] != drawn[1]


async def test_rsa_draws_all_slots_at_once() -> None:
    model = aggregating(in_order("7"), right_if_seen)
    await run(model, RecursiveAggregation(16, 4, 1))
    assert model.most_in_flight == 16


async def test_rsa_offers_the_vote_of_each_population() -> None:
    model = aggregating(in_order("8", "8", "7"), right_if_seen)
    _, session, _ = await run(model, RecursiveAggregation(12, 4, 2))
    assert [candidate.answer for candidate, _ in session.offers] == ["8", "7"]


@pytest.mark.parametrize("calls", [1, 5, 8, 11, 16, 19])
async def test_rsa_cut_off_in_a_round_votes_with_the_population_before_it(calls: int) -> None:
    """Populations of 8: fresh samples say 8, the first round 7, the second 9."""

    def age(seen: list[str], _rng: Random) -> str:
        return "7" if seen[0] == "8" else "9"

    model = aggregating(in_order("8"), age)
    selected, session, _ = await run(model, RecursiveAggregation(8, 4, 3), Budget(max_calls=calls))
    assert (model.calls, session.ended) == (calls, "budget")
    votes = Counter(one.answer for one in session.candidates[8 * max(0, calls // 8 - 1) :])
    assert selected.candidate.answer == ("8" if calls < 16 else "7")
    assert selected.confidence == (None if calls == 1 else max(votes.values()) / sum(votes.values()))


async def test_rsa_that_runs_out_of_time_votes_over_what_came() -> None:
    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        late = "Attempt 1:" in words_of(prompt)
        return Reply("\\boxed{7}" if late else f"\\boxed{{{8 + index % 2}}}", latency_s=30.0 if late else 0.0)

    selected, session, _ = await run(ScriptedModel(script), RecursiveAggregation(4, 2, 2), halt_s=0.1)
    assert (selected.candidate.answer, session.ended) == ("8", "deadline")


async def test_rsa_that_runs_out_of_time_with_a_whole_round_votes_over_that_round_alone() -> None:
    model = aggregating(in_order("8"), lambda _seen, _rng: "7")
    selected, session, _ = await run(model, RecursiveAggregation(4, 2, 2), halt_after=8)
    assert (len(session.candidates), session.ended) == (8, "deadline")
    assert (selected.candidate.answer, selected.confidence) == ("7", 1.0)


async def test_a_dead_population_is_an_answerless_end() -> None:
    dead = ScriptedModel(lambda _prompt, _index, _rng: ModelUnavailable("overloaded", status=503))
    with pytest.raises(NoAnswer):
        await run(dead, RecursiveAggregation())


@pytest.mark.parametrize("n", [2, 8])
async def test_a_population_with_dead_heirs_stands(n: int) -> None:
    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply | Exception:
        return ModelRefused("too long", status=400) if "Attempt 1:" in words_of(prompt) else said("8")

    selected, session, _ = await run(ScriptedModel(script), RecursiveAggregation(n, 4, 2))
    assert (selected.candidate.answer, len(session.candidates)) == ("8", n)


async def test_a_slot_that_fails_leaves_the_population_smaller() -> None:
    def script(prompt: Prompt, index: int, _rng: Random) -> Reply | Exception:
        if "Attempt 1:" not in words_of(prompt):
            return said("8")
        return ModelRefused("no", status=400) if index in (3, 9) else said("7")

    selected, session, _ = await run(ScriptedModel(script), RecursiveAggregation(16, 2, 1))
    assert (len(session.candidates), session.ended) == (30, None)
    assert (selected.candidate.answer, selected.confidence) == ("7", 1.0)


async def test_rsa_ties_go_to_the_first_and_replies_without_answers_do_not_vote() -> None:
    tie = aggregating(in_order("8"), lambda _seen, rng: "7")
    selected, _, _ = await run(tie, RecursiveAggregation(4, 4, 1), Budget(max_calls=8))
    assert selected.candidate.answer == "7"
    both = aggregating(in_order("8", "9"), right_if_seen)
    selected, _, _ = await run(both, RecursiveAggregation(4, 4, 0))
    assert (selected.candidate.answer, selected.confidence) == ("8", 0.5)
    silent = aggregating(in_order(None), lambda _seen, _rng: None)
    selected, session, _ = await run(silent, RecursiveAggregation(4, 2, 2))
    assert (selected.candidate.answer, selected.confidence, len(session.candidates)) == (None, None, 12)


async def test_rsa_with_the_same_seed_gives_the_same_trace() -> None:
    async def trace(seed: int) -> list[dict[str, Any]]:
        model = aggregating(lambda _index, rng: str(rng.randrange(9)), lambda seen, _rng: seen[0])
        return stable((await run(model, RecursiveAggregation(8, 3, 2), seed=seed))[2])

    assert await trace(1) == await trace(1)
    prompts = [[event for event in await trace(seed) if event["event"] == "candidate"] for seed in (1, 2)]
    assert prompts[0] != prompts[1]


def attempt(text: str, **fields: Any) -> Candidate:
    return Candidate((0,), QUESTION.prompt, text, **fields)


def test_members_are_shown_whole_within_the_users_turn() -> None:
    system = {"role": "system", "content": "Be brief."}
    picture = {"type": "image_url", "image_url": {"url": "x"}}
    members = [attempt("First, 3 + 4 = 8."), attempt("", answer='{"add": [3, 4]}')]
    prompt = Prompt((system, {"role": "user", "content": "What is 3 + 4?", "name": "Ada"}), tools=({"type": "f"},))
    asked = aggregation_of(prompt, members)
    assert asked.tools == prompt.tools
    assert asked.messages[0] == system
    assert (len(asked.messages), asked.messages[1]["name"]) == (2, "Ada")
    words = str(asked.messages[1]["content"])
    assert words.startswith("What is 3 + 4?\n\nHere are 2 attempts")
    assert 'Attempt 1:\nFirst, 3 + 4 = 8.\n\nAttempt 2:\n{"add": [3, 4]}' in words

    parts = aggregation_of(Prompt(({"role": "user", "content": [picture]},)), members[:1]).messages[-1]["content"]
    assert parts[0] == picture
    assert parts[1]["text"].startswith("Here is an attempt")
    tool = {"role": "tool", "content": "7", "tool_call_id": "c"}
    assert [one["role"] for one in aggregation_of(Prompt((system, tool)), members).messages] == [
        "system",
        "tool",
        "user",
    ]
    raw = aggregation_of(Prompt(text="Question: 3 + 4?\nAnswer:"), members).text or ""
    assert raw.startswith("Here are 2 attempts at the problem at the end")
    assert raw.endswith("\n\nQuestion: 3 + 4?\nAnswer:")


@pytest.mark.parametrize(("field", "least"), [("n", 1), ("k", 1), ("rounds", 0)])
def test_rsa_refuses_senseless_parameters(field: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{field} must be at least {least}"):
        RecursiveAggregation(**{field: least - 1})


# -- pairwise ----------------------------------------------------------------------------------------------------

FORMATS: tuple[Format, ...] = ("knockout", "swiss")
Compare = Callable[[str, str, Random], str]
"""The comparator's words on the answers shown first and second."""


def comparing(fresh: Fresh, compare: Compare, **options: Any) -> ScriptedModel:
    def script(prompt: Prompt, index: int, rng: Random) -> Reply | Exception:
        words = words_of(prompt)
        if "<reply-a>" not in words:
            return said(fresh(index, rng))
        first, second = boxed(words)
        return Reply(compare(first, second, rng))

    return ScriptedModel(script, **{"capabilities": Capabilities(max_n=64), **options})


def larger(first: str, second: str, _rng: Random) -> str:
    return f"The larger is right.\nBetter: {'A' if int(first) > int(second) else 'B'}"


def comparisons_in(events: Sequence[Mapping[str, Any]]) -> int:
    return sum(event["n"] for event in events if event["event"] == "call" and event["purpose"] == "verify")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("distinct", [2, 3, 4, 5, 7, 8, 16])
@pytest.mark.parametrize("comparisons", [1, 3])
async def test_a_comparator_that_never_errs_finds_the_best(format: Format, distinct: int, comparisons: int) -> None:
    """Whatever the votes say: the best answer, the largest, has one, and the smallest most of them."""
    model = comparing(lambda index, _rng: str(min(index, distinct - 1) if index < distinct else 0), larger)
    selected, session, events = await run(model, Pairwise(distinct + 4, format, comparisons))
    assert (selected.candidate.answer, selected.confidence) == (str(distinct - 1), 1.0)
    rounds = (distinct - 1).bit_length()
    matches = distinct - 1 if format == "knockout" else rounds * (distinct // 2)
    assert comparisons_in(events) == matches * 2 * comparisons
    assert len(session.candidates) == distinct + 4, "a comparison is no candidate"


@pytest.mark.parametrize("format", FORMATS)
async def test_the_best_wins_whatever_its_rank_in_the_vote(format: Format) -> None:
    rng = Random(0)
    for size in range(2, 18):
        answers = [str(answer) for answer in rng.sample(range(size), size)]
        selected, _, _ = await run(comparing(in_order(*answers), larger), Pairwise(size, format))
        assert selected.candidate.answer == str(size - 1)


@pytest.mark.parametrize(
    ("format", "first_round"), [("knockout", {("1", "4"), ("2", "3")}), ("swiss", {("1", "2"), ("3", "4")})]
)
async def test_the_vote_draws_the_first_round(format: Format, first_round: set[tuple[str, str]]) -> None:
    matches: list[tuple[str, str]] = []

    def watched(first: str, second: str, rng: Random) -> str:
        matches.append((first, second))
        return larger(first, second, rng)

    await run(comparing(in_order("4", "3", "3", "2", "2", "2", "1", "1", "1", "1"), watched), Pairwise(10, format))
    assert set(matches[:4]) == first_round | {(b, a) for a, b in first_round}


async def test_nobody_sits_out_two_rounds_of_a_swiss_tournament() -> None:
    played: Counter[str] = Counter()

    def drawing(first: str, second: str, _rng: Random) -> str:
        played.update((first, second))
        return "Better: A"

    await run(comparing(in_order(*"12345"), drawing), Pairwise(5, "swiss"))
    assert sorted(count // 2 for count in played.values()) == [2, 2, 2, 3, 3]


@pytest.mark.parametrize("format", FORMATS)
async def test_a_taste_for_a_place_cancels_and_the_vote_decides(format: Format) -> None:
    votes = in_order("1", "2", "2", "3", "3", "3", "4")
    for place in "AB":
        biased = comparing(votes, lambda _a, _b, _rng, place=place: f"Better: {place}")  # type: ignore[misc]
        selected, _, _ = await run(biased, Pairwise(7, format, 2))
        assert (selected.candidate.answer, selected.confidence) == ("3", 0.5)

    def half_biased(first: str, second: str, rng: Random) -> str:
        return "Better: A" if rng.random() < 0.6 else larger(first, second, rng)

    right = 0
    for seed in range(10):
        selected, _, _ = await run(comparing(votes, half_biased, seed=seed), Pairwise(7, format, 8))
        right += selected.candidate.answer == "4"
    assert right >= 9


@pytest.mark.parametrize("format", FORMATS)
async def test_more_comparisons_make_a_noisy_comparator_surer(format: Format) -> None:
    """It errs with probability .35 each time: the accuracy rises with the number of times it is asked."""

    def noisy(first: str, second: str, rng: Random) -> str:
        right = int(first) > int(second)
        return f"Better: {'A' if right == (rng.random() < 0.65) else 'B'}"

    async def accuracy(comparisons: int) -> float:
        answers = in_order(*map(str, range(8)))
        found = [
            (await run(comparing(answers, noisy, seed=seed), Pairwise(8, format, comparisons)))[0].candidate.answer
            for seed in range(25)
        ]
        return found.count("7") / len(found)

    few, many = await accuracy(1), await accuracy(30)
    assert few < 0.6
    assert many > 0.85


@pytest.mark.parametrize("format", FORMATS)
async def test_one_answer_needs_no_comparison_and_no_answer_cannot_be_compared(format: Format) -> None:
    for answers, n in ((in_order("7"), 6), (in_order("7", None), 6), (in_order("7", "8"), 1), (in_order(None), 4)):
        selected, session, events = await run(comparing(answers, larger), Pairwise(n, format))
        assert comparisons_in(events) == 0
        assert selected == selection.majority(session.candidates)


@pytest.mark.parametrize("format", FORMATS)
async def test_replies_that_cannot_be_read_leave_the_decision_to_the_vote(format: Format) -> None:
    answers = in_order("9", "3", "5", "3", "5", "5")
    for words in ("I cannot tell.", "A draw: better is neither."):
        model = comparing(answers, lambda _a, _b, _rng, words=words: words)  # type: ignore[misc]
        selected, _, _ = await run(model, Pairwise(6, format))
        assert (selected.candidate.answer, selected.confidence) == ("5", None)

    def one_order(first: str, second: str, _rng: Random) -> str:
        return "Better: A" if int(first) > int(second) else "Hmm."

    selected, _, _ = await run(comparing(answers, one_order), Pairwise(6, format))
    assert selected.candidate.answer == "5", "one order alone may be a taste for a place"


@pytest.mark.parametrize("format", FORMATS)
async def test_a_tie_of_votes_goes_to_the_first_seen(format: Format) -> None:
    undecided = comparing(in_order("4", "6", "5"), lambda _a, _b, _rng: "Better: A")
    selected, _, _ = await run(undecided, Pairwise(6, format))
    assert selected.candidate.answer == "4"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("extra", range(15))
async def test_a_budget_that_ends_in_the_middle_keeps_what_was_decided(format: Format, extra: int) -> None:
    """Eight answers, 14 comparisons to go in a knockout, of which the budget has `extra`."""
    model = comparing(in_order(*map(str, range(8))), larger)
    selected, session, events = await run(model, Pairwise(8, format), Budget(max_calls=8 + extra))
    assert comparisons_in(events) == extra == model.calls - 8
    assert len(session.candidates) == 8
    assert selected.candidate.answer is not None
    whole = (extra >= 8) + (extra >= 12 and format == "knockout")
    assert len(session.offers) == 2 + whole, "the vote, each round that was played, and the one that was cut off"
    if extra < 2:
        assert (selected.candidate.answer, selected.confidence) == ("0", None)
    if extra >= 14 and format == "knockout":
        assert (selected.candidate.answer, session.ended) == ("7", None)
    if extra >= 8:
        winners = "4567" if format == "knockout" else "1357"
        assert selected.candidate.answer in winners, "it won its match in the first round"


@pytest.mark.parametrize("format", FORMATS)
async def test_a_comparator_that_fails_leaves_the_decision_to_the_vote(format: Format) -> None:
    def script(prompt: Prompt, index: int, _rng: Random) -> Reply | Exception:
        if "<reply-a>" in words_of(prompt):
            return ModelRefused("too long", status=400)
        return said(("9", "3", "3")[index])

    selected, _, _ = await run(ScriptedModel(script), Pairwise(3, format))
    assert (selected.candidate.answer, selected.confidence) == ("3", None)


@pytest.mark.parametrize("format", FORMATS)
async def test_a_deadline_during_comparisons_returns_the_vote(format: Format) -> None:
    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        late = "<reply-a>" in words_of(prompt)
        return Reply("Better: A" if late else f"\\boxed{{{(9, 3, 3)[index]}}}", latency_s=30.0 if late else 0.0)

    selected, session, _ = await run(ScriptedModel(script), Pairwise(3, format), halt_s=0.1)
    assert (selected.candidate.answer, session.ended) == ("3", "deadline")


@pytest.mark.parametrize("format", FORMATS)
async def test_no_sample_at_all_is_an_answerless_end(format: Format) -> None:
    dead = ScriptedModel(lambda _prompt, _index, _rng: ModelUnavailable("overloaded", status=503))
    with pytest.raises(NoAnswer):
        await run(dead, Pairwise(4, format))


@pytest.mark.parametrize("format", FORMATS)
async def test_comparisons_are_charged_as_verification_and_repeat_with_the_seed(format: Format) -> None:
    def fickle(_first: str, _second: str, rng: Random) -> str:
        return f"Better: {rng.choice('AB')}"

    traces = [
        (await run(comparing(in_order(*"12345"), fickle), Pairwise(5, format, 3), seed=seed))[2] for seed in (1, 1)
    ]
    assert stable(traces[0]) == stable(traces[1])
    settled = Counter(event["purpose"] for event in traces[0] if event["event"] == "settle")
    assert set(settled) == {"generate", "verify"}


@pytest.mark.parametrize("odd", [False, True])
def test_swiss_rounds_never_pair_two_twice(odd: bool) -> None:
    for size in range(2 + odd, 33 + odd, 2):
        rng = Random(size)
        points = [0.0] * size
        met: list[set[int]] = [set() for _ in range(size)]
        for _ in range((size - 1).bit_length()):
            pairs = pairing(sorted(range(size), key=lambda one: (-points[one], one)), met)
            assert sorted(one for pair in pairs for one in pair) == list(range(-1 if odd else 0, size))
            for a, b in pairs:
                assert b not in met[a]
                met[a].add(b)
                points[a] += 1
                if b >= 0:
                    met[b].add(a)
                    winner = rng.choice((a, b))
                    points[a] -= winner == b
                    points[b] += winner == b
    with pytest.raises(ValueError, match="meets again"):
        pairing([0, 1], [{1}, {0}])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Better: A", "A"),
        ("A is short.\nB is right.\n\n**Better: B**", "B"),
        ("Better: A ... no, wait.\nBetter: B", "B"),
        ("better is reply A.", "A"),
        ("Better: Reply-B", "B"),
        ("Better:\n\n**B**", "B"),
        ("B", "B"),
        (" (A).\n", "A"),
        ("<think>Better: A</think>\nBetter: B", "B"),
        ("<think>Better: A", None),
        ("It would be better. A is a letter.", None),
        ("It would be better, a lot.", None),
        ("Better: Apples", None),
        ("I prefer neither A nor B.", None),
        ("", None),
    ],
)
def test_what_a_comparison_says_is_read(text: str, letter: str | None) -> None:
    assert preferred(text) == letter


def test_a_comparison_shows_both_replies_and_takes_the_requests_route() -> None:
    a, b = attempt("It is 7."), attempt("", answer='{"add": [3, 4]}')
    words = str(comparison_of(QUESTION.prompt, a, b).messages[-1]["content"])
    assert "What is 3 + 4?" in words
    assert words.index("It is 7.") < words.index('{"add": [3, 4]}')
    raw = comparison_of(Prompt(text="3 + 4 ="), a, b)
    assert (raw.text or "").endswith("Comparison:")


@pytest.mark.parametrize("field", ["n", "comparisons", "compare_tokens"])
def test_pairwise_refuses_parameters_below_one(field: str) -> None:
    options: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        Pairwise(**options)
