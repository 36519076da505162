"""What the gateway serves and to whom, from one TOML file; `deploy/gateway.toml` shows and explains every setting.

Reading opens nothing: no model, server or database. It looks at the file, and at whether environment variables are set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from thinkscale.errors import UsageError
from thinkscale.models.opening import Local
from thinkscale.models.references import HubModel, ModelFile, NamedModel, Server, parse_reference
from thinkscale.options import near
from thinkscale.serve import config_values as may
from thinkscale.serve.toml_file import TomlFile
from thinkscale.serve.toml_lines import Place
from thinkscale.store.keys import KeyLimits
from thinkscale.types import Budget
from thinkscale.verifiers.words import check_word

EFFORTS: Mapping[str, Budget] = {
    effort: Budget(max_calls=calls)
    for effort, calls in {
        "none": 1, "minimal": 1, "low": 4, "medium": 16, "high": 64, "xhigh": 128, "max": 256,
    }.items()
}  # fmt: skip
"""What each `reasoning_effort` may spend where the file does not say."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`[server]`: the process itself.

    `database` is a URL, `None` for the store's default. At most `max_requests` requests are inside at once, at most
    `per_key` of one key (`None`: half of them). `max_body_mb` bounds a request's body, in MiB. A shutdown waits
    `drain_s` for the requests inside. A stream that is silent for `keep_alive_s` gets a comment. `require_key` asks for
    a key on loopback too. `log_content` stores and logs what was asked and answered. `log_json`: `None` is for JSON
    unless the log goes to a terminal. `cache_entries` answers are kept for `cache_s`; 0 keeps none. `otel` sends
    spans. `keep_traces` is how many of the latest requests are kept.
    """

    host: may.Name = "127.0.0.1"
    port: may.Port = 8000
    database: may.DatabaseUrl | None = None
    max_requests: may.Count = 1024
    per_key: may.Count | None = None
    max_body_mb: may.Positive = 16
    drain_s: may.Positive = 30
    keep_alive_s: may.Positive = 15
    require_key: may.Flag = False
    log_content: may.Flag = False
    log_json: may.Auto = None
    cache_entries: may.Whole = 0
    cache_s: may.Positive = 300
    otel: may.Flag = False
    keep_traces: may.Count = 10_000


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: what every request is held to, whatever it asks for."""

    budget: may.Limits = Budget(max_calls=256, deadline_s=600)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """`[[models]]`: a name that clients ask for, and what answers.

    `name` is `None` for what the server calls it, known once it is open; in a file it has one. `backends` are model
    references in the order of preference. `price` is IN/OUT in dollars per million tokens, `None` where it is to be
    looked up. `key_env` names the variable that holds the servers' key, `None` for the variables that are read by
    default. `policy` applies where a client names none; `policies` are those it may name, `None` for all. The request
    fields in `passed` (`pass` in a file) go to the backend as they are. `max_tokens` bounds a sample where the client
    does not, `None` leaves that to the gateway. At most `max_in_flight` samples are under way at once. `threads`,
    `context` and `parallel` are for an embedded model. `larger` names another model, which fitted policies may ask
    where this one is not sure; `None` for none.
    """

    name: may.Name | None
    backends: may.References
    price: may.Cost | None = None
    key_env: may.Variable | None = None
    policy: may.Name = "default"
    policies: may.SomeNames | None = None
    passed: Annotated[may.OwnFields, Field(alias="pass")] = ()
    max_tokens: may.Count | None = None
    max_in_flight: may.Count = 512
    threads: may.Count | None = None
    context: may.Count | None = None
    parallel: may.Count = Local().parallel
    aliases: may.Names = ()
    larger: may.Name | None = None


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """`[policies.NAME]`: how a question is answered. `verifier` is a word, never a name of `[verifiers]`.

    `instruct` adds to each question how the answer is to be given. `system` is a system message, for requests without
    one.
    """

    strategy: may.Strategy = "adaptive-consistency:n=16"
    budget: may.Limits = Budget()
    verifier: may.Name | None = None
    kind: may.Kind = "auto"
    instruct: may.Flag = False
    system: str | None = None


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """`[[keys]]`: a key whose secret is in the variable `env`. `None` means all models and policies, and no limit."""

    name: may.Name
    env: may.Variable
    admin: may.Flag = False
    models: may.SomeNames | None = None
    policies: may.SomeNames | None = None
    requests_per_minute: may.Count | None = None
    tokens_per_minute: may.Count | None = None
    tokens_per_day: may.Count | None = None
    tokens_per_month: may.Count | None = None
    usd_per_day: may.Positive | None = None
    usd_per_month: may.Positive | None = None

    @property
    def secret(self) -> str:
        return os.environ[self.env].strip()

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(**{limit.name: getattr(self, limit.name) for limit in fields(KeyLimits)})


