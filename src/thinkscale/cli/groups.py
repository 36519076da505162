"""The commands that come in groups: models, bank, policy, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thinkscale.cli.arguments import DatabaseUrl, Json, PriceText

models_app = typer.Typer(help="The models known by name.", no_args_is_help=True)
keys_app = typer.Typer(help="The keys that clients of the gateway present.", no_args_is_help=True)
bank_app = typer.Typer(help="Banks of recorded samples: look into one, take samples in and out.", no_args_is_help=True)
policy_app = typer.Typer(
    help="What the strategy auto follows: fitted on banks, judged, put into service.", no_args_is_help=True
)

GROUPS = {"models": models_app, "keys": keys_app, "bank": bank_app, "policy": policy_app}


@models_app.command("list")
def models_list(json: Json = False) -> None:
    """List the models known by name."""
    from thinkscale.cli.listing import show_models

    show_models(as_json=json)


@models_app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A known name, or hf:owner/repo/file.gguf.")]) -> None:
    """Fetch a model into the user's cache and print its path."""
    from thinkscale.cli.listing import pull

    pull(name)


@bank_app.command("show")
def bank_show(bank: Annotated[Path, typer.Argument(help="The bank's file.")], json: Json = False) -> None:
    """Show what a bank holds: models, problems, samples, how often they are right, what is on record."""
    from thinkscale.cli.bank import show

    show(bank, as_json=json)


