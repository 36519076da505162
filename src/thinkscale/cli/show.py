"""`thinkscale show`: a kept trace as a tree, in the terminal, as a page, or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from thinkscale.cli import bill
from thinkscale.cli.output import print_json
from thinkscale.cli.tree import SearchTree
from thinkscale.cli.tree_view import FINAL_ROWS, TreeView, printable
from thinkscale.errors import UsageError
from thinkscale.trace import VERSION


@dataclass(frozen=True)
class Options:
    file: Path
    id: str | None
    html: Path | None
    all: bool
    json: bool


@dataclass
class Kept:
    """What a file holds: its runs in the order in which they began. `torn`: its last line was never written whole."""

    trees: list[SearchTree] = field(default_factory=list)
    torn: bool = False


def run(options: Options) -> None:
    kept = read(options.file)
    trees = _chosen(kept.trees, options.id, options.file)
    if options.html is not None:
        if len(trees) > 1:
            raise UsageError(f"a page shows one run and {options.file} holds {len(trees)}: {_which(trees)}")
        from thinkscale.cli.tree_page import page
        from thinkscale.optimize.report import write

        write(options.html, page(trees[0]))
        Console(stderr=True).print(f"wrote {options.html}", markup=False, highlight=False, soft_wrap=True)
    if options.json:
        print_json({"torn": kept.torn, "traces": [tree.as_json() for tree in trees]})
    elif options.html is None:
        out = Console(highlight=False)
        for tree in trees:
            if len(trees) > 1:
                out.rule(f"trace {printable(tree.id)}", style="dim")
            _show(tree, out, everything=options.all)
    if kept.torn:
        Console(stderr=True).print(
            f"{options.file} ends in the middle of a line: the run that wrote it was ended early",
            style="yellow", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def read(file: Path) -> Kept:
    """Read the traces that a file holds. Raises `UsageError` where it cannot be read or is not of traces."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    lines = content.split(b"\n")
    whole = not lines[-1]  # the file ends with a line's end
    trees: dict[str, SearchTree] = {}
    kept = Kept()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if number == len(lines) and not whole and trees:
                kept.torn = True
                break
            raise UsageError(f"{file} is not a trace: line {number} is not JSON ({error})") from None
        _check(event, f"{file} is not a trace: line {number}")
        try:
            trees.setdefault(event["trace"], SearchTree()).hear(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({error})"
            raise UsageError(f"{file} is not a trace: line {number}, a {event['event']!r} event, {what}") from None
    if not trees:
        raise UsageError(f"{file} is empty: it holds no event. `thinkscale solve … --trace FILE` writes a trace")
    kept.trees = list(trees.values())
    return kept


def _check(event: Any, where: str) -> None:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise UsageError(f'{where} is not an event (an object with "event", "trace" and "t")')
    if not isinstance(event.get("trace"), str) or not isinstance(event.get("t"), int | float):
        raise UsageError(f'{where}, a {event["event"]!r} event, lacks its "trace" or "t"')
    if event.get("v") != VERSION:
        raise UsageError(f"{where} has version {event.get('v')!r} of the format, and this is version {VERSION}")


def _chosen(trees: list[SearchTree], wanted: str | None, file: Path) -> list[SearchTree]:
    if wanted is None:
        return trees
    found = [tree for tree in trees if tree.id.startswith(wanted)]
    if not found:
        raise UsageError(f"{file} holds no trace {wanted}: {_which(trees)}")
    return found


def _which(trees: list[SearchTree]) -> str:
    ids = ", ".join(printable(tree.id) for tree in trees[:8])
    return f"choose with --id {ids}{' …' if len(trees) > 8 else ''}"


def _show(tree: SearchTree, out: Console, *, everything: bool) -> None:
    out.print(TreeView(tree, limit=None if everything else FINAL_ROWS))
    chosen = tree.chosen if tree.chosen is not None else tree.incumbent
    node = tree.nodes.get(chosen) if chosen is not None else None
    if node is not None and node.reply.strip():
        out.print()
        out.print(printable(node.reply.strip()), markup=False, soft_wrap=True)
    answer = tree.answer if tree.ended else node.answer if node else None
    if answer is not None:
        named = "answer" if tree.ended else "best answer so far"
        out.print(f"\n{named}: {printable(answer)}", markup=False, soft_wrap=True, style="bold")
    if tree.stop_reason is not None:
        samples = sum(node.finish_reason not in ("step", None) for node in tree.nodes.values())
        out.print(
            "\n" + bill.summary(tree.confidence, printable(tree.stop_reason), samples, tree.seconds), markup=False
        )
    else:
        out.print("\nthe trace holds no result: the run failed or was ended early", style="yellow")
    for _, samples, error in tree.failures[-3:]:
        out.print(f"{samples} failed: {printable(error)}", markup=False, soft_wrap=True, style="red")
    out.print(bill.table(tree.usage_by_purpose, tree.usage))
