"""Finding the final answer in a reply.

An explicit marker wins, and the last one that holds an answer of the asked kind counts: `\\boxed{...}`, `Answer: ...`,
`the answer is ...`, `#### ...`. Without one, each kind has its own place to look: the last number, the last
lone letter, the last line, the last fenced block. JSON is the exception: the whole reply is the answer. Thinking
(`<think>...</think>`) is no part of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from thinkscale.types import AnswerKind, Candidate
from thinkscale.verifiers.json_form import canonical_json, read_json
from thinkscale.verifiers.numbers import arithmetic, canonical, numbers


def answer_of(candidate: Candidate, kind: AnswerKind) -> str | None:
    """The answer a candidate gives in its text, `None` if there is none.

    A reply that was cut off, or is still growing, counts only what it had already stated behind a marker.
    """
    return extract(candidate.text, kind, explicit_only=candidate.finish_reason in ("length", "cut", "step"))


def extract(text: str, kind: AnswerKind, *, explicit_only: bool = False) -> str | None:
    """The final answer in a reply, `None` if there is none.

    NUMBER gives an exact `18` or `3/4`, CHOICE one capital letter, TEXT the words without quotes and final
    punctuation, EXPRESSION a formula without its `= value`, CODE the last fenced block, JSON the whole reply or the
    fence around it, where that is JSON. `explicit_only` is for replies that were cut off: only a marker counts (for
    CODE a closed fence, for JSON its end), and a last word that may be half a word does not.
    """
    text = without_thinking(text)
    if explicit_only:
        text = re.sub(r"[\w.,/]+\Z", "", text)
    if kind is AnswerKind.CODE:
        return _code(text, explicit_only)
    if kind is AnswerKind.JSON:
        return _json(text)
    read, search = _READERS[kind]
    last = None
    for content in _marked(text):
        last = last or content
        answer = read(content)
        if answer is not None:
            return answer
    # A reply that ends by naming something else is not overruled by a number that happens to stand elsewhere.
    named = kind is AnswerKind.NUMBER and last is not None and last[0].isalpha() and text.rstrip().endswith(last)
    return None if explicit_only or named else search(text)


def without_thinking(text: str) -> str:
    """The reply after its thinking. Thinking that never ends hides everything behind its beginning."""
    _, closed, after = text.rpartition("</think>")
    return (after if closed else text).partition("<think>")[0]


# -- markers ------------------------------------------------------------------------------------------------------

_BOXED = re.compile(r"\\f?boxed\s*\{")
_ANSWER = re.compile(
    r"\banswer\b(?:\s+to\s+[^.:\n]{1,80}?)?[*_]*\s*(?::|=|\bis\b\s*:?|\bwould\s+be\b\s*:?)[*_]*[ \t]*", re.IGNORECASE
)
_HEADING = re.compile(r"^[#*_ \t]*(?:final\s+)?answer[*_]*[ \t]*$", re.IGNORECASE | re.MULTILINE)
# Four hashes are also a markdown heading, so they must begin with a number or end the reply.
_HASHES = re.compile(r"^####[ \t]*(?=[-+$(\\]?\d|[^\n]*\s*\Z)", re.MULTILINE)
_LINE = re.compile(r"\s*([^\n]*)")


def _marked(text: str) -> Iterator[str]:
    """What stands behind each marker, the last one first."""
    found = [(match.start(), _to_closing_brace(text, match.end())) for match in _BOXED.finditer(text)]
    for marker in (_ANSWER, _HEADING, _HASHES):
        for match in marker.finditer(text):
            line = _LINE.match(text, match.end())
            found.append((match.start(), line[1] if line else ""))
    for _, content in sorted(found, key=lambda pair: pair[0], reverse=True):
        if content and content.strip():
            yield content.strip()


def _to_closing_brace(text: str, start: int) -> str | None:
    depth = 1
    for end in range(start, len(text)):
        if text[end] == "}" and text[end - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start:end]
        elif text[end] == "{" and text[end - 1] != "\\":
            depth += 1
    return None


# -- numbers ------------------------------------------------------------------------------------------------------

_ORDINAL = re.compile(r"^\s*(?:[-*]\s+)?\d+[.)]\s", re.MULTILINE)


def _read_number(content: str) -> str | None:
    """What a calculation comes to, else the first number."""
    _, _, result = content.rpartition("=")
    value = next(numbers(result), None)
    if value is None:
        value = next(numbers(content), None)
    return None if value is None else canonical(value)


def _search_number(text: str) -> str | None:
    last = None
    for value in numbers(_ORDINAL.sub("\n", text)):
        last = value
    return None if last is None else canonical(last)


# -- choices ------------------------------------------------------------------------------------------------------

_WRAPPING = r"""[\s*_`"'$\\({\[]*"""
# A and I are also words, so they need more than a space behind them.
_LETTER = r"(?:[B-HJ](?![\w'])|[AI](?=[).:,;\]}*$\"`]|\s*\Z|\s*\n|\s+(?:is|because|since)\b))"
_CHOICE = re.compile(
    rf"{_WRAPPING}(?:(?i:the\s+)?(?i:correct\s+)?(?i:option|choice)\s*)?{_WRAPPING}(?:text\{{)?({_LETTER}|[a-j](?=\W*\Z))"
)
_LONE_LETTER = re.compile(rf"(?<![\w'])(?:\(([A-J])\)|(?i:option|choice)\s+[(*]*([A-J])\b|({_LETTER}))")


