"""From recorded samples to a bank: answers compared, grades given, all put together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from thinkscale.accounting import Price
from thinkscale.banks import known
from thinkscale.banks.bank import Bank
from thinkscale.banks.draft import Draft, Reading, TaskProblems
from thinkscale.banks.jsonl import read_jsonl
from thinkscale.banks.parquet import MAGIC, read_bank
from thinkscale.banks.settling import Progress, settled
from thinkscale.errors import UsageError
from thinkscale.options import near
from thinkscale.tasks import Problem, parse_task
from thinkscale.types import AnswerKind

FORMS = ("auto", "jsonl", *known.READERS, "bank")


def import_file(
    path: Path,
    *,
    form: str = "auto",
    fields: Mapping[str, str] | None = None,
    task: str | None = None,
    problems: Sequence[Problem] | None = None,
    kind: AnswerKind | None = None,
    model: str | None = None,
    price: Price | None = None,
    max_n: int | None = None,
    into: Bank | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Bank:
    """Read samples that another program recorded, into a new bank or together with those of `into`.

    `form` is one of `FORMS`; `auto` looks at the content. `fields` maps field names (see `banks.jsonl`). `task` tells
    the problems, or `problems` does: their prompts, kinds and right answers; records name them by id or by place.
    `kind` is the answers' where nothing else tells it. `model` names the model, else the record does, or the file's
    name. `price` and `max_n` (samples that travelled in one request) go into the bank, for replay to charge by.

    Answers are made canonical within their problem, together with those of `into`. Samples without a grade are
    graded. Not to be called while an event loop runs in the same thread. Raises `UsageError` with the file and the
    place in it: for what cannot be read or graded, for a sample that is there twice or missing before a later one, for
    equal answers with different grades, and where `into` says otherwise about a problem or a model.
    """
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}{near(form, FORMS)}; there are {', '.join(FORMS)}")
    if problems is None:
        problems = parse_task(task).problems() if task else ()
    of_task = TaskProblems(problems)
    reading = Reading(of_task, kind, into.problems if into else {}, fields or {})
    form = _form_of(path) if form == "auto" else form
    if reading.fields and form != "jsonl":
        raise UsageError(f"only the fields of JSON lines can be mapped, and {path} has the form {form}")
    draft = _read(path, form, reading)
    if model is not None:
        draft = draft.renamed(model)
    draft.task = task or draft.task
    for name, said in draft.models.items():
        draft.models[name] = replace(said, price=price or said.price, max_n=max_n or said.max_n)
    if not draft.samples:
        raise UsageError(f"{path} holds no samples")
    if not draft.settled:  # a bank brings its own history
        whose = ", ".join(draft.models)
        draft.history = (f"{len(draft.samples)} samples of {whose} imported from {path.name} ({form})",)
    try:
        return asyncio.run(settled(draft, of_task.by_id, into, progress))
    except UsageError as error:
        raise error if str(path) in str(error) else UsageError(f"{path}: {error}") from None


def load(path: Path) -> Bank:
    """A bank, or samples in JSON lines just as they are stated: enough for replay, which reads their texts anew.

    Raises `UsageError` as `import_file` does, except that nothing is compared or graded.
    """
    form = _form_of(path)
    if form == "bank":
        return read_bank(path)
    if form != "jsonl":
        raise UsageError(f"{path} has the form {form}: first import it, with thinkscale bank import {path} --out BANK")
    return read_jsonl(path, Reading()).bank()


def _form_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise UsageError(f"cannot read the bank {path}: {error.strerror or error}") from None
    return "bank" if head.startswith(MAGIC) else known.form_of(head)


def _read(path: Path, form: str, reading: Reading) -> Draft:
    if form == "bank":
        return Draft.of(read_bank(path), str(path))
    return read_jsonl(path, reading) if form == "jsonl" else known.READERS[form](path, reading)
