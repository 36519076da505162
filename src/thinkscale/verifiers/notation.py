"""Written arithmetic as tokens: plain text, LaTeX, markdown, code, and words for operations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from thinkscale.verifiers.numbers import power

_LONGEST_NUMBER = 40


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


class Token(NamedTuple):
    """One token of a simplified text, from `start` to `end` in it.

    `kind`: number, operator (`text` is one of `+ - * / // ^ of`), relation (`=` or `≈`), open, close, percent,
    fraction, root, word, break (`text` is what separates) or other. `places`: the decimals that a number states.
    `spaced`: a space stands before it. `money`: a currency sign stands before it.
    """

    kind: str
    text: str
    start: int
    end: int
    value: Fraction = Fraction(0)
    places: int = 0
    spaced: bool = False
    money: bool = False


_REWRITES = tuple(
    (re.compile(pattern, re.MULTILINE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]{0,400})\}", r" \1 "),
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
        (r"\\begin\s*\{([pbvBV]?matrix|cases|array)\}.{0,2000}?\\end\s*\{\1\}", r" \\matrix "),
        (r"\\!", ""),
        (r"\{,\}|(?<=\d)\\,(?=\d{3})", ","),
        (r"\\([%$#_&])", r"\1"),
        (r"\\[dtc]?frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\(?:begin|end)\s*\{[a-z]{1,12}\*?\}", "\n"),
        (r"\\q?quad(?![a-zA-Z])|\\[\[\]\\]|\$\$", "\n"),
        (r"\\[!,;: ]", " "),
        (r"[&`~]|__", " "),
        # Bold, but not a power: 2**3 and 2 ** 3 stay.
        (r"(?<![\d)])(?<![\d)] )\*\*|\*\*(?! ?[\d(])|(?<= )\*\*(?! )|(?<! )\*\*(?= )", " "),
        (r"^[ \t]*[-*+•][ \t]+", ""),
        (r"\b(?:(?:is|are|was|be) (?:also |approximately |about |roughly )?)?(?:equals\b(?: to)?|equal to\b)", "="),
        (r"\bdivided by\b", "÷"),
        (r"\bmultiplied by\b", "×"),
    )
)
_VULGAR = {"½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5", "⅛": " 1/8"}
_FORMULA = re.compile(r"\\\(((?:[^\\]|\\[^()])*+)\\\)")
_CONTINUED = re.compile(r"\n(?=[=≈])|(?<=[=≈+×*÷])\n")


def simplified(text: str) -> str:
    """The text without what only lays it out; each formula that states something begins a line of its own."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for written, plain in _VULGAR.items():
        text = text.replace(written, plain)
    lines = re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", _FORMULA.sub(_set_off, text)))
    return _CONTINUED.sub(" ", lines)


def _set_off(match: re.Match[str]) -> str:
    inner = match[1].strip()
    states = "=" in inner and inner[0] not in "=+-*/" and inner[-1] not in "=+-*/"
    return f"\n{inner} " if states else f" {inner} "


