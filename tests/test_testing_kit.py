"""The scripted model and the conformance suite: what tests lean on must itself hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkscale.errors import ModelRefused, ModelUnavailable
from thinkscale.models.base import Capabilities
from thinkscale.models.gather import Gathering
from thinkscale.models.openai import OpenAIModel
from thinkscale.testing import Reply, ScriptedModel, check_model
from thinkscale.testing.prefix_cache import PrefixCache
from thinkscale.testing.reply import cut_to, words
from thinkscale.testing.step_tree import StepTree, branches
from thinkscale.testing.stub_server import StubServer
from thinkscale.types import Chunk, Params, Prompt, Usage

PROMPT = Prompt.of("What is 3 plus 4?")
ANSWERS: dict[str | None, float] = {"7": 0.6, "8": 0.3, None: 0.1}
WIDE = Capabilities(max_n=64, continuation=True, logprobs=True, tells_stop=True)


async def texts(model: ScriptedModel, n: int, *, first: int = 0, params: Params | None = None) -> list[str]:
    """The samples' texts, in index order."""
    gathering = await gathered(model, n, first=first, params=params)
    return ["".join(gathering.choices[index].text) for index in sorted(gathering.choices)]


async def gathered(
    model: ScriptedModel, n: int = 1, *, first: int = 0, params: Params | None = None, prompt: Prompt = PROMPT
) -> Gathering:
    gathering = Gathering()
    async with aclosing(model.generate(prompt, params or Params(), n=n, first=first)) as stream:
        async for chunk in stream:
            gathering.add(chunk)
    return gathering


class TestReplies:
    @given(st.text(alphabet="ab \n\t"))
    def test_words_joined_are_the_text(self, text: str) -> None:
        assert "".join(words(text)) == text

    def test_a_word_carries_the_space_before_it(self) -> None:
        assert words("one two\n\nthree \n") == ["one", " two", "\n\nthree \n"]

    def test_a_cap_cuts_and_says_length(self) -> None:
        cut = cut_to(Reply("one two three; four"), 2, (";",))
        assert ["".join(piece.text) for piece in cut.pieces] == ["one", " two"]
        assert (cut.finish_reason, cut.stop_string) == ("length", None)

    def test_a_reply_that_just_fits_ends_by_itself(self) -> None:
        cut = cut_to(Reply("one two three"), 3, (";",))
        assert (cut.finish_reason, cut.stop_string) == ("stop", None)

    def test_the_first_stop_string_ends_the_text(self) -> None:
        cut = cut_to(Reply("one two. three; four"), None, (";", "."))
        assert "".join(piece.text for piece in cut.pieces) == "one two"
        assert (cut.finish_reason, cut.stop_string) == ("stop", ".")

    async def test_a_tool_call_streams_in_deltas_that_add_up(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3, "b": 4, "c": 5}'}}
        model = ScriptedModel(lambda prompt, index, rng: Reply("let me", tool_calls=(call,)))
        gathering = await gathered(model)
        assert list(gathering.choices[0].tool_calls) == [call]
        assert gathering.choices[0].finish_reason == "tool_calls"
        assert gathering.choices[0].counted_tokens == model.tokens_served == 2 + 1 + 3


class TestTheStepTree:
    TREE = StepTree(steps=4, tokens=6, branches=10)

    def test_its_replies_have_the_steps_and_tokens_told(self) -> None:
        reply = self.TREE.reply("", Random(1)).text
        steps = reply.split("\n\n")
        assert [(step.split()[:2], len(words(step))) for step in steps] == [(["Step", f"{k}:"], 6) for k in range(1, 5)]
        assert reply.endswith(f"\\boxed{{{sum(branches(reply))}}}")

    @given(st.integers(), st.integers(1, 3), st.booleans())
    def test_any_beginning_is_continued_to_its_sum(self, seed: int, kept: int, separated: bool) -> None:
        steps = self.TREE.reply("", Random(seed)).text.split("\n\n")
        beginning = "\n\n".join(steps[:kept]) + "\n\n" * separated
        whole = beginning + self.TREE.reply(beginning, Random(seed + 1)).text
        assert [step.split()[1] for step in whole.split("\n\n")] == ["1:", "2:", "3:", "4:"]
        assert branches(whole)[:kept] == branches(beginning)
        assert whole.endswith(f"\\boxed{{{sum(branches(whole))}}}")

    def test_nothing_follows_the_last_step(self) -> None:
        whole = self.TREE.reply("", Random(1)).text
        assert self.TREE.reply(whole, Random(2)).text == self.TREE.reply(whole + "\n\n", Random(2)).text == ""

    def test_every_branch_is_drawn_and_the_best_path_is_known(self) -> None:
        drawn = [sum(branches(StepTree(1, 5, 3).reply("", Random(seed)).text)) for seed in range(100)]
        assert set(drawn) == {0, 1, 2}
        assert max(drawn) == StepTree(1, 5, 3).best
        assert self.TREE.best == 36

    def test_a_step_needs_room_for_its_words(self) -> None:
        with pytest.raises(ValueError, match="at least 5"):
            StepTree(tokens=4)

    async def test_a_scripted_model_grows_it_step_by_step(self) -> None:
        model = ScriptedModel(self.TREE.sample, capabilities=WIDE)
        beginning, endings = "", []
        for _ in range(4):
            prompt = Prompt(PROMPT.messages, prefix=beginning)
            choice = (await gathered(model, prompt=prompt, params=Params(stop=("\n\n",)))).choices[0]
            endings.append((choice.counted_tokens, choice.finish_reason, choice.stop_string))
            beginning += "".join(choice.text) + (choice.stop_string or "")
        assert endings == [(6, "stop", "\n\n")] * 3 + [(6, "stop", None)]
        assert beginning.endswith(f"\\boxed{{{sum(branches(beginning))}}}")

    async def test_a_model_that_does_not_tell_what_stopped_it(self) -> None:
        model = ScriptedModel(self.TREE.sample, capabilities=Capabilities())
        choice = (await gathered(model, params=Params(stop=("\n\n",)))).choices[0]
        assert (choice.counted_tokens, choice.finish_reason, choice.stop_string) == (6, "stop", None)


