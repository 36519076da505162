"""A run as one self-contained page: the tree, a replay of the search, and what every node was judged and cost."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files

from thinkscale.cli import bill
from thinkscale.cli.tree import SearchTree
from thinkscale.optimize import report

_FIELD = re.compile(r"{{(\w+)}}")
_LIMITS = {
    "max_output_tokens": "output tokens",
    "max_total_tokens": "tokens",
    "max_cost_usd": "dollars",
    "deadline_s": "seconds",
    "max_calls": "calls",
}


def page(tree: SearchTree) -> str:
    """The HTML. It asks for nothing from anywhere, and its policy lets nothing but its own script and style run."""
    style, script = (files("thinkscale.cli").joinpath(f"tree_page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    question = tree.question or "(the trace does not tell the question)"
    fields = {
        "title": escape(f"{question[:80]} – thinkscale"),
        "question": escape(question),
        "answer": _answer(tree),
        "facts": _spans(_facts(tree)),
        "votes": _votes(tree),
        "bill": _bill(tree),
        "run": report.embedded(tree.as_json()),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
    }
    template = files("thinkscale.cli").joinpath("tree_page.html").read_text("utf-8")
    return _FIELD.sub(lambda found: fields[found[1]], template)


def _answer(tree: SearchTree) -> str:
    if not tree.ended:
        return "no result: the run failed or was ended early"
    return "no answer was found" if tree.answer is None else f"answer <b>{escape(tree.answer)}</b>"


def _facts(tree: SearchTree) -> list[str]:
    sure = "unknown" if tree.confidence is None else f"{tree.confidence:.0%}"
    facts = [tree.strategy or "strategy unknown"]
    limits = ", ".join(f"{limit:,g} {_LIMITS.get(name, name)}" for name, limit in tree.budget.items())
    facts.append(f"budget {limits or 'unlimited'}")
    if tree.stop_reason is not None:
        facts += [f"confidence {sure}", bill.why(tree.stop_reason)]
    return [*facts, f"{tree.seconds:.1f} s"]


def _votes(tree: SearchTree) -> str:
    votes = [f"{'no answer' if answer is None else answer} ×{replies}" for answer, replies in tree.votes[:8]]
    more = [f"{len(tree.votes) - 8:,} more"] if len(tree.votes) > 8 else []
    failed = "".join(
        f'<p class="failed">{samples} failed: {escape(error)}</p>' for _, samples, error in tree.failures[-3:]
    )
    return (f'<p class="votes">{_spans([*votes, *more])}</p>' if votes else "") + failed


def _bill(tree: SearchTree) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in bill.COLUMNS)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>"
        for line in bill.lines(tree.usage_by_purpose, tree.usage)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _spans(texts: list[str]) -> str:
    return "".join(f"<span>{escape(text)}</span>" for text in texts)


def _hash(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