_DETERMINERS = r"(?:\ +(?:the|this|that|these|those|his|her|their|its|remaining|original|total|initial|all))*"
_TOKEN = re.compile(
    rf"""
    (?P<space>[^\S\n]+)
  | (?P<break>\n|=>|-+>|<-+|[→⇒∴—]|!=|[<>]=|[<>≤≥≠]
      |\\(?:neq?|leq?|geq?|lt|gt|Rightarrow|Longrightarrow|implies|iff|to|rightarrow|therefore|because)(?![a-zA-Z])
      |\.\.+|\\[lc]?dots(?![a-zA-Z])|[;!?"“”|…]|\#+|,|\.(?!\d)|:(?!=))
  | (?P<relation>:?={{1,3}})
  | (?P<about>[≈≅≃]|\\(?:approx|simeq|cong)(?![a-zA-Z]))
  | (?P<other>\d+:\d+(?::\d+)*)
  | (?P<ordinal>\d+(?:st|nd|rd|th)\b)
  | (?P<mixed>(?<![\d.,/^])(?P<whole>\d{{1,9}})\ (?P<top>\d{{1,4}})/(?P<under>\d{{1,4}})(?![\d./]))
  | (?P<number>(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
      (?:[eE](?P<tens>[-+]?\d{{1,3}})(?![\w.]))?)(?:\.\.\.|…)?
  | (?P<times>(?<=[\d)])[xX](?=\d|\ ?\$)|(?<=\s)[xX](?=\ *[$(]?\ ?\.?\d)|\*(?!\*)|[×·⋅∙]
      |\\(?:times|cdot|ast)(?![a-zA-Z])|\btimes\b(?=\ *[$(]?\ ?\.?\d))
  | (?P<floor>//)
  | (?P<over>/|÷|\\div(?![a-zA-Z]))
  | (?P<plus>\+|\bplus\b(?=\ *[$(]?\d))
  | (?P<hyphen>(?<=\d)[-‑](?=[a-zA-Z]{{2}}))
  | (?P<minus>[-−–]|\bminus\b(?=\ *[$(]?\d))
  | (?P<power>\*\*|\^)
  | (?P<superscript>[²³])
  | (?P<share>\b(?i:half|(?:(?P<count>an?|one|two|three|four)[-\ ])
      (?P<part>half|third|fourth|quarter|fifth|sixth|eighth|tenth)s?)\ +of\b{_DETERMINERS}(?=\ *[$(]?\ *\d))
  | (?P<multiple>\b(?i:twice|double|thrice|triple)\b(?=\ +[$]?\d))
  | (?P<of>\bof\b{_DETERMINERS}(?=\ *[$(]?\ *\d|\ *\\[dtc]?frac))
  | (?P<fraction>\\[dtc]?frac(?![a-zA-Z]))
  | (?P<root>\\?sqrt(?![a-zA-Z])|√)
  | (?P<skipped>\\(?:boxed|fbox)(?![a-zA-Z])|\\[()])
  | (?P<open>[(\[{{])
  | (?P<close>[)\]}}])
  | (?P<percent>%|\bper\ ?cent\b)
  | (?P<currency>[$€£¥₹])
  | (?P<word>[^\W\d_]\w*(?:['’]\w+|-[^\W\d_]\w*)*)
  | (?P<rest>\\[a-zA-Z]+|.)
    """,
    re.VERBOSE,
)
_OPERATORS = {"times": "*", "floor": "//", "over": "/", "plus": "+", "minus": "-", "power": "^", "of": "of"}
_PLAIN = {
    "open": "(",
    "close": ")",
    "percent": "%",
    "relation": "=",
    "about": "≈",
    "fraction": "frac",
    "root": "sqrt",
    "ordinal": "",
}
_PARTS = {"half": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_COUNTS = {"two": 2, "three": 3, "four": 4}
_MULTIPLES = {"twice": 2, "double": 2, "thrice": 3, "triple": 3}


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a simplified text, without spaces and currency signs. A number that is too long is `other`."""
    spaced = money = False
    before = ""
    for match in _TOKEN.finditer(text):
        group = str(match.lastgroup)
        if group in ("space", "hyphen"):
            spaced = True
        elif group == "currency":
            money = True
        elif group != "skipped":
            if group == "of" and before not in ("number", "percent", "close"):
                group = "word"
            for token in _read(match, group):
                yield token._replace(spaced=spaced, money=money)
                before = token.kind
            spaced = money = False


def _read(match: re.Match[str], group: str) -> Iterator[Token]:
    written, (start, end) = match[0], match.span()
    if group in _OPERATORS:
        yield Token("operator", _OPERATORS[group], start, end)
    elif group == "number":
        yield _number(match)
    elif group == "mixed":
        whole, top, under = Fraction(match["whole"]), Fraction(match["top"]), Fraction(match["under"])
        if 0 < top < under:
            yield Token("number", written, start, end, whole + top / under)
        else:
            yield Token("number", match["whole"], start, match.end("whole"), whole)
            yield Token("number", match["top"], match.start("top"), match.end("top"), top)
            yield Token("operator", "/", match.end("top"), match.start("under"))
            yield Token("number", match["under"], match.start("under"), end, under)
    elif group == "share":
        count, part = (match["count"] or "a").lower(), (match["part"] or "half").lower()
        yield Token("number", written, start, end, Fraction(_COUNTS.get(count, 1), _PARTS[part]))
        yield Token("operator", "of", end, end)
    elif group == "multiple":
        yield Token("number", written, start, end, Fraction(_MULTIPLES[written.lower()]))
        yield Token("operator", "*", end, end)
    elif group == "superscript":
        yield Token("operator", "^", start, start)
        yield Token("number", written, start, end, Fraction(2 if written == "²" else 3))
    else:
        kind = {"about": "relation", "ordinal": "word", "rest": "other"}.get(group, group)
        yield Token(kind, _PLAIN.get(group) or written, start, end)


def _number(match: re.Match[str]) -> Token:
    written, (start, end) = match["number"], match.span()
    if len(written) > _LONGEST_NUMBER or re.match(r"0\d", written):
        return Token("other", written, start, end)
    mantissa = written[: match.start("tens") - start - 1] if match["tens"] else written
    value = Fraction(mantissa.replace(",", ""))
    if match["tens"]:
        if abs(int(match["tens"])) > _LONGEST_NUMBER:
            return Token("other", written, start, end)
        value *= power(Fraction(10), Fraction(match["tens"]))
    return Token("number", written, start, end, value, len(mantissa.partition(".")[2]))