@bank_app.command("import")
def bank_import(
    file: Annotated[Path, typer.Argument(help="Samples: JSON lines, another bank, or a published form.")],
    out: Annotated[Path, typer.Option(help="The bank's file; one that is there already takes them in.")],
    form: Annotated[str, typer.Option(help="auto, jsonl, tree-of-thought, esc, cruxeval, bank.")] = "auto",
    field: Annotated[
        list[str] | None,
        typer.Option(help="OURS=THEIRS: a field's name in the file, such as answer=output.final; repeatable."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Where the problems come from, such as gsm8k:FILE; grades what is not graded.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="What the answers are, where nothing else tells: number, choice, text, …")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name; else the record's, else the file's.")] = None,
    price: PriceText = None,
    max_n: Annotated[
        int | None, typer.Option("--max-n", help="Samples that travelled in one request and shared its prompt.", min=1)
    ] = None,
    json: Json = False,
) -> None:
    """Take in samples that another program recorded."""
    from thinkscale.cli.bank import Import, take_in

    take_in(Import(file, out, form, tuple(field or ()), task, kind, model, price, max_n, json))


@bank_app.command("export")
def bank_export(
    bank: Annotated[Path, typer.Argument(help="The bank's file.")],
    out: Annotated[Path, typer.Option(help="The file to write: one JSON object a line.")],
) -> None:
    """Write a bank's samples as JSON lines, which `bank import` takes back."""
    from thinkscale.cli.bank import give_out

    give_out(bank, out)


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits and . _ @ + -.")],
    admin: Annotated[bool, typer.Option("--admin", help="May use the console and its routes, too.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeatable. All, without.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="A policy it may use; repeatable. All, without.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Prompt and output together.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Days and months are in UTC.")] = None,
    tokens_per_month: Annotated[int | None, typer.Option(min=1)] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0)] = None,
    usd_per_month: Annotated[float | None, typer.Option(min=0)] = None,
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a key and print its secret, which is shown this once only."""
    from thinkscale.cli.keys import add
    from thinkscale.store.keys import KeyLimits

    limits = KeyLimits(
        requests_per_minute, tokens_per_minute, tokens_per_day, tokens_per_month, usd_per_day, usd_per_month
    )
    add(name, admin=admin, models=model, policies=policy, limits=limits, database=database, as_json=json)


@keys_app.command("list")
def keys_list(database: DatabaseUrl = None, json: Json = False) -> None:
    """List the keys and their limits; the secrets are not known."""
    from thinkscale.cli.keys import show

    show(database=database, as_json=json)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")], database: DatabaseUrl = None, json: Json = False
) -> None:
    """End a key for good; a running gateway refuses it within 5 seconds."""
    from thinkscale.cli.keys import revoke

    revoke(name, database=database, as_json=json)


Worth = Annotated[float | None, typer.Option(help="Tokens that a right answer is worth.", min=1)]


@policy_app.command("fit")
def policy_fit(
    bank: Annotated[Path, typer.Argument(help="A bank of recorded samples.")],
    out: Annotated[Path, typer.Option(help="The policy's file, JSON.")],
    kind: Annotated[
        str,
        typer.Option(
            help="stopping: when to draw, verify, escalate or stop; plans: by difficulty; risk: holds an error rate "
            "among confident answers; allocation: shares one total among many; bandit: keeps learning in the gateway."
        ),
    ] = "stopping",
    model: Annotated[str | None, typer.Option(help="Whose samples, where the bank has several models.")] = None,
    larger: Annotated[str | None, typer.Option(help="stopping: the bank's model that it may escalate to.")] = None,
    larger_weight: Annotated[
        float | None,
        typer.Option(help="How many times a token of it costs; default: by the bank's prices.", min=0.001, max=10_000),
    ] = None,
    verifier: Annotated[str | None, typer.Option(help="The recorded scores that it may ask for.")] = None,
    verifier_tokens: Annotated[
        float | None, typer.Option(help="Tokens that judging one sample takes; 0 for what asks no model.", min=0)
    ] = None,
    worth: Worth = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens a request on average.", min=1)] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(help="stopping: as cheap as possible at this; default: at that of a full vote.", min=0, max=1),
    ] = None,
    error_rate: Annotated[float, typer.Option(help="risk: of the answers that it calls confident.")] = 0.1,
    delta: Annotated[float, typer.Option(help="risk: the chance that the promise fails.")] = 0.05,
    horizon: Annotated[
        int | None,
        typer.Option(
            help="risk: promise it for the share among so many later requests; default: in the long run.", min=1
        ),
    ] = None,
    probes: Annotated[int, typer.Option(help="plans: samples that tell how hard a request is.", min=0)] = 4,
    strategy: Annotated[list[str] | None, typer.Option(help="plans, bandit: what to choose from; repeatable.")] = None,
    allowance: Annotated[
        float | None, typer.Option(help="bandit: tokens that a request may take on average.", min=1)
    ] = None,
    holdout: Annotated[float, typer.Option(help="Share of the problems kept aside to judge it on.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seeds the split and the orders of the samples.")] = 0,
    json: Json = False,
) -> None:
    """Fit a policy on a bank, and judge it on problems kept aside."""
    from thinkscale.cli.extras import need_optimize

    need_optimize("policy fit")
    from thinkscale.cli.policy import Fit, fit

    fit(
        Fit(
            bank, out, kind, model, larger, larger_weight, verifier, verifier_tokens, worth, tokens, accuracy,
            error_rate, delta, horizon, probes, tuple(strategy or ()), allowance, holdout, seed, json,
        )
    )  # fmt: skip


@policy_app.command("evaluate")
def policy_evaluate(
    file: Annotated[Path, typer.Argument(help="A policy that `thinkscale policy fit` wrote.")],
    bank: Annotated[
        Path | None, typer.Option(help="Replay on this bank; without, a bandit is judged by the gateway's record.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose policy in service it is beside; default: the model it was fitted for.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A strategy or a policy's file; default: what auto follows now.")
    ] = None,
    worth: Worth = None,
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Say whether a policy is better than what is in service, with intervals."""
    from thinkscale.cli.extras import need_optimize

    need_optimize("policy evaluate")
    from thinkscale.cli.policy_judging import evaluate

    evaluate(file, bank, model, against, worth, database, as_json=json)


@policy_app.command("promote")
def policy_promote(
    file: Annotated[Path, typer.Argument(help="A policy that `thinkscale policy fit` wrote.")],
    bank: Annotated[Path | None, typer.Option(help="The bank to judge it on; without, the gateway's record.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model's auto follows it; default: the one it was fitted for.")
    ] = None,
    worth: Worth = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it untested.")] = False,
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Put a policy into service, if it is shown to be better than what is there."""
    from thinkscale.cli.policy_service import promote

    promote(file, bank, model, worth, database, force=force, as_json=json)


@policy_app.command("rollback")
def policy_rollback(
    model: Annotated[str, typer.Argument(help="Whose policy in service is to be withdrawn.")],
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Withdraw the policy in service; the one before serves again."""
    from thinkscale.cli.policy_service import rollback

    rollback(model, database, as_json=json)


@policy_app.command("list")
def policy_list(database: DatabaseUrl = None, json: Json = False) -> None:
    """List what was promoted, and what is in service."""
    from thinkscale.cli.policy_service import listed

    listed(database, as_json=json)
