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
            Local(threads, context, parallel), json, tree,
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
            temperature, max_tokens, concurrency, price, Local(threads, context, parallel), json,
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
