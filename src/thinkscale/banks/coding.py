"""What a bank's parts look like as JSON, in every form that a bank is written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinkscale.accounting import Price
from thinkscale.banks.bank import VERSION, Bank, BankModel, BankProblem, BankSample
from thinkscale.errors import UsageError
from thinkscale.types import AnswerKind, Prompt


@dataclass(frozen=True)
class Header:
    """What is said of a bank as a whole. `unsampled` are the problems that no row can tell of."""

    task: str | None
    models: tuple[BankModel, ...]
    history: tuple[str, ...]
    unsampled: tuple[BankProblem, ...]


def coded_header(bank: Bank) -> dict[str, Any]:
    sampled = {sample.problem for sample in bank}
    return {
        "version": VERSION,
        "task": bank.task,
        "models": [_coded_model(model) for model in bank.models.values()],
        "history": list(bank.history),
        "unsampled": [
            {"id": one.id, "prompt": coded_prompt(one.prompt), "kind": one.kind, "reference": one.reference}
            for one in bank.problems.values()
            if one.id not in sampled
        ],
    }


def read_header(content: Any, source: str) -> Header:
    """The header. `source` names the file. Raises `UsageError` for a newer version and for one that is malformed."""
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version < 1:
        raise UsageError(f"{source} is not a bank: its header does not say which version of the format it has")
    if version > VERSION:
        raise UsageError(
            f"{source} has version {version} of the bank format, and this thinkscale reads up to {VERSION}: upgrade it"
        )
    try:
        return Header(
            content["task"],
            tuple(_read_model(model) for model in content["models"]),
            tuple(map(str, content["history"])),
            tuple(
                BankProblem(one["id"], read_prompt(one["prompt"]), AnswerKind(one["kind"]), one["reference"])
                for one in content["unsampled"]
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{source} is a damaged bank: its header cannot be read ({error!r})") from None


def by_problem(bank: Bank) -> Iterator[BankSample]:
    """Every sample in the order in which files hold them: by problem, then by model."""
    for problem in bank.problems:
        for model in bank.models:
            yield from bank.samples(model, problem)


def coded_prompt(prompt: Prompt | None) -> dict[str, Any] | None:
    """An object with those of the prompt's fields that say anything; `None` for no prompt."""
    if prompt is None:
        return None
    content = {"messages": prompt.messages} if prompt.text is None else {"text": prompt.text}
    more = {"prefix": prompt.prefix, "tools": prompt.tools, "tool_choice": prompt.tool_choice}
    return {**content, **{name: value for name, value in more.items() if value}}


def read_prompt(content: Any) -> Prompt | None:
    """The prompt of such an object, a list of messages, or a question. Raises `ValueError` or `TypeError`."""
    match content:
        case None:
            return None
        case str():
            return Prompt.of(content)
        case list():
            return Prompt(messages=tuple(map(dict, content)))
        case dict():
            given = dict(content)
            for name in ("messages", "tools"):
                given[name] = tuple(map(dict, given.get(name) or ()))
            return Prompt(**given)
    raise TypeError("a prompt is text, a list of messages, or an object with messages or text")


def _coded_model(model: BankModel) -> dict[str, Any]:
    price = model.price
    return {
        "name": model.name,
        "price": price and {"input_mtok": price.input_mtok, "output_mtok": price.output_mtok},
        "max_n": model.max_n,
        "params": dict(model.params),
        "estimated": model.estimated,
    }


def _read_model(content: Mapping[str, Any]) -> BankModel:
    price = content["price"]
    return BankModel(
        str(content["name"]),
        None if price is None else Price(float(price["input_mtok"]), float(price["output_mtok"])),
        int(content["max_n"]),
        dict(content["params"]),
        bool(content["estimated"]),
    )
