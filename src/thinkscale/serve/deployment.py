"""What is served: models by name, policies, verifiers, and the way from a client's words to what will run."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

from thinkscale import strategies
from thinkscale.accounting import Price
from thinkscale.api import list_price
from thinkscale.engine import Engine
from thinkscale.errors import NotAllowed, UsageError
from thinkscale.models.base import Model
from thinkscale.models.fallback import Fallback
from thinkscale.models.openai import OpenAIModel
from thinkscale.models.opening import Local, Progress, open_model
from thinkscale.models.references import Server, api_key_for, parse_reference
from thinkscale.models.resilience import RetryPolicy
from thinkscale.options import near
from thinkscale.serve.admission import FairSlots
from thinkscale.serve.bodies import BadRequest, Inference
from thinkscale.serve.config import Config, ModelConfig, PolicyConfig
from thinkscale.serve.faults import UnknownModel
from thinkscale.store.keys import Key
from thinkscale.types import AnswerKind, Budget
from thinkscale.verifiers.base import Verifier
from thinkscale.verifiers.words import check_word, names_a_model, shared_verifier
from thinkscale.words import budget_words

_EMBEDDED_TOKENS, _SERVER_TOKENS = 1024, 4096
"""Output tokens of one sample where neither client nor configuration says: small machines answer slowly."""

_LONGEST_WAIT_S = 2.0

_ASKED = "inference"
"""The name of a policy that the client wrote itself."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model as clients see it. `max_tokens` is what a sample may have at most where the client does not say,
    `capacity` how many samples are under way at a time.
    """

    name: str
    engine: Engine
    config: ModelConfig
    max_tokens: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Route:
    """How one request will run. `kind` is `None` where the question itself tells what its answer is."""

    served: Served
    policy: str
    strategy: str
    budget: Budget
    verifier: Verifier | None = None
    verifier_word: str | None = None
    kind: AnswerKind | None = None
    instruct: bool = False
    system: str | None = None


class Deployment:
    """The open models and the configured policies. `slots` shares each model among the requests in the house."""

    def __init__(self, config: Config, served: Mapping[str, Served], stack: AsyncExitStack) -> None:
        self.config = config
        self.served = served
        self._names = {name: one for one in served.values() for name in (one.name, *one.config.aliases)}
        self._stack = stack
        self._verifiers: dict[str, Verifier] = {}
        self._opening = asyncio.Lock()
        self._slots: dict[int, tuple[Model, FairSlots]] = {}

    def slots_of(self, model: Model) -> FairSlots:
        """The shared room of a model; a judge's model has its own."""
        if id(model) not in self._slots:
            capacity = next((one.capacity for one in self.served.values() if one.engine.model is model), _JUDGE_SLOTS)
            self._slots[id(model)] = (model, FairSlots(capacity))
        return self._slots[id(model)][1]

    def waiting(self) -> int:
        """Model calls that wait for their turn."""
        return sum(slots.waiting for _, slots in self._slots.values())

    # -- from words to a route ---------------------------------------------------------------------------------

    async def route(
        self, model: str, inference: Inference | None, effort: str | None, key: Key | None, *, policy: str | None = None
    ) -> Route:
        """What will run. `policy` is what the request itself insists on where the client names none.

        Raises `UnknownModel`, `NotAllowed` where the key may not use the model or the policy, and `UsageError` for
        words that mean nothing. No message's text is looked at.
        """
        served, named = self.find(model, key)
        inference = inference or _NOTHING
        if named and inference.policy and named != inference.policy:
            raise UsageError(f"the model name asks for policy {named!r} and inference for {inference.policy!r}")
        word = named or inference.policy or policy or served.config.policy
        chosen = self._policy(served, word, key, about="model" if named else "inference.policy")
        budget = chosen.budget
        if effort is not None:
            allowed = self.config.efforts[effort]
            # Who was given certain policies was given what those may spend: an effort can then only lower it.
            bound = key is not None and key.policies is not None
            budget = budget.within(allowed) if bound else _overridden(budget, allowed)
        if inference.budget is not None:
            budget = budget.within(inference.budget.budget)
        strategy, verifier = chosen.strategy, chosen.verifier
        if inference.strategy is not None or inference.verifier is not None:
            if key is not None and key.policies is not None:
                raise NotAllowed(
                    f"the key {key.name} may use the policies it was given, not ones of its own", known=True
                )
            word = _ASKED
            strategy = inference.strategy or strategy
            with _about("inference.strategy"):
                _check_size(strategies.parse(strategy), strategy)
            with _about("inference.verifier"):
                verifier = self._verifier_word(inference.verifier) if inference.verifier else verifier
        return Route(
            served=served,
            policy=word,
            strategy=strategy,
            budget=self.config.limits.within(budget),
            verifier=await self._verifier(verifier) if verifier else None,
            verifier_word=verifier,
            kind=_kind(inference.kind or chosen.kind),
            instruct=chosen.instruct if inference.instruct is None else inference.instruct,
            system=chosen.system,
        )

    def find(self, word: str, key: Key | None) -> tuple[Served, str | None]:
        """The model of a name, or of `name:policy` with that policy; exact names come first."""
        served, policy = self._names.get(word), None
        if served is None and ":" in word:
            name, _, policy = word.rpartition(":")
            served = self._names.get(name)
        if served is None or not self.may_use(key, served):
            known = [name for name, one in self._names.items() if self.may_use(key, one)]
            if not known:
                raise UnknownModel("this key may use none of the models that are served here")
            raise UnknownModel(
                f"no model {word[:100]!r} is served here{near(word[:100], known)}; there are: {', '.join(known)}"
            )
        return served, policy

    @staticmethod
    def may_use(key: Key | None, served: Served) -> bool:
        if key is None or key.models is None:
            return True
        return served.name in key.models or any(alias in key.models for alias in served.config.aliases)

    def policies_of(self, served: Served, key: Key | None = None) -> list[str]:
        """The policies that a model may be asked with."""
        names = served.config.policies if served.config.policies is not None else tuple(self.config.policies)
        return [name for name in names if key is None or key.policies is None or name in key.policies]

    def _policy(self, served: Served, name: str, key: Key | None, *, about: str) -> PolicyConfig:
        allowed = self.policies_of(served, key)
        if name not in allowed:
            if name in self.config.policies and key is not None:
                raise NotAllowed(f"the key {key.name} may not use the policy {name} on {served.name}", known=True)
            words = f"{about}: {served.name} has no policy {name[:100]!r}{near(name[:100], allowed)}"
            raise BadRequest(f"{words}; it has: {', '.join(allowed)}", param=about)
        return self.config.policies[name]

    def _verifier_word(self, asked: str) -> str:
        """What a client's word for a verifier means. Only the operator's words may name a model or an address."""
        if asked in self.config.verifiers:
            return self.config.verifiers[asked]
        check_word(asked, own_checks=False)
        if names_a_model(asked):
            known = ", ".join(self.config.verifiers) or "none"
            raise UsageError(
                f"verifier {asked[:100]!r} names a model or an address, which only the gateway's configuration may; "
                f"verifiers configured here: {known}"
            )
        if re.search(r"\d{3}", asked):
            raise UsageError(f"verifier {asked[:100]!r}: its numbers may be up to 99")
        if asked not in self._verifiers and len(self._verifiers) >= _MOST_VERIFIERS:
            raise UsageError(
                f"the verifier {asked[:100]!r} is not among those in use, and there are too many to make another: "
                "ask for plain arithmetic, judge or step-judge"
            )
        return asked

    async def _verifier(self, word: str) -> Verifier | None:
        """The verifier of a checked word, opened at its first use and kept."""
        if word not in self._verifiers:
            async with self._opening:
                if word not in self._verifiers:
                    opened = await self._stack.enter_async_context(shared_verifier(word, Local()))
                    if opened is None:
                        raise UsageError(f"the verifier {word} needs a task that brings its own checks")
                    self._verifiers[word] = opened
        return self._verifiers[word]