class TestThePrefixCache:
    @given(st.lists(st.lists(st.sampled_from("ab"), max_size=6), max_size=8))
    def test_it_finds_the_longest_beginning_seen_before(self, prompts: list[list[str]]) -> None:
        cache = PrefixCache()
        for place, prompt in enumerate(prompts):
            seen = {tuple(one[:length]) for one in prompts[:place] for length in range(1, len(one) + 1)}
            longest = max((n for n in range(1, len(prompt) + 1) if tuple(prompt[:n]) in seen), default=0)
            assert cache.enter(prompt) == min(longest, max(0, len(prompt) - 1))

    def test_replies_are_known_too_each_after_its_prompt(self) -> None:
        cache = PrefixCache()
        cache.enter(["a"], [["b", "c"], ["d"]])
        assert cache.enter(["a", "b", "c", "x"]) == 3
        assert cache.enter(["a", "d", "x"]) == 2
        assert cache.enter(["b", "c", "x"]) == 0


class TestTheScriptedModel:
    async def test_answers_follow_the_distribution(self) -> None:
        n = 4000
        found = Counter(
            text.split()[-1]
            for text in await texts(ScriptedModel(ANSWERS, tokens=1, capabilities=Capabilities(max_n=n)), n)
        )
        for word, p in (("\\boxed{7}", 0.6), ("\\boxed{8}", 0.3), ("tell.", 0.1)):
            assert abs(found[word] - n * p) < 4 * (n * p * (1 - p)) ** 0.5  # four standard deviations

    async def test_the_same_index_gives_the_same_reply_however_batched(self) -> None:
        at_once = await texts(
            ScriptedModel(ANSWERS, tokens=lambda index, rng: rng.randint(1, 9), capabilities=WIDE), 32
        )
        singly = ScriptedModel(ANSWERS, tokens=lambda index, rng: rng.randint(1, 9))
        assert [(await texts(singly, 1, first=index))[0] for index in reversed(range(32))] == at_once[::-1]
        in_fours = ScriptedModel(ANSWERS, tokens=lambda index, rng: rng.randint(1, 9), capabilities=WIDE)
        parts = await asyncio.gather(*(texts(in_fours, 4, first=first) for first in range(0, 32, 4)))
        assert [text for part in parts for text in part] == at_once
        assert len(set(at_once)) > 3

    async def test_seed_and_prompt_change_the_draw(self) -> None:
        model, other = (ScriptedModel(ANSWERS, capabilities=WIDE, seed=seed) for seed in (0, 1))
        assert await texts(model, 32) != await texts(other, 32)
        elsewhere = await gathered(model, 32, prompt=Prompt.of("What is 4 plus 3?"))
        assert ["".join(choice.text) for choice in elsewhere.choices.values()] != await texts(model, 32)

    async def test_probabilities_must_add_up(self) -> None:
        with pytest.raises(ValueError, match="add up to 1"):
            ScriptedModel({"7": 0.6})

    async def test_a_script_refuses_a_length(self) -> None:
        with pytest.raises(ValueError, match="tokens"):
            ScriptedModel(lambda prompt, index, rng: Reply("x"), tokens=3)

    async def test_tokens_are_as_many_as_told(self) -> None:
        gathering = await gathered(ScriptedModel({"7": 1.0}, tokens=6))
        assert gathering.choices[0].counted_tokens == 6
        assert gathering.usage(0) == Usage(await ScriptedModel(ANSWERS).count_prompt_tokens(PROMPT), 6, 1, 1, 0, None)

    async def test_no_more_samples_than_it_can_give(self) -> None:
        model = ScriptedModel(ANSWERS, capabilities=Capabilities(max_n=3))
        assert len(await texts(model, 8)) == model.calls == 3

    async def test_samples_come_side_by_side(self) -> None:
        model = ScriptedModel({"7": 1.0}, tokens=3, capabilities=WIDE)
        async with aclosing(model.generate(PROMPT, Params(), n=2)) as stream:
            assert [chunk.index async for chunk in stream] == [0, 1, 0, 1, 0, 1]

    async def test_latency_orders_them(self) -> None:
        model = ScriptedModel({"7": 1.0}, tokens=1, latency_s=lambda index, rng: 0.03 - 0.01 * index, capabilities=WIDE)
        async with aclosing(model.generate(PROMPT, Params(), n=3)) as stream:
            assert [chunk.index async for chunk in stream] == [2, 1, 0]

    async def test_logprobs_come_when_asked_for_and_only_then(self) -> None:
        model = ScriptedModel(lambda prompt, index, rng: Reply("one two three", logprob=-0.5, confidence=(3.0, 1.0)))
        for top, confidences in ((None, []), (0, [None] * 3), (20, [3.0, 1.0, 1.0])):
            choice = (await gathered(model, params=Params(top_logprobs=top))).choices[0]
            assert [token.confidence for token in choice.tokens] == confidences
            assert all(token.logprob == -0.5 for token in choice.tokens)
        unable = ScriptedModel(ANSWERS, capabilities=Capabilities())
        assert (await gathered(unable, params=Params(top_logprobs=20))).choices[0].tokens == []

    async def test_a_judges_reply_names_its_alternatives(self) -> None:
        top = (("Yes", -0.25), ("No", -1.75), ("Maybe", -4.0))
        model = ScriptedModel(lambda prompt, index, rng: Reply("Yes", top=top))
        (token,) = (await gathered(model, params=Params(top_logprobs=2))).choices[0].tokens
        assert (token.logprob, token.confidence, token.top) == (-0.25, 1.0, top[:2])

    async def test_a_prefix_is_continued_or_refused(self) -> None:
        begun = Prompt(PROMPT.messages, prefix="3 and 4 are")
        able = ScriptedModel({"7": 1.0}, tokens=2)
        assert (await gathered(able, prompt=begun)).choices[0].text == [" think", " \\boxed{7}"]
        assert await able.count_prompt_tokens(begun) == await able.count_prompt_tokens(PROMPT) + 4
        with pytest.raises(ModelRefused, match="prefix"):
            await gathered(ScriptedModel({"7": 1.0}, capabilities=Capabilities()), prompt=begun)

    async def test_the_context_bounds_prompt_and_output(self) -> None:
        prompt_tokens = await ScriptedModel(ANSWERS).count_prompt_tokens(PROMPT)
        tight = ScriptedModel({"7": 1.0}, capabilities=Capabilities(context=prompt_tokens + 4))
        choice = (await gathered(tight)).choices[0]
        assert (choice.counted_tokens, choice.finish_reason) == (4, "length")
        with pytest.raises(ModelRefused, match="context"):
            await gathered(ScriptedModel({"7": 1.0}, capabilities=Capabilities(context=prompt_tokens)))

    async def test_a_failing_index_fails_its_request_before_anything_is_served(self) -> None:
        model = ScriptedModel(ANSWERS, failures={2: ModelUnavailable("down", status=503)}, capabilities=WIDE)
        await gathered(model, 2)
        before = (model.calls, model.prompt_tokens_served, model.tokens_served)
        with pytest.raises(ModelUnavailable, match="down"):
            await gathered(model, 2, first=2)
        assert (model.calls, model.prompt_tokens_served, model.tokens_served) == before
        assert (model.requests, model.in_flight) == (2, 0)

    async def test_a_reply_can_break_off(self) -> None:
        model = ScriptedModel(lambda prompt, index, rng: Reply("one two", error=ModelUnavailable("broke")))
        async with aclosing(model.generate(PROMPT, Params())) as stream:
            assert [(await anext(stream)).text for _ in range(2)] == ["one", " two"]
            with pytest.raises(ModelUnavailable, match="broke"):
                await anext(stream)
        assert model.tokens_served == 2

    async def test_closing_early_stops_the_counting(self) -> None:
        model = ScriptedModel({"7": 1.0}, tokens=50, token_s=0.001)
        async with aclosing(model.generate(PROMPT, Params())) as stream:
            assert model.in_flight == 0  # nothing starts before it is read
            for _ in range(3):
                await anext(stream)
            assert model.in_flight == 1
        assert (model.in_flight, model.tokens_served) == (0, 3)

    async def test_cancellation_leaves_nothing_in_flight(self) -> None:
        model = ScriptedModel({"7": 1.0}, latency_s=60)
        readers = [asyncio.create_task(gathered(model)) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert (model.in_flight, model.most_in_flight) == (5, 5)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert (model.in_flight, model.tokens_served) == (0, 0)

    async def test_without_streaming_unseen_tokens_are_served_all_the_same(self) -> None:
        model = ScriptedModel({"7": 1.0}, latency_s=60, capabilities=Capabilities(max_n=4, streams=False))
        reader = asyncio.create_task(gathered(model, 4))
        await asyncio.sleep(0.01)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert (model.in_flight, model.tokens_served) == (0, 40)

    async def test_without_streaming_the_whole_reply_is_one_chunk(self) -> None:
        model = ScriptedModel({"7": 1.0}, tokens=3, capabilities=Capabilities(max_n=2, streams=False))
        async with aclosing(model.generate(PROMPT, Params(), n=2)) as stream:
            chunks = [chunk async for chunk in stream]
        assert [(chunk.index, chunk.counted_tokens, chunk.finish_reason) for chunk in chunks] == [
            (0, 3, "stop"),
            (1, 3, "stop"),
        ]


class Leaky(ScriptedModel):
    """Leaves a task behind when closed early."""

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        self.left = asyncio.create_task(asyncio.sleep(3600))
        async with aclosing(super().generate(prompt, params, n=n, first=first)) as stream:
            async for chunk in stream:
                yield chunk
        self.left.cancel()


class Underestimating(ScriptedModel):
    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return 1


class Boundless(ScriptedModel):
    """Ignores max_tokens."""

    def generate(self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0) -> AsyncGenerator[Chunk, None]:
        return super().generate(prompt, Params(top_logprobs=params.top_logprobs), n=n, first=first)


class Misnumbered(ScriptedModel):
    """Numbers samples by their place among all, not within the request."""

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        async with aclosing(super().generate(prompt, params, n=n, first=first)) as stream:
            async for chunk in stream:
                yield Chunk(
                    index=chunk.index + 1, text=chunk.text, finish_reason=chunk.finish_reason, usage=chunk.usage
                )


class Unbilled(ScriptedModel):
    """Forgets the usage."""

    async def generate(
        self, prompt: Prompt, params: Params, *, n: int = 1, first: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        async with aclosing(super().generate(prompt, params, n=n, first=first)) as stream:
            async for chunk in stream:
                yield Chunk(text=chunk.text, finish_reason=chunk.finish_reason, counted_tokens=chunk.counted_tokens)


class TestTheConformanceSuite:
    @pytest.mark.parametrize("able", [WIDE, Capabilities(), Capabilities(max_n=2, streams=False, logprobs=True)])
    async def test_the_scripted_model_conforms(self, able: Capabilities) -> None:
        model = ScriptedModel(ANSWERS, token_s=0.001, capabilities=able)
        await check_model(lambda: model, in_flight=lambda: model.in_flight)

    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("owned_by", ["stub", "vllm", "llamacpp"])
    async def test_it_works_with_a_server_in_the_same_event_loop(self, owned_by: str, stream: bool) -> None:
        async with StubServer(token_s=0.001, owned_by=owned_by, max_n=4) as server:
            counters = server.counters
            await check_model(lambda: OpenAIModel(server.base_url, stream=stream), in_flight=lambda: counters.in_flight)
            assert counters.in_flight == 0
            assert counters.cancelled > 0

    @pytest.mark.parametrize(
        ("broken", "complaint"),
        [
            (Leaky, "left tasks behind"),
            (Underestimating, "underestimate"),
            (Boundless, "max_tokens=2 gave 10 tokens"),
            (Misnumbered, "indices are"),
            (Unbilled, "usage came 0 times"),
        ],
    )
    async def test_it_catches(
        self, broken: type[ScriptedModel], complaint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("thinkscale.testing.model_conformance._GRACE_S", 0.05)
        model = broken(ANSWERS)
        with pytest.raises(AssertionError, match=complaint):
            await check_model(lambda: model)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def test_it_catches_a_request_left_running_upstream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("thinkscale.testing.model_conformance._GRACE_S", 0.05)
        with pytest.raises(AssertionError, match="left 1 requests running"):
            await check_model(lambda: ScriptedModel(ANSWERS), in_flight=lambda: 1)


async def test_a_script_sees_prompt_index_and_its_own_generator() -> None:
    def script(prompt: Prompt, index: int, rng: Random) -> Reply:
        return Reply(f"{prompt.prefix}{index} {rng.random()}", latency_s=0.0)

    model = ScriptedModel(script, latency_s=60, capabilities=WIDE)
    first, second = await texts(model, 2)
    assert first.startswith("0 ")
    assert second.startswith("1 ")
    assert first.split()[1] != second.split()[1]
