"""The strategy `auto`: what a controller says is what is done."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from thinkscale.accounting import Claim, Ledger, Price
from thinkscale.engine import Engine
from thinkscale.errors import UsageError
from thinkscale.models.base import prompt_key
from thinkscale.models.replay import Recorded, ReplayModel
from thinkscale.trace import Event
from thinkscale.types import Action, AnswerKind, Budget, Params, Prompt, Request, Seen, Token
from thinkscale.verifiers.checker import CheckerVerifier

PROMPT = Prompt.of("What is 20 + 22?")
REQUEST = Request(PROMPT, AnswerKind.NUMBER, Params(max_tokens=64))


@dataclass
class Script:
    """Says what it is told to say, and remembers what it saw."""

    actions: list[Action]
    features: frozenset[str] = frozenset()
    saw: list[Seen] = field(default_factory=list)

    async def act(self, seen: Seen) -> Action:
        self.saw.append(seen)
        return self.actions.pop(0)


def replay(*answers: str, name: str = "replay", tokens: tuple[Token, ...] = ()) -> ReplayModel:
    samples = [Recorded(f"Answer: {answer}", prompt_tokens=10, output_tokens=5, tokens=tokens) for answer in answers]
    return ReplayModel({prompt_key(PROMPT): samples}, name=name, max_n=4)


async def test_draws_as_told_and_shows_what_came() -> None:
    script = Script(
        [Action("draw", 3), Action("draw", 2), Action("stop", reason="confident", confidence=0.9)],
        frozenset({"prompt_tokens"}),
    )
    async with Engine(replay("42", "41", "41", "42", "42")) as engine:
        result = await engine.solve(REQUEST, strategy="auto", controller=script)
    assert (result.answer, result.stop_reason, result.confidence) == ("42", "confident", 0.9)
    assert [(one.drawn, one.votes, one.output_tokens) for one in script.saw] == [
        (0, (), 0),
        (3, (2, 1), 15),
        (5, (3, 2), 25),
    ]
    assert script.saw[1].prompt_tokens == 10
    assert script.saw[1].affordable is None
    assert script.saw[1].nll is None
    assert (result.usage.prompt_tokens, result.usage.output_tokens) == (20, 25)


async def test_without_a_controller_it_votes_and_stops_when_decided() -> None:
    async with Engine(replay(*["42"] * 16)) as engine:
        result = await engine.solve(REQUEST, strategy="auto")
    assert (result.answer, result.stop_reason, result.samples) == ("42", "consensus", 4)


async def test_the_engine_makes_the_controller() -> None:
    async with Engine(replay("42", "42"), auto=lambda _request: Script([Action("draw", 2), Action("stop")])) as engine:
        assert (await engine.solve(REQUEST, strategy="auto")).samples == 2


async def test_verdicts_weigh_the_votes() -> None:
    script = Script([Action("draw", 3), Action("verify"), Action("stop")], frozenset({"score"}))
    async with Engine(replay("41", "41", "42")) as engine:
        result = await engine.solve(
            REQUEST, strategy="auto", controller=script, verifier=CheckerVerifier(lambda answer: answer == "42")
        )
    assert result.answer == "42"
    assert script.saw[-1].score == 0.0  # the leader by number, 41, did not pass


async def test_a_larger_model_has_the_last_word_and_is_on_the_bill() -> None:
    script = Script([Action("draw", 2), Action("escalate", 3, reason="escalated")], frozenset({"larger"}))
    events: list[Event] = []
    large = replay("42", "42", "40", name="large")
    async with Engine(replay("41", "40"), larger=large) as engine:
        result = await engine.solve(REQUEST, strategy="auto", controller=script, listeners=(events.append,))
    assert (result.answer, result.stop_reason) == ("42", "escalated")
    assert result.candidate.path == (0, 0)  # the larger model's first sample, for the leader's place
    assert result.usage_by_purpose["escalate"].output_tokens == 15
    assert [event["action"] for event in events if event["event"] == "decision"] == ["draw", "escalate"]


async def test_it_hands_over_to_another_strategy() -> None:
    script = Script([Action("run", strategy="self-consistency:n=3")])
    async with Engine(replay("42", "41", "41")) as engine:
        result = await engine.solve(REQUEST, strategy="auto", controller=script)
    assert (result.answer, result.samples) == ("41", 3)


@pytest.mark.parametrize("feature", ["score", "larger"])
async def test_what_it_may_need_is_asked_for_before_anything_is_spent(feature: str) -> None:
    script = Script([Action("draw", 1)], frozenset({feature}))
    async with Engine(replay("42")) as engine:
        with pytest.raises(UsageError, match="none is set"):
            await engine.solve(REQUEST, strategy="auto", controller=script)
    assert not script.saw


async def test_log_probabilities_are_asked_for_where_it_looks_at_them() -> None:
    tokens = (Token("", -0.12), Token("", -0.32))
    for features, expected in ((frozenset({"nll"}), 0.2), (frozenset[str](), None)):
        script = Script([Action("draw", 2), Action("stop")], features)
        async with Engine(replay("42", "42", tokens=tokens)) as engine:
            await engine.solve(REQUEST, strategy="auto", controller=script)
        assert script.saw[-1].nll == script.saw[-1].leader_nll == expected


async def test_a_budget_ends_it_and_is_seen_before() -> None:
    script = Script([Action("draw", 2), Action("draw", 2), Action("draw", 2)])
    async with Engine(replay(*["42"] * 8)) as engine:
        result = await engine.solve(REQUEST, strategy="auto", controller=script, budget=Budget(max_calls=3))
    assert (result.samples, result.stop_reason) == (3, "budget")
    assert [one.affordable for one in script.saw] == [3, 1]


@pytest.mark.parametrize(
    ("budget", "n", "fits"),
    [
        (Budget(), 4, None),
        (Budget(max_calls=7), 4, 7),
        (Budget(max_output_tokens=100), 4, 10),
        (Budget(max_total_tokens=100), 1, 3),  # each sample pays the prompt: 20 + 10
        (Budget(max_total_tokens=100), 4, 6),  # 20 + 4 * 10, then 20 + 2 * 10
        (Budget(max_total_tokens=100, max_calls=5), 4, 5),
        (Budget(max_cost_usd=90e-6), 2, 4),  # 20 + 2 * 10 dollars a million, twice
        (Budget(max_total_tokens=5), 4, 0),
    ],
)
def test_room_counts_whole_samples(budget: Budget, n: int, fits: int | None) -> None:
    claim = Claim(prompt_tokens=20, max_tokens=10, n=n, price=Price(1, 1))
    assert Ledger(budget).room(claim) == fits


async def test_ties_go_to_the_likelier_answer_where_the_controller_wants_that() -> None:
    def sample(answer: str, logprob: float) -> Recorded:
        return Recorded(f"Answer: {answer}", prompt_tokens=10, output_tokens=1, tokens=(Token("", logprob),))

    samples = [sample("41", -0.9), sample("42", -0.2), sample("42", -0.8), sample("41", -0.4), sample("40", -0.01)]
    for features, answer in ((frozenset({"likelihood"}), "42"), (frozenset[str](), "41")):
        script = Script([Action("draw", 5), Action("stop")], features)
        async with Engine(ReplayModel({prompt_key(PROMPT): samples})) as engine:
            result = await engine.solve(REQUEST, strategy="auto", controller=script)
        assert result.answer == answer, "the likeliest reply alone is no tie"
        assert result.confidence == pytest.approx(0.4)
