"""What the strategy `auto` follows on the command line: a policy's file, or the one in service for the model."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

from thinkscale.engine import Engine
from thinkscale.errors import UsageError
from thinkscale.models.opening import Local, Progress, open_model
from thinkscale.policies.artifact import Artifact


async def follow(
    engine: Engine,
    stack: AsyncExitStack,
    errors: Console,
    *,
    policy: Path | None,
    larger: str | None,
    local: Local,
    progress: Progress,
) -> str | None:
    """Give the engine its policy and its larger model, and say on `errors` what it follows.

    Gives the policy's text, `None` where there is none.
    """
    if larger is not None:
        engine.larger = await stack.enter_async_context(open_model(larger, local=local, progress=progress))
    if policy is not None:
        artifact, named = Artifact.load(policy), str(policy)
    else:
        text, named = await _in_service(engine.model.name)
        if text is None:
            errors.print(
                f"auto: no policy is in service for {engine.model.name}, so it votes until the vote is decided "
                "(thinkscale policy fit makes one)",
                style="dim",
            )
            return None
        artifact = Artifact.parse(text, named)
    engine.auto = artifact.policy.controller
    errors.print(f"auto follows {named} ({artifact.kind}, fitted for {artifact.model})", style="dim", highlight=False)
    return artifact.text()


async def _in_service(model: str) -> tuple[str | None, str]:
    from thinkscale.store.database import Database, default_database
    from thinkscale.store.policies import PolicyStore

    url = default_database()
    if not _is_there(url):
        return None, ""
    async with Database(url) as database:
        promoted = await PolicyStore(database).active(model)
    return (None, "") if promoted is None else (promoted.artifact, f"policy v{promoted.version} of {model}")


def _is_there(url: str) -> bool:
    """Whether there may be a database: a file that does not exist holds nothing, and looking must not make it."""
    file = url.removeprefix("sqlite:///")
    return file == url or Path(file).exists()


def check(strategies: tuple[str, ...], policy: Path | None, larger: str | None) -> bool:
    """Whether `auto` is among the strategies. Raises `UsageError` for what only it uses."""
    automatic = any(words.partition(":")[0].strip() == "auto" for words in strategies)
    for name, given in (("--policy", policy), ("--larger", larger)):
        if given is not None and not automatic:
            raise UsageError(f"{name} is for the strategy auto: add --strategy auto")
    if policy is not None:
        Artifact.load(policy)
    return automatic
