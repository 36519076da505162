"""`thinkscale`: the commands, and how their errors are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="thinkscale",
    help="Spend inference compute on purpose: named strategies, hard budgets, and a bill for every answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="The models known by name.", no_args_is_help=True)
app.add_typer(models_app, name="models")
keys_app = typer.Typer(help="The keys that clients of the gateway present.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
bank_app = typer.Typer(help="Banks of recorded samples: look into one, take samples in and out.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
policy_app = typer.Typer(
    help="What the strategy auto follows: fitted on banks, judged, put into service.", no_args_is_help=True
)
app.add_typer(policy_app, name="policy")

Model = Annotated[
    str,
    typer.Option(
        envvar="THINKSCALE_MODEL",
        help="A known name (thinkscale models list), a .gguf file, hf:owner/repo/file.gguf, or http://host:port/v1[#name].",
    ),
]
BudgetText = Annotated[
    str | None,
    typer.Option("--budget", help="Hard limits: tokens=4000,output-tokens=…,usd=0.01,seconds=20,calls=…; any of them."),
]
VerifierText = Annotated[
    str | None,
    typer.Option(
        "--verifier",
        help="checker (the task's own), judge[=MODEL], confidence, code, orm=URL; by steps, joined by +: arithmetic, "
        "step-judge[=MODEL], rollouts[=N], prm=URL, then :combine=first|mean|min,aggregate=last|min|prod|mean.",
    ),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="For the strategy auto: a fitted policy's file; else the one in service."),
]
Larger = Annotated[str | None, typer.Option(help="For the strategy auto: the model that its policy may escalate to.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Temperature = Annotated[float, typer.Option(help="Sampling temperature.", min=0.0, max=5.0)]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Most output tokens of one sample.", min=1)]
PriceText = Annotated[
    str | None,
    typer.Option("--price", help="IN/OUT in dollars per million tokens; known for hosted models, else unknown."),
]
Threads = Annotated[int | None, typer.Option(help="Embedded engine: CPU threads (default: all cores).", min=1)]
Context = Annotated[int | None, typer.Option(help="Embedded engine: context tokens, shared by its slots.", min=256)]
Parallel = Annotated[int, typer.Option(help="Embedded engine: samples decoded at a time.", min=1, max=256)]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="sqlite:///FILE or postgresql://user@host/name; else $THINKSCALE_DATABASE, else a file of this user.",
    ),
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from thinkscale import __version__

        typer.echo(f"thinkscale {__version__}")
        raise typer.Exit


@app.command()
def solve(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    model: Model = "smollm2",
    strategy: Annotated[
        str, typer.Option(help="name or name:key=value,…; `thinkscale strategies` lists them.")
    ] = "self-consistency:n=16",
    budget: BudgetText = None,
    verifier: VerifierText = None,
    kind: Annotated[
        str,
        typer.Option(
            help="What the answer is: number, choice, text, expression, json, code; auto: number if one is asked for."
        ),
    ] = "auto",
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    instruct: Annotated[
        bool, typer.Option(help="Ask the model to finish with a line 'Answer: …', so that answers can be compared.")
    ] = True,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 1024,
    seed: Annotated[int, typer.Option(help="The same seed draws the same samples where the server honours seeds.")] = 0,
    price: PriceText = None,
    trace: Annotated[
        Path | None, typer.Option(help="Keep every event of the run in this file, one JSON per line.")
    ] = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="Watch the tree of replies grow; it stays above the bill.")
    ] = False,
    policy: PolicyFile = None,
    larger: Larger = None,
    threads: Threads = None,
    context: Context = None,
    parallel: Parallel = 16,
    json: Json = False,
) -> None:
    """Answer one question, spending compute by a named strategy under a hard budget."""
    from thinkscale.cli.solve import Options, run
    from thinkscale.models.opening import Local

    run(
        Options(
            question if question != "-" else sys.stdin.buffer.read().decode(errors="surrogateescape").strip(),
            model, strategy, budget, verifier, kind, system, instruct, temperature, max_tokens, seed, price, trace,
            Local(threads, context, parallel), json, tree, policy, larger,
        )
    )  # fmt: skip


@app.command()
def bench(
    task: Annotated[
        str,
        typer.Option(
            help="linear, countdown, game24, chain_sum, gsm8k:FILE, math500:FILE, jsonl:FILE, gym:NAME, hf:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run's folder; the same command on it resumes.")],
    model: Model = "smollm2",
    strategy: Annotated[
        list[str] | None, typer.Option(help="Repeatable; the first is what the others are compared with.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many problems.", min=1)] = 32,
    seed: Annotated[int, typer.Option(help="Seeds the problems and the samples.")] = 0,
    budget: BudgetText = None,
    verifier: VerifierText = None,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 1024,
    concurrency: Annotated[int, typer.Option(help="Problems solved at a time.", min=1)] = 4,
    price: PriceText = None,
    policy: PolicyFile = None,
    larger: Larger = None,
    threads: Threads = None,
    context: Context = None,
    parallel: Parallel = 16,
    json: Json = False,
) -> None:
    """Measure strategies on a task: accuracy with intervals, tokens, seconds, dollars. Resumes after a kill."""
    from thinkscale.cli.bench import Options, run
    from thinkscale.models.opening import Local

    run(
        Options(
            task, out, model, tuple(strategy or ("single", "self-consistency:n=8")), limit, seed, budget, verifier,
            temperature, max_tokens, concurrency, price, Local(threads, context, parallel), json, policy, larger,
        )
    )  # fmt: skip


@app.command()
def collect(
    task: Annotated[
        str,
        typer.Option(
            help="linear, countdown, game24, chain_sum, gsm8k:FILE, math500:FILE, jsonl:FILE, gym:NAME, hf:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The bank's file; one that is there already is extended.")],
    model: Model = "smollm2",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Samples of each problem.", min=1)] = 64,
    name: Annotated[str | None, typer.Option(help="The model's name in the bank; its own, without.")] = None,
    limit: Annotated[int, typer.Option(help="How many problems.", min=1)] = 32,
    seed: Annotated[int, typer.Option(help="Seeds the problems and the samples.")] = 0,
    budget: BudgetText = None,
    verifier: VerifierText = None,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 1024,
    logprobs: Annotated[
        bool, typer.Option("--logprobs/--no-logprobs", help="Record the tokens' log-probabilities and confidences.")
    ] = True,
    concurrency: Annotated[
        int,
        typer.Option(
            help="Problems sampled at a time; more fill a server better, and add waiting to the seconds on record.",
            min=1,
        ),
    ] = 1,
    price: PriceText = None,
    threads: Threads = None,
    context: Context = None,
    parallel: Parallel = 16,
    json: Json = False,
) -> None:
    """Record samples of a task in a bank, graded and scored. Resumes after a kill; more samples or models extend it."""
    from thinkscale.cli.collect import Options, run
    from thinkscale.models.opening import Local

    run(
        Options(
            task, out, model, samples, name, limit, seed, budget, verifier, temperature, max_tokens, logprobs,
            concurrency, price, Local(threads, context, parallel), json,
        )
    )  # fmt: skip


@app.command("judge-steps")
def judge_steps(
    task: Annotated[str, typer.Option(help="Solutions whose first wrong step is known: processbench:FILE.")],
    verifier: Annotated[
        str, typer.Option(help="By steps, joined by +: arithmetic, step-judge[=MODEL], rollouts[=N], prm=URL.")
    ] = "arithmetic",
    model: Model = "smollm2",
    limit: Annotated[
        int | None, typer.Option(help="How many solutions, chosen by the seed; all without it.", min=1)
    ] = None,
    threshold: Annotated[float, typer.Option(help="A step with a lower score is found wrong.", min=0, max=1)] = 0.5,
    concurrency: Annotated[int, typer.Option(help="Solutions judged at a time.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Chooses the solutions and seeds what the verifier samples.")] = 0,
    price: PriceText = None,
    threads: Threads = None,
    context: Context = None,
    parallel: Parallel = 16,
    json: Json = False,
) -> None:
    """Measure a step verifier: how often it finds the first wrong step, and what that costs."""
    from thinkscale.cli.judge_steps import Options, run
    from thinkscale.models.opening import Local

    run(
        Options(
            task, verifier, model, limit, threshold, concurrency, seed, price, Local(threads, context, parallel), json
        )
    )


@app.command()
def frontier(
    bank: Annotated[Path, typer.Argument(help="A bank that `thinkscale collect` or `thinkscale bank import` made.")],
    out: Annotated[Path, typer.Option(help="Where summary.json and report.html go.")] = Path("runs/frontier"),
    model: Annotated[
        list[str] | None, typer.Option(help="One of the bank's models; repeatable. All, without, on shared problems.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-n", help="Use this many samples of the problems that have as many.", min=1),
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A setting beside the usual ones, name:key=value,…; repeatable.")
    ] = None,
    policy: Annotated[
        list[Path] | None, typer.Option(help="A fitted policy's file, replayed beside them; repeatable.")
    ] = None,
    larger: Annotated[str | None, typer.Option(help="The bank's model that a policy may escalate to.")] = None,
    verifier: Annotated[
        str | None, typer.Option(help="Whose recorded scores --strategy and --policy go by, where there are several.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="MODEL=8: a token of it costs 8 times as much; repeatable.")
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Tell the cheapest setting that reaches it, such as 0.8.", min=0, max=1)
    ] = None,
    target_tokens: Annotated[
        float | None, typer.Option(help="Tell the most accurate setting within so many tokens a request.", min=0)
    ] = None,
    target_usd: Annotated[float | None, typer.Option(help="The same within so many dollars.", min=0)] = None,
    target_seconds: Annotated[float | None, typer.Option(help="The same within so many seconds.", min=0)] = None,
    repeats: Annotated[int, typer.Option(help="Orders of the samples that are averaged over.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seeds the orders and the bootstrap.")] = 0,
    json: Json = False,
) -> None:
    """Replay every strategy over a bank: accuracy against tokens, dollars and seconds, and what to run."""
    from thinkscale.cli.frontier import Options, run

    run(
        Options(
            bank, out, tuple(model or ()), samples, tuple(strategy or ()), tuple(policy or ()), larger, verifier,
            tuple(weight or ()), target_accuracy, target_tokens, target_usd, target_seconds, repeats, seed, json,
        )
    )  # fmt: skip


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seeds the problems and the samples.")] = 0,
    seconds: Annotated[
        float, typer.Option(help="Time limit; fewer problems are solved on a slow machine.", min=10)
    ] = 180,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Watch accuracy rise with compute, on a 135M-parameter model on this machine."""
    from thinkscale.cli.demo import run

    run(out, seed, seconds, threads, as_json=json)


