"""The clients of soak.py: what they ask for, when they lose patience, and whether what comes back is right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import orjson

MAX_TOKENS = 32
HANG_S = 90.0
REQUEST = "soak-"
"""How a request's id begins; its number follows."""

_REFUSALS = {402, 429, 502, 503, 504}
_LEAVES = 0.15  # of all requests
_BUDGETED = 0.3


@dataclass(frozen=True)
class Kind:
    """One way to be asked. `n` is the most samples it has under way at a time; `searches`: it draws them again and
    again, step by step; `cancels`: it may end before all have come.
    """

    strategy: str
    weight: int
    n: int
    verifier: str | None = None
    searches: bool = False
    cancels: bool = False


KINDS = (
    Kind("single", 40, 1),
    Kind("self-consistency:n=5", 20, 5),
    Kind("adaptive-consistency:n=8", 15, 8, cancels=True),
    Kind("best-of-n:n=4", 10, 4, "arithmetic"),
    Kind("beam:width=4,expand=2,step=blank-line", 10, 4, "arithmetic", searches=True),
    Kind("particle-filter:n=4,step=blank-line", 5, 4, "arithmetic", searches=True),
)
_BUDGETS: tuple[Mapping[str, float], ...] = ({"tokens": 150}, {"output_tokens": 40}, {"calls": 3}, {"seconds": 0.1})


@dataclass(frozen=True)
class Plan:
    """One request, the same for the same seed. `leaves_after_s`: the client's patience, `None` for one who stays."""

    number: int
    key: str
    kind: Kind
    streams: bool
    budget: Mapping[str, float]
    leaves_after_s: float | None

    @classmethod
    def drawn(cls, number: int, seed: int, keys: Mapping[str, float]) -> Plan:
        """`keys` are the names of the keys with their shares."""
        rng = Random(seed * 1_000_003 + number)
        return cls(
            number,
            rng.choices(list(keys), list(keys.values()))[0],
            rng.choices(KINDS, [kind.weight for kind in KINDS])[0],
            rng.random() < 0.5,
            rng.choice(_BUDGETS) if rng.random() < _BUDGETED else {},
            rng.uniform(0.005, 0.2) if rng.random() < _LEAVES else None,
        )

    @property
    def cancels(self) -> bool:
        return self.kind.cancels or "seconds" in self.budget

    @property
    def body(self) -> dict[str, Any]:
        question = {"role": "user", "content": f"Request {self.number}: what is 3 plus 4?"}
        inference = {"strategy": self.kind.strategy, "verifier": self.kind.verifier, "budget": self.budget}
        return {
            "model": "stub",
            "messages": [question],
            "max_tokens": MAX_TOKENS,
            "inference": {name: value for name, value in inference.items() if value},
            **({"stream": True, "stream_options": {"include_usage": True}} if self.streams else {}),
        }


@dataclass(slots=True)
class Outcome:
    """What a client got. `status` is `None` where nothing came before it left. `ended` is "answered", "refused",
    "broken off" (an error within a stream), "left" or "wrong"; `wrong` says what was.
    """

    plan: Plan
    began: float
    seconds: float = 0.0
    status: int | None = None
    ended: str = "wrong"
    wrong: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    stop_reason: str = ""

    @property
    def answered(self) -> bool:
        return self.ended == "answered"


class WrongReply(Exception):
    """A reply that no client should get."""


@dataclass
class Clients:
    """So many clients at once; each asks again as soon as it is answered, refused, or has left."""

    base_url: str
    secrets: Mapping[str, str]
    shares: Mapping[str, float]
    seed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, clients: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:

            async def client() -> None:
                while time.monotonic() < until:
                    outcome = Outcome(Plan.drawn(len(self.outcomes), self.seed, self.shares), time.monotonic())
                    self.outcomes.append(outcome)
                    await self._one(http, outcome)

            await asyncio.gather(*(client() for _ in range(clients)))

    async def _one(self, http: aiohttp.ClientSession, outcome: Outcome) -> None:
        patience_s = outcome.plan.leaves_after_s
        try:
            async with asyncio.timeout(HANG_S), asyncio.timeout(patience_s) as patience:
                await self._ask(http, outcome)
        except TimeoutError:
            if patience.expired():
                outcome.ended = "left"
            else:
                outcome.wrong = f"no answer within {HANG_S:g} s"
        except aiohttp.ClientError as error:
            outcome.wrong = f"the connection broke: {error!r}"
        except WrongReply as error:
            outcome.wrong = str(error)
        outcome.seconds = time.monotonic() - outcome.began

    async def _ask(self, http: aiohttp.ClientSession, outcome: Outcome) -> None:
        plan = outcome.plan
        headers = {
            "Authorization": f"Bearer {self.secrets[plan.key]}",
            "Content-Type": "application/json",
            "x-request-id": f"{REQUEST}{plan.number}",
        }
        url = f"{self.base_url}/chat/completions"
        async with http.post(url, data=orjson.dumps(plan.body), headers=headers) as response:
            outcome.status = response.status
            _insist(response.headers.get("x-request-id") == headers["x-request-id"], "another request's id")
            content = await response.read()
            if response.status != 200:
                _check_refusal(response, content)
                outcome.ended = "refused"
                return
            found = _stream(content) if plan.streams else _whole(content)
        if found is None:
            outcome.ended = "broken off"
            return
        outcome.prompt_tokens, outcome.output_tokens, outcome.stop_reason = _check_bill(*found, plan)
        outcome.ended = "answered"