def _read_choice(content: str) -> str | None:
    match = _CHOICE.match(content)
    return match[1].upper() if match else None


def _search_choice(text: str) -> str | None:
    whole = re.fullmatch(r"\W*([A-Ja-j])\W*", text)
    if whole:
        return whole[1].upper()
    last = None
    for match in _LONE_LETTER.finditer(text):
        last = match[1] or match[2] or match[3]
    return last


# -- words --------------------------------------------------------------------------------------------------------

_WRAPPERS = (
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("\\text{", "}"),
    ("\\boxed{", "}"),
)


def tidy(text: str) -> str:
    """Without surrounding quotes, emphasis and math signs, and without punctuation at the end."""
    while True:
        bare = text.strip().rstrip(".,;:!").strip()
        for opening, closing in _WRAPPERS:
            inner = bare[len(opening) : -len(closing)]
            if (
                bare.startswith(opening)
                and bare.endswith(closing)
                and len(bare) > len(opening)
                and opening not in inner
            ):
                bare = inner
        if bare.startswith("**") or bare.endswith("**"):
            bare = bare.strip("*")
        if bare == text:
            return text
        text = bare


def _read_text(content: str) -> str | None:
    return tidy(content) or None


def _search_text(text: str) -> str | None:
    lines = text.strip().splitlines()
    return _read_text(lines[-1]) if lines else None


# -- formulas -----------------------------------------------------------------------------------------------------

_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def _read_expression(content: str) -> str | None:
    spans = _SPAN.findall(content)
    formula = tidy("".join(spans[-1]) if spans else content)
    return _calculation(formula) or None


def _search_expression(text: str) -> str | None:
    if _SPAN.search(text):
        return _read_expression(text)
    lines = text.strip().splitlines()
    return _read_expression(lines[-1]) if lines else None


def _calculation(formula: str) -> str:
    """`6 * 3 + 7` of `6 * 3 + 7 = 25`: where a calculation is stated with its value, it is the answer."""
    sides = [side.strip() for side in formula.split("=")]
    if len(sides) > 1 and all(arithmetic(side) is not None for side in sides):
        return next((side for side in sides if re.search(r"\d\D*[-+*/×÷^\\]", side)), sides[0])
    return formula


# -- code ---------------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|(\Z))", re.MULTILINE | re.DOTALL)


def _code(text: str, closed_only: bool) -> str | None:
    blocks = [match[2] for match in _FENCE.finditer(text) if not (closed_only and match[3] is not None)]
    if not blocks and closed_only:
        return None
    code = blocks[-1] if blocks else text
    return code.strip("\n").rstrip() or None


# -- JSON ---------------------------------------------------------------------------------------------------------


def _json(text: str) -> str | None:
    text = text.strip()
    fence = _FENCE.fullmatch(text)
    answer = fence[2].strip() if fence else text
    try:
        canonical_json(read_json(answer))
    except ValueError:
        return None
    return answer


_READERS: dict[AnswerKind, tuple[Callable[[str], str | None], Callable[[str], str | None]]] = {
    AnswerKind.NUMBER: (_read_number, _search_number),
    AnswerKind.CHOICE: (_read_choice, _search_choice),
    AnswerKind.TEXT: (_read_text, _search_text),
    AnswerKind.EXPRESSION: (_read_expression, _search_expression),
}