@app.command()
def serve(
    config: Annotated[
        Path | None,
        typer.Option(help="A TOML file: backends, models, policies, keys, limits; deploy/gateway.toml shows all."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="One model without a file: a known name, a .gguf file, http://host:port/v1[#name]."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (default 127.0.0.1); others need a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port (default 8000); 0 takes a free one.", min=0, max=65535)] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the file and stop.")] = False,
) -> None:
    """Serve the OpenAI API: better answers for any client that changes its base URL, and a console."""
    from thinkscale.cli.serve import Options, run

    run(Options(config, model, host, port, check))


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A trace that `thinkscale solve … --trace FILE` kept.")],
    trace_id: Annotated[
        str | None, typer.Option("--id", help="Of several traces in the file, the one whose id begins so.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with the tree and a replay of the search, instead of printing.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Print every node of a large tree.")] = False,
    json: Json = False,
) -> None:
    """Show a kept trace: the tree of what was sampled, the answer, and the bill."""
    from thinkscale.cli.show import Options, run

    run(Options(file, trace_id, html, every, json))


@app.command()
def strategies(json: Json = False) -> None:
    """List the strategies with their parameters and defaults."""
    from thinkscale.cli.listing import show_strategies

    show_strategies(as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Tell what hardware, engines, models and keys are here."""
    from thinkscale.cli.doctor import run

    run(as_json=json)


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


def main() -> None:
    """The entry point: one clear line for an error, and an exit status that scripts can read.

    0 done, 1 the run failed, 2 the command was wrong, 130 interrupted.
    """
    from thinkscale.errors import NoAnswer, ThinkscaleError, UsageError

    try:
        app()
    except UsageError as error:
        typer.echo(f"thinkscale: {error}", err=True)
        sys.exit(2)
    except ThinkscaleError as error:
        typer.echo(f"thinkscale: {error}", err=True)
        sys.exit(130 if isinstance(error, NoAnswer) and error.stop_reason == "interrupted" else 1)
    except KeyboardInterrupt:
        typer.echo("thinkscale: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        typer.echo(f"thinkscale: {error.strerror}: {error.filename or 'standard output'}", err=True)
        sys.exit(1)
