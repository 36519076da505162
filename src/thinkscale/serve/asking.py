"""From a body to a request: what the APIs have in common."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from thinkscale.serve.bodies import BadRequest
from thinkscale.serve.deployment import Deployment, Route
from thinkscale.serve.gateway import Ask
from thinkscale.store.keys import Key
from thinkscale.types import Params

_SENT_ON = (
    "frequency_penalty", "presence_penalty", "logit_bias", "user", "response_format", "parallel_tool_calls",
    "prompt_cache_key", "safety_identifier",
)  # fmt: skip
"""Fields that the backend is to honour, in its own words."""


def take_passed(raw: Any, deployment: Deployment, key: Key | None) -> tuple[dict[str, Any], Any]:
    """The fields that the model's configuration sends on as they are, and the rest."""
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), str):
        return {}, raw
    names = deployment.find(raw["model"], key)[0].config.passed
    if not names:
        return {}, raw
    return {name: raw[name] for name in names if name in raw}, {k: v for k, v in raw.items() if k not in names}


def plain(body: Any) -> str | None:
    """Several samples were asked for as they are: that is what `single` does, unless the client says otherwise."""
    return "single" if (body.n or 1) > 1 else None


def check_n(ask: Ask) -> None:
    """Refuse `n` beside a strategy that draws samples of its own."""
    if ask.n > 1 and not ask.passes_through:
        raise BadRequest(
            f"n: {ask.n} choices are {ask.n} samples as they are, and the policy {ask.route.policy} draws its own "
            f"({ask.route.strategy}): ask for {ask.route.served.name}:single, or leave n out",
            param="n",
        )


def sampling(
    body: Any, route: Route, max_tokens: int | None, extra: Mapping[str, Any], top_logprobs: int | None
) -> Params:
    """The sampling parameters that chats and completions share. A verifier may need log-probabilities unasked."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Params(
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=max_tokens or route.served.max_tokens,
        stop=stop,
        top_logprobs=0 if top_logprobs is None and route.verifier_word == "confidence" else top_logprobs,
        extra=extra,
    )


def sent_on(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: raw[name] for name in _SENT_ON if raw.get(name) is not None}


def seed_of(seed: int | None) -> int:
    """The client's seed, or a fresh one: the same question asked twice is answered anew."""
    return secrets.randbits(31) if seed is None else seed