_JUDGE_SLOTS = 512
_MOST_VERIFIERS = 64  # each is kept, and some have a process of their own: clients must not make them without end
_LARGEST = 4096
_NOTHING = Inference()


def _check_size(run: Any, words: str) -> None:
    """Refuse numbers with which a strategy would plan more samples than memory holds, whatever its budget."""
    for field in fields(run):
        value = getattr(run, field.name)
        if isinstance(value, int) and value > _LARGEST:
            raise UsageError(f"strategy {words}: {field.name} is at most {_LARGEST} here")


@contextmanager
def _about(param: str) -> Iterator[None]:
    """Wrong words are about this parameter."""
    try:
        yield
    except UsageError as error:
        raise BadRequest(f"{param}: {error}", param=param) from None


def _kind(word: str) -> AnswerKind | None:
    return None if word == "auto" else AnswerKind(word)


def _overridden(budget: Budget, other: Budget) -> Budget:
    """`other`'s limits, and `budget`'s where it has none."""
    given = {f.name: getattr(other, f.name) for f in fields(Budget) if getattr(other, f.name) is not None}
    return replace(budget, **given)


# -- opening ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_deployment(
    config: Config,
    progress: Progress = lambda _done, _total: None,
    on_failure: Callable[[str, int | None], None] = lambda _backend, _status: None,
) -> AsyncIterator[Deployment]:
    """Open every model of a configuration. `on_failure` hears of each failed call that another backend took over: the
    model's name, and the status or `None`. Raises `UsageError` or `ModelError` where one cannot be used at all."""
    async with AsyncExitStack() as stack:
        served: dict[str, Served] = {}
        prices: dict[int, Price | None] = {}

        def price_of(model: Model) -> Price | None:
            return prices[id(model)] if id(model) in prices else list_price(model)

        for one in config.models:
            model, price, embedded = await _open(one, stack, progress, on_failure)
            prices[id(model)] = price
            engine = Engine(model, price=price, price_of=price_of)
            stack.push_async_callback(engine.aclose)
            name = one.name or model.name
            most = one.max_tokens or (_EMBEDDED_TOKENS if embedded else _SERVER_TOKENS)
            capacity = min(one.parallel, one.max_in_flight) if embedded else one.max_in_flight
            served[name] = Served(name, engine, one, most, capacity)
        deployment = Deployment(config, served, stack)
        for small in served.values():
            if small.config.larger:
                small.engine.larger = deployment.find(small.config.larger, None)[0].engine.model
        yield deployment


