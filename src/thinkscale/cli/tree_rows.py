"""Which nodes of a tree to show where there is room for few, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from thinkscale.cli.tree import Node, SamplePath, SearchTree


@dataclass(slots=True)
class Row:
    """One line of a drawn tree: `guides` go before the node.

    `skipped` counts the ancestors left out between it and the line that it hangs from. `hidden` counts the nodes left
    out under it, `hidden_cut` those of them that were cut.
    """

    node: Node
    guides: str = ""
    skipped: int = 0
    hidden: int = 0
    hidden_cut: int = 0
    children: list[Row] = field(default_factory=list)


def rows(tree: SearchTree, limit: int | None = None) -> list[Row]:
    """The tree as lines from top to bottom, the root's first, at most `limit` nodes below it (`None`: all).

    Kept first are the chosen reply, the ends of branches that may grow or have finished, best score first, and the
    forks that hold them together; then the steps between; cut branches last. A node without a fork above it stands
    straight under its parent, so that a long reply is a column and does not drift to the right.
    """
    nodes = list(tree.nodes.values())
    shown = set(nodes) if limit is None or len(nodes) <= limit else _most_important(tree, nodes, limit)
    lines = {tree.root: Row(tree.root)}
    for node in sorted(shown, key=lambda node: node.path):
        row = lines[node] = Row(node)
        for above in node.ancestors():
            if above in lines:
                lines[above].children.append(row)
                break
            row.skipped += 1
    passed = {above for node in shown for above in node.ancestors()}
    for node in nodes:
        if node not in shown and node not in passed:
            row = next(lines[above] for above in node.ancestors() if above in lines)
            row.hidden += 1
            row.hidden_cut += node.state == "cut"
    return _laid_out(lines[tree.root])


def _most_important(tree: SearchTree, nodes: Iterable[Node], limit: int) -> set[Node]:
    best = tree.chosen if tree.chosen is not None else tree.incumbent
    favourite = tree.nodes.get(best) if best is not None else None
    on_the_way = set(favourite.ancestors()) if favourite else set()
    place = {node: at for at, node in enumerate(nodes)}

    def importance(node: Node) -> tuple[int, float, int]:
        if node is favourite:
            rank = 5
        elif node.state in ("live", "finished"):
            rank = 4
        elif node in on_the_way:
            rank = 3
        else:
            rank = 1 if node.state == "cut" else 2
        return rank, node.score or 0.0, place[node]

    shown: set[Node] = set()
    covered: set[Node] = {tree.root}
    for node in sorted(place, key=importance, reverse=True):
        if len(shown) >= limit:
            break
        if node in shown:
            continue
        fork = next((above for above in node.ancestors() if above in covered), tree.root)
        forks = fork is not tree.root and fork not in shown
        if forks and len(shown) + 2 > limit:
            continue
        shown.add(node)
        if forks:
            shown.add(fork)
        covered.add(node)
        covered.update(node.ancestors())
    return shown


def _laid_out(root: Row) -> list[Row]:
    lines: list[Row] = []
    stack: list[tuple[Row, str]] = [(root, "")]
    while stack:
        row, below = stack.pop()
        lines.append(row)
        forks = len(row.children) > 1 or row is root
        placed: list[tuple[Row, str]] = []
        for child in row.children:
            last = child is row.children[-1]
            child.guides = below + (("└─ " if last else "├─ ") if forks else "")
            placed.append((child, below + (("   " if last else "│  ") if forks else "")))
        stack += reversed(placed)
    return lines


def path_text(path: SamplePath) -> str:
    """A path as people type it: 3.0.1; the root is the empty string."""
    return ".".join(map(str, path))
