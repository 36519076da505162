"""Reward models against a server that replays bodies of vLLM's shape, each for exactly one request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Self

import orjson
import pytest
from aiohttp import web

from thinkscale.accounting import Claim, Ledger, Price, Reservation
from thinkscale.errors import AuthenticationFailed, ModelUnavailable, UsageError
from thinkscale.models.base import Capabilities, Model
from thinkscale.models.opening import Local
from thinkscale.models.pooling import PoolingServer
from thinkscale.models.resilience import RetryPolicy
from thinkscale.session import Session
from thinkscale.testing import Reply, ScriptedModel
from thinkscale.trace import Trace
from thinkscale.types import AnswerKind, Budget, Candidate, Params, Prompt, Request, Usage, Verdict
from thinkscale.verifiers.base import Charge
from thinkscale.verifiers.reward import OutcomeReward, PlusMinusReward, ProcessReward, Style
from thinkscale.verifiers.steps import Solution, Stepwise
from thinkscale.verifiers.words import shared_verifier

REQUEST = Request(Prompt.of("What is 3 + 4 + 5?", system="Be brief."), AnswerKind.NUMBER)
STEPS = ("3 + 4 is 7.", "\n\n7 + 5 is 12.", "\n\nSo \\boxed{12}")
PRM = "Qwen/Qwen2.5-Math-PRM-7B"
EXTRA = 151651


# -- what the server is told to say ------------------------------------------------------------------------------


def qwen(*steps: str) -> str:
    """The model card's layout, written out."""
    return (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\nWhat is 3 + 4 + 5?<|im_end|>\n<|im_start|>assistant\n"
        + "".join(f"{step}<extra_0>" for step in steps)
        + "<|im_end|>\n"
    )


def pooled(*rows: Any, tokens: int, model: str = PRM) -> dict[str, Any]:
    return {
        "id": "pool-1",
        "object": "list",
        "created": 1732000000,
        "model": model,
        "data": [{"index": index, "object": "pooling", "data": row} for index, row in enumerate(rows)],
        "usage": usage(tokens),
    }


def classified(probs: Sequence[Any], tokens: int) -> dict[str, Any]:
    item = {"index": 0, "label": "LABEL_0", "probs": probs, "num_classes": len(probs)}
    return {"id": "classify-1", "object": "list", "created": 1, "model": PRM, "data": [item], "usage": usage(tokens)}


def usage(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}


def refused(message: str, status: int = 400) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}


TOO_LONG = refused("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.")


class Recorded:
    """Replays one answer per exact request; any other is refused and makes the test fail."""

    def __init__(self, model: str = PRM) -> None:
        self.answers: dict[tuple[str, bytes], Any] = {}
        self.asked: list[str] = []
        self.unknown: list[tuple[str, Any]] = []
        self.model = model
        self.url = ""

    def tokens(self, text: str, ids: Sequence[int], *, special: bool = True) -> Self:
        said = {"count": len(ids), "max_model_len": 4096, "tokens": list(ids), "token_strs": None}
        return self.on("/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": special}, said)

    def pooling(self, texts: Sequence[str], answer: Any) -> Self:
        asked = {
            "model": self.model,
            "input": list(texts),
            "task": "token_classify",
            "encoding_format": "float",
            "use_activation": True,
        }
        return self.on("/pooling", asked, answer)

    def on(self, path: str, body: Mapping[str, Any], answer: Any) -> Self:
        self.answers[path, _canonical(body)] = answer
        return self

    async def _serve(self, request: web.Request) -> web.Response:
        if request.path == "/v1/models":
            listed = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": 4096}
            return web.json_response({"object": "list", "data": [listed]})
        body = orjson.loads(await request.read())
        self.asked.append(request.path)
        key = request.path, _canonical(body)
        if key not in self.answers:
            self.unknown.append((request.path, body))
            return web.json_response(refused("not recorded")[1], status=400)
        answer = self.answers[key]
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/json")
        status, said = answer if isinstance(answer, tuple) else (200, answer)
        return web.Response(body=orjson.dumps(said), status=status, content_type="application/json")

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()
        assert self.unknown == []

    def reward(self) -> PoolingServer:
        return PoolingServer(self.url, retry=RetryPolicy(base_s=0.001))


def _canonical(body: Any) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