async def _open(
    config: ModelConfig, stack: AsyncExitStack, progress: Progress, on_failure: Callable[[str, int | None], None]
) -> tuple[Model, Price | None, bool]:
    references = [parse_reference(text) for text in config.backends]
    price = Price.parse(config.price) if config.price else None
    if not all(isinstance(reference, Server) for reference in references):
        if len(references) > 1:
            raise UsageError(f"model {config.name}: only servers can stand in for each other as backends")
        local = Local(config.threads, config.context, config.parallel)
        model = await stack.enter_async_context(open_model(config.backends[0], local=local, progress=progress))
        return model, price, True
    secret = os.environ.get(config.key_env) if config.key_env else None
    servers = [at for at in references if isinstance(at, Server)]
    backends = [
        OpenAIModel(
            at.url,
            at.model,
            api_key=secret or api_key_for(at.url),
            max_in_flight=config.max_in_flight,
            # Where there is a next backend, it is asked at once; after the last one, a client that is told when to come
            # back is served better than one that is kept waiting.
            retry=RetryPolicy(longest_wait_s=_LONGEST_WAIT_S) if at is servers[-1] else RetryPolicy(attempts=1),
        )
        for at in servers
    ]
    price = price or list_price(backends[0])
    if len(backends) == 1:
        return await stack.enter_async_context(backends[0]), price, False
    name = config.name or backends[0].name
    model = Fallback(backends, name, on_failure=lambda _backend, status: on_failure(name, status))
    return await stack.enter_async_context(model), price, False


def described(deployment: Deployment) -> dict[str, Any]:
    """What is set up here, for people who look at the console. No address, no key."""
    from thinkscale import __version__
    from thinkscale.options import describe

    config = deployment.config
    return {
        "version": __version__,
        "log_content": config.server.log_content,
        "models": [
            {
                "name": one.name,
                "policy": one.config.policy,
                "policies": deployment.policies_of(one),
                "price": f"{one.engine.price.input_mtok:g}/{one.engine.price.output_mtok:g}"
                if one.engine.price
                else None,
            }
            for one in deployment.served.values()
        ],
        "policies": [
            {
                "name": name,
                "strategy": policy.strategy,
                "budget": budget_words(policy.budget),
                "verifier": policy.verifier,
                "kind": policy.kind,
            }
            for name, policy in config.policies.items()
        ],
        "verifiers": list(config.verifiers),
        "strategies": [{"name": name, "options": describe(kind)} for name, kind in strategies.STRATEGIES.items()],
        "efforts": {name: budget_words(budget) for name, budget in config.efforts.items()},
    }
