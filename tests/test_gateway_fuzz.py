"""Whatever is sent, the gateway keeps to its own document and never fails by itself."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_gateway import House, house
from schemathesis import checks
from schemathesis.core.result import Ok

from thinkscale.serve.bodies import ChatBody, CompletionBody, Inference, ResponsesBody
from thinkscale.serve.config import PolicyConfig
from thinkscale.testing.reply import Reply
from thinkscale.types import Budget

_NEVER = (500, 501, 502, 503)  # the backend here is well


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A gateway that runs beside the tests, in a thread."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    ready, stop = threading.Event(), asyncio.Event()
    opened: list[House] = []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        vote = {"vote": PolicyConfig("self-consistency:n=4")}
        limits = Budget(max_calls=8, deadline_s=5)
        async with house(folder, Reply("so it is \\boxed{7}"), policies=vote, limits=limits) as one:
            opened.append(one)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name="gateway")
    thread.start()
    assert ready.wait(30)
    yield opened[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


# -- from its own document ------------------------------------------------------------------------------------------


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_it_keeps_to_its_document(gateway: House, mode: schemathesis.GenerationMode) -> None:
    """Bodies right and wrong; the model's name is made one that is served, so that what follows is reached too."""
    document = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    for found in document.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if operation.body or mode is schemathesis.GenerationMode.POSITIVE:

            @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def keeps(case: Any) -> None:
                name = case.body.get("model") if isinstance(case.body, dict) else None
                if isinstance(name, str) and 0 < len(name) <= 256:
                    case.body["model"] = ("stub:single", "stub", "stub:vote")[len(name) % 3]
                case.call_and_validate(checks=CHECKS)

            keeps()


# -- from what is nearly right --------------------------------------------------------------------------------------

_odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_words = st.sampled_from(
    [
        "single", "self-consistency:n=2", "best-of-n:n=3", "beam", "deepconf:n=3", "refine", "pairwise", "rsa", "esc",
        "ab-mcts", "particle-filter", "budget-forcing", "first-verified", "check-and-correct", "deepconf-online",
        "arithmetic", "judge", "confidence", "step-judge", "rollouts=2", "checker", "code", "arithmetic+rollouts=2",
        "single ", "self-consistency:n=-1", "self-consistency:n=1e3", "self-consistency:n=9999999", "beam:width=2,n=2",
    ]
)  # fmt: skip
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": st.text(max_size=20)
        | _odd
        | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)}), max_size=2),
        "tool_calls": _odd,
        "tool_call_id": st.text(max_size=5),
        "name": _odd,
    },
)
_inference = _odd | st.dictionaries(
    st.sampled_from(sorted(Inference.model_fields)),
    _words
    | _odd
    | st.booleans()
    | st.sampled_from(["default", "vote", "number", "code", "json"])
    | st.dictionaries(
        st.sampled_from(["calls", "tokens", "seconds", "usd", "output_tokens"]), st.integers(1, 99) | _odd, max_size=3
    ),
    max_size=4,
)
_schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}


def _bodies(kind: type[Any], **parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Bodies whose fields have the right names, and now and then the right values."""
    fitting = {
        "stream": st.booleans(), "n": st.integers(1, 4), "max_tokens": st.integers(1, 50), "seed": st.integers(-9, 9),
        "temperature": st.floats(0, 2), "logprobs": st.booleans() | st.integers(0, 3),
        "top_logprobs": st.integers(0, 3),
        "reasoning_effort": st.sampled_from(["low", "max"]), "response_format": st.just(_schema),
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3), "inference": _inference,
        "stream_options": st.just({"include_usage": True}),
        "metadata": st.dictionaries(st.text(), st.text(), max_size=2),
        "text": st.just({"format": {"type": "json_object"}}), "reasoning": st.just({"effort": "low"}),
    }  # fmt: skip
    names = sorted(set(kind.model_fields) - set(parts) - {"model"})
    some = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), fitting.get(name, _odd) if name in fitting else _odd)
    )
    rest = st.lists(some, max_size=4).map(dict)
    model = st.sampled_from(["stub", "stub:single", "stub:vote", "stub:none"])
    return st.builds(lambda base, more: {**more, **base}, st.fixed_dictionaries({"model": model, **parts}), rest)


_asks = st.one_of(
    st.tuples(
        st.just("/v1/chat/completions"), _bodies(ChatBody, messages=st.lists(_message, max_size=3) | _odd)
    ),
    st.tuples(st.just("/v1/completions"), _bodies(CompletionBody, prompt=st.text(max_size=20) | _odd)),
    st.tuples(st.just("/v1/responses"), _bodies(ResponsesBody, input=st.text(max_size=20) | st.lists(_message) | _odd)),
    st.tuples(
        st.just("/v1/feedback"),
        st.dictionaries(st.sampled_from(["trace_id", "correct", "score", "x"]), _odd | st.text(min_size=1)) | _odd,
    ),
    st.tuples(st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/responses"]), _odd),
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(asked=_asks)
def test_nothing_makes_it_fail(gateway: House, client: requests.Session, asked: tuple[str, Any]) -> None:
    path, body = asked
    answer = client.post(gateway.url + path, data=json.dumps(body))
    assert answer.status_code not in _NEVER, (path, body, answer.text)
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    elif answer.headers["Content-Type"].startswith("text/event-stream"):
        assert answer.text.endswith("\n\n")
        assert "internal_error" not in answer.text
    else:
        assert answer.json()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200))
def test_no_bytes_make_it_fail(gateway: House, client: requests.Session, content: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/feedback"):
        answer = client.post(gateway.url + path, data=content)
        assert answer.status_code == 400, (content, answer.text)