DEFAULT: Mapping[str, PolicyConfig] = {
    "default": PolicyConfig("adaptive-consistency:n=256", Budget(max_calls=16)),
}
"""The policies of a file that defines none. The budget is for requests without an effort; the strategy has room for the
highest.
"""

BUILT_IN: Mapping[str, PolicyConfig] = {"single": PolicyConfig("single"), "auto": PolicyConfig("auto")}
"""The policies that are always there, unless the file defines them otherwise."""


@dataclass(frozen=True, slots=True)
class Config:
    """All of it. `limits` holds for every request; `efforts` are budgets by `reasoning_effort`; `verifiers` are words
    by the names that clients may ask for.
    """

    models: tuple[ModelConfig, ...]
    server: ServerConfig = ServerConfig()
    limits: Budget = LimitsConfig().budget
    policies: Mapping[str, PolicyConfig] = field(default_factory=lambda: {**BUILT_IN, **DEFAULT})
    efforts: Mapping[str, Budget] = field(default_factory=lambda: EFFORTS)
    verifiers: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[KeyConfig, ...] = ()


def for_model(reference: str, **server: Any) -> Config:
    """What serves one backend without a file, under the name it has there. `server` are fields of `ServerConfig`.

    Raises `UsageError` for a reference that means nothing.
    """
    match may.servable(reference):
        case Server(model=given):
            name = given
        case NamedModel(name):
            pass
        case ModelFile(path):
            name = path.stem
        case HubModel(file=file):
            name = Path(file).stem
    return Config((ModelConfig(name, (reference.strip(),)),), ServerConfig(**server))


def load(path: Path) -> Config:
    """The configuration in a file. Raises `UsageError` with every fault, one a line: `gateway.toml:14: KEY: what`."""
    file = TomlFile(path)
    file.keys((), file.document, ("server", "limits", "models", "policies", "efforts", "verifiers", "keys"))
    server = file.read(ServerConfig, ("server",), file.table("server")) or ServerConfig()
    limits = file.read(LimitsConfig, ("limits",), file.table("limits")) or LimitsConfig()
    verifiers = _verifiers(file)
    policies = _policies(file, verifiers)
    models, names = _models(file, policies)
    keys = _keys(file, names, policies)
    efforts = _efforts(file)
    file.finish()
    return Config(models, server, limits.budget, policies, efforts, verifiers, keys)


# What joins tables is checked on the words of the file, so that one fault hides no other.


def _words(table: Any, key: str) -> Iterator[tuple[Place, str]]:
    """Each text that stands at a key, alone or in a list, and where; whatever else may be wrong with the table."""
    value = table.get(key) if isinstance(table, dict) else None
    if isinstance(value, str):
        yield (key,), value
    elif isinstance(value, list):
        yield from (((key, index), item) for index, item in enumerate(value) if isinstance(item, str))


def _check_known(file: TomlFile, place: Place, table: Any, key: str, what: str, known: Collection[str]) -> None:
    for at, name in _words(table, key):
        if name not in known:
            hint = near(name, known) or f"; known: {', '.join(known)}"
            file.fault((*place, *at), f"no {what} is named {name!r}{hint}")


def _check_verifier(file: TomlFile, place: Place, word: str) -> None:
    try:
        check_word(word, own_checks=False)
    except UsageError as error:
        file.fault(place, str(error))


def _verifiers(file: TomlFile) -> dict[str, str]:
    words = file.table("verifiers")
    for name, word in words.items():
        if isinstance(word, str):
            _check_verifier(file, ("verifiers", name), word)
        else:
            file.fault(("verifiers", name), f'expected a word such as "arithmetic", not {word!r}')
    return words


