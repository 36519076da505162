"""What several commands take, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
