"""Standard output, for results alone: progress and complaints go to standard error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import typer


def print_json(content: Mapping[str, Any]) -> None:
    typer.echo(orjson.dumps(dict(content), option=orjson.OPT_INDENT_2))
