"""`thinkscale serve`: the gateway, from a file or for one model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
import uvloop
from rich.console import Console

from thinkscale.cli.fetching import fetching
from thinkscale.errors import UsageError
from thinkscale.serve.config import Config, for_model, load
from thinkscale.serve.logs import configure_logs
from thinkscale.serve.run import Running, serve


@dataclass(frozen=True)
class Options:
    config: Path | None
    model: str | None
    host: str | None
    port: int | None
    check: bool


def run(options: Options) -> None:
    """Read the configuration, say where it listens, serve until a signal."""
    config = _configuration(options)
    if options.check:
        typer.echo(f"{options.config}: no fault found; {len(config.models)} models, {len(config.policies)} policies")
        return
    configure_logs(json=config.server.log_json, content=config.server.log_content)
    errors = Console(stderr=True)

    def started(running: Running) -> None:
        # The address alone on standard output, so that a script that asked for port 0 learns it.
        typer.echo(f"{running.url}/v1")
        sys.stdout.flush()
        models = ", ".join(running.gateway.deployment.served)
        errors.print(
            f"serving {models}; console at {running.url}/console/; Ctrl-C stops", highlight=False, soft_wrap=True
        )

    with fetching(errors) as progress:
        uvloop.run(serve(config, started, progress))


def _configuration(options: Options) -> Config:
    """The file's or the model's configuration, with what the command line says over it."""
    if options.config is not None and options.model is not None:
        raise UsageError("--config names the models already: leave --model out")
    if options.model is not None and not options.model.strip():
        raise UsageError("--model is empty: name a model, or leave the option out for smollm2")
    if options.check and options.config is None:
        raise UsageError("--check needs the file to check: --config FILE")
    given = {"host": options.host, "port": options.port}
    over: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.config is None:
        return for_model(options.model or os.environ.get("THINKSCALE_MODEL") or "smollm2", **over)
    config = load(options.config)
    return replace(config, server=replace(config.server, **over))