class Meter:
    """The account that a session keeps of what its verifiers read."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.ledger = Ledger(budget)

    async def __call__(
        self, prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None
    ) -> list[Candidate]:
        raise AssertionError("a pooling server is not asked to generate")

    @asynccontextmanager
    async def charge(self, prompt_tokens: int, *, price: Price | None = None) -> AsyncIterator[Charge]:
        with await self.ledger.reserve(Claim(prompt_tokens, 1, price=price, purpose="verify")) as hold:
            yield Held(hold)


class Held:
    def __init__(self, hold: Reservation) -> None:
        self.hold = hold

    def settle(self, prompt_tokens: int) -> None:
        self.hold.settle(Usage(prompt_tokens, 0, 1, 1, None))


def recorded() -> Recorded:
    """Three steps of 12 tokens in all, the separators at 4, 7 and 10."""
    ids = [1, 2, 3, 4, EXTRA, 5, 6, EXTRA, 7, 8, EXTRA, 9]
    server = Recorded().tokens("<extra_0>", [EXTRA], special=False)
    return server.tokens(qwen("3 + 4 is 7.", "7 + 5 is 12.", "So \\boxed{12}"), ids)


THREE = qwen("3 + 4 is 7.", "7 + 5 is 12.", "So \\boxed{12}")
ROWS = [[0.1, 0.9], [0.8, 0.2], [0.35, 0.65]]


async def judged(
    server: Recorded, *solutions: Solution, meter: Meter | None = None, style: Style = "qwen"
) -> list[list[Verdict]]:
    async with server.reward() as reward:
        prm = ProcessReward(reward, style=style)
        return [list(one) for one in await prm.judge(REQUEST, solutions, meter or Meter())]


# -- process reward models ----------------------------------------------------------------------------------------


async def test_qwen_scores_every_step_in_one_request() -> None:
    meter = Meter()
    async with recorded().pooling([THREE], pooled(ROWS, tokens=12)) as server:
        verdicts = (await judged(server, Solution(STEPS), meter=meter))[0]
    assert [verdict.score for verdict in verdicts] == [0.9, 0.2, 0.65]
    assert {verdict.passed for verdict in verdicts} == {None}
    assert server.asked.count("/pooling") == 1
    assert meter.ledger.spent == Usage(12, 0, 1, 1, cached_tokens=None, cost_usd=None)
    assert meter.ledger.held == Usage()


async def test_a_row_per_token_is_read_at_the_separators() -> None:
    rows = [[0.5, 0.5]] * 12
    rows[4], rows[7], rows[10] = ROWS
    async with recorded().pooling([THREE], pooled(rows, tokens=12)) as server:
        verdicts = (await judged(server, Solution(STEPS)))[0]
    assert [verdict.score for verdict in verdicts] == [0.9, 0.2, 0.65]


async def test_only_the_steps_from_judged_on_are_told_of() -> None:
    async with recorded().pooling([THREE], pooled(ROWS, tokens=12)) as server:
        assert [verdict.score for verdict in (await judged(server, Solution(STEPS, 2)))[0]] == [0.65]


async def test_solutions_travel_together_and_the_mark_is_asked_for_once() -> None:
    one, two = qwen("3 + 4 is 7."), qwen("3 + 4 is 8.")
    server = Recorded().tokens("<extra_0>", [EXTRA], special=False)
    server.tokens(one, [1, 2, EXTRA, 3]).tokens(two, [1, 4, 5, EXTRA, 3])
    # In the order of their indices, whatever the order on the wire.
    answer = pooled([[0.1, 0.9]], [[0.7, 0.3]], tokens=9)
    answer["data"].reverse()
    meter = Meter()
    async with server.pooling([one, two], answer), server.reward() as reward:
        verifier = Stepwise(ProcessReward(reward), aggregate="last")
        replies = [
            Candidate((i,), REQUEST.prompt, step, steps=(step,))
            for i, step in enumerate(("3 + 4 is 7.", "3 + 4 is 8."))
        ]
        assert [verdict.score for verdict in await verifier.verify(REQUEST, replies, meter)] == [0.9, 0.3]
        await verifier.verify(REQUEST, replies, meter)
    assert server.asked.count("/pooling") == 1
    assert meter.ledger.spent.prompt_tokens == 9


async def test_math_shepherd_reads_plus_against_minus_at_each_mark() -> None:
    text = "What is 3 + 4 + 5? 3 + 4 is 7. ки\n7 + 5 is 12. ки"
    server = Recorded("peiyi9979/math-shepherd-mistral-7b-prm")
    # The tokenizer of this model sets a space before a text: the mark is its last token.
    server.tokens("ки", [28705, 12902], special=False).tokens(text, [1, 7, 12902, 8, 9, 12902])
    async with server.pooling([text], pooled([[0.97, 0.03], [0.02, 0.98]], tokens=6, model=server.model)):
        verdicts = (await judged(server, Solution(STEPS[:2]), style="math-shepherd"))[0]
    assert [verdict.score for verdict in verdicts] == [0.97, 0.02]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (pooled(ROWS[:2], tokens=12), "gave 2 scores for 3 steps of 12 tokens"),
        (pooled([*ROWS, [0.5, 0.5]], tokens=12), "gave 4 scores for 3 steps"),
        (pooled([[-2.5, 3.1]] * 3, tokens=12), "where two probabilities were due"),
        (pooled([[0.9]] * 3, tokens=12), "where two probabilities were due"),
        (pooled([[0.9, 0.8]] * 3, tokens=12), "where two probabilities were due"),
        (pooled([[None, None]] * 3, tokens=12), "where numbers for each input were due"),
        (pooled(ROWS, ROWS, tokens=12), "where one item for each of 1 inputs were due"),
        (pooled("AACAPwAAAAA=", tokens=12), "where numbers for each input were due"),
        ({"object": "list", "data": None}, "where numbers for each input were due"),
        (b"<html>", "malformed JSON"),
        (refused("CUDA out of memory", 500), "CUDA out of memory"),
        (refused("the model does not exist", 404), "the model does not exist"),
        (TOO_LONG, "maximum context length"),
        (None, "does not answer"),
    ],
)
async def test_a_server_that_fails_or_answers_nonsense_has_not_judged(answer: Any, complaint: str) -> None:
    meter = Meter()
    async with recorded().pooling([THREE], answer) as server:
        verdicts = (await judged(server, Solution(STEPS), meter=meter))[0]
    assert [verdict.score for verdict in verdicts] == [None, None, None]
    assert complaint in verdicts[0].reason
    assert meter.ledger.held == Usage()
    # What the server surely did not read costs nothing; what it may have read is charged whole.
    assert meter.ledger.spent.prompt_tokens == (0 if isinstance(answer, tuple) else 12)


async def test_a_reply_that_holds_a_separator_itself_is_not_judged_and_costs_nothing() -> None:
    text = qwen("3 + 4 <extra_0> is 7.")
    meter = Meter()
    server = Recorded().tokens("<extra_0>", [EXTRA], special=False).tokens(text, [1, EXTRA, 2, EXTRA])
    async with server:
        verdicts = (await judged(server, Solution(("3 + 4 <extra_0> is 7.",)), meter=meter))[0]
    assert verdicts == [Verdict(None, reason=f"{PRM} reads 2 separators <extra_0> for 1 steps")]
    assert meter.ledger.spent == Usage()


async def test_one_input_that_is_refused_does_not_cost_the_others_their_scores() -> None:
    short, long = qwen("3 + 4 is 7."), qwen("and so on")
    server = Recorded().tokens("<extra_0>", [EXTRA], special=False)
    server.tokens(short, [1, EXTRA]).tokens(long, [1, 2, 3, EXTRA])
    server.pooling([short, long], TOO_LONG).pooling([long], TOO_LONG)
    meter = Meter()
    async with server.pooling([short], pooled([[0.1, 0.9]], tokens=2)):
        told = await judged(server, Solution(("3 + 4 is 7.",)), Solution(("and so on",)), meter=meter)
    assert [verdicts[0].score for verdicts in told] == [0.9, None]
    assert "maximum context length" in told[1][0].reason
    assert meter.ledger.spent.prompt_tokens == 2


async def test_a_failure_that_may_pass_is_tried_again() -> None:
    async with recorded().pooling([THREE], refused("overloaded", 503)) as server:
        await judged(server, Solution(STEPS))
        assert server.asked.count("/pooling") == 4


async def test_what_the_budget_cannot_pay_is_not_asked() -> None:
    meter = Meter(Budget(max_total_tokens=12))
    async with recorded() as server:
        verdicts = (await judged(server, Solution(STEPS), meter=meter))[0]
    assert [verdict.score for verdict in verdicts] == [None] * 3
    assert "budget" in verdicts[0].reason
    assert "/pooling" not in server.asked


async def test_a_price_is_charged_and_a_dollar_budget_without_one_is_refused() -> None:
    async with recorded().pooling([THREE], pooled(ROWS, tokens=12)) as server, server.reward() as reward:
        meter = Meter(Budget(max_cost_usd=1.0))
        await ProcessReward(reward, price=Price(2.0, 0.0)).judge(REQUEST, [Solution(STEPS)], meter)
        assert meter.ledger.spent.cost_usd == pytest.approx(12 * 2e-6)
        with pytest.raises(UsageError, match="a dollar budget needs a price"):
            await ProcessReward(reward).judge(REQUEST, [Solution(STEPS)], meter)


async def test_a_cancelled_judgement_is_charged_whole_and_leaves_nothing() -> None:
    meter = Meter()
    reached, over = asyncio.Event(), asyncio.Event()
    server = recorded()
    serve = server._serve

    async def hold(request: web.Request) -> web.Response:
        if request.path == "/pooling":
            reached.set()
            await over.wait()
            return web.Response()
        return await serve(request)

    server._serve = hold  # type: ignore[method-assign]
    async with server, server.reward() as reward:
        judging = asyncio.create_task(_listed(reward, meter))
        await asyncio.wait_for(reached.wait(), 5)
        judging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await judging
        over.set()
    assert meter.ledger.spent.prompt_tokens == 12
    assert meter.ledger.held == Usage()


async def _listed(reward: PoolingServer, meter: Meter) -> None:
    await ProcessReward(reward).judge(REQUEST, [Solution(STEPS)], meter)


async def test_a_generate_that_cannot_charge_is_refused() -> None:
    async def generate(prompt: Prompt, params: Params, *, n: int = 1, model: Model | None = None) -> list[Candidate]:
        return []

    async with recorded() as server, server.reward() as reward:
        with pytest.raises(TypeError, match="charge"):
            await ProcessReward(reward).judge(REQUEST, [Solution(STEPS)], generate)
        with pytest.raises(TypeError, match="charge"):
            await OutcomeReward(reward).verify(REQUEST, [], generate)


# -- the server ---------------------------------------------------------------------------------------------------


async def test_the_only_model_is_taken_and_a_dead_server_is_told_of_on_opening() -> None:
    async with Recorded() as server, server.reward() as reward:
        assert reward.name == PRM
    with pytest.raises(ModelUnavailable, match="is the server running there"):
        await PoolingServer("http://127.0.0.1:9/v1").open()


async def test_a_key_is_sent_and_its_refusal_understood() -> None:
    app = web.Application()

    async def locked(request: web.Request) -> web.Response:
        right = request.headers.get("Authorization") == "Bearer key"
        return web.json_response({"data": [{"id": PRM}]} if right else {"error": "no"}, status=200 if right else 401)

    app.router.add_get("/v1/models", locked)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        async with PoolingServer(url, api_key="key") as reward:
            assert reward.name == PRM
        with pytest.raises(AuthenticationFailed):
            await PoolingServer(url, PRM).open()
    finally:
        await runner.cleanup()


# -- outcome reward models ----------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 3 + 4 + 5?"},
    {"role": "assistant", "content": "\\boxed{12}"},
]


def outcome(answer: Any, chat: Sequence[Mapping[str, Any]] = CHAT) -> Recorded:
    count = {"count": 7, "max_model_len": 4096, "tokens": list(range(7)), "token_strs": None}
    server = Recorded()
    server.on("/tokenize", {"model": PRM, "messages": list(chat), "add_generation_prompt": False}, count)
    return server.on("/classify", {"model": PRM, "messages": list(chat), "use_activation": True}, answer)


async def scored(server: Recorded, meter: Meter, request: Request = REQUEST) -> Verdict:
    async with server, server.reward() as reward:
        reply = Candidate((0,), request.prompt, "\\boxed{12}", finish_reason="stop")
        return (await OutcomeReward(reward).verify(request, [reply], meter))[0]


@pytest.mark.parametrize(("probs", "score"), [([0.93], 0.93), ([0.3, 0.7], 0.7)])
async def test_an_outcome_model_scores_the_whole_reply(probs: list[float], score: float) -> None:
    meter = Meter()
    assert await scored(outcome(classified(probs, 7)), meter) == Verdict(score)
    assert meter.ledger.spent == Usage(7, 0, 1, 1, cached_tokens=None, cost_usd=None)


async def test_raw_text_is_judged_as_a_question() -> None:
    chat = [{"role": "user", "content": "3 + 4 + 5 ="}, CHAT[-1]]
    server = outcome(classified([0.4], 7), chat)
    assert (await scored(server, Meter(), Request(Prompt(text="3 + 4 + 5 =")))).score == 0.4


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (classified([-3.7], 7), "gave [-3.7] where one or two probabilities were due"),
        (classified([0.2, 0.3, 0.5], 7), "where one or two probabilities were due"),
        (classified([], 7), "where one or two probabilities were due"),
        (classified([None], 7), "where numbers for each input were due"),
        (refused("out of memory", 500), "out of memory"),
    ],
)
async def test_an_outcome_that_cannot_be_read_is_no_zero(answer: Any, complaint: str) -> None:
    verdict = await scored(outcome(answer), Meter())
    assert verdict.score is None
    assert complaint in verdict.reason


async def test_an_outcome_that_cannot_be_paid_is_no_zero() -> None:
    verdict = await scored(outcome(None), Meter(Budget(max_total_tokens=5)))
    assert verdict.score is None
    assert "budget" in verdict.reason


# -- plus or minus ------------------------------------------------------------------------------------------------


def signed(prompt: Prompt, _index: int, _rng: Random) -> Reply:
    """A model that likes 7, doubts 12, and has no opinion on the rest."""
    last = prompt.messages[-1]["content"]
    top = {"is 7": (("+", 0.6), ("-", 0.2), ("?", 0.2)), "is 12": ((" -", 0.75), ("+", 0.25))}
    found = next((tokens for words, tokens in top.items() if words in last), (("Hm", 1.0),))
    return Reply(found[0][0], top=tuple((text, math.log(share)) for text, share in found))


async def test_plus_against_minus_after_each_turn() -> None:
    asked: list[Prompt] = []

    def script(prompt: Prompt, index: int, rng: Random) -> Reply:
        asked.append(prompt)
        return signed(prompt, index, rng)

    prm = ScriptedModel(script, name="prm")
    main = ScriptedModel({"12": 1.0})
    verifier = Stepwise(PlusMinusReward(prm), aggregate="prod")
    session = Session(REQUEST, model=main, ledger=Ledger(), trace=Trace(), canonical=_text, verifier=verifier)
    verdict = (await session.verify([Candidate((0,), REQUEST.prompt, "".join(STEPS), steps=STEPS)]))[0]
    assert verdict.steps[:2] == pytest.approx((0.75, 0.25))
    assert verdict.steps[2] is None
    assert (main.calls, prm.calls, session.spent.calls, session.spent.output_tokens) == (0, 3, 3, 3)
    longest = max(asked, key=lambda prompt: len(prompt.messages))
    assert [(turn["role"], turn["content"]) for turn in longest.messages] == [
        ("user", "What is 3 + 4 + 5? 3 + 4 is 7."),
        ("assistant", "+"),
        ("user", "7 + 5 is 12."),
        ("assistant", "+"),
        ("user", "So \\boxed{12}"),
    ]


async def test_a_server_without_alternatives_cannot_tell_plus_from_minus() -> None:
    blind = ScriptedModel(signed, capabilities=Capabilities())
    verifier = Stepwise(PlusMinusReward(blind))
    session = Session(REQUEST, model=blind, ledger=Ledger(), trace=Trace(), canonical=_text, verifier=verifier)
    verdict = (await session.verify([Candidate((0,), REQUEST.prompt, STEPS[0], steps=STEPS[:1])]))[0]
    assert verdict.score is None
    assert "neither + nor -" in verdict.reason


async def _text(candidate: Candidate) -> str:
    return candidate.text


# -- words --------------------------------------------------------------------------------------------------------


async def test_words_open_servers_and_close_them() -> None:
    async with recorded().pooling([THREE], pooled(ROWS, tokens=12)) as server:
        async with shared_verifier(f"prm={server.url}:aggregate=mean", Local()) as verifier:
            assert verifier is not None
            reply = Candidate((0,), REQUEST.prompt, "".join(STEPS), steps=STEPS)
            assert (await verifier.verify(REQUEST, [reply], Meter()))[0].score == pytest.approx(1.75 / 3)
        async with shared_verifier(f"orm={server.url}#{PRM}", Local()) as verifier:
            assert verifier is not None
            assert verifier.name == "orm"
