"""A run as one self-contained page: the chart, the table, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import orjson

from thinkscale.errors import UsageError

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.2rem }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th.text, td.text { text-align: left } th { font-weight: 600 }
pre { overflow-x: auto; padding: .8rem; border: 1px solid var(--line); border-radius: 6px; font-size: .85rem }
.dim { color: var(--dim); font-size: .9rem }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], *, made_by: str) -> str:
    """The HTML. `lead` is plain text, each section a heading and finished HTML."""
    body = "".join(f"<section><h2>{escape(heading)}</h2>{content}</section>" for heading, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{escape(lead)}</p>{body}"
        f"<h2>How it was made</h2><pre>{escape(made_by)}</pre></body></html>\n"
    )


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table; `columns` maps each row key to its heading."""
    head = "".join(f'<th class="{_align(rows, key)}">{escape(title)}</th>' for key, title in columns.items())
    lines = "".join(
        "<tr>"
        + "".join(f'<td class="{_align(rows, key)}">{escape(shown(row.get(key)))}</td>' for key in columns)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _align(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    return "text" if any(isinstance(row.get(key), str) for row in rows) else ""


def shown(value: object) -> str:
    """A figure as people read it; unknown is a dash, not a zero."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def embedded(content: Mapping[str, Any]) -> str:
    """JSON that no text in it can break out of: `<` could end the script element or begin a comment."""
    text = orjson.dumps(dict(content)).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all. Raises `UsageError` where that cannot be."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write(path, orjson.dumps(dict(content), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