def _insist(condition: object, words: str, content: object = "") -> None:
    if not condition:
        raise WrongReply(f"{words} {str(content)[:500]}".rstrip())


def _check_refusal(response: aiohttp.ClientResponse, content: bytes) -> None:
    status = response.status
    _insist(status in _REFUSALS, f"status {status}:", content)
    _insist(response.content_type == "application/json", f"a {status} that is no JSON:", content)
    _check_error(orjson.loads(content))
    if status in (429, 503):
        _insist(response.headers.get("Retry-After", "").isdecimal(), f"a {status} without Retry-After:", content)
    if status == 402:
        _insist(response.headers.get("x-should-retry") == "false", "a 402 that invites to try again:", content)


def _check_error(reply: Any) -> None:
    error = reply.get("error") if isinstance(reply, dict) else None
    _insist(isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}, "no error object:", reply)
    assert isinstance(error, dict)
    _insist(error["message"] and error["type"], "an error that says nothing:", reply)


Bill = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The usage object and the `thinkscale` object of a reply."""


def _whole(content: bytes) -> Bill:
    reply = orjson.loads(content)
    (choice,) = reply["choices"]
    _insist(choice["message"]["role"] == "assistant" and choice["message"]["content"], "an empty answer:", reply)
    _insist(choice["finish_reason"] in ("stop", "length"), "no finish reason:", reply)
    return reply["usage"], reply["thinkscale"]


def _stream(content: bytes) -> Bill | None:
    """The bill of a stream that is whole; `None` for one that tells of its failure as it should."""
    *events, rest = content.split(b"\n\n")
    _insist(not rest, "a stream that ends within an event:", rest)
    sent = [one for one in events if not one.startswith(b":")]
    _insist(all(one.startswith(b"data: ") for one in sent), "something that is no event:", content)
    _insist(sent and sent[-1] == b"data: [DONE]", "a stream without an end:", content[-300:])
    chunks = [orjson.loads(one[6:]) for one in sent[:-1]]
    if "error" in chunks[-1]:
        _check_error(chunks[-1])
        return None
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    _insist(choices[0]["delta"].get("role") == "assistant", "a stream that begins with no role:", chunks[0])
    _insist("".join(choice["delta"].get("content") or "" for choice in choices), "an empty answer:", chunks)
    finished = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    _insist(len(finished) == 1, f"{len(finished)} finish reasons:", chunks)
    _insist(chunks[-1]["choices"] == [] and chunks[-1]["usage"], "no usage at the end:", chunks[-1])
    return chunks[-1]["usage"], finished[0]["thinkscale"]


def _check_bill(usage: Mapping[str, Any], report: Mapping[str, Any], plan: Plan) -> tuple[int, int, str]:
    """That it adds up and holds to the budget. Gives prompt tokens, output tokens, and why the run stopped."""
    prompt, output = usage["prompt_tokens"], usage["completion_tokens"]
    _insist(usage["total_tokens"] == prompt + output, "a total that is no sum:", usage)
    parts = report["usage_by_purpose"].values()
    _insist(sum(part["prompt_tokens"] for part in parts) == prompt, "purposes that do not add up:", report)
    _insist(sum(part["output_tokens"] for part in parts) == output, "purposes that do not add up:", report)
    spent = {"tokens": prompt + output, "output_tokens": output, "calls": report["calls"]}
    for limit, most in plan.budget.items():
        _insist(spent.get(limit, 0) <= most, f"{limit} over its budget of {most}:", report)
    _insist(report["stop_reason"] and len(report["trace_id"]) == 32, "no stop reason or trace id:", report)
    return prompt, output, report["stop_reason"]
