"""`thinkscale`: the commands, and how their errors are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thinkscale.cli.arguments import (
    BudgetText,
    Context,
    Json,
    Larger,
    MaxTokens,
    Model,
    Parallel,
    PolicyFile,
    PriceText,
    Temperature,
    Threads,
    VerifierText,
)
from thinkscale.cli.groups import GROUPS

app = typer.Typer(
    name="thinkscale",
    help="Spend inference compute on purpose: named strategies, hard budgets, and a bill for every answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


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
