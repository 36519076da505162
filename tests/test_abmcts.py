"""AB-MCTS: the tree against the reference implementation and its own promises, and the strategy on known models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from math import sqrt
from random import Random
from typing import Any, get_args

import numpy as np
import pytest
import treequest
from treequest.algos.ab_mcts_a.algo import ABMCTSAAlgoState

from thinkscale.accounting import Ledger
from thinkscale.errors import ModelRefused, ModelUnavailable, NoAnswer, UsageError
from thinkscale.models.base import Capabilities
from thinkscale.session import Session
from thinkscale.strategies.abmcts import AdaptiveBranching
from thinkscale.strategies.abmcts_tree import ROOT, Beta, Gaussian, Posterior, Prior, Tree, Trial
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Selection, Verdict
from thinkscale.verifiers.base import Generate, Verifier
from thinkscale.verifiers.checker import CheckerVerifier
from thinkscale.verifiers.equivalence import Answers

PRIORS: tuple[Prior, ...] = get_args(Prior)
Told = Sequence[tuple[int, float]]
"""Parent and score of each trial, in order."""

TREES: dict[str, Told] = {
    "wide": [(ROOT, 0.2), (ROOT, 0.7), (ROOT, 0.4)],
    "deep": [(ROOT, 0.3), (0, 0.5), (1, 0.9), (ROOT, 0.1), (2, 0.7)],
    "bushy": [(ROOT, 0.2), (ROOT, 0.8), (1, 0.9), (ROOT, 0.4), (1, 0.5), (2, 0.7), (0, 0.6), (5, 1.0)],
}


def grown(told: Told, prior: Prior, seed: int = 0) -> Tree:
    return Tree.restored({"seed": seed, "prior": prior, "trials": told})


def places(told: Told, prior: Prior, asks: int) -> Counter[int]:
    """Where the next trial goes, over many seeds."""
    return Counter(grown(told, prior, seed).ask()[0].parent for seed in range(asks))


# -- against the reference ---------------------------------------------------------------------------------------

Reference = treequest.ABMCTSA[str]


def reference(told: Told, prior: Prior) -> tuple[Reference, ABMCTSAAlgoState[str]]:
    """The reference implementation, told the same scores at the same places."""
    algorithm = Reference(dist_type=prior)
    state = algorithm.init_tree()
    algorithm.ask_batch(state, 1, ["gen"])  # it prepares its stores in there
    for parent, score in told:
        node = state.tree.get_node(parent)
        state.thompson_states.get_or_create(node, ["gen"])
        algorithm.tell(state, state.trial_store.create_trial(node, "gen").trial_id, ("answer", score))
    return algorithm, state


def parameters(posterior: Posterior) -> dict[str, float]:
    if isinstance(posterior, Beta):
        return {"a": posterior.a, "b": posterior.b}
    return {
        "m": posterior.m, "kappa": posterior.kappa, "nu": posterior.nu, "tau_square": posterior.tau_square
    }  # fmt: skip


@pytest.mark.parametrize("prior", PRIORS)
def test_every_posterior_is_the_references(prior: Prior) -> None:
    rng = Random(5)
    told = [(rng.randrange(ROOT, max(number, 1) if number else 0), rng.random()) for number in range(60)]
    _, state = reference(told, prior)
    tree = grown(told, prior)
    for node in state.tree.get_nodes():
        if not node.children:
            continue
        choices, known = tree.choices(node.expand_idx), state.thompson_states.states[node.expand_idx]
        shared = known.gen_vs_cont_probas["shared"]
        assert parameters(choices.gen) == pytest.approx(shared["GEN"].params)
        assert parameters(choices.cont) == pytest.approx(shared["CONT"].params)
        assert len(choices.children) == len(node.children)
        for index, child in enumerate(choices.children):
            assert parameters(child) == pytest.approx(known.node_probas["shared"][index].params)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("told", TREES.values(), ids=TREES)
def test_gen_and_cont_are_chosen_as_often_as_in_the_reference(told: Told, prior: Prior) -> None:
    """Where trials go, over many draws, tells how often each node was reached, and how often it then chose GEN."""
    asks = 1500
    np.random.seed(7)  # the reference draws from the global generator
    algorithm, state = reference(told, prior)
    theirs = Counter(algorithm.ask(state, ["gen"])[1].node_to_expand for _ in range(asks))
    ours = places(told, prior, asks)
    for node in range(ROOT, len(told)):
        a, b = reached(ours, told, node), reached(theirs, told, node)
        assert alike(a, asks, b, asks)
        assert alike(ours[node], a, theirs[node], b)


def reached(ends: Counter[int], told: Told, node: int) -> int:
    """How many walks came by a node."""
    return ends[node] + sum(reached(ends, told, child) for child, (parent, _) in enumerate(told) if parent == node)


def alike(a: int, n: int, b: int, m: int) -> bool:
    """Whether a of n and b of m may be draws of one probability, within four standard deviations."""
    share = (a + b) / (n + m)
    return abs(a / n - b / m) <= 4 * sqrt(share * (1 - share) * (1 / n + 1 / m))


# -- known values ------------------------------------------------------------------------------------------------


def test_the_posterior_after_two_scores() -> None:
    """n=2, mean .6, sum of squares about it .02: kappa=nu=3, m=1.2/3, tau^2=(.1 + .02 + 2/3 * .36)/3."""
    tree = grown([(ROOT, 0.5), (ROOT, 0.7)], "gaussian")
    posterior = tree.choices().gen
    assert isinstance(posterior, Gaussian)
    assert (posterior.m, posterior.kappa, posterior.nu) == pytest.approx((0.4, 3.0, 3.0))
    assert posterior.tau_square == pytest.approx(0.12)
    assert parameters(grown([(ROOT, 0.5), (ROOT, 0.7)], "beta").choices().gen) == pytest.approx({"a": 1.7, "b": 1.3})


def test_a_draw_has_the_posteriors_mean_and_variance() -> None:
    """The mean of NIX^2 is a Student t around m: variance tau^2 / kappa * nu / (nu - 2)."""
    rng, posterior = Random(1), Gaussian(m=0.4, kappa=4.0, nu=20.0, tau_square=0.2)
    draws = [posterior.draw(rng) for _ in range(20_000)]
    assert np.mean(draws) == pytest.approx(0.4, abs=0.01)
    assert np.var(draws) == pytest.approx(0.05 * 20 / 18, rel=0.05)


@pytest.mark.parametrize("prior", PRIORS)
def test_it_goes_wide_where_revisions_lose_and_deep_where_they_win(prior: Prior) -> None:
    losing = places([(ROOT, 0.8), (ROOT, 0.7), (0, 0.0), (1, 0.1), (0, 0.0)], prior, 400)
    winning = places([(ROOT, 0.1), (ROOT, 0.2), (0, 0.8), (1, 0.9), (0, 0.9)], prior, 400)
    assert losing[ROOT] > 300
    assert winning[ROOT] < 100


# -- asked and told ----------------------------------------------------------------------------------------------


def test_an_empty_tree_and_a_leaf_can_only_generate() -> None:
    assert [trial.parent for trial in Tree().ask(5)] == [ROOT] * 5
    tree = Tree()
    for trial in tree.ask(3):
        tree.fail(trial)
    assert tree.ask()[0] == Trial(3, ROOT), "a failed trial keeps its number and nothing else"


@pytest.mark.parametrize("prior", PRIORS)
def test_the_order_of_results_leaves_no_trace(prior: Prior) -> None:
    results: list[float | str | None] = [0.1, 0.2, 0.7, None, "failed"]

    def after(order: Sequence[int]) -> tuple[Any, ...]:
        tree = grown([(ROOT, 0.3), (0, 0.6)], prior, seed=4)
        trials = tree.ask(len(results))
        for place in order:
            result = results[place]
            if isinstance(result, str):
                tree.fail(trials[place])
            else:
                tree.tell(trials[place], result)
        told = [number for number, (_, outcome) in enumerate(tree.state()["trials"]) if outcome != "failed"]
        return tree.state(), [tree.choices(node) for node in (ROOT, *told)], tree.ask(6)

    first = after(range(len(results)))
    assert all(after(order) == first for order in permutations(range(len(results))))


@pytest.mark.parametrize("prior", PRIORS)
def test_a_saved_tree_goes_on_as_it_would_have(prior: Prior) -> None:
    rng, tree = Random(3), Tree(seed=9, prior=prior)
    waiting: list[Trial] = []
    for _ in range(40):
        waiting += tree.ask(2)
        trial = waiting.pop(rng.randrange(len(waiting)))
        other = Tree.restored(json.loads(json.dumps(tree.state())))
        assert other.state() == tree.state()
        score = rng.choice([rng.random(), None])
        for one in (tree, other):
            one.tell(trial, score)
        assert tree.ask(3) == other.ask(3)
    assert max(trial.parent for trial in waiting) > 0, "it went deep, with trials under way there"


@pytest.mark.parametrize("prior", PRIORS)
def test_the_seed_decides(prior: Prior) -> None:
    told = TREES["bushy"]
    assert [grown(told, prior, 1).ask(8) for _ in range(3)] == [grown(told, prior, 1).ask(8)] * 3
    assert len({tuple(grown(told, prior, seed).ask(8)) for seed in range(20)}) > 10


@pytest.mark.parametrize("prior", PRIORS)
def test_an_unknown_score_is_no_evidence_but_can_be_built_on(prior: Prior) -> None:
    tree = Tree(prior=prior)
    (trial,) = tree.ask()
    before = tree.choices()
    tree.tell(trial, None)
    assert (tree.choices().gen, tree.choices().cont) == (before.gen, before.cont)
    assert tree.choices().children == (before.gen,), "the prior still"
    following = Counter(Tree.restored({**tree.state(), "seed": seed}).ask()[0].parent for seed in range(200))
    assert 50 < following[0] < 150


@pytest.mark.parametrize("prior", PRIORS)
def test_a_place_under_way_is_taken_only_if_it_is_drawn_twice(prior: Prior) -> None:
    """With place probabilities p, two of a batch fall together with sum p^3; independent draws do with sum p^2."""
    told, asks = TREES["bushy"], 3000
    shares = [count / asks for count in places(told, prior, asks).values()]
    pairs = [grown(told, prior, asks + seed).ask(2) for seed in range(asks)]
    together = sum(a.parent == b.parent for a, b in pairs) / asks
    assert together == pytest.approx(sum(share**3 for share in shares), abs=0.02)
    assert together < 0.8 * sum(share**2 for share in shares)


def test_a_place_is_free_again_once_its_trial_has_failed() -> None:
    told, asks = TREES["bushy"], 2000

    def after_a_failure(seed: int) -> int:
        tree = grown(told, "gaussian", seed)
        tree.fail(tree.ask()[0])
        return tree.ask()[0].parent

    after, fresh = Counter(map(after_a_failure, range(asks))), places(told, "gaussian", asks)
    assert all(alike(after[node], asks, fresh[node], asks) for node in range(ROOT, len(told)))


def test_what_cannot_be_told_is_refused() -> None:
    tree = Tree()
    (trial,) = tree.ask()
    for score in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            tree.tell(trial, score)
    tree.tell(trial, 0.5)
    for stranger in (trial, Trial(7, ROOT), Trial(-1, ROOT)):
        with pytest.raises(ValueError, match="not pending"):
            tree.tell(stranger, 0.5)
    with pytest.raises(ValueError, match="does not exist"):
        grown([(ROOT, 0.1), (5, 0.2)], "gaussian")


# -- the strategy ------------------------------------------------------------------------------------------------

QUESTION = Request(Prompt.of("What is 3 + 4?"), AnswerKind.NUMBER, Params(max_tokens=64))


class Tenths:
    """Scores an answer k with k/10 and says so; an answer of which it knows nothing cannot be judged."""

    name = "tenths"

    def __init__(self, most: int = 10) -> None:
        self._most = most

    async def verify(self, request: Request, candidates: Sequence[Candidate], generate: Generate) -> Sequence[Verdict]:
        return [self._judge(candidate.answer) for candidate in candidates]

    def _judge(self, answer: str | None) -> Verdict:
        if answer is None or int(answer) > self._most:
            return Verdict(None)
        return Verdict(int(answer) / 10, reason=f"it is worth {answer}")


async def run(
    model: ScriptedModel,
    strategy: AdaptiveBranching,
    verifier: Verifier | None = None,
    budget: Budget | None = None,
    seed: int = 0,
) -> tuple[Selection, Session, list[Mapping[str, Any]]]:
    events: list[Mapping[str, Any]] = []
    ledger = Ledger(budget or Budget())
    request = Request(QUESTION.prompt, QUESTION.kind, QUESTION.params, seed=seed)
    session = Session(
        request,
        model=model,
        ledger=ledger,
        trace=Trace(listeners=(events.append,)),
        canonical=Answers(AnswerKind.NUMBER).canonical,
        verifier=verifier,
    )
    selected = await strategy(session)
    assert model.in_flight == 0
    assert (ledger.spent.output_tokens, ledger.held.calls) == (model.tokens_served, 0)
    return selected, session, events


def climbing(prompt: Prompt, _index: int, rng: Random) -> Reply:
    """An answer from scratch is 0 to 3; a revision is two more than what it revises."""
    revised = [message for message in prompt.messages if message["role"] == "assistant"]
    if not revised:
        return Reply(f"\\boxed{{{rng.randrange(4)}}}")
    return Reply(f"\\boxed{{{min(10, int(revised[-1]['content'][7:-1]) + 2)}}}")


@pytest.mark.parametrize("prior", PRIORS)
async def test_it_climbs_where_revising_helps(prior: Prior) -> None:
    """Sampling afresh never scores above .3; five revisions in a row reach 1."""
    selected, session, _ = await run(ScriptedModel(climbing), AdaptiveBranching(40, 1, prior), Tenths())
    assert selected.confidence is not None
    assert selected.confidence >= 0.7
    assert selected.confidence == max(int(one.answer or 0) for one in session.candidates) / 10
    assert len(session.candidates) == 40


async def test_paths_are_the_tree_and_revisions_know_why() -> None:
    _, session, _ = await run(ScriptedModel(climbing), AdaptiveBranching(24, 4), Tenths())
    by_path = {candidate.path: candidate for candidate in session.candidates}
    assert len(by_path) == 24
    deep = [candidate for candidate in session.candidates if len(candidate.path) > 1]
    assert deep
    for child in deep:
        parent = by_path[child.path[:-1]]
        assert int(child.answer or 0) == min(10, int(parent.answer or 0) + 2)
        assert child.prompt.messages[-2] == parent.message
        assert f"it is worth {parent.answer}." in child.prompt.messages[-1]["content"]


async def test_a_pass_ends_the_run_and_the_first_one_stands() -> None:
    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply("\\boxed{7}" if index >= 2 else "\\boxed{1}")

    model = ScriptedModel(script)
    selected, _, _ = await run(model, AdaptiveBranching(16, 4), CheckerVerifier(lambda answer: answer == "7"))
    assert (selected.candidate.path, selected.stop_reason, selected.confidence) == ((2,), "verified", 1.0)
    assert model.calls == 4


async def test_siblings_travel_in_one_request() -> None:
    model = ScriptedModel({"1": 1.0}, capabilities=Capabilities(max_n=16))
    await run(model, AdaptiveBranching(4, 16), Tenths())
    assert (model.calls, model.requests) == (4, 1)


async def test_ties_go_to_the_earliest_and_n_of_one_is_one_sample() -> None:
    selected, _, _ = await run(ScriptedModel({"3": 1.0}), AdaptiveBranching(8, 4), Tenths())
    assert (selected.candidate.path, selected.confidence, selected.stop_reason) == ((0,), 0.3, "complete")
    selected, session, _ = await run(ScriptedModel({"3": 1.0}), AdaptiveBranching(1), Tenths())
    assert (selected.candidate.path, len(session.candidates)) == ((0,), 1)


async def test_what_cannot_be_judged_does_not_win_but_votes_where_nothing_can() -> None:
    def script(_prompt: Prompt, index: int, _rng: Random) -> Reply:
        return Reply("\\boxed{9}" if index % 4 else "\\boxed{2}")

    selected, _, _ = await run(ScriptedModel(script), AdaptiveBranching(12, 4), Tenths(most=5))
    assert (selected.candidate.answer, selected.confidence) == ("2", 0.2)
    selected, _, _ = await run(ScriptedModel(script), AdaptiveBranching(12, 4), Tenths(most=1))
    assert selected.candidate.answer == "9"


@pytest.mark.parametrize("calls", range(1, 12))
async def test_a_budget_that_ends_returns_the_incumbent(calls: int) -> None:
    model = ScriptedModel(climbing)
    selected, session, _ = await run(model, AdaptiveBranching(40, 4), Tenths(), Budget(max_calls=calls))
    assert (model.calls, session.ended) == (calls, "budget")
    assert len(session.offers) == calls // 4, "nothing is offered that the return does not say better"
    assert selected.confidence == max(int(one.answer or 0) for one in session.candidates) / 10


async def test_a_failed_sample_is_a_trial_spent_and_the_search_goes_on() -> None:
    model = ScriptedModel(climbing, failures={1: ModelRefused("no", status=400)}, capabilities=Capabilities(max_n=1))
    _, session, events = await run(model, AdaptiveBranching(24, 4), Tenths())
    failed = sum(len(event["paths"]) for event in events if event["event"] == "failed")
    assert failed > 0
    assert len(session.candidates) == 24 - failed
    assert any(len(candidate.path) > 1 for candidate in session.candidates)


async def test_a_dead_server_ends_it() -> None:
    model = ScriptedModel(lambda _prompt, _index, _rng: ModelUnavailable("overloaded", status=503))
    with pytest.raises(NoAnswer):
        await run(model, AdaptiveBranching(400, 4), Tenths())
    assert model.requests < 400


async def test_it_offers_the_incumbent_as_it_goes() -> None:
    _, session, _ = await run(ScriptedModel(climbing), AdaptiveBranching(24, 4), Tenths())
    values = [value for _, value in session.offers if value is not None]
    assert len(values) == 6
    assert values == sorted(values)
    assert values[-1] > values[0]


async def test_the_same_seed_gives_the_same_trace() -> None:
    async def trace(seed: int) -> list[dict[str, Any]]:
        _, _, events = await run(ScriptedModel(climbing), AdaptiveBranching(24, 3), Tenths(), seed=seed)
        return [{name: value for name, value in event.items() if name not in ("t", "trace")} for event in events]

    assert await trace(1) == await trace(1)
    assert [event.get("path") for event in await trace(1)] != [event.get("path") for event in await trace(2)]


async def test_it_needs_a_verifier_and_says_so_before_spending() -> None:
    model = ScriptedModel({"7": 1.0})
    with pytest.raises(UsageError, match="needs a verifier"):
        await run(model, AdaptiveBranching())
    assert model.requests == 0


def test_a_parameter_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        AdaptiveBranching(n=0)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        AdaptiveBranching(batch=0)