def _policies(file: TomlFile, verifiers: Mapping[str, str]) -> dict[str, PolicyConfig]:
    tables = file.table("policies")
    policies = {**BUILT_IN} if tables else {**BUILT_IN, **DEFAULT}
    for name, table in tables.items():
        place = ("policies", name)
        if not re.fullmatch(r"[^\s:]+", name):
            file.fault(place, f"a policy's name must not be empty or hold spaces or colons: {name!r}")
        for at, word in _words(table, "verifier"):
            if word not in verifiers:
                _check_verifier(file, (*place, *at), word)
        policy = file.read(PolicyConfig, place, table) or PolicyConfig()
        if policy.verifier:
            policy = replace(policy, verifier=verifiers.get(policy.verifier, policy.verifier))
        policies[name] = policy
    return policies


def _models(file: TomlFile, policies: Collection[str]) -> tuple[tuple[ModelConfig, ...], dict[str, str]]:
    """The models, and which of them each name and alias means."""
    models: list[ModelConfig] = []
    names: dict[str, str] = {}
    tables = list(file.tables("models"))
    for index, table in enumerate(tables):
        place = ("models", index)
        if model := file.read(ModelConfig, place, table):
            models.append(model)
            _check_backends(file, place, table, model)
        own = _own_name(table)
        for at, name in (*_words(table, "name"), *_words(table, "aliases")):
            if name in names:
                file.fault((*place, *at), f"{name!r} is already a name of the model {names[name]!r}")
            names.setdefault(name, own)
        _check_known(file, place, table, "policies", "policy", policies)
        _check_policy(file, place, table, policies)
    for index, table in enumerate(tables):
        _check_known(file, ("models", index), table, "larger", "other model", set(names) - {_own_name(table)})
    if not file.document.get("models"):
        file.fault(("models",), "no model is served: add [[models]] with a name and backends")
    return tuple(models), names


def _own_name(table: Any) -> str:
    return next((name for _, name in _words(table, "name")), "")


def _check_policy(file: TomlFile, place: Place, table: Any, policies: Collection[str]) -> None:
    """That the default policy exists, and may be used."""
    default = {"policy": "default", **table} if isinstance(table, dict) else {}
    _check_known(file, place, default, "policy", "policy", policies)
    allowed = [name for _, name in _words(table, "policies")]
    for at, name in _words(default, "policy"):
        if allowed and name in policies and name not in allowed:
            file.fault((*place, *at), f"the policy {name!r}, which applies by default, is not one of `policies`")


def _check_backends(file: TomlFile, place: Place, table: Mapping[str, Any], model: ModelConfig) -> None:
    servers = [isinstance(parse_reference(backend), Server) for backend in model.backends]
    if len(servers) > 1 and not all(servers):
        file.fault((*place, "backends"), "only servers can stand in for each other: name an embedded model alone")
    if model.key_env and not any(servers):
        file.fault((*place, "key_env"), "this is for a server, and no backend is one")
    for key in ("threads", "context", "parallel"):
        if key in table and all(servers):
            file.fault((*place, key), "this is for an embedded model, and every backend is a server")
    for index, backend in enumerate(model.backends):
        if backend in model.backends[:index]:
            file.fault((*place, "backends", index), f"{backend} is given twice")


def _efforts(file: TomlFile) -> Mapping[str, Budget]:
    efforts = dict(EFFORTS)
    table = file.table("efforts")
    file.keys(("efforts",), table, EFFORTS)
    for name in EFFORTS.keys() & table.keys():
        try:
            efforts[name] = may.budget(table[name])
        except ValueError as error:
            file.fault(("efforts", name), str(error))
    return efforts


def _keys(file: TomlFile, models: Mapping[str, str], policies: Collection[str]) -> tuple[KeyConfig, ...]:
    keys: list[KeyConfig] = []
    names: set[str] = set()
    secrets: dict[str, str] = {}
    for index, table in enumerate(file.tables("keys")):
        place = ("keys", index)
        for at, name in _words(table, "name"):
            if name in names:
                file.fault((*place, *at), f"another key is named {name!r}")
            names.add(name)
        _check_known(file, place, table, "models", "model", models)
        _check_known(file, place, table, "policies", "policy", policies)
        if key := file.read(KeyConfig, place, table):
            other = secrets.setdefault(key.secret, key.name)
            if other != key.name:
                file.fault((*place, "env"), f"the key {other!r} has the same secret")
            if key.models:
                key = replace(key, models=tuple(dict.fromkeys(models.get(name, name) for name in key.models)))
            keys.append(key)
    return tuple(keys)
