"""Search over steps: on trees whose best path, or whose exact posterior, is known, and at every edge."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from math import exp, log
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale import strategies
from thinkscale.engine import Engine
from thinkscale.errors import ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.steps import Boundary
from thinkscale.strategies.search import EfficientTreeSearch, ParticleFilter
from thinkscale.strategies.search.driver import StepSearch
from thinkscale.strategies.search.rebase import shares
from thinkscale.strategies.search.tree import Grow, Tree, known, ranked
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.testing.step_tree import StepTree, branches
from thinkscale.trace import Event
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Result, Verdict
from thinkscale.verifiers.base import Generate
from thinkscale.verifiers.steps import Solution, Stepwise

TREE = StepTree(steps=4, tokens=6, branches=3)
WIDE = StepTree(steps=4, tokens=6, branches=1000)  # no two steps alike
QUESTION = Request(Prompt.of("Which way?"), AnswerKind.NUMBER, Params(max_tokens=64))
SEARCHES = [
    "beam:width=32,expand=16,step=blank-line",
    "dvts:width=32,expand=16,step=blank-line",
    "rebase:width=32,step=blank-line",
    "rebase:width=32,rounding=round,step=blank-line",
    "ets:width=32,step=blank-line",
    "particle-filter:n=32,temperature=0.2,step=blank-line",
    "best-first:expand=16,batch=2,finish=4,step=blank-line",
]


class Branches:
    """Scores a step by the branch it took: the greatest is certainly right."""

    name = "branches"

    def __init__(self, tree: StepTree = TREE) -> None:
        self.judged: list[str] = []
        self._most = tree.branches - 1

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        asked = [one.steps[one.judged :] for one in solutions]
        self.judged += [
            "".join(one.steps[: place + 1]) for one in solutions for place in range(one.judged, len(one.steps))
        ]
        return [[Verdict(branches(step)[0] / self._most) for step in steps] for steps in asked]


class Says:
    """A verifier that says one thing of everything, after a while."""

    name = "says"

    def __init__(self, verdict: Verdict | Exception, *, wait_s: float = 0.0) -> None:
        self._verdict = verdict
        self._wait_s = wait_s

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        await asyncio.sleep(self._wait_s)
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return [self._verdict] * len(candidates)


async def solve(
    strategy: str,
    model: ScriptedModel | None = None,
    *,
    budget: Budget | None = None,
    verifier: Any = None,
    request: Request = QUESTION,
) -> tuple[Result, list[Event]]:
    model = model or ScriptedModel(TREE.sample)
    events: list[Event] = []
    async with Engine(model) as engine:
        result = await engine.solve(
            request,
            strategy=strategy,
            budget=budget,
            verifier=verifier or Stepwise(Branches(), aggregate="mean"),
            listeners=(events.append,),
        )
    assert model.in_flight == 0
    assert result.usage.output_tokens == model.tokens_served
    if result.stop_reason != "deadline":  # what was cancelled before its first token is charged as if it had been read
        assert result.usage.prompt_tokens == model.prompt_tokens_served
    return result, events


def named(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event["event"] == name]


def widths(events: Sequence[Event]) -> list[int]:
    """Steps drawn at each depth."""
    levels = Counter(len(event["path"]) for event in named(events, "step"))
    return [levels[depth] for depth in sorted(levels)]


# -- the known optimum, and its price ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_it_finds_the_best_path(strategy: str) -> None:
    result, _ = await solve(f"{strategy},select=best")
    assert (result.answer, result.stop_reason) == (str(TREE.best), "complete")
    assert result.confidence == 1.0


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_the_same_seed_gives_the_same_search(strategy: str) -> None:
    def shape(events: list[Event]) -> list[tuple[Any, ...]]:
        return [(e["event"], e.get("path"), e.get("text"), e.get("score")) for e in events if e["event"] != "result"]

    (one, first), (two, second) = await solve(strategy), await solve(strategy)
    assert one.answer == two.answer
    assert sorted(map(repr, shape(first))) == sorted(map(repr, shape(second)))


@pytest.mark.parametrize(
    ("strategy", "spent"),
    [
        ("beam:width=16,expand=4,step=blank-line", [16, 16, 16, 16]),
        ("dvts:width=16,expand=4,step=blank-line", [16, 16, 16, 16]),
        ("rebase:width=16,step=blank-line", [16, 16, 16, 16]),
        ("particle-filter:n=16,step=blank-line", [16, 16, 16, 16]),
        ("rebase:width=1,step=blank-line", [1, 1, 1, 1]),
        ("beam:width=1,expand=1,step=blank-line", [1, 1, 1, 1]),
        ("particle-filter:n=1,step=blank-line", [1, 1, 1, 1]),
    ],
)
async def test_it_spends_exactly_its_width_at_every_level(strategy: str, spent: list[int]) -> None:
    result, events = await solve(strategy, ScriptedModel(WIDE.sample), verifier=Stepwise(Branches(WIDE)))
    assert widths(events) == spent
    assert result.usage.calls == sum(spent)


async def test_children_of_one_beginning_travel_in_one_request() -> None:
    able = Capabilities(max_n=16, continuation=True, tells_stop=True)
    result, events = await solve(
        "beam:width=16,expand=4,step=blank-line",
        ScriptedModel(WIDE.sample, capabilities=able),
        verifier=Stepwise(Branches(WIDE)),
    )
    assert result.usage.requests == 1 + 4 + 4 + 4
    assert {len(event["paths"]) for event in named(events, "settle")} == {16, 4}


async def test_branches_with_the_same_words_share_their_request() -> None:
    tree = StepTree(steps=3, tokens=6, branches=1)
    able = Capabilities(max_n=16, continuation=True, tells_stop=True)
    result, events = await solve(
        "rebase:width=8,step=blank-line", ScriptedModel(tree.sample, capabilities=able), verifier=Says(Verdict(0.5))
    )
    assert (result.usage.calls, result.usage.requests) == (24, 3)
    assert len({event["path"] for event in named(events, "step")}) == 24


async def test_a_beam_does_not_keep_two_branches_with_the_same_words() -> None:
    tree = StepTree(steps=3, tokens=6, branches=1)
    _, events = await solve(
        "beam:width=8,expand=2,step=blank-line", ScriptedModel(tree.sample), verifier=Says(Verdict(0.5))
    )
    assert widths(events) == [8, 2, 2]


async def test_no_step_is_judged_twice() -> None:
    verifier = Branches()
    await solve("rebase:width=16,step=blank-line", verifier=Stepwise(verifier))
    assert len(verifier.judged) == len(set(verifier.judged))


async def test_ties_go_to_the_first_and_share_the_width_evenly() -> None:
    result, events = await solve("rebase:width=4,select=best,step=blank-line", verifier=Says(Verdict(0.7)))
    assert result.candidate.path == (0, 0, 0, 0)
    assert widths(events) == [4, 4, 4, 4]


@pytest.mark.parametrize("budget", [Budget(max_calls=20), Budget(max_output_tokens=130), Budget(max_total_tokens=300)])
@pytest.mark.parametrize("strategy", [*SEARCHES, "check-and-correct:n=8"])
async def test_it_never_exceeds_a_budget_and_says_that_it_ended_it(strategy: str, budget: Budget) -> None:
    result, _ = await solve(strategy, budget=budget)
    assert result.stop_reason == "budget"
    assert result.usage.calls <= (budget.max_calls or 10**9)
    assert result.usage.output_tokens <= (budget.max_output_tokens or 10**9)
    assert result.usage.total_tokens <= (budget.max_total_tokens or 10**9)


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_a_deadline_ends_it_with_the_best_so_far(strategy: str) -> None:
    model = ScriptedModel(TREE.sample, latency_s=0.1)
    result, _ = await solve(strategy, model, budget=Budget(deadline_s=0.25))
    assert result.stop_reason == "deadline"
    assert 0.2 < result.seconds < 0.6
    assert result.text


async def test_an_answer_is_offered_before_the_end() -> None:
    _, events = await solve("rebase:width=8")
    order = [event["event"] for event in events]
    assert order.index("offer") < order.index("step")  # the whole reply that shows where steps end


# -- finished, repeated, endless and dead branches -----------------------------------------------------------------


def ends_early(prompt: Prompt, _index: int, rng: Random) -> Reply:
    """A reply of one step half the time, else of three."""
    steps = branches(prompt.prefix)
    if len(steps) == 2 or (not steps and rng.random() < 0.5):
        return Reply(f"branch {len(steps) + 1} \\boxed{{{len(steps) + 1}}}")
    return Reply(f"branch {len(steps) + 1} on\n\nbranch {len(steps) + 2} on\n\n"[: None if steps else 13])


async def test_a_finished_branch_keeps_its_part_of_the_width() -> None:
    _, events = await solve("rebase:width=8,step=blank-line", ScriptedModel(ends_early), verifier=Says(Verdict(0.5)))
    short = sum(1 for event in named(events, "candidate") if event["answer"] == "1")
    assert 0 < short < 8
    assert widths(events) == [8, 8 - short, 8 - short]


async def test_a_finished_reply_takes_its_place_in_the_beam() -> None:
    class First:
        name = "first"

        async def verify(self, request: Request, candidates: Sequence[Candidate], _: Generate) -> Sequence[Verdict]:
            return [Verdict(1.0 if one.finished else 0.5) for one in candidates]

    _, events = await solve("beam:width=4,expand=2,step=blank-line", ScriptedModel(ends_early), verifier=First())
    finished = sum(event["finish_reason"] == "stop" for event in named(events, "step") if len(event["path"]) == 1)
    assert 0 < finished < 4
    assert widths(events) == [4, 2, 2]  # one place for the finished, all alike; one for the others, all alike too


def loops(_prompt: Prompt, _index: int, _rng: Random) -> Reply:
    return Reply("the same again\n\nthe same again\n\n")


async def test_a_branch_that_repeats_itself_is_cut_and_a_plain_sample_stands_in() -> None:
    def script(prompt: Prompt, index: int, rng: Random) -> Reply:
        return loops(prompt, index, rng) if index < 4 or prompt.prefix else Reply("So \\boxed{7}")

    result, events = await solve("rebase:width=4,step=blank-line", ScriptedModel(script), verifier=Says(Verdict(0.5)))
    assert widths(events) == [4, 4]
    [prune] = named(events, "prune")
    assert (prune["reason"], len(prune["paths"])) == ("repeats itself", 4)
    assert result.answer == "7"


@pytest.mark.parametrize(
    "strategy", ["rebase:width=2,step=line", "beam:width=2,expand=1,step=line/7", "best-first:step=line"]
)
async def test_steps_that_never_end_stop_at_the_longest_reply(strategy: str) -> None:
    def endless(prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply(" ".join(str(len(prompt.prefix) + index + place) for place in range(200)))

    result, events = await solve(strategy, ScriptedModel(endless), verifier=Says(Verdict(0.5)))
    assert max(event["output_tokens"] for event in named(events, "step")) <= 64
    longest = max(len(event["path"]) for event in named(events, "step"))
    assert longest == (10 if "/7" in strategy else 1)  # 64 tokens in steps of 7
    assert result.answer is None


async def test_depth_bounds_the_number_of_steps() -> None:
    _, events = await solve("rebase:width=4,depth=2,step=blank-line")
    assert widths(events) == [4, 4]


async def test_a_number_of_tokens_makes_steps_of_that_length() -> None:
    _, events = await solve("rebase:width=2,step=5")
    assert {event["output_tokens"] for event in named(events, "step") if event["finish_reason"] == "step"} == {5}


# -- verifiers and servers that fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [*SEARCHES, "check-and-correct:n=8,step=blank-line"])
@pytest.mark.parametrize("verdict", [Verdict(None), ModelUnavailable("gone")])
async def test_without_scores_the_search_goes_on_and_the_replies_vote(
    strategy: str, verdict: Verdict | Exception
) -> None:
    tree = StepTree(steps=3, tokens=6, branches=1)
    result, _ = await solve(strategy, ScriptedModel(tree.sample), verifier=Says(verdict))
    assert (result.answer, result.stop_reason) == ("0", "complete")


async def test_a_slow_verifier_does_not_hold_a_deadline_up() -> None:
    result, _ = await solve("rebase:width=4", verifier=Says(Verdict(1.0), wait_s=30), budget=Budget(deadline_s=0.2))
    assert (result.stop_reason, result.answer is not None) == ("deadline", True)
    assert result.seconds < 1


@pytest.mark.parametrize("strategy", SEARCHES)
async def test_cancelling_leaves_nothing_in_flight(strategy: str) -> None:
    model = ScriptedModel(TREE.sample, latency_s=0.05, token_s=0.01)
    async with Engine(model, verifier=Stepwise(Branches())) as engine:
        solving = asyncio.create_task(engine.solve(QUESTION, strategy=strategy))
        await asyncio.sleep(0.2)
        assert model.in_flight
        solving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await solving
        assert model.in_flight == 0


async def test_a_server_that_dies_in_the_middle_ends_the_search_with_what_there_is() -> None:
    def dies(prompt: Prompt, index: int, rng: Random) -> Reply | Exception:
        return (
            ModelUnavailable("gone", status=503)
            if len(branches(prompt.prefix)) >= 2
            else TREE.sample(prompt, index, rng)
        )

    result, events = await solve("rebase:width=4", ScriptedModel(dies))
    assert widths(events) == [4, 4]
    assert result.answer is not None  # the draft's
    assert named(events, "failed")


@pytest.mark.parametrize("strategy", [*SEARCHES, "check-and-correct"])
async def test_what_it_needs_is_said_before_anything_is_spent(strategy: str) -> None:
    mute = ScriptedModel(TREE.sample, capabilities=Capabilities(continuation=False))
    async with Engine(mute, verifier=Stepwise(Branches())) as engine:
        with pytest.raises(UsageError, match="cannot continue a reply"):
            await engine.solve(QUESTION, strategy=strategy)
    async with Engine(ScriptedModel(TREE.sample)) as engine:
        with pytest.raises(UsageError, match="needs a verifier"):
            await engine.solve(QUESTION, strategy=strategy)
    assert mute.requests == 0


async def test_text_completions_need_no_special_server() -> None:
    request = Request(Prompt(text="Which way? "), AnswerKind.NUMBER, Params(max_tokens=64))
    plain = ScriptedModel(TREE.sample, capabilities=Capabilities(continuation=False, tells_stop=False))
    result, events = await solve("rebase:width=16,select=best,step=blank-line", plain, request=request)
    assert result.answer == str(TREE.best)
    # The server does not tell a step's end from the reply's, so one more, empty piece ends each reply.
    assert widths(events) == [16] * 5


@pytest.mark.parametrize(
    "spec",
    [
        "rebase:width=0",
        "beam:width=6,expand=4",
        "particle-filter:temperature=0",
        "ets:sharing=-1",
        "rebase:step=page",
        "rebase:step=0",
        "best-first:batch=0",
        "check-and-correct:tries=0",
    ],
)
def test_wrong_parameters_are_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        strategies.parse(spec)


# -- the rules by themselves ---------------------------------------------------------------------------------------


def grown(path: tuple[int, ...], *, finished: bool = False, words: str | None = None) -> Candidate:
    steps = tuple(f"step {path[: i + 1]} {place}\n\n" for i, place in enumerate(path))
    steps = (*steps[:-1], words) if words is not None else steps
    reason = "stop" if finished else "step"
    return Candidate(path, QUESTION.prompt, "".join(steps), finish_reason=reason, steps=steps, answer=str(path))


def level_tree(scores: Sequence[float | None], finished: Sequence[bool]) -> tuple[Tree, list[Candidate], list[Verdict]]:
    tree = Tree(Candidate((), QUESTION.prompt), seed=3)
    tree.apply([Grow(tree.root, len(scores))])
    children = [grown((place,), finished=done) for place, done in enumerate(finished)]
    return tree, children, [Verdict(score) for score in scores]


@pytest.mark.parametrize("strategy", SEARCHES)
def test_the_order_in_which_it_is_told_changes_nothing(strategy: str) -> None:
    rule: Any = strategies.parse(strategy)
    asked = []
    for order in permutations(range(5)):
        tree, children, verdicts = level_tree([0.9, 0.2, None, 0.9, 0.4], [False, False, False, False, True])
        children[3] = grown((3,), words=children[0].text)  # a twin of the first
        for place in order:
            tree.tell([children[place]], [verdicts[place]])
        asked.append([(grow.node.path, grow.n) for grow in rule.ask(tree)])
    assert all(one == asked[0] for one in asked)
    assert asked[0]


@pytest.mark.parametrize(
    ("rewards", "budget", "temperature", "rounding", "widths"),
    [
        ([1.0, 0.0], 10, 0.1, "round", [10, 0]),  # e^0 : e^-10
        ([0.5, 0.5, 0.5], 10, 0.1, "round", [3, 3, 3]),  # 3.33 each: under-spends
        ([0.5, 0.5, 0.5], 10, 0.1, "ceil", [4, 4, 2]),
        ([0.5, 0.5], 5, 0.1, "round", [3, 3]),  # 2.5 each: over-spends
        ([0.5, 0.5], 5, 0.1, "ceil", [3, 2]),
        ([0.9, 0.8, 0.7], 8, 0.1, "round", [5, 2, 1]),  # 5.32, 1.96, 0.72
        ([0.9, 0.8, 0.7], 8, 0.1, "ceil", [6, 2, 0]),
        ([0.7, 0.9, 0.8], 8, 0.1, "ceil", [0, 6, 2]),
        ([0.9, 0.8, 0.7], 8, 0.2, "ceil", [5, 3, 0]),  # 4.05, 2.46, 1.49
        ([0.3], 7, 0.1, "ceil", [7]),
        ([0.3, 0.3], 0, 0.1, "ceil", [0, 0]),
    ],
)  # fmt: skip
def test_rebase_shares_the_width_as_computed_by_hand(
    rewards: list[float], budget: int, temperature: float, rounding: Any, widths: list[int]
) -> None:
    assert shares(rewards, budget, temperature, rounding) == widths


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.8, 1.0]), min_size=1, max_size=40),
    st.integers(1, 64),
    st.sampled_from([0.05, 0.1, 1.0]),
)
def test_ceil_spends_the_width_exactly_and_never_prefers_a_worse_branch(
    rewards: list[float], budget: int, temperature: float
) -> None:
    spent = shares(rewards, budget, temperature, "ceil")
    assert sum(spent) == budget
    assert all(
        spent[i] >= spent[j] for i in range(len(rewards)) for j in range(len(rewards)) if rewards[i] > rewards[j]
    )


def test_a_node_without_a_score_counts_as_the_mean_of_the_others() -> None:
    tree, children, verdicts = level_tree([0.9, None, 0.1], [False] * 3)
    tree.tell(children, verdicts)
    assert known(tree.open) == [0.9, 0.5, 0.1]
    assert [node.path for node in ranked(tree.open)] == [(0,), (1,), (2,)]


async def test_particles_follow_the_exact_posterior() -> None:
    """Two steps of two branches, each path with p = 1/4: p(x) prod_t r_t/(1 - r_t), enumerated, against particles."""
    tree = StepTree(steps=2, tokens=6, branches=2)
    reward = {(0,): 0.3, (1,): 0.6, (0, 0): 0.2, (0, 1): 0.8, (1, 0): 0.5, (1, 1): 0.4}

    class Rewards:
        name = "rewards"

        async def verify(self, request: Request, candidates: Sequence[Candidate], _: Generate) -> Sequence[Verdict]:
            return [Verdict(reward[tuple(branches(one.text))]) for one in candidates]

    def odds(path: tuple[int, ...]) -> float:
        return exp(log(reward[path] / (1 - reward[path])))

    exact = {path: odds(path[:1]) * odds(path) for path in reward if len(path) == 2}
    total = sum(exact.values())

    drawn: dict[tuple[int, ...], float] = dict.fromkeys(exact, 0.0)
    for seed in range(12):
        request = Request(QUESTION.prompt, AnswerKind.NUMBER, Params(max_tokens=64), seed=seed)
        model = ScriptedModel(tree.sample, seed=seed)
        _, events = await solve("particle-filter:n=300,step=blank-line", model, verifier=Rewards(), request=request)
        for event in named(events, "candidate"):
            path = tuple(branches(event["text"]))
            drawn[path] += odds(path)  # the weight that the last draw would use
    weight = sum(drawn.values())
    for path, share in exact.items():
        assert drawn[path] / weight == pytest.approx(share / total, abs=0.02)


def test_a_finished_particle_can_be_drawn_again_and_lost() -> None:
    tree, children, verdicts = level_tree([0.5, 0.999, 0.001], [False, True, True])
    tree.tell(children, verdicts)
    asked = {grow.node.path: grow.n for grow in ParticleFilter(n=8).ask(tree)}
    assert asked[1,] > 1
    assert asked[2,] == 0
    tree.apply(ParticleFilter(n=8).ask(tree))
    assert tree.copies == {(1,): asked[1,], (2,): 0}
    assert [node.path for node in tree.done] == [(1,)]


@settings(max_examples=60)
@given(st.data())
def test_ets_finds_nearly_the_best_set(data: st.DataObject) -> None:
    """Against every set there is: adding and dropping one by one loses at most 0.05 of an objective in [-1, 2]."""
    size = data.draw(st.integers(2, 7))
    scores = data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    parents = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    numbers = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    tree = Tree(Candidate((), QUESTION.prompt))
    tree.apply([Grow(tree.root, 3)])
    tree.tell([grown((place,)) for place in range(3)], [Verdict(0.5)] * 3)
    tree.apply([Grow(node, size) for node in tree.open])
    leaves = [grown((parents[i], i), words=f"so {numbers[i]}") for i in range(size)]
    tree.tell(leaves, [Verdict(score) for score in scores])
    kept = EfficientTreeSearch(width=8).keep(tree)

    most = max(scores)
    weights = [exp((score - most) / 0.1) for score in scores]
    paths = {
        path: (parents[i], numbers[i], weights[i] / sum(weights)) for i, path in enumerate(leaf.path for leaf in leaves)
    }
    every = size + len(set(parents))

    def worth(chosen: Sequence[tuple[int, ...]]) -> float:
        held = len(chosen) + len({paths[path][0] for path in chosen})
        clusters = len({paths[path][1] for path in chosen}) / len(set(numbers))
        return sum(paths[path][2] for path in chosen) - held / every + clusters

    best = max(worth(chosen) for n in range(1, size + 1) for chosen in combinations(sorted(paths), n))
    assert worth([node.path for node in kept]) >= best - 0.05


# -- where steps and replies end -----------------------------------------------------------------------------------


def following(whole: str, *, reasoning: str = "") -> Callable[[Prompt, int, Random], Reply]:
    """Always writes the same reply, from wherever it is asked to go on."""
    written = f"<think>\n{reasoning}\n</think>\n{whole}" if reasoning else whole

    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        if prompt.prefix.startswith(written):
            return Reply("")
        assert written.startswith(prompt.prefix)
        rest = written[len(prompt.prefix) :]
        head, closed, text = rest.partition("\n</think>\n")
        return Reply(text, reasoning=head.removeprefix("<think>\n")) if closed else Reply(rest)

    return script


@pytest.mark.parametrize("told", [True, False])
async def test_more_than_one_separator_stands_between_two_steps(told: bool) -> None:
    whole = "add\n\ndouble\n\n\nso \\boxed{10}"
    request = Request(Prompt(text="Which way? "), AnswerKind.NUMBER, Params(max_tokens=64))
    model = ScriptedModel(following(whole), capabilities=Capabilities(tells_stop=told))
    result, events = await solve("rebase:width=1,step=line", model, verifier=Says(Verdict(0.5)), request=request)
    assert (result.text, result.answer) == (whole, "10")
    assert [event["text"] for event in named(events, "step") if event["text"]][:3] == [
        "add",
        "\n\ndouble",
        "\n\n\nso \\boxed{10}",
    ]


async def test_a_server_that_trims_what_it_continues_ends_the_search_soon() -> None:
    def trims(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        return Reply("\n\nmore \\boxed{7}" if prompt.prefix else "first \\boxed{7}\n\nmore")

    result, _ = await solve("rebase:width=4,step=blank-line", ScriptedModel(trims), verifier=Says(Verdict(0.5)))
    assert result.answer == "7"
    assert result.usage.calls == 4 * (1 + 3)


async def test_thinking_is_part_of_the_reply_that_grows() -> None:
    model = ScriptedModel(following("so\n\nit is \\boxed{10}", reasoning="hm, five, twice"))
    result, events = await solve("beam:width=2,expand=1,step=blank-line", model, verifier=Says(Verdict(0.5)))
    first = [event["text"] for event in named(events, "step") if len(event["path"]) == 1]
    assert first == ["<think>\nhm, five, twice\n</think>\nso"] * 2
    assert result.text == "<think>\nhm, five, twice\n</think>\nso\n\nit is \\boxed{10}"
    assert (result.answer, result.candidate.reasoning) == ("10", "")


async def test_thoughts_that_differ_are_no_twins() -> None:
    def thinks(prompt: Prompt, index: int, _rng: Random) -> Reply:
        if prompt.prefix:
            return Reply("it is \\boxed{1}")
        return Reply("so\n\nit is \\boxed{1}", reasoning=f"thought {index}")

    _, events = await solve("beam:width=4,expand=2,step=blank-line", ScriptedModel(thinks), verifier=Says(Verdict(0.5)))
    assert widths(events) == [4, 4]


async def test_the_default_boundary_leaves_the_subtrees_whole() -> None:
    model = ScriptedModel(WIDE.sample)
    _, events = await solve("dvts:width=16,expand=4", model, verifier=Stepwise(Branches(WIDE)))
    assert widths(events) == [16, 16, 16, 16]
    grown = {event["path"][0] for event in named(events, "step") if len(event["path"]) == 2}
    assert [(place - 1) // 4 for place in sorted(grown)] == [0, 1, 2, 3]


async def test_best_first_goes_on_where_its_best_branch_may_not() -> None:
    class Deeper:
        name = "deeper"

        async def verify(self, request: Request, candidates: Sequence[Candidate], _: Generate) -> Sequence[Verdict]:
            return [Verdict(0.9 if one.path[0] == 0 else 0.1) for one in candidates]

    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        steps = prompt.prefix.count("\n\n")
        if not steps:
            return Reply(f"way {index}\n\non")
        return Reply("so \\boxed{5}" if "way 1" in prompt.prefix else f"on {steps} {index}\n\non")

    result, _ = await solve(
        "best-first:depth=3,expand=2,batch=1,finish=1,step=blank-line", ScriptedModel(script), verifier=Deeper()
    )
    assert (result.answer, result.candidate.path[0]) == ("5", 1)


@pytest.mark.parametrize("limit", [420, 450, 505, 700])
async def test_the_budget_holds_however_uneven_the_words_are(limit: int) -> None:
    def uneven(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        return Reply("b \\boxed{2}" if prompt.prefix else "a " * 200 + "\n\n" + "x" * 4000 + " bad")

    request = Request(QUESTION.prompt, AnswerKind.NUMBER, Params(max_tokens=400))
    result, _ = await solve(
        "check-and-correct:n=1,tries=1,rounds=1,step=blank-line",
        ScriptedModel(uneven),
        budget=Budget(max_total_tokens=limit),
        verifier=Stepwise(Wrong("bad")),
        request=request,
    )
    assert result.usage.total_tokens <= limit


async def test_what_a_deadline_cuts_is_the_reply_from_its_start() -> None:
    model = ScriptedModel(following("first step\n\n" + "word " * 60), token_s=0.01)
    result, _ = await solve(
        "rebase:width=1,step=blank-line", model, budget=Budget(deadline_s=0.3), verifier=Says(Verdict(0.5))
    )
    assert result.stop_reason == "deadline"
    assert result.text.startswith("first step\n\nword")


async def test_no_two_samples_of_one_prompt_have_one_seed() -> None:
    seeds: Counter[tuple[str, int | None]] = Counter()

    class Seeded(ScriptedModel):
        def generate(self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0) -> Any:
            for place in range(n):
                seeds[prompt.prefix, (params.seed or 0) + place] += 1
            return super().generate(prompt, params, n=n, first=first)

    able = Capabilities(max_n=4, continuation=True, tells_stop=True)
    await solve(
        "check-and-correct:n=2,tries=3,rounds=3,step=blank-line",
        Seeded(corrigible(["then bad"]), capabilities=able),
        verifier=Stepwise(Wrong("bad")),
    )
    assert set(seeds.values()) == {1}
    assert len(seeds) == 2 + 3 * 6


# -- check and correct ---------------------------------------------------------------------------------------------


class Wrong:
    """Calls steps wrong that hold a word."""

    name = "wrong"

    def __init__(self, word: str) -> None:
        self._word = word

    async def judge(
        self, request: Request, solutions: Sequence[Solution], generate: Generate
    ) -> Sequence[Sequence[Verdict]]:
        def verdict(step: str) -> Verdict:
            return Verdict(0.0, False, "it is wrong") if self._word in step else Verdict(1.0, True)

        return [[verdict(step) for step in one.steps[one.judged :]] for one in solutions]


def corrigible(alternatives: Sequence[str]) -> Callable[[Prompt, int, Random], Reply]:
    """First right, then a bad step; asked again after the first, it gives the alternatives in turn."""

    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        match prompt.prefix.count("\n\n"):
            case 0:
                return Reply("first right\n\nthen bad\n\nso \\boxed{8}")
            case 1:
                return Reply(alternatives[min(index, len(alternatives) - 1)] + "\n\nso \\boxed{7}")
            case _:
                return Reply("so \\boxed{7}")

    return script


async def test_a_wrong_step_is_written_anew_from_where_it_stood() -> None:
    model = ScriptedModel(corrigible(["then bad", "then good"]))
    result, events = await solve(
        "check-and-correct:n=2,tries=2,step=blank-line", model, verifier=Stepwise(Wrong("bad"))
    )
    assert (result.answer, result.confidence) == ("7", 1.0)
    assert result.text.startswith("first right\n\nthen good")
    assert [prune["reason"] for prune in named(events, "prune")] == ["wrong step"]
    # 2 replies, 2 tries for each, 2 new ends: nothing else is paid for
    assert result.usage.calls == 2 + 4 + 2


async def test_the_failed_step_is_kept_out() -> None:
    model = ScriptedModel(corrigible(["then bad"]))
    result, events = await solve(
        "check-and-correct:n=1,rounds=2,tries=3,step=blank-line", model, verifier=Stepwise(Wrong("bad"))
    )
    assert result.answer == "8"  # no other way to go on was found: the reply stands
    assert not named(events, "prune")


async def test_a_reply_that_could_not_be_judged_is_not_worse_than_a_wrong_one() -> None:
    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply("bad \\boxed{3}" if index == 0 else "\\boxed{7}")

    class Sees(Wrong):
        async def judge(self, request: Request, solutions: Sequence[Solution], generate: Generate) -> Any:
            judged = await super().judge(request, solutions, generate)
            return [[one if one.score == 0 else Verdict(None) for one in verdicts] for verdicts in judged]

    result, _ = await solve("check-and-correct:n=4,rounds=0", ScriptedModel(script), verifier=Stepwise(Sees("bad")))
    assert result.answer == "7"


async def test_an_empty_continuation_is_no_correction() -> None:
    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        return Reply("" if prompt.prefix else "fine\n\nbad\n\nso \\boxed{8}")

    result, events = await solve(
        "check-and-correct:n=1,step=blank-line", ScriptedModel(script), verifier=Stepwise(Wrong("bad"))
    )
    assert result.answer == "8"
    assert not named(events, "prune")


async def test_a_wrong_first_step_is_written_anew_from_the_given_beginning() -> None:
    def script(prompt: Prompt, index: int, _rng: Random) -> Reply:
        if prompt.prefix == "Sure:":
            return Reply(" bad\n\nso \\boxed{8}" if index == 0 else " good\n\nso \\boxed{7}")
        return Reply("so \\boxed{7}")

    request = Request(Prompt(messages=QUESTION.prompt.messages, prefix="Sure:"), AnswerKind.NUMBER)
    result, _ = await solve(
        "check-and-correct:n=1,tries=1,step=blank-line",
        ScriptedModel(script),
        verifier=Stepwise(Wrong("bad")),
        request=request,
    )
    assert (result.answer, result.text) == ("7", "Sure: good\n\nso \\boxed{7}")


async def test_right_replies_cost_no_correction() -> None:
    result, _ = await solve("check-and-correct:n=3,step=blank-line", verifier=Stepwise(Wrong("nothing")))
    assert result.usage.calls == 3


# -- steps ---------------------------------------------------------------------------------------------------------

TEXTS = {
    "step": "Let us see.\nStep 1: add\n2+3=5\nStep 2: double\n\nStep 3: 10",
    "blank-line": "We add.\n\nWe double.\n\nIt is 10.",
    "numbered": "Plan:\n1. add\n2. double\n3. end",
    "line": "add\ndouble\nend",
    "256": "one long line without any break in it",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_the_default_boundary_is_found_in_the_models_own_output(kind: str) -> None:
    found = Boundary().found_in(TEXTS[kind])
    assert found.kind == ("tokens" if kind == "256" else kind)
    assert Boundary("line").found_in(TEXTS[kind]) == Boundary("line")


@given(
    st.text(alphabet="ab \n1.</>thinkStep:", max_size=80),
    st.sampled_from(["auto", "blank-line", "line", "step", "numbered", "thinking", "3"]),
)
def test_steps_add_up_to_the_text_and_none_is_blank(text: str, kind: str) -> None:
    steps = Boundary.parse(kind).split(text)
    assert "".join(steps) == (text if text.strip() else "")
    assert all(step.strip() for step in steps)


@pytest.mark.parametrize(
    ("kind", "reply", "stop"),
    [
        ("blank-line", "x", "\n\n"), ("line", "", "\n"), ("step", "", "Step 2"), ("step", "1: x\nStep 2", "Step 3"),
        ("numbered", "", "\n2. "), ("numbered", "Plan:\n1. x\n2. ", "\n3. "), ("thinking", "hm", "</think>"),
        ("thinking", "hm</think>", None), ("40", "x", None),
    ],
)  # fmt: skip
def test_where_the_next_step_ends(kind: str, reply: str, stop: str | None) -> None:
    assert Boundary.parse(kind).stop(reply) == stop


@pytest.mark.parametrize("text", ["line", "blank-line", "step/100", "64", "auto"])
def test_a_boundary_is_written_as_it_is_read(text: str) -> None:
    assert str(Boundary.parse(text)) == text


@pytest.mark.parametrize("kind", ["step", "numbered", "line", "thinking"])
async def test_a_reply_grown_step_by_step_is_the_reply_that_was_meant(kind: str) -> None:
    whole = {
        "step": "First.\nStep 1: add\nStep 2: double\nStep 3: \\boxed{10}",
        "numbered": "Plan:\n1. add\n2. double\n3. \\boxed{10}",
        "line": "add\ndouble\n\\boxed{10}",
        "thinking": "<think>add, double</think>\\boxed{10}",
    }[kind]

    def script(prompt: Prompt, _index: int, _rng: Random) -> Reply:
        assert whole.startswith(prompt.prefix)
        return Reply(whole[len(prompt.prefix) :])

    result, events = await solve(f"rebase:width=1,step={kind}", ScriptedModel(script), verifier=Says(Verdict(0.5)))
    assert result.text == whole
    assert "".join(event["text"] for event in named(events, "step")) == whole
    assert len(named(events, "step")) == len(Boundary.parse(kind).split(whole))


def test_every_search_has_the_common_options() -> None:
    for name in ("beam", "dvts", "rebase", "ets", "particle-filter", "best-first"):
        search = strategies.parse(f"{name}:step=line,depth=3,select=vote")
        assert isinstance(search, StepSearch)
        assert (search.step, search.depth, search.select) == (Boundary("line"), 3, "vote")
