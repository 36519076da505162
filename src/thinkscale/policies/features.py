"""What a request looks like before anything is spent: cheap numbers from its prompt, for policies to learn from."""

from __future__ import annotations

import re
from math import log1p

from thinkscale.types import AnswerKind, Prompt, Request

_READ = 8000  # characters of the question, from its end: what is asked stands there, and a long context costs nothing
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[.!?](?=\s|$)")
# A line's indent is of blanks alone: with \s, which takes newlines too, a run of empty lines takes quadratic time.
_CODE = re.compile(r"```|^[ \t]*(?:def|class|import|from|function|#include)\b", re.MULTILINE)
_CHOICE = re.compile(r"^[ \t]*\(?[A-E][).:]", re.MULTILINE)
_FORMULA = re.compile(r"\\[a-zA-Z]+|\$[^$\n]+\$|[=<>^√∑∫≤≥]")
_QUOTED = re.compile(r'"[^"\n]*"')


def request_features(request: Request) -> dict[str, float]:
    """Numbers in [0, 1] that say something of a request's length, content and kind; always the same names.

    Counts are on a log scale, so that twice as many is one step further whatever the size. The question is the last
    message of the user, or the raw text; `context` is the length of everything. Nothing is kept that would give the
    prompt's words away.
    """
    question, whole = _texts(request.prompt)
    read = question[-_READ:]
    numbers = _NUMBER.findall(read)
    features = {
        "length": _scaled(len(question), 100_000),
        "context": _scaled(whole, 1_000_000),
        "words": _scaled(len(read.split()), 2000),
        "sentences": _scaled(len(_SENTENCE.findall(read)), 100),
        "questions": _scaled(read.count("?"), 10),
        "numbers": _scaled(len(numbers), 100),
        "longest_number": _scaled(max((sum(map(str.isdigit, number)) for number in numbers), default=0), 20),
        "digits": sum(map(str.isdigit, read)) / max(len(read), 1),
        "formulas": _scaled(len(_FORMULA.findall(read)), 100),
        "quoted": _scaled(len(_QUOTED.findall(read)), 20),
        "lines": _scaled(read.count("\n"), 200),
        "code": float(_CODE.search(read) is not None),
        "choices": float(len(_CHOICE.findall(read)) > 1),
        "tools": float(bool(request.prompt.tools)),
    }
    return features | {f"kind_{kind}": float(kind is request.kind) for kind in AnswerKind}


def _scaled(count: int, most: int) -> float:
    return min(log1p(count) / log1p(most), 1.0)


def _texts(prompt: Prompt) -> tuple[str, int]:
    """The question, and how many characters all messages have together."""
    if prompt.text is not None:
        return prompt.text, len(prompt.text)
    written = [(message.get("role"), _written(message.get("content"))) for message in prompt.messages]
    asked = [text for role, text in written if role == "user"]
    return (asked or [written[-1][1]])[-1], sum(len(text) for _, text in written)


def _written(content: object) -> str:
    """The text of a message, whose content is a text or parts of which some hold one."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
