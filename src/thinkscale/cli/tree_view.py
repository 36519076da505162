"""The tree in the terminal: a line for each node, the best ones first where the screen is too small for all."""

from __future__ import annotations

import time
import unicodedata
from collections import deque

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from thinkscale.cli.tree import Node, SearchTree
from thinkscale.cli.tree_rows import Row, rows
from thinkscale.trace import Event

FINAL_ROWS = 40
"""How many nodes of a finished tree are printed unless all are asked for."""

_LEAST_ROWS = 3
_ROOM_BELOW = 6  # lines for the footer, which may wrap, and for the prompt of the shell
_MARKS = {"live": "○", "grown": "●", "finished": "✓", "cut": "✗"}
_RED, _AMBER, _GREEN = (215, 58, 73), (214, 162, 30), (46, 160, 67)


class TreeView:
    """A renderable of the tree as it is when it is drawn.

    `limit` is how many nodes it shows at most, `None` all of them. While it is `live` it fits itself to the screen and
    counts the seconds by the clock, not by the last event.
    """

    def __init__(self, tree: SearchTree, *, limit: int | None = FINAL_ROWS, live: bool = False) -> None:
        self._live = live
        self._tree = tree
        self._limit = limit
        self._began = time.monotonic()
        self._heard: deque[Event] = deque()
        self._drawn: tuple[tuple[int, int | None], list[Row]] | None = None

    def hear(self, event: Event) -> None:
        """Note an event of a run that goes on. A live view is drawn by a thread of its own: the tree changes there."""
        self._heard.append(event)

    def catch_up(self) -> None:
        """Take the events that were noted."""
        while self._heard:
            self._tree.hear(self._heard.popleft())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.catch_up()
        tree, width = self._tree, options.max_width
        if not tree.id:
            return
        limit = max(_LEAST_ROWS, console.size.height - _ROOM_BELOW - 1) if self._live else self._limit
        if self._drawn is None or self._drawn[0] != (tree.version, limit):
            self._drawn = (tree.version, limit), rows(tree, limit)
        lines = self._drawn[1]
        judged = any(row.node.judgements for row in lines)
        for row in lines:
            yield self._line(row, width, judged=judged)
        yield self._footer(len(lines) - 1, width)
        if len(tree.votes) > 1 or any(answer is not None for answer, _ in tree.votes):
            yield self._votes()

    def _line(self, row: Row, width: int, *, judged: bool) -> Text:
        node, tree = row.node, self._tree
        if node is tree.root:
            head, body = Text().append("? ", "bold"), tree.question or "(the trace does not tell the question)"
            style = "bold"
        else:
            on_the_way = tree.chosen is not None and node.path == tree.chosen[: len(node.path)]
            style = "dim" if node.state == "cut" else "bold" if on_the_way else ""
            guides = row.guides if len(row.guides) <= width // 2 else "…" + row.guides[1 - width // 2 :]
            head = Text().append(guides, "dim")
            head.append_text(self._mark(node))
            if judged:
                head.append_text(_score(node))
            if row.skipped:
                head.append(f"⋯{row.skipped} ", "dim")
            body = node.text
        tail = _tail(row, max(8, width // 3))
        room = max(0, width - cell_len(head.plain) - (cell_len(tail.plain) + 1 if tail else 0))
        line = head.append(excerpt(body, room, fill=bool(tail)), style)
        if tail:
            line.append(" ").append_text(tail)
        line.no_wrap, line.overflow = True, "crop"
        return line

    def _mark(self, node: Node) -> Text:
        if node.path == self._tree.chosen:
            return Text("★ ", "bold yellow")
        if self._tree.chosen is None and node.path == self._tree.incumbent:
            return Text("☆ ", "yellow")
        style = {"live": "cyan", "grown": "", "finished": "green", "cut": "dim red"}[node.state]
        return Text(f"{_MARKS[node.state]} ", style)

    def _footer(self, shown: int, width: int) -> Text:
        tree = self._tree
        counts, usage = tree.counts(), tree.usage
        seconds = max(tree.seconds, time.monotonic() - self._began) if self._live else tree.seconds
        cached = "" if not usage.cached_tokens else f" ({usage.cached_tokens:,} cached)"
        parts = [
            excerpt(tree.strategy, 60) or "strategy unknown",
            f"{len(tree.nodes):,} {'node' if len(tree.nodes) == 1 else 'nodes'}",
            *(f"{counts[state]:,} {state}" for state in ("live", "finished", "cut") if counts[state]),
            f"{usage.calls:,} calls",
            f"{usage.prompt_tokens:,} prompt{cached} + {usage.output_tokens:,} output tokens",
            f"${usage.cost_usd:.6f}" if usage.cost_usd else "",
            f"{seconds:.1f} s",
            f"{tree.in_flight:,} being written" if self._live and tree.in_flight else "",
            f"{len(tree.nodes) - shown:,} not shown" if shown < len(tree.nodes) else "",
            f"{sum(samples for _, samples, _ in tree.failures):,} failed" if tree.failures else "",
        ]
        lines = [""]
        for part in filter(None, parts):  # wrapped between the parts, never within one
            longer = f"{lines[-1]} · {part}" if lines[-1] else part
            if lines[-1] and cell_len(longer) > width:
                lines.append(part)
            else:
                lines[-1] = longer
        return Text("\n".join(lines), "dim")

    def _votes(self) -> Text:
        line = Text().append("answers: ", "dim")
        votes = self._tree.votes
        for answer, count in votes[:3]:
            line.append("none" if answer is None else excerpt(answer, 24), "italic" if answer is None else "bold")
            line.append(f" ×{count}   ", "dim")
        if len(votes) > 3:
            line.append(f"and {len(votes) - 3:,} more", "dim")
        return line


def excerpt(text: str, width: int, *, fill: bool = False) -> str:
    """The beginning of a text on one line of at most `width` cells, exactly that many with `fill`.

    Only the beginning of a long text is looked at.
    """
    clean = printable(" ".join(text[: 8 * width + 80].split()))
    if cell_len(clean) > width:
        return set_cell_size(clean, width - 1) + "…" if width else ""
    return set_cell_size(clean, width) if fill else clean


def printable(text: str) -> str:
    """A text as a terminal may have it: model text could move the cursor or change what is read.

    Control characters but line ends and tabs are replaced, invisible formatting characters left out.
    """
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if not category.startswith("C") or character in "\n\t":
        return character
    return "" if category == "Cf" else "\N{REPLACEMENT CHARACTER}"


def _score(node: Node) -> Text:
    """The number, coloured; "?" where a verifier could not judge; blank where none has looked."""
    if not node.judgements:
        return Text("     ")
    if node.score is None:
        return Text("   ? ", "dim")
    shown = f"{node.score:.2f}"
    shown = shown[1:] if shown.startswith("0") else shown
    style = f"dim {_colour(node.score)}" if node.state == "cut" else _colour(node.score)
    return Text(f"{shown:>4} ", style)


def _colour(score: float) -> str:
    """From red at 0 over amber to green at 1."""
    at = 2 * min(1.0, max(0.0, score))
    low, high = (_RED, _AMBER) if at < 1 else (_AMBER, _GREEN)
    share = at if at < 1 else at - 1
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return f"rgb({red},{green},{blue})"


def _tail(row: Row, width: int) -> Text:
    node, tail = row.node, Text()
    if node.answer is not None:
        tail.append(f"= {excerpt(node.answer, width - 2)}", "bold")
    if node.cut_reason is not None:
        room = max(0, width - cell_len(tail.plain) - 3)
        tail.append(f"{'  ' if tail else ''}{excerpt(node.cut_reason, room)}", "dim italic")
    if row.hidden:
        what = "cut" if row.hidden_cut == row.hidden else "more"
        tail.append(f"{'  ' if tail else ''}+{row.hidden:,} {what}", "dim")
    return tail
